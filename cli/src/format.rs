//! How numbers, times, tables and JSON look.

use crate::called::spelled;
use crate::failure::Failure;
use comfy_table::{Cell, ContentArrangement, Table, presets};
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Incident, Ledger, RunState, RunView, Rung, Spend};
use rebloom_core::time::{Duration, Instant};
use rebloom_runtime::clock::Wall;
use serde::Serialize;
use serde_json::Value;
use std::io::Write;

/// How a command prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For people, with more columns.
    Wide,
    /// For programs; the names of the fields are stable.
    Json,
}

/// Prints a line. Where nobody reads any more (`rebloom run list | head -1`), the command is done.
pub(crate) fn line(text: &str) {
    print_bytes(format!("{text}\n").as_bytes());
}

/// Prints bytes as they are; see [`line`].
pub(crate) fn print_bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints a line in which commands are named as they can be typed here.
pub(crate) fn say(text: &str) {
    line(&spelled(text));
}

/// Prints a value as JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let value = plain_json(value)?;
    let text = serde_json::to_string_pretty(&value).map_err(|error| Failure::of(&error))?;
    line(&text);
    Ok(())
}

/// A value as JSON in which every span of time is a number of seconds.
pub(crate) fn plain_json<T: Serialize>(value: &T) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(value).map_err(|error| Failure::of(&error))?;
    spans_as_seconds(&mut value);
    Ok(value)
}

fn spans_as_seconds(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let part = |name: &str| fields.get(name).and_then(Value::as_u64);
            if let (2, Some(secs), Some(nanos)) = (fields.len(), part("secs"), part("nanos")) {
                let nanos = u32::try_from(nanos).unwrap_or(0);
                *value = Duration::new(secs, nanos).as_secs_f64().into();
            } else {
                fields.values_mut().for_each(spans_as_seconds);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(spans_as_seconds),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A run as `-o json` shows it: all that is known of it, with its name and its ETTR at the top.
pub(crate) fn run_json(run: &RunView) -> Result<Value, Failure> {
    let mut value = plain_json(run)?;
    value["name"] = run.spec.name.as_str().into();
    value["ettr"] = run.ledger.ettr().into();
    Ok(value)
}

/// Prints a table without lines around its cells.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    line(&render(header, rows));
}

fn render(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(Cell::new));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// `12.3 s`, `4:05 min`, `2:07:30 h`, `3 d 2:07 h`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{minutes}:{:02} min", seconds % 60),
        3600..86_400 => format!("{hours}:{minutes:02}:{:02} h", seconds % 60),
        _ => format!("{} d {}:{minutes:02} h", seconds / 86_400, hours % 24),
    }
}

/// A short span: `350 ms`, `1.82 s`, then as [`span`].
pub(crate) fn short(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.0} ms", time.as_secs_f64() * 1e3)
    } else if time < Duration::from_secs(10) {
        format!("{:.2} s", time.as_secs_f64())
    } else {
        span(time)
    }
}

/// `1 234 567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1.5 GiB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    #[expect(clippy::cast_precision_loss, reason = "for reading, to two digits")]
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{number} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// What is known, or a dash.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `0.942`, or a dash where nothing was done yet.
pub(crate) fn ettr(ledger: &Ledger) -> String {
    or_dash(ledger.ettr().map(|ratio| format!("{ratio:.3}")))
}

/// Time since a moment of the controller's clock.
pub(crate) fn ago(moment: Instant) -> String {
    span(Wall::starting_at_least(moment).now().since(moment))
}

/// One thing, or several: `1 rank`, `3 ranks`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!(
        "{} {what}{}",
        grouped(number),
        if number == 1 { "" } else { "s" }
    )
}

/// What was done about an incident, as people say it.
pub(crate) const fn rung(rung: Rung) -> &'static str {
    match rung {
        Rung::Reform => "survivors re-formed in place",
        Rung::Restart => "all ranks were restarted",
        Rung::Replace => "the node was replaced by a spare",
        Rung::AsyncOff => "all ranks were relaunched with asynchronous launches off",
        Rung::Shrink => "the run went on with fewer copies of the model",
        Rung::Park => "the run was parked: no rung was left",
    }
}

/// Whether an incident stopped nothing and asks for nothing: a note.
pub(crate) const fn is_note(incident: &Incident) -> bool {
    incident.rung.is_none() && incident.closed.is_some()
}

/// Incidents of a run without its notes, oldest first.
pub(crate) fn faults(run: &RunView) -> impl DoubleEndedIterator<Item = &Incident> {
    run.incidents.iter().filter(|incident| !is_note(incident))
}

/// The fault after which a run was given up.
pub(crate) fn last_fault(run: &RunView) -> Option<&Cause> {
    let given_up = matches!(run.state, RunState::Failed | RunState::Parked);
    let last = faults(run).next_back().filter(|_| given_up);
    last.map(|incident| &incident.cause)
        .filter(|cause| **cause != run.why)
}

