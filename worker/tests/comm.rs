//! Groups between real processes: they reduce, they end when a peer is killed, they form again.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use rebloom_core::flight::Channel;
use rebloom_core::id::{Generation, Rank};
use rebloom_core::layout::Layout;
use rebloom_runtime::flight::{Recorder, Tower};
use rebloom_worker::comm::{CommError, Device, FileStore, Groups, MemoryStore, Watch};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};

const FOLDER: &str = "REBLOOM_TEST_FOLDER";
const RANK: &str = "REBLOOM_TEST_RANK";
const CONNECT: Duration = Duration::from_secs(20);
/// Data groups of 4: rank 2 is not a neighbour of rank 0 in Gloo's ring.
const GANG: Layout = Layout {
    tensor: 1,
    pipeline: 1,
    data: 4,
};

/// What a child process does: joins generation 1, reduces until that breaks, says how, and joins
/// generation 2 without the dead.
fn life_of_a_child(folder: &Path, rank: Rank) {
    rebloom_worker::setup().unwrap();
    let recorder: &'static Recorder = Box::leak(Box::new(
        Recorder::open(&folder.join(format!("page-{rank}"))).unwrap(),
    ));
    let device = Arc::new(Device::open("127.0.0.1").unwrap());
    let form = |generation, layout| {
        let watch = Watch {
            recorder,
            generation,
        };
        recorder.begin(generation);
        let store = FileStore::open(&folder.join(format!("store-{generation}"))).unwrap();
        Groups::form(layout, rank, Arc::new(store), &device, watch, CONNECT)
    };
    let groups = form(Generation(1), GANG).unwrap();
    let mut rounds = 0;
    let (error, after) = loop {
        let began = Instant::now();
        let group = groups.data.as_ref().unwrap();
        let tensor = Tensor::full(
            [1 << 16],
            i64::from(rank.0),
            (Kind::Float, tch::Device::Cpu),
        );
        match group.sum(Channel::Data, &tensor) {
            Ok(()) => {
                assert_eq!(tensor.mean(Kind::Float).double_value(&[]), 6.0);
                rounds += 1;
                if rounds == 3 {
                    say("ready");
                }
            }
            Err(error) => break (error, began.elapsed()),
        }
    };
    say(match error {
        CommError::Fenced(_) => "fenced",
        CommError::PeerLost(_) => "peer lost",
    });
    assert!(
        after < Duration::from_secs(5),
        "the last wait took {after:?}"
    );
    drop(groups);
    // The agents fence a broken generation on every node; then a new one comes.
    while recorder.fence() < Generation(2) {
        std::thread::yield_now();
    }
    let began = Instant::now();
    let groups = form(Generation(2), Layout { data: 3, ..GANG }).unwrap();
    let tensor = Tensor::ones([7], (Kind::Float, tch::Device::Cpu));
    groups.sum_over_world(&tensor).unwrap();
    assert_eq!(tensor.double_value(&[0]), 3.0);
    say(&format!("formed again in {:?}", began.elapsed()));
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nchild: {line}").unwrap();
    out.flush().unwrap();
}

