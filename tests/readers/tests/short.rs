//! The short run over every reader and its kept corpus in `fuzz/corpus/`.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use rebloom_readers::short::{Counting, run};
use rebloom_readers::{READERS, corpus, named};
use std::fs;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn kept(name: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(corpus(name)).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

macro_rules! short_runs {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            run(named(stringify!($name)).unwrap(), &kept(stringify!($name)));
        })+

        #[test]
        fn every_reader_has_a_short_run_and_a_target() {
            let names: Vec<&str> = READERS.iter().map(|reader| reader.name).collect();
            assert_eq!(names, [$(stringify!($name)),+]);
            for name in names {
                let target = corpus(name).join(format!("../../fuzz_targets/{name}.rs"));
                assert!(target.exists(), "{name} has no target in fuzz/");
            }
        }
    };
}

short_runs!(run_spec sources tokenizer indexed page manifest shard config index weights journal flight wire);
