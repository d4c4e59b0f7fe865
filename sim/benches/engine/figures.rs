//! The figures, one function each.

use crate::fleet::{BLOOM, Fleet, Out, SMALL, spec};
use crate::{Figure, Spans, growth, memory};
use rebloom_core::engine::Event;
use rebloom_core::id::NodeId;
use rebloom_core::layout::Layout;
use rebloom_core::spec::RunSpec;
use std::time::{Duration, Instant};

/// How often each of the decisions is measured, in turn with the others.
const ROUNDS: usize = 5;
const MICRO: Duration = Duration::from_micros(1);

pub(crate) fn micros(span: Duration) -> f64 {
    span.as_secs_f64() / MICRO.as_secs_f64()
}

/// Times one event until its last command is out. (Not inlined: a profile shows what is under it.)
#[inline(never)]
pub(crate) fn timed(fleet: &mut Fleet, event: Event) -> (Duration, Out) {
    let began = Instant::now();
    let out = fleet.tell(event);
    (began.elapsed(), out)
}

/// Measures everything; fleets are `scale` times smaller. Says how the decision cost grows.
pub(crate) fn all(scale: usize, mut show: impl FnMut(&Figure)) -> String {
    let mut fleets: Vec<_> = [1_000, 10_000].map(|nodes| filled(nodes / scale)).into();
    let before = memory::held();
    let mut fleet = filled(100_000 / scale);
    beat(&mut fleet, true, 1);
    let nodes = fleet.nodes.len();
    let held = memory::held() - fleet.own_memory();
    let each = held.saturating_sub(before) / nodes;
    show(&Figure {
        what: format!("engine memory per node, {nodes} nodes, 8 ranks each with their pages"),
        goal: "4 KB",
        found: format!("{each} B"),
        met: Some(each <= 4096),
    });
    fleets.push(fleet);
    let growth = growth::measure(&mut fleets, ROUNDS);
    growth.show(&mut show);
    let mut fleet = fleets.pop().expect("the largest was put there");
    drop(fleets);
    together(&mut fleet, 1_000 / scale, &mut show);
    beats(&mut fleet, &mut show);
    drop(fleet);
    gangs(&mut show);
    bloom(10_000 / scale, &mut show);
    growth.table()
}

/// Most gangs of two nodes in a fleet.
const FEW: usize = 8;

/// A fleet that is full of large gangs but for four nodes in a hundred, with a few small ones.
fn filled(nodes: usize) -> Fleet {
    let mut fleet = Fleet::large(nodes);
    let gangs = nodes * 96 / 100 / 48;
    fleet.fill(gangs);
    // (The smallest fleet has few nodes left, and half of those stay spares.)
    let few = ((nodes - gangs * 48) / 4).clamp(1, FEW);
    for _ in 0..few {
        fleet.small += 1;
        let spec = small(fleet.small);
        let name = spec.name.clone();
        let out = fleet.submit(spec);
        assert_eq!(out.starts, 2, "a gang has two nodes: {:?}", out.answer);
        fleet.swing(&name);
    }
    fleet
}

/// A gang of two nodes.
pub(crate) fn small(at: usize) -> RunSpec {
    let layout = Layout {
        tensor: 8,
        pipeline: 2,
        data: 1,
    };
    spec(&format!("{SMALL}{at}"), layout)
}

/// Nodes go at once; times the moment at which they are given up.
#[inline(never)]
pub(crate) fn lose(fleet: &mut Fleet, nodes: &[NodeId]) -> (Duration, Out) {
    for node in nodes {
        let session = fleet.nodes[node];
        fleet.tell(Event::Left {
            node: node.clone(),
            session,
        });
    }
    fleet.now = fleet.now + fleet.engine.limits().rejoin_within;
    let began = Instant::now();
    fleet.engine.handle_timeout(fleet.now);
    let out = fleet.drain();
    (began.elapsed(), out)
}

