//! Where replicas go: each node of a gang keeps its snapshots a second time on one other node of it.
//!
//! Nodes in the order of their racks stand in a ring, and each has the one as many places on as the
//! largest rack has nodes. So every node keeps the replicas of exactly one other, and as many as can be
//! are in another rack: all of them, where no rack has more nodes than the others together.

use crate::id::NodeId;
use std::collections::BTreeMap;

/// A node of a gang, and its failure domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home<'a> {
    /// Which node.
    pub node: &'a NodeId,
    /// The fabric it is on; empty where nobody said.
    pub fabric: &'a str,
    /// The rack it is in; empty where nobody said.
    pub rack: &'a str,
}

/// What a replica is safe from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Apart {
    /// The loss of the node alone: it is in the same rack, or in one that nobody named.
    Node,
    /// The loss of the whole rack.
    Rack,
}

/// Where the snapshots of one node lie a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica<'a> {
    /// Whose.
    pub of: &'a NodeId,
    /// The node that keeps them; never the same.
    pub at: &'a NodeId,
    /// What that makes them safe from.
    pub apart: Apart,
}

/// The replicas of a gang on these nodes, in the order of their names; none where it has one node only.
/// The same for the same nodes, in whichever order they come.
pub fn replicas<'a>(homes: impl IntoIterator<Item = Home<'a>>) -> Vec<Replica<'a>> {
    let mut ring: Vec<_> = homes.into_iter().collect();
    ring.sort_unstable_by_key(|home| (home.fabric, home.rack, home.node));
    ring.dedup_by_key(|home| home.node);
    let many = ring.len();
    if many < 2 {
        return Vec::new();
    }
    let mut sizes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for home in &ring {
        *sizes.entry((home.fabric, home.rack)).or_default() += 1;
    }
    let largest = sizes.values().copied().max().unwrap_or_default();
    // One rack is a ring in itself.
    let places = if largest == many { 1 } else { largest };
    let mut all: Vec<_> = (0..many)
        .map(|at| {
            let (of, holder) = (ring[at], ring[(at + places) % many]);
            let is_named = !of.rack.is_empty() && !holder.rack.is_empty();
            let is_other = (of.fabric, of.rack) != (holder.fabric, holder.rack);
            Replica {
                of: of.node,
                at: holder.node,
                apart: if is_named && is_other {
                    Apart::Rack
                } else {
                    Apart::Node
                },
            }
        })
        .collect();
    all.sort_unstable_by_key(|replica| replica.of);
    all
}

/// Why some replicas are not outside their rack, or there are none; nothing where all is as it should be.
pub fn explain(homes: &[Home<'_>], replicas: &[Replica<'_>]) -> Option<String> {
    if replicas.is_empty() {
        return Some("no replicas: the gang has one node only".to_owned());
    }
    let near = replicas.iter().filter(|it| it.apart == Apart::Node);
    let (near, many) = (near.count(), replicas.len());
    if near == 0 {
        return None;
    }
    let unnamed = homes.iter().filter(|home| home.rack.is_empty()).count();
    let racks = homes.iter().map(|home| (home.fabric, home.rack));
    let is_one = racks
        .collect::<std::collections::BTreeSet<_>>()
        .len()
        .eq(&1);
    let why = if unnamed > 0 {
        format!("{unnamed} nodes have no label `rack`")
    } else if is_one {
        "all of them are in one rack".to_owned()
    } else {
        "one rack has more nodes of the gang than all others together".to_owned()
    };
    Some(format!(
        "the replicas of {near} of {many} nodes outlive the loss of a node, not of a rack: {why}"
    ))
}
