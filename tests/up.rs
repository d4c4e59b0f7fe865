//! `rebloom up` as a newcomer uses it: it trains, survives what `chaos` does to it, stops cleanly on
//! Ctrl-C, goes on the second time, and knows when it is done.

use anyhow::{Context, Result, ensure};
use rebloom_tests::process::{Process, binary, processes_of, signal};
use rebloom_tests::wait;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Five agents and eight workers share two cores with the rest of the tests.
const PATIENCE: Duration = Duration::from_secs(180);

fn up(folder: &Path, log: &str) -> Result<Process> {
    let mut command = Command::new(binary("rebloom")?);
    command
        .args(["up", "--plain", "--steps", "60", "--state"])
        .arg(folder.join(".rebloom/cluster"))
        .arg("--text")
        .arg(folder.join("text"))
        .args(["--permission", "written for this test"])
        .current_dir(folder);
    Process::start(command, &folder.join(log))
}

fn rebloom(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary("rebloom")?)
        .args(arguments)
        .current_dir(folder)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{arguments:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

fn run(folder: &Path) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&rebloom(
        folder,
        &["run", "get", "bloom-small", "-o", "json"],
    )?)?)
}

/// Waits until the run trains at `step` or beyond.
fn until_step(folder: &Path, log: &str, step: u64) -> Result<serde_json::Value> {
    let reached = wait::until("the run trains", PATIENCE, || {
        let Ok(run) = run(folder) else {
            return Ok(None);
        };
        let there = run["state"] == "running" && run["step"].as_u64() >= Some(step);
        Ok(there.then_some(run))
    });
    reached.with_context(|| fs::read_to_string(folder.join(log)).unwrap_or_default())
}

/// Trains a run of one rank on the spare node.
fn submit_another(folder: &Path) -> Result<()> {
    let spec = fs::read_to_string(folder.join(".rebloom/cluster/run.yaml"))?;
    let other = spec
        .replace("name: bloom-small", "name: other")
        .replace("tensor: 2", "tensor: 1")
        .replace("pipeline: 2", "pipeline: 1")
        .replace("  data: 2", "  data: 1")
        .replace("steps: 60", "steps: 100000");
    fs::write(folder.join("other.yaml"), other)?;
    rebloom(folder, &["run", "submit", "other.yaml"])?;
    wait::until("the other run trains", PATIENCE, || {
        let said = rebloom(folder, &["run", "get", "other", "-o", "json"])?;
        let run: serde_json::Value = serde_json::from_str(&said)?;
        let there = run["state"] == "running" && run["name"] == "other";
        Ok(there.then_some(()))
    })
}

#[test]
fn up_trains_recovers_stops_cleanly_and_goes_on() -> Result<()> {
    let folder = TempDir::with_prefix("rebloom-up-")?;
    let folder = folder.path();
    fs::create_dir(folder.join("text"))?;
    // Texts of this repository are as good as any.
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("a checkout")?;
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "docs/operating.md",
        "LICENSE",
    ] {
        let text = fs::read(checkout.join(name))?;
        fs::write(
            folder.join("text").join(name.replace('/', "-") + ".txt"),
            text,
        )?;
    }
    fs::write(folder.join("text/broken.txt"), [0xff, 0xfe, 0xff])?;

    let mut first = up(folder, "first")?;
    let before = until_step(folder, "first", 8)?;
    rebloom(folder, &["chaos", "kill-rank", "3"])?;
    let after = wait::until("the rank is replaced", PATIENCE, || {
        let Ok(run) = run(folder) else {
            return Ok(None);
        };
        let there = run["generation"].as_u64() > before["generation"].as_u64();
        Ok((there && run["state"] == "running").then_some(run))
    })?;
    ensure!(
        after["incidents"][0]["cause"]
            .to_string()
            .contains("rank_exited"),
        "{after}"
    );
    let story = rebloom(folder, &["run", "explain", "bloom-small"])?;
    ensure!(
        story.contains("rank 3") && story.contains("SIGKILL"),
        "{story}"
    );

    // Ctrl-C: a checkpoint of every run, also of one that somebody else submitted, and no process left.
    submit_another(folder)?;
    signal(first.pid(), Signal::INT)?;
    let code = first.wait(PATIENCE)?;
    let said = fs::read_to_string(folder.join("first"))?;
    ensure!(code == Some(0), "{code:?}: {said}");
    ensure!(
        said.contains("run bloom-small is Stopped") && said.contains("run other is Stopped"),
        "{said}"
    );
    ensure!(
        said.contains("rebloom run resume other`"),
        "it says how the other goes on: {said}"
    );
    ensure!(
        said.contains("broken.txt"),
        "what is not text is named: {said}"
    );
    ensure!(
        processes_of(folder).is_empty(),
        "{:?} are left: {said}",
        processes_of(folder)
    );

    // The second time goes on from there, to the end.
    let mut second = up(folder, "second")?;
    let code = second.wait(PATIENCE)?;
    let said = fs::read_to_string(folder.join("second"))?;
    ensure!(code == Some(0), "{code:?}: {said}");
    ensure!(
        said.contains("resuming") && said.contains("Completed"),
        "{said}"
    );
    ensure!(said.contains("60 of 60") && said.contains("ETTR"), "{said}");
    ensure!(
        processes_of(folder).is_empty(),
        "{:?} are left: {said}",
        processes_of(folder)
    );

    // The third time there is nothing to do, and it says so.
    let mut third = up(folder, "third")?;
    ensure!(third.wait(PATIENCE)? == Some(0));
    ensure!(fs::read_to_string(folder.join("third"))?.contains("complete already"));
    Ok(())
}
