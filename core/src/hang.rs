//! Hangs and slowness: what is too long, who stands out, and who is slow. Pure, and without a fleet.
//!
//! Two clocks tell a hang: a phase that takes longer than it may ([`deadline`]), and a log that says what
//! it should not, or no longer what it should ([`rules`]). [`crate::blame`] and [`stacks`] then say who it
//! is. Slowness has no moment: [`pace`] notices that a gang as a whole became slower, [`straggler`] which
//! rank is, and where no rank shows it, [`bisect`] finds the node over the next restarts.

pub mod bisect;
pub mod deadline;
pub mod pace;
pub mod rules;
pub mod stacks;
pub mod straggler;
