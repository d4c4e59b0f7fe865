//! The chronicle: the story of a run as people keep it by hand, derived from its ledger.
//!
//! [`Chronicle::of`] says what belongs into it; `markdown` and `html` only write it down. Every reason is
//! the sentence of its [`Cause`](crate::cause::Cause). Pure: the same run at the same moment gives the
//! same text, byte for byte.

mod html;
mod markdown;

use crate::cause::Cause;
use crate::engine::{Incident, Ledger, Milepost, RunState, RunView, Spend};
use crate::eval::Evaluation;
use crate::time::{Duration, Instant};
use std::fmt::Write;

/// Mileposts and evaluations that the diary names; the chart shows all mileposts.
const DIARY_POSTS: usize = 24;

/// Everything that is told of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Chronicle {
    /// Name of the run.
    pub run: String,
    /// What it is, in a sentence.
    pub summary: String,
    /// The figures at the head: what, and how much.
    pub figures: Vec<(&'static str, String)>,
    /// What happened, in order.
    pub diary: Vec<Entry>,
    /// Where the time went: on what, how long, which share.
    pub time: Vec<(&'static str, Duration, f64)>,
    /// The loss over time since the run was submitted, in seconds.
    pub curve: Vec<(f64, f32)>,
    /// When the run was not productive because of an incident, in seconds since it was submitted.
    pub gaps: Vec<(f64, f64)>,
    /// Seconds from the submission to the end of this chronicle.
    pub length: f64,
}

/// One entry of the diary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Instant,
    /// What, in a few words.
    pub title: String,
    /// The sentences that belong to it.
    pub lines: Vec<String>,
    /// Whether something went wrong.
    pub is_incident: bool,
}

impl Chronicle {
    /// The chronicle of a run as it stands at `now`.
    pub fn of(run: &RunView, now: Instant) -> Self {
        let since = |at: Instant| at.since(run.submitted).as_secs_f64();
        let layout = run.spec.layout;
        let all: Duration = run.ledger.spent.values().sum();
        let share = |time: Duration| time.as_secs_f64() / all.as_secs_f64().max(f64::MIN_POSITIVE);
        let time = run.ledger.spent.iter();
        let end = run.submitted + all;
        let stopping = run
            .incidents
            .iter()
            .filter(|incident| incident.rung.is_some());
        Self {
            run: run.spec.name.to_string(),
            summary: format!(
                "{} ranks (TP {} x PP {} x DP {}), {} steps of {} samples. The run is {}: {}.",
                layout.world(),
                layout.tensor,
                layout.pipeline,
                layout.data,
                run.spec.train.steps,
                run.spec.train.global_batch,
                run.state,
                run.why,
            ),
            figures: figures(run, all),
            diary: diary(run, end),
            time: time
                .map(|(spend, time)| (name(*spend), *time, share(*time)))
                .collect(),
            curve: run
                .mileposts
                .iter()
                .map(|post| (since(post.at), post.loss))
                .collect(),
            gaps: stopping
                .map(|incident| {
                    (
                        since(incident.opened),
                        since(incident.closed.unwrap_or(now)),
                    )
                })
                .collect(),
            length: since(end),
        }
    }
}

/// What time went into, as a reader says it.
const fn name(spend: Spend) -> &'static str {
    match spend {
        Spend::Waiting => "waiting for its turn, or stopped",
        Spend::Stalled => "without room after a fault, or given up",
        Spend::Starting => "starting",
        Spend::Productive => "productive",
        Spend::Detect => "detecting faults",
        Spend::Decide => "deciding",
        Spend::Reform => "re-forming groups",
        Spend::Restore => "restoring state",
        Spend::CatchUp => "catching up",
    }
}

fn figures(run: &RunView, all: Duration) -> Vec<(&'static str, String)> {
    let percent = |ratio: Option<f64>| {
        ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.2} %", r * 100.0))
    };
    let stopping = run
        .incidents
        .iter()
        .filter(|incident| incident.rung.is_some());
    let lost = run.lost_steps();
    let mut figures = vec![
        ("steps", format!("{} of {}", run.step, run.spec.train.steps)),
        (
            "loss",
            run.loss
                .map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}")),
        ),
        ("wall time", span(all)),
        ("effective training time", percent(run.ledger.ettr())),
        ("the same in the last hour", percent(run.ettr_hour)),
        (
            "incidents",
            format!(
                "{}, {} of them stopped the run",
                run.incidents.len(),
                stopping.count()
            ),
        ),
        ("steps done again", lost.to_string()),
        ("device-hours", hours(run.ledger.device_time())),
    ];
    figures.extend(energy(run, &run.ledger).map(|cost| ("energy and CO2", cost)));
    figures
}

fn hours(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() / 3600.0)
}

/// Energy and CO2 of a ledger, where the power of the devices is known.
pub fn energy(run: &RunView, ledger: &Ledger) -> Option<String> {
    let cost = run.tariff.of(ledger.device_time())?;
    Some(format!(
        "{:.2} kWh, {:.2} kg CO2e at {:.0} g/kWh",
        cost.kilowatt_hours, cost.kilograms, run.tariff.grams_per_kwh
    ))
}

