//! A rank without a model: it meets the others, waits out its steps, and keeps a small state that a wrong
//! resume would show in.
//!
//! Everything around it is real: the member, the link, the rendezvous store, the flight page, shards that
//! are sealed and verified. Ranks share no collective; they step at the same moments, counted from when
//! the last of them came to the store (all on one machine, so on one clock). It takes a few megabytes and
//! a few wake-ups a second.

mod state;

pub use state::State;

use crate::training;
use rebloom_core::cause::Unsound;
use rebloom_core::checkpoint::{CheckpointId, Shard};
use rebloom_core::eval::{Evaluation, Score};
use rebloom_core::guard::{GuardAction, Samples, Spike};
use rebloom_core::id::{Digest, Generation, Rank, Step};
use rebloom_core::layout::Layout;
use rebloom_core::member::{LoadTrouble, Stepped, Trouble};
use rebloom_core::replicas::{self, Differs};
use rebloom_core::snapshot::Recall;
use rebloom_core::spec::RunSpec;
use rebloom_core::time::Instant;
use rebloom_core::word::Go;
use rebloom_format::manifest::{self, MANIFEST};
use rebloom_rank::store::{AgentStore, Store, StoreError};
use rebloom_rank::{Done, Place, Saved, Snapped, Work};
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::files;
use rebloom_runtime::shard_hash::ShardHash;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The variable that says how many milliseconds a step takes.
pub const STEP_MS: &str = "REBLOOM_LIGHT_STEP_MS";
/// The variable that names samples which have the loss run away, as `FROM UNTIL`.
pub const BAD: &str = "REBLOOM_LIGHT_BAD";
/// The variable that names a rank which comes to hold something else than the others, and after which step, in the first
/// generation; where it is set, ranks compare what they hold before each save.
pub const ODD: &str = "REBLOOM_LIGHT_ODD";
/// What a step takes without it.
const STEP: Duration = Duration::from_millis(100);
/// How far ahead the ranks agree to stop: longer than it takes all of them to hear of it.
const AHEAD: Duration = Duration::from_secs(2);

/// A run of light ranks. Nothing of its model or data is ever looked at; it only has to make sense.
pub fn spec(name: &str, layout: Layout, checkpoints: &Path) -> anyhow::Result<RunSpec> {
    let mut spec = training::spec(name, Path::new("/of/no/concern"), checkpoints)?;
    spec.layout = layout;
    spec.model.layers = layout.pipeline;
    spec.train.global_batch = 2 * layout.data;
    spec.train.micro_batch = 1;
    spec.checkpoint.keep = 3;
    Ok(spec)
}

/// The work of one light rank.
#[derive(Debug)]
pub struct Light {
    place: Place,
    socket: PathBuf,
    step: Duration,
    bad: Option<[u64; 2]>,
    odd: Option<[u64; 2]>,
    at: Option<Standing>,
}

/// Where it stands in its generation.
#[derive(Debug)]
struct Standing {
    go: Go,
    /// When the gang was whole.
    began: Instant,
    /// Steps since.
    steps: u32,
    state: State,
    /// The step after which the gang stops, once it agreed on one.
    last: Option<Step>,
}

/// What went wrong with the store, in the member's words.
fn trouble(error: StoreError) -> Trouble {
    match error {
        StoreError::Fenced(_) => Trouble::Fenced,
        StoreError::Broken(error) => Trouble::PeerLost { error },
    }
}

