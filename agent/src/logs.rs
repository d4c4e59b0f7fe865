//! Output of the ranks: one file a rank, which the worker holds itself, and a few older ones.
//!
//! The worker appends to its own descriptor, so its output goes on while no agent is there. A new
//! process begins a new file; a file that grows too long is copied away and cut, which an appending
//! writer does not notice. Nothing here reads what the lines say.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A file longer than this is cut.
pub const MOST_BYTES: u64 = 16 << 20;
/// Older files that are kept beside it.
const KEPT: u32 = 3;

fn older(path: &Path, age: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    PathBuf::from(name)
}

fn missing_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Moves every older file one further, so that `.1` is free.
fn shift(path: &Path) -> io::Result<()> {
    for age in (1..KEPT).rev() {
        missing_is_fine(std::fs::rename(older(path, age), older(path, age + 1)))?;
    }
    Ok(())
}

/// A new file for a new process; the output of the one before becomes `.1`.
pub fn begin(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if path.exists() {
        shift(path)?;
        std::fs::rename(path, older(path, 1))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// Cuts the file of a running process where it has grown beyond `most` bytes.
pub fn trim(path: &Path, most: u64) -> io::Result<()> {
    let length = match path.metadata() {
        Ok(facts) => facts.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if length > most {
        shift(path)?;
        std::fs::copy(path, older(path, 1))?;
        OpenOptions::new().write(true).open(path)?.set_len(0)?;
    }
    Ok(())
}

/// Some of a rank's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it begins.
    pub offset: u64,
    /// The bytes.
    pub data: Vec<u8>,
    /// Whether the file goes on after them.
    pub more: bool,
}

/// Where to begin reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At this byte; beyond the end (the file was cut) means at the first.
    Offset(u64),
    /// This many lines before the end, as far as they fit in what may be read.
    Tail(u32),
}

/// The output of the process before the present one, or what was cut off.
pub fn previous(path: &Path) -> PathBuf {
    older(path, 1)
}

/// Up to `most` bytes. A missing file is empty.
pub fn read(path: &Path, from: From, most: u64) -> io::Result<Part> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Part {
                offset: 0,
                data: Vec::new(),
                more: false,
            });
        }
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let mut offset = match from {
        From::Offset(offset) if offset > length => 0,
        From::Offset(offset) => offset,
        From::Tail(_) => length.saturating_sub(most),
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut data = Vec::new();
    file.take(most).read_to_end(&mut data)?;
    if let From::Tail(lines) = from {
        let skipped = before_last_lines(&data, lines);
        data.drain(..skipped);
        offset += skipped as u64;
    }
    let more = offset + (data.len() as u64) < length;
    Ok(Part { offset, data, more })
}

/// How many bytes stand before the last `lines` lines.
fn before_last_lines(data: &[u8], lines: u32) -> usize {
    let body = data.strip_suffix(b"\n").unwrap_or(data);
    let wanted = usize::try_from(lines)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let ends = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).nth(wanted).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_new_process_keeps_the_output_of_the_ones_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/rank-000.log");
        for life in 0..6 {
            writeln!(begin(&path).unwrap(), "life {life}").unwrap();
        }
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(text(&path), "life 5\n");
        assert_eq!(text(&older(&path, 1)), "life 4\n");
        assert_eq!(text(&older(&path, 3)), "life 2\n");
        assert!(!older(&path, 4).exists());
    }

    #[test]
    fn a_running_writer_goes_on_at_the_start_of_a_file_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rank-000.log");
        let mut writer = begin(&path).unwrap();
        writer.write_all(&[b'a'; 100]).unwrap();
        trim(&path, 100).unwrap();
        assert_eq!(path.metadata().unwrap().len(), 100);
        writer.write_all(b"b").unwrap();
        trim(&path, 100).unwrap();
        writer.write_all(b"after").unwrap();
        assert_eq!(read(&path, From::Offset(0), 100).unwrap().data, b"after");
        assert_eq!(older(&path, 1).metadata().unwrap().len(), 101);
    }

    #[test]
    fn a_part_is_bounded_and_a_missing_file_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let part = |offset, data: &str, more| Part {
            offset,
            data: data.into(),
            more,
        };
        assert_eq!(read(&path, From::Offset(5), 5).unwrap(), part(0, "", false));
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(
            read(&path, From::Offset(2), 3).unwrap(),
            part(2, "234", true)
        );
        assert_eq!(
            read(&path, From::Offset(10), 3).unwrap(),
            part(10, "", false)
        );
        assert_eq!(
            read(&path, From::Offset(50), 3).unwrap(),
            part(0, "012", true)
        );
    }

    #[test]
    fn the_last_lines_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let tail = |lines, most| {
            let part = read(&path, From::Tail(lines), most).unwrap();
            assert!(!part.more);
            (part.offset, String::from_utf8(part.data).unwrap())
        };
        assert_eq!(tail(1, 99), (8, "three\n".to_owned()));
        assert_eq!(tail(2, 99), (4, "two\nthree\n".to_owned()));
        assert_eq!(tail(9, 99), (0, "one\ntwo\nthree\n".to_owned()));
        assert_eq!(tail(9, 7), (7, "\nthree\n".to_owned()));
    }
}
