//! What the binaries share: clock, files, keys and certificates, log lines, the wish to end, the
//! flight page and the journal. It decides nothing about runs or nodes.

pub mod clock;
pub mod files;
pub mod flight;
pub mod journal;
pub mod priority;
pub mod shard_hash;
pub mod shutdown;
pub mod snapshots;
pub mod standby;
pub mod telemetry;
pub mod tls;
