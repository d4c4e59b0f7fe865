//! A set of nodes: their names in order, in one piece of memory.

use crate::id::NodeId;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::ops::Deref;

/// Nodes in the order of their names, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<NodeId>")]
pub struct NodeSet(Vec<NodeId>);

/// No node.
pub(crate) static NOBODY: NodeSet = NodeSet(Vec::new());

impl NodeSet {
    /// Nodes that are in order already, each once.
    pub(crate) fn sorted(nodes: Vec<NodeId>) -> Self {
        debug_assert!(nodes.is_sorted_by(|a, b| a < b), "{nodes:?} are in order");
        Self(nodes)
    }

    /// Where a node is among them.
    pub fn position(&self, node: &NodeId) -> Option<usize> {
        self.0.binary_search(node).ok()
    }

    /// Whether a node is one of them.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.position(node).is_some()
    }

    /// Adds a node.
    pub fn insert(&mut self, node: NodeId) {
        if let Err(at) = self.0.binary_search(&node) {
            self.0.insert(at, node);
        }
    }

    /// Those that are not among the others, in order.
    pub fn difference<'a>(&'a self, others: &'a Self) -> impl Iterator<Item = &'a NodeId> {
        let places = self.places_in(others);
        let nodes = self.iter().zip(places);
        nodes.filter_map(|(node, place)| place.is_none().then_some(node))
    }

    /// Whether none is among the others.
    pub fn is_disjoint(&self, others: &Self) -> bool {
        self.places_in(others).all(|place| place.is_none())
    }

    /// Where each of them is among the others, in order.
    pub(crate) fn places_in(&self, others: &Self) -> impl Iterator<Item = Option<usize>> {
        let mut at = 0;
        self.iter().map(move |node| {
            loop {
                match others.get(at)?.cmp(node) {
                    Ordering::Less => at += 1,
                    Ordering::Equal => {
                        at += 1;
                        return Some(at - 1);
                    }
                    Ordering::Greater => return None,
                }
            }
        })
    }
}

impl Deref for NodeSet {
    type Target = [NodeId];
    fn deref(&self) -> &[NodeId] {
        &self.0
    }
}

impl From<Vec<NodeId>> for NodeSet {
    fn from(mut nodes: Vec<NodeId>) -> Self {
        nodes.sort();
        nodes.dedup();
        Self(nodes)
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<T: IntoIterator<Item = NodeId>>(nodes: T) -> Self {
        Vec::from_iter(nodes).into()
    }
}

impl<'a> IntoIterator for &'a NodeSet {
    type Item = &'a NodeId;
    type IntoIter = std::slice::Iter<'a, NodeId>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn nodes(numbers: &[u8]) -> Vec<NodeId> {
        let nodes = numbers.iter().map(|at| NodeId::new(&format!("n{at}")));
        nodes.collect::<Result<_, _>>().unwrap()
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set(a in prop::collection::vec(0..9u8, 0..9), b in prop::collection::vec(0..9u8, 0..9)) {
            let (a, b) = (nodes(&a), nodes(&b));
            let (set, other) = (NodeSet::from(a.clone()), NodeSet::from_iter(b.clone()));
            let (tree, others) = (BTreeSet::from_iter(a.clone()), BTreeSet::from_iter(b));
            prop_assert!(set.iter().eq(&tree));
            prop_assert!(set.difference(&other).eq(tree.difference(&others)));
            prop_assert_eq!(set.is_disjoint(&other), tree.is_disjoint(&others));
            for (node, place) in set.iter().zip(set.places_in(&other)) {
                prop_assert_eq!(place, other.position(node));
                prop_assert_eq!(other.contains(node), others.contains(node));
            }
            let mut grown = NodeSet::default();
            a.into_iter().for_each(|node| grown.insert(node));
            prop_assert_eq!(grown, set);
        }
    }
}
