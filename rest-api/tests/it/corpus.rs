//! The fuzzer's oracle accepts every file of the fuzzing corpus. `fuzz/README.md` says how to extend
//! the corpus.

#[path = "../../../fuzz/oracle.rs"]
mod oracle;

use std::path::Path;

use crate::support::files::{invalid_files, valid_files};

#[test]
fn the_oracle_accepts_every_file_of_the_corpus() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        oracle::check(&std::fs::read(entry.unwrap().path()).unwrap(), true);
        files += 1;
    }
    assert!(files > 50, "{files} files");
}

#[test]
fn the_oracle_accepts_every_kind_of_test_file() {
    for (_, file, _) in valid_files() {
        oracle::check(&file, true);
    }
    for (_, file, _) in invalid_files().iter().filter(|(_, file, _)| file.len() < 100 << 10) {
        oracle::check(file, true);
    }
}
