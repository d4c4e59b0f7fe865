//! `rebloom up`: a whole cluster on this machine, which trains a small BLOOM and shows it.
//!
//! It is what a scheduler of machines, an init system on each node and a user are on a real cluster: it
//! makes certificates and data once, keeps one controller and five agents running, submits or resumes the
//! run, and shows it. It takes no part in recovering anything.

mod home;
mod prepare;
mod supervise;

pub(crate) use supervise::binary;

use crate::args;
use crate::client::{Client, Target, goes_on};
use crate::explain;
use crate::failure::Failure;
use crate::format::{Output, count, ettr, line, recoveries, short, span};
use crate::view::{Line, newest_sealed};
use crate::watch::{Update, View, feed};
use home::Home;
use rebloom_core::engine::{NodeState, RunState, RunView, Spend};
use rebloom_core::id::RunId;
use rebloom_core::order::Stop;
use rebloom_core::spec::RunSpec;
use rebloom_core::time::Instant;
use rebloom_runtime::clock::{Wall, monotonic};
use rebloom_runtime::files;
use std::time::Duration;
use supervise::{News, Supervisor};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How long the cluster may take to come up.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How long a safe stop may take before the run is killed.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Runs the command.
pub(crate) async fn run(args: args::Up) -> Result<(), Failure> {
    let home = Home::open(&args)?;
    if args.fresh {
        home.end_all();
        home.clear()?;
    } else {
        home.end_servers();
    }
    let file = prepare::all(&home, &args)?;
    let spec = file.spec()?;
    let mut signals = Signals::new()?;
    let (news_out, news) = mpsc::channel(64);
    let mut supervisor = Supervisor::start(&home, &spec.name, news_out)?;
    let session = Session {
        home: &home,
        args: &args,
        spec: &spec,
        news,
    };
    let outcome = session.run(&mut supervisor, &mut signals).await;
    supervisor.end(signals.forced).await;
    home.end_all();
    if let Some(End { run, loss }) = outcome? {
        summary(&home, &run, loss)?;
        if run.state == RunState::Failed || run.state == RunState::Parked {
            return Err(Failure::Ended(format!(
                "run {} is {}: {}",
                run.spec.name, run.state, run.why
            )));
        }
    }
    Ok(())
}

/// The run as it was last seen.
struct End {
    run: RunView,
    loss: Option<f32>,
}

/// Ctrl-C and SIGTERM; the second one is meant seriously.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    asked: bool,
    forced: bool,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|error| Failure::of(&error));
        let (interrupt, terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
        Ok(Self {
            interrupt,
            terminate,
            asked: false,
            forced: false,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
        self.forced = self.asked;
        self.asked = true;
    }
}

/// One life of the cluster, from its start to the end of the run or the wish to stop.
struct Session<'a> {
    home: &'a Home,
    args: &'a args::Up,
    spec: &'a RunSpec,
    news: mpsc::Receiver<News>,
}

impl Session<'_> {
    async fn run(
        mut self,
        supervisor: &mut Supervisor,
        signals: &mut Signals,
    ) -> Result<Option<End>, Failure> {
        let target = supervisor.target();
        line(&format!(
            "starting a controller and {}",
            count(home::NODES.into(), "agent")
        ));
        let client = tokio::select! {
            client = ready(&target) => client,
            failed = self.first_failure() => Err(failed),
            () = signals.next() => return Ok(None),
        };
        let client = client.map_err(|failure| self.home.with_logs(failure))?;
        let goes = self.begin(&client).await?;
        let mut view = View::new(self.spec.name.clone(), Output::Table, self.args.plain);
        if !goes && !self.args.keep {
            let run = client.run(&self.spec.name).await?;
            return Ok(Some(End {
                loss: run.loss,
                run,
            }));
        }
        view.hint("Ctrl-C stops with a checkpoint. In another terminal: rebloom chaos kill-rank");
        self.watch(&target, &mut view, signals).await
    }

    /// Submits the run, or lets it go on; says whether there is anything left to do.
    async fn begin(&self, client: &Client) -> Result<bool, Failure> {
        let name = &self.spec.name;
        let run = match settled(client, name).await {
            Ok(run) => run,
            Err(Failure::NotFound(_)) => {
                client.submit(self.spec.clone(), false).await?;
                line(&format!(
                    "submitted run {name}: {}",
                    count(self.spec.train.steps, "step")
                ));
                return Ok(true);
            }
            Err(failure) => return Err(failure),
        };
        if run.spec != *self.spec {
            line(&format!(
                "{} has changed since run {name} was submitted; it goes on as it was submitted \
                 (give the run another name in the file, or begin anew with --fresh)",
                self.home.spec().display()
            ));
        }
        if run.state == RunState::Completed {
            line(&format!(
                "run {name} is complete already; `rebloom up --fresh` begins anew"
            ));
            return Ok(false);
        }
        if goes_on(run.state) {
            line(&format!("run {name} is {}: watching it", run.state));
        } else {
            client.resume(name, None).await?;
            let from = newest_sealed(&run).map_or("the beginning".to_owned(), |id| {
                format!("the checkpoint at step {}", id.step)
            });
            line(&format!("resuming run {name} from {from}"));
        }
        Ok(true)
    }

    /// Shows the run until it is over, or until somebody wants it stopped and it is.
    async fn watch(
        &mut self,
        target: &Target,
        view: &mut View,
        signals: &mut Signals,
    ) -> Result<Option<End>, Failure> {
        let mut updates = feed(target.clone());
        let mut ticks = View::ticks();
        let mut stopping: Option<Instant> = None;
        let mut kept = false;
        loop {
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { break };
                    let fresh = matches!(update, Update::Cluster(_));
                    view.take(update)?;
                    let over = fresh && view.run().is_some_and(|run| !goes_on(run.state));
                    if over && (stopping.is_some() || !self.args.keep) {
                        break;
                    }
                    if over && !kept {
                        kept = true;
                        view.note(&Line::plain("the cluster stays up until Ctrl-C"));
                    }
                }
                news = self.news.recv() => match news {
                    Some(News::Note(note)) => view.note(&note),
                    Some(News::Failed(failure)) => return Err(self.home.with_logs(failure)),
                    None => break,
                },
                _ = ticks.tick() => {
                    view.tick();
                    if stopping.is_some_and(|since| monotonic().since(since) > STOP_WITHIN) {
                        view.note(&Line::bad("it does not stop by itself; killing it"));
                        break;
                    }
                }
                () = signals.next() => {
                    let over = view.run().is_none_or(|run| !goes_on(run.state));
                    if over || signals.forced {
                        break;
                    }
                    stopping = Some(monotonic());
                    view.hint("stopping: the run saves a checkpoint. Ctrl-C again kills it at once");
                    view.note(&Line::plain("stopping the run at its next step, with a checkpoint"));
                    tokio::spawn(stop(target.clone(), self.spec.name.clone()));
                }
            }
        }
        view.tick();
        Ok(view.run().cloned().map(|run| End {
            run,
            loss: view.loss(),
        }))
    }

    /// Waits until something cannot be kept running.
    async fn first_failure(&mut self) -> Failure {
        loop {
            match self.news.recv().await {
                Some(News::Note(note)) => line(&note.text),
                Some(News::Failed(failure)) => return failure,
                None => return Failure::Failed("nothing runs any more".to_owned()),
            }
        }
    }
}

