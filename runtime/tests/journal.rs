//! The journal against what a machine does to it: a process killed while it writes, a full disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use rebloom_runtime::journal::{Journal, Sled};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const DIRECTORY: &str = "REBLOOM_TEST_JOURNAL";

/// Appends until it is killed, or fails; each number on standard output is on disk.
#[test]
#[ignore = "the process that the tests below start and kill"]
fn writer() {
    let directory = std::env::var(DIRECTORY).unwrap();
    let mut journal = Sled::open(Path::new(&directory)).unwrap();
    let replay = journal.replay().unwrap();
    let base = replay.snapshot.map_or(0, |snapshot| snapshot.sequence);
    let mut last = replay.entries.last().map_or(base, |entry| entry.sequence);
    let mut output = std::io::stdout();
    loop {
        let group: Vec<_> = (last + 1..=last + 1 + last % 3).map(record).collect();
        if let Err(error) = journal.append(&group) {
            writeln!(output, "error {error}").unwrap();
            writeln!(
                output,
                "again {}",
                journal.append(&[record(0)]).unwrap_err()
            )
            .unwrap();
            return;
        }
        last += group.len() as u64;
        writeln!(output, "kept {last}").unwrap();
        output.flush().unwrap();
        if last.is_multiple_of(40) {
            journal.snapshot(&record(last)).unwrap();
        }
    }
}

/// Records of many sizes, so that kills hit the writing of small and of large ones.
fn record(number: u64) -> Vec<u8> {
    let size = if number.is_multiple_of(7) { 90_000 } else { 40 };
    let mut record = vec![number as u8; size];
    record.extend(number.to_be_bytes());
    record
}

fn spawn(directory: &Path, before: &str) -> std::process::Child {
    let this = std::env::current_exe().unwrap();
    Command::new("sh")
        .args(["-c", &format!("{before} exec \"$0\" \"$@\"")])
        .arg(this)
        .args(["--exact", "writer", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept = 0;
    for round in 0..12_u64 {
        let mut child = spawn(directory.path(), "");
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        for _ in 0..(5 + 7 * round) {
            let number = lines.find_map(|line| line.strip_prefix("kept ")?.parse().ok());
            kept = number.expect("the writer goes on until it is killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before the kill took hold counts as well.
        kept = lines
            .filter_map(|line| line.strip_prefix("kept ")?.parse().ok())
            .fold(kept, u64::max);

        let mut journal = Sled::open(directory.path()).unwrap();
        let replay = journal.replay().unwrap();
        let base = replay.snapshot.map_or(0, |snapshot| snapshot.sequence);
        let last = replay.entries.last().map_or(base, |entry| entry.sequence);
        assert!(
            last >= kept,
            "{kept} was acknowledged, {last} is there (round {round})"
        );
        for (number, entry) in (base + 1..).zip(&replay.entries) {
            assert_eq!((entry.sequence, &entry.record), (number, &record(number)));
        }
    }
    assert!(kept > 200);
}

#[test]
fn a_full_disk_is_a_clear_error_and_nothing_is_written_after_it() {
    let directory = tempfile::tempdir().unwrap();
    // A limit on the size of files stands for a disk without room.
    let mut child = spawn(directory.path(), "trap '' XFSZ; ulimit -f 3000;");
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .collect();
    child.wait().unwrap();
    let find = |prefix: &str| lines.iter().find_map(|line| line.strip_prefix(prefix));
    let error = find("error ").expect("it fails in the end");
    assert!(error.starts_with("cannot write the journal in "), "{error}");
    assert_eq!(
        find("again "),
        Some("the journal has stopped after an earlier error")
    );

    let kept: u64 = lines
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix("kept ")?.parse().ok())
        .unwrap();
    let replay = Sled::open(directory.path()).unwrap().replay().unwrap();
    let base = replay.snapshot.map_or(0, |snapshot| snapshot.sequence);
    let last = replay.entries.last().map_or(base, |entry| entry.sequence);
    assert!(last >= kept, "{kept} was acknowledged, {last} is there");
}
