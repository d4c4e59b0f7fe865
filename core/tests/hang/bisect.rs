//! Bisecting a slow gang: who stays out next, and when a node is named.

use rebloom_core::hang::bisect::{Bisect, Outcome};
use rebloom_core::id::NodeId;
use rebloom_core::node_set::NodeSet;
use rebloom_core::time::Duration;
use std::collections::BTreeSet;

/// A gang is slow while `culprit` is in it; each restart leaves out what the search asks for, as far as
/// there are spares.
fn search(nodes: usize, culprit: usize, spares: usize) -> (Option<NodeId>, usize) {
    let name = |at: usize| NodeId::new(&format!("n{at:02}")).unwrap();
    let all: BTreeSet<_> = (0..nodes).map(name).collect();
    let (fast, slow) = (
        Duration::from_millis(105_200),
        Duration::from_millis(111_100),
    );
    let busy = all.iter().map(|node| (node.clone(), 1.0)).collect();
    let mut search = Bisect::new(fast, slow, &busy);
    for restart in 1..100 {
        let out: BTreeSet<_> = search.next_out().take(spares).cloned().collect();
        let stays: NodeSet = all.difference(&out).cloned().collect();
        search.placed(&stays);
        let is_slow = stays.contains(&name(culprit));
        let step = if is_slow { slow } else { fast };
        match search.judge(step) {
            Outcome::GoesOn => {}
            Outcome::Found(node) => return (Some(node), restart),
            Outcome::Gone => return (None, restart),
        }
    }
    (None, 100)
}

/// A search among nodes that are busy for so long; a step took 10 s and takes 11 s.
fn search_among(busy: &[(&str, f64)]) -> Bisect {
    let name = |name: &str| NodeId::new(name).unwrap();
    let busy = busy.iter().map(|(node, busy)| (name(node), *busy));
    let secs = Duration::from_secs;
    Bisect::new(secs(10), secs(11), &busy.collect())
}

/// The pace of a generation on these nodes.
fn judged(search: &mut Bisect, nodes: &[&str], seconds: u64) -> Outcome {
    let name = |name: &&str| NodeId::new(name).unwrap();
    search.placed(&nodes.iter().map(name).collect());
    search.judge(Duration::from_secs(seconds))
}

fn next_out(search: &Bisect) -> Vec<&str> {
    search.next_out().map(NodeId::as_str).collect()
}

#[test]
fn a_search_names_nobody_before_the_gang_was_fast_without_it() {
    let mut search = search_among(&[("a", 1.03), ("b", 1.0), ("c", 1.04)]);
    assert_eq!(next_out(&search), ["c", "a"], "the likeliest first");
    assert_eq!(judged(&mut search, &["b"], 11), Outcome::GoesOn);
    assert_eq!(next_out(&search), ["b"]);
    let mut other = search.clone();
    let b = NodeId::new("b").unwrap();
    assert_eq!(judged(&mut search, &["a", "c"], 10), Outcome::Found(b));
    assert_eq!(judged(&mut other, &["a", "c"], 11), Outcome::Gone);
}

#[test]
fn a_node_that_stands_out_is_tried_alone() {
    let mut search = search_among(&[("a", 1.0), ("b", 1.0), ("c", 1.07), ("d", 1.01)]);
    assert_eq!(next_out(&search), ["c"]);
    let mut other = search.clone();
    let c = NodeId::new("c").unwrap();
    // What else is left out does not matter.
    assert_eq!(judged(&mut search, &["a", "b"], 10), Outcome::Found(c));
    assert_eq!(judged(&mut other, &["a", "b", "d"], 11), Outcome::GoesOn);
    assert_eq!(next_out(&other), ["d", "a"]);
    let two = search_among(&[("a", 1.07), ("b", 1.05), ("c", 1.0), ("d", 1.0)]);
    assert_eq!(next_out(&two), ["a", "b"], "two stand out");
}

#[test]
fn bisecting_finds_any_slow_node_of_bloom_s_gang() {
    for culprit in 0..48 {
        let (found, restarts) = search(48, culprit, 48);
        assert_eq!(found.unwrap().as_str(), format!("n{culprit:02}"));
        assert!(restarts <= 7, "{restarts}");
        let (found, restarts) = search(48, culprit, 4);
        assert_eq!(found.unwrap().as_str(), format!("n{culprit:02}"));
        assert!(restarts <= 14, "four spares: {restarts}");
    }
}

#[test]
fn a_node_stands_out_by_half_of_what_is_lost_while_no_other_does_by_a_quarter() {
    // A step of 12 s took 9 s: a quarter of it is lost.
    let stands_out = |most: f64, next: f64| {
        let name = |name: &str| NodeId::new(name).unwrap();
        let busy = [(name("a"), most), (name("b"), next)];
        let search = Bisect::new(
            Duration::from_secs(9),
            Duration::from_secs(12),
            &busy.into(),
        );
        assert_eq!(search.share(), 0.25);
        search.busiest().map(|node| node.as_str().to_owned())
    };
    let (a, none) = (Some("a".to_owned()), None);
    assert_eq!(stands_out(1.13, 1.0), a);
    assert_eq!(
        stands_out(1.125, 1.0),
        none,
        "half of it is not more than half"
    );
    assert_eq!(stands_out(1.5, 1.06), a);
    assert_eq!(stands_out(1.5, 1.0625), none, "a quarter of it is not less");
    let alone = [(NodeId::new("a").unwrap(), 1.5)];
    let alone = Bisect::new(
        Duration::from_secs(9),
        Duration::from_secs(12),
        &alone.into(),
    );
    assert_eq!(alone.busiest().map(NodeId::as_str), Some("a"));
}

#[test]
fn a_pace_half_way_between_is_fast_and_no_gain_is_no_share() {
    let a = || NodeId::new("a").unwrap();
    for (millis, expected) in [(10_500, Outcome::Found(a())), (10_501, Outcome::Gone)] {
        let mut search = search_among(&[("a", 1.0)]);
        search.placed(&NodeSet::default());
        assert!(search.asks());
        assert_eq!(search.judge(Duration::from_millis(millis)), expected);
        assert!(!search.asks(), "what was left out was judged");
    }
    let busy = [(a(), 1.0)].into();
    let faster = Bisect::new(Duration::from_secs(2), Duration::from_secs(1), &busy);
    assert_eq!(faster.share(), 0.0);
    assert_eq!(
        Bisect::new(Duration::ZERO, Duration::ZERO, &busy).share(),
        0.0
    );
    assert_eq!(
        faster.steps(),
        (Duration::from_secs(2), Duration::from_secs(1))
    );
}

#[test]
fn suspects_are_counted_where_they_are() {
    let search = search_among(&[("a", 1.0), ("b", 1.0), ("c", 1.0)]);
    let among = |names: &[&str]| {
        let names = names.iter().map(|name| NodeId::new(name).unwrap());
        search.suspects_in(&names.collect())
    };
    assert_eq!(among(&[]), 0);
    assert_eq!(among(&["z"]), 0);
    assert_eq!(among(&["a", "c", "z"]), 2);
    assert_eq!(among(&["a", "b", "c"]), 3);
}
