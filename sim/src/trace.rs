//! What happened, one line a transition; a hash of all of it tells two worlds apart.

use rebloom_core::time::Instant;
use std::collections::VecDeque;
use std::fmt::{Arguments, Write as _};
use std::io::Write as _;

/// Lines kept for the report of a violation.
const TAIL: usize = 80;

/// The record of one world.
#[derive(Debug, Default)]
pub struct Trace {
    print: bool,
    events: u64,
    hash: u64,
    tail: VecDeque<String>,
}

impl Trace {
    /// An empty record; with `print`, every line also goes to standard output.
    pub fn new(print: bool) -> Self {
        Self {
            print,
            hash: 0xcbf2_9ce4_8422_2325,
            ..Self::default()
        }
    }

    /// Counts one event of the world.
    pub(crate) const fn count(&mut self) {
        self.events += 1;
    }

    /// Events so far.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// FNV-1a over every line so far.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, now: Instant, who: Arguments<'_>, what: Arguments<'_>) {
        let mut line = if self.tail.len() >= TAIL {
            self.tail.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        line.clear();
        let micros = now.as_nanos() / 1000;
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let events = self.events;
        let written = write!(line, "{events:>8} {seconds:>5}.{micros:06} ");
        let start = line.len();
        let written = written.and_then(|()| write!(line, "{who}"));
        while line.len() < start + 12 {
            line.push(' ');
        }
        written
            .and_then(|()| write!(line, " {what}"))
            .expect("writing to a string cannot fail");
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.print {
            // Whoever closed the other end has seen enough.
            self.print = writeln!(std::io::stdout(), "{line}").is_ok();
        }
        self.tail.push_back(line);
    }
}
