//! The ranks of this node as things of the system: process, flight page, connection, output.
//!
//! The supervisor says what happens to them; this carries it out and watches for their end.

use crate::driver::Input;
use crate::logs;
use crate::process::Process;
use crate::rank_link::Connection;
use crate::reader::{Reader, Source};
use crate::roster::Roster;
use crate::standby::Standby;
use crate::state::State;
use rebloom_core::cause::Exit;
use rebloom_core::flight::Sighting;
use rebloom_core::hang::rules::LogRule;
use rebloom_core::id::{Generation, Rank, RunId, Slot};
use rebloom_core::supervisor::Event;
use rebloom_core::time::Instant;
use rebloom_core::word::ToWorker;
use rebloom_proto::rank::ToRank;
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::flight::Tower;
use rebloom_runtime::standby::Assignment;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Makes every kernel launch wait for its kernel; read by CUDA when a process first uses it.
const BLOCKING: (&str, &str) = ("CUDA_LAUNCH_BLOCKING", "1");

/// Under which option a worker is told the agent's socket.
const SOCKET: &str = "--socket";

/// How workers are started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The worker's program.
    pub worker: PathBuf,
    /// Interface on which collectives run.
    pub interface: String,
    /// A worker that hears from no agent for this long fences itself (S1).
    pub orphan_after: Duration,
    /// Whether its slots are GPUs; otherwise ranks compute on the CPU.
    pub on_gpus: bool,
    /// Whether one process waits, warm, for the next rank that is needed.
    pub standby: bool,
    /// Where snapshots are kept in memory; none where they are not.
    pub snapshots: Option<PathBuf>,
}

impl Launch {
    /// The arguments that every worker of this node gets.
    pub fn common(&self, state: &State) -> impl Iterator<Item = OsString> {
        let orphan_after = self.orphan_after.as_millis().to_string();
        let device = if self.on_gpus { "cuda" } else { "cpu" };
        let pairs: [(&str, OsString); 4] = [
            ("--device", device.into()),
            (SOCKET, state.socket().into()),
            ("--orphan-after-ms", orphan_after.into()),
            ("--interface", self.interface.clone().into()),
        ];
        let snapshots = self.snapshots.clone();
        pairs
            .into_iter()
            .chain(snapshots.map(|root| ("--snapshots", root.into())))
            .flat_map(|(name, value)| [name.into(), value])
    }
}

#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    tower: Arc<Tower>,
    /// The newest word to it.
    word: Option<ToWorker>,
    connection: Option<Connection>,
    /// Whether nothing was said since it said hello.
    owed: bool,
    /// The highest number of its words that the supervisor took in.
    heard: Option<u64>,
}

/// Every rank of this node whose process lives.
#[derive(Debug)]
pub struct Ranks {
    state: Arc<State>,
    launch: Launch,
    roster: Arc<Roster>,
    inputs: mpsc::Sender<Input>,
    entries: BTreeMap<(RunId, Rank), Entry>,
    /// Processes that said hello and that nobody knows; the supervisor has them killed.
    strays: BTreeMap<u32, Process>,
    standby: Standby,
    reader: Reader,
}

impl Ranks {
    /// None yet.
    pub fn new(
        state: Arc<State>,
        launch: Launch,
        roster: Arc<Roster>,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let (entries, strays) = Default::default();
        let standby = Standby::new(Arc::clone(&state), launch.clone());
        Self {
            state,
            launch,
            standby,
            reader: Reader::default(),
            roster,
            inputs,
            entries,
            strays,
        }
    }

    /// Starts the process of a rank with a fresh flight page; with `async_off` each of its kernel
    /// launches blocks.
    pub fn spawn(&mut self, run: RunId, rank: Rank, slot: Slot, async_off: bool) -> Event {
        match self.try_spawn(&run, rank, slot, async_off) {
            Ok((process, tower)) => {
                let (pid, started) = (process.pid, process.started);
                self.keep(run.clone(), rank, process, tower);
                Event::Started {
                    run,
                    rank,
                    pid,
                    started,
                }
            }
            Err(error) => {
                let error = format!("{}: {error}", self.launch.worker.display());
                Event::NotStarted { run, rank, error }
            }
        }
    }

