//! The agent's machine, table by table: what it is told, and exactly what it then wants.

#[path = "../common/spec.rs"]
mod common;

mod agent;

mod ending;
mod snapshots;
mod starting;
mod watching;
