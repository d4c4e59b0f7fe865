//! Signals: what the probes of a node saw, in one shape for all of them.
//!
//! A signal says what is, never what it means: that is for the rules. Most tell of a level that is
//! raised and later cleared; an XID is an event and is never cleared. What cannot be is refused
//! here once, for the wire and for the engine alike.

mod words;

pub use words::{Headroom, Probe, Recovery, Throttle};

use crate::id::Slot;
use crate::time::Duration;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most bytes of text that a signal carries.
pub const MOST_TEXT: usize = 240;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// The NVIDIA driver wrote an XID into the kernel log.
    Xid {
        /// Its number.
        code: u32,
        /// The rest of the line.
        detail: String,
    },
    /// The driver asks for a recovery.
    RecoveryAction {
        /// Which.
        action: Recovery,
    },
    /// NVML says that the GPU is lost, or it is not there any more.
    GpuLost,
    /// Uncorrected ECC errors.
    EccUncorrected {
        /// Since the driver was loaded.
        volatile: u64,
        /// In SRAM over the life of the GPU.
        sram: u64,
    },
    /// Rows of the GPU's memory are remapped.
    RowRemap {
        /// How many were, for errors that could not be corrected.
        rows: u32,
        /// One waits for a reset to take effect.
        pending: bool,
        /// One could not be remapped.
        failed: bool,
    },
    /// The GPU holds its clocks down.
    Throttled {
        /// Why.
        reason: Throttle,
        /// For how long by now, in nanoseconds.
        nanos: u64,
    },
    /// The PCIe link repeats packets.
    PcieReplays {
        /// How many within the last minute.
        per_minute: u64,
    },
    /// An NVLink has errors.
    NvLinkErrors {
        /// Which link.
        link: u32,
        /// How many within the last minute.
        per_minute: u64,
    },
    /// An NVLink that was up is down.
    NvLinkDown {
        /// Which link.
        link: u32,
    },
    /// The host's memory runs out.
    HostMemory {
        /// Bytes left.
        available: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The storage of checkpoints runs out.
    Storage {
        /// Of what.
        of: Headroom,
        /// Left, in bytes or inodes.
        left: u64,
        /// In all.
        total: u64,
    },
    /// The storage of checkpoints cannot be used from this node.
    StorageFailing {
        /// What went wrong.
        error: String,
    },
    /// The node's clock is off from the controller's.
    ClockSkew {
        /// By how many nanoseconds; positive where the node is ahead.
        nanos: i64,
    },
    /// A probe does not answer: it does not return, or sees nothing when it does.
    ProbeHung {
        /// Which.
        probe: Probe,
        /// For how long, in nanoseconds.
        nanos: u64,
    },
    /// The probes begin anew. In another boot nothing is raised any more that was before; in the same
    /// one it has to be confirmed.
    ProbesStarted {
        /// Names this boot of the node; another boot has another one.
        boot: u64,
    },
}

/// What kind of sign it is, without its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the sign of the same name")]
pub enum Kind {
    Xid,
    RecoveryAction,
    GpuLost,
    EccUncorrected,
    RowRemap,
    Throttled,
    PcieReplays,
    NvLinkErrors,
    NvLinkDown,
    HostMemory,
    Storage,
    StorageFailing,
    ClockSkew,
    ProbeHung,
    ProbesStarted,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::Xid,
        Self::RecoveryAction,
        Self::GpuLost,
        Self::EccUncorrected,
        Self::RowRemap,
        Self::Throttled,
        Self::PcieReplays,
        Self::NvLinkErrors,
        Self::NvLinkDown,
        Self::HostMemory,
        Self::Storage,
        Self::StorageFailing,
        Self::ClockSkew,
        Self::ProbeHung,
        Self::ProbesStarted,
    ];

    /// The name that rules of admins use: `signal.kind == "xid"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xid => "xid",
            Self::RecoveryAction => "recovery_action",
            Self::GpuLost => "gpu_lost",
            Self::EccUncorrected => "ecc_uncorrected",
            Self::RowRemap => "row_remap",
            Self::Throttled => "throttled",
            Self::PcieReplays => "pcie_replays",
            Self::NvLinkErrors => "nvlink_errors",
            Self::NvLinkDown => "nvlink_down",
            Self::HostMemory => "host_memory",
            Self::Storage => "storage",
            Self::StorageFailing => "storage_failing",
            Self::ClockSkew => "clock_skew",
            Self::ProbeHung => "probe_hung",
            Self::ProbesStarted => "probes_started",
        }
    }

    /// Whether it tells of one device.
    pub const fn is_of_device(self) -> bool {
        matches!(
            self,
            Self::Xid
                | Self::RecoveryAction
                | Self::GpuLost
                | Self::EccUncorrected
                | Self::RowRemap
                | Self::Throttled
                | Self::PcieReplays
                | Self::NvLinkErrors
                | Self::NvLinkDown
        )
    }

    /// The kinds that are shared.
    pub const SHARED: [Self; 2] = [Self::HostMemory, Self::ClockSkew];

    /// Whether what all nodes have in common, the controller's clock or the saves of a gang, can do it to
    /// many at once.
    pub fn is_shared(self) -> bool {
        Self::SHARED.contains(&self)
    }

    /// Whether probes that begin anew say at their first look that it is not so, where it is not.
    /// What lasts until a repair would otherwise outlast it, or end with the agent that saw it.
    pub const fn is_denied_at_once(self) -> bool {
        matches!(
            self,
            Self::RecoveryAction
                | Self::GpuLost
                | Self::EccUncorrected
                | Self::RowRemap
                | Self::NvLinkDown
        )
    }
}

