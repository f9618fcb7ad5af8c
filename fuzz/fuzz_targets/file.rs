//! Any bytes as a file: `cargo fuzz run file`. See `oracle.rs`.

#![no_main]

#[path = "../oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|file: &[u8]| oracle::check(file));
