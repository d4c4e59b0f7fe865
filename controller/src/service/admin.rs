//! What admins ask: each call becomes a question to the engine or a look at its state.

use super::{Guard, Parts};
use crate::links::Unanswered;
use crate::patterns;
use rebloom_core::checkpoint::CheckpointId;
use rebloom_core::engine::{Ask, CheckpointState, Engine, NodeState, Refusal, RunView};
use rebloom_core::health::expression::BadExpression;
use rebloom_core::id::{NodeId, Rank, RunId};
use rebloom_core::time::Instant;
use rebloom_proto::admin::{CheckpointVerified, answer, status};
use rebloom_proto::link::{Question, Reply};
use rebloom_proto::wire::admin_server::Admin;
use rebloom_proto::{Malformed, wire};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// How often a watcher looks for something new.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
const LOG_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a log that one question asks for.
const LOG_PART: u32 = 256 * 1024;
/// A checkpoint of hundreds of gigabytes is read from storage and hashed.
const VERIFY_WITHIN: Duration = Duration::from_secs(3600);

type Reply1<T> = Result<Response<T>, Status>;
type Watch<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Debug, Clone)]
pub(crate) struct Service {
    parts: Parts,
    guard: Guard,
}

impl Service {
    pub(crate) const fn new(parts: Parts, guard: Guard) -> Self {
        Self { parts, guard }
    }

    async fn ask<T>(&self, request: Request<T>) -> Reply1<wire::Answer>
    where
        Ask: TryFrom<T, Error = Malformed>,
    {
        self.guard.admin(&request)?;
        let ask = Ask::try_from(request.into_inner())?;
        if let Ask::Submit { spec, .. } = &ask {
            let flaws = patterns::flaws(spec);
            if !flaws.is_empty() {
                return Err(status(Refusal::Flaws(flaws)));
            }
        }
        Ok(Response::new(answer(self.parts.handle.ask(ask).await?)?))
    }

    async fn view<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine, Instant) -> R + Send + 'static,
    ) -> Result<R, Status> {
        Ok(self.parts.handle.view(look).await?)
    }

    async fn run(&self, run: &RunId) -> Result<RunView, Status> {
        let wanted = run.clone();
        let found = self
            .view(move |engine, now| engine.run(&wanted, now))
            .await?;
        found.ok_or_else(|| status(Refusal::NoSuchRun(run.clone())))
    }

    /// Sends what `look` sees, first at once and then whenever it looks different.
    fn watch<T, F>(&self, look: F) -> Watch<T>
    where
        T: PartialEq + Clone + Send + 'static,
        F: Fn(&Engine, Instant) -> Result<T, Refusal> + Clone + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            let mut ticks = interval(LOOK_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut last = None;
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = sender.closed() => return,
                }
                let seen = service
                    .view(look.clone())
                    .await
                    .and_then(|seen| seen.map_err(status));
                if seen.is_ok() && last.as_ref() == seen.as_ref().ok() {
                    continue;
                }
                last = seen.as_ref().ok().cloned();
                if sender.send(seen).await.is_err() || last.is_none() {
                    return;
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }

    async fn question(
        &self,
        node: &NodeId,
        question: Question,
        within: Duration,
    ) -> Result<Reply, Status> {
        self.parts
            .links
            .ask(node, question, within)
            .await
            .map_err(|why| match why {
                Unanswered::NotConnected(_) | Unanswered::Broken(_) => {
                    Status::unavailable(why.to_string())
                }
                Unanswered::Late(..) => Status::deadline_exceeded(why.to_string()),
                Unanswered::Failed(..) => Status::not_found(why.to_string()),
            })
    }

    /// Sends a rank's output until its end, or for ever where it is followed.
    async fn send_log(
        &self,
        wire::ReadLogRequest {
            run: _,
            rank,
            previous,
            tail_lines,
            follow,
        }: wire::ReadLogRequest,
        run: RunId,
        sender: &mpsc::Sender<Result<wire::LogChunk, Status>>,
    ) -> Result<(), Status> {
        let (mut at, mut offset, mut tail_lines) = (None, 0, tail_lines);
        while !sender.is_closed() {
            let node = self.node_of(&run, Rank(rank)).await?;
            if at.as_ref() != Some(&node) {
                if at.is_some() {
                    // The rank has moved: its output goes on in another file.
                    (offset, tail_lines) = (0, 0);
                }
                at = Some(node.clone());
            }
            let question = Question::ReadLog {
                run: run.clone(),
                rank: Rank(rank),
                previous,
                offset,
                limit: LOG_PART,
                tail_lines: std::mem::take(&mut tail_lines),
            };
            let more = match self.question(&node, question, LOG_WITHIN).await {
                Ok(Reply::LogPart {
                    offset: from,
                    data,
                    more,
                }) => {
                    offset = from + u64::try_from(data.len()).unwrap_or(u64::MAX);
                    if !data.is_empty() && sender.send(Ok(wire::LogChunk { data })).await.is_err() {
                        return Ok(());
                    }
                    more
                }
                Ok(Reply::Verified(_)) => {
                    return Err(Status::internal("the agent answers otherwise"));
                }
                // Whoever follows wants to see what comes after a fault too.
                Err(why) if follow && why.code() != tonic::Code::NotFound => {
                    tracing::debug!("following a log: {}", why.message());
                    false
                }
                Err(why) => return Err(why),
            };
            match (more, follow) {
                (true, _) => {}
                (false, true) => sleep(FOLLOW_EVERY).await,
                (false, false) => return Ok(()),
            }
        }
        Ok(())
    }

    async fn node_of(&self, run: &RunId, rank: Rank) -> Result<NodeId, Status> {
        let view = self.run(run).await?;
        if !view.spec.layout.ranks().any(|known| known == rank) {
            let world = view.spec.layout.world();
            let why = format!("run {run} has ranks 0 to {}, not {rank}", world - 1);
            return Err(Status::invalid_argument(why));
        }
        let seat = view
            .ranks
            .into_iter()
            .find(|seen| seen.seating.rank == rank);
        seat.map(|seen| seen.seating.node).ok_or_else(|| {
            let why = format!("run {run} is {} and has no ranks now", view.state);
            Status::failed_precondition(why)
        })
    }

    /// A node that can read the run's checkpoints: one of its own, else any that is ready.
    async fn reader_for(&self, run: &RunView) -> Result<NodeId, Status> {
        let nodes = self.view(|engine, _| engine.nodes()).await?;
        let mut ready: Vec<_> = nodes
            .into_iter()
            .filter(|node| node.state == NodeState::Ready)
            .collect();
        let name = &run.spec.name;
        ready.sort_by_key(|node| !node.ranks.iter().any(|(run, _)| run == name));
        let first = ready.into_iter().next().map(|node| node.facts.node);
        first.ok_or_else(|| Status::unavailable("no node is ready to read the checkpoint"))
    }
}

