//! Health: from what probes saw to what is made of a node. Pure, and the same for the same input.
//!
//! A [`Signal`](signal::Signal) is what was seen. Rules, built in ([`rule`]) and edited by admins
//! ([`edited`]), infer a [`Finding`] from it and from what came before ([`fleet`], [`chart`]). A
//! [`Verdict`] is decided from the findings that are still in force, and leaves again after a clean
//! spell, so that a node which flickers does not come and go. [`gauge`] and [`kernel_log`] are the
//! half that agents run: raw readings in, signals out, edge by edge.
//!
//! Nothing in here acts: what a verdict means for runs is the engine's business.

pub mod chart;
pub mod edited;
mod examine;
pub mod expression;
pub mod fleet;
pub mod gauge;
pub mod kernel_log;
pub mod rule;
pub mod signal;
pub mod xid;

pub use examine::Examined;

use crate::id::Slot;
use crate::time::Duration;
use rule::Builtin;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is decided about a node, from better to worse.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is held against it.
    #[default]
    Healthy,
    /// Used, but last.
    Suspect,
    /// Withdrawn until it was clean for a while. Runs leave it at a step boundary.
    Quarantined,
    /// Withdrawn until it was repaired, and clean for a while after. Runs leave it at once.
    Faulty,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 4] = [
        Self::Healthy,
        Self::Suspect,
        Self::Quarantined,
        Self::Faulty,
    ];

    /// Whether nothing is placed on such a node (S3), and it counts for the breaker (S8).
    pub const fn withdraws(self) -> bool {
        matches!(self, Self::Quarantined | Self::Faulty)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Quarantined => "quarantined",
            Self::Faulty => "faulty",
        }
    }

    /// From its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }

    /// What it means, in a sentence without a full stop.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Healthy => "nothing is held against the node",
            Self::Suspect => "the node is used, but only when no better one is free",
            Self::Quarantined => {
                "nothing is placed on the node, and runs move off it at a step boundary where there \
                 is room; it comes back by itself after a clean spell"
            }
            Self::Faulty => {
                "nothing is placed on the node, and runs are moved off it at once; it comes back \
                 after a repair and a clean spell"
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an admin, or their automation, is asked to do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "`meaning` says it once, for code and docs")]
pub enum Action {
    #[default]
    None,
    RestartApp,
    ResetGpu,
    RebootNode,
    ReplaceNode,
    RunDiagnostics,
    CheckLinks,
    CheckHardware,
    CheckCooling,
    UpdateSoftware,
    FreeMemory,
    FreeStorage,
    MendStorage,
    SetClock,
    ContactSupport,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 15] = [
        Self::None,
        Self::RestartApp,
        Self::ResetGpu,
        Self::RebootNode,
        Self::ReplaceNode,
        Self::RunDiagnostics,
        Self::CheckLinks,
        Self::CheckHardware,
        Self::CheckCooling,
        Self::UpdateSoftware,
        Self::FreeMemory,
        Self::FreeStorage,
        Self::MendStorage,
        Self::SetClock,
        Self::ContactSupport,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::RestartApp => "restart_app",
            Self::ResetGpu => "reset_gpu",
            Self::RebootNode => "reboot_node",
            Self::ReplaceNode => "replace_node",
            Self::RunDiagnostics => "run_diagnostics",
            Self::CheckLinks => "check_links",
            Self::CheckHardware => "check_hardware",
            Self::CheckCooling => "check_cooling",
            Self::UpdateSoftware => "update_software",
            Self::FreeMemory => "free_memory",
            Self::FreeStorage => "free_storage",
            Self::MendStorage => "mend_storage",
            Self::SetClock => "set_clock",
            Self::ContactSupport => "contact_support",
        }
    }

    /// From its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// What it asks for, in a sentence without a full stop.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::None => "nothing is to be done",
            Self::RestartApp => "start the ranks anew; the recovery of the run does it",
            Self::ResetGpu => "reset the GPU (`nvidia-smi --gpu-reset`) or reboot the node",
            Self::RebootNode => "reboot the node",
            Self::ReplaceNode => "replace the part; no reboot brings the node back by itself",
            Self::RunDiagnostics => "run DCGM's diagnostics (`dcgmi diag -r 3`) on the node",
            Self::CheckLinks => "check the NVLink bridges, cables and switches of the GPU",
            Self::CheckHardware => "check power connectors and seating",
            Self::CheckCooling => "check fans, air flow, coolant and power supplies",
            Self::UpdateSoftware => "bring driver and firmware up to date",
            Self::FreeMemory => "find what uses the host's memory",
            Self::FreeStorage => "free space or inodes where checkpoints are kept",
            Self::MendStorage => "mount the checkpoints' storage again, or mend it",
            Self::SetClock => "bring the node's clock in step (chrony, NTP)",
            Self::ContactSupport => "send the bug report of the driver to NVIDIA's support",
        }
    }

    /// Whether a reboot of the node does it.
    pub const fn is_done_by_reboot(self) -> bool {
        !matches!(self, Self::ReplaceNode)
    }
}

