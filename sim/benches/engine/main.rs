//! The bench of the engine: what a decision costs, in fleets of up to 100,000 nodes.
//!
//! Every figure is of the real engine, told events by `handle` and drained by `poll_command`, the
//! commands dropped. Nodes hold BLOOM-shaped gangs of 384 ranks on 48 nodes, all of whose ranks have
//! stepped and beat with their pages. What is not timed is bringing the fleet back to where it was.

mod figures;
mod fleet;
mod growth;
mod memory;

use std::process::ExitCode;
use std::time::Duration;

/// One line of the table.
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) goal: &'static str,
    pub(crate) found: String,
    /// Whether the goal is met; none where there is none.
    pub(crate) met: Option<bool>,
}

impl Figure {
    pub(crate) fn show(&self) {
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        let Self {
            what, goal, found, ..
        } = self;
        println!("| {what} | {goal} | {found} | {met} |");
    }
}

/// Spans of time, to ask for their percentiles.
#[derive(Default)]
pub(crate) struct Spans(Vec<Duration>);

impl Spans {
    pub(crate) fn push(&mut self, span: Duration) {
        self.0.push(span);
    }

    /// The span that this share of all spans does not exceed.
    pub(crate) fn quantile(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index into a short list"
        )]
        let at = (last as f64 * share).round() as usize;
        self.0.get(at).copied().unwrap_or_default()
    }
}

fn main() -> ExitCode {
    let small = std::env::args().any(|argument| argument == "--small");
    let scale = if small { 10 } else { 1 };
    println!("| figure | goal | measured | met |\n|---|---|---|---|");
    let mut met = true;
    let figures = figures::all(scale, |figure| {
        met &= figure.met != Some(false);
        figure.show();
    });
    println!("\n{figures}");
    println!("{}", machine());
    if met || small {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What it ran on.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("an unknown processor", |name| {
        name.trim_matches([':', '\t', ' '])
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    format!("one thread of {cores} on {model}; load of the machine at the end: {load}")
}
