//! CEL expressions of admins, bounded: short, shallow, without loops, over values that are there.
//!
//! What is accepted always ends, cannot overflow a stack, and gives the same for the same input:
//! loops (`all`, `exists`, `map`, `filter`) are refused, since they would cost more than the text is
//! long and would see maps in an order of their own. The crate is compiled without its clock,
//! regular expressions and encoders.

use super::Verdict;
use super::signal::{Kind, Sign, Signal};
use crate::report::NodeFacts;
use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use cel::{Context, Env, IdedExpr, Program, Value};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, LazyLock};

/// Most bytes of an expression.
pub const MOST_BYTES: usize = 512;
/// Most brackets within each other.
const MOST_DEPTH: u32 = 8;
/// Most choices (`? :`), which nest as brackets do: a parser's level takes a hundred kilobytes of stack in
/// a build without optimisation.
const MOST_CHOICES: usize = 4;
/// Most operators that could nest without brackets: `!`, `-`, `?`, `.` and so on.
const MOST_OPERATORS: usize = 48;

/// Why an expression is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum BadExpression {
    /// It is longer than an expression may be.
    #[error("the expression has {0} bytes; {MOST_BYTES} at most")]
    Long(usize),
    /// Its brackets go deeper than they may, or it has too many operators.
    #[error(
        "the expression is too complex: {MOST_DEPTH} brackets deep and {MOST_OPERATORS} operators at most"
    )]
    Complex,
    /// It is not CEL.
    #[error("the expression cannot be read: {0}")]
    Syntax(String),
    /// It loops, or makes a message.
    #[error("the expression loops: all, exists, map, filter and messages cannot be used here")]
    Loop,
    /// It does not give true or false.
    #[error("the expression gives {0}, not true or false")]
    NotBool(String),
    /// It cannot be worked out.
    #[error("the expression fails on a signal of kind {0}: {1}")]
    Fails(String, String),
}

/// What an expression sees of a signal: every field is there for every kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SignalFields {
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
    pub detail: String,
    /// Whether it is over.
    pub cleared: bool,
}

/// What an expression sees of a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeFields {
    /// Its name.
    pub name: String,
    /// Its host name.
    pub host: String,
    /// Ranks it can hold.
    pub slots: i64,
    /// Names of its GPUs.
    pub gpus: Vec<String>,
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

