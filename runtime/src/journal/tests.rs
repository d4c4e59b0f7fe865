use super::*;

fn records(numbers: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
    numbers
        .map(|number| format!("record {number}").into_bytes())
        .collect()
}

fn sequences(replay: &Replay) -> Vec<u64> {
    replay.entries.iter().map(|entry| entry.sequence).collect()
}

fn open(directory: &Path) -> (Sled, Replay) {
    let mut journal = Sled::open(directory).unwrap();
    let replay = journal.replay().unwrap();
    (journal, replay)
}

/// A journal of ten records, closed again.
fn ten(directory: &Path) {
    let (mut journal, replay) = open(directory);
    assert_eq!(replay, Replay::default());
    for record in records(1..=10) {
        journal.append(&[record]).unwrap();
    }
}

#[test]
fn what_was_appended_is_replayed_in_order() {
    let directory = tempfile::tempdir().unwrap();
    ten(directory.path());
    let (mut journal, replay) = open(directory.path());
    assert_eq!(sequences(&replay), (1..=10).collect::<Vec<_>>());
    let contents: Vec<_> = replay
        .entries
        .into_iter()
        .map(|entry| entry.record)
        .collect();
    assert_eq!(contents, records(1..=10));
    journal.append(&records(11..=13)).unwrap();
    drop(journal);
    assert_eq!(
        sequences(&open(directory.path()).1),
        (1..=13).collect::<Vec<_>>()
    );
}

#[test]
fn a_record_larger_than_a_segment_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|byte| (byte % 251) as u8).collect();
    let (mut journal, _) = open(directory.path());
    journal.append(std::slice::from_ref(&large)).unwrap();
    drop(journal);
    assert_eq!(open(directory.path()).1.entries[0].record, large);
}

#[test]
fn a_snapshot_stands_for_what_was_before_it() {
    let directory = tempfile::tempdir().unwrap();
    ten(directory.path());
    let (mut journal, _) = open(directory.path());
    for last in [10_u64, 20, 30] {
        journal
            .snapshot(format!("all up to {last}").as_bytes())
            .unwrap();
        journal.append(&records(last + 1..=last + 10)).unwrap();
    }
    drop(journal);
    let (journal, replay) = open(directory.path());
    let snapshot = replay.snapshot.clone().unwrap();
    assert_eq!(
        (snapshot.sequence, &*snapshot.record),
        (30, &b"all up to 30"[..])
    );
    assert_eq!(sequences(&replay), (31..=40).collect::<Vec<_>>());
    // The snapshot before is kept with its tail; older ones are gone.
    assert_eq!(journal.list_snapshots().unwrap(), [20, 30]);
    drop(journal);

    let newest = directory.path().join(format!("snapshot-{:020}", 30));
    let mut bytes = files::read(&newest).unwrap();
    bytes[12] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let (mut journal, replay) = open(directory.path());
    assert_eq!(replay.snapshot.unwrap().sequence, 20);
    assert_eq!(replay.entries.len(), 20);
    assert_eq!(replay.repairs, ["the snapshot at record 30 is damaged"]);
    journal.append(&records(41..=41)).unwrap();
}

#[test]
fn a_snapshot_without_a_tail_goes_on_counting() {
    let directory = tempfile::tempdir().unwrap();
    ten(directory.path());
    let (mut journal, _) = open(directory.path());
    for _ in 0..3 {
        journal.snapshot(b"ten").unwrap();
    }
    drop(journal);
    let (mut journal, replay) = open(directory.path());
    assert_eq!(
        (replay.snapshot.unwrap().sequence, replay.entries.len()),
        (10, 0)
    );
    journal.append(&records(11..=11)).unwrap();
    drop(journal);
    assert_eq!(sequences(&open(directory.path()).1), [11]);
}

