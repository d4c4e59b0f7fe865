//! The engine against a small made-up fleet: no clock, no thread, every fault on its own.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test says what is wrong by panicking"
)]

mod world;

mod admin;
mod bloom_hangs;
mod checkpoints;
mod chronicle;
mod crash;
mod crash_points;
mod evaluations;
mod generations;
mod hangs;
mod health;
mod innocents;
mod ladder;
mod layouts;
mod learned;
mod ledger;
mod nodes;
mod output;
mod phases;
mod placement;
mod queue;
mod restores;
mod rungs;
mod scale;
mod slow;
mod snapshots;
mod spikes;
mod stragglers;
mod verdicts;
