//! What is wrong with a scenario: numbers that cannot be, and parts that do not fit each other.
//!
//! Whatever is given has an effect or is refused: a field that a kind of fault does not use, too.

use super::{CauseOfFault, DatedEvent, Kind, OFF_THE_BUS, Scenario};
use rebloom_core::footprint;
use rebloom_core::spec::Flaw;

/// Hours of a year.
const YEAR: f64 = 8760.0;
/// Faults of one cause that a replay gets through.
const MOST_FAULTS: f64 = 100_000.0;

#[derive(Default)]
struct Flaws(Vec<Flaw>);

impl Flaws {
    fn add(&mut self, field: &str, value: impl ToString, problem: &str, remedy: &str) {
        self.0.push(Flaw {
            field: field.to_owned(),
            value: value.to_string(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// What is no number is not within either.
    fn within(&mut self, field: &str, value: f64, least: f64, most: f64) {
        if !(least..=most).contains(&value) {
            let remedy = format!("use {least} to {most}");
            self.add(field, value, "is out of range", &remedy);
        }
    }

    fn above_zero(&mut self, field: &str, value: f64, most: f64) {
        if !(value > 0.0 && value <= most) {
            let remedy = format!("use more than 0, at most {most}");
            self.add(field, value, "is out of range", &remedy);
        }
    }

    fn share(&mut self, field: &str, value: f64) {
        if !(0.0..=1.0).contains(&value) {
            self.add(field, value, "is no share", "use 0 to 1: 0.99 is 99 %");
        }
    }

    fn whole(&mut self, field: &str, value: u64, least: u64, most: u64) {
        if !(least..=most).contains(&value) {
            let remedy = format!("use {least} to {most}");
            self.add(field, value, "is out of range", &remedy);
        }
    }
}

/// What a fault of either table may say of itself.
struct Details<'a> {
    place: String,
    name: &'a str,
    kind: Kind,
    hours: f64,
    slowdown: f64,
    then_hours: f64,
    xid: u32,
}

impl Scenario {
    /// Everything that is wrong with it; empty where it can be played. Sizes of the layout that no run may
    /// have are found when its run spec is made.
    pub(super) fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Flaws::default();
        self.check_numbers(&mut flaws);
        self.check_cluster(&mut flaws);
        if !flaws.0.is_empty() {
            // What follows is held against these.
            return flaws.0;
        }
        for cause in &self.causes {
            self.check_cause(cause, &mut flaws);
        }
        for event in &self.events {
            self.check_event(event, &mut flaws);
        }
        self.check_rate(&mut flaws);
        flaws.0
    }

    fn check_numbers(&self, flaws: &mut Flaws) {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(is_plain) {
            let (name, remedy) = (format!("`{}`", self.name), "use letters, digits, - and _");
            flaws.add("name", name, "cannot name the files of charts", remedy);
        }
        flaws.above_zero("days", self.days, 3650.0);
        if let Some(goal) = self.goal {
            flaws.share("goal", goal);
        }
        if let Some(published) = self.published {
            flaws.share("published.ettr", published.ettr);
            flaws.share("published.tolerance", published.tolerance);
        }
        let (work, then) = (self.work, self.then);
        flaws.above_zero("work.step_seconds", work.step_seconds, 86_400.0);
        flaws.within("work.eval_seconds", work.eval_seconds, 0.0, 86_400.0);
        let most = 1_000_000_000;
        flaws.whole("work.eval_every_steps", work.eval_every_steps, 0, most);
        if (work.eval_every_steps == 0) != (work.eval_seconds == 0.0) {
            flaws.add(
                "work.eval_seconds",
                work.eval_seconds,
                &format!(
                    "does not go with eval_every_steps = {}",
                    work.eval_every_steps
                ),
                "give both, or none",
            );
        }
        flaws.whole("then.save_every_steps", then.save_every_steps, 1, most);
        let (stall, unlogged) = (then.save_stall_seconds, then.unlogged_hours);
        flaws.within("then.save_stall_seconds", stall, 0.0, 86_400.0);
        flaws.within("then.unlogged_hours", unlogged, 0.0, self.days * 24.0);
        flaws.whole("lemons", self.lemons.into(), 0, self.cluster.nodes.into());
        flaws.share("lemon_share", self.lemon_share);
        if (self.lemons == 0) != (self.lemon_share == 0.0) {
            flaws.add(
                "lemon_share",
                self.lemon_share,
                &format!("does not go with lemons = {}", self.lemons),
                "give both, or none",
            );
        }
    }

    fn check_cluster(&self, flaws: &mut Flaws) {
        let (cluster, layout) = (&self.cluster, self.layout);
        if let Some(gpu) = cluster.gpu.as_deref()
            && footprint::watts(gpu).is_none()
        {
            let known: Vec<_> = footprint::WATTS.iter().map(|(name, _)| *name).collect();
            let remedy = format!("use one of {}", known.join(", "));
            flaws.add(
                "cluster.gpu",
                format!("`{gpu}`"),
                "has no known power",
                &remedy,
            );
        }
        let region = &cluster.region;
        if footprint::intensity(region).is_none() {
            let known: Vec<_> = footprint::REGIONS.iter().map(|(name, _)| *name).collect();
            let remedy = format!("use one of {}", known.join(", "));
            flaws.add(
                "cluster.region",
                format!("`{region}`"),
                "is not known",
                &remedy,
            );
        }
        let before = flaws.0.len();
        flaws.whole("cluster.nodes", cluster.nodes.into(), 1, 100_000);
        flaws.whole("cluster.gpus_per_node", cluster.gpus_per_node.into(), 1, 64);
        let most = cluster.gpus_per_node.into();
        flaws.whole(
            "cluster.ranks_per_node",
            cluster.ranks_per_node.into(),
            1,
            most,
        );
        for (field, size) in [
            ("layout.tensor", layout.tensor),
            ("layout.pipeline", layout.pipeline),
            ("layout.data", layout.data),
        ] {
            flaws.whole(field, size.into(), 1, 4096);
        }
        if flaws.0.len() > before {
            return;
        }
        let (nodes, ranks, tensor) = (cluster.nodes, cluster.ranks_per_node, layout.tensor);
        if tensor > ranks {
            flaws.add(
                "layout.tensor",
                tensor,
                &format!("is more than cluster.ranks_per_node ({ranks})"),
                "use at most as many: a tensor group never leaves its node",
            );
            return;
        }
        let room = u64::from(nodes) * u64::from(ranks / tensor);
        if room < layout.groups() {
            let groups = layout.groups();
            let needed = groups.div_ceil(u64::from(ranks / tensor));
            flaws.add(
                "cluster.nodes",
                nodes,
                &format!(
                    "have no room for {groups} tensor groups ({layout}): a node has room for {}",
                    ranks / tensor
                ),
                &format!("use at least {needed}, or a smaller layout"),
            );
        }
    }

    fn check_cause(&self, cause: &CauseOfFault, flaws: &mut Flaws) {
        let place = format!("cause `{}`", cause.name);
        let given = [
            cause.count.is_some(),
            cause.per_week.is_some(),
            cause.weight.is_some(),
        ];
        let given = given.iter().filter(|given| **given).count();
        if given != 1 {
            let problem = "of count, per_week and weight are given";
            flaws.add(&place, given, problem, "give one");
        }
        if let Some(count) = cause.count {
            let field = format!("{place}: count");
            flaws.within(&field, count.into(), 0.0, MOST_FAULTS);
        }
        if let Some(rate) = cause.per_week {
            let most = MOST_FAULTS * 7.0 / self.days.max(7.0);
            flaws.within(&format!("{place}: per_week"), rate, 0.0, most.floor());
        }
        if let Some(weight) = cause.weight {
            flaws.within(&format!("{place}: weight"), weight, 0.0, 1e9);
            if self.rate.is_none() {
                let remedy = "add [rate] with per_1000_node_days, or use count or per_week";
                flaws.add(&place, "its weight", "is a share of no [rate]", remedy);
            }
        }
        let details = Details {
            place,
            name: &cause.name,
            kind: cause.kind,
            hours: cause.hours,
            slowdown: cause.slowdown,
            then_hours: cause.then_hours,
            xid: cause.xid,
        };
        self.check_details(&details, flaws);
    }

    fn check_event(&self, event: &DatedEvent, flaws: &mut Flaws) {
        let place = format!("event `{}`", event.name);
        if !(0.0..self.days).contains(&event.day) {
            flaws.add(
                &format!("{place}: day"),
                event.day,
                &format!("is not in the {} days of the history", self.days),
                "use 0 for its first moment, 5.75 for the evening of the sixth day",
            );
        }
        flaws.whole(&format!("{place}: times"), event.times.into(), 1, 10_000);
        if let Some(hours) = event.then_lost_hours {
            flaws.within(&format!("{place}: then_lost_hours"), hours, 0.0, YEAR);
        }
        let waits = matches!(
            event.kind,
            Kind::Process | Kind::Gpu | Kind::Node | Kind::Hang
        );
        if event.during.is_some() && !waits {
            let remedy = "leave it out: it is for process, gpu, node and hang";
            flaws.add(
                &format!("{place}: during"),
                "save",
                "has no effect here",
                remedy,
            );
        }
        let details = Details {
            place,
            name: &event.name,
            kind: event.kind,
            hours: event.hours,
            slowdown: event.slowdown,
            then_hours: event.then_hours,
            xid: event.xid,
        };
        self.check_details(&details, flaws);
    }

    fn check_details(&self, details: &Details<'_>, flaws: &mut Flaws) {
        let field = |name: &str| format!("{}: {name}", details.place);
        if details.name.trim().is_empty() {
            let remedy = "say what people call it";
            flaws.add(&field("name"), "nothing", "names it in the report", remedy);
        }
        match details.kind {
            Kind::Site => flaws.above_zero(&field("hours"), details.hours, YEAR),
            Kind::Storage => flaws.within(&field("hours"), details.hours, 0.0, YEAR),
            Kind::EvalHang if self.work.eval_every_steps == 0 => {
                let remedy = "give work.eval_every_steps and work.eval_seconds, or use hang";
                flaws.add(&field("kind"), "eval-hang", "needs evaluations", remedy);
            }
            Kind::Process
            | Kind::Gpu
            | Kind::Node
            | Kind::Hang
            | Kind::EvalHang
            | Kind::Slow
            | Kind::Planned
            | Kind::Spike => {}
        }
        if details.hours != 0.0 && !matches!(details.kind, Kind::Site | Kind::Storage) {
            let remedy = "leave it out: it is for site and storage";
            flaws.add(&field("hours"), details.hours, "has no effect here", remedy);
        }
        if details.kind == Kind::Slow {
            flaws.above_zero(&field("slowdown"), details.slowdown, 100.0);
            flaws.within(&field("then_hours"), details.then_hours, 0.0, YEAR);
        } else {
            for (name, value) in [
                ("slowdown", details.slowdown),
                ("then_hours", details.then_hours),
            ] {
                if value != 0.0 {
                    let remedy = "leave it out: it is for slow";
                    flaws.add(&field(name), value, "has no effect here", remedy);
                }
            }
        }
        if details.kind == Kind::Gpu {
            flaws.whole(&field("xid"), details.xid.into(), 1, 999);
        } else if details.xid != OFF_THE_BUS {
            let remedy = "leave it out: it is for gpu";
            flaws.add(&field("xid"), details.xid, "has no effect here", remedy);
        }
    }

    fn check_rate(&self, flaws: &mut Flaws) {
        let Some(rate) = self.rate else { return };
        let most =
            MOST_FAULTS * 1000.0 / (f64::from(self.cluster.nodes.max(1)) * self.days.max(1.0));
        let field = "rate.per_1000_node_days";
        flaws.within(field, rate.per_1000_node_days, 0.0, most.floor());
        let weights = self.causes.iter().filter_map(|cause| cause.weight);
        if weights.sum::<f64>() <= 0.0 {
            let (rate, remedy) = (rate.per_1000_node_days, "give causes a weight");
            flaws.add(
                field,
                rate,
                "is shared out by weights, and there are none",
                remedy,
            );
        }
    }
}
