//! How large a file and its parts may be.

/// A file in the bucket may be this large, decompressed, in bytes.
pub const MAX_FILE: u64 = 64 << 30;

/// The limits of one file, in bytes, decompressed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the whole file.
    pub file: u64,
    /// Of one record.
    pub record: usize,
    /// Of the white space between two records.
    pub gap: usize,
}

impl Limits {
    /// Those of a file that may be `file` bytes large.
    pub fn of(file: u64) -> Self {
        Self { file, record: 1 << 20, gap: 1 << 20 }
    }
}
