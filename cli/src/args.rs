//! The command line.

mod chaos;
mod data;
mod health;
mod model;
mod number;
mod run;

pub(crate) use chaos::{ChaosCommand, OfRun};
pub(crate) use data::{BuildData, DataCommand, InspectData, Permission};
pub(crate) use health::{HealthCommand, RulesCommand};
pub(crate) use model::{Dtype, Eval, Generate, ModelCommand, Which};
pub(crate) use run::{ChronicleFormat, OneRun, RunCommand};

use crate::client::Target;
use crate::failure::EXIT_CODES;
use crate::format::Output;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use number::whole;
use rebloom_core::id::NodeId;
use std::path::PathBuf;

/// No run spec has more ranks than this and one.
const MOST_RANK: u64 = 99_999;

/// Rebloom keeps a large training run alive.
///
/// Commands that ask the controller find it by --controller and --tls, by the variables of the
/// environment named there, or by the cluster that `rebloom up` started in this directory or one above.
#[derive(Debug, Parser)]
#[command(name = "rebloom", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The whole command line. A negative number is a value everywhere, so that it is told the range.
    pub(crate) fn whole() -> clap::Command {
        fn below(command: clap::Command) -> clap::Command {
            let takes = |arg: clap::Arg| {
                let values = arg.get_action().takes_values();
                if values {
                    arg.allow_negative_numbers(true)
                } else {
                    arg
                }
            };
            command.mut_args(takes).mut_subcommands(below)
        }
        below(Self::command())
    }

    /// What was typed; ends the process where that makes no sense, as clap does.
    pub(crate) fn typed() -> Self {
        let mut command = Self::whole();
        let matches = command.get_matches_mut();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

/// An address as `host:7240`, `10.0.0.1:7240` or `[::1]:7240`.
fn address(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match inner {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(plain),
        };
        host && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if fits {
        Ok(text.to_owned())
    } else {
        Err("use HOST:PORT, port 1 to 65535".to_owned())
    }
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// Address of the controller's admin API
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "REBLOOM_CONTROLLER",
        value_parser = address
    )]
    controller: Option<String>,
    /// Directory with ca.pem, admin-NAME.pem and admin-NAME.key
    #[arg(long, global = true, value_name = "DIR", env = "REBLOOM_TLS")]
    tls: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

impl Global {
    /// Which controller was meant.
    pub(crate) fn target(&self) -> Target {
        Target {
            controller: self.controller.clone(),
            tls: self.tls.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine and train a small BLOOM, or go on where the last `up` stopped
    #[command(
        after_help = "Example:\n  rebloom up --steps 100\n  rebloom up --text ~/novels --permission \"written by me\""
    )]
    Up(Up),
    /// Submit, watch and steer training runs
    #[command(subcommand)]
    Run(RunCommand),
    /// Show nodes, and take them out of use
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show and edit the rules by which nodes are judged (docs/health.md)
    #[command(subcommand)]
    Health(HealthCommand),
    /// Show checkpoints, and check them
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Break something in the cluster that `rebloom up` started on this machine
    #[command(subcommand)]
    Chaos(ChaosCommand),
    /// Make the certificates of a cluster
    #[command(subcommand)]
    Tls(TlsCommand),
    /// Make training data from text, and check it
    #[command(subcommand)]
    Data(DataCommand),
    /// Take models in from Hugging Face, and give them out
    #[command(subcommand)]
    Model(ModelCommand),
    /// Let a model write: a run's newest checkpoint, or any weights with --from
    #[command(
        after_help = "Example:\n  rebloom generate bloom-small --prompt 'All human beings'\n  rebloom generate --from bloom-560m --prompt 'Il était une fois' --temperature 0.8 --top-p 0.9 --seed 7"
    )]
    Generate(Generate),
    /// Measure how well a model predicts held-out text, language by language
    #[command(
        after_help = "Example:\n  rebloom eval bloom-small --text held-out   # held-out/fr.txt, held-out/sw/*.txt...\n  rebloom eval --from bloom-560m --text held-out -o json"
    )]
    Eval(Eval),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  rebloom completions bash > /etc/bash_completion.d/rebloom")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Up {
    /// Train on the text files below this directory instead of the built-in corpus; its
    /// sources.yaml, or --permission, says that they may be trained on
    #[arg(long, value_name = "DIR")]
    pub(crate) text: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) said: Permission,
    /// Optimizer steps of the run
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1, 1_000_000_000))]
    pub(crate) steps: Option<u64>,
    /// Where everything is kept [default: .rebloom/cluster here or above]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Keep the cluster running after the run has ended, until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
    /// Throw away what an earlier `up` left, checkpoints included, and begin anew
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Plain lines instead of the live view
    #[arg(long)]
    pub(crate) plain: bool,
}

