//! Processes of the product: where the binaries are, how they are started, found and ended.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The folder of the built binaries: `target/<profile>/`, found from the running test.
pub fn binaries() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let folder = exe.parent().context("the test has a folder")?;
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(folder.to_owned())
}

/// One of our binaries, or what to do when it is not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = binaries()?.join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is not built: run `cargo build --workspace`",
        path.display()
    );
    Ok(path)
}

/// A process of ours that ends with its owner.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("failed to start {command:?}"))?;
        Ok(Self { child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        // Gone already is as good as killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Asks it to leave and waits for its exit code.
    pub fn terminate(&mut self, within: Duration) -> Result<Option<i32>> {
        signal(self.pid(), Signal::TERM)?;
        self.wait(within)
    }

    /// Waits for its exit code.
    pub fn wait(&mut self, within: Duration) -> Result<Option<i32>> {
        crate::wait::until("the process leaves", within, || {
            Ok(self.child.try_wait()?.map(|status| status.code()))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("a process id")?;
    kill_process(pid, signal).with_context(|| format!("failed to signal {}", pid.as_raw_nonzero()))
}

/// Every living process whose command line mentions `folder`: what this test has started, and no other.
pub fn processes_of(folder: &Path) -> Vec<u32> {
    let mark = folder.as_os_str().as_encoded_bytes().to_owned();
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != own)
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.windows(mark.len()).any(|part| part == mark))
        })
        .collect()
}

/// User and system time of a process so far, from `/proc/<pid>/stat` (in hundredths of a second).
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").context("a stat line")?.1;
    let ticks: Vec<f64> = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| Ok(field.parse()?))
        .collect::<Result<_>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Resident bytes of a process.
pub fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    kilobytes(&status, "VmRSS:")
}

/// Bytes of a process, those that it shares with others divided by their number.
pub fn proportional(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    kilobytes(&rollup, "Pss:")
}

fn kilobytes(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
