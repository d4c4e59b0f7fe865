//! What Rebloom costs: training throughput under it against the same worker binary started by hand, and
//! what agents and controller use meanwhile.

use super::median;
use crate::cluster::{Cluster, PATIENCE};
use crate::process::{Process, binary};
use crate::wait;
use anyhow::{Context, Result, ensure};
use rebloom_core::spec::RunSpec;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;
const STEPS: u64 = 60;

/// Runs the bench and prints its tables.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
pub fn run() -> Result<()> {
    let mut ratios = Vec::new();
    let mut usage = Vec::new();
    for _ in 0..ROUNDS {
        let (with, used) = managed()?;
        let without = by_hand()?;
        ratios.push(without.as_secs_f64() / with.as_secs_f64());
        usage = used;
        println!("step time under Rebloom {with:.1?}, by hand {without:.1?}");
    }
    ratios.sort_by(f64::total_cmp);
    println!("\n| figure | value |\n|---|---|");
    println!(
        "| throughput under Rebloom / by hand, median of {ROUNDS} pairs | {:.3} ({:.3} to {:.3}) |",
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1]
    );
    for line in usage {
        println!("| {line} |");
    }
    Ok(())
}

fn spec(cluster: &Cluster) -> Result<RunSpec> {
    let mut spec = cluster.spec("overhead")?;
    spec.model.hidden = 128;
    spec.model.sequence = 64;
    spec.train.steps = 20_000;
    spec.checkpoint.every_steps = 20_000;
    Ok(spec)
}

/// Median step time of a managed run, and what its agents and controller use.
fn managed() -> Result<(Duration, Vec<String>)> {
    let cluster = Cluster::start(5)?;
    let at_rest = usage_over(&cluster, Duration::from_secs(5))?;
    let run = cluster.submit(&spec(&cluster)?)?;
    let first = cluster.until_step(&run, 5)?;
    // Nobody asks anything meanwhile: a question costs more here than what is measured.
    let began = Instant::now();
    let training = usage_over(&cluster, Duration::from_secs(15))?;
    let last = cluster.run(&run)?;
    let step = began.elapsed() / u32::try_from(last.step.0 - first.step.0)?;
    let mut lines = Vec::new();
    for ((name, cpu, rss), (_, cpu_training, rss_training)) in at_rest.into_iter().zip(training) {
        lines.push(format!(
            "{name}: CPU at rest {:.2} %, in training {:.2} % of a core; RSS {:.1} / {:.1} MB |",
            cpu * 100.0,
            cpu_training * 100.0,
            rss as f64 / 1e6,
            rss_training as f64 / 1e6
        ));
    }
    Ok((step, lines))
}

/// Share of a core and resident bytes of the controller and of the first agent.
fn usage_over(cluster: &Cluster, span: Duration) -> Result<Vec<(String, f64, u64)>> {
    let processes = [
        (
            "controller".to_owned(),
            cluster.controller_pid().context("a controller")?,
        ),
        (
            "agent of two ranks".to_owned(),
            cluster.agent_pid("node-1").context("an agent")?,
        ),
    ];
    let before: Vec<f64> = processes
        .iter()
        .map(|(_, pid)| cpu_seconds(*pid))
        .collect::<Result<_>>()?;
    let began = Instant::now();
    wait::until("the measured span is over", PATIENCE, || {
        Ok((began.elapsed() >= span).then_some(()))
    })?;
    let over = began.elapsed().as_secs_f64();
    processes
        .into_iter()
        .zip(before)
        .map(|((name, pid), before)| Ok((name, (cpu_seconds(pid)? - before) / over, rss(pid)?)))
        .collect()
}

/// User and system time of a process so far, from `/proc/<pid>/stat` (in hundredths of a second).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").context("a stat line")?.1;
    let ticks: Vec<f64> = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| Ok(field.parse()?))
        .collect::<Result<_>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Step time of the same ranks without controller and agents.
fn by_hand() -> Result<Duration> {
    let cluster = Cluster::start(0)?;
    let mut spec = spec(&cluster)?;
    spec.train.steps = STEPS + 5;
    let file = cluster.folder().join("spec.json");
    fs::write(&file, serde_json::to_vec(&spec)?)?;
    let log = cluster.folder().join("rank-0.log");
    let mut ranks = Vec::new();
    for rank in 0..spec.layout.world() {
        let mut command = Command::new(binary("rebloom-worker")?);
        command
            .args(["solo", "--rank", &rank.to_string(), "--spec"])
            .arg(&file)
            .arg("--store")
            .arg(cluster.folder().join("store"));
        let log = if rank == 0 {
            log.clone()
        } else {
            cluster.folder().join("others.log")
        };
        ranks.push(Process::start(command, &log)?);
    }
    for rank in &mut ranks {
        ensure!(
            rank.wait(PATIENCE)? == Some(0),
            "{}",
            fs::read_to_string(&log)?
        );
    }
    let text = fs::read_to_string(&log)?;
    let line = text
        .lines()
        .find(|line| line.starts_with('{'))
        .context("figures")?;
    let figures: serde_json::Value = serde_json::from_str(line)?;
    let seconds = figures["step_seconds"].as_f64().context("step_seconds")?;
    Ok(median(&[Duration::from_secs_f64(seconds)]))
}
