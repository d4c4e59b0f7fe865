//! The numbers in `/metrics`. All but the journal's latency are read off the engine's own view at
//! each scrape, so they cannot disagree with it.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use rebloom_core::engine::{CheckpointState, NodeState, NodeView, RunState, RunView};
use rebloom_core::flops::Flops;
use rebloom_core::health::Verdict;
use std::collections::BTreeMap;
use std::time::Duration;

/// What one scrape shows.
pub(crate) struct Seen {
    pub(crate) runs: Vec<RunView>,
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    pub(crate) links: usize,
}

/// What is measured as it happens.
#[derive(Debug)]
pub(crate) struct Meter {
    appends: Histogram,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let seconds = prometheus::exponential_buckets(0.000_25, 2.0, 14)
            .expect("the bounds are positive and grow");
        let options = HistogramOpts::new(
            "rebloom_journal_append_seconds",
            "Time until records were on disk, one observation for each write",
        );
        let appends = Histogram::with_opts(options.buckets(seconds))
            .expect("the name and the buckets are well formed");
        Self { appends }
    }

    pub(crate) fn appended(&self, took: Duration) {
        self.appends.observe(took.as_secs_f64());
    }

    /// The text that Prometheus reads.
    pub(crate) fn render(&self, seen: &Seen) -> Result<String, prometheus::Error> {
        let page = Page(Registry::new());
        page.add(self.appends.clone())?;
        page.cluster(seen)?;
        page.runs(&seen.runs)?;
        page.recovery(&seen.runs)?;
        page.cost(&seen.runs)?;
        TextEncoder::new().encode_to_string(&page.0.gather())
    }
}

struct Page(Registry);

type Outcome = Result<(), prometheus::Error>;

