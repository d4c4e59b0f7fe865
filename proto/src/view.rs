//! What the engine shows: runs, nodes, incidents, ledgers.

use crate::check::{
    Malformed, code, digest, list, list_by, maybe, maybe_code, nanos, node_id, part, run_id,
    same_names, text,
};
use crate::eval::evaluated;
use crate::wire;
use rebloom_core::engine::{
    CheckpointState, Incident, Ledger, Milepost, NodeState, NodeView, RankView, RunState, RunView,
    Rung, Seating, Spend, Transition,
};
use rebloom_core::footprint::Tariff;
use rebloom_core::id::{Generation, IncidentId, Rank, Slot, Step};
use rebloom_core::report::NodeFacts;
use rebloom_core::time::{Duration, Instant};

same_names!(RunState <=> RunState {
    Pending, Starting, Running, Recovering, Stopping, Stopped, Completed, Failed, Parked,
});
same_names!(NodeState <=> NodeState { Ready, Unreachable, Lost });
same_names!(Rung <=> Rung { Reform, Restart, Replace, AsyncOff, Shrink, Park });
same_names!(Spend <=> Spend {
    Waiting, Stalled, Starting, Productive, Detect, Decide, Reform, Restore, CatchUp,
});
same_names!(CheckpointState <=> CheckpointState { Sealed, Rejected });

impl From<Seating> for wire::Seating {
    fn from(Seating { rank, node, slot }: Seating) -> Self {
        Self {
            rank: rank.0,
            node: node.into(),
            slot: slot.0,
        }
    }
}

impl TryFrom<wire::Seating> for Seating {
    type Error = Malformed;
    fn try_from(seating: wire::Seating) -> Result<Self, Malformed> {
        Ok(Self {
            rank: Rank(seating.rank),
            node: node_id(seating.node, "node")?,
            slot: Slot(seating.slot),
        })
    }
}

impl From<Ledger> for wire::Ledger {
    fn from(ledger: Ledger) -> Self {
        let Ledger {
            spent,
            devices,
            lost_steps,
        } = ledger;
        let entry = |(spend, time): (Spend, Duration)| wire::ledger::Entry {
            spend: wire::Spend::from(spend).into(),
            nanos: nanos(time),
            device_micros: devices.get(&spend).map_or(0, |time| {
                u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
            }),
        };
        Self {
            spent: spent.into_iter().map(entry).collect(),
            lost_steps,
        }
    }
}

impl TryFrom<wire::Ledger> for Ledger {
    type Error = Malformed;
    fn try_from(ledger: wire::Ledger) -> Result<Self, Malformed> {
        let entries: Vec<(Spend, Duration, Duration)> = list_by(ledger.spent, "spent", |entry| {
            let spend = code::<wire::Spend, Spend>(entry.spend, "spend")?;
            let devices = Duration::from_micros(entry.device_micros);
            Ok((spend, Duration::from_nanos(entry.nanos), devices))
        })?;
        let mut known = Self {
            lost_steps: ledger.lost_steps,
            ..Self::default()
        };
        for (spend, time, devices) in entries {
            if !devices.is_zero() {
                known.devices.insert(spend, devices);
            }
            if known.spent.insert(spend, time).is_some() {
                return Err(Malformed::new("spent", "has the same kind of spend twice"));
            }
        }
        Ok(known)
    }
}

impl From<Incident> for wire::Incident {
    fn from(incident: Incident) -> Self {
        Self {
            id: incident.id.0,
            cause: Some(incident.cause.into()),
            evidence: incident.evidence.into_iter().map(Into::into).collect(),
            opened: incident.opened.as_nanos(),
            closed: incident.closed.map(Instant::as_nanos),
            rung: incident.rung.map(|rung| wire::Rung::from(rung).into()),
            generation: incident.generation.0,
            recovered_by: incident.recovered_by.map(|generation| generation.0),
            resumed_from: incident.resumed_from.map(Into::into),
            lost_steps: incident.lost_steps,
            spent: Some(incident.spent.into()),
            tier: Some(wire::Tier::from(incident.tier).into()),
        }
    }
}

impl TryFrom<wire::Incident> for Incident {
    type Error = Malformed;
    fn try_from(incident: wire::Incident) -> Result<Self, Malformed> {
        Ok(Self {
            id: IncidentId(incident.id),
            cause: part(incident.cause, "cause")?,
            evidence: list(incident.evidence, "evidence")?,
            opened: Instant::from_nanos(incident.opened),
            closed: incident.closed.map(Instant::from_nanos),
            rung: maybe_code::<wire::Rung, _>(incident.rung, "rung")?,
            generation: Generation(incident.generation),
            recovered_by: incident.recovered_by.map(Generation),
            resumed_from: maybe(incident.resumed_from, "resumed_from")?,
            lost_steps: incident.lost_steps,
            spent: part(incident.spent, "spent")?,
            tier: maybe_code::<wire::Tier, _>(incident.tier, "tier")?.unwrap_or_default(),
        })
    }
}