/// Many nodes of many gangs fail in the same moment.
fn together(fleet: &mut Fleet, count: usize, show: &mut impl FnMut(&Figure)) {
    let all: Vec<_> = fleet.nodes.keys().cloned().collect();
    let mut nodes: Vec<NodeId> = Vec::new();
    while nodes.len() < count {
        let node = all[fleet.draw(all.len())].clone();
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    beat(fleet, false, 1);
    let (span, out) = lose(fleet, &nodes);
    show(&Figure {
        what: format!(
            "{count} nodes anywhere fail together: all decided ({} orders to start)",
            out.starts
        ),
        goal: "100 ms",
        found: format!("{:.1} ms", micros(span) / 1000.0),
        met: Some(span <= Duration::from_millis(100)),
    });
}

/// Beats of a whole fleet; says how many a second the engine took.
fn beat(fleet: &mut Fleet, pages: bool, step: u64) -> f64 {
    let events = fleet.beats(pages, step);
    let count = f64::from(u32::try_from(events.len()).unwrap_or(u32::MAX));
    let began = Instant::now();
    for event in events {
        fleet.tell(event);
    }
    count / began.elapsed().as_secs_f64()
}

fn beats(fleet: &mut Fleet, show: &mut impl FnMut(&Figure)) {
    let nodes = fleet.nodes.len();
    let rate = |fleet: &mut Fleet, pages| {
        let rates = (2..7).map(|step| beat(fleet, pages, step));
        rates.fold(0.0, f64::max)
    };
    let alive = rate(fleet, false);
    show(&Figure {
        what: format!("beats through the engine per second, {nodes} nodes in random order"),
        goal: "1,000,000",
        found: format!("{alive:.0}"),
        met: Some(alive >= 1e6),
    });
    let full = rate(fleet, true);
    show(&Figure {
        what: "the same with the pages of 8 ranks in each beat".to_owned(),
        goal: "",
        found: format!("{full:.0}"),
        met: None,
    });
}

/// Gangs of four sizes through 640 nodes in ten racks.
fn gangs(show: &mut impl FnMut(&Figure)) {
    let mut fleet = Fleet::new(640, 64);
    let sizes =
        [(8, 1, 1), (4, 2, 2), (8, 4, 2), (4, 12, 8)].map(|(tensor, pipeline, data)| Layout {
            tensor,
            pipeline,
            data,
        });
    let (mut placed, mut spent, mut whole) = (0_u32, Duration::ZERO, Duration::ZERO);
    let mut running = std::collections::VecDeque::new();
    let all = Instant::now();
    for at in 0..15_000 {
        let spec = spec(&format!("gang-{at:05}"), sizes[at % sizes.len()]);
        running.push_back(spec.name.clone());
        let began = Instant::now();
        let out = fleet.submit(spec);
        spent += began.elapsed();
        placed += u32::from(out.starts > 0);
        // About three in four nodes are taken, so that room has to be looked for.
        if running.len() > 36 {
            let oldest = running.pop_front().expect("there are 37");
            fleet.stop(&oldest);
        }
        whole = all.elapsed();
    }
    let rate = f64::from(placed) / spent.as_secs_f64();
    show(&Figure {
        what: format!(
            "gangs placed per second, 640 nodes in 10 racks ({placed} of 8, 16, 64 and 384 ranks)"
        ),
        goal: "5,000",
        found: format!("{rate:.0}"),
        met: Some(rate >= 5000.0),
    });
    show(&Figure {
        what: "the same with the end of each gang in the time".to_owned(),
        goal: "",
        found: format!("{:.0}", f64::from(placed) / whole.as_secs_f64()),
        met: None,
    });
}

/// One gang of BLOOM's size on an empty fleet.
fn bloom(nodes: usize, show: &mut impl FnMut(&Figure)) {
    let mut fleet = Fleet::large(nodes);
    let mut spans = Spans::default();
    for at in 0..50 {
        let spec = spec(&format!("bloom-{at}"), BLOOM);
        let run = spec.name.clone();
        let began = Instant::now();
        let out = fleet.submit(spec);
        spans.push(began.elapsed());
        assert_eq!(out.starts, 48, "there is room for it");
        fleet.stop(&run);
    }
    let (p50, most) = (spans.quantile(0.5), spans.quantile(1.0));
    show(&Figure {
        what: format!("one gang of 384 ranks on {nodes} nodes, p50 / max"),
        goal: "2 ms",
        found: format!("{:.0} us / {:.0} us", micros(p50), micros(most)),
        met: Some(most <= Duration::from_millis(2)),
    });
}