/// The run once it is not about to stop: an earlier `up` may have been ended while it was.
async fn settled(client: &Client, name: &RunId) -> Result<RunView, Failure> {
    let began = monotonic();
    loop {
        let run = client.run(name).await?;
        if run.state != RunState::Stopping || monotonic().since(began) > STOP_WITHIN {
            return Ok(run);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks until somebody hears it: the controller may be on its way up again.
async fn stop(target: Target, run: RunId) {
    loop {
        if let Ok(client) = target.connect().await {
            match client.stop(&run, Stop::Safely).await {
                Ok(_) | Err(Failure::Failed(_) | Failure::NotFound(_)) => return,
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Waits until the controller answers and every agent has joined.
async fn ready(target: &Target) -> Result<Client, Failure> {
    let began = monotonic();
    let mut last = Failure::Failed("the cluster did not come up".to_owned());
    while monotonic().since(began) < START_WITHIN {
        match joined(target).await {
            Ok(Some(client)) => return Ok(client),
            Ok(None) => last = Failure::Failed("not every agent joined in time".to_owned()),
            Err(failure) => last = failure,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(last)
}

async fn joined(target: &Target) -> Result<Option<Client>, Failure> {
    let client = target.connect().await?;
    let nodes = client.nodes().await?;
    let ready = nodes
        .iter()
        .filter(|node| node.state == NodeState::Ready)
        .count();
    Ok((ready == usize::from(home::NODES)).then_some(client))
}

/// What is worth knowing at the end; the whole story goes into a file, since the controller is gone.
fn summary(home: &Home, run: &RunView, loss: Option<f32>) -> Result<(), Failure> {
    let report = home.report();
    let story = explain::story(run, Wall::starting_at_least(Instant::ZERO).now());
    files::write(&report, story.as_bytes())?;
    let field = |name: &str, value: String| line(&format!("  {name:<12} {value}"));
    let spent = &run.ledger.spent;
    let time = spent
        .iter()
        .filter(|(what, _)| **what != Spend::Waiting)
        .map(|(_, time)| *time)
        .sum();
    line("");
    let (name, state) = (&run.spec.name, run.state);
    if goes_on(state) {
        line(&format!("run {name} was {state} when it was killed"));
    } else {
        line(&format!("run {name} is {state}"));
    }
    field("steps", format!("{} of {}", run.step, run.spec.train.steps));
    if let Some(loss) = loss {
        let guess = f64::from(run.spec.model.vocab).ln();
        field(
            "loss",
            format!("{loss:.3} (a uniform guess has {guess:.3})"),
        );
    }
    field("time", span(time));
    let productive = spent.get(&Spend::Productive).copied().unwrap_or_default();
    field(
        "ETTR",
        format!("{} ({} productive)", ettr(&run.ledger), short(productive)),
    );
    field(
        "incidents",
        format!(
            "{}, recovered from {}",
            run.incidents.len(),
            recoveries(run)
        ),
    );
    let newest = newest_sealed(run).map(|id| format!(" (newest: {})", id.directory()));
    field(
        "checkpoints",
        format!(
            "{}/{}{}",
            run.spec.checkpoint.directory,
            run.spec.name,
            newest.unwrap_or_default()
        ),
    );
    field("story", report.display().to_string());
    field("logs", home.logs().display().to_string());
    match run.state {
        RunState::Completed => line("`rebloom up --fresh` begins anew"),
        RunState::Pending
        | RunState::Starting
        | RunState::Running
        | RunState::Recovering
        | RunState::Stopping
        | RunState::Stopped => line("`rebloom up` goes on from the newest checkpoint"),
        RunState::Failed | RunState::Parked => {}
    }
    Ok(())
}
