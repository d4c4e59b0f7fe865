//! What is looked up by a name: of a node, or of a run.
//!
//! The names that a tree compares on the way down are many, and in a large fleet far apart in memory; a
//! hash reads one. It has no order that anybody could see, so decisions stay the same every time.

#![expect(
    clippy::disallowed_types,
    reason = "a hash map has no order, and nothing in here goes through it"
)]

use foldhash::fast::FixedState;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;

/// Values by name that nobody goes through.
#[derive(Debug, Clone)]
pub(crate) struct ByName<Name, Value>(HashMap<Name, Value, FixedState>);

impl<Name, Value> Default for ByName<Name, Value> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<Name: Clone + Eq + Hash, Value> ByName<Name, Value> {
    pub(crate) fn get(&self, name: &Name) -> Option<&Value> {
        self.0.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &Name) -> Option<&mut Value> {
        self.0.get_mut(name)
    }

    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn insert(&mut self, name: Name, value: Value) -> Option<Value> {
        self.0.insert(name, value)
    }

    pub(crate) fn remove(&mut self, name: &Name) -> Option<Value> {
        self.0.remove(name)
    }
}

impl<Name: Clone + Eq + Hash, Value: Default> ByName<Name, Value> {
    pub(crate) fn get_or_default(&mut self, name: &Name) -> &mut Value {
        match self.0.entry(name.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Value::default()),
        }
    }
}

/// Values by name that are also gone through, in the order of their names.
#[derive(Clone)]
pub(crate) struct Register<Name, Value> {
    places: ByName<Name, u32>,
    order: BTreeMap<Name, u32>,
    values: Vec<Option<Value>>,
    /// Places in the list that are free.
    free: Vec<u32>,
}

impl<Name, Value> Default for Register<Name, Value> {
    fn default() -> Self {
        Self {
            places: ByName::default(),
            order: BTreeMap::new(),
            values: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<Name: Clone + Ord + Hash, Value> Register<Name, Value> {
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&Value> {
        let place = *self.places.get(name)?;
        self.values.get(place as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, name: &Name) -> Option<&mut Value> {
        let place = *self.places.get(name)?;
        self.values.get_mut(place as usize)?.as_mut()
    }

    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.places.contains(name)
    }

    /// Says what was there before.
    pub(crate) fn insert(&mut self, name: Name, value: Value) -> Option<Value> {
        if let Some(known) = self.get_mut(&name) {
            return Some(std::mem::replace(known, value));
        }
        let place = self.enter(name);
        self.values[place as usize] = Some(value);
        None
    }

    pub(crate) fn get_or_default(&mut self, name: &Name) -> &mut Value
    where
        Value: Default,
    {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => self.enter(name.clone()),
        };
        self.values[place as usize].get_or_insert_default()
    }

    /// A place for a name that is new.
    fn enter(&mut self, name: Name) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.values.push(None);
            u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
        });
        self.order.insert(name.clone(), place);
        self.places.insert(name, place);
        place
    }

    pub(crate) fn remove(&mut self, name: &Name) -> Option<Value> {
        let place = self.places.remove(name)?;
        self.order.remove(name);
        self.free.push(place);
        self.values.get_mut(place as usize)?.take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Name, &Value)> {
        let places = self.order.iter();
        places.filter_map(|(name, place)| Some((name, self.values.get(*place as usize)?.as_ref()?)))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.order.keys()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> {
        self.iter().map(|(_, value)| value)
    }

    /// Does the same to each, in no order that means anything.
    pub(crate) fn for_each_mut(&mut self, change: impl FnMut(&mut Value)) {
        self.values.iter_mut().flatten().for_each(change);
    }
}

impl<Name: Clone + Ord + Hash, Value> FromIterator<(Name, Value)> for Register<Name, Value> {
    fn from_iter<T: IntoIterator<Item = (Name, Value)>>(pairs: T) -> Self {
        let mut register = Self::default();
        for (name, value) in pairs {
            register.insert(name, value);
        }
        register
    }
}

impl<Name: Clone + Ord + Hash, Value: Eq> Eq for Register<Name, Value> {}

impl<Name: Clone + Ord + Hash, Value: PartialEq> PartialEq for Register<Name, Value> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<Name, Value> fmt::Debug for Register<Name, Value>
where
    Name: Clone + Ord + Hash + fmt::Debug,
    Value: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<Name, Value> Serialize for Register<Name, Value>
where
    Name: Clone + Ord + Hash + Serialize,
    Value: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, Name, Value> Deserialize<'de> for Register<Name, Value>
where
    Name: Clone + Ord + Hash + Deserialize<'de>,
    Value: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = BTreeMap::<Name, Value>::deserialize(deserializer)?;
        Ok(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_behaves_like_a_tree(steps in prop::collection::vec((0..9u8, prop::option::of(0..99u32)), 0..40)) {
            let mut tree = BTreeMap::new();
            let mut register = Register::default();
            for (at, (name, value)) in steps.into_iter().enumerate() {
                match value {
                    Some(value) => prop_assert_eq!(register.insert(name, value), tree.insert(name, value)),
                    None => prop_assert_eq!(register.remove(&name), tree.remove(&name)),
                }
                if at % 3 == 0 {
                    prop_assert_eq!(register.get_or_default(&name), tree.entry(name).or_default());
                }
                prop_assert!(register.iter().eq(tree.iter()));
                prop_assert!(register.names().eq(tree.keys()));
                prop_assert_eq!(register.len(), tree.len());
                for name in 0..9 {
                    prop_assert_eq!(register.get(&name), tree.get(&name));
                    prop_assert_eq!(register.contains(&name), tree.contains_key(&name));
                }
            }
            let mut more = register.clone();
            more.for_each_mut(|value| *value += 1);
            prop_assert!(more.values().copied().eq(tree.values().map(|value| value + 1)));
            let text = serde_json::to_string(&register).unwrap();
            prop_assert_eq!(&text, &serde_json::to_string(&tree).unwrap());
            let read: Register<u8, u32> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read, &register);
            prop_assert_eq!(read == more, tree.is_empty());
        }
    }
}