    fn try_spawn(
        &mut self,
        run: &RunId,
        rank: Rank,
        slot: Slot,
        async_off: bool,
    ) -> io::Result<(Process, Tower)> {
        let flight = self.state.page(run, rank);
        if let Some(folder) = flight.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let tower = Tower::create(&flight)?;
        let log = self.state.log(run, rank);
        let file = logs::begin(&log)?;
        let assignment = Assignment {
            run: run.clone(),
            rank: rank.0,
            slot: slot.0,
            flight,
            log,
        };
        self.standby.hold_off();
        // What waits warm was started with asynchronous launches.
        let warm = (!async_off)
            .then(|| self.standby.take(&assignment))
            .flatten();
        let process = match warm {
            Some(process) => process,
            None => self.start_cold(assignment, file, async_off)?,
        };
        Ok((process, tower))
    }

    fn start_cold(
        &self,
        assignment: Assignment,
        log: File,
        async_off: bool,
    ) -> io::Result<Process> {
        let pairs: [(&str, OsString); 4] = [
            ("--run", assignment.run.as_str().into()),
            ("--rank", assignment.rank.to_string().into()),
            ("--slot", assignment.slot.to_string().into()),
            ("--flight", assignment.flight.into()),
        ];
        let own = pairs
            .into_iter()
            .flat_map(|(name, value)| [name.into(), value]);
        let arguments: Vec<OsString> = own.chain(self.launch.common(&self.state)).collect();
        let variables: &[(&str, &str)] = if async_off { &[BLOCKING] } else { &[] };
        let worker = &self.launch.worker;
        let (process, _) = Process::spawn(worker, &arguments, variables, log, Stdio::null())?;
        Ok(process)
    }

    /// When [`Self::warm_up`] is to be called next.
    pub const fn warm_up_due(&self) -> Option<Instant> {
        self.standby.due()
    }

    /// Starts a process that waits for the next rank that is needed.
    pub fn warm_up(&mut self) {
        self.standby.warm_up();
    }

    /// Takes over a rank of the last life; the event says so where it is gone.
    pub fn adopt(&mut self, run: RunId, rank: Rank, pid: u32, started: u64) -> Option<Event> {
        match Process::adopt(pid, started) {
            Ok(Some(process)) => {
                match Tower::open(&self.state.page(&run, rank)) {
                    Ok(tower) => {
                        tracing::info!(%run, %rank, pid, "adopted a rank");
                        self.keep(run, rank, process, tower);
                        return None;
                    }
                    // A rank that cannot be fenced must not live (S1).
                    Err(error) => {
                        tracing::error!(%run, %rank, pid, %error, "no flight page; ended the rank");
                        if let Err(error) = process.kill() {
                            tracing::error!(%run, %rank, pid, %error, "cannot kill a rank");
                        }
                    }
                }
            }
            Ok(None) => tracing::info!(%run, %rank, pid, "a rank of the last life is gone"),
            Err(error) => tracing::error!(%run, %rank, pid, %error, "cannot adopt a rank"),
        }
        Some(Event::Exited {
            run,
            rank,
            pid,
            exit: Exit::Unknown,
            noticed_after_nanos: None,
        })
    }