fn broken(what: &str) -> Trouble {
    Trouble::PeerLost {
        error: what.to_owned(),
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Two numbers in a variable.
fn pair(variable: &str) -> Option<[u64; 2]> {
    let text = std::env::var(variable).ok()?;
    let (first, second) = text.split_once(' ')?;
    Some([first.parse().ok()?, second.parse().ok()?])
}

/// The directory of a checkpoint.
fn directory(go: &Go, id: CheckpointId) -> PathBuf {
    Path::new(&go.spec.checkpoint.directory)
        .join(go.spec.name.as_str())
        .join(id.directory())
}

impl Light {
    /// A rank behind this agent's socket; the length of a step is [`STEP_MS`].
    pub fn new(place: Place, socket: &Path) -> Self {
        let millis = std::env::var(STEP_MS).ok();
        let millis = millis.and_then(|millis| millis.parse().ok());
        Self {
            place,
            socket: socket.to_owned(),
            step: millis.map_or(STEP, Duration::from_millis),
            bad: pair(BAD),
            odd: pair(ODD),
            at: None,
        }
    }

    /// The store of a generation; its connection ends with it.
    fn store(&self, go: &Go) -> AgentStore {
        AgentStore::new(
            self.place.runtime.clone(),
            &self.socket,
            &go.spec.name,
            go.generation,
            Arc::clone(&self.place.fence),
        )
    }

    /// When the last rank of the generation came; the last one says so to the others.
    fn meet(&self, go: &Go) -> Result<Instant, Trouble> {
        let store = self.store(go);
        let here = store.add("here", 1).map_err(trouble)?;
        if here == i64::from(go.spec.layout.world()) {
            let now = monotonic().as_nanos().to_string();
            store.set("whole", now.as_bytes()).map_err(trouble)?;
        }
        let whole = store.get("whole").map_err(trouble)?;
        number(&whole)
            .map(Instant::from_nanos)
            .ok_or_else(|| broken("the key `whole` holds no number"))
    }

    /// The step after which the gang stops: the first rank that was asked to says which.
    fn agree(&self, at: &Standing) -> Result<Step, Trouble> {
        let ahead = AHEAD.as_nanos().div_ceil(self.step.as_nanos().max(1));
        let mine = at.state.step.0 + u64::try_from(ahead).unwrap_or(u64::MAX);
        let agreed = self
            .store(&at.go)
            .compare_set("last", b"", mine.to_string().as_bytes())
            .map_err(trouble)?;
        number(&agreed)
            .map(Step)
            .ok_or_else(|| broken("the key `last` holds no number"))
    }

    /// This rank's shard of a snapshot, wherever it lies.
    fn recall(&self, go: &Go, recall: &Recall) -> Result<State, LoadTrouble> {
        let file = || recall.piece.shard.file.clone();
        let snapshots = self.place.snapshots.as_ref();
        let snapshots = snapshots.ok_or_else(|| Unsound::Missing { file: file() });
        let directory = snapshots.and_then(|it| it.recall(go.generation, recall));
        let directory = directory.map_err(LoadTrouble::Unsound)?;
        let directory = directory.ok_or(LoadTrouble::Other(Trouble::Fenced))?;
        let piece = &recall.piece;
        read(
            go,
            &directory,
            &piece.shard,
            (piece.checkpoint, piece.samples),
        )
        .map_err(LoadTrouble::Unsound)
    }

    /// Says to all others what it holds as they do, and hears it of them, before what a save would keep.
    fn compare(&self, step: Step) -> Result<(), Trouble> {
        let (Some([odd, after]), Some(at)) = (self.odd, &self.at) else {
            return Ok(());
        };
        if !step.0.is_multiple_of(at.go.spec.checkpoint.every_steps) {
            return Ok(());
        }
        let rank = at.go.rank;
        let is_odd =
            u64::from(rank.0) == odd && step.0 >= after && at.go.generation == Generation(1);
        let mine = at.state.samples + u64::from(is_odd);
        let store = self.store(&at.go);
        let key = |rank: Rank| format!("held-{step}-{rank}");
        store
            .set(&key(rank), mine.to_string().as_bytes())
            .map_err(trouble)?;
        let ranks = at.go.spec.layout.ranks();
        let held = ranks.map(|rank| store.get(&key(rank)).map_err(trouble));
        let held: Vec<_> = held.collect::<Result<_, _>>()?;
        replicas::odd(&held).map_or(Ok(()), |odd| {
            let ranks = at.go.spec.layout.ranks().enumerate();
            let odd = ranks.filter(|(place, _)| odd.contains(place));
            Err(Trouble::ReplicasDiffer(Differs {
                tensor: "samples".to_owned(),
                ranks: odd.map(|(_, rank)| rank).collect(),
            }))
        })
    }

    fn standing(&mut self) -> &mut Standing {
        self.at
            .as_mut()
            .expect("the gang is formed before anything else is asked")
    }
}

impl Work for Light {
    fn form(&mut self, go: &Go) -> Result<(), Trouble> {
        self.at = None;
        let began = self.meet(go)?;
        self.at = Some(Standing {
            go: go.clone(),
            began,
            steps: 0,
            state: State::begin(go.spec.train.seed, go.rank),
            last: None,
        });
        Ok(())
    }

    fn load(&mut self, go: &Go) -> Result<(Step, u64), LoadTrouble> {
        let state = match (&go.snapshot, go.resume) {
            (Some(recall), _) => self.recall(go, recall)?,
            (None, Some(id)) => load(go, id).map_err(LoadTrouble::Unsound)?,
            (None, None) => self.standing().state.clone(),
        };
        let at = self.standing();
        at.state = state;
        Ok((at.state.step, at.state.samples))
    }

    fn step(&mut self) -> Result<Done, Trouble> {
        let (fence, recorder, length) = (
            Arc::clone(&self.place.fence),
            self.place.recorder,
            self.step,
        );
        let bad = self.bad;
        let at = self.standing();
        let generation: Generation = at.go.generation;
        at.steps += 1;
        let due = at.began + length * at.steps;
        if fence.wait(generation, due.since(monotonic())) {
            return Err(Trouble::Fenced);
        }
        let batch = at.go.spec.train.batch(at.state.samples);
        let skips = at.go.spec.guard.skips();
        let consumed = at.state.samples..at.state.samples + u64::from(batch);
        let numbers = skips.numbers(consumed.clone());
        let step = Step(at.state.step.0 + 1);
        let is_bad = |[from, until]: [u64; 2]| {
            let mut numbers = consumed.clone().map(|nth| skips.number(nth));
            numbers.any(|number| (from..until).contains(&number))
        };
        if bad.is_some_and(is_bad) && at.go.spec.guard.action == GuardAction::RollBack {
            return Err(Trouble::Spiked(Spike {
                step,
                consumed: consumed.start,
                samples: Samples {
                    from: numbers.start,
                    until: numbers.end,
                },
                reading: "a loss of 9".to_owned(),
            }));
        }
        at.state.advance(batch, numbers.end - 1);
        self.compare(step)?;
        let at = self.standing();
        let is_asked = at.last.is_none() && recorder.stop_generation() == generation;
        if is_asked {
            let last = self.agree(self.at.as_ref().expect("it was there just now"))?;
            self.standing().last = Some(last);
        }
        let at = self.standing();
        let step = at.state.step;
        Ok(Done {
            stepped: Stepped {
                step,
                samples: at.state.samples,
                stop: at.last.is_some_and(|last| step >= last),
                spike: None,
            },
            loss: 1.0 / (1.0 + step.0 as f32),
            grad_norm: 1.0,
        })
    }

    fn evaluate(&mut self) -> Result<Evaluation, Trouble> {
        let at = self.standing();
        let sets = at.go.spec.eval.iter().flat_map(|eval| &eval.sets);
        let scores = sets.map(|set| Score {
            set: set.name.clone(),
            documents: 1,
            bytes: None,
            tokens: 1,
            nats: 1.0 / (1.0 + at.state.step.0 as f64),
        });
        Ok(Evaluation {
            step: at.state.step,
            samples: at.state.samples,
            scores: scores.collect(),
        })
    }

    fn save(&mut self, checkpoint: CheckpointId) {
        let at = self.standing();
        let samples = at.state.samples;
        let outcome = save(&at.go, &at.state, checkpoint);
        self.place.teller.saved(Saved {
            checkpoint,
            samples,
            outcome,
        });
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) {
        let snapshots = self.place.snapshots.clone();
        let at = self.standing();
        let outcome = snapshots
            .ok_or_else(|| "this node keeps no snapshots".to_owned())
            .and_then(|snapshots| {
                let bytes = at.state.to_bytes();
                let place = snapshots.prepare(checkpoint, bytes.len() as u64)?;
                let shard = write(&at.go, &place, &bytes)?;
                let state = (at.go.spec.layout, at.state.samples);
                snapshots.keep(checkpoint, state, shard)
            });
        self.place.teller.snapped(Snapped {
            checkpoint,
            outcome,
        });
    }

    fn hash(&mut self) -> Digest {
        self.standing().state.digest()
    }

    fn abandon(&mut self) {
        self.at = None;
    }
}

/// Writes a shard: aside, to the disk, then under its name.
fn save(go: &Go, state: &State, id: CheckpointId) -> Result<Shard, String> {
    let directory = directory(go, id);
    files::create_directory(&directory).map_err(|error| error.to_string())?;
    write(go, &directory, &state.to_bytes())
}

fn write(go: &Go, directory: &Path, bytes: &[u8]) -> Result<Shard, String> {
    let file = format!("rank-{:05}.safetensors", go.rank.0);
    files::write(&directory.join(&file), bytes).map_err(|error| error.to_string())?;
    Ok(Shard {
        rank: go.rank,
        file,
        bytes: bytes.len() as u64,
        hash: ShardHash::of(bytes),
    })
}

/// Reads this rank's shard of a sealed checkpoint, if all of it is what its manifest says.
fn load(go: &Go, id: CheckpointId) -> Result<State, Unsound> {
    let directory = directory(go, id);
    let unreadable = |file: &str, error: String| Unsound::Unreadable {
        file: file.to_owned(),
        error,
    };
    let manifest =
        manifest::read(&directory).map_err(|error| unreadable(MANIFEST, error.to_string()))?;
    if manifest.run != go.spec.name || manifest.id != id {
        return Err(unreadable(MANIFEST, "is of another checkpoint".to_owned()));
    }
    let shard = manifest.shards.iter().find(|shard| shard.rank == go.rank);
    let shard = shard.ok_or_else(|| unreadable(MANIFEST, format!("lacks rank {}", go.rank)))?;
    read(go, &directory, shard, (id, manifest.samples))
}

/// Reads a shard, if it is what is said of it, and of that step and those samples.
fn read(
    go: &Go,
    directory: &Path,
    shard: &Shard,
    (id, samples): (CheckpointId, u64),
) -> Result<State, Unsound> {
    let unreadable = |file: &str, error: String| Unsound::Unreadable {
        file: file.to_owned(),
        error,
    };
    let path = directory.join(&shard.file);
    let bytes = fs::read(path).map_err(|error| unreadable(&shard.file, error.to_string()))?;
    let (expected, found) = (shard.bytes, bytes.len() as u64);
    if expected != found {
        return Err(Unsound::Length {
            file: shard.file.clone(),
            expected,
            found,
        });
    }
    if ShardHash::of(&bytes) != shard.hash {
        return Err(Unsound::Hash {
            file: shard.file.clone(),
        });
    }
    let state = State::from_bytes(&bytes).map_err(|error| unreadable(&shard.file, error))?;
    if state.step != id.step || state.samples != samples || state.rank != go.rank {
        return Err(unreadable(&shard.file, "holds another state".to_owned()));
    }
    Ok(state)
}
