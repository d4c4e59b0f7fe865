//! Two thousand agents: a real controller process with its journal, and as many mutual TLS connections from this
//! process, each of which says what the agent of an eight-GPU node full of ranks would say.

mod agent;

use super::{largest, load, median, quantile};
use crate::cluster::{Cluster, Plan};
use crate::process::{cpu_seconds, rss};
use crate::training;
use agent::{Fault, Place, SLOTS};
use anyhow::{Context, Result, bail, ensure};
use rebloom_core::id::{Generation, RunId};
use rebloom_core::layout::Layout;
use rebloom_core::spec::{Recovery, RunSpec};
use rebloom_runtime::tls::{Authority, Role};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

const AGENTS: usize = 2000;
/// Descriptors that either process needs besides its connections.
const OTHERS: u64 = 256;
/// BLOOM's.
const LAYOUT: Layout = Layout {
    tensor: 4,
    pipeline: 12,
    data: 8,
};
const ROUNDS: usize = 300;
/// GPUs that fall off, each of another node; there is a spare for each.
const FALLS: usize = 20;
/// Pause before a next fault, so that each decision is measured by itself.
const PAUSE: Duration = Duration::from_millis(100);
/// Handshakes at once; one that waits too long for its turn is not a join.
const DOOR: usize = 16;
/// How long everybody is watched while nothing happens.
const WATCHED: Duration = Duration::from_secs(30);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// What agents tell the bench.
#[derive(Debug)]
enum Counts {
    /// It is welcome.
    Joined,
    /// Ranks of this run are on this node.
    Placed {
        run: RunId,
        generation: Generation,
        node: usize,
    },
    /// A report that a rank of it stepped is in the journal.
    Stepped { run: RunId, generation: Generation },
    /// From a report to its acknowledgement.
    Acknowledged { is_exit: bool, after: Duration },
    /// From the report that a rank died to the order of the next generation, at that agent.
    Decided(Duration),
    /// From the report of an XID to the order to stop, at that agent.
    Withdrawn(Duration),
    /// Something came that should not.
    Odd,
    /// An agent ended.
    Ended(String),
}

type Tell = Arc<dyn Fn(Counts) + Send + Sync>;

/// A run as its agents see it.
#[derive(Debug, Default)]
struct Gang {
    generation: Generation,
    nodes: Vec<usize>,
    stepped: u32,
}

struct Bench {
    counts: mpsc::UnboundedReceiver<Counts>,
    faults: Vec<mpsc::Sender<Fault>>,
    joined: usize,
    gangs: BTreeMap<RunId, Gang>,
    decided: Vec<Duration>,
    withdrawn: Vec<Duration>,
    exits: Vec<Duration>,
    acknowledged: Vec<Duration>,
    odd: usize,
}

