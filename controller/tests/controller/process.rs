//! The binary: its arguments, its lock, its death and its next life.

use crate::fleet::*;
use rebloom_core::report::Milestone;
use rebloom_proto::wire;
use rebloom_proto::wire::admin_client::AdminClient;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rebloom-controller"));
    command
        .arg("--state")
        .arg(directory.join("state"))
        .arg("--tls")
        .arg(directory.join("tls"))
        .args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .env_remove("RUST_LOG");
    command
}

/// A controller of its own, killed when it is dropped.
struct Process {
    child: Child,
    address: SocketAddr,
    log: BufReader<ChildStderr>,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let mut child = command(directory).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(
                log.read_line(&mut line).unwrap(),
                0,
                "it ended before it was up"
            );
            let word = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix("listen="));
            if let Some(address) = word {
                break address.parse().unwrap();
            }
        };
        Self {
            child,
            address,
            log,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn failure(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn bad_arguments_exit_with_2_and_bad_files_with_1() {
    let cluster = cluster();
    let mut bad = command(cluster.path());
    bad.args(["--beat-ms", "1"]);
    let (code, said) = failure(bad);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--beat-ms 1: use 10 to"), "{said}");

    let mut bad = command(cluster.path());
    bad.env("RUST_LOG", "info,=,");
    assert_eq!(failure(bad).0, Some(2));

    std::fs::remove_file(cluster.path().join("tls/controller.pem")).unwrap();
    let (code, said) = failure(command(cluster.path()));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("controller.pem"), "{said}");
}

#[test]
fn one_state_directory_has_one_controller() {
    let cluster = cluster();
    let first = Process::start(cluster.path());
    let (code, said) = failure(command(cluster.path()));
    assert_eq!(code, Some(1), "{said}");
    let holder = format!("is in use by process {}", first.child.id());
    assert!(said.contains(&holder), "{said}");
}

#[test]
fn a_signal_ends_it_cleanly() {
    let cluster = cluster();
    let mut process = Process::start(cluster.path());
    let pid = rustix::process::Pid::from_child(&process.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    process.log.read_to_string(&mut rest).unwrap();
    assert_eq!(process.child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.contains("agents train on without it"), "{rest}");
}

#[tokio::test]
async fn what_an_admin_was_answered_survives_kill_9() {
    let cluster = cluster();
    let admin = async |process: &Process| {
        AdminClient::new(channel(cluster.path(), process.address, &admin_role()).await)
    };
    for round in 0..5 {
        let process = Process::start(cluster.path());
        let mut agents = Vec::new();
        for name in ["n1", "n2"] {
            let channel = channel(cluster.path(), process.address, &agent_role(name)).await;
            let mut agent = Agent::attach(channel, name).await.unwrap();
            agent.join(vec![]).await.unwrap();
            agents.push(agent);
        }
        let mut admin = admin(&process).await;
        let runs = admin
            .list_runs(wire::ListRunsRequest {})
            .await
            .unwrap()
            .into_inner()
            .runs;
        assert_eq!(runs.len(), round, "after {round} kills");
        admin
            .submit_run(submission(spec(&format!("bloom-{round}"))))
            .await
            .unwrap();
        if round == 0 {
            for agent in &mut agents {
                let start = agent.start_order().await;
                agent.reach(&start, Milestone::Going).await;
            }
        }
        drop(process);
    }
}
