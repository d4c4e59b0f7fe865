//! A file line by line, without ever holding more than one line of bounded length.

use super::{LONGEST, Reason, text, unreadable};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

/// One line, without its end.
pub(super) struct Line {
    pub(super) text: String,
    /// Whether its end was there.
    whole: bool,
}

impl Line {
    /// The text in a field of an object in JSON.
    pub(super) fn field(self, field: &str) -> Result<String, Reason> {
        if self.text.trim().is_empty() {
            return Err(Reason::Empty);
        }
        let mut value: Value = serde_json::from_str(&self.text).map_err(|e| {
            if e.is_eof() && !self.whole {
                Reason::CutOff {
                    at: self.text.len() as u64,
                }
            } else {
                Reason::NotJson {
                    error: e.to_string(),
                }
            }
        })?;
        match value.get_mut(field).map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(Reason::NoText {
                field: field.to_owned(),
            }),
        }
    }
}

/// The lines of a file, with their numbers from 1 on. An error of the system ends them.
pub(super) struct Lines {
    file: BufReader<File>,
    line: u64,
    ended: bool,
}

impl Lines {
    pub(super) fn new(file: File) -> Self {
        Self {
            file: BufReader::with_capacity(1 << 18, file),
            line: 0,
            ended: false,
        }
    }

    /// The next line; none at the end.
    fn read(&mut self) -> std::io::Result<Option<Result<Line, Reason>>> {
        let mut bytes = Vec::new();
        let length = (&mut self.file)
            .take(LONGEST)
            .read_until(b'\n', &mut bytes)? as u64;
        if length == 0 {
            return Ok(None);
        }
        let whole = bytes.ends_with(b"\n");
        if length == LONGEST && !whole {
            let bytes = length + self.skip_line()?;
            return Ok(Some(Err(Reason::TooLong { bytes })));
        }
        if whole {
            bytes.pop();
        }
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
        Ok(Some(text(bytes).map(|text| Line { text, whole })))
    }

    /// Passes over the rest of a line; returns how long it was.
    fn skip_line(&mut self) -> std::io::Result<u64> {
        let mut passed = 0;
        loop {
            let buffer = self.file.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(buffer.len(), |end| end + 1);
            self.file.consume(taken);
            passed += taken as u64;
            if end.is_some() || taken == 0 {
                return Ok(passed);
            }
        }
    }
}

impl Iterator for Lines {
    type Item = (u64, Result<Line, Reason>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        self.line += 1;
        let line = self.read().unwrap_or_else(|error| {
            self.ended = true;
            Some(Err(unreadable(&error)))
        })?;
        Some((self.line, line))
    }
}