/// What was seen, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// On which device; none for the node, or where the log names none that is known.
    pub device: Option<Slot>,
    /// What.
    pub sign: Sign,
    /// Whether it is over. Never for an event.
    pub cleared: bool,
}

/// What two signals have in common that tell of the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// On which device.
    pub device: Option<Slot>,
    /// What kind of sign.
    pub kind: Kind,
    /// Which XID, link, reason, resource or probe.
    pub index: u32,
}

impl Sign {
    /// What kind of sign it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Xid { .. } => Kind::Xid,
            Self::RecoveryAction { .. } => Kind::RecoveryAction,
            Self::GpuLost => Kind::GpuLost,
            Self::EccUncorrected { .. } => Kind::EccUncorrected,
            Self::RowRemap { .. } => Kind::RowRemap,
            Self::Throttled { .. } => Kind::Throttled,
            Self::PcieReplays { .. } => Kind::PcieReplays,
            Self::NvLinkErrors { .. } => Kind::NvLinkErrors,
            Self::NvLinkDown { .. } => Kind::NvLinkDown,
            Self::HostMemory { .. } => Kind::HostMemory,
            Self::Storage { .. } => Kind::Storage,
            Self::StorageFailing { .. } => Kind::StorageFailing,
            Self::ClockSkew { .. } => Kind::ClockSkew,
            Self::ProbeHung { .. } => Kind::ProbeHung,
            Self::ProbesStarted { .. } => Kind::ProbesStarted,
        }
    }

    const fn index(&self) -> u32 {
        match self {
            Self::Xid { code, .. } => *code,
            Self::NvLinkErrors { link, .. } | Self::NvLinkDown { link } => *link,
            Self::Throttled { reason, .. } => *reason as u32,
            Self::Storage { of, .. } => *of as u32,
            Self::ProbeHung { probe, .. } => *probe as u32,
            Self::RecoveryAction { .. }
            | Self::GpuLost
            | Self::EccUncorrected { .. }
            | Self::RowRemap { .. }
            | Self::PcieReplays { .. }
            | Self::HostMemory { .. }
            | Self::StorageFailing { .. }
            | Self::ClockSkew { .. }
            | Self::ProbesStarted { .. } => 0,
        }
    }
}