#[test]
fn a_torn_tail_is_cut_and_told() {
    let directory = tempfile::tempdir().unwrap();
    ten(directory.path());
    let (journal, _) = open(directory.path());
    journal
        .database
        .insert(10_u64.to_be_bytes(), b"torn")
        .unwrap();
    drop(journal);
    let (mut journal, replay) = open(directory.path());
    assert_eq!(sequences(&replay), (1..=9).collect::<Vec<_>>());
    assert_eq!(replay.repairs, ["1 torn record(s) after 9 were cut"]);
    journal.append(&records(10..=10)).unwrap();
    drop(journal);
    let (_, replay) = open(directory.path());
    assert_eq!((replay.entries.len(), replay.repairs.len()), (10, 0));
}

#[test]
fn whether_its_end_may_be_missing_is_remembered_until_it_is_vouched_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let lacks = |boot: &str, vouches: bool| {
        let mut journal = Sled::open_under(path, boot).unwrap();
        let lacks = journal.replay().unwrap().may_lack_end;
        if vouches {
            journal.vouch().unwrap();
        }
        lacks
    };
    assert!(!lacks("first", true), "there was nothing to lose");
    let mut journal = Sled::open_under(path, "first").unwrap();
    journal.replay().unwrap();
    journal.append(&records(1..=2)).unwrap();
    drop(journal);
    assert!(!lacks("first", true), "the process died, not the machine");
    assert!(lacks("second", false));
    assert!(lacks("second", true), "nobody made it good");
    assert!(!lacks("second", false));
    assert!(lacks("first", false), "moved to another machine, or back");
    fs::remove_file(path.join("boot")).unwrap();
    assert!(lacks("second", true), "restored from a copy");

    let mut journal = Sled::open_under(path, "second").unwrap();
    journal.replay().unwrap();
    let last = 2_u64.to_be_bytes();
    journal.database.insert(last, b"torn").unwrap();
    drop(journal);
    assert!(lacks("second", false), "a tail was cut");
    assert!(lacks("second", true), "and nothing came in its place");
    assert!(!lacks("second", true));
}

#[test]
fn a_damaged_middle_is_an_error_that_says_what_to_do() {
    let damage: [fn(&sled::Db); 3] = [
        |database| drop(database.insert(5_u64.to_be_bytes(), b"flipped").unwrap()),
        |database| drop(database.remove(5_u64.to_be_bytes()).unwrap()),
        |database| drop(database.remove(1_u64.to_be_bytes()).unwrap()),
    ];
    for damage in damage {
        let directory = tempfile::tempdir().unwrap();
        ten(directory.path());
        let (journal, _) = open(directory.path());
        damage(&journal.database);
        drop(journal);
        let error = Sled::open(directory.path())
            .unwrap()
            .replay()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is damaged: ") && error.contains("move it away"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_writer_keeps_the_order_and_passes_errors_on() {
    struct Full(mpsc::Sender<Vec<u8>>);
    use std::sync::mpsc;
    impl Journal for Full {
        fn replay(&mut self) -> Result<Replay, Error> {
            Ok(Replay::default())
        }
        fn append(&mut self, records: &[Vec<u8>]) -> Result<(), Error> {
            match records {
                [record] => self.0.send(record.clone()).map_err(|_| Error::Stopped),
                _ => Err(Error::Stopped),
            }
        }
        fn snapshot(&mut self, _: &[u8]) -> Result<(), Error> {
            panic!("as sled does at times");
        }
        fn vouch(&mut self) -> Result<(), Error> {
            Ok(())
        }
    }
    let (sender, receiver) = mpsc::channel();
    let writer = Writer::start(Full(sender)).unwrap();
    for record in records(1..=3) {
        writer.append(vec![record]).await.unwrap();
    }
    writer.append(records(4..=5)).await.unwrap_err();
    assert!(matches!(writer.snapshot(vec![]).await, Err(Error::Stopped)));
    assert!(matches!(
        writer.append(records(6..=6)).await,
        Err(Error::Stopped)
    ));
    drop(writer);
    assert_eq!(receiver.iter().collect::<Vec<_>>(), records(1..=3));
}
