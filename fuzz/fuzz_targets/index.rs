#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rebloom_readers::fuzz_one("index", bytes));
