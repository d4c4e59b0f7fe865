#![allow(
    unsafe_code,
    reason = "a session is entered after fork, a pidfd given to the reactor, descriptors borrowed"
)]
//! One rank's process: started in a session of its own, watched through a pidfd, ended for good.
//!
//! A process is named by pid *and* kernel start time; nothing here signals a pid whose start time was
//! not checked, so a reused pid is never hit. The worker gets its log file as its own descriptor and
//! no pipe to the agent, so the death of the agent changes nothing for it. Decides nothing.

use rebloom_core::cause::Exit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open,
    pidfd_send_signal, waitid,
};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Variables that a worker gets from the agent's environment; it sees no other.
const KEPT: [&str; 9] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "TZ",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUBLAS_WORKSPACE_CONFIG",
];
/// Beginnings of further variables that a worker gets: how its libraries are tuned.
const KEPT_PREFIXES: [&str; 10] = [
    "RUST_", "OMP_", "MKL_", "GLOO_", "NCCL_", "CUDA_", "NVIDIA_", "TORCH_", "ASAN_", "REBLOOM_",
];

/// What of `/proc/<pid>/stat` names a process for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its session; a rank leads its own.
    pub session: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// Whether it has ended and only waits to be reaped.
    pub zombie: bool,
}

impl Stat {
    /// Reads it; none where there is no such process.
    pub fn read(pid: u32) -> io::Result<Option<Self>> {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(text) => Self::parse(&text)
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "odd /proc/pid/stat")),
            // ESRCH: it ended while its file was open.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        // The name stands in parentheses and may hold anything, also spaces and parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            zombie: matches!(*fields.first()?, "Z" | "X"),
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

/// A rank's process that was started here or adopted.
#[derive(Debug)]
pub struct Process {
    /// Process id; also that of its session and its process group.
    pub pid: u32,
    /// Kernel start time.
    pub started: u64,
    /// Whether it is a child of this life of the agent, so that its exit status can be had.
    child: bool,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Starts `program` in its own session, its output appended to `log`, with these variables on top
    /// of those it gets from the agent; with the other end of its standard input, where that is a pipe.
    /// Needs a tokio runtime.
    pub fn spawn(
        program: &Path,
        arguments: &[OsString],
        variables: &[(&str, &str)],
        log: File,
        stdin: Stdio,
    ) -> io::Result<(Self, Option<ChildStdin>)> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_kept(name)))
            .envs(variables.iter().copied())
            .stdin(stdin)
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: both are plain system calls, async-signal-safe, and touch no memory.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(rebloom_runtime::priority::ordinary()?)
            });
        }
        let mut child = command.spawn()?;
        let pipe = child.stdin.take();
        // The child is not reaped before this, so the pid is still its own.
        let process = Self::open(child.id(), true).and_then(|process| {
            process.ok_or_else(|| io::Error::other("it is gone before it was reaped"))
        });
        if process.is_err() {
            // Nobody would watch it. (An error here means that it is gone already.)
            drop(child.kill().and_then(|()| child.wait()));
        }
        Ok((process?, pipe))
    }

    /// Whether this life of the agent started it.
    pub const fn is_child(&self) -> bool {
        self.child
    }

    /// Takes over a process that an earlier life of the agent started; none where it is gone.
    pub fn adopt(pid: u32, started: u64) -> io::Result<Option<Self>> {
        let process = Self::open(pid, false)?;
        Ok(process.filter(|process| process.started == started))
    }

    /// A process that leads its own session, as a rank does, whenever it started.
    pub fn stray(pid: u32) -> io::Result<Option<Self>> {
        Self::open(pid, false)
    }

    /// Every process that leads its own session and was started with this option and value.
    pub fn all_with(option: &str, value: &OsStr) -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // (One that has ended meanwhile has none.)
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            if words
                .windows(2)
                .any(|pair| pair == [option.as_bytes(), value.as_bytes()])
            {
                all.extend(Self::stray(pid)?);
            }
        }
        Ok(all)
    }

    fn open(pid: u32, child: bool) -> io::Result<Option<Self>> {
        let Some(id) = to_pid(pid) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(id, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Read after the descriptor is open: it is this process or none that the file now names.
        let Some(stat) = Stat::read(pid)? else {
            return Ok(None);
        };
        if !child && stat.session != pid {
            return Ok(None);
        }
        // SAFETY: an owned descriptor names the same open file for as long as it lives.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Some(Self {
            pid,
            started: stat.started,
            child,
            pidfd,
        }))
    }

    /// Waits until the process has ended, ends what is left of its group, and reaps it.
    pub async fn ended(&self) -> Exit {
        loop {
            match self.pidfd.readable().await {
                Ok(mut ready) => {
                    if let Some(exit) = self.reap() {
                        return exit;
                    }
                    ready.clear_ready();
                }
                // The reactor is going down with the agent; nobody will hear the answer.
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn reap(&self) -> Option<Exit> {
        if !self.has_ended() {
            return None;
        }
        if !self.child {
            // Its status went, or goes, to whoever reaps it.
            return Some(Exit::Unknown);
        }
        // A dead leader that is not reaped keeps its number, so its group is still its own.
        self.signal_group();
        loop {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            return match waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options) {
                Ok(None) => None,
                Ok(Some(status)) => {
                    Some(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Exit::Code(code),
                        (None, Some(signal)) => Exit::Signal(signal),
                        (None, None) => Exit::Unknown,
                    })
                }
                Err(Errno::INTR) => continue,
                Err(_) => Some(Exit::Unknown),
            };
        }
    }

    /// Whether it has ended: asks the kernel, since readiness may be reported once too often.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
    }

    /// SIGKILLs the process and its whole group.
    pub fn kill(&self) -> io::Result<()> {
        let ours = Stat::read(self.pid)?.is_some_and(|stat| stat.started == self.started);
        if ours {
            self.signal_group();
        }
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn signal_group(&self) {
        if let Some(group) = to_pid(self.pid) {
            match kill_process_group(group, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => {
                    tracing::warn!(pid = self.pid, %error, "cannot signal the process group");
                }
            }
        }
    }
}

/// Keeps every descriptor that this process was started with, but for the standard three, from its
/// own children: whoever waits for the end of such a pipe shall not wait for ranks that live on.
pub fn close_on_exec() -> io::Result<()> {
    let numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // SAFETY: borrowed for one call; a number that was closed meanwhile is answered with EBADF.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        match fcntl_setfd(descriptor, FdFlags::CLOEXEC) {
            Ok(()) | Err(Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn is_kept(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let tail = "S 1 77 78 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let stat = Stat::parse(&format!("42 (a) b (c)) {tail}")).unwrap();
        assert_eq!(
            stat,
            Stat {
                session: 78,
                started: 4711,
                zombie: false
            }
        );
        assert_eq!(Stat::parse("42 (x"), None);
    }

    #[test]
    fn secrets_of_the_agent_do_not_reach_a_worker() {
        assert!(is_kept(OsStr::new("PATH")) && is_kept(OsStr::new("NCCL_DEBUG")));
        assert!(
            !is_kept(OsStr::new("AWS_SECRET_ACCESS_KEY")) && !is_kept(OsStr::new("LD_PRELOAD"))
        );
    }
}
