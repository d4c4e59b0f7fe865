//! `rebloom run watch`: a run until it ends; and the feed that every view is fed by.

use crate::called::spelled;
use crate::client::{Client, Cluster, Target, goes_on};
use crate::failure::Failure;
use crate::format::{Output, last_fault, line, run_json};
use crate::view::{Line, Model, Plain, Screen};
use rebloom_core::engine::{RunState, RunView};
use rebloom_core::id::RunId;
use rebloom_runtime::clock::monotonic;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two attempts to reach a controller that is gone.
const RETRY: Duration = Duration::from_millis(300);
/// Between two pictures while nothing comes in.
const REDRAW: Duration = Duration::from_millis(250);
/// `watch` gives up on a controller that is gone for this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a feed brings.
pub(crate) enum Update {
    /// How things are.
    Cluster(Box<Cluster>),
    /// The controller does not answer.
    Down(String),
}

/// Watches a cluster for as long as somebody takes what it brings, over as many lives of the controller as
/// there may be.
pub(crate) fn feed(target: Target) -> mpsc::Receiver<Update> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let down = match target.connect().await {
                Ok(client) => follow(&client, &sender).await,
                Err(failure) => failure,
            };
            let told = sender.send(Update::Down(down.to_string())).await;
            if told.is_err() {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    });
    receiver
}

/// Passes on what comes, until nothing more does; says why.
async fn follow(client: &Client, sender: &mpsc::Sender<Update>) -> Failure {
    let mut views = match client.watch().await {
        Ok(views) => views,
        Err(failure) => return failure,
    };
    loop {
        let update = match views.message().await {
            Ok(Some(view)) => match Cluster::try_from(view) {
                Ok(cluster) => Update::Cluster(Box::new(cluster)),
                Err(malformed) => return malformed.into(),
            },
            Ok(None) => return Failure::Failed("the controller ended the watch".to_owned()),
            Err(status) => return client.failure(&status),
        };
        if sender.send(update).await.is_err() {
            return Failure::Failed("nobody watches any more".to_owned());
        }
    }
}

/// A model and the place where it is shown.
pub(crate) struct View {
    model: Model,
    sink: Sink,
}

enum Sink {
    Undecided { lines: Vec<Line> },
    Screen(Box<Screen>),
    Plain(Plain),
    Json,
}

impl View {
    /// Shows a run; on a terminal in place, unless `plain` or JSON are asked for.
    pub(crate) fn new(run: RunId, output: Output, plain: bool) -> Self {
        let sink = match output {
            Output::Json => Sink::Json,
            Output::Table | Output::Wide if plain => Sink::Plain(Plain::default()),
            Output::Table | Output::Wide => Sink::Undecided { lines: Vec::new() },
        };
        Self {
            model: Model::new(run, monotonic()),
            sink,
        }
    }

    /// Takes over what the feed brought.
    pub(crate) fn take(&mut self, update: Update) -> Result<(), Failure> {
        let before = self.model.run().cloned();
        let lines = match update {
            Update::Cluster(cluster) => {
                if let Sink::Undecided { lines } = &mut self.sink {
                    let lines = std::mem::take(lines);
                    self.sink = match Screen::open(cluster.nodes.len()) {
                        Some(screen) => Sink::Screen(Box::new(screen)),
                        None => Sink::Plain(Plain::default()),
                    };
                    lines.into_iter().for_each(|line| self.note(&line));
                }
                self.model.update(*cluster, monotonic())
            }
            Update::Down(error) => self.model.lost(&error),
        };
        lines.iter().for_each(|line| self.note(line));
        if let (Sink::Json, Some(run)) = (&self.sink, self.model.run())
            && before.as_ref() != Some(run)
        {
            line(&run_json(run)?.to_string());
        }
        self.show();
        Ok(())
    }

    /// Says something that the cluster does not know.
    pub(crate) fn note(&mut self, what: &Line) {
        match &mut self.sink {
            Sink::Undecided { lines } => lines.push(what.clone()),
            Sink::Screen(screen) => screen.note(&self.model, what),
            Sink::Plain(plain) => plain.note(&self.model, what),
            Sink::Json => {}
        }
    }

