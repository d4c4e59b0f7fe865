//! One simulated agent: a real connection, and the words of a node whose eight ranks do what they are told.

use super::{Counts, Tell};
use anyhow::{Context, Result, bail};
use rebloom_core::cause::Exit;
use rebloom_core::flight::{Page, Phase, Sighting};
use rebloom_core::health::signal::{Sign, Signal};
use rebloom_core::id::{Generation, NodeId, Rank, RunId, Slot, Step};
use rebloom_core::order::{Order, Start};
use rebloom_core::report::{
    Beat, FABRIC, Join, Milestone, NodeFacts, Pages, RACK, RankEvent, Report,
};
use rebloom_proto::link::{FromAgent, ToAgent};
use rebloom_proto::wire;
use rebloom_proto::wire::agent_link_client::AgentLinkClient;
use rebloom_runtime::clock::monotonic;
use rebloom_runtime::tls::{ClientTls, Role};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Ranks of a node.
pub(super) const SLOTS: u32 = 8;
/// Nodes of a rack, and of a fabric.
const RACK_OF: usize = 16;
const FABRIC_OF: usize = 1024;
/// Messages to the controller that may be under way.
const UNDER_WAY: usize = 256;
/// How long a simulated step takes.
const STEP: Duration = Duration::from_secs(20);

/// What shall go wrong on a node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// A rank dies.
    RankDies,
    /// A GPU falls off the bus, says the kernel's log.
    GpuFalls,
}

/// Who an agent is, and where it goes.
#[derive(Debug)]
pub(super) struct Place {
    /// Its number.
    pub(super) at: usize,
    /// Agents in all.
    pub(super) of: usize,
    /// Where the controller listens.
    pub(super) controller: String,
    /// Lets a few connect at once.
    pub(super) door: Arc<Semaphore>,
}

/// The name of an agent.
pub(super) fn name(at: usize) -> Result<NodeId> {
    Ok(NodeId::new(&format!("node-{at:04}"))?)
}

struct Agent {
    at: usize,
    to: mpsc::Sender<wire::FromAgent>,
    tell: Tell,
    sequence: u64,
    sent: BTreeMap<u64, Sent>,
    /// What runs here, and since when.
    start: Option<(Start, Instant)>,
    /// The generation in which a rank was killed, and when that was reported.
    died: Option<(Generation, Instant)>,
    /// When it was reported that a GPU fell off.
    fell: Option<Instant>,
}

/// A report under way.
struct Sent {
    at: Instant,
    is_exit: bool,
    /// Where it says that a rank stepped: the run and its generation.
    stepped: Option<(RunId, Generation)>,
}

/// Lives until the connection ends, which it should not.
pub(super) async fn live(
    place: Place,
    tls: &Path,
    tell: Tell,
    mut faults: mpsc::Receiver<Fault>,
) -> Result<()> {
    let node = name(place.at)?;
    let tls = ClientTls::load(tls, &Role::Agent(node.clone()))?;
    let turn = place.door.acquire().await?;
    let endpoint = tls.endpoint(&place.controller, &Role::Controller)?;
    let channel = endpoint.connect().await?;
    let (to, outgoing) = mpsc::channel(UNDER_WAY);
    let join = FromAgent::Join(Join {
        facts: facts(place.at, node),
        runs: Vec::new(),
    });
    to.send(join.into()).await?;
    let mut from = AgentLinkClient::new(channel)
        .max_decoding_message_size(rebloom_proto::MAX_MESSAGE)
        .attach(ReceiverStream::new(outgoing))
        .await?
        .into_inner();
    let ToAgent::Welcome(welcome) = next(&mut from).await? else {
        bail!("something came before the welcome");
    };
    drop(turn);
    tell(Counts::Joined);
    let mut agent = Agent {
        at: place.at,
        to,
        tell,
        sequence: 0,
        sent: BTreeMap::new(),
        start: None,
        died: None,
        fell: None,
    };
    // Agents beat at moments of their own.
    let phase = welcome
        .beat_every
        .mul_f64(place.at as f64 / place.of as f64);
    let mut beats = interval_at((Instant::now() + phase).into(), welcome.beat_every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            message = next(&mut from) => agent.hear(message?).await?,
            Some(fault) = faults.recv() => match fault {
                Fault::RankDies => agent.die().await?,
                Fault::GpuFalls => agent.fall().await?,
            },
            _ = beats.tick() => agent.beat().await?,
        }
    }
}

async fn next(from: &mut Streaming<wire::ToAgent>) -> Result<ToAgent> {
    let message = from.message().await?.context("the controller hung up")?;
    Ok(message.try_into()?)
}

fn facts(at: usize, node: NodeId) -> NodeFacts {
    let label = |key: &str, of: usize| (key.to_owned(), format!("{:03}", at / of));
    NodeFacts {
        host: node.to_string(),
        node,
        slots: SLOTS,
        gpus: vec!["NVIDIA A100-SXM4-80GB".to_owned(); SLOTS as usize],
        store_address: "127.0.0.1:7250".to_owned(),
        cores: 64,
        memory: 1 << 39,
        nccl: None,
        labels: [label(RACK, RACK_OF), label(FABRIC, FABRIC_OF)].into(),
    }
}

