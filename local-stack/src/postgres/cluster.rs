//! The data directory of a Postgres cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use uuid::Uuid;

use super::{
    account::{can_enter, create_private_directory, run_as_postgres},
    binaries::{self, Binaries},
};

/// The superuser of every cluster.
pub const USER: &str = "movies_r_us";

/// What a cluster is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// The data survives a stop and a crash of the machine.
    Keep,
    /// The data is deleted when Postgres stops. Nothing is flushed to disk.
    Test,
}

/// Initialises the cluster in `directory` if there is none. Returns the programs of its major version, which `find`
/// finds, and its data directory.
///
/// # Errors
/// If there are no such programs, or initdb fails.
pub(super) fn prepare(
    directory: &Path,
    purpose: Purpose,
    find: impl FnOnce(&str) -> Result<Binaries>,
) -> Result<(Binaries, PathBuf)> {
    let directory = data_directory(&std::path::absolute(directory)?)?;
    if !directory.exists() {
        let binaries = find(binaries::MAJOR)?;
        initialise(&binaries, &directory, purpose)?;
        return Ok((binaries, directory));
    }
    let version = fs::read_to_string(directory.join("PG_VERSION"))?;
    let binaries = find(version.trim())?;
    check_version(&binaries, version.trim(), &directory)?;
    Ok((binaries, directory))
}

/// Returns `directory` if the account of Postgres can enter its parent. Otherwise returns a system
/// directory, whose path is kept in a file beside `directory`.
fn data_directory(directory: &Path) -> Result<PathBuf> {
    let parent = directory.parent().unwrap_or(directory);
    fs::create_dir_all(parent)?;
    if can_enter(parent) {
        return Ok(directory.to_owned());
    }
    let marker = directory.with_extension("is-elsewhere");
    if let Ok(elsewhere) = fs::read_to_string(&marker) {
        return Ok(PathBuf::from(elsewhere));
    }
    let root = Path::new("/var/lib/movies-r-us");
    fs::create_dir_all(root)?;
    let elsewhere = root.join(Uuid::new_v4().simple().to_string());
    fs::write(marker, elsewhere.as_os_str().as_encoded_bytes())?;
    Ok(elsewhere)
}

fn initialise(binaries: &Binaries, directory: &Path, purpose: Purpose) -> Result<()> {
    // A rename puts the complete cluster in place, so that an interrupted start leaves no partial
    // one there, even while its initdb still runs.
    let unfinished = directory.with_extension(format!("unfinished-{}", Uuid::new_v4().simple()));
    create_private_directory(&unfinished)?;
    let mut initdb = Command::new(binaries.program("initdb"));
    initdb.arg("-D").arg(&unfinished).args(["-U", USER, "-A", "trust", "-E", "UTF8"]);
    // The locale decides which characters pg_trgm treats as letters.
    initdb.arg(if cfg!(target_os = "macos") { "--locale=en_US.UTF-8" } else { "--locale=C.UTF-8" });
    if purpose == Purpose::Test {
        initdb.arg("--no-sync");
    }
    initdb.current_dir("/").stdin(Stdio::null());
    run_as_postgres(&mut initdb);
    let output = initdb.output().context("cannot run initdb")?;
    if !output.status.success() {
        bail!("initdb failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(fs::rename(unfinished, directory)?)
}

/// Checks that `binaries` can read the data: Postgres reads only data of its own major version.
fn check_version(binaries: &Binaries, data_version: &str, directory: &Path) -> Result<()> {
    let program_version = binaries.major_version()?;
    if data_version != program_version {
        bail!(
            "the data in {} is of Postgres {data_version}, but the Postgres found is \
             {program_version} ({}).\n\
             Set PG_BIN_DIR to the programs of Postgres {data_version}, or start with another \
             --data-dir.",
            directory.display(),
            binaries.directory().display(),
        );
    }
    Ok(())
}
