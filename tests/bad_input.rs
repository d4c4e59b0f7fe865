//! What bad input gets: one clear message, exit code 2, and nothing started. What comes from strangers
//! is refused and does no harm.

use anyhow::{Context, Result, ensure};
use rebloom_core::id::NodeId;
use rebloom_core::spec::RunSpec;
use rebloom_runtime::tls::{Authority, Role};
use rebloom_tests::cluster::{Cluster, PATIENCE, free_address};
use rebloom_tests::process::{Process, binary};
use rebloom_tests::wait;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

fn rebloom(cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("rebloom")?);
    command
        .args(arguments)
        .args(["--controller", &cluster.address.to_string()])
        .arg("--tls")
        .arg(cluster.folder().join("tls"));
    command.output().context("rebloom runs")
}

fn submit(cluster: &Cluster, text: &str) -> Result<(Option<i32>, String)> {
    let file = cluster.folder().join("run.yaml");
    fs::write(&file, text)?;
    let output = rebloom(cluster, &["run", "submit", &file.display().to_string()])?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

/// One way to spoil a spec, and what the message has to name.
type Spoiled = (fn(&mut RunSpec), &'static [&'static str]);

#[test]
fn a_spec_that_cannot_run_is_refused_by_name_and_nothing_starts() -> Result<()> {
    let cluster = Cluster::start(4)?;
    let good = cluster.spec("night")?;
    let spoiled: [Spoiled; 12] = [
        (|s| s.model.heads = 3, &["model.heads", "3", "model.hidden"]),
        (
            |s| s.layout.tensor = 8,
            &["layout.tensor", "8", "model.heads"],
        ),
        (
            |s| s.layout.pipeline = 5,
            &["layout.pipeline", "5", "model.layers"],
        ),
        (|s| s.layout.data = 4, &["layout", "16", "8"]),
        (|s| s.train.steps = 0, &["train.steps", "0"]),
        (|s| s.train.global_batch = 9, &["train.global_batch", "9"]),
        (
            |s| s.train.optimizer.learning_rate = -1.0,
            &["train.optimizer.learning_rate", "-1"],
        ),
        (
            |s| s.train.optimizer.clip = f64::NAN,
            &["train.optimizer.clip", "NaN"],
        ),
        (|s| s.deadlines.step = 1e12, &["deadlines.step"]),
        (
            |s| s.checkpoint.directory = "here".to_owned(),
            &["checkpoint.directory", "here"],
        ),
        (
            |s| s.data.prefix = "/nowhere/text".to_owned(),
            &["data.prefix", "/nowhere/text"],
        ),
        (|s| s.model.vocab = 64, &["model.vocab", "64"]),
    ];
    for (spoil, names) in spoiled {
        let mut spec = good.clone();
        spoil(&mut spec);
        let text = serde_norway::to_string(&spec)?.replace("NaN", ".nan");
        refused(&cluster, &text, names)?;
    }
    let text = serde_norway::to_string(&good)?;
    refused(
        &cluster,
        &text.replace("steps: 30", "stepz: 30"),
        &["stepz"],
    )?;
    refused(&cluster, &text.replace("steps: 30\n", ""), &["steps"])?;
    refused(
        &cluster,
        &text.replace("steps: 30", "steps: many"),
        &["steps", "many"],
    )?;
    refused(
        &cluster,
        &text.replace("name: night", "name: 'Good Night'"),
        &["Good Night"],
    )?;
    refused(&cluster, "name: [unclosed", &["run.yaml"])?;
    let listed = rebloom(&cluster, &["run", "list", "-o", "json"])?;
    ensure!(listed.status.success());
    ensure!(serde_json::from_slice::<Vec<serde_json::Value>>(&listed.stdout)?.is_empty());
    Ok(())
}

