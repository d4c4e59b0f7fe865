//! `rebloom up`: a whole cluster on this machine, which trains a small BLOOM and shows it.
//!
//! It is what a scheduler of machines, an init system on each node and a user are on a real cluster: it
//! makes certificates and data once, keeps one controller and five agents running, submits or resumes the
//! run, and shows it. It takes no part in recovering anything.

mod closing;
mod home;
mod prepare;
mod signals;
mod summary;
mod supervise;

pub(crate) use supervise::binary;

use crate::args;
use crate::client::{Client, Target, goes_on};
use crate::failure::Failure;
use crate::format::{Output, count, line, say};
use crate::view::{Line, newest_sealed};
use crate::watch::{self, Update, View, feed};
use closing::Closing;
use home::Home;
use rebloom_core::engine::{NodeState, RunState, RunView};
use rebloom_core::id::RunId;
use rebloom_core::order::Stop;
use rebloom_core::spec::RunSpec;
use rebloom_runtime::clock::monotonic;
use signals::{AGAIN, Signals};
use std::time::Duration;
use supervise::{News, Supervisor};
use tokio::sync::mpsc;

/// How long the cluster may take to come up.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How long a run that an earlier `up` was stopping may take.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);

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
    let Some(end) = outcome? else {
        return Ok(());
    };
    summary::print(&home, &end)?;
    watch::end(&end.run).unwrap_or(Ok(()))
}

/// The runs as they were last seen.
struct End {
    run: RunView,
    loss: Option<f32>,
    /// Those that others submitted to this cluster.
    others: Vec<RunView>,
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
        let others = client.runs().await?;
        if !goes && !self.args.keep && !others.iter().any(|run| goes_on(run.state)) {
            let run = client.run(&self.spec.name).await?;
            return Ok(Some(End {
                loss: run.loss,
                run,
                others: Vec::new(),
            }));
        }
        view.hint("Ctrl-C stops with a checkpoint. Try: `rebloom chaos kill-rank`");
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
            say(&format!(
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

    /// Shows the run until it is over and no other goes on, or until somebody wants all stopped and they are.
    async fn watch(
        &mut self,
        target: &Target,
        view: &mut View,
        signals: &mut Signals,
    ) -> Result<Option<End>, Failure> {
        let mut updates = feed(target.clone());
        let mut ticks = View::ticks();
        let mut closing = Closing::new(self.spec.name.clone());
        let mut kept = false;
        loop {
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { break };
                    let mut lines = Vec::new();
                    let fresh = if let Update::Cluster(cluster) = &update {
                        lines = closing.update(&cluster.runs, monotonic());
                        true
                    } else {
                        false
                    };
                    view.take(update)?;
                    lines.iter().for_each(|line| view.note(line));
                    ask(&mut closing, target);
                    let over = fresh && view.run().is_some_and(|run| !goes_on(run.state));
                    if !over {
                        continue;
                    }
                    let others = closing.live().count() > 0;
                    if !others && (closing.is_stopping() || !self.args.keep) {
                        break;
                    }
                    if !kept && !closing.is_stopping() {
                        kept = true;
                        view.hint("the run is over; Ctrl-C ends the cluster");
                        view.note(&stays(&closing, self.args.keep));
                    }
                }
                news = self.news.recv() => match news {
                    Some(News::Note(note)) => view.note(&note),
                    Some(News::Failed(failure)) => return Err(self.home.with_logs(failure)),
                    None => break,
                },
                _ = ticks.tick() => {
                    view.tick();
                    let now = monotonic();
                    closing.tick(now).iter().for_each(|line| view.note(line));
                    ask(&mut closing, target);
                    if closing.is_stuck(now) {
                        killed(&closing, view);
                        break;
                    }
                }
                () = signals.next() => {
                    if closing.live().count() == 0 {
                        break;
                    }
                    if signals.forced {
                        killed(&closing, view);
                        break;
                    }
                    view.hint(&format!("stopping: each run saves a checkpoint. {AGAIN}"));
                    view.note(&closing.begin(monotonic()));
                    ask(&mut closing, target);
                }
            }
        }
        view.hint("");
        view.tick();
        Ok(view.run().cloned().map(|run| End {
            run,
            loss: view.loss(),
            others: closing.others(),
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
        if run.state != RunState::Stopping || monotonic().since(began) > SETTLE_WITHIN {
            return Ok(run);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Why the cluster stays although its run is over.
fn stays(closing: &Closing, keep: bool) -> Line {
    let others: Vec<&str> = closing.live().map(|run| run.spec.name.as_str()).collect();
    Line::plain(if keep || others.is_empty() {
        "the cluster stays up until Ctrl-C".to_owned()
    } else {
        let others = others.join(" and ");
        format!("{others} still to be done: the cluster stays up until then, or until Ctrl-C")
    })
}

/// Says what the end costs that does not wait.
fn killed(closing: &Closing, view: &mut View) {
    for run in closing.live() {
        let name = &run.spec.name;
        view.note(&Line::bad(format!(
            "{name} has not stopped; killing it: {}",
            closing::loss(run)
        )));
    }
}

/// Asks those that are to be asked to stop.
fn ask(closing: &mut Closing, target: &Target) {
    for run in closing.ask(monotonic()) {
        tokio::spawn(stop(target.clone(), run));
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
