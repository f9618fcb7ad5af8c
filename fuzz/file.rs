//! The fuzz target: any bytes as a file. The rules are in `oracle.rs`.

#![no_main]

mod oracle;

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let sum: usize = file.iter().map(|byte| usize::from(*byte)).sum();
    oracle::check(file, sum.is_multiple_of(32));
});