/// A signal that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("signal {kind}: {problem}")]
pub struct BadSignal {
    /// Of what kind.
    pub kind: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Signal {
    /// A signal that something is so.
    pub const fn raised(device: Option<Slot>, sign: Sign) -> Self {
        Self {
            device,
            sign,
            cleared: false,
        }
    }

    /// What it has in common with signals that tell of the same thing.
    pub const fn key(&self) -> Key {
        Key {
            device: self.device,
            kind: self.sign.kind(),
            index: self.sign.index(),
        }
    }

    /// Whether it is an event rather than a level.
    pub const fn is_event(&self) -> bool {
        matches!(self.sign, Sign::Xid { .. } | Sign::ProbesStarted { .. })
    }

    /// Refuses what cannot be.
    pub fn check(&self) -> Result<(), BadSignal> {
        let kind = self.sign.kind();
        let bad = |problem| {
            let kind = kind.name();
            Err(BadSignal { kind, problem })
        };
        if self.cleared && self.is_event() {
            return bad("an event is never over");
        }
        if self.device.is_some() && !kind.is_of_device() {
            return bad("is not of one device");
        }
        if self.device.is_none() && kind.is_of_device() && kind != Kind::Xid {
            return bad("names no device");
        }
        match &self.sign {
            Sign::Xid { code, .. } if *code == 0 || *code > 9999 => bad("no such XID"),
            Sign::Xid { detail: text, .. } | Sign::StorageFailing { error: text }
                if text.len() > MOST_TEXT =>
            {
                bad("its text is too long")
            }
            Sign::HostMemory { available, total } if available > total => {
                bad("more is left than there is")
            }
            Sign::Storage { left, total, .. } if left > total => bad("more is left than there is"),
            Sign::NvLinkErrors { link, .. } | Sign::NvLinkDown { link } if *link >= 64 => {
                bad("no such link")
            }
            Sign::Xid { .. }
            | Sign::RecoveryAction { .. }
            | Sign::GpuLost
            | Sign::EccUncorrected { .. }
            | Sign::RowRemap { .. }
            | Sign::Throttled { .. }
            | Sign::PcieReplays { .. }
            | Sign::NvLinkErrors { .. }
            | Sign::NvLinkDown { .. }
            | Sign::HostMemory { .. }
            | Sign::Storage { .. }
            | Sign::StorageFailing { .. }
            | Sign::ClockSkew { .. }
            | Sign::ProbeHung { .. }
            | Sign::ProbesStarted { .. } => Ok(()),
        }
    }
}

/// Shortens text to what a signal may carry, at a character's edge.
pub fn shortened(text: &str) -> String {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// Without a full stop: `GPU 3: XID 79`.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = self.device {
            write!(f, "GPU {device}: ")?;
        }
        match &self.sign {
            Sign::Xid { code, detail } => write!(f, "XID {code}, {detail}"),
            Sign::RecoveryAction { action } => write!(f, "the driver asks to {}", action.name()),
            Sign::GpuLost => f.write_str("lost"),
            Sign::EccUncorrected { volatile, sram } => {
                write!(f, "{volatile} uncorrected ECC errors, {sram} ever in SRAM")
            }
            Sign::RowRemap {
                rows,
                pending,
                failed,
            } => {
                write!(f, "{rows} rows remapped")?;
                f.write_str(if *pending {
                    ", one waits for a reset"
                } else {
                    ""
                })?;
                f.write_str(if *failed { ", one failed" } else { "" })
            }
            Sign::Throttled { reason, nanos } => write!(
                f,
                "{} for {:.0} s",
                reason.name(),
                Duration::from_nanos(*nanos).as_secs_f64()
            ),
            Sign::PcieReplays { per_minute } => write!(f, "{per_minute} PCIe replays a minute"),
            Sign::NvLinkErrors { link, per_minute } => {
                write!(f, "{per_minute} errors a minute on NVLink {link}")
            }
            Sign::NvLinkDown { link } => write!(f, "NVLink {link} is down"),
            Sign::HostMemory { available, total } => {
                write!(f, "{available} of {total} bytes of host memory left")
            }
            Sign::Storage { of, left, total } => {
                write!(
                    f,
                    "{left} of {total} left of the checkpoints' {}",
                    of.name()
                )
            }
            Sign::StorageFailing { error } => write!(f, "checkpoint storage: {error}"),
            Sign::ClockSkew { nanos } => write!(
                f,
                "the clock is off by {:.1} s",
                Duration::from_nanos(nanos.unsigned_abs()).as_secs_f64()
            ),
            Sign::ProbeHung { probe, nanos } => write!(
                f,
                "the {} probe has not answered for {:.0} s",
                probe.name(),
                Duration::from_nanos(*nanos).as_secs_f64()
            ),
            Sign::ProbesStarted { boot } => write!(f, "the probes began anew in boot {boot:016x}"),
        }?;
        f.write_str(if self.cleared { ", over now" } else { "" })
    }
}
