//! Directories and files that only their owner can read.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// The mode of a directory that only its owner can use.
const DIRECTORY_MODE: u32 = 0o700;

/// The mode of a file that only its owner can read and write.
pub(crate) const FILE_MODE: u32 = 0o600;

/// Creates `directory`, and those above it, unless they exist. Closes it to other accounts.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
}

/// Creates `file`, or empties it, closed to other accounts.
pub(crate) fn create_file(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let created = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(file)?;
    // An existing file keeps the mode that it had.
    fs::set_permissions(file, Permissions::from_mode(FILE_MODE))?;
    Ok(created)
}
