//! Tools in Python, fetched from PyPI once.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tokio::sync::Mutex;

/// Held while packages are fetched, so that tests of one run do not fetch the same ones.
static FETCHING: Mutex<()> = Mutex::const_new(());

/// Returns a directory with these packages and what they need, for `PYTHONPATH`.
pub(crate) async fn packages(requirements: &'static [&str]) -> PathBuf {
    let _fetching = FETCHING.lock().await;
    tokio::task::spawn_blocking(|| fetch(requirements)).await.unwrap()
}

fn fetch(requirements: &[&str]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(requirements.join(","));
    if directory.exists() {
        return directory;
    }
    let unpacked = directory.with_extension(format!("unpacking-{}", std::process::id()));
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target"])
        .arg(&unpacked)
        .args(requirements)
        .output()
        .unwrap_or_else(|error| {
            panic!("Python 3 with pip is needed for {requirements:?}: {error}")
        });
    assert!(pip.status.success(), "{}", String::from_utf8_lossy(&pip.stderr));
    // Atomic, so that an interrupted run leaves no incomplete directory.
    std::fs::rename(&unpacked, &directory).unwrap();
    directory
}