fn diary(run: &RunView, end: Instant) -> Vec<Entry> {
    let plain = |at, title: String, lines| Entry {
        at,
        title,
        lines,
        is_incident: false,
    };
    let mut diary = vec![plain(run.submitted, "Submitted".to_owned(), Vec::new())];
    let told = some_of(&run.mileposts);
    diary.extend(told.map(|post| plain(post.at, passed(post), Vec::new())));
    let scored = some_of(&run.evaluations);
    diary.extend(scored.map(|(at, evaluation)| plain(*at, judged(evaluation), Vec::new())));
    diary.extend(run.incidents.iter().map(|incident| tell(run, incident)));
    let came = |state: RunState, why: &Cause| format!("{state}: {why}");
    let changes = run.transitions.iter();
    diary.extend(changes.map(|it| plain(it.at, came(it.state, &it.why), Vec::new())));
    let waits = (!run.waits_for.is_empty()).then(|| format!("It waits: {}.", run.waits_for));
    let last = run.transitions.last();
    let is_told = last.is_some_and(|it| (it.state, &it.why) == (run.state, &run.why));
    if !is_told || waits.is_some() {
        diary.push(plain(
            end,
            came(run.state, &run.why),
            waits.into_iter().collect(),
        ));
    }
    diary.sort_by_key(|entry| entry.at);
    diary
}

/// As many as the diary names, evenly, and the last.
fn some_of<T>(all: &[T]) -> impl Iterator<Item = &T> {
    let every = all.len().div_ceil(DIARY_POSTS).max(1);
    let last = all.len().saturating_sub(1);
    let some = all.iter().enumerate();
    some.filter(move |(at, _)| at % every == 0 || *at == last)
        .map(|(_, one)| one)
}

fn passed(post: &Milepost) -> String {
    let mut text = format!("Step {}, loss {:.4}", post.step, post.loss);
    if let Some(norm) = post.grad_norm {
        write!(text, ", gradient norm {norm:.3}").expect("a string takes everything");
    }
    text
}

fn judged(evaluation: &Evaluation) -> String {
    let mut text = format!("Evaluated after step {}", evaluation.step);
    for (at, score) in evaluation.scores.iter().enumerate() {
        let (sign, set) = (if at == 0 { ':' } else { ',' }, &score.set);
        let perplexity = score.perplexity();
        write!(text, "{sign} perplexity {perplexity:.2} on {set}")
            .expect("a string takes everything");
    }
    text
}

fn tell(run: &RunView, incident: &Incident) -> Entry {
    let mut lines = vec![sentence(&incident.cause.to_string())];
    lines.extend(
        incident
            .evidence
            .iter()
            .map(|seen| format!("Also seen: {seen}.")),
    );
    match (incident.rung, incident.recovered_by) {
        (None, _) => lines.push("Training went on.".to_owned()),
        (Some(_), None) => lines.push("Not recovered yet.".to_owned()),
        (Some(_), Some(generation)) => {
            let from = incident.resumed_from.map_or_else(
                || "from the beginning".to_owned(),
                |id| format!("from the {} at step {}", incident.tier.name(), id.step),
            );
            let again = incident.lost_steps;
            lines.push(format!(
                "Generation {generation} went on {from}; {again} steps were done again."
            ));
        }
    }
    let total: Duration = incident.spent.spent.values().sum();
    if !total.is_zero() {
        let parts: Vec<_> = incident
            .spent
            .spent
            .iter()
            .filter(|(_, time)| !time.is_zero())
            .map(|(spend, time)| format!("{} {}", name(*spend), span(*time)))
            .collect();
        let device_hours = hours(incident.spent.device_time());
        let energy =
            energy(run, &incident.spent).map_or_else(String::new, |cost| format!(", {cost}"));
        lines.push(format!(
            "Cost {} ({}), {device_hours} device-hours{energy}.",
            span(total),
            parts.join(", ")
        ));
    }
    Entry {
        at: incident.opened,
        title: format!("Incident {}: {}", incident.id, incident.cause.label()),
        lines,
        is_incident: true,
    }
}

/// A sentence with its capital and its full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

/// A span as people say it: the two largest units.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A moment as date and time in UTC; the caller's clock counts from the Unix epoch.
fn date(at: Instant) -> String {
    let seconds = at.as_nanos() / 1_000_000_000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, in eras of 400 years (Howard Hinnant, "chrono-compatible low-level
    // date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_at_the_edges() {
        let at = |seconds: u64| date(Instant::from_nanos(seconds * 1_000_000_000));
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(1_647_023_999), "2022-03-11 18:39:59");
        assert_eq!(at(4_102_444_799), "2099-12-31 23:59:59");
    }

    #[test]
    fn spans_have_two_units() {
        assert_eq!(span(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(span(Duration::from_secs(3599)), "59 min 59 s");
        assert_eq!(span(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
