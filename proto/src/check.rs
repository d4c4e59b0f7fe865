//! The checks that every message goes through on its way in, and the path to what failed one.

use rebloom_core::id::{Digest, NodeId, RunId};
use rebloom_core::time::Duration;
use std::fmt::Display;

/// The longest text that is taken, in bytes.
pub const MAX_TEXT: usize = 64 << 10;

/// The longest list that is taken: one entry a rank of the largest gang.
pub const MAX_LIST: usize = 100_000;

/// A message that is not understood, and where it goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {field}: {problem}")]
pub struct Malformed {
    /// Path of the field: `report.rank.event`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Malformed {
    /// A problem with one field.
    pub fn new(field: &str, problem: impl Display) -> Self {
        Self {
            field: field.to_owned(),
            problem: problem.to_string(),
        }
    }

    pub(crate) fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }

    fn below(mut self, parent: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') {
            ""
        } else {
            "."
        };
        self.field = format!("{parent}{dot}{}", self.field);
        self
    }
}

impl From<Malformed> for tonic::Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(malformed.to_string())
    }
}

/// A field that must be set.
pub(crate) fn part<W, T>(value: Option<W>, field: &str) -> Result<T, Malformed>
where
    T: TryFrom<W, Error = Malformed>,
{
    within(value.ok_or_else(|| Malformed::missing(field))?, field)
}

/// A field that may be absent.
pub(crate) fn maybe<W, T>(value: Option<W>, field: &str) -> Result<Option<T>, Malformed>
where
    T: TryFrom<W, Error = Malformed>,
{
    value.map(|value| within(value, field)).transpose()
}

/// Converts what stands in a field, so that its problems name that field.
pub(crate) fn within<W, T>(value: W, field: &str) -> Result<T, Malformed>
where
    T: TryFrom<W, Error = Malformed>,
{
    T::try_from(value).map_err(|malformed| malformed.below(field))
}

/// A list of at most [`MAX_LIST`] entries.
pub(crate) fn list<W, T>(values: Vec<W>, field: &str) -> Result<Vec<T>, Malformed>
where
    T: TryFrom<W, Error = Malformed>,
{
    list_by(values, field, |value| T::try_from(value))
}

/// A list of at most [`MAX_LIST`] entries, each converted by `convert`.
pub(crate) fn list_by<W, T>(
    values: Vec<W>,
    field: &str,
    convert: impl Fn(W) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    if values.len() > MAX_LIST {
        let problem = format!("has {} entries, the limit is {MAX_LIST}", values.len());
        return Err(Malformed::new(field, problem));
    }
    let numbered = values.into_iter().enumerate();
    let convert = |(at, value)| {
        convert(value).map_err(|malformed| malformed.below(&format!("[{at}]")).below(field))
    };
    numbered.map(convert).collect()
}

/// An enum, by its number on the wire.
pub(crate) fn code<W, T>(value: i32, field: &str) -> Result<T, Malformed>
where
    W: TryFrom<i32>,
    T: TryFrom<W, Error = Malformed>,
{
    let known = W::try_from(value)
        .map_err(|_| Malformed::new(field, format!("{value} is not a known value")))?;
    within(known, field)
}

/// An enum that may be absent.
pub(crate) fn maybe_code<W, T>(value: Option<i32>, field: &str) -> Result<Option<T>, Malformed>
where
    W: TryFrom<i32>,
    T: TryFrom<W, Error = Malformed>,
{
    value.map(|value| code::<W, T>(value, field)).transpose()
}

/// Text of at most [`MAX_TEXT`] bytes.
pub(crate) fn text(value: String, field: &str) -> Result<String, Malformed> {
    if value.len() > MAX_TEXT {
        let problem = format!("has {} bytes, the limit is {MAX_TEXT}", value.len());
        return Err(Malformed::new(field, problem));
    }
    Ok(value)
}

/// The name of a file inside a directory: not a path, so that it cannot lead anywhere else.
pub(crate) fn file_name(value: String, field: &str) -> Result<String, Malformed> {
    let plain = (1..=255).contains(&value.len())
        && !value.contains(['/', '\0'])
        && value != "."
        && value != "..";
    if plain {
        Ok(value)
    } else {
        Err(Malformed::new(field, "is not a plain file name"))
    }
}

/// An absolute path.
pub(crate) fn absolute(value: String, field: &str) -> Result<String, Malformed> {
    if value.starts_with('/') && value.len() <= 4000 && !value.contains('\0') {
        Ok(value)
    } else {
        Err(Malformed::new(field, "is not an absolute path"))
    }
}

/// The name of a run.
pub(crate) fn run_id(value: String, field: &str) -> Result<RunId, Malformed> {
    RunId::try_from(value).map_err(|error| Malformed::new(field, error))
}

/// The name of a node.
pub(crate) fn node_id(value: String, field: &str) -> Result<NodeId, Malformed> {
    NodeId::try_from(value).map_err(|error| Malformed::new(field, error))
}

/// A SHA-256.
pub(crate) fn digest(value: &[u8], field: &str) -> Result<Digest, Malformed> {
    let bytes = <[u8; 32]>::try_from(value).map_err(|_| {
        Malformed::new(
            field,
            format!("has {} bytes, a SHA-256 has 32", value.len()),
        )
    })?;
    Ok(Digest(bytes))
}

/// A span of time for the wire; one of more than 584 years is cut.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Both ways between an enum of the wire and one of core whose variants have the same names.
macro_rules! same_names {
    ($wire:ident <=> $core:path { $($variant:ident),+ $(,)? }) => {
        impl From<$core> for crate::wire::$wire {
            fn from(value: $core) -> Self {
                use $core as Core;
                match value { $(Core::$variant => Self::$variant),+ }
            }
        }
        impl TryFrom<crate::wire::$wire> for $core {
            type Error = crate::Malformed;
            fn try_from(value: crate::wire::$wire) -> Result<Self, crate::Malformed> {
                use crate::wire::$wire as Wire;
                match value {
                    Wire::Unspecified => Err(crate::Malformed::missing("")),
                    $(Wire::$variant => Ok(Self::$variant)),+
                }
            }
        }
    };
}
pub(crate) use same_names;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_lead_nowhere_else() {
        for bad in ["", ".", "..", "a/b", "/etc/passwd", "a\0", &"x".repeat(256)] {
            assert!(file_name(bad.to_owned(), "file").is_err(), "{bad:?}");
        }
        assert!(file_name("rank-00000.safetensors".to_owned(), "file").is_ok());
    }

    #[test]
    fn paths_are_absolute() {
        for bad in ["", "data", "../data", "/a\0b"] {
            assert!(absolute(bad.to_owned(), "directory").is_err(), "{bad:?}");
        }
        assert!(absolute("/data".to_owned(), "directory").is_ok());
    }

    #[test]
    fn text_and_lists_are_bounded() {
        assert!(text("x".repeat(MAX_TEXT), "error").is_ok());
        assert!(text("x".repeat(MAX_TEXT + 1), "error").is_err());
        let long = list_by(vec![(); MAX_LIST + 1], "ranks", Ok);
        assert_eq!(
            long,
            Err(Malformed::new(
                "ranks",
                "has 100001 entries, the limit is 100000"
            ))
        );
    }
}
