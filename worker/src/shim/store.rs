//! The store as C++ calls it back.

#![allow(clippy::too_many_arguments, reason = "the signatures are shim.h's")]

use crate::comm::{Store, StoreError};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

#[repr(C)]
pub(super) struct RawStore {
    this: *mut c_void,
    set: unsafe extern "C" fn(*mut c_void, *const c_char, usize, *const u8, usize, Sink) -> bool,
    get: unsafe extern "C" fn(*mut c_void, *const c_char, usize, Sink, Sink) -> bool,
    check: unsafe extern "C" fn(*mut c_void, *const c_char, usize, *mut bool, Sink) -> bool,
    add: unsafe extern "C" fn(*mut c_void, *const c_char, usize, i64, *mut i64, Sink) -> bool,
    compare_set: unsafe extern "C" fn(
        *mut c_void,
        *const c_char,
        usize,
        *const u8,
        usize,
        *const u8,
        usize,
        Sink,
        Sink,
    ) -> bool,
    remove: unsafe extern "C" fn(*mut c_void, *const c_char, usize, *mut bool, Sink) -> bool,
    count: unsafe extern "C" fn(*mut c_void, *mut i64, Sink) -> bool,
}

type Sink = *mut c_void;

/// A store that C++ may call.
pub(super) struct Served {
    raw: RawStore,
}

// SAFETY: what it points to is an `Arc<dyn Store>`, and a `Store` is `Send` and `Sync`.
unsafe impl Send for Served {}
// SAFETY: as above.
unsafe impl Sync for Served {}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Served")
    }
}

impl Served {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let this = Box::into_raw(Box::new(store)).cast();
        Self {
            raw: RawStore {
                this,
                set,
                get,
                check,
                add,
                compare_set,
                remove,
                count,
            },
        }
    }

    pub(super) const fn raw(&self) -> *const RawStore {
        &raw const self.raw
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once, and C++ does not call any more.
        drop(unsafe { Box::from_raw(self.raw.this.cast::<Arc<dyn Store>>()) });
    }
}

unsafe fn store<'a>(this: *mut c_void) -> &'a dyn Store {
    // SAFETY: `this` is the box that `Served::new` made, and it lives while C++ calls.
    unsafe { &**this.cast::<Arc<dyn Store>>() }
}

unsafe fn slice<'a>(bytes: *const u8, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: C++ passes a buffer of that length which lives for the call.
    unsafe { std::slice::from_raw_parts(bytes, length) }
}

unsafe fn name(key: *const c_char, length: usize) -> String {
    // SAFETY: as in `slice`.
    String::from_utf8_lossy(unsafe { slice(key.cast(), length) }).into_owned()
}

unsafe fn emit(sink: Sink, bytes: &[u8]) {
    // SAFETY: the sink is a std::string of the caller.
    unsafe { super::rb_emit(sink, bytes.as_ptr(), bytes.len()) }
}

/// Hands an outcome over: the value to `take`, or the error to `sink`.
unsafe fn hand<T>(outcome: Result<T, StoreError>, sink: Sink, take: impl FnOnce(T)) -> bool {
    match outcome {
        Ok(value) => {
            take(value);
            true
        }
        Err(error) => {
            // SAFETY: as the caller promises.
            unsafe { emit(sink, error.to_string().as_bytes()) };
            false
        }
    }
}

unsafe extern "C" fn set(
    this: *mut c_void,
    key: *const c_char,
    key_len: usize,
    value: *const u8,
    value_len: usize,
    error: Sink,
) -> bool {
    // SAFETY: the arguments are as shim.h says; so in each function below.
    unsafe {
        let outcome = store(this).set(&name(key, key_len), slice(value, value_len));
        hand(outcome, error, |()| {})
    }
}

unsafe extern "C" fn get(
    this: *mut c_void,
    key: *const c_char,
    key_len: usize,
    value: Sink,
    error: Sink,
) -> bool {
    // SAFETY: see `set`.
    unsafe {
        let outcome = store(this).get(&name(key, key_len));
        hand(outcome, error, |bytes| emit(value, &bytes))
    }
}

unsafe extern "C" fn check(
    this: *mut c_void,
    key: *const c_char,
    key_len: usize,
    present: *mut bool,
    error: Sink,
) -> bool {
    // SAFETY: see `set`.
    unsafe {
        hand(store(this).check(&name(key, key_len)), error, |is| {
            *present = is
        })
    }
}

unsafe extern "C" fn add(
    this: *mut c_void,
    key: *const c_char,
    key_len: usize,
    amount: i64,
    sum: *mut i64,
    error: Sink,
) -> bool {
    // SAFETY: see `set`.
    unsafe {
        hand(
            store(this).add(&name(key, key_len), amount),
            error,
            |value| *sum = value,
        )
    }
}

unsafe extern "C" fn compare_set(
    this: *mut c_void,
    key: *const c_char,
    key_len: usize,
    expected: *const u8,
    expected_len: usize,
    desired: *const u8,
    desired_len: usize,
    value: Sink,
    error: Sink,
) -> bool {
    // SAFETY: see `set`.
    unsafe {
        let outcome = store(this).compare_set(
            &name(key, key_len),
            slice(expected, expected_len),
            slice(desired, desired_len),
        );
        hand(outcome, error, |bytes| emit(value, &bytes))
    }
}

unsafe extern "C" fn remove(
    this: *mut c_void,
    key: *const c_char,
    key_len: usize,
    removed: *mut bool,
    error: Sink,
) -> bool {
    // SAFETY: see `set`.
    unsafe {
        hand(store(this).delete(&name(key, key_len)), error, |was| {
            *removed = was
        })
    }
}

unsafe extern "C" fn count(this: *mut c_void, keys: *mut i64, error: Sink) -> bool {
    // SAFETY: see `set`.
    unsafe {
        hand(store(this).count(), error, |n| {
            *keys = i64::try_from(n).unwrap_or(i64::MAX)
        })
    }
}
