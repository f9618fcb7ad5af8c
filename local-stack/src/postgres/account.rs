//! The operating system account that Postgres runs as.
//!
//! It is the account of this process, except for root: Postgres refuses to run as root, so it then
//! runs as `nobody`.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use crate::private::FILE_MODE;

/// The user id and the group id of `nobody`.
const NOBODY: u32 = 65534;

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes `command` run as the account of Postgres.
pub(super) fn run_as_postgres(command: &mut Command) {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// Returns whether the account of Postgres can enter `directory`.
pub(super) fn can_enter(directory: &Path) -> bool {
    let is_passable = |path: &Path| {
        fs::metadata(path).is_ok_and(|metadata| {
            let shift = match (metadata.uid(), metadata.gid()) {
                (NOBODY, _) => 6,
                (_, NOBODY) => 3,
                _ => 0,
            };
            metadata.mode() >> shift & 0o1 != 0
        })
    };
    !is_root() || directory.ancestors().all(is_passable)
}

/// Closes `directory` to other accounts. The account of Postgres can enter it, but neither list nor
/// change it.
pub(crate) fn close_to_others(directory: &Path) -> io::Result<()> {
    if !is_root() {
        return fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    }
    // Root's directory: Postgres enters it by its group.
    chown(directory, Some(0), Some(NOBODY))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o710))
}

/// Makes the account of Postgres the owner of `path`.
pub(super) fn chown_to_postgres(path: &Path) -> io::Result<()> {
    if is_root() { chown(path, Some(NOBODY), Some(NOBODY)) } else { Ok(()) }
}

/// Creates `directory`, accessible to the account of Postgres only.
pub(super) fn create_private_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(directory)?;
    // The umask may have removed bits that the owner needs.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    chown_to_postgres(directory)
}

/// Makes `file` readable and writable by the account of Postgres, and by no other.
///
/// # Errors
/// If the file system refuses the change.
pub fn restrict_to_postgres(file: &Path) -> io::Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(FILE_MODE))?;
    chown_to_postgres(file)
}
