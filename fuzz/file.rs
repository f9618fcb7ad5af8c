//! Any bytes as a file. See `oracle.rs`.

#![no_main]

mod oracle;

libfuzzer_sys::fuzz_target!(|file: &[u8]| oracle::check(file));