/// Runs the bench and prints its table.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
pub fn run() -> Result<()> {
    raise_open_files()?;
    let cluster = Cluster::of(Plan::of(0).with_default_limits())?;
    let controller = cluster.controller_pid().context("a controller")?;
    let tls = cluster.folder().join("tls");
    let authority = Authority::load(&tls)?;
    for at in 0..AGENTS {
        authority.issue(&Role::Agent(agent::name(at)?))?;
    }
    eprintln!("{AGENTS} certificates issued");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let began = Instant::now();
    let mut bench = Bench::connect(&runtime, cluster.address.to_string(), &tls)?;
    runtime.block_on(bench.until("every agent joins", |bench| bench.joined == AGENTS))?;
    let joined = began.elapsed();
    eprintln!("{AGENTS} agents joined in {joined:.1?}");
    let empty = usage(controller)?;

    let began = Instant::now();
    let runs = AGENTS * SLOTS as usize / LAYOUT.world() as usize;
    for at in 0..runs {
        cluster.submit(&spec(&format!("run-{at:02}"), &cluster.checkpoints())?)?;
    }
    let all_step = |bench: &Bench| bench.gangs.values().filter(|gang| gang.steps()).count() == runs;
    runtime.block_on(bench.until("every run trains", all_step))?;
    let filled = began.elapsed();
    eprintln!(
        "{runs} runs of {} ranks train after {filled:.1?}",
        LAYOUT.world()
    );
    let full = usage(controller)?;

    bench.acknowledged.clear();
    let began = Instant::now();
    let before = cpu_seconds(controller)?;
    runtime.block_on(bench.kill(runs))?;
    let busy = (cpu_seconds(controller)? - before) / began.elapsed().as_secs_f64();
    runtime.block_on(bench.break_gpus(runs))?;

    println!(
        "| {AGENTS} agents, {runs} runs of {} ranks | p50, ms | p99, ms | max, ms |",
        LAYOUT.world()
    );
    println!("|---|---|---|---|");
    for (what, spans) in [
        (
            "a rank's end reported -> the next generation's order at that agent",
            &bench.decided,
        ),
        (
            "a rank's end reported -> acknowledged, in the journal",
            &bench.exits,
        ),
        (
            "any report -> acknowledged (1,152 of each gang that forms anew)",
            &bench.acknowledged,
        ),
        (
            "XID 79 in a node's kernel log reported -> node withdrawn, its order to stop at that agent",
            &bench.withdrawn,
        ),
    ] {
        println!(
            "| {what} ({} times) | {:.2} | {:.2} | {:.2} |",
            spans.len(),
            median(spans).as_secs_f64() * 1e3,
            quantile(spans, 99).as_secs_f64() * 1e3,
            largest(spans).as_secs_f64() * 1e3
        );
    }
    println!("\n| figure | value |\n|---|---|");
    println!(
        "| {AGENTS} agents connected and joined | {:.1} s |",
        joined.as_secs_f64()
    );
    println!(
        "| {runs} runs submitted, placed, started and stepping | {:.1} s |",
        filled.as_secs_f64()
    );
    for (when, usage) in [("empty beats", empty), ("beats with 8 pages each", full)] {
        println!(
            "| controller, {when}: CPU | {:.1} % of a core |",
            usage.controller * 100.0
        );
        println!(
            "| load process, {when}: CPU | {:.1} % of a core |",
            usage.own * 100.0
        );
        println!(
            "| controller, {when}: RSS | {:.1} MB |",
            usage.rss as f64 / 1e6
        );
    }
    println!(
        "| controller while ranks die: CPU | {:.1} % of a core |",
        busy * 100.0
    );
    println!(
        "| controller at the end: RSS | {:.1} MB |",
        rss(controller)? as f64 / 1e6
    );
    println!("| messages that no simulated agent knows | {} |", bench.odd);
    println!("| load of the machine at the end | {} |", load()?);
    Ok(())
}

/// Lets this process and its children open as many files as there are connections.
fn raise_open_files() -> Result<()> {
    let needed = AGENTS as u64 + OTHERS;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|most| most >= needed),
        "{needed} open files are needed, and the hard limit is {:?}: raise it (ulimit -Hn)",
        limit.maximum
    );
    limit.current = Some(needed);
    setrlimit(Resource::Nofile, limit).context("the limit of open files cannot be raised")
}

fn spec(name: &str, checkpoints: &Path) -> Result<RunSpec> {
    let mut spec = training::spec(name, Path::new("/data/roots"), checkpoints)?;
    spec.layout = LAYOUT;
    spec.model.layers = LAYOUT.pipeline;
    spec.train.steps = 1_000_000;
    spec.train.global_batch = 8 * LAYOUT.data;
    // Nobody saves here, so that no recovery ever counts as progress.
    spec.checkpoint.every_steps = 1_000_000;
    spec.recovery = Recovery {
        reform: 1_000_000,
        replace: 1_000_000,
        unsealed: 1_000_000,
        ..Recovery::default()
    };
    spec.deadlines = rebloom_core::spec::Deadlines::default();
    Ok(spec)
}

/// Share of a core that the controller and this process take, and the controller's memory.
struct Usage {
    controller: f64,
    own: f64,
    rss: u64,
}

fn usage(controller: u32) -> Result<Usage> {
    let own = std::process::id();
    let before = (cpu_seconds(controller)?, cpu_seconds(own)?);
    let began = Instant::now();
    std::thread::sleep(WATCHED);
    let over = began.elapsed().as_secs_f64();
    Ok(Usage {
        controller: (cpu_seconds(controller)? - before.0) / over,
        own: (cpu_seconds(own)? - before.1) / over,
        rss: rss(controller)?,
    })
}

impl Gang {
    fn steps(&self) -> bool {
        self.stepped == LAYOUT.world()
    }
}

