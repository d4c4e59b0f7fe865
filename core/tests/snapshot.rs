//! Snapshots: where replicas go, and which state in memory a run resumes from.

use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::id::{Digest, Generation, NodeId, Rank, Step};
use rebloom_core::layout::Layout;
use rebloom_core::snapshot::{
    Apart, Home, KEPT, Piece, Put, Restore, Shelf, explain, outdated, replicas,
};
use std::collections::{BTreeMap, BTreeSet};

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a sound name")
}

/// Nodes as `name/rack` or `name/fabric/rack`.
fn homes(nodes: &[NodeId], places: &[&'static str]) -> Vec<(NodeId, &'static str, &'static str)> {
    let place = |place: &&'static str| match place.split_once('/') {
        Some((fabric, rack)) => (fabric, rack),
        None => ("", *place),
    };
    let homes = nodes.iter().cloned().zip(places.iter().map(place));
    homes
        .map(|(node, (fabric, rack))| (node, fabric, rack))
        .collect()
}

fn of<'a>(known: &'a [(NodeId, &'static str, &'static str)]) -> Vec<Home<'a>> {
    known
        .iter()
        .map(|(node, fabric, rack)| Home { node, fabric, rack })
        .collect()
}

#[test]
fn replicas_leave_the_rack_where_they_can_and_every_node_keeps_those_of_one_other() {
    // Racks of the nodes a, b, c, ...; how many replicas are in another rack; what is said of the rest.
    let table: [(&[&str], usize, Option<&str>); 10] = [
        (&[], 0, Some("one node only")),
        (&["r1"], 0, Some("one node only")),
        (&["r1", "r2"], 2, None),
        (&["r1", "r1"], 0, Some("in one rack")),
        (&["", "", ""], 0, Some("3 nodes have no label `rack`")),
        (&["r1", "r2", "r1", "r2"], 4, None),
        (&["r1", "r1", "r2", "r3", "r3", "r2"], 6, None),
        (&["r1", "r1", "r1", "r2"], 2, Some("2 of 4 nodes")),
        // The same name on another fabric is another rack.
        (&["f1/r1", "f2/r1"], 2, None),
        (&["r1", "r2", ""], 1, Some("1 nodes have no label")),
    ];
    let names: Vec<_> = ('a'..='f').map(|name| node(&name.to_string())).collect();
    for (places, apart, said) in table {
        let known = homes(&names, places);
        let homes = of(&known);
        let found = replicas(homes.iter().copied());
        let others = found.iter().filter(|it| it.apart == Apart::Rack).count();
        assert_eq!(others, apart, "{places:?}: {found:?}");
        assert!(found.iter().all(|it| it.of != it.at), "{found:?}");
        let many = if places.len() < 2 { 0 } else { places.len() };
        let keepers: BTreeSet<_> = found.iter().map(|it| it.at).collect();
        let kept: Vec<_> = found.iter().map(|it| it.of).collect();
        assert_eq!((keepers.len(), kept.len()), (many, many), "{found:?}");
        assert!(kept.is_sorted());
        let why = explain(&homes, &found);
        match said {
            None => assert_eq!(why, None, "{places:?}"),
            Some(said) => assert!(why.clone().is_some_and(|w| w.contains(said)), "{why:?}"),
        }
        let mut turned = homes.clone();
        turned.reverse();
        assert_eq!(
            replicas(turned),
            found,
            "the order of the nodes says nothing"
        );
    }
}

/// No way to give every node one other's replicas has more of them in another rack.
#[test]
fn as_many_replicas_as_can_be_are_in_another_rack() {
    let names: Vec<_> = (0..12).map(|at| node(&format!("n{at:02}"))).collect();
    let racks = ["r0", "r1", "r2", "r3"];
    for code in 0..4096_usize {
        let many = 2 + code % 11;
        let places: Vec<_> = (0..many)
            .map(|at| racks[((code.pow(2) / 7) >> at) & 3])
            .collect();
        let known = homes(&names[..many], &places);
        let found = replicas(of(&known));
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        places
            .iter()
            .for_each(|rack| *sizes.entry(rack).or_default() += 1);
        let largest = sizes.values().max().copied().unwrap();
        let near = found.iter().filter(|it| it.apart == Apart::Node).count();
        assert_eq!(near, (2 * largest).saturating_sub(many), "{places:?}");
    }
}

