//! Whether a run that trains still steps. A view that shows the speed of a while ago beside a frozen step
//! would call a hang healthy.

use super::Model;
use crate::format::short;
use rebloom_core::engine::{RunState, RunView};
use rebloom_core::flight::Phase;
use rebloom_core::time::Duration;

/// So many usual steps without one are worth a word.
const USUAL_STEPS: u32 = 5;
/// Less than this never is.
const LEAST: Duration = Duration::from_secs(3);

/// A run that should step and does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stall {
    /// For so long, as far as it was seen.
    pub(crate) lasts: Duration,
    phase: Phase,
    deadline: Option<Duration>,
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no step for {} s", self.lasts.as_secs())?;
        match self.phase {
            Phase::Save => f.write_str(", it saves")?,
            Phase::Eval => f.write_str(", it evaluates")?,
            Phase::Idle | Phase::Init | Phase::Load | Phase::Step | Phase::Exit => {}
        }
        match self.deadline {
            Some(deadline) => write!(f, " (deadline {})", whole(deadline)),
            None => Ok(()),
        }
    }
}

/// `15 s`, where there is nothing behind the point.
fn whole(span: Duration) -> String {
    match span.as_secs() {
        secs @ 0..60 if span.subsec_nanos() == 0 => format!("{secs} s"),
        _ => short(span),
    }
}

impl Model {
    /// Set where the run trains, the controller answers, and no step came for some usual ones.
    pub(crate) fn stall(&self) -> Option<Stall> {
        let run = self
            .run
            .as_ref()
            .filter(|run| run.state == RunState::Running && run.step.0 < run.spec.train.steps)?;
        let usual = self.usual.or(run.step_time)?;
        let lasts = self.now.since(self.moved);
        let stalls = self.down.is_none() && lasts >= LEAST.max(usual * USUAL_STEPS);
        stalls.then(|| {
            let phase = phase(run);
            let seconds = run.spec.deadlines.of(phase);
            Stall {
                lasts,
                phase,
                deadline: Duration::try_from_secs_f64(seconds).ok(),
            }
        })
    }
}

/// What a gang is at: saving or evaluating where any rank is, else stepping.
fn phase(run: &RunView) -> Phase {
    let is_at = |phase: &Phase| run.ranks.iter().any(|rank| rank.phase == Some(*phase));
    [Phase::Save, Phase::Eval]
        .into_iter()
        .find(is_at)
        .unwrap_or(Phase::Step)
}