fn refused(cluster: &Cluster, text: &str, names: &[&str]) -> Result<()> {
    let (code, said) = submit(cluster, text)?;
    ensure!(code == Some(2), "exit code {code:?}: {said}\n{text}");
    for name in names {
        ensure!(said.contains(name), "`{name}` is not named: {said}");
    }
    Ok(())
}

#[test]
fn a_truncated_dataset_is_refused_before_anything_starts() -> Result<()> {
    let cluster = Cluster::start(4)?;
    let mut spec = cluster.spec("night")?;
    let prefix = cluster.folder().join("text");
    for ending in ["idx", "bin"] {
        let whole = Path::new(&spec.data.prefix).with_extension(ending);
        fs::copy(whole, prefix.with_extension(ending))?;
    }
    let bin = prefix.with_extension("bin");
    let bytes = fs::read(&bin)?;
    fs::write(&bin, &bytes[..bytes.len() - 100])?;
    spec.data.prefix = prefix.display().to_string();
    refused(
        &cluster,
        &serde_norway::to_string(&spec)?,
        &["data.prefix", "text"],
    )
}

#[test]
fn scripts_can_tell_failures_apart_by_exit_code() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    ensure!(rebloom(&cluster, &["run", "get", "nobody"])?.status.code() == Some(3));
    ensure!(
        rebloom(&cluster, &["node", "cordon", "nobody"])?
            .status
            .code()
            == Some(3)
    );
    ensure!(rebloom(&cluster, &["run", "frobnicate"])?.status.code() == Some(2));
    ensure!(rebloom(&cluster, &["node", "list"])?.status.code() == Some(0));
    cluster.kill_controller();
    ensure!(rebloom(&cluster, &["node", "list"])?.status.code() == Some(4));
    Ok(())
}

#[test]
fn garbage_on_every_port_does_no_harm() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let hello = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    for address in [
        Some(cluster.address),
        Some(cluster.metrics),
        cluster.store_of("node-1"),
    ] {
        for bytes in [&noise, &hello] {
            let mut stream = TcpStream::connect(address.context("an address")?)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            // The other side may hang up in the middle of it; what it says back is its business.
            drop(stream.write_all(bytes));
            drop(stream.shutdown(std::net::Shutdown::Write));
            drop(stream.read_to_end(&mut Vec::new()));
        }
    }
    ensure!(cluster.nodes()?.len() == 2, "everybody is still there");
    let listed = rebloom(&cluster, &["node", "list"])?;
    ensure!(listed.status.success());
    Ok(())
}

#[test]
fn a_known_name_with_another_identity_is_refused() -> Result<()> {
    let cluster = Cluster::start(2)?;
    // The same authority, but a new key for the name of node-1.
    let forged = cluster.folder().join("forged");
    fs::create_dir(&forged)?;
    for entry in fs::read_dir(cluster.folder().join("tls"))?.flatten() {
        fs::copy(entry.path(), forged.join(entry.file_name()))?;
    }
    fs::remove_file(forged.join("agent-node-1.key"))?;
    Authority::load(&forged)?.issue(&Role::Agent(NodeId::new("node-1")?))?;
    let log = cluster.folder().join("forged.log");
    let mut command = Command::new(binary("rebloom-agent")?);
    command
        .args(["--node", "node-1", "--slots", "64"])
        .args(["--controller", &cluster.address.to_string()])
        .args(["--listen", &free_address()?.to_string()])
        .arg("--state")
        .arg(cluster.folder().join("forged-state"))
        .arg("--tls")
        .arg(&forged)
        .arg("--worker")
        .arg(binary("rebloom-worker")?);
    let _forger = Process::start(command, &log)?;
    wait::until("the forger is told", PATIENCE, || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        Ok(said.contains("identity").then_some(()))
    })?;
    let node = cluster
        .nodes()?
        .into_iter()
        .find(|node| node.facts.node.as_str() == "node-1");
    ensure!(
        node.is_some_and(|node| node.facts.slots == 2),
        "the forger's slots were believed"
    );
    Ok(())
}
