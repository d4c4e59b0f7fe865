//! The whole path: the real controller with its journal and gRPC, 48 real agents and a spare, 384 light ranks,
//! all on this machine. How long until every rank has stepped, after the submission and after each kind of kill.

use super::{largest, median, millis};
use crate::cluster::{Cluster, Plan, pid_of};
use crate::process::{cpu_seconds, proportional, rss, signal};
use crate::{light, wait};
use anyhow::{Context, Result, ensure};
use rebloom_core::engine::{CheckpointState, NodeState, RunState, RunView, Spend};
use rebloom_core::id::RunId;
use rebloom_core::layout::Layout;
use rebloom_core::report::Milestone;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 10;
const NODES: usize = 48;
const SLOTS: u32 = 8;
/// BLOOM's.
const LAYOUT: Layout = Layout {
    tensor: 4,
    pipeline: 12,
    data: 8,
};
const STEP: Duration = Duration::from_millis(500);
const EVERY: u64 = 10;
/// How often the controller is asked: a view of 384 ranks costs it a millisecond.
const LOOK: Duration = Duration::from_millis(20);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long everybody is watched while nothing happens.
const WATCHED: Duration = Duration::from_secs(20);
/// Steps after which links have been up for three seconds: an agent whose link breaks before two waits longer and longer.
const LASTING: u64 = 6;

/// What the rounds of one kind took: as seen from outside, and by the controller's ledger.
#[derive(Default)]
struct Found {
    spans: Vec<Duration>,
    phases: BTreeMap<Spend, Vec<Duration>>,
}

struct Bench {
    cluster: Cluster,
    run: RunId,
}