impl SignalFields {
    /// What an expression sees of this signal.
    pub fn of(signal: &Signal) -> Self {
        let seconds = |nanos: u64| number(nanos) / 1e9;
        let (code, value, total, detail) = match &signal.sign {
            Sign::Xid { code, detail } => (*code, 1.0, 0.0, detail.clone()),
            Sign::RecoveryAction { action } => (0, 1.0, 0.0, action.name().to_owned()),
            Sign::GpuLost => (0, 1.0, 0.0, String::new()),
            Sign::EccUncorrected { volatile, sram } => {
                (0, number(*volatile), number(*sram), String::new())
            }
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
                (0, f64::from(*rows), 0.0, detail.to_owned())
            }
            Sign::Throttled { reason, nanos } => {
                (0, seconds(*nanos), 0.0, reason.name().to_owned())
            }
            Sign::PcieReplays { per_minute } => (0, number(*per_minute), 0.0, String::new()),
            Sign::NvLinkErrors { link, per_minute } => {
                (*link, number(*per_minute), 0.0, String::new())
            }
            Sign::NvLinkDown { link } => (*link, 1.0, 0.0, String::new()),
            Sign::HostMemory { available, total } => {
                (0, number(*available), number(*total), String::new())
            }
            Sign::Storage { of, left, total } => {
                (0, number(*left), number(*total), of.name().to_owned())
            }
            Sign::StorageFailing { error } => (0, 1.0, 0.0, error.clone()),
            Sign::ClockSkew { nanos } => {
                let ahead = seconds(nanos.unsigned_abs());
                (
                    0,
                    if *nanos < 0 { -ahead } else { ahead },
                    0.0,
                    String::new(),
                )
            }
            Sign::ProbeHung { probe, nanos } => (0, seconds(*nanos), 0.0, probe.name().to_owned()),
            Sign::ProbesStarted { .. } => (0, 0.0, 0.0, String::new()),
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

impl NodeFields {
    /// What an expression sees of a node that nothing is known against.
    pub fn of(facts: &NodeFacts) -> Self {
        Self {
            name: facts.node.to_string(),
            host: facts.host.clone(),
            slots: i64::from(facts.slots),
            gpus: facts.gpus.clone(),
            cores: i64::from(facts.cores),
            memory: number(facts.memory),
            verdict: Verdict::Healthy.name(),
            cordoned: false,
            withdrawals: 0,
            again: 1,
        }
    }
}

/// An expression that was checked.
#[derive(Debug)]
pub struct Expression {
    program: Program,
    /// Kinds of which the signal must be all, or it does not fire; most expressions name one.
    kinds: Vec<String>,
}

impl Expression {
    /// Reads and checks an expression: it must give true or false for a signal of every kind.
    pub fn new(text: &str) -> Result<Self, BadExpression> {
        bounded(text)?;
        let program = Program::compile(text).map_err(|error| {
            let error = error.to_string();
            BadExpression::Syntax(super::signal::shortened(
                error.lines().next().unwrap_or_default(),
            ))
        })?;
        no_loops(program.expression())?;
        let mut kinds = Vec::new();
        demanded(program.expression(), &mut kinds);
        let expression = Self { program, kinds };
        let node = sample_node();
        for kind in Kind::ALL {
            // (All of it is worked out here, whatever kind it is for.)
            let fails = |error| {
                if let BadExpression::Fails(_, why) = error {
                    BadExpression::Fails(kind.name().to_owned(), why)
                } else {
                    error
                }
            };
            let scene = Scene::new(&sample(kind), &node).map_err(fails)?;
            expression.work_out(&scene).map_err(fails)?;
        }
        Ok(expression)
    }

    /// Whether it fires.
    pub fn fires(&self, scene: &Scene) -> Result<bool, BadExpression> {
        // What is false and anything is false in CEL, even where the other fails; and names are quicker
        // to compare than CEL is to run.
        if self.kinds.iter().any(|kind| kind != scene.kind) {
            return Ok(false);
        }
        self.work_out(scene)
    }

    fn work_out(&self, scene: &Scene) -> Result<bool, BadExpression> {
        let value = self.program.execute(&scene.context);
        let value = value.map_err(|error| scene.fails(&error))?;
        if let Value::Bool(fires) = value {
            return Ok(fires);
        }
        let kind = format!("{:?}", value.type_of()).to_lowercase();
        Err(BadExpression::NotBool(kind))
    }
}

/// The functions of CEL: making them anew for each signal would cost more than all rules on it.
static FUNCTIONS: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A signal and its node as expressions see them, made once for all rules.
#[expect(missing_debug_implementations, reason = "the context of CEL has none")]
pub struct Scene {
    kind: &'static str,
    context: Context<'static, 'static>,
}

impl Scene {
    /// What an expression sees. Fails where a value cannot be said in CEL.
    pub fn new(signal: &SignalFields, node: &NodeFields) -> Result<Self, BadExpression> {
        let mut scene = Self {
            kind: signal.kind,
            context: Context::with_env(Arc::clone(&FUNCTIONS)),
        };
        let said = cel::to_value(signal).map_err(|error| scene.fails(&error))?;
        scene.context.add_variable_from_value("signal", said);
        let known = cel::to_value(node).map_err(|error| scene.fails(&error))?;
        scene.context.add_variable_from_value("node", known);
        Ok(scene)
    }

    fn fails(&self, error: &dyn std::fmt::Display) -> BadExpression {
        BadExpression::Fails(
            self.kind.to_owned(),
            super::signal::shortened(&error.to_string()),
        )
    }
}

fn sample(kind: Kind) -> SignalFields {
    SignalFields {
        kind: kind.name(),
        device: 0,
        code: 0,
        value: 0.0,
        total: 0.0,
        share: 1.0,
        detail: String::new(),
        cleared: false,
    }
}

fn sample_node() -> NodeFields {
    NodeFields {
        name: "node".to_owned(),
        host: "host".to_owned(),
        slots: 8,
        gpus: Vec::new(),
        cores: 1,
        memory: 1.0,
        verdict: Verdict::Healthy.name(),
        cordoned: false,
        withdrawals: 0,
        again: 1,
    }
}

/// Refuses what could cost much to read, before it is read: the parser recurses.
fn bounded(text: &str) -> Result<(), BadExpression> {
    if text.len() > MOST_BYTES {
        return Err(BadExpression::Long(text.len()));
    }
    let choices = text.bytes().filter(|byte| *byte == b'?').count();
    if choices > MOST_CHOICES {
        return Err(BadExpression::Complex);
    }
    let (mut depth, mut operators) = (0_u32, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                if depth > MOST_DEPTH {
                    return Err(BadExpression::Complex);
                }
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'!' | b'-' | b'+' | b'*' | b'/' | b'%' | b'?' | b'.' | b'<' | b'>' | b'|' | b'&'
            | b'=' => operators += 1,
            _ => {}
        }
    }
    // `==`, `&&` and `||` count twice.
    if operators > 2 * MOST_OPERATORS {
        return Err(BadExpression::Complex);
    }
    Ok(())
}

/// The kinds that an expression demands of a signal: `signal.kind == "..."`, alone or with `&&`.
fn demanded(expression: &IdedExpr, kinds: &mut Vec<String>) {
    let Expr::Call(call) = &expression.expr else {
        return;
    };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::LOGICAL_AND, parts) => parts.iter().for_each(|part| demanded(part, kinds)),
        (operators::EQUALS, [a, b]) => {
            let name = |field: &IdedExpr, name: &IdedExpr| {
                let Expr::Select(select) = &field.expr else {
                    return None;
                };
                let is_signal = matches!(&select.operand.expr, Expr::Ident(of) if of == "signal");
                let is_kind = is_signal && select.field == "kind" && !select.test;
                let Expr::Literal(LiteralValue::String(name)) = &name.expr else {
                    return None;
                };
                is_kind.then(|| name.inner().to_owned())
            };
            kinds.extend(name(a, b).or_else(|| name(b, a)));
        }
        _ => {}
    }
}

fn no_loops(expression: &IdedExpr) -> Result<(), BadExpression> {
    match &expression.expr {
        Expr::Comprehension(_) | Expr::Struct(_) => Err(BadExpression::Loop),
        Expr::Call(call) => {
            let mut parts = call.target.iter().map(AsRef::as_ref).chain(&call.args);
            parts.try_for_each(no_loops)
        }
        Expr::List(list) => list.elements.iter().try_for_each(no_loops),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                no_loops(&entry.key).and_then(|()| no_loops(&entry.value))
            }
            EntryExpr::StructField(field) => no_loops(&field.value),
        }),
        Expr::Select(select) => no_loops(&select.operand),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Ok(()),
    }
}
