use super::*;
use std::fs;
use tempfile::TempDir;

/// Three sequences in two documents: [7 8 9] [] | [65535].
fn small(width: Width) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("a.b/small.v1");
    let mut writer = Writer::create(&prefix, width).unwrap();
    writer.push(&[7, 8, 9]).unwrap();
    writer.push(&[]).unwrap();
    writer.end_document();
    writer.push(&[65_535]).unwrap();
    writer.end_document();
    writer.finish().unwrap();
    (folder, prefix)
}

#[test]
fn bytes_are_those_of_the_format() {
    let (_folder, prefix) = small(Width::U16);
    assert_eq!(
        fs::read(bin_path(&prefix)).unwrap(),
        [7, 0, 8, 0, 9, 0, 255, 255]
    );
    let mut expected = b"MMIDIDX\0\0".to_vec();
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0, 8]);
    for count in [3_u64, 3] {
        expected.extend(count.to_le_bytes());
    }
    for size in [3_i32, 0, 1] {
        expected.extend(size.to_le_bytes());
    }
    for offset in [0_i64, 6, 6, 0, 2, 3] {
        expected.extend(offset.to_le_bytes());
    }
    assert_eq!(fs::read(idx_path(&prefix)).unwrap(), expected);
}

#[test]
fn what_was_written_is_read_in_both_widths() {
    for width in [Width::U16, Width::I32] {
        let (_folder, prefix) = small(width);
        let dataset = Indexed::open(&prefix).unwrap();
        assert_eq!(dataset.width(), width);
        assert_eq!(dataset.sizes().collect::<Vec<_>>(), [3, 0, 1]);
        assert_eq!(dataset.tokens(), 4);
        let mut tokens = [0; 2];
        dataset.read(0, 1, &mut tokens);
        assert_eq!(tokens, [8, 9]);
        dataset.read(2, 0, &mut tokens[..1]);
        assert_eq!(tokens[0], 65_535);
        assert_eq!(dataset.outside(65_536), None);
        assert_eq!(dataset.outside(65_535), Some((2, 0, 65_535)));
        assert_eq!(dataset.outside(8), Some((0, 1, 8)));
    }
}

#[test]
fn the_width_is_megatrons() {
    assert_eq!(Width::of_vocabulary(65_499), Width::U16);
    assert_eq!(Width::of_vocabulary(65_500), Width::I32);
}

#[test]
fn a_token_that_does_not_fit_is_refused_and_leaves_no_file() {
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("x");
    let mut writer = Writer::create(&prefix, Width::U16).unwrap();
    let error = writer.push(&[65_536]).unwrap_err().to_string();
    assert!(
        error.ends_with("x.bin: token is 65536, more than fits"),
        "{error}"
    );
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What opening says of a small dataset whose index has these bytes at this place.
fn patched(at: usize, bytes: &[u8]) -> String {
    let (_folder, prefix) = small(Width::U16);
    let mut idx = fs::read(idx_path(&prefix)).unwrap();
    idx[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(idx_path(&prefix), idx).unwrap();
    let error = Indexed::open(&prefix).unwrap_err().to_string();
    let (file, problem) = error.split_once(": ").unwrap();
    assert!(file.ends_with("small.v1.idx"), "{error}");
    problem.to_owned()
}

#[test]
fn every_field_of_the_index_is_checked() {
    let sizes = HEADER;
    let pointers = sizes + 12;
    let documents = pointers + 24;
    assert!(patched(0, b"TNTIDX\0\0").starts_with("magic is \"TNTIDX\\x00\\x00\\x00\""));
    assert_eq!(patched(9, &[2]), "version is 2, only 1 is known");
    assert_eq!(
        patched(17, &[7]),
        "dtype is 7, only 4 (i32) and 8 (u16) are known"
    );
    assert!(patched(18, &[4]).starts_with("length is 94, but 4 sequences"));
    assert!(patched(18, &[255; 8]).starts_with("length is 94, but 18446744073709551615 sequences"));
    assert!(patched(26, &[2]).starts_with("length is 94, but 3 sequences and 2 documents"));
    assert_eq!(
        patched(sizes, &(-1_i32).to_le_bytes()),
        "sizes[0] is -1, which is negative"
    );
    assert!(patched(sizes + 8, &[2]).starts_with("pointers[2] is 6, so sequence 2 of 2 tokens"));
    assert!(patched(pointers + 16, &[7]).starts_with("pointers[2] is 7, so sequence 2"));
    assert!(patched(pointers, &[1]).starts_with("pointers[0] is 1, which is not a multiple"));
    assert!(patched(pointers, &(-2_i64).to_le_bytes()).starts_with("pointers[0] is -2, so"));
    assert!(patched(pointers, &i64::MAX.to_le_bytes()).starts_with("pointers[0] is 92233"));
    assert_eq!(patched(documents, &[1]), "doc_idx[0] is 1, it must be 0");
    assert_eq!(
        patched(documents + 8, &[4]),
        "doc_idx[2] is 3, below the 4 before it"
    );
    assert!(patched(documents + 16, &[2]).starts_with("doc_idx[2] is 2, the last must be"));
}

#[test]
fn cut_and_missing_files_are_named() {
    let (_folder, prefix) = small(Width::I32);
    let bin = fs::read(bin_path(&prefix)).unwrap();
    fs::write(bin_path(&prefix), &bin[..bin.len() - 1]).unwrap();
    let error = Indexed::open(&prefix).unwrap_err().to_string();
    assert!(
        error.contains("small.v1.bin, which has 15 bytes"),
        "{error}"
    );
    let idx = fs::read(idx_path(&prefix)).unwrap();
    for length in [0, 33, idx.len() - 1] {
        fs::write(idx_path(&prefix), &idx[..length]).unwrap();
        let error = Indexed::open(&prefix).unwrap_err().to_string();
        assert!(error.contains("small.v1.idx: length is"), "{error}");
    }
    fs::remove_file(idx_path(&prefix)).unwrap();
    let error = Indexed::open(&prefix).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot open") && error.ends_with("small.v1.idx"),
        "{error}"
    );
}