/// Rank 0 lets go while rank 1 is in the middle of sending to it, over and over: whatever part of the
/// bytes came over, both ends must come back.
#[test]
fn a_fence_ends_a_transfer_that_is_half_done() {
    const TRIES: u64 = 40;
    const PAIR: Layout = Layout {
        tensor: 1,
        pipeline: 2,
        data: 1,
    };
    rebloom_worker::setup().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for attempt in 1..=TRIES {
        let store = Arc::new(MemoryStore::default());
        let (say, ended) = std::sync::mpsc::channel();
        let towers: Vec<_> = PAIR
            .ranks()
            .map(|rank| {
                let page = folder.path().join(format!("page-{attempt}-{rank}"));
                let tower = Tower::create(&page).unwrap();
                let (store, say) = (Arc::clone(&store), say.clone());
                std::thread::spawn(move || {
                    let recorder: &'static Recorder =
                        Box::leak(Box::new(Recorder::open(&page).unwrap()));
                    recorder.begin(Generation(1));
                    let watch = Watch {
                        recorder,
                        generation: Generation(1),
                    };
                    let device = Arc::new(Device::open("127.0.0.1").unwrap());
                    let groups = Groups::form(PAIR, rank, store, &device, watch, CONNECT).unwrap();
                    say.send("formed").unwrap();
                    let group = groups.pipeline.as_ref().unwrap();
                    let tensor = Tensor::zeros([1 << 22], (Kind::Float, tch::Device::Cpu));
                    let transfer = || match rank {
                        Rank(0) => group.recv(&tensor, 1, 0)?.wait_in(Channel::BackwardIn),
                        _ => group.send(Channel::BackwardOut, &tensor, 0, 0)?.wait(),
                    };
                    let error = loop {
                        if let Err(error) = transfer() {
                            break error;
                        }
                    };
                    drop(groups);
                    say.send(match error {
                        CommError::Fenced(_) => "fenced",
                        CommError::PeerLost(_) => "peer lost",
                    })
                    .unwrap();
                });
                tower
            })
            .collect();
        for _ in PAIR.ranks() {
            assert_eq!(ended.recv_timeout(CONNECT), Ok("formed"));
        }
        std::thread::sleep(Duration::from_micros(500 * attempt));
        towers
            .iter()
            .for_each(|tower| tower.fence_below(Generation(2)));
        for _ in PAIR.ranks() {
            let how = ended.recv_timeout(Duration::from_secs(10));
            assert!(how.is_ok(), "attempt {attempt}: a rank does not come back");
        }
    }
}

/// Not a test of its own: the process that the test below starts.
#[test]
fn child() {
    if let (Ok(folder), Ok(rank)) = (std::env::var(FOLDER), std::env::var(RANK)) {
        life_of_a_child(Path::new(&folder), Rank(rank.parse().unwrap()));
    }
}

struct Process {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Process {
    fn start(folder: &Path, rank: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .env(RANK, rank.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = std::sync::mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some(said) = line.strip_prefix("child: ")
                    && send.send(said.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn said(&self, within: Duration) -> String {
        self.lines
            .recv_timeout(within)
            .expect("the child says something in time")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn gang() -> (tempfile::TempDir, Vec<Tower>, Vec<Process>) {
    let folder = tempfile::tempdir().unwrap();
    let page = |rank: u32| -> PathBuf { folder.path().join(format!("page-{rank}")) };
    let towers: Vec<_> = (0..4)
        .map(|rank| Tower::create(&page(rank)).unwrap())
        .collect();
    let gang: Vec<_> = (0..4)
        .map(|rank| Process::start(folder.path(), rank))
        .collect();
    for process in &gang {
        assert_eq!(process.said(Duration::from_secs(60)), "ready");
    }
    (folder, towers, gang)
}

#[test]
fn survivors_of_a_kill_stop_waiting_and_form_again() {
    let (_folder, towers, mut gang) = gang();
    let mut dead = gang.pop().unwrap();
    dead.child.kill().unwrap();
    let killed = Instant::now();
    towers
        .iter()
        .for_each(|tower| tower.fence_below(Generation(2)));
    for process in &gang {
        let said = process.said(Duration::from_secs(5));
        assert!(["fenced", "peer lost"].contains(&said.as_str()), "{said}");
    }
    assert!(
        killed.elapsed() < Duration::from_secs(1),
        "{:?}",
        killed.elapsed()
    );
    for process in &gang {
        let said = process.said(Duration::from_secs(20));
        assert!(said.starts_with("formed again in"), "{said}");
    }
}

#[test]
fn a_stopped_peer_holds_nobody_once_the_fence_is_up() {
    let (_folder, towers, mut gang) = gang();
    let stopped = gang.pop().unwrap();
    let pid = rustix::process::Pid::from_child(&stopped.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let began = Instant::now();
    towers
        .iter()
        .for_each(|tower| tower.fence_below(Generation(2)));
    for process in &gang {
        assert_eq!(process.said(Duration::from_secs(5)), "fenced");
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    for process in &gang {
        let said = process.said(Duration::from_secs(20));
        assert!(said.starts_with("formed again in"), "{said}");
    }
}
