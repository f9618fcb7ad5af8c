//! The largest sizes of a file and of its parts, in bytes after decompression.

/// The largest file in a bucket.
pub const MAX_FILE: u64 = 64 << 30;

/// The largest record, and the longest white space between two records.
const MAX_RECORD: usize = 1 << 20;

/// The limits of one file, in bytes after decompression.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest file.
    pub file: u64,
    /// The largest record.
    pub record: usize,
    /// The longest white space between two records.
    pub gap: usize,
}

impl Limits {
    /// Returns the limits of a file of at most `file` bytes.
    pub fn with_max_file(file: u64) -> Self {
        Self { file, record: MAX_RECORD, gap: MAX_RECORD }
    }
}
