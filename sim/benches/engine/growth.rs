//! What single decisions cost in fleets of three sizes, in rounds that take turns.
//!
//! The machine gives this process more or less of its time from one minute to the next, so each figure is taken once in
//! each round, beside all others, and the median of the rounds is shown with their range. Each is taken twice: in
//! gangs anywhere in the fleet, whose state is in no cache, and in one gang again and again, whose
//! state is in one. The second shows what the algorithm itself costs in a larger fleet.

use crate::figures::{lose, micros, small, timed};
use crate::fleet::{Fleet, Out, SMALL};
use crate::{Figure, Spans};
use rebloom_core::engine::Event;
use rebloom_core::id::{NodeId, RunId};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// A decision that is timed.
#[derive(Clone, Copy)]
enum Kind {
    Dies,
    Lost,
    Faulty,
    FaultyByRules,
    DiesOfFew,
    FaultyOfFew,
    Placed,
}

const KINDS: [Kind; 7] = [
    Kind::Dies,
    Kind::Lost,
    Kind::Faulty,
    Kind::FaultyByRules,
    Kind::DiesOfFew,
    Kind::FaultyOfFew,
    Kind::Placed,
];

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Dies => "a rank dies",
            Self::Lost => "a node is lost",
            Self::Faulty => "XID 79 of a node",
            Self::FaultyByRules => "the same with 8 CEL rules",
            Self::DiesOfFew => "a rank of a gang of 16 dies",
            Self::FaultyOfFew => "XID 79 of a node of such a gang",
            Self::Placed => "a gang of 16 ranks is placed",
        }
    }

    /// The same in full, where it has a goal.
    const fn figure(self) -> Option<&'static str> {
        match self {
            Self::Dies => Some("a rank dies -> fence and next generation out to 48 nodes"),
            Self::Lost => Some("a node is lost -> given up, replaced, orders out"),
            Self::Faulty => Some(
                "XID 79 of a node in the kernel log -> withdrawn, gang fenced, a spare in its place, orders out",
            ),
            Self::FaultyByRules => Some("the same with 8 rules of an admin in CEL"),
            Self::DiesOfFew => {
                Some("a rank of a gang of 16 on 2 nodes dies -> fence and next generation out")
            }
            Self::FaultyOfFew => Some(
                "XID 79 of a node of such a gang -> withdrawn, gang fenced, a spare in its place, orders out",
            ),
            Self::Placed => None,
        }
    }

    /// How often in a round.
    const fn times(self) -> usize {
        match self {
            Self::Dies => 200,
            Self::Lost
            | Self::Faulty
            | Self::FaultyByRules
            | Self::DiesOfFew
            | Self::FaultyOfFew
            | Self::Placed => 100,
        }
    }

    /// The gangs that it happens to.
    fn gangs(self, fleet: &Fleet) -> Vec<RunId> {
        let is_small = matches!(self, Self::DiesOfFew | Self::FaultyOfFew);
        let runs = fleet.runs.keys();
        let runs = runs.filter(|run| run.as_str().starts_with(SMALL) == is_small);
        runs.cloned().collect()
    }

    /// Does it once, and brings the fleet back to where it was.
    fn once(self, fleet: &mut Fleet, run: &RunId) -> Duration {
        match self {
            Self::Dies | Self::DiesOfFew => dies(fleet, run),
            Self::Lost => lost(fleet, run),
            Self::Faulty | Self::FaultyByRules | Self::FaultyOfFew => faulty(fleet, run),
            Self::Placed => placed(fleet),
        }
    }
}

