//! What ranks show and write: their pages become beats, what they wrote is matched against log rules.
//!
//! The driver reads pages and matches lines; nothing in here knows a pattern.

use super::{Command, Supervisor};
use crate::flight::{Page, Sighting};
use crate::hang::rules::{LogRule, Match};
use crate::id::{Generation, Rank, RunId};
use crate::report::{Beat, Pages, RankEvent, Report};
use crate::time::Instant;
use std::collections::BTreeMap;

impl Supervisor {
    /// What a rank wrote goes with the next beat; what is a fault is reported.
    pub(super) fn read(
        &mut self,
        run: RunId,
        rank: Rank,
        matches: Vec<Match>,
        broken: Option<(String, String)>,
    ) {
        let known = self
            .runs
            .get(&run)
            .and_then(|known| known.locals.get(&rank));
        let Some(generation) = known.map(|local| local.kept.generation) else {
            return;
        };
        let read = self.read.entry(run.clone()).or_default();
        for new in matches {
            // One of each, however long no beat goes out.
            let is_same =
                |known: &&mut Match| (known.generation, known.rule) == (new.generation, new.rule);
            match read.iter_mut().find(is_same) {
                Some(known) => {
                    known.lines = known.lines.saturating_add(new.lines);
                    known.stopped |= new.stopped;
                }
                None => read.push(new),
            }
        }
        if let Some((rule, line)) = broken {
            let event = RankEvent::RuleBroken { rule, line };
            self.report(Report::Rank {
                run,
                generation,
                rank,
                event,
            });
        }
    }

    /// Deadlines that passed become reports; the beat with the pages follows them.
    pub(super) fn pages(&mut self, now: Instant, pages: Vec<(RunId, Sighting)>) {
        let mut beat: BTreeMap<RunId, BTreeMap<Rank, Page>> = BTreeMap::new();
        for (run, sighting) in pages {
            beat.entry(run)
                .or_default()
                .insert(sighting.rank, sighting.page);
        }
        let mut overdue = Vec::new();
        for (id, run) in &mut self.runs {
            for (rank, generation, (phase, step)) in run.overdue(now, beat.get(id)) {
                let event = RankEvent::Overdue { phase, step };
                overdue.push(Report::Rank {
                    run: id.clone(),
                    generation,
                    rank,
                    event,
                });
            }
        }
        overdue.into_iter().for_each(|report| self.report(report));
        if self.linked {
            let pages = beat.into_iter().map(|(run, pages)| {
                let sightings = pages
                    .into_iter()
                    .map(|(rank, page)| Sighting { rank, page });
                let matches = self.read.remove(&run).unwrap_or_default();
                Pages {
                    run,
                    sightings: sightings.collect(),
                    matches,
                }
            });
            self.commands.push_back(Command::Beat(Beat {
                pages: pages.collect(),
            }));
        }
    }

    /// Log rules of each run it knows, and the generation that each of its ranks is in.
    pub fn log_rules(&self) -> impl Iterator<Item = (&RunId, Rank, Generation, &[LogRule])> {
        self.runs.iter().flat_map(|(id, run)| {
            let rules = run
                .start
                .as_ref()
                .map(|start| start.gang.spec.log_rules.as_slice());
            let rules = rules.filter(|rules| !rules.is_empty());
            rules.into_iter().flat_map(move |rules| {
                let living = run.locals.iter().filter(|(_, local)| local.is_alive());
                living.map(move |(rank, local)| (id, *rank, local.kept.generation, rules))
            })
        })
    }
}
