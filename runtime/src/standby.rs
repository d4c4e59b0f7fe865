//! A worker that is warm before it is needed: its libraries are loaded, and it waits to be told whose
//! rank it becomes.
//!
//! The agent holds the one end of its standard input; one line of JSON makes it a rank, the end of the
//! input ends it. So a process that waits never outlives its agent, and one that was told is like any
//! other rank. Nothing in here decides when one is started or taken.

use rebloom_core::id::RunId;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// What the line may hold at most, in bytes; a pipe takes it in one write.
const MOST_BYTES: u64 = 4096;

/// Whose rank a waiting process becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Of which run.
    pub run: RunId,
    /// Which rank.
    pub rank: u32,
    /// Its device on the node.
    pub slot: u32,
    /// Its flight page, made by the agent.
    pub flight: PathBuf,
    /// The file that takes its output from now on.
    pub log: PathBuf,
}

impl Assignment {
    /// Tells it to the process at the other end of `pipe`.
    ///
    /// # Errors
    /// Where the process is gone, or the names are too long for one line.
    pub fn tell(&self, mut pipe: impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        if line.len() as u64 > MOST_BYTES {
            return Err(io::Error::other("the assignment is too long for one line"));
        }
        pipe.write_all(&line)
    }

    /// Waits for an assignment; none where the input ends before there is one.
    ///
    /// # Errors
    /// Where the input is no such line, or cannot be read.
    pub fn hear(input: impl Read) -> io::Result<Option<Self>> {
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(input.take(MOST_BYTES)), &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line)?))
    }

    /// As [`Self::hear`] on standard input, which is let go of; output goes to the rank's log from then on.
    ///
    /// # Errors
    /// As there, and where the log cannot be opened.
    pub fn take_up() -> io::Result<Option<Self>> {
        let Some(assignment) = Self::hear(io::stdin())? else {
            return Ok(None);
        };
        let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty())?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&assignment.log)?;
        rustix::stdio::dup2_stdin(&nothing)?;
        rustix::stdio::dup2_stdout(&log)?;
        rustix::stdio::dup2_stderr(&log)?;
        Ok(Some(assignment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment() -> Assignment {
        Assignment {
            run: RunId::new("bloom").unwrap(),
            rank: 3,
            slot: 1,
            flight: "/var/lib/rebloom/flight/bloom/rank-003.page".into(),
            log: "/var/lib/rebloom/logs/bloom/rank-003.log".into(),
        }
    }

    #[test]
    fn what_is_told_is_heard() {
        let mut pipe = Vec::new();
        assignment().tell(&mut pipe).unwrap();
        assert_eq!(Assignment::hear(&*pipe).unwrap(), Some(assignment()));
    }

    #[test]
    fn an_input_that_ends_is_no_assignment_and_half_a_line_is_an_error() {
        assert_eq!(Assignment::hear(io::empty()).unwrap(), None);
        assert!(Assignment::hear(&b"{\"run\":\"bloom\""[..]).is_err());
        assert!(Assignment::hear(io::repeat(b'x')).is_err(), "bounded");
    }

    #[test]
    fn a_line_longer_than_a_pipe_takes_at_once_is_refused() {
        let mut long = assignment();
        long.log = "x".repeat(5000).into();
        assert!(long.tell(io::sink()).is_err());
    }
}
