//! Whether asynchronous kernel launches may be turned off (`CUDA_LAUNCH_BLOCKING=1`).
//!
//! With blocking launches some versions of NCCL hang by themselves: it launched the kernel before it
//! gave work to its proxy thread, so the blocked launch waited for a thread that waited for it. That came
//! with 2.13 (NVIDIA/nccl#750) and was mended in 2.17 (NVIDIA/nccl#774, pytorch/pytorch#97843); a
//! process that drives several devices hangs under every version from 2.13 on. Never guesses: what is
//! not known keeps the gate shut.

use crate::id::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The first version that hangs under blocking launches where the network is used.
const BROKEN_FROM: Nccl = Nccl(2, 13, 0);
/// The first version in which that is mended.
const MENDED_FROM: Nccl = Nccl(2, 17, 0);

/// A version of NCCL: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nccl(pub u32, pub u32, pub u32);

impl fmt::Display for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no version of NCCL; one looks like 2.27.5")]
pub struct NotAVersion(String);

impl FromStr for Nccl {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let parts = || {
            let (version, _) = text.split_once(['-', '+']).unwrap_or((text, ""));
            let mut parts = version.split('.').map(|part| part.parse().ok());
            let version = Self(parts.next()??, parts.next()??, parts.next()??);
            parts.next().is_none().then_some(version)
        };
        parts().ok_or_else(|| NotAVersion(text.to_owned()))
    }
}

/// What the gate looks at, of one node of the gang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site<'a> {
    /// Which node.
    pub node: &'a NodeId,
    /// Its GPUs.
    pub devices: usize,
    /// Processes that the gang has on it; each drives as many devices as they share out.
    pub processes: usize,
    /// The version of NCCL that its workers use, where it is known.
    pub nccl: Option<Nccl>,
}

/// Why the gate is shut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shut {
    /// Nothing is launched asynchronously there.
    #[error("{0} has no GPU, so nothing is launched asynchronously")]
    NoDevice(NodeId),
    /// Several processes would share a device.
    #[error("{0} has fewer GPUs than ranks, so a process has no device of its own")]
    SharedDevice(NodeId),
    /// The version is not known.
    #[error("the version of NCCL on {0} is not known")]
    Unknown(NodeId),
    /// The version hangs under blocking launches.
    #[error("NCCL {version} on {node} hangs under blocking launches (2.13 to 2.16 do)")]
    Hangs {
        /// Where.
        node: NodeId,
        /// Which.
        version: Nccl,
    },
}

/// Whether launches may block on these nodes; each rank is one process that drives one device.
pub fn check<'a>(sites: impl IntoIterator<Item = Site<'a>>) -> Result<(), Shut> {
    for site in sites {
        let node = || site.node.clone();
        if site.devices == 0 {
            return Err(Shut::NoDevice(node()));
        }
        if site.devices < site.processes {
            return Err(Shut::SharedDevice(node()));
        }
        let version = site.nccl.ok_or_else(|| Shut::Unknown(node()))?;
        if (BROKEN_FROM..MENDED_FROM).contains(&version) {
            return Err(Shut::Hangs {
                node: node(),
                version,
            });
        }
    }
    Ok(())
}