/// Faults that the run recovered from.
pub(crate) fn recoveries(run: &RunView) -> usize {
    let recovered = |incident: &&Incident| {
        incident.closed.is_some() && incident.rung.is_some_and(|rung| rung != Rung::Park)
    };
    faults(run).filter(recovered).count()
}

/// `2, recovered from 2; 1 note`, or `none`.
pub(crate) fn incidents(run: &RunView) -> String {
    let faults = faults(run).count();
    let mut text = match faults {
        0 => "none".to_owned(),
        faults => format!("{faults}, recovered from {}", recoveries(run)),
    };
    let notes = run.incidents.len() - faults;
    if notes > 0 {
        text += &format!("; {}", count(notes as u64, "note"));
    }
    text
}

/// How long a recovery took, and how much of that was doing steps again: `recovered in 4.37 s (training
/// again after 412 ms)`.
pub(crate) fn recovered(incident: &Incident) -> String {
    let spent = &incident.spent.spent;
    let all: Duration = spent.values().sum();
    match spent.get(&Spend::CatchUp) {
        Some(again) if !again.is_zero() => format!(
            "recovered in {} (training again after {})",
            short(all),
            short(all.saturating_sub(*again))
        ),
        _ => format!("recovered in {}", short(all)),
    }
}

/// Where a run stands and why. Why one trains is why it trains again, if it was anything else.
pub(crate) fn standing(run: &RunView) -> String {
    if run.state != RunState::Running {
        return format!("{}, because {}", run.state, run.why);
    }
    let last = faults(run).rfind(|incident| incident.recovered_by == Some(run.generation));
    match last.map(|incident| (incident.closed, &incident.cause)) {
        Some((Some(closed), cause)) => {
            format!("Running; {} ago it recovered: {cause}", ago(closed))
        }
        Some((None, cause)) => format!("Running; it catches up after: {cause}"),
        None => "Running".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample::{run, run_with_incident};

    #[test]
    fn times_read_well() {
        assert_eq!(span(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(span(Duration::from_secs(245)), "4:05 min");
        assert_eq!(span(Duration::from_secs(7650)), "2:07:30 h");
        assert_eq!(span(Duration::from_secs(3 * 86_400 + 7650)), "3 d 2:07 h");
        assert_eq!(short(Duration::from_millis(350)), "350 ms");
        assert_eq!(short(Duration::from_millis(1820)), "1.82 s");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(count(1, "rank"), "1 rank");
        assert_eq!(count(8, "rank"), "8 ranks");
    }

    #[test]
    fn json_has_seconds_and_what_a_script_looks_for_first() {
        let run = run_with_incident();
        let value = run_json(&run).unwrap();
        assert_eq!(value["name"], "bloom-small");
        assert_eq!(value["ettr"], 0.9);
        assert_eq!(value["step_time"], 0.5);
        assert_eq!(value["incidents"][0]["spent"]["spent"]["reform"], 1.0);
        assert_eq!(value["ledger"]["spent"]["productive"], 45.0);
        assert!(!value.to_string().contains("nanos"), "{value}");
    }

    #[test]
    fn notes_are_counted_apart() {
        let mut run = run_with_incident();
        assert_eq!(incidents(&run), "1, recovered from 1");
        let mut note = run.incidents[0].clone();
        note.rung = None;
        run.incidents.push(note);
        assert_eq!(incidents(&run), "1, recovered from 1; 1 note");
        run.incidents[0].closed = None;
        assert_eq!(incidents(&run), "1, recovered from 0; 1 note");
        run.incidents.remove(0);
        assert_eq!(incidents(&run), "none; 1 note");
        run.incidents.clear();
        assert_eq!(incidents(&run), "none");
    }

    #[test]
    fn a_recovery_says_when_it_trained_again() {
        let mut incident = run_with_incident().incidents.remove(0);
        assert_eq!(recovered(&incident), "recovered in 1.50 s");
        let again = Duration::from_millis(2870);
        incident.spent.spent.insert(Spend::CatchUp, again);
        assert_eq!(
            recovered(&incident),
            "recovered in 4.37 s (training again after 1.50 s)"
        );
    }

    #[test]
    fn a_run_that_trains_names_no_cause_but_of_its_last_recovery() {
        assert_eq!(standing(&run(5)), "Running");
        let mut run = run_with_incident();
        run.incidents[0].closed = None;
        let text = standing(&run);
        assert_eq!(
            text,
            "Running; it catches up after: rank 3 on node-2 ended with SIGKILL"
        );
        run.state = RunState::Stopped;
        assert_eq!(standing(&run), format!("Stopped, because {}", run.why));
    }

    #[test]
    fn a_table_has_no_lines_and_no_trailing_blanks() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), "-".to_owned()],
        ];
        assert_eq!(
            render(&["NAME", "STEP"], rows),
            "NAME   STEP\na      1\nlong   -"
        );
    }
}
