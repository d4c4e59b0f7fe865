//! What expressions see: a signal and its node, field by field as they ask for them.

use crate::health::Verdict;
use crate::health::signal::{Sign, Signal};
use crate::report::NodeFacts;
use cel::common::types::{CelBool, CelDouble, CelInt, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, Env};
use serde::Serialize;
use std::sync::{Arc, LazyLock};

/// What an expression sees of a signal: every field is there for every kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SignalFields<'a> {
    /// `xid`, `storage`, ...
    pub kind: &'static str,
    /// The slot of the device; -1 for the node.
    pub device: i64,
    /// XID, link, or 0.
    pub code: i64,
    /// The value that the kind is about: errors, replays a minute, bytes left, seconds.
    pub value: f64,
    /// Of how many; 0 where there is no such thing.
    pub total: f64,
    /// `value` of `total`; 1 where there is no such thing.
    pub share: f64,
    /// The text that came with it, or the reason, resource, probe or action.
    pub detail: &'a str,
    /// Whether it is over.
    pub cleared: bool,
}

/// What an expression sees of a node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NodeFields<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its host name.
    pub host: &'a str,
    /// Ranks it can hold.
    pub slots: i64,
    /// Names of its GPUs.
    pub gpus: &'a [String],
    /// CPU cores.
    pub cores: i64,
    /// Bytes of memory.
    pub memory: f64,
    /// What is made of it now.
    pub verdict: &'static str,
    /// Whether an admin holds it back.
    pub cordoned: bool,
    /// How often it was withdrawn within 7 days.
    pub withdrawals: i64,
    /// How often the same was seen of it within 24 h, this time included.
    pub again: i64,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "rules compare orders of magnitude"
)]
const fn number(value: u64) -> f64 {
    value as f64
}

impl<'a> SignalFields<'a> {
    /// What an expression sees of this signal.
    pub fn of(signal: &'a Signal) -> Self {
        let seconds = |nanos: u64| number(nanos) / 1e9;
        let (code, value, total, detail) = match &signal.sign {
            Sign::Xid { code, detail } => (*code, 1.0, 0.0, &**detail),
            Sign::RecoveryAction { action } => (0, 1.0, 0.0, action.name()),
            Sign::GpuLost => (0, 1.0, 0.0, ""),
            Sign::EccUncorrected { volatile, sram } => (0, number(*volatile), number(*sram), ""),
            Sign::RowRemap {
                rows,
                pending,
                failed,
            } => {
                let detail = match (failed, pending) {
                    (true, _) => "failed",
                    (false, true) => "pending",
                    (false, false) => "",
                };
                (0, f64::from(*rows), 0.0, detail)
            }
            Sign::Throttled { reason, nanos } => (0, seconds(*nanos), 0.0, reason.name()),
            Sign::PcieReplays { per_minute } => (0, number(*per_minute), 0.0, ""),
            Sign::NvLinkErrors { link, per_minute } => (*link, number(*per_minute), 0.0, ""),
            Sign::NvLinkDown { link } => (*link, 1.0, 0.0, ""),
            Sign::HostMemory { available, total } => (0, number(*available), number(*total), ""),
            Sign::Storage { of, left, total } => (0, number(*left), number(*total), of.name()),
            Sign::StorageFailing { error } => (0, 1.0, 0.0, &**error),
            Sign::ClockSkew { nanos } => {
                let ahead = seconds(nanos.unsigned_abs());
                (0, if *nanos < 0 { -ahead } else { ahead }, 0.0, "")
            }
            Sign::ProbeHung { probe, nanos } => (0, seconds(*nanos), 0.0, probe.name()),
            Sign::ProbesStarted { .. } => (0, 0.0, 0.0, ""),
        };
        Self {
            kind: signal.sign.kind().name(),
            device: signal.device.map_or(-1, |slot| i64::from(slot.0)),
            code: i64::from(code),
            value,
            total,
            share: if total > 0.0 { value / total } else { 1.0 },
            detail,
            cleared: signal.cleared,
        }
    }
}

impl<'a> NodeFields<'a> {
    /// What an expression sees of a node that nothing is known against.
    pub fn of(facts: &'a NodeFacts) -> Self {
        Self {
            name: facts.node.as_str(),
            host: &facts.host,
            slots: i64::from(facts.slots),
            gpus: &facts.gpus,
            cores: i64::from(facts.cores),
            memory: number(facts.memory),
            verdict: Verdict::Healthy.name(),
            cordoned: false,
            withdrawals: 0,
            again: 1,
        }
    }
}

/// A signal and its node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scene<'a> {
    /// The signal.
    pub signal: SignalFields<'a>,
    /// Its node.
    pub node: NodeFields<'a>,
}

/// The functions of CEL: making them anew for each signal would cost more than all rules on it.
static FUNCTIONS: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

impl Scene<'_> {
    pub(super) fn context<'s>(&'s self) -> Context<'s, 's> {
        let mut context = Context::with_env(Arc::clone(&FUNCTIONS));
        context.set_variable_resolver(self);
        context
    }
}

/// CEL asks for the longest name first: a field that is named is found without a map of all of them, which costs more
/// than a rule.
impl VariableResolver for Scene<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let text = |text: &'b str| Some(CowVal::owned(CelString::from(text)));
        let int = |value: i64| Some(CowVal::owned(CelInt::from(value)));
        let double = |value: f64| Some(CowVal::owned(CelDouble::from(value)));
        let bool = |value: bool| Some(CowVal::owned(CelBool::from(value)));
        let Self { signal, node } = self;
        match name {
            "signal" => whole(signal),
            "signal.kind" => text(signal.kind),
            "signal.device" => int(signal.device),
            "signal.code" => int(signal.code),
            "signal.value" => double(signal.value),
            "signal.total" => double(signal.total),
            "signal.share" => double(signal.share),
            "signal.detail" => text(signal.detail),
            "signal.cleared" => bool(signal.cleared),
            "node" => whole(node),
            "node.name" => text(node.name),
            "node.host" => text(node.host),
            "node.slots" => int(node.slots),
            "node.gpus" => whole(node.gpus),
            "node.cores" => int(node.cores),
            "node.memory" => double(node.memory),
            "node.verdict" => text(node.verdict),
            "node.cordoned" => bool(node.cordoned),
            "node.withdrawals" => int(node.withdrawals),
            "node.again" => int(node.again),
            _ => None,
        }
    }
}

fn whole(value: impl Serialize) -> Option<CowVal<'static, 'static>> {
    let value = cel::to_value(value).ok()?;
    value.try_into().ok().map(CowVal::Owned)
}
