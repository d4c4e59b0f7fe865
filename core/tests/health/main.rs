//! The rules of health as tables: signals in, findings and verdicts out.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test says what is wrong by panicking"
)]

mod docs;
mod edges;
mod expressions;
mod gauge;
mod history;
mod kernel_log;
mod restarts;
mod rules;
mod signals;
mod single;
mod xid;

use rebloom_core::health::chart::Judged;
use rebloom_core::health::edited::{EditedRule, OwnRule};
use rebloom_core::health::expression::Expression;
use rebloom_core::health::fleet::Fleet;
use rebloom_core::health::rule::Builtin;
use rebloom_core::health::signal::{Sign, Signal, Throttle};
use rebloom_core::health::{Action, Examined, Finding, Mode, Verdict, Windows};
use rebloom_core::id::{NodeId, Slot};
use rebloom_core::labels::Labels;
use rebloom_core::report::NodeFacts;
use rebloom_core::time::{Duration, Instant};
use std::collections::BTreeMap;

/// A line of XID 74 whose register 0 says that it is the hardware.
const REG0_HARDWARE: &str =
    "NVLink: fatal error detected on link 3(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)";

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn facts(name: &str) -> NodeFacts {
    NodeFacts {
        node: node(name),
        slots: 8,
        gpus: vec!["NVIDIA A100-SXM4-80GB".to_owned(); 8],
        store_address: format!("{name}:1"),
        host: format!("{name}.cluster"),
        cores: 64,
        memory: 1 << 39,
        nccl: None,
        labels: Labels::default(),
    }
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

fn xid(device: u32, code: u32, detail: &str) -> Signal {
    let detail = detail.to_owned();
    Signal::raised(Some(Slot(device)), Sign::Xid { code, detail })
}

fn on(device: u32, sign: Sign) -> Signal {
    Signal::raised(Some(Slot(device)), sign)
}

fn of_node(sign: Sign) -> Signal {
    Signal::raised(None, sign)
}

fn throttled(nanos: u64) -> Signal {
    let reason = Throttle::Thermal;
    on(2, Sign::Throttled { reason, nanos })
}

fn failing() -> Signal {
    of_node(Sign::StorageFailing {
        error: "no such device".to_owned(),
    })
}

fn over(mut signal: Signal) -> Signal {
    signal.cleared = true;
    signal
}

/// A fleet that is told signals, one after the other.
struct Bench {
    fleet: Fleet,
    now: Instant,
    windows: Windows,
    programs: BTreeMap<String, Expression>,
}

impl Bench {
    fn new() -> Self {
        Self {
            fleet: Fleet::default(),
            now: Instant::ZERO + Duration::from_secs(1_000_000),
            windows: Windows::default(),
            programs: BTreeMap::new(),
        }
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now = self.now + time;
        self
    }

    /// What is made of a signal; none where it is no news.
    fn tell(&mut self, name: &str, signal: &Signal) -> Option<Vec<Finding>> {
        signal.check().unwrap();
        let examined = self.fleet.examine(
            self.now,
            (&facts(name), false),
            signal,
            &self.windows,
            &self.programs,
        );
        let Examined::News {
            findings,
            acquits,
            failed,
        } = examined
        else {
            return None;
        };
        assert_eq!(failed, 0);
        for finding in &findings {
            let known = Builtin::from_name(&finding.rule).map(|rule| rule.rule().actions);
            if let Some(actions) = known.filter(|actions| !actions.is_empty()) {
                assert!(actions.contains(&finding.action), "{finding:?}");
            }
        }
        let name = &node(name);
        self.fleet.heard(self.now, name, signal, &findings, acquits);
        Some(findings)
    }

    /// The names of the rules that found something.
    fn rules(&mut self, name: &str, signal: &Signal) -> Vec<String> {
        let findings = self.tell(name, signal).expect("news");
        findings.into_iter().map(|finding| finding.rule).collect()
    }

    fn judged(&self, name: &str) -> Judged {
        let chart = self.fleet.chart(&node(name));
        chart
            .map(|chart| chart.judge(self.now, &self.windows))
            .unwrap_or_default()
    }

    fn verdict(&self, name: &str) -> Verdict {
        self.judged(name).verdict
    }

    fn set(&mut self, name: &str, mode: Mode, when: Option<&str>, verdict: Verdict) {
        let rule = EditedRule {
            name: name.to_owned(),
            mode,
            own: when.map(|when| OwnRule {
                when: when.to_owned(),
                verdict,
                action: Action::ContactSupport,
            }),
        };
        if let Some(program) = rule.check().unwrap() {
            self.programs.insert(rule.name.clone(), program);
        }
        self.fleet.set(&rule);
    }
}