fn named<N: TryFrom<String, Error: std::fmt::Display>>(
    name: String,
    field: &str,
) -> Result<N, Status> {
    N::try_from(name).map_err(|error| Malformed::new(field, error).into())
}

fn chosen(view: &RunView, wanted: Option<CheckpointId>) -> Result<CheckpointId, Status> {
    let known = |id: &CheckpointId| view.checkpoints.iter().any(|(held, _)| held == id);
    let name = &view.spec.name;
    match wanted {
        Some(id) if known(&id) => Ok(id),
        Some(id) => {
            let why = format!("run {name} has no checkpoint {}", id.directory());
            Err(Status::not_found(why))
        }
        None => {
            let sealed = |(_, state): &&(_, _)| *state == CheckpointState::Sealed;
            let newest = view.checkpoints.iter().find(sealed).map(|(id, _)| *id);
            let why = || Status::not_found(format!("run {name} has no sealed checkpoint"));
            newest.ok_or_else(why)
        }
    }
}

#[tonic::async_trait]
impl Admin for Service {
    type WatchClusterStream = Watch<wire::ClusterView>;
    type WatchRunStream = Watch<wire::RunView>;
    type ReadLogStream = ReceiverStream<Result<wire::LogChunk, Status>>;

    async fn get_cluster(
        &self,
        request: Request<wire::GetClusterRequest>,
    ) -> Reply1<wire::ClusterInfo> {
        self.guard.admin(&request)?;
        let (limits, now) = self
            .view(|engine, now| (engine.limits().clone(), now))
            .await?;
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Ok(Response::new(wire::ClusterInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: now.as_nanos(),
            started: self.parts.started.as_nanos(),
            beat_every_nanos: nanos(limits.beat_every),
            silent_after_nanos: nanos(limits.silent_after),
            rejoin_within_nanos: nanos(limits.rejoin_within),
            orphan_after_nanos: nanos(limits.orphan_after),
        }))
    }

    async fn watch_cluster(
        &self,
        request: Request<wire::WatchClusterRequest>,
    ) -> Reply1<Self::WatchClusterStream> {
        self.guard.admin(&request)?;
        Ok(Response::new(self.watch(|engine, now| {
            Ok(wire::ClusterView {
                now: now.as_nanos(),
                runs: engine.runs(now).into_iter().map(Into::into).collect(),
                nodes: engine.nodes().into_iter().map(Into::into).collect(),
            })
        })))
    }

    async fn submit_run(&self, request: Request<wire::SubmitRunRequest>) -> Reply1<wire::Answer> {
        self.ask(request).await
    }

    async fn list_runs(
        &self,
        request: Request<wire::ListRunsRequest>,
    ) -> Reply1<wire::ListRunsReply> {
        self.guard.admin(&request)?;
        let runs = self.view(Engine::runs).await?;
        let runs = runs.into_iter().map(Into::into).collect();
        Ok(Response::new(wire::ListRunsReply { runs }))
    }

    async fn get_run(&self, request: Request<wire::GetRunRequest>) -> Reply1<wire::RunView> {
        self.guard.admin(&request)?;
        let run = named(request.into_inner().run, "run")?;
        Ok(Response::new(self.run(&run).await?.into()))
    }

    async fn watch_run(
        &self,
        request: Request<wire::WatchRunRequest>,
    ) -> Reply1<Self::WatchRunStream> {
        self.guard.admin(&request)?;
        let run: RunId = named(request.into_inner().run, "run")?;
        self.run(&run).await?;
        Ok(Response::new(self.watch(move |engine, now| {
            let view = engine
                .run(&run, now)
                .ok_or_else(|| Refusal::NoSuchRun(run.clone()))?;
            Ok(view.into())
        })))
    }

    async fn stop_run(&self, request: Request<wire::StopRunRequest>) -> Reply1<wire::Answer> {
        self.ask(request).await
    }

    async fn resume_run(&self, request: Request<wire::ResumeRunRequest>) -> Reply1<wire::Answer> {
        self.ask(request).await
    }

    async fn read_log(
        &self,
        request: Request<wire::ReadLogRequest>,
    ) -> Reply1<Self::ReadLogStream> {
        self.guard.admin(&request)?;
        let request = request.into_inner();
        let run: RunId = named(request.run.clone(), "run")?;
        // What is wrong with the request is said before anything is sent.
        self.node_of(&run, Rank(request.rank)).await?;
        let (sender, receiver) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(why) = service.send_log(request, run, &sender).await {
                // (Whoever asked may be gone.)
                drop(sender.send(Err(why)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn verify_checkpoint(
        &self,
        request: Request<wire::VerifyCheckpointRequest>,
    ) -> Reply1<wire::VerifyCheckpointReply> {
        self.guard.admin(&request)?;
        let wire::VerifyCheckpointRequest { run, checkpoint } = request.into_inner();
        let run: RunId = named(run, "run")?;
        let wanted = checkpoint.map(CheckpointId::try_from).transpose()?;
        let view = self.run(&run).await?;
        let checkpoint = chosen(&view, wanted)?;
        let node = self.reader_for(&view).await?;
        let directory = view.spec.checkpoint.directory;
        let question = Question::VerifyCheckpoint {
            directory,
            run,
            checkpoint,
        };
        match self.question(&node, question, VERIFY_WITHIN).await? {
            Reply::Verified(verified) => Ok(Response::new(
                CheckpointVerified {
                    checkpoint,
                    node,
                    verified,
                }
                .into(),
            )),
            Reply::LogPart { .. } => Err(Status::internal("the agent answers otherwise")),
        }
    }

    async fn list_nodes(
        &self,
        request: Request<wire::ListNodesRequest>,
    ) -> Reply1<wire::ListNodesReply> {
        self.guard.admin(&request)?;
        let nodes = self.view(|engine, _| engine.nodes()).await?;
        let nodes = nodes.into_iter().map(Into::into).collect();
        Ok(Response::new(wire::ListNodesReply { nodes }))
    }

    async fn list_health_rules(
        &self,
        request: Request<wire::ListHealthRulesRequest>,
    ) -> Reply1<wire::ListHealthRulesReply> {
        self.guard.admin(&request)?;
        let rules = self.view(|engine, _| engine.health_rules()).await?;
        Ok(Response::new(rules.into()))
    }

    async fn set_health_rule(
        &self,
        request: Request<wire::SetHealthRuleRequest>,
    ) -> Reply1<wire::Answer> {
        self.ask(request).await
    }

    async fn unset_health_rule(
        &self,
        request: Request<wire::UnsetHealthRuleRequest>,
    ) -> Reply1<wire::Answer> {
        self.ask(request).await
    }

    async fn test_health_rule(
        &self,
        request: Request<wire::TestHealthRuleRequest>,
    ) -> Reply1<wire::TestHealthRuleReply> {
        self.guard.admin(&request)?;
        let when = rebloom_proto::health::expression(request.into_inner().when, "when")?;
        let hits = self.view(move |engine, _| engine.test_rule(&when)).await?;
        let refused = |error: BadExpression| status(Refusal::BadRule(error.to_string()));
        Ok(Response::new(hits.map_err(refused)?.into()))
    }

    async fn cordon(&self, request: Request<wire::CordonRequest>) -> Reply1<wire::Answer> {
        self.ask(request).await
    }

    async fn uncordon(&self, request: Request<wire::UncordonRequest>) -> Reply1<wire::Answer> {
        self.ask(request).await
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Reply1<wire::Answer> {
        self.ask(request).await
    }
}