impl From<RankView> for wire::RankView {
    fn from(
        RankView {
            seating,
            pid,
            milestone,
            phase,
            step,
        }: RankView,
    ) -> Self {
        Self {
            seating: Some(seating.into()),
            pid,
            milestone: milestone.map(|milestone| wire::Milestone::from(milestone).into()),
            phase: phase.map(|phase| wire::Phase::from(phase).into()),
            step: step.map(|step| step.0),
        }
    }
}

impl TryFrom<wire::RankView> for RankView {
    type Error = Malformed;
    fn try_from(rank: wire::RankView) -> Result<Self, Malformed> {
        Ok(Self {
            seating: part(rank.seating, "seating")?,
            pid: rank.pid,
            milestone: maybe_code::<wire::Milestone, _>(rank.milestone, "milestone")?,
            phase: maybe_code::<wire::Phase, _>(rank.phase, "phase")?,
            step: rank.step.map(Step),
        })
    }
}

impl From<Tariff> for wire::Tariff {
    fn from(tariff: Tariff) -> Self {
        let Tariff {
            watts,
            effectiveness,
            grams_per_kwh,
        } = tariff;
        Self {
            watts,
            effectiveness,
            grams_per_kwh,
        }
    }
}

impl TryFrom<wire::Tariff> for Tariff {
    type Error = Malformed;
    fn try_from(tariff: wire::Tariff) -> Result<Self, Malformed> {
        let wire::Tariff {
            watts,
            effectiveness,
            grams_per_kwh,
        } = tariff;
        let is_sound = |value: f64| value.is_finite() && value >= 0.0;
        if !(is_sound(effectiveness) && is_sound(grams_per_kwh) && watts.is_none_or(is_sound)) {
            return Err(Malformed::new("tariff", "has a number that is none"));
        }
        Ok(Self {
            watts,
            effectiveness,
            grams_per_kwh,
        })
    }
}

impl From<Transition> for wire::Transition {
    fn from(transition: Transition) -> Self {
        let Transition { at, state, why } = transition;
        Self {
            at: at.as_nanos(),
            state: wire::RunState::from(state).into(),
            why: Some(why.into()),
        }
    }
}

impl TryFrom<wire::Transition> for Transition {
    type Error = Malformed;
    fn try_from(transition: wire::Transition) -> Result<Self, Malformed> {
        Ok(Self {
            at: Instant::from_nanos(transition.at),
            state: code::<wire::RunState, _>(transition.state, "state")?,
            why: part(transition.why, "why")?,
        })
    }
}

impl From<Milepost> for wire::Milepost {
    fn from(post: Milepost) -> Self {
        Self {
            at: post.at.as_nanos(),
            step: post.step.0,
            loss: post.loss,
            grad_norm: post.grad_norm,
        }
    }
}

impl TryFrom<wire::Milepost> for Milepost {
    type Error = Malformed;
    fn try_from(post: wire::Milepost) -> Result<Self, Malformed> {
        Ok(Self {
            at: Instant::from_nanos(post.at),
            step: Step(post.step),
            loss: post.loss,
            grad_norm: post.grad_norm,
        })
    }
}

impl From<RunView> for wire::RunView {
    fn from(run: RunView) -> Self {
        let checkpoint = |(id, state)| wire::CheckpointView {
            id: Some(wire::CheckpointId::from(id)),
            state: wire::CheckpointState::from(state).into(),
        };
        Self {
            spec: Some(run.spec.into()),
            state: wire::RunState::from(run.state).into(),
            why: Some(run.why.into()),
            waits_for: run.waits_for,
            generation: run.generation.0,
            ranks: run.ranks.into_iter().map(Into::into).collect(),
            step: run.step.0,
            samples: run.samples,
            loss: run.loss,
            grad_norm: run.grad_norm,
            step_nanos: run.step_time.map(nanos),
            checkpoints: run.checkpoints.into_iter().map(checkpoint).collect(),
            incidents: run.incidents.into_iter().map(Into::into).collect(),
            ledger: Some(run.ledger.into()),
            submitted: run.submitted.as_nanos(),
            ettr_hour: run.ettr_hour,
            tariff: Some(run.tariff.into()),
            device: run.device,
            snapshot: run.snapshot.map(Into::into),
            transitions: run.transitions.into_iter().map(Into::into).collect(),
            mileposts: run.mileposts.into_iter().map(Into::into).collect(),
            evaluations: run.evaluations.into_iter().map(Into::into).collect(),
            final_states: run
                .final_states
                .iter()
                .map(|state| state.0.to_vec())
                .collect(),
        }
    }
}

