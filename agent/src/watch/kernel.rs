//! The kernel log: XIDs, as they come.

use super::Look;
use super::gpu::Slots;
use rebloom_core::health::gauge::Reading;
use rebloom_core::health::kernel_log;
use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::{Errno, read};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Records that are read at one look; a log that is faster is caught up with at the next.
const MOST_RECORDS: usize = 4096;
/// No record of /dev/kmsg is longer (`CONSOLE_EXT_LOG_MAX` of the Linux kernel).
const LONGEST: usize = 8192;

/// /dev/kmsg, from now on.
#[derive(Debug)]
pub struct Log(OwnedFd);

impl Log {
    /// Opens it behind its last record: what came before this life of the agent was seen by the last
    /// one, or is over.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = open(path, flags, Mode::empty())?;
        seek(&log, SeekFrom::End(0))?;
        Ok(Self(log))
    }

    /// The XIDs since the last look. Each read gives one record.
    pub fn look(&mut self, slots: &Slots) -> Look {
        let mut look = Look::default();
        let mut record = vec![0; LONGEST];
        for _ in 0..MOST_RECORDS {
            match read(&self.0, &mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                    if let Some(line) = kernel_log::xid(&text) {
                        let device = slots.of(&line.pci);
                        look.readings.push(Reading::Xid { device, line });
                    }
                }
                // Records were overwritten before they were read; the next read goes on behind them.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    look.is_blind = true;
                    break;
                }
            }
        }
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rebloom_core::id::Slot;
    use std::io::Write;

    #[test]
    fn only_what_comes_from_now_on_is_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let xid =
            |code: u32| format!("3,1,1,-;NVRM: Xid (PCI:0000:3B:00): {code}, pid=1, it broke\n");
        file.write_all(xid(31).as_bytes()).unwrap();
        let mut log = Log::open(file.path()).unwrap();
        let slots = Slots::default();
        slots.set(vec![
            Some("0000:17:00".to_owned()),
            Some("0000:3b:00".to_owned()),
        ]);
        assert_eq!(log.look(&slots), Look::default());
        file.write_all(xid(79).as_bytes()).unwrap();
        let seen = log.look(&slots).readings;
        let [Reading::Xid { device, line }] = seen.as_slice() else {
            panic!("{seen:?}");
        };
        assert_eq!((*device, line.code), (Some(Slot(1)), 79));
        assert_eq!(log.look(&slots), Look::default());
    }

    #[test]
    fn a_log_that_cannot_be_read_is_no_quiet_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).unwrap();
        assert!(log.look(&Slots::default()).is_blind);
    }
}
