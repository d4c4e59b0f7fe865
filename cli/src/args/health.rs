//! What `rebloom health` takes.

use crate::health;
use clap::Subcommand;
use rebloom_core::health::{Action, Mode, Verdict};

#[derive(Debug, Subcommand)]
pub(crate) enum HealthCommand {
    /// List, try, add and change rules
    #[command(subcommand)]
    Rules(RulesCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// List every rule, whether it acts, and what it found
    #[command(after_help = "Example:\n  rebloom health rules list -o wide")]
    List,
    /// Add or change a rule, or only set whether it acts
    #[command(
        after_help = "Example:\n  rebloom health rules set xid_again --mode shadow\n  rebloom health rules set remaps --when 'signal.kind == \"xid\" && signal.code == 63' --verdict quarantined"
    )]
    Set {
        /// Name of the rule
        name: String,
        /// enforce, shadow (record what it would do) or off [default for a new rule: shadow]
        #[arg(long, value_parser = health::mode)]
        mode: Option<Mode>,
        /// CEL expression over `signal` and `node`: it fires where this is true
        #[arg(long, value_name = "EXPRESSION")]
        when: Option<String>,
        /// What it makes of the node: healthy (only told), suspect, quarantined or faulty
        #[arg(long, value_parser = health::verdict, default_value = "suspect", requires = "when")]
        verdict: Verdict,
        /// What is to be done, by its name in docs/health.md
        #[arg(long, value_parser = health::action, default_value = "none", requires = "when")]
        action: Action,
    },
    /// Remove a rule of your own, or set one that is built in back to its default
    #[command(after_help = "Example:\n  rebloom health rules unset remaps")]
    Unset {
        /// Name of the rule
        name: String,
    },
    /// Say on which of the last signals a rule would have fired; changes nothing
    #[command(
        after_help = "Example:\n  rebloom health rules test --when 'signal.kind == \"xid\" && node.again > 2'"
    )]
    Test {
        /// The expression
        #[arg(long, value_name = "EXPRESSION")]
        when: String,
    },
}
