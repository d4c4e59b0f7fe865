//! The brain of Rebloom: it decides and never acts.
//!
//! Three machines share one contract. Time comes in as an argument, facts come in as events,
//! actions go out as commands, and nothing in here reads a clock, a file, a socket or a variable
//! of the environment:
//!
//! ```text
//! fn handle(&mut self, now: Instant, event: Event);
//! fn handle_timeout(&mut self, now: Instant);
//! fn poll_command(&mut self) -> Option<Command>;   // drain until None after every handle*
//! fn poll_timeout(&self) -> Option<Instant>;       // when to call handle_timeout next
//! ```
//!
//! - [`engine`]: the controller's machine, which places runs and recovers them
//! - [`supervisor`]: the agent's machine, which keeps one node's ranks
//! - [`member`]: the worker's machine, which lives through generations
//!
//! [`ladder`], [`hang`], [`interval`] and [`snapshot`] hold decisions that need no fleet to be judged.
//!
//! The words that cross their borders are [`order`] (controller to agent), [`report`] (agent to
//! controller), [`word`] (agent and worker) and [`flight`] (the page a worker writes while it
//! trains). `ARCHITECTURE.md` numbers the invariants S1-S11, L1-L4 and T1 that the code cites.

pub mod blame;
mod by_name;
pub mod by_rank;
pub mod cause;
pub mod checkpoint;
pub mod chronicle;
pub mod engine;
pub mod eval;
pub mod flight;
pub mod flops;
pub mod footprint;
pub mod guard;
pub mod hang;
pub mod health;
pub mod id;
pub mod interval;
pub mod labels;
pub mod ladder;
pub mod layout;
pub mod member;
pub mod node_set;
pub mod order;
pub mod placement;
pub mod replicas;
pub mod report;
pub mod skips;
pub mod snapshot;
pub mod spec;
pub mod supervisor;
pub mod time;
pub mod word;
