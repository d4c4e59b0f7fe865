//! A history as a scenario file: the cluster, the work, what broke and what was published.
//!
//! It says nothing about how long things take (`durations.rs`) and decides nothing. What cannot be is
//! refused in `check.rs`.

mod check;

use rebloom_core::footprint::{self, Footprint, Tariff};
use rebloom_core::layout::Layout;
use rebloom_core::spec::Flaw;
use serde::Deserialize;
use std::time::Duration;

/// A history that can be replayed; `docs/replay.md` explains every field.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short name.
    pub name: String,
    /// What it is, in a line.
    pub title: String,
    /// Days of wall clock.
    pub days: f64,
    /// The ETTR that Rebloom is to reach, 0 to 1.
    pub goal: Option<f64>,
    /// What was published, for the baseline to be held against.
    pub published: Option<Published>,
    /// The machines.
    pub cluster: Cluster,
    /// Shape of the gang.
    pub layout: Layout,
    /// What it does.
    pub work: Work,
    /// What the operators of then had.
    pub then: Then,
    /// The rate of all causes together, where they have weights.
    pub rate: Option<Rate>,
    /// Nodes that fail more often than others.
    #[serde(default)]
    pub lemons: u32,
    /// The share of all faults that hits them, 0 to 1.
    #[serde(default)]
    pub lemon_share: f64,
    /// What breaks at random times.
    #[serde(default, rename = "cause")]
    pub causes: Vec<CauseOfFault>,
    /// What broke on a known day.
    #[serde(default, rename = "event")]
    pub events: Vec<DatedEvent>,
}

/// A published outcome.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Effective training time ratio, 0 to 1.
    pub ettr: f64,
    /// What it counts.
    pub counts: Counts,
    /// Whether it is a lower bound.
    #[serde(default)]
    pub at_least: bool,
    /// How far the baseline may be off.
    pub tolerance: f64,
}

/// What an effective training time counts as effective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counts {
    /// Steps at their nominal speed.
    Steps,
    /// Steps and evaluations.
    Work,
}

/// The machines.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Nodes, spares included.
    pub nodes: u32,
    /// GPUs of each.
    pub gpus_per_node: u32,
    /// Ranks that the replay plays on each: a whole node may stand for one.
    pub ranks_per_node: u32,
    /// The name of a GPU, by which its power is known; without it no energy is counted.
    pub gpu: Option<String>,
    /// Where it stands, by which it is known what a kilowatt-hour emits.
    #[serde(default = "world")]
    pub region: String,
}

fn world() -> String {
    "world".to_owned()
}

/// What the gang does.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Seconds of a step.
    pub step_seconds: f64,
    /// Steps between two evaluations; 0 is none.
    #[serde(default)]
    pub eval_every_steps: u64,
    /// Seconds of an evaluation.
    #[serde(default)]
    pub eval_seconds: f64,
}

/// What the operators of then had.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Then {
    /// Steps between two saves.
    pub save_every_steps: u64,
    /// Seconds for which a save stops training.
    pub save_stall_seconds: f64,
    /// Hours that are gone and that nobody wrote down.
    #[serde(default)]
    pub unlogged_hours: f64,
}

/// How often something breaks.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Faults of a thousand nodes in a day, over the nodes of the gang.
    pub per_1000_node_days: f64,
}

/// What a fault does, as the machines feel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A process ends; a new one on the same device works.
    Process,
    /// A GPU breaks: its process ends, and no new one starts there until it is replaced.
    Gpu,
    /// A node is gone with everything on it, until it is repaired.
    Node,
    /// A rank stops in a step.
    Hang,
    /// A rank stops in the next evaluation.
    EvalHang,
    /// A node turns slow.
    Slow,
    /// A save fails; training goes on.
    Storage,
    /// People stop the run and start it again: new code, a new driver.
    Planned,
    /// The whole site is down for some hours.
    Site,
    /// The loss runs away for some steps and comes back; the run trains on.
    Spike,
}

