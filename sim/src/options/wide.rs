//! Wide worlds: hard ones with what an admin may configure beside it. Runs of several priorities that take each
//! other's place, devices of two kinds, racks, an interval that the engine chooses, an impatient queue.
//!
//! They come from a stream of chance of their own, so that the other worlds stay what they are.

use super::Options;
use crate::random::{Random, mix};
use rebloom_core::spec::Auto;
use rebloom_core::time::Duration;

/// The devices of most nodes.
pub(crate) const USUAL: &str = "A100";
/// The devices of the others.
const OTHER: &str = "H100";

/// What an admin says of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Site {
    /// The name of its devices.
    pub(crate) device: Option<&'static str>,
    /// Its fabric and rack.
    pub(crate) labels: Vec<(&'static str, String)>,
}

impl Options {
    /// The wide world of this seed.
    pub fn wide(seed: u64) -> Self {
        let mut options = Self::hard(seed);
        let mut random = Random::new(mix(seed) ^ 0x0051_de00);
        let r = &mut random;
        for run in &mut options.runs {
            run.priority = r.pick(&[-1, 0, 0, 0, 1, 5]).unwrap_or(0);
            let min = f64::from(r.small(1, 40)) / 10.0;
            run.checkpoint.auto = r.once_in(2).then(|| Auto {
                min,
                max: min + f64::from(r.small(0, 300)) / 10.0,
            });
        }
        // Runs that take each other's place all the time never get anywhere, so that the least is a while.
        options.limits.starve_after = Duration::from_secs(r.within(20, 200));
        options.limits.hold_for = r.millis(0, 20_000);
        options.limits.keep_spares = r.once_in(2);
        // What is added leaves room on the usual ones.
        let others = if r.once_in(2) { r.within(1, 3) } else { 0 };
        let usual = options.nodes.len();
        for _ in 0..others {
            options.nodes.push(r.pick(&[1, 2, 4]).unwrap_or(2));
        }
        let racks = r.once_in(2);
        options.sites = (0..options.nodes.len())
            .map(|at| Site {
                device: Some(if at < usual { USUAL } else { OTHER }),
                labels: if racks && !r.once_in(8) {
                    vec![
                        ("fabric", format!("fabric-{}", r.within(0, 1))),
                        ("rack", format!("rack-{}", r.within(0, 2))),
                    ]
                } else {
                    Vec::new()
                },
            })
            .collect();
        options
    }
}
