//! CEL expressions of admins, bounded: short, shallow, without loops, over values that are there.
//!
//! What is accepted always ends, cannot overflow a stack, and gives the same for the same input:
//! loops (`all`, `exists`, `map`, `filter`) are refused, since they would cost more than the text is
//! long and would see maps in an order of their own. The crate is compiled without its clock,
//! regular expressions and encoders.

mod scene;

use super::Verdict;
use super::signal::Kind;
use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use cel::{IdedExpr, Program, Value};
pub use scene::{NodeFields, Scene, SignalFields};
use serde::{Deserialize, Serialize};

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
            let signal = sample(kind);
            expression.work_out(&Scene { signal, node })?;
        }
        Ok(expression)
    }

    /// Whether it may fire on a signal of this kind. (What is false and anything is false in CEL, even where the
    /// other fails; and names are quicker to compare than CEL is to run.)
    pub fn may_fire(&self, kind: Kind) -> bool {
        self.takes(kind.name())
    }

    fn takes(&self, kind: &str) -> bool {
        self.kinds.iter().all(|demanded| demanded == kind)
    }

    /// Whether it fires.
    pub fn fires(&self, scene: &Scene<'_>) -> Result<bool, BadExpression> {
        Ok(self.takes(scene.signal.kind) && self.work_out(scene)?)
    }

    fn work_out(&self, scene: &Scene<'_>) -> Result<bool, BadExpression> {
        let value = self.program.execute(&scene.context());
        let value = value.map_err(|error| {
            let why = super::signal::shortened(&error.to_string());
            BadExpression::Fails(scene.signal.kind.to_owned(), why)
        })?;
        if let Value::Bool(fires) = value {
            return Ok(fires);
        }
        let kind = format!("{:?}", value.type_of()).to_lowercase();
        Err(BadExpression::NotBool(kind))
    }
}

const fn sample(kind: Kind) -> SignalFields<'static> {
    SignalFields {
        kind: kind.name(),
        device: 0,
        code: 0,
        value: 0.0,
        total: 0.0,
        share: 1.0,
        detail: "",
        cleared: false,
    }
}

const fn sample_node() -> NodeFields<'static> {
    NodeFields {
        name: "node",
        host: "host",
        slots: 8,
        gpus: &[],
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