/// Runs the bench and prints its tables.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
pub fn run() -> Result<()> {
    let plan = Plan::light(NODES + 1, SLOTS, STEP).with_default_limits();
    let began = Instant::now();
    let cluster = Cluster::of(plan)?;
    eprintln!("{} agents joined in {:.1?}", NODES + 1, began.elapsed());
    let mut spec = light::spec("path", LAYOUT, &cluster.checkpoints())?;
    spec.train.steps = 1_000_000;
    spec.checkpoint.every_steps = EVERY;
    // As long as a machine may take that starts 384 processes on two cores.
    (spec.deadlines.init, spec.deadlines.load) = (60.0, 60.0);
    (spec.deadlines.step, spec.deadlines.save) = (30.0, 30.0);

    let began = Instant::now();
    let run = cluster.submit(&spec)?;
    let mut bench = Bench { cluster, run };
    bench.until("all ranks step", is_running)?;
    let submitted = began.elapsed();
    eprintln!("all {} ranks step after {submitted:.1?}", LAYOUT.world());
    let usage = bench.usage()?;

    let ranks = bench.rounds("a rank", Bench::kill_a_rank)?;
    let nodes = bench.rounds("a node", Bench::kill_a_node)?;
    let mut controllers = bench.rounds("the controller", Bench::kill_the_controller)?;
    // Nothing was lost: the last incident is an older one.
    controllers.phases.clear();

    println!("| 384 ranks on {NODES} nodes | p50, ms | max, ms |\n|---|---|---|");
    println!(
        "| submit -> every rank has stepped (once) | {} | |",
        millis(submitted)
    );
    for (what, found) in [
        ("kill -9 of a rank -> every rank has stepped", ranks),
        (
            "kill -9 of a node, agent and ranks -> every rank has stepped",
            nodes,
        ),
        (
            "kill -9 of the controller -> it shows the run running and every rank",
            controllers,
        ),
    ] {
        row(&format!("**{what}** ({ROUNDS} times)"), &found.spans);
        for (phase, spans) in &found.phases {
            row(&format!("{phase:?} (ledger)"), spans);
        }
    }
    println!("\n| figure | value |\n|---|---|");
    for line in usage {
        println!("| {line} |");
    }
    let peak = bench.cluster.controller_pid().context("a controller")?;
    println!(
        "| controller at the end: RSS | {:.1} MB |",
        rss(peak)? as f64 / 1e6
    );
    println!("| load of the machine at the end | {} |", super::load()?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn row(what: &str, spans: &[Duration]) {
    println!(
        "| {what} | {} | {} |",
        millis(median(spans)),
        millis(largest(spans))
    );
}

fn is_running(view: &RunView) -> bool {
    let stepped = |milestone| milestone >= Some(Milestone::Stepped);
    view.state == RunState::Running && view.ranks.iter().all(|rank| stepped(rank.milestone))
}

impl Bench {
    /// Waits until the run is as it should be; the controller may be down meanwhile.
    fn until(&self, what: &str, mut good: impl FnMut(&RunView) -> bool) -> Result<RunView> {
        let mut last = String::new();
        let found = wait::until_every(LOOK, what, PATIENCE, || {
            let Ok(view) = self.cluster.run(&self.run) else {
                return Ok(None);
            };
            let ended = matches!(view.state, RunState::Failed | RunState::Parked);
            ensure!(!ended, "the run is {}: {}", view.state, view.why);
            last = format!(
                "{} at step {} in generation {}: {}",
                view.state, view.step, view.generation, view.why
            );
            Ok(good(&view).then_some(view))
        });
        found.with_context(|| format!("last seen: {last}\n{}", self.cluster.logs()))
    }

    /// Waits until nothing is left of the last fault: every node is there, its incident is closed, and the
    /// generation has sealed a checkpoint of its own.
    fn settled(&self) -> Result<RunView> {
        wait::until_every(LOOK, "every node is there", PATIENCE, || {
            let nodes = self.cluster.nodes().unwrap_or_default();
            let ready = nodes.iter().filter(|node| node.state == NodeState::Ready);
            Ok((ready.count() == NODES + 1).then_some(()))
        })?;
        self.until("the run has settled", |view| {
            let closed = view.incidents.iter().all(|it| it.closed.is_some());
            let mut checkpoints = view.checkpoints.iter();
            let sealed = checkpoints.any(|(id, state)| {
                id.generation == view.generation && *state == CheckpointState::Sealed
            });
            is_running(view) && closed && sealed
        })
    }

    fn rounds(
        &mut self,
        what: &str,
        mut kill: impl FnMut(&mut Self, u32, &RunView) -> Result<Duration>,
    ) -> Result<Found> {
        let mut found = Found::default();
        let mut before = self.settled()?;
        for round in 0..ROUNDS {
            let span = kill(self, round, &before)?;
            eprintln!("{what} killed: all running again after {span:.1?}");
            found.spans.push(span);
            before = self.settled()?;
            let ledger = before.incidents.last().map(|it| &it.spent.spent);
            for (phase, spent) in ledger.into_iter().flatten() {
                found.phases.entry(*phase).or_default().push(*spent);
            }
        }
        Ok(found)
    }

    fn running_after(&self, before: &RunView) -> Result<RunView> {
        self.until("all run again", |view| {
            view.generation > before.generation && is_running(view)
        })
    }

    fn kill_a_rank(&mut self, round: u32, before: &RunView) -> Result<Duration> {
        let pid = pid_of(before, round * 37 % LAYOUT.world())?;
        let began = Instant::now();
        signal(pid, Signal::KILL)?;
        self.running_after(before)?;
        Ok(began.elapsed())
    }

    fn kill_a_node(&mut self, round: u32, before: &RunView) -> Result<Duration> {
        let victim = (round * 37 + 11) % LAYOUT.world();
        let rank = before.ranks.get(victim as usize).context("a rank")?;
        let node = rank.seating.node.clone();
        let mine = before.ranks.iter().filter(|it| it.seating.node == node);
        let pids: Vec<u32> = mine.filter_map(|rank| rank.pid).collect();
        let began = Instant::now();
        self.cluster.kill_agent(node.as_str())?;
        for pid in pids {
            signal(pid, Signal::KILL)?;
        }
        let after = self.running_after(before)?;
        let span = began.elapsed();
        ensure!(
            after.ranks.iter().all(|rank| rank.seating.node != node),
            "{node} is gone"
        );
        self.cluster.start_agent(node.as_str())?;
        Ok(span)
    }

    fn kill_the_controller(&mut self, _: u32, before: &RunView) -> Result<Duration> {
        let lasting = before.step.0 + LASTING;
        self.until("the links have lasted", |view| view.step.0 >= lasting)?;
        let began = Instant::now();
        self.cluster.kill_controller();
        self.cluster.start_controller()?;
        // (What a rank's page says is not in the journal: its agent has beaten since.)
        let after = self.until("the controller knows every rank", |view| {
            view.state == RunState::Running && view.ranks.iter().all(|rank| rank.step.is_some())
        })?;
        let span = began.elapsed();
        ensure!(after.generation == before.generation, "the run noticed");
        Ok(span)
    }

    /// What everybody takes while the run trains and nothing happens.
    fn usage(&self) -> Result<Vec<String>> {
        let view = self.settled()?;
        let rank = view.ranks.first().context("a rank")?;
        let agent = self.cluster.agent_pid(rank.seating.node.as_str());
        let watched = [
            ("controller", self.cluster.controller_pid()),
            ("agent of eight ranks", agent),
            ("light rank", rank.pid),
        ];
        let before = watched.map(|(_, pid)| pid.map(cpu_seconds));
        let began = Instant::now();
        std::thread::sleep(WATCHED);
        let over = began.elapsed().as_secs_f64();
        let mut lines = Vec::new();
        for ((name, pid), before) in watched.into_iter().zip(before) {
            let pid = pid.context("a process")?;
            let used = cpu_seconds(pid)? - before.context("a process")??;
            let (all, own) = (rss(pid)? as f64 / 1e6, proportional(pid)? as f64 / 1e6);
            lines.push(format!(
                "{name}: CPU | {:.2} % of a core |\n| {name}: RSS / its share of it | {all:.1} / {own:.1} MB",
                100.0 * used / over
            ));
        }
        Ok(lines)
    }
}
