//! JSON, with the field named where something is wrong.

use serde::Deserialize;

/// A value of this kind, or the field and what is wrong with it.
pub(crate) fn from_json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let problem = error.into_inner();
        // A dot is the whole of it, and a question mark what has no name yet.
        if matches!(field.as_str(), "." | "?") {
            problem.to_string()
        } else {
            format!("{field}: {problem}")
        }
    })?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_wrong_is_named_by_field() {
        type Deep = BTreeMap<String, Vec<u8>>;
        assert_eq!(from_json::<Deep>(br#"{"a": [1]}"#).unwrap()["a"], [1]);
        let error = from_json::<Deep>(br#"{"a": [1, 2, 300]}"#).unwrap_err();
        assert!(error.starts_with("a[2]: invalid value"), "{error}");
        for torn in [&b"["[..], b"{", b"{\"a"] {
            let error = from_json::<Deep>(torn).unwrap_err();
            assert!(!error.starts_with(['.', '?']), "{error}");
        }
        let error = from_json::<Deep>(b"{} {}").unwrap_err();
        assert!(error.contains("trailing characters"), "{error}");
    }
}
