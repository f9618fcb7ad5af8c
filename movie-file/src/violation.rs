//! What a producer learns about a file that was rejected.

use schema::{Fault, Faults};
use schemars::JsonSchema;
use serde::Serialize;

/// How many violations of one file are listed.
pub const MAX_LISTED: usize = 1000;

/// One fault of a file.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Violation {
    /// The index of the record, from 0. Absent if the file as a whole is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub record: Option<u64>,
    /// The byte offset of the record in the decompressed file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub offset: Option<u64>,
    /// The JSON Pointer within the record, what the schema expects there, and what was found.
    #[serde(flatten)]
    pub fault: Fault,
}

/// The violations of one file.
///
/// The first [`MAX_LISTED`] are listed. Up to that point every fault of a record counts as one
/// violation. After that a bad record counts as one violation, because its faults are not searched
/// for.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    listed: Vec<Violation>,
    count: u64,
}

impl Violations {
    /// Returns a single violation of the file as a whole.
    pub fn of_file(fault: Fault) -> Self {
        let mut violations = Self::default();
        violations.add(None, None, fault);
        violations
    }

    /// Counts one violation, and lists it if the list is not full.
    pub fn add(&mut self, record: Option<u64>, offset: Option<u64>, fault: Fault) {
        self.count += 1;
        if !self.is_full() {
            self.listed.push(Violation { record, offset, fault });
        }
    }

    /// Counts the faults of one record, and lists as many as the list has room for.
    pub fn add_record(&mut self, record: u64, offset: u64, faults: &Faults) {
        self.count += faults.count();
        let room = MAX_LISTED.saturating_sub(self.listed.len());
        self.listed.extend(faults.iter().take(room).map(|fault| Violation {
            record: Some(record),
            offset: Some(offset),
            fault: fault.clone(),
        }));
    }

    /// Counts a bad record as one violation. The list must be full.
    pub fn add_unlisted(&mut self) {
        self.count += 1;
    }

    /// Whether the list has no room for another violation.
    pub fn is_full(&self) -> bool {
        self.listed.len() >= MAX_LISTED
    }

    /// Returns the listed violations, in the order of the file.
    pub fn listed(&self) -> &[Violation] {
        &self.listed
    }

    /// Returns the number of violations, listed or not. It is exact up to [`MAX_LISTED`].
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether the file has no violation.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}
