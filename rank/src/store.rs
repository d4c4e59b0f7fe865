//! The rendezvous store of a generation: what ranks meet in. It has the operations that c10d needs.

mod agent;

pub use agent::AgentStore;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The generation was fenced while a key was waited for.
    #[error("the generation was fenced while it waited for key {0}")]
    Fenced(String),
    /// The store cannot be used.
    #[error("the rendezvous store cannot be used: {0}")]
    Broken(String),
}

/// A key-value store that the members of a generation share.
pub trait Store: Send + Sync {
    /// Sets a key.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;
    /// The value of a key, waiting until it is set or the generation is fenced.
    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError>;
    /// Whether a key is set.
    fn check(&self, key: &str) -> Result<bool, StoreError>;
    /// Adds to the decimal number in a key; an absent one counts as 0.
    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError>;
    /// Sets a key if it holds what is expected (empty also matches an absent key); says what it holds then.
    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError>;
    /// Removes a key; says whether there was one.
    fn delete(&self, key: &str) -> Result<bool, StoreError>;
    /// The number of keys.
    fn count(&self) -> Result<u64, StoreError>;
}