    /// SIGKILLs what an earlier life started and did not live to write down: a rank that runs would say
    /// hello and be ended then, one that hangs would stay for ever.
    pub fn end_unknown(&self) {
        let socket = self.state.socket();
        let found = Process::all_with(SOCKET, socket.as_os_str());
        let found = found.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot look for ranks that nobody knows");
            Vec::new()
        });
        let known: BTreeSet<u32> = self
            .entries
            .values()
            .map(|entry| entry.process.pid)
            .collect();
        for process in found.iter().filter(|process| !known.contains(&process.pid)) {
            let pid = process.pid;
            tracing::warn!(pid, "ends a worker that nobody knows");
            if let Err(error) = process.kill() {
                tracing::error!(pid, %error, "cannot kill a worker");
            }
        }
    }

    fn keep(&mut self, run: RunId, rank: Rank, process: Process, tower: Tower) {
        let (process, tower) = (Arc::new(process), Arc::new(tower));
        self.roster.add(process.pid, run.clone(), rank);
        let (watched, inputs) = (Arc::clone(&process), self.inputs.clone());
        let page = Arc::clone(&tower);
        let whose = (run.clone(), rank);
        tokio::spawn(async move {
            let exit = watched.ended().await;
            let noticed = monotonic();
            let (run, rank) = whose;
            // The kernel does not say when a process ended, but its page says when it last ran.
            let alive = Some(page.read().pulse).filter(|pulse| *pulse > 0);
            let gone_since = alive.map(|pulse| noticed.since(Instant::from_nanos(pulse)));
            let event = Event::Exited {
                run,
                rank,
                pid: watched.pid,
                exit,
                noticed_after_nanos: gone_since
                    .and_then(|span| u64::try_from(span.as_nanos()).ok()),
            };
            // The driver is only gone when the agent ends.
            drop(inputs.send(Input::Event(event)).await);
        });
        let entry = Entry {
            process,
            tower,
            word: None,
            connection: None,
            owed: false,
            heard: None,
        };
        self.entries.insert((run, rank), entry);
    }

    /// Forgets a process that has ended; its flight page stays for whoever looks into it.
    pub fn ended(&mut self, run: &RunId, rank: Rank, pid: u32) {
        self.roster.remove(pid);
        let key = (run.clone(), rank);
        if self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.process.pid == pid)
        {
            self.entries.remove(&key);
        }
    }

    /// Whether any process lives.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A word came; whether the supervisor shall hear it (not where it heard it before).
    pub fn said(
        &mut self,
        (run, rank, pid): &(RunId, Rank, u32),
        connection: &Connection,
        sequence: u64,
        is_hello: bool,
    ) -> bool {
        let entry = self.entries.get_mut(&(run.clone(), *rank));
        let Some(entry) = entry.filter(|entry| entry.process.pid == *pid) else {
            if is_hello {
                self.note_stray(*pid);
            }
            return is_hello;
        };
        if is_hello {
            entry.connection = Some(connection.clone());
            entry.owed = true;
            return true;
        }
        entry.heard.is_none_or(|heard| heard < sequence)
    }

    /// The supervisor has taken a word in. After a hello to which it had nothing to say, the worker
    /// hears its last word again: it may not have before its old connection broke.
    pub fn heard(&mut self, (run, rank, pid): &(RunId, Rank, u32), sequence: u64) {
        let entry = self.entries.get_mut(&(run.clone(), *rank));
        let Some(entry) = entry.filter(|entry| entry.process.pid == *pid) else {
            return;
        };
        entry.heard = entry.heard.max(Some(sequence));
        if std::mem::take(&mut entry.owed)
            && let (Some(connection), Some(word)) = (&entry.connection, &entry.word)
        {
            send(connection, ToRank::Word(word.clone()));
        }
    }

    /// A connection is over.
    pub fn hung_up(&mut self, (run, rank, pid): &(RunId, Rank, u32), number: u64) {
        self.strays.remove(pid);
        if let Some(entry) = self.entries.get_mut(&(run.clone(), *rank))
            && entry
                .connection
                .as_ref()
                .is_some_and(|connection| connection.number == number)
        {
            entry.connection = None;
        }
    }

    fn note_stray(&mut self, pid: u32) {
        match Process::stray(pid) {
            Ok(Some(process)) => drop(self.strays.insert(pid, process)),
            Ok(None) => {}
            Err(error) => tracing::warn!(pid, %error, "cannot look at a process that said hello"),
        }
    }

    /// Says a word to a rank, now or when it is connected; what only counts now is not said later.
    pub fn tell(&mut self, run: &RunId, rank: Rank, word: ToWorker) {
        if let Some(entry) = self.entries.get_mut(&(run.clone(), rank)) {
            if let Some(connection) = &entry.connection {
                send(connection, ToRank::Word(word.clone()));
            }
            if !matches!(word, ToWorker::Heard(_)) {
                entry.word = Some(word);
                entry.owed = false;
            }
        }
    }

    /// Writes a fence into a rank's page.
    pub fn fence(&self, run: &RunId, rank: Rank, below: Generation) {
        if let Some(tower) = self.tower(run, rank) {
            tower.fence_below(below);
        }
    }

    /// Writes a safe stop into a rank's page.
    pub fn stop_safely(&self, run: &RunId, rank: Rank, generation: Generation) {
        if let Some(tower) = self.tower(run, rank) {
            tower.stop_safely(generation);
        }
    }

    fn tower(&self, run: &RunId, rank: Rank) -> Option<&Tower> {
        self.entries
            .get(&(run.clone(), rank))
            .map(|entry| entry.tower.as_ref())
    }

    /// SIGKILLs the process of a rank, or a stray that claimed to be it.
    pub fn kill(&mut self, run: &RunId, rank: Rank, pid: u32) {
        let stray = self.strays.remove(&pid);
        let known = self
            .entries
            .get(&(run.clone(), rank))
            .map(|entry| &*entry.process);
        let process = known
            .filter(|process| process.pid == pid)
            .or(stray.as_ref());
        if let Some(Err(error)) = process.map(Process::kill) {
            tracing::error!(%run, %rank, pid, %error, "cannot kill a rank");
        }
    }

    /// SIGKILLs every rank.
    pub fn kill_all(&self) {
        for ((run, rank), entry) in &self.entries {
            if let Err(error) = entry.process.kill() {
                tracing::error!(%run, %rank, pid = entry.process.pid, %error, "cannot kill a rank");
            }
        }
    }

    /// What every page says now.
    pub fn pages(&self) -> Vec<(RunId, Sighting)> {
        let entries = self.entries.iter();
        entries
            .map(|((run, rank), entry)| {
                (
                    run.clone(),
                    Sighting {
                        rank: *rank,
                        page: entry.tower.read(),
                    },
                )
            })
            .collect()
    }

    /// What ranks have written since the last look, by the log rules of their runs.
    pub fn read_output<'a>(
        &mut self,
        rules: impl Iterator<Item = (&'a RunId, Rank, Generation, &'a [LogRule])>,
    ) -> Vec<Event> {
        let entries = &self.entries;
        self.reader.keep(|whose| entries.contains_key(whose));
        let mut events = Vec::new();
        for (run, rank, generation, rules) in rules {
            let Some(entry) = entries.get(&(run.clone(), rank)) else {
                continue;
            };
            let source = Source {
                run,
                rank,
                pid: entry.process.pid,
                is_mine: entry.process.is_child(),
                generation,
                path: &self.state.log(run, rank),
            };
            if let Some(reading) = self.reader.read(source, rules) {
                events.push(Event::Read {
                    run: run.clone(),
                    rank,
                    matches: reading.matches,
                    broken: reading.broken,
                });
            }
        }
        events
    }

    /// Cuts output that has grown too long.
    pub fn trim_logs(&self) {
        for (run, rank) in self.entries.keys() {
            if let Err(error) = logs::trim(&self.state.log(run, *rank), logs::MOST_BYTES) {
                tracing::warn!(%run, %rank, %error, "cannot cut a log");
            }
        }
    }
}

/// A connection whose worker does not read is cut: the worker comes again and is told anew.
fn send(connection: &Connection, word: ToRank) {
    if connection.words.try_send(word).is_err() {
        tracing::warn!(
            connection = connection.number,
            "a worker does not read its words"
        );
    }
}