impl Agent {
    async fn say(&self, message: FromAgent) -> Result<()> {
        self.to.send(message.into()).await.context("the link ended")
    }

    async fn report(&mut self, report: Report, sent: Sent) -> Result<()> {
        self.sequence += 1;
        self.sent.insert(self.sequence, sent);
        let sequence = self.sequence;
        self.say(FromAgent::Report { sequence, report }).await
    }

    async fn hear(&mut self, message: ToAgent) -> Result<()> {
        match message {
            ToAgent::Ack(sequence) => self.acknowledged(sequence),
            ToAgent::Order(Order::Start(start)) => self.obey(start).await?,
            ToAgent::Order(Order::Stop {
                run, generation, ..
            }) => {
                if let Some(fell) = self.fell.take() {
                    (self.tell)(Counts::Withdrawn(fell.elapsed()));
                }
                self.start.take_if(|(start, _)| {
                    start.gang.spec.name == run && start.gang.generation <= generation
                });
                let report = Report::Stopped { run, generation };
                self.report(report, Sent::now()).await?;
            }
            // Nobody saves here, nobody hangs, and nobody asks.
            ToAgent::Order(Order::Kill { .. } | Order::Seal { .. } | Order::Prune { .. })
            | ToAgent::Question { .. }
            | ToAgent::Welcome(_) => (self.tell)(Counts::Odd),
        }
        Ok(())
    }

    fn acknowledged(&mut self, sequence: u64) {
        let Some(sent) = self.sent.remove(&sequence) else {
            return (self.tell)(Counts::Odd);
        };
        (self.tell)(Counts::Acknowledged {
            is_exit: sent.is_exit,
            after: sent.at.elapsed(),
        });
        if let Some((run, generation)) = sent.stepped {
            (self.tell)(Counts::Stepped { run, generation });
        }
    }

    /// Starts, or forms anew: every rank forms, loads and steps.
    async fn obey(&mut self, start: Start) -> Result<()> {
        let (run, generation) = (start.gang.spec.name.clone(), start.gang.generation);
        if let Some((_, reported)) = self.died.take_if(|(died, _)| *died < generation) {
            (self.tell)(Counts::Decided(reported.elapsed()));
        }
        (self.tell)(Counts::Placed {
            run: run.clone(),
            generation,
            node: self.at,
        });
        let ranks: Vec<Rank> = start.seats.iter().map(|seat| seat.rank).collect();
        self.start = Some((start, Instant::now()));
        for milestone in [Milestone::Formed, Milestone::Loaded, Milestone::Stepped] {
            for &rank in &ranks {
                let event = RankEvent::Reached {
                    milestone,
                    step: Step(u64::from(milestone == Milestone::Stepped)),
                    pid: 1000 + rank.0,
                };
                let stepped = (milestone == Milestone::Stepped).then(|| (run.clone(), generation));
                let report = Report::Rank {
                    run: run.clone(),
                    generation,
                    rank,
                    event,
                };
                self.report(
                    report,
                    Sent {
                        stepped,
                        ..Sent::now()
                    },
                )
                .await?;
            }
        }
        Ok(())
    }

    /// The process of one of the ranks ends.
    async fn die(&mut self) -> Result<()> {
        let (start, _) = self.start.as_ref().context("nothing runs here")?;
        let generation = start.gang.generation;
        let report = Report::Rank {
            run: start.gang.spec.name.clone(),
            generation,
            rank: start.seats.first().context("a seat")?.rank,
            event: RankEvent::Exited {
                exit: Exit::Signal(9),
                noticed_after_nanos: Some(1_000_000),
            },
        };
        let sent = Sent {
            is_exit: true,
            ..Sent::now()
        };
        self.died = Some((generation, sent.at));
        self.report(report, sent).await
    }

    /// The driver loses one of the GPUs.
    async fn fall(&mut self) -> Result<()> {
        let sign = Sign::Xid {
            code: 79,
            detail: "GPU has fallen off the bus.".to_owned(),
        };
        let report = Report::Signal {
            signal: Signal::raised(Some(Slot(0)), sign),
        };
        let sent = Sent::now();
        self.fell = Some(sent.at);
        self.report(report, sent).await
    }

    async fn beat(&self) -> Result<()> {
        let pages = self.start.iter().map(|(start, since)| {
            let step = since.elapsed().div_duration_f64(STEP) as u64 + 1;
            let page = Page {
                generation: start.gang.generation,
                phase: Phase::Step,
                step: Step(step),
                samples: step * u64::from(start.gang.spec.train.global_batch),
                loss: 2.0,
                grad_norm: 0.5,
                step_nanos: STEP.as_nanos() as u64,
                busy_nanos: STEP.as_nanos() as u64 / 2,
                pulse: monotonic().as_nanos(),
                ..Page::default()
            };
            let seats = start.seats.iter();
            Pages {
                run: start.gang.spec.name.clone(),
                sightings: seats
                    .map(|seat| Sighting {
                        rank: seat.rank,
                        page: page.clone(),
                    })
                    .collect(),
                matches: Vec::new(),
            }
        });
        let beat = Beat {
            pages: pages.collect(),
        };
        self.say(FromAgent::Beat(beat)).await
    }
}

impl Sent {
    fn now() -> Self {
        Self {
            at: Instant::now(),
            is_exit: false,
            stepped: None,
        }
    }
}
