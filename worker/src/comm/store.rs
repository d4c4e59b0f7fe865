//! Two rendezvous stores that need no agent.

use rebloom_rank::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

fn sum(old: Option<&[u8]>, amount: i64) -> Result<i64, StoreError> {
    let old = match old {
        None | Some([]) => 0,
        Some(digits) => std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse::<i64>().ok())
            .ok_or_else(|| {
                StoreError::Broken("a key that is added to holds no number".to_owned())
            })?,
    };
    Ok(old.wrapping_add(amount))
}

/// A store in this process, for ranks that are its threads.
#[derive(Debug, Default)]
pub struct MemoryStore {
    keys: Mutex<BTreeMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl MemoryStore {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> T) -> T {
        let answer = change(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        answer
    }
}

impl Store for MemoryStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.with(|keys| keys.insert(key.to_owned(), value.to_vec()));
        Ok(())
    }
    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(value) = keys.get(key) {
                return Ok(value.clone());
            }
            keys = self
                .changed
                .wait(keys)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
    fn check(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.with(|keys| keys.contains_key(key)))
    }
    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        self.with(|keys| {
            let value = sum(keys.get(key).map(Vec::as_slice), amount)?;
            keys.insert(key.to_owned(), value.to_string().into_bytes());
            Ok(value)
        })
    }
    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        Ok(self.with(|keys| match keys.get(key) {
            Some(held) if held != expected => held.clone(),
            None if !expected.is_empty() => expected.to_vec(),
            Some(_) | None => {
                keys.insert(key.to_owned(), desired.to_vec());
                desired.to_vec()
            }
        }))
    }
    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.with(|keys| keys.remove(key).is_some()))
    }
    fn count(&self) -> Result<u64, StoreError> {
        Ok(self.with(|keys| keys.len() as u64))
    }
}

/// A store in a directory, one file a key, for ranks that were started by hand on one machine.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
}

const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl FileStore {
    /// Opens or makes the directory; it must be empty when the first rank starts.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn path(&self, key: &str) -> PathBuf {
        let name: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(format!("{name}.key"))
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match fs::read(self.path(key)) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&self, error: &io::Error) -> StoreError {
        StoreError::Broken(format!("{}: {error}", self.directory.display()))
    }

    /// Runs `change` while no other process changes the store.
    fn locked<T>(&self, change: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let lock = fs::File::create(self.directory.join("lock")).map_err(|e| self.broken(&e))?;
        lock.lock().map_err(|e| self.broken(&e))?;
        change()
    }
}

impl Store for FileStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let path = self.path(key);
        let aside = path.with_extension(format!("tmp{}", std::process::id()));
        fs::write(&aside, value)
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(|error| self.broken(&error))
    }
    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        loop {
            if let Some(value) = self.read(key)? {
                return Ok(value);
            }
            sleep(LOOK_AGAIN);
        }
    }
    fn check(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.read(key)?.is_some())
    }
    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        self.locked(|| {
            let value = sum(self.read(key)?.as_deref(), amount)?;
            self.set(key, value.to_string().as_bytes())?;
            Ok(value)
        })
    }
    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        self.locked(|| match self.read(key)? {
            Some(held) if held != expected => Ok(held),
            None if !expected.is_empty() => Ok(expected.to_vec()),
            Some(_) | None => self.set(key, desired).map(|()| desired.to_vec()),
        })
    }
    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        match fs::remove_file(self.path(key)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.broken(&error)),
        }
    }
    fn count(&self) -> Result<u64, StoreError> {
        let entries = fs::read_dir(&self.directory).map_err(|error| self.broken(&error))?;
        let keys = entries
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "key"));
        Ok(keys.count() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps_the_rules(store: &dyn Store) {
        assert!(!store.check("a/b").unwrap());
        store.set("a/b", b"one").unwrap();
        assert_eq!(store.get("a/b").unwrap(), b"one");
        assert_eq!(store.add("n", 5).unwrap(), 5);
        assert_eq!(store.add("n", -7).unwrap(), -2);
        assert!(store.add("a/b", 1).is_err());
        assert_eq!(store.compare_set("a/b", b"two", b"three").unwrap(), b"one");
        assert_eq!(
            store.compare_set("a/b", b"one", b"three").unwrap(),
            b"three"
        );
        assert_eq!(store.compare_set("new", b"x", b"y").unwrap(), b"x");
        assert!(!store.check("new").unwrap());
        assert_eq!(store.compare_set("new", b"", b"y").unwrap(), b"y");
        assert_eq!(store.count().unwrap(), 3);
        assert!(store.delete("new").unwrap());
        assert!(!store.delete("new").unwrap());
    }

    #[test]
    fn both_stores_keep_the_rules_of_c10d() {
        keeps_the_rules(&MemoryStore::default());
        let folder = tempfile::tempdir().unwrap();
        keeps_the_rules(&FileStore::open(folder.path()).unwrap());
    }

    #[test]
    fn a_get_waits_for_the_set_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = FileStore::open(folder.path()).unwrap();
        for store in [&MemoryStore::default() as &dyn Store, &file] {
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| store.get("late").unwrap());
                store.set("late", b"x").unwrap();
                assert_eq!(waiting.join().unwrap(), b"x");
            });
        }
    }
}