/// The medians of each round, in microseconds.
#[derive(Default, Clone)]
struct Rounds {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Rounds {
    fn push(&mut self, mut spans: Spans) {
        self.p50.push(micros(spans.quantile(0.5)));
        self.p99.push(micros(spans.quantile(0.99)));
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What was found for each kind in each fleet: anywhere, and in one gang.
pub(crate) struct Growth {
    nodes: Vec<usize>,
    found: Vec<Vec<[Rounds; 2]>>,
}

/// Measures every kind in every fleet, so many rounds.
pub(crate) fn measure(fleets: &mut [Fleet], rounds: usize) -> Growth {
    let nodes: Vec<_> = fleets.iter().map(|fleet| fleet.nodes.len()).collect();
    let mut found = vec![vec![<[Rounds; 2]>::default(); nodes.len()]; KINDS.len()];
    for _ in 0..rounds {
        for (kind, of_kind) in KINDS.into_iter().zip(&mut found) {
            for (fleet, of_fleet) in fleets.iter_mut().zip(of_kind) {
                let has_rules = matches!(kind, Kind::FaultyByRules);
                if has_rules {
                    fleet.set_rules(true);
                }
                let gangs = kind.gangs(fleet);
                let [anywhere, one] = of_fleet;
                anywhere.push(several(kind, fleet, &gangs));
                one.push(several(kind, fleet, &gangs[..1]));
                if has_rules {
                    fleet.set_rules(false);
                }
            }
        }
    }
    Growth { nodes, found }
}

fn several(kind: Kind, fleet: &mut Fleet, gangs: &[RunId]) -> Spans {
    let mut spans = Spans::default();
    for _ in 0..kind.times() {
        let run = &gangs[fleet.draw(gangs.len())];
        spans.push(kind.once(fleet, run));
    }
    spans
}

fn any_node(fleet: &mut Fleet, run: &RunId) -> NodeId {
    let rank = fleet.draw(fleet.ranks(run));
    fleet.node_of(run, rank)
}

fn dies(fleet: &mut Fleet, run: &RunId) -> Duration {
    let rank = fleet.draw(fleet.ranks(run));
    let event = fleet.exit(run, rank);
    let (span, out) = timed(fleet, event);
    assert_eq!(out.starts, fleet.size(run), "the gang re-forms at once");
    fleet.swing(run);
    span
}

fn lost(fleet: &mut Fleet, run: &RunId) -> Duration {
    let node = any_node(fleet, run);
    fleet.beat_of(run);
    let (span, out) = lose(fleet, std::slice::from_ref(&node));
    assert_eq!(out.starts, 48, "a spare takes its place at once");
    fleet.swing(run);
    fleet.return_of(&node);
    fleet.pass_day();
    span
}

fn faulty(fleet: &mut Fleet, run: &RunId) -> Duration {
    let node = any_node(fleet, run);
    let before = fleet.runs[run];
    let event: Event = fleet.falls_off(&node);
    let (span, out) = timed(fleet, event);
    let Out {
        withdrawn,
        generation,
        starts,
        stopped,
        ..
    } = out;
    let the_node = std::slice::from_ref(&node);
    assert_eq!(withdrawn, the_node, "its verdict is in the journal");
    assert_eq!(generation, Some(before.next()), "the next generation is");
    assert_eq!(fleet.runs[run], before.next(), "and it is the one ordered");
    assert_eq!(starts, fleet.size(run), "a spare takes its place at once");
    assert_eq!(stopped, the_node, "and it has to stop");
    fleet.swing(run);
    fleet.repair(&node);
    fleet.pass_day();
    span
}

fn placed(fleet: &mut Fleet) -> Duration {
    fleet.small += 1;
    let spec = small(fleet.small);
    let run = spec.name.clone();
    let began = Instant::now();
    let out = fleet.submit(spec);
    let span = began.elapsed();
    assert_eq!(out.starts, 2, "there is room for it: {:?}", out.answer);
    fleet.stop(&run);
    span
}

impl Growth {
    /// The figures of the largest fleet.
    pub(crate) fn show(&self, show: &mut impl FnMut(&Figure)) {
        for (kind, of_kind) in KINDS.into_iter().zip(&self.found) {
            let fleets = self.nodes.last().zip(of_kind.last());
            let (Some(what), Some((nodes, [anywhere, _]))) = (kind.figure(), fleets) else {
                continue;
            };
            let (p50, p99) = (median(&anywhere.p50), median(&anywhere.p99));
            let least = anywhere.p50.iter().copied().fold(f64::MAX, f64::min);
            let most = anywhere.p50.iter().copied().fold(0.0, f64::max);
            let rounds = anywhere.p50.len();
            show(&Figure {
                what: format!("{what}, {nodes} nodes, p50 (of {rounds} rounds) / p99"),
                goal: "100 us / 1 ms",
                found: format!("{p50:.0} us ({least:.0} to {most:.0}) / {p99:.0} us"),
                met: Some(p50 <= 100.0 && p99 <= 1000.0),
            });
        }
    }

    /// How the cost grows with the fleet.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from("| p50, us |");
        for nodes in &self.nodes {
            write!(table, " {nodes} nodes |").expect("a string takes it");
        }
        table.push_str(" largest / smallest |");
        for nodes in &self.nodes {
            write!(table, " one gang, {nodes} |").expect("a string takes it");
        }
        table.push_str(" largest / smallest |\n|---|");
        table.push_str(&"---|".repeat(2 * self.nodes.len() + 2));
        for (kind, of_kind) in KINDS.into_iter().zip(&self.found) {
            write!(table, "\n| {} |", kind.name()).expect("a string takes it");
            for which in 0..2 {
                let medians = of_kind.iter().map(|of_fleet| median(&of_fleet[which].p50));
                let medians: Vec<f64> = medians.collect();
                for median in &medians {
                    write!(table, " {median:.0} |").expect("a string takes it");
                }
                let ratio = medians.last().zip(medians.first());
                let ratio = ratio.map_or(0.0, |(last, first)| last / first);
                write!(table, " **{ratio:.2}** |").expect("a string takes it");
            }
        }
        table
    }
}
