//! What is looked up by a node's name, and never gone through.
//!
//! The names that a tree compares on the way down are far apart in the memory of a large fleet; a hash
//! reads one. It has no order that anybody could see, so decisions stay the same every time.

#![expect(
    clippy::disallowed_types,
    reason = "a hash map has no order, and nothing in here goes through it"
)]

use crate::id::NodeId;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

/// Values by the names of nodes.
#[derive(Debug)]
pub(crate) struct ByName<Value>(HashMap<NodeId, Value, BuildHasherDefault<DefaultHasher>>);

impl<Value> Default for ByName<Value> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<Value> ByName<Value> {
    pub(crate) fn get(&self, name: &NodeId) -> Option<&Value> {
        self.0.get(name)
    }

    pub(crate) fn insert(&mut self, name: NodeId, value: Value) {
        self.0.insert(name, value);
    }
}