const LAYOUT: Layout = Layout {
    tensor: 1,
    pipeline: 2,
    data: 1,
};

fn id(step: u64, generation: u64) -> CheckpointId {
    CheckpointId {
        step: Step(step),
        generation: Generation(generation),
    }
}

fn piece(checkpoint: CheckpointId, rank: u32) -> Piece {
    Piece {
        checkpoint,
        layout: LAYOUT,
        samples: checkpoint.step.0 * 8,
        shard: Shard {
            rank: Rank(rank),
            file: format!("rank-{rank}"),
            bytes: 10,
            hash: Digest([u8::try_from(rank).expect("there are few ranks"); 32]),
        },
    }
}

/// Both ranks of each of these, rank 0 on `a` and rank 1 on `b`, with replicas the other way round.
fn shelf(ids: &[CheckpointId]) -> Shelf {
    let mut shelf = Shelf::default();
    for id in ids {
        for (rank, nodes) in [(0, ["a", "b"]), (1, ["b", "a"])] {
            for at in nodes {
                shelf.put(&piece(*id, rank), &node(at));
            }
        }
    }
    shelf
}

fn newest(shelf: &Shelf, beyond: Option<CheckpointId>, gone: &[&str]) -> Option<Restore> {
    let pick = |rank: Rank, at: &BTreeSet<NodeId>| {
        let own = node(if rank.0 == 0 { "a" } else { "b" });
        let there = |it: &&NodeId| !gone.contains(&it.as_str());
        let own = at.get(&own).filter(there);
        own.or_else(|| at.iter().find(there)).cloned()
    };
    shelf.newest(LAYOUT, beyond, |_, _| true, pick)
}

fn sources(restore: &Restore) -> Vec<&str> {
    restore.shards.iter().map(|(_, at)| at.as_str()).collect()
}

#[test]
fn the_newest_state_that_every_rank_has_and_from_where() {
    let both = [id(10, 1), id(20, 1)];
    // Snapshots, the newest checkpoint, nodes that cannot be asked, nodes that lost their memory.
    type Row<'a> = (
        &'a [CheckpointId],
        Option<CheckpointId>,
        &'a [&'a str],
        &'a [&'a str],
        Option<(CheckpointId, [&'a str; 2])>,
    );
    let table: [Row<'_>; 10] = [
        (&[], None, &[], &[], None),
        (&both, None, &[], &[], Some((id(20, 1), ["a", "b"]))),
        (
            &both,
            Some(id(19, 1)),
            &[],
            &[],
            Some((id(20, 1), ["a", "b"])),
        ),
        // A snapshot is only worth something beyond the checkpoint.
        (&both, Some(id(20, 1)), &[], &[], None),
        (&both, Some(id(30, 1)), &[], &[], None),
        // Replicas take the place of what is gone, or was lost.
        (&both, None, &["a"], &[], Some((id(20, 1), ["b", "b"]))),
        (&both, None, &[], &["b"], Some((id(20, 1), ["a", "a"]))),
        (&both, None, &["a"], &["b"], None),
        (&both, None, &["a", "b"], &[], None),
        // The step counts, not the generation.
        (
            &[id(20, 1), id(12, 2)],
            None,
            &[],
            &[],
            Some((id(20, 1), ["a", "b"])),
        ),
    ];
    for (ids, beyond, gone, lost, wanted) in table {
        let mut shelf = shelf(ids);
        lost.iter().for_each(|it| shelf.lose(&node(it)));
        let found = newest(&shelf, beyond, gone);
        let found = found.as_ref().map(|it| (it.id, sources(it)));
        let wanted = wanted.map(|(id, at)| (id, at.to_vec()));
        assert_eq!(found, wanted, "{ids:?} {beyond:?} {gone:?} {lost:?}");
    }
}

