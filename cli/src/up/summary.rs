//! What is worth knowing when `up` ends; the whole story goes into a file, since the controller is gone.

use super::End;
use super::closing::loss;
use super::home::Home;
use crate::client::goes_on;
use crate::explain;
use crate::failure::Failure;
use crate::format::{ettr, incidents, line, say, short, span};
use crate::view::newest_sealed;
use rebloom_core::engine::{RunState, RunView, Spend};
use rebloom_core::time::Instant;
use rebloom_runtime::clock::Wall;
use rebloom_runtime::files;

/// Prints it, and writes the story.
pub(super) fn print(home: &Home, end: &End) -> Result<(), Failure> {
    let run = &end.run;
    let now = Wall::starting_at_least(Instant::ZERO).now();
    let report = home.report();
    let stories = [run].into_iter().chain(&end.others);
    let stories: Vec<String> = stories.map(|run| explain::story(run, now)).collect();
    files::write(&report, stories.join("\n").as_bytes())?;
    line("");
    line(&stands(run));
    for (name, value) in fields(run, end.loss) {
        field(name, &value);
    }
    field("story", &report.display().to_string());
    field("logs", &home.logs().display().to_string());
    for other in &end.others {
        line(&stands(other));
        field("steps", &steps(other));
        field("checkpoints", &checkpoints(other));
    }
    if let Some(next) = next(run) {
        say(next);
    }
    for name in end.others.iter().filter_map(resumable) {
        say(&format!(
            "`rebloom run resume {name}` lets {name} go on once the cluster is up again"
        ));
    }
    Ok(())
}

fn field(name: &str, value: &str) {
    line(&format!("  {name:<12} {value}"));
}

/// How a run ended.
fn stands(run: &RunView) -> String {
    let (name, state) = (&run.spec.name, run.state);
    if goes_on(state) {
        format!("run {name} was {state} when it was killed: {}", loss(run))
    } else {
        format!("run {name} is {state}")
    }
}

fn steps(run: &RunView) -> String {
    format!("{} of {}", run.step, run.spec.train.steps)
}

fn checkpoints(run: &RunView) -> String {
    let newest = newest_sealed(run).map(|id| format!(" (newest: {})", id.directory()));
    let directory = &run.spec.checkpoint.directory;
    let newest = newest.unwrap_or_default();
    format!("{directory}/{}{newest}", run.spec.name)
}

fn fields(run: &RunView, loss: Option<f32>) -> Vec<(&'static str, String)> {
    let spent = &run.ledger.spent;
    let productive = spent.get(&Spend::Productive).copied().unwrap_or_default();
    let mut fields = vec![("steps", steps(run))];
    if let Some(loss) = loss {
        let guess = f64::from(run.spec.model.vocab).ln();
        fields.push((
            "loss",
            format!("{loss:.3} (a uniform guess has {guess:.3})"),
        ));
    }
    fields.extend([
        ("time", span(run.ledger.ran())),
        (
            "ETTR",
            format!("{} ({} productive)", ettr(&run.ledger), short(productive)),
        ),
        ("incidents", incidents(run)),
        ("checkpoints", checkpoints(run)),
    ]);
    fields
}

/// What to type next.
const fn next(run: &RunView) -> Option<&'static str> {
    match run.state {
        RunState::Completed => Some("`rebloom up --fresh` begins anew"),
        RunState::Pending
        | RunState::Starting
        | RunState::Running
        | RunState::Recovering
        | RunState::Stopping
        | RunState::Stopped => Some("`rebloom up` goes on from the newest checkpoint"),
        RunState::Failed | RunState::Parked => None,
    }
}

/// The name of a run that waits for an admin.
fn resumable(run: &RunView) -> Option<&str> {
    (run.state == RunState::Stopped).then(|| run.spec.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;

    #[test]
    fn a_run_that_was_killed_says_what_it_lost() {
        let mut run = sample::run(48);
        run.state = RunState::Stopping;
        assert_eq!(
            stands(&run),
            "run bloom-small was Stopping when it was killed: 8 steps since the checkpoint at step 40 \
             are lost"
        );
        assert_eq!(resumable(&run), None);
        run.state = RunState::Stopped;
        assert_eq!(stands(&run), "run bloom-small is Stopped");
        assert_eq!(resumable(&run), Some("bloom-small"));
    }

    #[test]
    fn the_figures_of_a_run() {
        let fields = fields(&sample::run_with_incident(), Some(7.0));
        let text: Vec<String> = fields
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(
            text,
            [
                "steps: 50 of 300",
                "loss: 7.000 (a uniform guess has 7.625)",
                "time: 50.0 s",
                "ETTR: 0.900 (45.0 s productive)",
                "incidents: 1, recovered from 1",
                "checkpoints: /checkpoints/bloom-small (newest: step-00000040.g1)"
            ]
        );
    }
}