/// Whether a rule acts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Its findings count.
    Enforce,
    /// Its findings are recorded, to see what it would do, and count for nothing.
    #[default]
    Shadow,
    /// It is not asked.
    Off,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Enforce, Self::Shadow, Self::Off];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::Off => "off",
        }
    }

    /// From its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// What a rule infers from a signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The name of the rule.
    pub rule: String,
    /// Which device it is about; none for the node.
    pub device: Option<Slot>,
    /// What it makes of the node; `Healthy` only tells.
    pub verdict: Verdict,
    /// What is to be done.
    pub action: Action,
    /// Whether it counts; never `Off`.
    pub mode: Mode,
    /// What was seen, in a sentence without a full stop.
    pub what: String,
}

impl Finding {
    /// Whether it counts towards the verdict.
    pub fn counts(&self) -> bool {
        self.mode == Mode::Enforce && self.verdict > Verdict::Healthy
    }

    /// Whether it says that an XID is the software's, since many units have it.
    fn is_of_many_units(&self) -> bool {
        self.mode == Mode::Enforce && self.rule == Builtin::XidManyUnits.name()
    }

    /// Makes of what a process may have caused by itself what many units are: nothing of the unit's.
    /// Whether the node was to be withdrawn for it.
    fn acquit(&mut self) -> bool {
        let of_process = [Builtin::XidOnce, Builtin::XidAgain];
        if !of_process.iter().any(|rule| rule.name() == self.rule) {
            return false;
        }
        let withdrew = self.counts() && self.verdict.withdraws();
        Builtin::XidManyUnits.name().clone_into(&mut self.rule);
        (self.verdict, self.action) = (Verdict::Healthy, Action::RestartApp);
        self.mode = Mode::Enforce;
        withdrew
    }
}

/// `xid_fatal: GPU 3: XID 79, ...`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// The windows and counts that the history rules go by. Sources are in [`rule::RULES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The same XID of the same unit within this time is one event.
    pub burst: Duration,
    /// What a unit says within this time of a fatal XID that was not repaired is its echo.
    pub sticky: Duration,
    /// Events are remembered for this long.
    pub history: Duration,
    /// The same unit this often within `history`: its hardware.
    pub again: u32,
    /// Fatal XIDs of one unit this often within `history`: replace it.
    pub repeated: u32,
    /// This many units with the same XID within `burst`: the software.
    pub many_units: u32,
    /// A level that is raised this often within `flaps_within` counts as a fault of its own.
    pub flaps: u32,
    /// See `flaps`.
    pub flaps_within: Duration,
    /// A throttle that holds for this long is a fault.
    pub throttled_for: Duration,
    /// How long a node stays suspect after the last reason for it.
    pub suspect_for: Duration,
    /// The clean spell after which a withdrawn node comes back.
    pub quarantine_for: Duration,
    /// Withdrawn this often within `lemon_within`: a lemon, which leaves for good.
    pub lemon_after: u32,
    /// See `lemon_after`.
    pub lemon_within: Duration,
    /// No node is withdrawn for a finding that is older than this.
    pub act_within: Duration,
}

impl Windows {
    /// How long what asks for this verdict stays in force once it is over.
    fn clean_spell(&self, verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Healthy => Duration::ZERO,
            Verdict::Suspect => self.suspect_for,
            Verdict::Quarantined | Verdict::Faulty => self.quarantine_for,
        }
    }
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            burst: minutes(3),
            sticky: minutes(3 * 60),
            history: minutes(24 * 60),
            again: 2,
            repeated: 5,
            many_units: 3,
            flaps: 3,
            flaps_within: minutes(60),
            throttled_for: minutes(10),
            suspect_for: minutes(10),
            quarantine_for: minutes(60),
            lemon_after: 5,
            lemon_within: minutes(7 * 24 * 60),
            act_within: minutes(10),
        }
    }
}