impl Bench {
    fn connect(runtime: &tokio::runtime::Runtime, controller: String, tls: &Path) -> Result<Self> {
        let (sender, counts) = mpsc::unbounded_channel();
        let door = Arc::new(Semaphore::new(DOOR));
        let mut faults = Vec::new();
        for at in 0..AGENTS {
            let (strikes, struck) = mpsc::channel(1);
            faults.push(strikes);
            let sender = sender.clone();
            let last = sender.clone();
            // (At the end nobody listens any more.)
            let tell: Tell = Arc::new(move |counts| drop(sender.send(counts)));
            let place = Place {
                at,
                of: AGENTS,
                controller: controller.clone(),
                door: Arc::clone(&door),
            };
            let tls = tls.to_owned();
            runtime.spawn(async move {
                if let Err(error) = agent::live(place, &tls, tell, struck).await {
                    drop(last.send(Counts::Ended(format!("agent {at}: {error:#}"))));
                }
            });
        }
        Ok(Self {
            counts,
            faults,
            joined: 0,
            gangs: BTreeMap::new(),
            decided: Vec::new(),
            withdrawn: Vec::new(),
            exits: Vec::new(),
            acknowledged: Vec::new(),
            odd: 0,
        })
    }

    /// Takes in what agents tell until all is as it should be.
    async fn until(&mut self, what: &str, good: impl Fn(&Self) -> bool) -> Result<()> {
        let all = async {
            while !good(self) {
                let counts = self.counts.recv().await.context("the agents ended")?;
                self.count(counts)?;
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(outcome) => outcome,
            Err(_) => bail!(
                "{what}: did not come about within {PATIENCE:?}; {} joined, {} runs placed",
                self.joined,
                self.gangs.len()
            ),
        }
    }

    fn count(&mut self, counts: Counts) -> Result<()> {
        match counts {
            Counts::Joined => self.joined += 1,
            Counts::Placed {
                run,
                generation,
                node,
            } => {
                let gang = self.gangs.entry(run).or_default();
                if gang.generation < generation {
                    *gang = Gang {
                        generation,
                        ..Gang::default()
                    };
                }
                gang.nodes.push(node);
            }
            Counts::Stepped { run, generation } => {
                let gang = self.gangs.get_mut(&run).context("a run that is placed")?;
                gang.stepped += u32::from(gang.generation == generation);
            }
            Counts::Acknowledged { is_exit, after } => {
                let kind = if is_exit {
                    &mut self.exits
                } else {
                    &mut self.acknowledged
                };
                kind.push(after);
            }
            Counts::Decided(after) => self.decided.push(after),
            Counts::Withdrawn(after) => self.withdrawn.push(after),
            Counts::Odd => self.odd += 1,
            Counts::Ended(why) => bail!(why),
        }
        Ok(())
    }

    /// Kills a rank of one run after the other, each time on another node of it.
    async fn kill(&mut self, runs: usize) -> Result<()> {
        let names: Vec<RunId> = self.gangs.keys().cloned().collect();
        for round in 0..ROUNDS {
            let nth = round / runs * 7;
            self.strike(&names[round % runs], nth, Fault::RankDies)
                .await?;
            if round % 50 == 49 {
                eprintln!("{} ranks have died", round + 1);
            }
        }
        Ok(())
    }

    /// Has a GPU of one run after the other fall off the bus.
    async fn break_gpus(&mut self, runs: usize) -> Result<()> {
        let names: Vec<RunId> = self.gangs.keys().cloned().collect();
        for round in 0..FALLS {
            self.strike(&names[round % runs], round, Fault::GpuFalls)
                .await?;
        }
        eprintln!("{FALLS} GPUs have fallen off");
        Ok(())
    }

    /// Breaks something on one of the nodes of a run, and waits until it goes on.
    async fn strike(&mut self, name: &RunId, nth: usize, fault: Fault) -> Result<()> {
        let orders = |bench: &Self| bench.decided.len() + bench.withdrawn.len();
        let before = orders(self);
        let gang = self.gangs.get(name).context("a run")?;
        ensure!(gang.steps(), "{name} trains");
        let node = gang.nodes[nth % gang.nodes.len()];
        self.faults[node].send(fault).await?;
        self.until("the gang forms anew", |bench| {
            orders(bench) > before && bench.gangs.get(name).is_some_and(Gang::steps)
        })
        .await?;
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
