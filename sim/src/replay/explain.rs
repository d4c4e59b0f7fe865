//! Why each decision of a replay was taken: the engine's own journal, in sentences.

use super::fleet::Fleet;
use super::struck_before;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Fact, Placement, Record, RunView, Spend};
use rebloom_core::health::Verdict;
use rebloom_core::id::{NodeId, Step};
use rebloom_core::ladder::Rung;
use rebloom_core::time::Instant;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

/// Nodes of one sentence that are named.
const NAMED: usize = 4;

/// The decisions of one replay, in order, each with its cause.
pub(super) fn story(fleet: &Fleet<'_>, seed: u64, view: &RunView) -> String {
    let mut teller = Teller {
        fleet,
        lines: Vec::new(),
        group: None,
        failed: None,
        rung: None,
        placed: None,
    };
    for record in fleet.told.journal.iter().flatten() {
        teller.take(record);
    }
    teller.close();
    let mut lines = teller.lines;
    for (at, why) in &fleet.told.humans {
        let at = Instant::from_nanos((at * 1e9) as u64);
        lines.push((at, format!("a human acted: {why}")));
    }
    lines.sort_by_key(|(at, _)| *at);
    let mut text = format!(
        "{}\nseed {seed}; docs/operating.md says what the causes and rungs mean\n\n",
        fleet.scenario.title
    );
    for (at, line) in lines {
        let seconds = at.as_nanos() / 1_000_000_000;
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let (hours, minutes, seconds) = (rest / 3600, rest / 60 % 60, rest % 60);
        writeln!(
            text,
            "day {days:>3} {hours:02}:{minutes:02}:{seconds:02}  {line}"
        )
        .expect("a string takes everything");
    }
    text + &sum(fleet, view)
}

/// What it came to.
fn sum(fleet: &Fleet<'_>, view: &RunView) -> String {
    let all: f64 = view
        .ledger
        .spent
        .values()
        .map(std::time::Duration::as_secs_f64)
        .sum();
    let spent = view.ledger.spent.iter();
    let hours: Vec<String> = spent
        .filter(|(_, time)| !time.is_zero())
        .map(|(spend, time)| format!("{} {:.2}", spend.name(), time.as_secs_f64() / 3600.0))
        .collect();
    let productive = view.ledger.spent.get(&Spend::Productive);
    let productive = productive.map_or(0.0, std::time::Duration::as_secs_f64);
    let stopped = view
        .incidents
        .iter()
        .filter(|incident| incident.rung.is_some());
    format!(
        "\n{} incidents, {} of them stopped the run; {} human interventions; ETTR {:.2} %\n\
         hours: {}\n",
        view.incidents.len(),
        stopped.count(),
        fleet.told.humans.len(),
        100.0 * productive / all.max(f64::MIN_POSITIVE),
        hours.join(", "),
    )
}

/// Nodes of which the same is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost { seconds: u64 },
    Back,
}

/// Puts one record after the other into words.
struct Teller<'a> {
    fleet: &'a Fleet<'a>,
    lines: Vec<(Instant, String)>,
    /// Nodes that shared a fate at the same moment.
    group: Option<(Instant, Fate, Vec<NodeId>)>,
    /// Saves that failed since the one that was told of: how many, and when and at which step the last did.
    failed: Option<(u32, Instant, Step)>,
    /// Where the open incident began.
    rung: Option<Rung>,
    /// Where the run was placed last.
    placed: Option<Arc<Placement>>,
}