    /// What the last line of the panel says from now on.
    pub(crate) fn hint(&mut self, hint: &str) {
        self.model.hint(&spelled(hint));
    }

    /// Time goes on.
    pub(crate) fn tick(&mut self) {
        if let Some(line) = self.model.tick(monotonic()) {
            self.note(&line);
        }
        self.show();
    }

    fn show(&mut self) {
        match &mut self.sink {
            Sink::Screen(screen) => screen.show(&self.model),
            Sink::Plain(plain) => plain.show(&self.model),
            Sink::Undecided { .. } | Sink::Json => {}
        }
    }

    /// The run as it was last seen.
    pub(crate) const fn run(&self) -> Option<&RunView> {
        self.model.run()
    }

    /// The loss as it was last seen.
    pub(crate) fn loss(&self) -> Option<f32> {
        self.model.loss()
    }

    /// Redraws that often.
    pub(crate) fn ticks() -> tokio::time::Interval {
        let mut ticks = tokio::time::interval(REDRAW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        ticks
    }
}

/// Watches a run until it ends; its end is the command's.
pub(crate) async fn run(
    target: Target,
    run: &RunId,
    output: Output,
    plain: bool,
) -> Result<(), Failure> {
    let mut view = View::new(run.clone(), output, plain);
    view.hint("Ctrl-C ends the watching, not the run");
    let mut updates = feed(target);
    let mut ticks = View::ticks();
    let mut down_since = None;
    loop {
        tokio::select! {
            update = updates.recv() => {
                let Some(update) = update else { return Ok(()) };
                if let Update::Down(error) = &update {
                    let since = *down_since.get_or_insert_with(monotonic);
                    if monotonic().since(since) > PATIENCE {
                        return Err(Failure::Failed(format!("gave up: {error}")));
                    }
                } else {
                    down_since = None;
                }
                view.take(update)?;
                if let Some(end) = view.run().and_then(end) {
                    view.hint("");
                    view.tick();
                    return end;
                }
            }
            _ = ticks.tick() => view.tick(),
            asked = tokio::signal::ctrl_c() => return asked.map_err(|error| Failure::of(&error)),
        }
    }
}

/// How a run that does not go on ended.
pub(crate) fn end(run: &RunView) -> Option<Result<(), Failure>> {
    if goes_on(run.state) {
        return None;
    }
    Some(match run.state {
        RunState::Failed => Err(Failure::Ended(ended_badly(run))),
        RunState::Parked => Err(Failure::Parked(ended_badly(run))),
        RunState::Pending
        | RunState::Starting
        | RunState::Running
        | RunState::Recovering
        | RunState::Stopping
        | RunState::Stopped
        | RunState::Completed => Ok(()),
    })
}

fn ended_badly(run: &RunView) -> String {
    let last = last_fault(run).map(|cause| format!("; the last fault: {cause}"));
    format!(
        "run {} is {}: {}{}; `rebloom run explain {0}` tells the story",
        run.spec.name,
        run.state,
        run.why,
        last.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;
    use rebloom_core::cause::Cause;

    #[test]
    fn only_a_bad_end_is_a_failure() {
        let ended = |state| {
            let run = RunView {
                state,
                ..sample::run(5)
            };
            end(&run).map(|end| end.map_err(|failure| failure.code()))
        };
        assert_eq!(ended(RunState::Running), None);
        assert_eq!(ended(RunState::Stopping), None);
        assert_eq!(ended(RunState::Completed), Some(Ok(())));
        assert_eq!(ended(RunState::Stopped), Some(Ok(())));
        assert_eq!(ended(RunState::Failed), Some(Err(5)));
        assert_eq!(ended(RunState::Parked), Some(Err(93)));
    }

    #[test]
    fn a_bad_end_names_the_last_fault() {
        let trains = sample::run_with_incident();
        let fault = trains.incidents[0].cause.to_string();
        assert!(!ended_badly(&trains).contains(&fault));
        let failed = RunView {
            state: RunState::Failed,
            why: Cause::BudgetSpent { restarts: 3 },
            ..trains
        };
        let text = ended_badly(&failed);
        assert!(text.contains(&format!("the last fault: {fault}")), "{text}");
    }
}
