//! What a cluster is made of.

use rebloom_core::time::Duration;

/// Nodes, and how their processes are started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many, named `node-1` and so on.
    pub nodes: usize,
    /// Ranks that each holds.
    pub slots: u32,
    /// The program of a rank.
    pub worker: &'static str,
    /// Variables of agents, which pass those that begin with `REBLOOM_` on to their ranks.
    pub variables: Vec<(&'static str, String)>,
    /// How often agents beat.
    pub beat: Duration,
    /// When an agent is lost that says nothing.
    pub silent_after: Duration,
    /// When an agent is lost whose link broke.
    pub rejoin_within: Duration,
    /// Whether agents reach the controller through wires that can be cut.
    pub wires: bool,
}

impl Plan {
    /// Nodes of two slots with the real worker, and limits short enough to wait for in a test.
    pub const fn of(nodes: usize) -> Self {
        Self {
            nodes,
            slots: 2,
            worker: "rebloom-worker",
            variables: Vec::new(),
            beat: Duration::from_millis(250),
            silent_after: Duration::from_secs(3),
            rejoin_within: Duration::from_secs(2),
            wires: true,
        }
    }

    /// Nodes with light ranks, each step of which takes `step`.
    pub fn light(nodes: usize, slots: u32, step: Duration) -> Self {
        Self {
            slots,
            worker: "rebloom-light-worker",
            variables: vec![(crate::light::STEP_MS, step.as_millis().to_string())],
            wires: false,
            ..Self::of(nodes)
        }
    }

    /// The limits that a controller has unless it is told others.
    #[must_use]
    pub fn with_default_limits(self) -> Self {
        let limits = rebloom_core::engine::Limits::default();
        Self {
            beat: limits.beat_every,
            silent_after: limits.silent_after,
            rejoin_within: limits.rejoin_within,
            ..self
        }
    }
}