/// A node by name.
#[derive(Debug, Clone, Args)]
pub(crate) struct OneNode {
    /// Name of the node
    #[arg(value_parser = NodeId::new)]
    pub(crate) node: NodeId,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List every node, with its verdict and why
    #[command(after_help = "Example:\n  rebloom node list\n  rebloom node list -o wide")]
    List,
    /// Show one node: what is made of its health, and what was found of late
    #[command(after_help = "Example:\n  rebloom node get node-3")]
    Get(OneNode),
    /// Place nothing new on a node
    #[command(after_help = "Example:\n  rebloom node cordon node-3")]
    Cordon(OneNode),
    /// Use a node again; also lifts what automation withdrew, and forgets why
    #[command(after_help = "Example:\n  rebloom node uncordon node-3")]
    Uncordon(OneNode),
    /// Cordon a node and move its ranks elsewhere, each run at a step boundary
    #[command(after_help = "Example:\n  rebloom node drain node-3 --dry-run")]
    Drain {
        #[command(flatten)]
        node: OneNode,
        /// Only say what would be moved
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// List the checkpoints of a run, newest first
    #[command(after_help = "Example:\n  rebloom checkpoint list night-run")]
    List(OneRun),
    /// Read and hash checkpoints where they lie
    #[command(
        after_help = "Example:\n  rebloom checkpoint verify night-run            # all sealed ones\n  rebloom checkpoint verify night-run --step 120"
    )]
    Verify {
        #[command(flatten)]
        run: OneRun,
        /// Only the one at this step
        #[arg(long, value_name = "N", value_parser = whole::<u64>(0, u64::MAX))]
        step: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TlsCommand {
    /// Make an authority, and certificates for controller, admins and agents; doing it again renews
    /// certificates and adds nodes
    #[command(
        after_help = "Example:\n  rebloom tls init --dir tls --node gpu-01 --node gpu-02\n\n\
        Each machine gets ca.pem and its own two files. ca.key stays where it was made."
    )]
    Init {
        /// Where to put them
        #[arg(long, default_value = "tls", value_name = "DIR")]
        dir: PathBuf,
        /// A node that gets a certificate; repeat it for more
        #[arg(long = "node", value_parser = NodeId::new, value_name = "NAME")]
        nodes: Vec<NodeId>,
        /// An admin who gets a certificate; repeat it for more
        #[arg(long = "admin", value_parser = NodeId::new, value_name = "NAME", default_value = "admin")]
        admins: Vec<NodeId>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::whole().debug_assert();
    }

    /// The examples that `--help` shows are taken as they stand.
    #[test]
    fn every_example_works() {
        fn look(command: &clap::Command) {
            command.get_subcommands().for_each(look);
            let help = command.get_after_help().map(ToString::to_string);
            for example in help.unwrap_or_default().lines() {
                let Some(typed) = example.strip_prefix("  rebloom ") else {
                    continue;
                };
                // What a shell would do with quotes is of no interest here: a word for each of them.
                let typed = typed.split(['#', '|', '>', '&']).next().unwrap();
                let mut quoted = false;
                let mut words = vec![String::from("rebloom"), String::new()];
                for letter in typed.chars() {
                    match letter {
                        '"' | '\'' => quoted = !quoted,
                        ' ' if !quoted => words.push(String::new()),
                        letter => words.last_mut().unwrap().push(letter),
                    }
                }
                words.retain(|word| !word.is_empty());
                let taken = Cli::whole().try_get_matches_from(&words);
                assert!(taken.is_ok(), "{example}: {}", taken.unwrap_err());
            }
        }
        look(&Cli::whole());
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for text in ["127.0.0.1:7240", "[::1]:1", "gpu-01.example:65535"] {
            assert_eq!(address(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "nonsense",
            "127.0.0.1:99999",
            "a:0",
            ":1",
            "::1:80",
            "https://a:1",
            "a b:1",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        fn look(command: &clap::Command, path: &str) {
            for below in command
                .get_subcommands()
                .filter(|below| below.get_name() != "help")
            {
                let path = format!("{path} {}", below.get_name());
                if below.has_subcommands() {
                    look(below, &path);
                } else {
                    let help = below
                        .get_after_help()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    assert!(
                        help.contains(&format!("{path} ")) || help.contains(&path),
                        "{path}"
                    );
                    assert!(below.get_about().is_some(), "{path} says nothing of itself");
                }
            }
        }
        look(&Cli::whole(), "rebloom");
    }
}
