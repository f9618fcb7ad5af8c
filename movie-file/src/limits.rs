//! The largest sizes of a file and of its parts, and how far a file may be compressed.

/// The largest file in a bucket, in bytes after decompression.
pub const MAX_FILE: u64 = 64 << 30;

/// The largest record, and the longest white space between two records, in bytes.
const MAX_RECORD: usize = 1 << 20;

/// Up to this decompressed size, in bytes, the compression ratio is not limited.
pub(crate) const FREE_SIZE: u64 = 64 << 20;

/// The largest compression ratio. Text reaches 5 to 20; a gzip bomb reaches more.
pub(crate) const MAX_RATIO: u64 = 250;

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
