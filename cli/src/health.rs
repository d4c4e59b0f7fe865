//! `rebloom health`: the rules by which nodes are judged.

use crate::args::{Global, HealthCommand, RulesCommand};
use crate::failure::Failure;
use crate::format::{self, Output, ago, count, line, or_dash};
use crate::run::answer;
use rebloom_core::engine::{HealthRuleView, RuleHit};
use rebloom_core::health::edited::OwnRule;
use rebloom_core::health::{Action, Mode, Verdict};

pub(crate) async fn run(command: HealthCommand, global: &Global) -> Result<(), Failure> {
    let HealthCommand::Rules(command) = command;
    let client = global.target().reach().await?;
    match command {
        RulesCommand::List => list(&client.health_rules().await?, global.output),
        RulesCommand::Set {
            name,
            mode,
            when,
            verdict,
            action,
        } => {
            let own = when.map(|when| OwnRule {
                when,
                verdict,
                action,
            });
            // What is new only looks on, until somebody has seen what it would do.
            let mode = match (mode, &own) {
                (Some(mode), _) => mode,
                (None, Some(_)) => Mode::Shadow,
                (None, None) => {
                    let why = "say --mode, or --when for a rule of your own".to_owned();
                    return Err(Failure::BadInput(why));
                }
            };
            answer(
                &client.set_health_rule(name, mode, own).await?,
                global.output,
            )
        }
        RulesCommand::Unset { name } => {
            answer(&client.unset_health_rule(name).await?, global.output)
        }
        RulesCommand::Test { when } => tested(&client.test_health_rule(when).await?, global.output),
    }
}

fn list(rules: &[HealthRuleView], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return format::json(&rules);
    }
    let wide = output == Output::Wide;
    let mut header = vec!["NAME", "MODE", "VERDICT", "FOUND", "SHADOW", "LAST"];
    if wide {
        header.extend(["FIRES", "SOURCE"]);
    }
    let row = |rule: &HealthRuleView| {
        let tally = &rule.tally;
        let last = tally.node.as_ref();
        let mut row = vec![
            rule.name.clone(),
            rule.mode.name().to_owned(),
            rule.verdict.name().to_owned(),
            tally.enforced.to_string(),
            tally.shadowed.to_string(),
            or_dash(last.map(|node| format!("{node}, {} ago", ago(tally.last)))),
        ];
        if wide {
            row.push(rule.fires.clone());
            row.push(rule.source.clone());
        }
        row
    };
    format::table(&header, rules.iter().map(row).collect());
    Ok(())
}

/// On which of the signals that were heard of late the rule would have fired.
fn tested(hits: &[RuleHit], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return format::json(&hits);
    }
    let shown = hits.iter().filter(|hit| hit.fires != Ok(false));
    let row = |hit: &RuleHit| {
        let fires = match &hit.fires {
            Ok(_) => "fires".to_owned(),
            Err(error) => error.clone(),
        };
        vec![
            format!("{} ago", ago(hit.at)),
            hit.node.to_string(),
            fires,
            hit.signal.clone(),
        ]
    };
    let rows: Vec<_> = shown.map(row).collect();
    let fired = hits.iter().filter(|hit| hit.fires == Ok(true)).count();
    if !rows.is_empty() {
        format::table(&["HEARD", "NODE", "RULE", "SIGNAL"], rows);
    }
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let of = count(number(hits.len()), "signal");
    line(&format!(
        "it would have fired {fired} times, of the last {of}"
    ));
    Ok(())
}

/// Reads one of the names of a kind of thing, or says which there are.
fn one_of<T>(text: &str, known: Option<T>, all: &[&str]) -> Result<T, String> {
    known.ok_or_else(|| format!("{text} is none of {}", all.join(", ")))
}

/// A mode by its name.
pub(crate) fn mode(text: &str) -> Result<Mode, String> {
    one_of(text, Mode::from_name(text), &Mode::ALL.map(Mode::name))
}

/// A verdict by its name.
pub(crate) fn verdict(text: &str) -> Result<Verdict, String> {
    one_of(
        text,
        Verdict::from_name(text),
        &Verdict::ALL.map(Verdict::name),
    )
}

/// An action by its name.
pub(crate) fn action(text: &str) -> Result<Action, String> {
    one_of(
        text,
        Action::from_name(text),
        &Action::ALL.map(Action::name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_others_are_told() {
        assert_eq!(mode("shadow"), Ok(Mode::Shadow));
        assert_eq!(verdict("faulty"), Ok(Verdict::Faulty));
        assert_eq!(action("reset_gpu"), Ok(Action::ResetGpu));
        let told = verdict("ill").unwrap_err();
        assert_eq!(told, "ill is none of healthy, suspect, quarantined, faulty");
    }
}
