//! Programs in JavaScript, and packages from npm, fetched once.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tokio::sync::Mutex;

/// Held while packages are fetched, so that tests of one run do not fetch the same ones.
static FETCHING: Mutex<()> = Mutex::const_new(());

/// Returns a command that runs `program`, which lies in `directory` and imports the packages of its `package.json`.
pub(crate) async fn node(directory: &Path, program: &str) -> tokio::process::Command {
    let fetched = fetch(Path::new(env!("CARGO_TARGET_TMPDIR")), directory).await;
    // A program finds packages beside itself alone. Another run may have another one.
    let text = std::fs::read(directory.join(program)).unwrap();
    let copy = fetched.join(format!("{:x}-{program}", crc32fast::hash(&text)));
    if !copy.exists() {
        let unfinished = copy.with_extension(format!("copying-{}", std::process::id()));
        std::fs::write(&unfinished, text).unwrap();
        std::fs::rename(&unfinished, &copy).unwrap();
    }
    let mut command = tokio::process::Command::new("node");
    command.arg(copy).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Returns the directory in `parent` that contains the packages of the `package.json` in `packages`. No script of theirs
/// has run.
pub(crate) async fn fetch(parent: &Path, packages: &Path) -> PathBuf {
    let _fetching = FETCHING.lock().await;
    let digest = crc32fast::hash(&std::fs::read(packages.join("package-lock.json")).unwrap());
    let directory = parent.join(format!("npm-{digest:x}"));
    if !directory.exists() {
        let (packages, target) = (packages.to_owned(), directory.clone());
        tokio::task::spawn_blocking(move || install(&packages, &target)).await.unwrap();
    }
    directory
}

fn install(packages: &Path, directory: &Path) {
    let unpacked = directory.with_extension(format!("unpacking-{}", std::process::id()));
    std::fs::create_dir_all(&unpacked).unwrap();
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(packages.join(file), unpacked.join(file)).unwrap();
    }
    let npm = Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
        .arg(&unpacked)
        .output()
        .unwrap_or_else(|error| panic!("Node.js with npm is needed for {packages:?}: {error}"));
    assert!(npm.status.success(), "{}", String::from_utf8_lossy(&npm.stderr));
    // Atomic, so that an interrupted run leaves no incomplete directory. It fails if another run was faster.
    if let Err(error) = std::fs::rename(&unpacked, directory) {
        assert!(directory.exists(), "{error}");
        std::fs::remove_dir_all(unpacked).unwrap();
    }
}
