//! The files that fuzzing started from and came to, once more: what must hold of every file holds
//! of them. `fuzz/README.md` says how to look for others.

#[path = "../../../fuzz/oracle.rs"]
mod oracle;

use std::path::Path;

use crate::files::{bad_files, good_files};

#[test]
fn what_must_hold_of_every_file_holds_of_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        oracle::check(&std::fs::read(entry.unwrap().path()).unwrap(), true);
        files += 1;
    }
    assert!(files > 50, "{files} files");
}

#[test]
fn what_must_hold_of_every_file_holds_of_every_form() {
    for (_, file, _) in good_files() {
        oracle::check(&file, true);
    }
    for (_, file, _) in bad_files().iter().filter(|(_, file, _)| file.len() < 100 << 10) {
        oracle::check(file, true);
    }
}
