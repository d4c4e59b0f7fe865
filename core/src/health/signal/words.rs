//! The words that signals are made of: what drivers ask for, why clocks are held down, what runs out,
//! and which probe saw it.

use serde::{Deserialize, Serialize};

/// What the driver asks for, by NVML's field `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION` (nvml.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// 1: reset the GPU.
    Reset,
    /// 2: reboot the node.
    Reboot,
    /// 3: let peer-to-peer work drain.
    DrainPeers,
    /// 4: let everything drain, then reset the GPU.
    DrainAndReset,
    /// 5: recover the IMEX domain.
    RecoverDomain,
    /// 6: reset the bus.
    ResetBus,
    /// 7: reboot the whole system.
    RebootSystem,
}

impl Recovery {
    /// From NVML's number; none for 0, which asks for nothing, and for numbers nobody knows yet.
    pub const fn from_nvml(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Reset,
            2 => Self::Reboot,
            3 => Self::DrainPeers,
            4 => Self::DrainAndReset,
            5 => Self::RecoverDomain,
            6 => Self::ResetBus,
            7 => Self::RebootSystem,
            _ => return None,
        })
    }

    /// What it asks for, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset the GPU",
            Self::Reboot => "reboot the node",
            Self::DrainPeers => "drain its peers",
            Self::DrainAndReset => "drain and reset the GPU",
            Self::RecoverDomain => "recover the IMEX domain",
            Self::ResetBus => "reset the bus",
            Self::RebootSystem => "reboot the system",
        }
    }
}

/// Why a GPU holds its clocks down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// It is too hot, and its hardware slows it down.
    Thermal,
    /// It is too hot, and its driver slows it down.
    SoftThermal,
    /// Its power supply asks it to slow down.
    PowerBrake,
}

impl Throttle {
    /// What it is, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Thermal => "thermal slowdown",
            Self::SoftThermal => "software thermal slowdown",
            Self::PowerBrake => "power brake",
        }
    }
}

/// Of what the storage of checkpoints runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Headroom {
    /// Bytes of the file system.
    Space,
    /// Inodes of the file system.
    Inodes,
    /// Bytes of the quota of the user or the group.
    Quota,
}

impl Headroom {
    /// What it is, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Space => "space",
            Self::Inodes => "inodes",
            Self::Quota => "quota",
        }
    }
}

/// A probe of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Asks NVML.
    Gpu,
    /// Reads the kernel log.
    Kernel,
    /// Looks at memory and clock.
    Host,
    /// Looks at the storage of checkpoints.
    Storage,
}

impl Probe {
    /// What it is, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "GPU",
            Self::Kernel => "kernel log",
            Self::Host => "host",
            Self::Storage => "storage",
        }
    }
}