#[test]
fn a_snapshot_that_lacks_a_rank_is_none_and_the_one_before_is_taken() {
    let mut shelf = shelf(&[id(10, 1)]);
    assert_eq!(shelf.put(&piece(id(20, 1), 0), &node("a")), Put::Taken);
    assert_eq!(newest(&shelf, None, &[]).unwrap().id, id(10, 1));
    assert_eq!(shelf.newest_sealed(), Some((id(10, 1), 2)));
    assert_eq!(shelf.put(&piece(id(20, 1), 1), &node("b")), Put::Sealed);
    assert_eq!(shelf.put(&piece(id(20, 1), 1), &node("b")), Put::Known);
    assert_eq!(shelf.newest_sealed(), Some((id(20, 1), 1)));
    let restore = newest(&shelf, None, &[]).unwrap();
    assert_eq!(restore.id, id(20, 1));
    let (own, at) = restore.of(Rank(1)).unwrap();
    assert_eq!((own, at.as_str()), (piece(id(20, 1), 1), "b"));
    // Its only copy is out of reach.
    assert_eq!(newest(&shelf, None, &["b"]).unwrap().id, id(10, 1));
}

#[test]
fn what_contradicts_itself_is_tainted_or_of_another_layout_is_passed_over() {
    let odd = [
        Piece {
            samples: 1,
            ..piece(id(20, 1), 1)
        },
        Piece {
            layout: Layout { data: 2, ..LAYOUT },
            ..piece(id(20, 1), 1)
        },
        piece(id(20, 1), 2),
    ];
    for odd in odd {
        let mut shelf = shelf(&[id(10, 1), id(20, 1)]);
        assert_eq!(shelf.put(&odd, &node("c")), Put::Contradicts);
        assert_eq!(newest(&shelf, None, &[]).unwrap().id, id(10, 1), "{odd:?}");
    }
    let mut other = piece(id(20, 1), 1);
    other.shard.hash = Digest([9; 32]);
    let mut shelf = shelf(&[id(10, 1), id(20, 1)]);
    assert_eq!(shelf.put(&other, &node("b")), Put::Contradicts);
    assert_eq!(newest(&shelf, None, &[]).unwrap().id, id(10, 1));

    let pick = |_: Rank, at: &BTreeSet<NodeId>| at.first().cloned();
    let shelf = self::shelf(&[id(10, 1), id(20, 1)]);
    let before = |_: CheckpointId, samples: u64| samples < 100;
    let clean = shelf.newest(LAYOUT, None, before, pick);
    assert_eq!(clean.unwrap().id, id(10, 1));
    let wider = Layout { data: 2, ..LAYOUT };
    assert_eq!(shelf.newest(wider, None, |_, _| true, pick), None);
}

#[test]
fn a_rollback_leaves_the_future_behind_and_old_ones_go() {
    let mut shelf = shelf(&[id(10, 1), id(20, 1), id(30, 1)]);
    shelf.resumed(Some(id(20, 1)));
    assert_eq!(newest(&shelf, None, &[]).unwrap().id, id(20, 1));
    shelf.resumed(None);
    assert!(shelf.is_empty());

    let mut shelf = self::shelf(&[id(20, 1), id(30, 1), id(40, 1)]);
    assert_eq!(shelf.put(&piece(id(10, 1), 0), &node("a")), Put::Old);
    for rank in 0..2 {
        shelf.put(&piece(id(25, 2), rank), &node("a"));
    }
    shelf.put(&piece(id(35, 2), 0), &node("a"));
    // The oldest, by who wrote them, have gone: 20 and 30.
    let not_40 = |it: CheckpointId, _: u64| it != id(40, 1);
    let pick = |_: Rank, at: &BTreeSet<NodeId>| at.first().cloned();
    let found = shelf.newest(LAYOUT, None, not_40, pick);
    assert_eq!(found.unwrap().id, id(25, 2));

    let ids = [
        id(35, 2),
        id(20, 1),
        id(30, 1),
        id(25, 2),
        id(20, 1),
        id(40, 1),
    ];
    assert_eq!(outdated(ids), [id(20, 1), id(30, 1)]);
    assert_eq!(outdated(ids[..KEPT].iter().copied()), []);
}
