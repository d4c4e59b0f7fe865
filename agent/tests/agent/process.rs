//! Real processes: how they start, end, and are found again.

use rebloom_agent::process::{Process, Stat, close_on_exec};
use rebloom_core::cause::Exit;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(20);

fn shell(folder: &TempDir, script: &str) -> Process {
    let arguments = ["-c", script].map(OsString::from);
    let log = File::options()
        .create(true)
        .append(true)
        .open(log(folder))
        .unwrap();
    let (process, _) =
        Process::spawn(Path::new("/bin/sh"), &arguments, &[], log, Stdio::null()).unwrap();
    process
}

fn log(folder: &TempDir) -> PathBuf {
    folder.path().join("log")
}

/// Waits until a condition holds, for as long as any of this may take.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, wait)
        .await
        .unwrap_or_else(|_| panic!("never came: {what}"));
}

async fn line_of(folder: &TempDir) -> String {
    let read = || std::fs::read_to_string(log(folder)).unwrap();
    until("a line of output", || read().ends_with('\n')).await;
    read().trim().to_owned()
}

fn is_gone(pid: u32) -> bool {
    Stat::read(pid).unwrap().is_none_or(|stat| stat.zombie)
}

#[tokio::test]
async fn the_way_a_process_ends_is_told_and_it_leaves_no_zombie() {
    let folder = TempDir::new().unwrap();
    for (script, exit) in [
        ("exit 7", Exit::Code(7)),
        ("exit 0", Exit::Code(0)),
        ("kill -11 $$", Exit::Signal(11)),
        ("kill -9 $$", Exit::Signal(9)),
    ] {
        let process = shell(&folder, script);
        assert_eq!(
            tokio::time::timeout(LONG, process.ended()).await.unwrap(),
            exit,
            "{script}"
        );
        assert_eq!(Stat::read(process.pid).unwrap(), None, "{script}");
    }
}

#[tokio::test]
async fn a_kill_ends_the_whole_group_and_so_does_the_end_of_its_leader() {
    let folder = TempDir::new().unwrap();
    let process = shell(&folder, "sleep 1000 & echo $!; exec sleep 1000");
    let grandchild = line_of(&folder).await.parse().unwrap();
    process.kill().unwrap();
    assert_eq!(process.ended().await, Exit::Signal(9));
    until("the end of the grandchild", || is_gone(grandchild)).await;
    process.kill().unwrap();

    std::fs::remove_file(log(&folder)).unwrap();
    let process = shell(&folder, "sleep 1000 & echo $!; exit 3");
    let grandchild = line_of(&folder).await.parse().unwrap();
    assert_eq!(process.ended().await, Exit::Code(3));
    until("the end of the grandchild", || is_gone(grandchild)).await;
}

#[tokio::test]
async fn a_process_leads_a_session_of_its_own_and_sees_nothing_of_the_agent() {
    let folder = TempDir::new().unwrap();
    close_on_exec().unwrap();
    let process = shell(&folder, "env; echo; exec sleep 1000");
    let output = line_of(&folder).await;
    let stat = Stat::read(process.pid).unwrap().unwrap();
    assert_eq!((stat.session, stat.started), (process.pid, process.started));
    let stdin = std::fs::read_link(format!("/proc/{}/fd/0", process.pid)).unwrap();
    assert_eq!(stdin, Path::new("/dev/null"));
    // (Its loader opens files of its own for a moment; what the agent left open would stay.)
    until("its three descriptors and none of the agent's", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid));
        open.unwrap().count() == 3
    })
    .await;
    assert!(
        output.contains("PATH=") && !output.contains("CARGO_PKG_NAME"),
        "{output}"
    );
    process.kill().unwrap();
    process.ended().await;
}

#[tokio::test]
async fn only_the_very_same_process_is_adopted() {
    let folder = TempDir::new().unwrap();
    let mine = shell(&folder, "exec sleep 1000");
    assert!(
        Process::adopt(mine.pid, mine.started + 1)
            .unwrap()
            .is_none(),
        "another start time"
    );
    assert!(
        Process::adopt(std::process::id(), 0).unwrap().is_none(),
        "no leader of a session"
    );
    assert!(
        Process::adopt(u32::MAX, 0).unwrap().is_none(),
        "no pid at all"
    );
    let adopted = Process::adopt(mine.pid, mine.started).unwrap().unwrap();
    adopted.kill().unwrap();
    assert_eq!(
        tokio::time::timeout(LONG, adopted.ended()).await.unwrap(),
        Exit::Unknown
    );
    assert_eq!(mine.ended().await, Exit::Signal(9));
    assert!(
        Process::adopt(mine.pid, mine.started).unwrap().is_none(),
        "it is gone"
    );
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let folder = TempDir::new().unwrap();
    let log = File::create(log(&folder)).unwrap();
    assert!(Process::spawn(Path::new("/nowhere/worker"), &[], &[], log, Stdio::null()).is_err());
}
