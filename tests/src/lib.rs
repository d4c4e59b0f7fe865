//! Tests on real processes: a whole cluster on this machine, broken on purpose.
//!
//! The harness starts the binaries as a user's init system would, talks to the controller through the
//! admin API, breaks things through the kernel (signals, files, sockets), and compares final weights.
//! Everything it starts carries the path of its own temporary directory in its command line, and is
//! ended by process id when the [`Cluster`](cluster::Cluster) is dropped.

pub mod bench;
pub mod cluster;
pub mod light;
pub mod night;
pub mod process;
pub mod proxy;
pub mod training;
pub mod wait;
pub mod weights;
