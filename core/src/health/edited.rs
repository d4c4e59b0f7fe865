//! Rules that admins edit: a CEL expression over the signal and the node, what it makes of the node,
//! and whether it acts. A new rule is in shadow mode until somebody says otherwise.

use super::expression::{BadExpression, Expression};
use super::rule::Builtin;
use super::{Action, Mode, Verdict};
use serde::{Deserialize, Serialize};

/// Most rules that admins can add.
pub const MOST_RULES: usize = 64;
/// Most bytes of the name of a rule.
const MOST_NAME: usize = 63;

/// What an admin says of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditedRule {
    /// The name of a rule that is built in, or of their own.
    pub name: String,
    /// Whether it acts.
    pub mode: Mode,
    /// What it does; none for a rule that is built in.
    pub own: Option<OwnRule>,
}

/// A rule of an admin's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRule {
    /// The expression: it fires where this is true.
    pub when: String,
    /// What it makes of the node.
    pub verdict: Verdict,
    /// What is to be done.
    pub action: Action,
}

/// Why a rule is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum BadRule {
    /// The name is not one.
    #[error("{0:?} is no name for a rule: use 1 to 63 of a-z, 0-9, _ and -")]
    Name(String),
    /// The name of a rule that is built in.
    #[error("{0} is built in: its mode can be set, its expression cannot")]
    BuiltIn(String),
    /// No rule of that name, and no expression to make one.
    #[error("there is no rule {0}; to make it, say when it fires")]
    Unknown(String),
    /// The expression cannot be used.
    #[error("rule {0}: {1}")]
    Expression(String, BadExpression),
    /// There are enough.
    #[error("there are {MOST_RULES} rules already; remove one first")]
    TooMany,
}

impl EditedRule {
    /// Refuses what cannot be a rule; gives the expression of one that is an admin's own.
    pub fn check(&self) -> Result<Option<Expression>, BadRule> {
        let is_name =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        let length = self.name.len();
        if length == 0 || length > MOST_NAME || !self.name.bytes().all(is_name) {
            return Err(BadRule::Name(self.name.clone()));
        }
        match (&self.own, Builtin::from_name(&self.name)) {
            (Some(_), Some(_)) => Err(BadRule::BuiltIn(self.name.clone())),
            (None, Some(_)) => Ok(None),
            (None, None) => Err(BadRule::Unknown(self.name.clone())),
            (Some(own), None) => {
                let compiled = Expression::new(&own.when);
                compiled
                    .map(Some)
                    .map_err(|error| BadRule::Expression(self.name.clone(), error))
            }
        }
    }
}