impl Page {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn counts(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn totals(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn cluster(&self, seen: &Seen) -> Outcome {
        let links = self.add(IntGauge::new("rebloom_links", "Agents that are connected")?)?;
        links.set(i64::try_from(seen.links).unwrap_or(i64::MAX));
        let refusals = self.totals(
            "rebloom_refusals_total",
            "What was refused or dropped since the controller started, by kind",
            &["kind"],
        )?;
        for (kind, count) in &seen.refusals {
            refusals.with_label_values(&[*kind]).inc_by(*count);
        }
        let nodes = self.counts("rebloom_nodes", "Nodes by state", &["state"])?;
        for state in [NodeState::Ready, NodeState::Unreachable, NodeState::Lost] {
            let count = seen.nodes.iter().filter(|node| node.state == state).count();
            nodes
                .with_label_values(&[node_state(state)])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let cordoned = self.add(IntGauge::new(
            "rebloom_nodes_cordoned",
            "Nodes that an admin cordoned",
        )?)?;
        let count = seen.nodes.iter().filter(|node| node.cordoned).count();
        cordoned.set(i64::try_from(count).unwrap_or(i64::MAX));
        let verdicts = self.counts(
            "rebloom_nodes_health",
            "Nodes by the verdict on their health",
            &["verdict"],
        )?;
        for verdict in Verdict::ALL {
            let is_it = |node: &&NodeView| node.health.verdict == verdict;
            let count = seen.nodes.iter().filter(is_it).count();
            verdicts
                .with_label_values(&[verdict.name()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let held = self.add(IntGauge::new(
            "rebloom_nodes_held",
            "Nodes that the breaker kept from being withdrawn",
        )?)?;
        let count = seen
            .nodes
            .iter()
            .filter(|node| node.health.held.is_some())
            .count();
        held.set(i64::try_from(count).unwrap_or(i64::MAX));
        let runs = self.counts("rebloom_runs", "Runs by state", &["state"])?;
        for state in RUN_STATES {
            let count = seen.runs.iter().filter(|run| run.state == state).count();
            runs.with_label_values(&[state.name()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        Ok(())
    }

    fn runs(&self, runs: &[RunView]) -> Outcome {
        let state = self.counts(
            "rebloom_run_state",
            "1 for the state a run is in",
            &["run", "state"],
        )?;
        let generation = self.gauges("rebloom_run_generation", "Generation in force", &["run"])?;
        let step = self.gauges("rebloom_run_step", "Optimizer steps done", &["run"])?;
        let steps = self.gauges(
            "rebloom_run_steps",
            "Optimizer steps of the whole run",
            &["run"],
        )?;
        let samples = self.gauges("rebloom_run_samples", "Samples consumed", &["run"])?;
        let loss = self.gauges("rebloom_run_loss", "Loss of the last step", &["run"])?;
        let norm = self.gauges(
            "rebloom_run_grad_norm",
            "Gradient norm of the last step",
            &["run"],
        )?;
        let tokens = self.gauges(
            "rebloom_run_tokens_per_second",
            "Tokens a second, by the time of the last step; 0 while it does not train",
            &["run"],
        )?;
        let flops = self.gauges(
            "rebloom_run_rank_tflops",
            "TFLOP/s of each rank by the time of the last step: what the model needs, and what the \
             hardware does with what is computed again; 0 while it does not train",
            &["run", "kind"],
        )?;
        let utilization = self.gauges(
            "rebloom_run_flops_utilization",
            "The same as a part of the peak of its devices, where that is known: MFU and HFU",
            &["run", "kind"],
        )?;
        let held_out = self.gauges(
            "rebloom_run_eval_loss",
            "Loss of the newest evaluation on a set of held-out text",
            &["run", "set"],
        )?;
        for run in runs {
            let name = [run.spec.name.as_str()];
            let rate = rank_flops(run);
            for (kind, value) in [("model", rate.model), ("hardware", rate.hardware)] {
                flops.with_label_values(&[name[0], kind]).set(value);
            }
            if let Some(part) = run.utilization(rate) {
                for (kind, value) in [("model", part.model), ("hardware", part.hardware)] {
                    utilization.with_label_values(&[name[0], kind]).set(value);
                }
            }
            for score in run.evaluations.last().iter().flat_map(|(_, it)| &it.scores) {
                let labels = [name[0], score.set.as_str()];
                held_out.with_label_values(&labels).set(score.loss());
            }
            state.with_label_values(&[name[0], run.state.name()]).set(1);
            generation
                .with_label_values(&name)
                .set(number(run.generation.0));
            step.with_label_values(&name).set(number(run.step.0));
            steps
                .with_label_values(&name)
                .set(number(run.spec.train.steps));
            samples.with_label_values(&name).set(number(run.samples));
            if let Some(value) = run.loss {
                loss.with_label_values(&name).set(value.into());
            }
            if let Some(value) = run.grad_norm {
                norm.with_label_values(&name).set(value.into());
            }
            tokens.with_label_values(&name).set(tokens_per_second(run));
        }
        Ok(())
    }

    fn cost(&self, runs: &[RunView]) -> Outcome {
        let hour = self.gauges(
            "rebloom_run_ettr_hour",
            "Effective training time ratio of the last hour",
            &["run"],
        )?;
        let total =
            |name: &str, help: &str| self.add(CounterVec::new(Opts::new(name, help), &["run"])?);
        let devices = total(
            "rebloom_run_device_seconds_total",
            "Time of all devices of the run together",
        )?;
        let energy = total(
            "rebloom_run_energy_joules_total",
            "Energy of its devices, where their power is known",
        )?;
        let emitted = total(
            "rebloom_run_co2_grams_total",
            "CO2 equivalents of that energy",
        )?;
        let lost = total("rebloom_run_lost_steps_total", "Steps that were done again")?;
        for run in runs {
            let name = [run.spec.name.as_str()];
            if let Some(ratio) = run.ettr_hour {
                hour.with_label_values(&name).set(ratio);
            }
            let time = run.ledger.device_time();
            devices.with_label_values(&name).inc_by(time.as_secs_f64());
            if let Some(cost) = run.tariff.of(time) {
                energy
                    .with_label_values(&name)
                    .inc_by(cost.kilowatt_hours * 3.6e6);
                emitted
                    .with_label_values(&name)
                    .inc_by(cost.kilograms * 1000.0);
            }
            lost.with_label_values(&name)
                .inc_by(run.lost_steps() as f64);
        }
        Ok(())
    }

    fn recovery(&self, runs: &[RunView]) -> Outcome {
        let ettr = self.gauges(
            "rebloom_run_ettr",
            "Effective training time ratio: productive time by all time but waiting",
            &["run"],
        )?;
        let spent = self.add(CounterVec::new(
            Opts::new("rebloom_run_seconds_total", "Where the run's time went"),
            &["run", "spend"],
        )?)?;
        let incidents = self.counts(
            "rebloom_run_incidents",
            "Incidents kept, by cause",
            &["run", "cause"],
        )?;
        let checkpoints = self.counts(
            "rebloom_checkpoints",
            "Checkpoints kept, by state",
            &["run", "state"],
        )?;
        for run in runs {
            let name = run.spec.name.as_str();
            if let Some(ratio) = run.ledger.ettr() {
                ettr.with_label_values(&[name]).set(ratio);
            }
            for (spend, time) in &run.ledger.spent {
                spent
                    .with_label_values(&[name, &format!("{spend:?}")])
                    .inc_by(time.as_secs_f64());
            }
            for incident in &run.incidents {
                incidents
                    .with_label_values(&[name, incident.cause.label()])
                    .inc();
            }
            for (state, label) in [
                (CheckpointState::Sealed, "Sealed"),
                (CheckpointState::Rejected, "Rejected"),
            ] {
                let count = run
                    .checkpoints
                    .iter()
                    .filter(|(_, held)| *held == state)
                    .count();
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                checkpoints.with_label_values(&[name, label]).set(count);
            }
        }
        Ok(())
    }
}

const RUN_STATES: [RunState; 9] = [
    RunState::Pending,
    RunState::Starting,
    RunState::Running,
    RunState::Recovering,
    RunState::Stopping,
    RunState::Stopped,
    RunState::Completed,
    RunState::Failed,
    RunState::Parked,
];

const fn node_state(state: NodeState) -> &'static str {
    match state {
        NodeState::Ready => "Ready",
        NodeState::Unreachable => "Unreachable",
        NodeState::Lost => "Lost",
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
const fn number(value: u64) -> f64 {
    value as f64
}

fn rank_flops(run: &RunView) -> Flops {
    match run.step_time {
        Some(time) if run.state == RunState::Running && !time.is_zero() => {
            Flops::of_step(&run.spec, run.samples).rate(time.as_secs_f64(), run.spec.layout.world())
        }
        Some(_) | None => Flops {
            model: 0.0,
            hardware: 0.0,
        },
    }
}

fn tokens_per_second(run: &RunView) -> f64 {
    let batch = run.spec.train.batch(run.samples);
    let tokens = u64::from(batch) * u64::from(run.spec.model.sequence);
    match run.step_time {
        Some(time) if run.state == RunState::Running && !time.is_zero() => {
            number(tokens) / time.as_secs_f64()
        }
        Some(_) | None => 0.0,
    }
}
