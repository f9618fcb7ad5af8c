//! What a producer learns about a file that was not taken.

use schema::{Fault, Faults};
use serde::Serialize;

/// How many violations of one file are listed; all are counted.
pub(super) const MAX_LISTED: usize = 1000;

/// One thing wrong with a file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Violation {
    /// The record's index, from 0; none where the file as a whole is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<u64>,
    /// Where that is in the decompressed file, in bytes from its start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The pointer within the record, what was expected there, and what was found.
    #[serde(flatten)]
    pub fault: Fault,
}

/// The violations of one file.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    listed: Vec<Violation>,
    count: u64,
}

impl Violations {
    /// A single one, of the file as a whole.
    pub fn of_file(fault: Fault) -> Self {
        let mut violations = Self::default();
        violations.add(None, None, fault);
        violations
    }

    /// Adds one; lists it if there is room.
    pub fn add(&mut self, record: Option<u64>, offset: Option<u64>, fault: Fault) {
        self.count += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(Violation { record, offset, fault });
        }
    }

    /// Adds those of one record.
    pub fn add_record(&mut self, record: u64, offset: u64, faults: &Faults) {
        self.count += faults.count();
        let room = MAX_LISTED.saturating_sub(self.listed.len());
        self.listed.extend(faults.iter().take(room).map(|fault| Violation {
            record: Some(record),
            offset: Some(offset),
            fault: fault.clone(),
        }));
    }

    /// Those that are listed, in the order of the file.
    pub fn listed(&self) -> &[Violation] {
        &self.listed
    }

    /// How many there are, listed or not.
    pub fn count(&self) -> u64 {
        self.count
    }
}
