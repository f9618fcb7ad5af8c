//! Tools in Python, fetched from PyPI once.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tokio::sync::Mutex;

/// Held while packages are fetched, so that tests of one run do not fetch the same ones.
static FETCHING: Mutex<()> = Mutex::const_new(());

/// Returns a directory with the packages of `.ci/requirements/NAME.txt`, for `PYTHONPATH`.
pub(crate) async fn packages(name: &'static str) -> PathBuf {
    let _fetching = FETCHING.lock().await;
    tokio::task::spawn_blocking(|| fetch(name)).await.unwrap()
}

fn fetch(name: &str) -> PathBuf {
    let file = format!("{}/../.ci/requirements/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let digest = crc32fast::hash(&std::fs::read(&file).unwrap());
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{digest:x}"));
    if directory.exists() {
        return directory;
    }
    let unpacked = directory.with_extension(format!("unpacking-{}", std::process::id()));
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target"])
        .arg(&unpacked)
        .args(["--require-hashes", "--requirement", &file])
        .output()
        .unwrap_or_else(|error| panic!("Python 3 with pip is needed for {file}: {error}"));
    assert!(pip.status.success(), "{}", String::from_utf8_lossy(&pip.stderr));
    // Atomic, so that an interrupted run leaves no incomplete directory. It fails if another run was faster.
    if let Err(error) = std::fs::rename(&unpacked, &directory) {
        assert!(directory.exists(), "{error}");
        std::fs::remove_dir_all(unpacked).unwrap();
    }
    directory
}