/// Something that breaks at random times: a number of times, so often a week, or by weight.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CauseOfFault {
    /// What people call it.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// How often in the whole history.
    pub count: Option<u32>,
    /// How often a week, on the whole cluster.
    pub per_week: Option<f64>,
    /// Its share of `rate`.
    pub weight: Option<f64>,
    /// For a slow node: how much longer a step takes, as a share.
    #[serde(default)]
    pub slowdown: f64,
    /// For a slow node: hours until the operators of then had found it.
    #[serde(default)]
    pub then_hours: f64,
    /// For a site that is down; for storage, how long saves go on failing.
    #[serde(default)]
    pub hours: f64,
    /// For a GPU: the XID that the kernel log shows.
    #[serde(default = "off_the_bus")]
    pub xid: u32,
}

/// What a run is doing when something is to strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// The next save after the given time is half written.
    Save,
}

/// Something that happened on a known day.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatedEvent {
    /// Days since the beginning.
    pub day: f64,
    /// What people call it.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// How many times in a row, an hour apart.
    #[serde(default = "once")]
    pub times: u32,
    /// The moment to wait for from that day on; none is the very day.
    pub during: Option<Moment>,
    /// For a site that is down; for storage, how long saves go on failing.
    #[serde(default)]
    pub hours: f64,
    /// For a GPU: the XID that the kernel log shows.
    #[serde(default = "off_the_bus")]
    pub xid: u32,
    /// For a slow node: how much longer a step takes, as a share.
    #[serde(default)]
    pub slowdown: f64,
    /// Hours that it cost the operators of then, all times together; drawn where it is not known.
    pub then_lost_hours: Option<f64>,
    /// For a slow node: hours until the operators of then had found it.
    #[serde(default)]
    pub then_hours: f64,
}

const fn once() -> u32 {
    1
}

const fn off_the_bus() -> u32 {
    OFF_THE_BUS
}

/// The XID of a GPU that has fallen off the bus.
pub(super) const OFF_THE_BUS: u32 = 79;

/// The histories that come with the simulator, by name.
pub const BUILT_IN: [(&str, &str); 3] = [
    ("bloom", include_str!("../../histories/bloom.toml")),
    ("llama3", include_str!("../../histories/llama3.toml")),
    ("fleet", include_str!("../../histories/fleet.toml")),
];

impl Scenario {
    /// Reads a scenario and checks it; the message names every field that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            format!(
                "{}\ndocs/replay.md has a whole scenario",
                error.to_string().trim_end()
            )
        })?;
        told(scenario.flaws())?;
        Ok(scenario)
    }

    /// GPUs of the gang.
    pub const fn gpus(&self) -> u32 {
        self.gang_nodes() * self.cluster.gpus_per_node
    }

    /// What the devices of the gang drew in so much time of all its ranks together, by the engine's own account;
    /// none where their power is not known.
    pub fn energy(&self, device_time: Duration) -> Option<Footprint> {
        let cluster = &self.cluster;
        let tariff = Tariff {
            watts: footprint::watts(cluster.gpu.as_deref()?),
            effectiveness: 1.0,
            grams_per_kwh: footprint::intensity(&cluster.region)?,
        };
        // A rank may stand for several devices.
        let devices = f64::from(cluster.gpus_per_node) / f64::from(cluster.ranks_per_node);
        tariff.of(device_time.mul_f64(devices))
    }

    /// Nodes of the gang.
    pub const fn gang_nodes(&self) -> u32 {
        self.layout.world().div_ceil(self.cluster.ranks_per_node)
    }
}

/// Nothing where nothing is wrong; else what is, a line each.
pub(super) fn told(flaws: Vec<Flaw>) -> Result<(), String> {
    match flaws.as_slice() {
        [] => Ok(()),
        [flaw] => Err(flaw.to_string()),
        flaws => {
            let lines: Vec<_> = flaws.iter().map(|flaw| format!("\n  {flaw}")).collect();
            Err(format!(
                "{} things are wrong{}",
                flaws.len(),
                lines.concat()
            ))
        }
    }
}
