//! The probes: each looks from a thread of its own, which may hang, and a task beside the driver turns
//! what they read into signals.
//!
//! A thread that does not come back is told as a probe that hangs, and is asked again when it is
//! back; nothing else waits for it. What a reading means is for core to say.

pub mod gpu;
pub mod host;
pub mod kernel;
pub mod quota;

use crate::driver::Input;
use rebloom_core::health::gauge::{Gauge, Reading};
use rebloom_core::health::rule::limit;
use rebloom_core::health::signal::{Probe, Signal};
use rebloom_core::supervisor::Event;
use rebloom_core::time::Instant;
use rebloom_runtime::clock::{Wall, monotonic};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// How often the kernel log is read, and hanging probes are looked for.
const TICK: Duration = Duration::from_secs(1);

/// How far the controller's clock is from this node's monotonic one, by its last welcome.
#[derive(Debug, Clone, Default)]
pub struct Reference(Arc<Mutex<Option<(Instant, Instant)>>>);

impl Reference {
    /// The controller's clock says `now`.
    pub fn set(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((monotonic(), now));
    }

    /// By how many nanoseconds the node's wall clock is ahead of the controller's.
    fn ahead(&self) -> Option<i64> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (heard, told) = known?;
        let theirs = told + monotonic().since(heard);
        let ours = Wall::starting_at_least(Instant::ZERO).now();
        let nanos = i128::from(ours.as_nanos()) - i128::from(theirs.as_nanos());
        Some(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX }))
    }
}

/// What the probes look at.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Replaces the name under which NVML is looked for.
    pub nvml: Option<OsString>,
    /// Whether the node has GPUs to ask for.
    pub has_gpus: bool,
    /// The kernel log.
    pub kernel_log: PathBuf,
    /// The controller's clock.
    pub reference: Reference,
}

/// What a probe saw at one look.
#[derive(Debug, Default, PartialEq)]
pub struct Look {
    /// What it read.
    pub readings: Vec<Reading>,
    /// Whether it could not see all that it looks at.
    pub is_blind: bool,
}

impl From<Vec<Reading>> for Look {
    fn from(readings: Vec<Reading>) -> Self {
        Self {
            readings,
            is_blind: false,
        }
    }
}

/// What a probe is to look at now.
enum Errand {
    Look,
    /// The directories where checkpoints are kept.
    LookAt(Vec<String>),
}

/// A probe's thread.
struct Prober {
    errands: std::sync::mpsc::SyncSender<Errand>,
    every: Duration,
    next: Instant,
    is_out: bool,
}

/// Watches until the driver is gone.
pub async fn run(watch: Watch, inputs: mpsc::Sender<Input>) {
    let (found, mut findings) = mpsc::channel::<(Probe, Look)>(64);
    let mut probers = probers(&watch, &found);
    let mut gauge = Gauge::default();
    let first = gauge.begin(host::boot());
    if tell(&inputs, vec![first]).await.is_err() {
        return;
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dropped = 0;
    loop {
        let signals = tokio::select! {
            Some((probe, look)) = findings.recv() => {
                let now = monotonic();
                if let Some(prober) = probers.get_mut(&probe) {
                    prober.is_out = false;
                }
                let mut signals = gauge.returned(now, probe, look.is_blind);
                for reading in look.readings {
                    signals.extend(gauge.read(now, reading));
                }
                signals
            }
            _ = ticks.tick() => {
                let now = monotonic();
                let is_due = |prober: &Prober| !prober.is_out && prober.next <= now;
                let directories = if probers.get(&Probe::Storage).is_some_and(is_due) {
                    let Some(directories) = directories(&inputs).await else { return };
                    directories
                } else {
                    Vec::new()
                };
                for (probe, prober) in &mut probers {
                    if !is_due(prober) {
                        continue;
                    }
                    let errand = match probe {
                        Probe::Storage => Errand::LookAt(directories.clone()),
                        Probe::Gpu | Probe::Kernel | Probe::Host => Errand::Look,
                    };
                    gauge.asked(now, *probe);
                    prober.next = now + prober.every;
                    // A thread that is gone does not answer, which is told.
                    prober.is_out = true;
                    drop(prober.errands.try_send(errand));
                }
                gauge.watch(now)
            }
        };
        if gauge.dropped() > dropped {
            dropped = gauge.dropped();
            tracing::warn!(dropped, "more signals than may be told");
        }
        if tell(&inputs, signals).await.is_err() {
            return;
        }
    }
}

async fn tell(
    inputs: &mpsc::Sender<Input>,
    signals: Vec<Signal>,
) -> Result<(), mpsc::error::SendError<Input>> {
    for signal in signals {
        // A first look tells much that is not so.
        if signal.cleared {
            tracing::debug!(%signal, "a probe saw something");
        } else {
            tracing::info!(%signal, "a probe saw something");
        }
        inputs.send(Input::Event(Event::Signal(signal))).await?;
    }
    Ok(())
}

/// Where the node's runs keep their checkpoints; none where the driver is gone.
async fn directories(inputs: &mpsc::Sender<Input>) -> Option<Vec<String>> {
    let (answer, standing) = tokio::sync::oneshot::channel();
    inputs.send(Input::Joining { answer }).await.ok()?;
    let standing = standing.await.ok()?;
    let mut directories: Vec<_> = standing.directories.into_iter().map(|(_, at)| at).collect();
    directories.sort();
    directories.dedup();
    Some(directories)
}

fn probers(watch: &Watch, found: &mpsc::Sender<(Probe, Look)>) -> BTreeMap<Probe, Prober> {
    let mut probers = BTreeMap::new();
    let slots = Arc::new(gpu::Slots::default());
    if watch.has_gpus {
        let mut gpus = gpu::Gpus::new(watch.nvml.clone(), Arc::clone(&slots));
        let prober = thread(Probe::Gpu, limit::EVERY, found, move |_| gpus.look());
        probers.insert(Probe::Gpu, prober);
    }
    match kernel::Log::open(&watch.kernel_log) {
        Ok(mut log) => {
            let prober = thread(Probe::Kernel, TICK, found, move |_| log.look(&slots));
            probers.insert(Probe::Kernel, prober);
        }
        Err(error) if watch.has_gpus => {
            let path = watch.kernel_log.display();
            tracing::warn!(%path, %error, "cannot read the kernel log; XIDs are not seen");
        }
        Err(_) => {}
    }
    let reference = watch.reference.clone();
    let prober = thread(Probe::Host, limit::EVERY, found, move |_| {
        host::look(reference.ahead()).into()
    });
    probers.insert(Probe::Host, prober);
    let prober = thread(Probe::Storage, limit::EVERY, found, |errand| match errand {
        Errand::LookAt(directories) => host::storage(&directories).into(),
        Errand::Look => Look::default(),
    });
    probers.insert(Probe::Storage, prober);
    probers
}

/// A thread that looks when it is told to. It ends with the task that tells it.
fn thread(
    probe: Probe,
    every: Duration,
    found: &mpsc::Sender<(Probe, Look)>,
    mut look: impl FnMut(Errand) -> Look + Send + 'static,
) -> Prober {
    let (errands, told) = std::sync::mpsc::sync_channel::<Errand>(1);
    let found = found.clone();
    std::thread::spawn(move || {
        while let Ok(errand) = told.recv() {
            if found.blocking_send((probe, look(errand))).is_err() {
                return;
            }
        }
    });
    Prober {
        errands,
        every,
        next: monotonic(),
        is_out: false,
    }
}