impl TryFrom<wire::RunView> for RunView {
    type Error = Malformed;
    fn try_from(run: wire::RunView) -> Result<Self, Malformed> {
        Ok(Self {
            spec: part(run.spec, "spec")?,
            state: code::<wire::RunState, _>(run.state, "state")?,
            why: part(run.why, "why")?,
            waits_for: text(run.waits_for, "waits_for")?,
            generation: Generation(run.generation),
            ranks: list(run.ranks, "ranks")?,
            step: Step(run.step),
            samples: run.samples,
            loss: run.loss,
            grad_norm: run.grad_norm,
            step_time: run.step_nanos.map(Duration::from_nanos),
            checkpoints: list_by(run.checkpoints, "checkpoints", |it| {
                Ok((
                    part(it.id, "id")?,
                    code::<wire::CheckpointState, _>(it.state, "state")?,
                ))
            })?,
            incidents: list(run.incidents, "incidents")?,
            ledger: part(run.ledger, "ledger")?,
            submitted: Instant::from_nanos(run.submitted),
            ettr_hour: run.ettr_hour,
            tariff: part(run.tariff, "tariff")?,
            snapshot: maybe(run.snapshot, "snapshot")?,
            device: run.device.map(|name| text(name, "device")).transpose()?,
            transitions: list(run.transitions, "transitions")?,
            mileposts: list(run.mileposts, "mileposts")?,
            evaluations: list_by(run.evaluations, "evaluations", evaluated)?,
            final_states: list_by(run.final_states, "final_states", |it| digest(&it, ""))?,
        })
    }
}

impl From<NodeFacts> for wire::NodeFacts {
    fn from(facts: NodeFacts) -> Self {
        let NodeFacts {
            node,
            slots,
            gpus,
            store_address,
            host,
            cores,
            memory,
            nccl,
            labels,
        } = facts;
        Self {
            node: node.into(),
            slots,
            gpus,
            store_address,
            host,
            cores,
            memory,
            nccl: nccl.map(|version| version.to_string()).unwrap_or_default(),
            labels: labels.iter().cloned().collect(),
        }
    }
}

impl TryFrom<wire::NodeFacts> for NodeFacts {
    type Error = Malformed;
    fn try_from(facts: wire::NodeFacts) -> Result<Self, Malformed> {
        if usize::try_from(facts.slots).map_or(true, |slots| slots > crate::MAX_LIST) {
            return Err(Malformed::new(
                "slots",
                format!("{} is absurd", facts.slots),
            ));
        }
        let version = (!facts.nccl.is_empty()).then(|| facts.nccl.parse());
        let nccl = version
            .transpose()
            .map_err(|error| Malformed::new("nccl", error))?;
        Ok(Self {
            node: node_id(facts.node, "node")?,
            slots: facts.slots,
            gpus: list_by(facts.gpus, "gpus", |gpu| text(gpu, ""))?,
            store_address: text(facts.store_address, "store_address")?,
            host: text(facts.host, "host")?,
            cores: facts.cores,
            memory: facts.memory,
            nccl,
            labels: list_by(
                facts.labels.into_iter().collect(),
                "labels",
                |(key, value)| Ok((text(key, "")?, text(value, "")?)),
            )?
            .into_iter()
            .collect(),
        })
    }
}

impl From<NodeView> for wire::NodeView {
    fn from(node: NodeView) -> Self {
        let held = |(run, rank): (_, Rank)| wire::node_view::Held {
            run: String::from(run),
            rank: rank.0,
        };
        Self {
            facts: Some(node.facts.into()),
            state: wire::NodeState::from(node.state).into(),
            cordoned: node.cordoned,
            health: Some(node.health.into()),
            ranks: node.ranks.into_iter().map(held).collect(),
            last_heard: node.last_heard.map(Instant::as_nanos),
        }
    }
}

impl TryFrom<wire::NodeView> for NodeView {
    type Error = Malformed;
    fn try_from(node: wire::NodeView) -> Result<Self, Malformed> {
        Ok(Self {
            facts: part(node.facts, "facts")?,
            state: code::<wire::NodeState, _>(node.state, "state")?,
            cordoned: node.cordoned,
            health: part(node.health, "health")?,
            ranks: list_by(node.ranks, "ranks", |held| {
                Ok((run_id(held.run, "run")?, Rank(held.rank)))
            })?,
            last_heard: node.last_heard.map(Instant::from_nanos),
        })
    }
}
