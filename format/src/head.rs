//! The head of a safetensors file: its length in eight bytes, then JSON that says where which tensor lies.
//!
//! A length is believed only as far as the file goes, and memory is taken for what was read, not for what was
//! claimed.

use crate::json::from_json;
use safetensors::tensor::Metadata;
use std::io::Read;

/// Most bytes of a head, as safetensors bounds them.
pub const LARGEST: u64 = 100_000_000;

/// A head that was read.
#[derive(Debug)]
pub struct Head {
    /// Tensors, whose places follow each other without a gap, and what else is said of them.
    pub metadata: Metadata,
    /// Where in the file the first tensor begins.
    pub data: u64,
    /// Bytes of the file after it.
    pub room: u64,
}

/// Reads the head of a file that has `length` bytes.
pub fn read(input: &mut impl Read, length: u64) -> Result<Head, String> {
    let text = |error: std::io::Error| format!("head: {error}");
    let mut claimed = [0; 8];
    input.read_exact(&mut claimed).map_err(text)?;
    let claimed = u64::from_le_bytes(claimed);
    let room = length
        .checked_sub(8)
        .and_then(|rest| rest.checked_sub(claimed));
    let Some(room) = room.filter(|_| claimed <= LARGEST) else {
        return Err(format!(
            "head: it claims {claimed} bytes of a file of {length}; {LARGEST} are the most"
        ));
    };
    let mut json = Vec::new();
    input.take(claimed).read_to_end(&mut json).map_err(text)?;
    if json.len() as u64 != claimed {
        let found = json.len();
        return Err(format!("head: it ends after {found} of {claimed} bytes"));
    }
    let metadata: Metadata = from_json(&json).map_err(|problem| format!("head: {problem}"))?;
    Ok(Head {
        metadata,
        data: 8 + claimed,
        room,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with this head.
    pub(crate) fn file(json: &str, data: usize) -> Vec<u8> {
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend(json.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    fn read(bytes: &[u8], length: u64) -> Result<Head, String> {
        super::read(&mut &bytes[..], length)
    }

    #[test]
    fn a_head_says_where_its_tensors_lie() {
        let json = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let bytes = file(json, 8);
        let head = read(&bytes, bytes.len() as u64).unwrap();
        assert_eq!((head.data, head.room), (8 + json.len() as u64, 8));
        assert_eq!(head.metadata.info("a").unwrap().shape, [2]);
    }

    #[test]
    fn a_length_is_believed_only_as_far_as_the_file_goes() {
        for claimed in [1, 1 << 40, 1 << 60, u64::MAX] {
            let bytes = claimed.to_le_bytes();
            let error = read(&bytes, 8).unwrap_err();
            assert!(
                error.contains(&format!("claims {claimed} bytes")),
                "{error}"
            );
        }
        // A file can be that large and still have no such head.
        let error = read(&(1_u64 << 60).to_le_bytes(), u64::MAX).unwrap_err();
        assert!(error.contains("100000000 are the most"), "{error}");
        let error = read(&4_u64.to_le_bytes(), 100).unwrap_err();
        assert!(error.contains("ends after 0 of 4 bytes"), "{error}");
        assert!(read(&[], 0).unwrap_err().starts_with("head: "));
    }

    #[test]
    fn tensors_that_overlap_or_leave_gaps_are_refused() {
        for offsets in ["[4,12]", "[0,4]", "[8,0]", "[0,18446744073709551615]"] {
            let json = format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#);
            let bytes = file(&json, 8);
            let error = read(&bytes, bytes.len() as u64).unwrap_err();
            assert!(error.starts_with("head: "), "{error}");
        }
    }
}