impl Teller<'_> {
    fn take(&mut self, record: &Record) {
        let at = record.at;
        if let Fact::IncidentOpened {
            cause: Cause::SaveFailed { step, .. },
            rung: None,
            ..
        } = &record.fact
        {
            if let Some((more, ..)) = self.failed {
                self.failed = Some((more + 1, at, *step));
                return;
            }
            self.close();
            let line = self.line(record);
            self.lines.extend(line.map(|line| (at, line)));
            self.failed = Some((0, at, *step));
            return;
        }
        let fate = if let Fact::NodeLost { node, silent_for } = &record.fact {
            let seconds = silent_for.as_secs_f64().round() as u64;
            Some((Fate::Lost { seconds }, node))
        } else if let Fact::NodeReturned { node } = &record.fact {
            Some((Fate::Back, node))
        } else {
            None
        };
        if let Some((fate, node)) = fate {
            if let Some((since, same, nodes)) = &mut self.group
                && (*since, *same) == (at, fate)
            {
                return nodes.push(node.clone());
            }
            self.close();
            self.group = Some((at, fate, vec![node.clone()]));
        } else if let Some(line) = self.line(record) {
            self.close();
            self.lines.push((at, line));
        }
    }

    /// Puts what was gathered into a line.
    fn close(&mut self) {
        self.close_group();
        match self.failed.take() {
            Some((1, at, step)) => {
                let line = format!("the save at step {step} failed as well");
                self.lines.push((at, line));
            }
            Some((more, at, step)) if more > 1 => {
                let line = format!("{more} more saves failed, the last at step {step}");
                self.lines.push((at, line));
            }
            Some(_) | None => {}
        }
    }

    fn close_group(&mut self) {
        let Some((at, fate, nodes)) = self.group.take() else {
            return;
        };
        let one = nodes.len() == 1;
        let which = format!(
            "{}{}",
            if one {
                "node ".to_owned()
            } else {
                format!("{} nodes: ", nodes.len())
            },
            names(nodes.iter())
        );
        let line = match fate {
            Fate::Lost { seconds } => format!(
                "{which} {} given up: the link broke and did not come back (last heard {seconds} s ago)",
                if one { "is" } else { "are" }
            ),
            Fate::Back => format!(
                "{which} {} back and can be used",
                if one { "is" } else { "are" }
            ),
        };
        self.lines.push((at, line));
    }

    /// The fault of the scenario behind a record.
    fn struck(&self, cause: &Cause, at: Instant) -> String {
        struck_before(self.fleet, cause, at)
            .map_or_else(String::new, |fault| format!(" [{}]", fault.name))
    }

    /// A decision as a sentence; none for what is only taken note of.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what is not a decision is not told"
    )]
    fn line(&mut self, record: &Record) -> Option<String> {
        Some(match &record.fact {
            Fact::NodeCordoned { node } => {
                format!("nothing new is placed on node {node}: an admin asked")
            }
            Fact::NodeUncordoned { node } => {
                format!("node {node} can be used again: an admin asked")
            }
            Fact::VerdictReached {
                node,
                verdict,
                finding,
                lemon,
            } => {
                let why = finding.as_ref().map(|finding| format!(": {finding}"));
                let until = match verdict {
                    Verdict::Faulty if *lemon => " and withdrawn for good, a lemon",
                    Verdict::Faulty => " and withdrawn until it is repaired",
                    Verdict::Quarantined => " and withdrawn for a clean spell",
                    Verdict::Suspect => " and used last",
                    Verdict::Healthy => " again and can be used",
                };
                format!("node {node} is {verdict}{until}{}", why.unwrap_or_default())
            }
            Fact::VerdictHeld { node, finding } => format!(
                "node {node} stays in use, since too much of the fleet is withdrawn already: {finding}"
            ),
            Fact::StopAsked { cause, .. } => {
                format!("the run stops: {cause}{}", self.struck(cause, record.at))
            }
            Fact::MoveAsked { node, cause, .. } => {
                format!("the run moves off node {node} at the next step boundary, because {cause}")
            }
            Fact::TurnAsked { cause, .. } => {
                format!("the run restarts at the next step boundary, because {cause}")
            }
            Fact::IncidentOpened {
                cause, step, rung, ..
            } => {
                let struck = self.struck(cause, record.at);
                match rung {
                    Some(rung) => {
                        self.rung = Some(*rung);
                        let rung = rung.name();
                        format!(
                            "incident at step {step}: {cause}; recovery begins with rung {rung}{struck}"
                        )
                    }
                    None => format!("incident at step {step}: {cause}; training goes on{struck}"),
                }
            }
            Fact::EvidenceAdded { cause, .. } => format!("also seen: {cause}"),
            Fact::Placed {
                generation,
                rung,
                resume,
                fresh,
                cause,
                placement,
                ..
            } => {
                let how = match (rung, fresh) {
                    (None, _) => "every process is started".to_owned(),
                    (Some(rung), true) => format!("rung {}, every process anew", rung.name()),
                    (Some(rung), false) => {
                        format!("rung {}, survivors keep their process", rung.name())
                    }
                };
                let climbed = match (self.rung, rung) {
                    (Some(first), Some(rung)) if first < *rung => {
                        format!("; {} led to no progress", first.name())
                    }
                    _ => String::new(),
                };
                let from = resume.map_or_else(
                    || "from step 0".to_owned(),
                    |id| format!("from step {}", id.step),
                );
                let moved = self.moved(placement);
                self.placed = Some(Arc::clone(placement));
                format!(
                    "generation {generation} is placed ({how}{climbed}) {from}, because {cause}{moved}"
                )
            }
            Fact::Unplaced { .. } => {
                let waits = self.fleet.told.waits.iter();
                let why = waits.rev().find(|(at, _)| *at == record.at);
                let why = why
                    .map(|(_, why)| why.as_str())
                    .filter(|why| !why.is_empty());
                why.map_or_else(
                    || "no room: the run waits".to_owned(),
                    |why| format!("no room: the run waits: {why}"),
                )
            }
            Fact::IncidentClosed { step, .. } => {
                self.rung = None;
                format!("caught up at step {step}")
            }
            Fact::RunEnded { state, cause, .. } => format!("the run is {state}: {cause}"),
            _ => return None,
        })
    }

    /// Which nodes the gang left, and for which.
    fn moved(&self, now: &Placement) -> String {
        let Some(before) = &self.placed else {
            return String::new();
        };
        let left: BTreeSet<_> = before.nodes.difference(&now.nodes).collect();
        let came: BTreeSet<_> = now.nodes.difference(&before.nodes).collect();
        match (left.len(), came.len()) {
            (0, 0) => String::new(),
            (0, _) => format!("; on {} as well", names(came)),
            (_, 0) => format!("; without {}", names(left)),
            (_, _) => format!("; {} in place of {}", names(came), names(left)),
        }
    }
}

fn names<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let names: Vec<_> = nodes.into_iter().map(NodeId::as_str).collect();
    match names.as_slice() {
        [named @ .., last] if names.len() > NAMED => {
            format!("{}, ... {last}", named[..NAMED - 1].join(", "))
        }
        names => names.join(", "),
    }
}
