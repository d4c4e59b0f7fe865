//! The command line.

mod health;
mod model;

pub(crate) use health::{HealthCommand, RulesCommand};
pub(crate) use model::{Dtype, Eval, Generate, ModelCommand, Which};

use crate::client::Target;
use crate::failure::EXIT_CODES;
use crate::format::Output;
use clap::{Args, Parser, Subcommand};
use rebloom_core::id::{NodeId, RunId};
use rebloom_core::layout::Layout;
use std::path::PathBuf;

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

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// Address of the controller's admin API
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "REBLOOM_CONTROLLER"
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
    #[arg(long, value_name = "N")]
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

/// A run by name.
#[derive(Debug, Clone, Args)]
pub(crate) struct OneRun {
    /// Name of the run; may be left out where there is only one
    #[arg(value_parser = RunId::new)]
    pub(crate) run: Option<RunId>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// Submit a run spec (a YAML file; docs/run-spec.md explains every field)
    #[command(
        after_help = "Example:\n  rebloom run submit run.yaml --dry-run\n  rebloom run submit run.yaml --watch"
    )]
    Submit {
        /// The spec
        file: PathBuf,
        /// Only say whether it is right and where it would run
        #[arg(long)]
        dry_run: bool,
        /// Watch the run until it ends
        #[arg(long, conflicts_with = "dry_run")]
        watch: bool,
    },
    /// List every run
    #[command(after_help = "Example:\n  rebloom run list -o wide")]
    List,
    /// Show one run: its state, its ranks, where it is
    #[command(after_help = "Example:\n  rebloom run get night-run -o json | jq .step")]
    Get(OneRun),
    /// Watch a run until it ends
    #[command(
        after_help = "Example:\n  rebloom run watch night-run\n  rebloom run watch night-run -o json   # one object a line"
    )]
    Watch {
        #[command(flatten)]
        run: OneRun,
        /// Plain lines instead of the live view
        #[arg(long)]
        plain: bool,
    },
    /// Stop a run at the next step, after a checkpoint
    #[command(
        after_help = "Example:\n  rebloom run stop night-run\n  rebloom run stop night-run --now   # kill it"
    )]
    Stop {
        #[command(flatten)]
        run: OneRun,
        /// Kill it at once; steps since the last checkpoint are lost
        #[arg(long)]
        now: bool,
    },
    /// Let a stopped, failed or parked run go on, with fresh budgets
    #[command(
        after_help = "Example:\n  rebloom run resume night-run\n  rebloom run resume night-run --layout 2x1x4   # the same state on other ranks"
    )]
    Resume {
        #[command(flatten)]
        run: OneRun,
        /// Go on in another layout: tensor x pipeline x data
        #[arg(long, value_name = "TPxPPxDP", value_parser = layout)]
        layout: Option<Layout>,
    },
    /// Print what a rank wrote to its standard output and error
    #[command(after_help = "Example:\n  rebloom run logs night-run --rank 3 --tail 50 --follow")]
    Logs {
        #[command(flatten)]
        run: OneRun,
        /// Which rank
        #[arg(long, default_value_t = 0, value_name = "N")]
        rank: u32,
        /// Go on with what it writes from now on
        #[arg(long, short)]
        follow: bool,
        /// Only the last lines
        #[arg(long, value_name = "LINES")]
        tail: Option<u32>,
        /// What the process before the present one wrote
        #[arg(long, conflicts_with = "follow")]
        previous: bool,
    },
    /// Tell what happened to a run: every incident, its cause, what was done, and what it cost
    #[command(after_help = "Example:\n  rebloom run explain night-run")]
    Explain(OneRun),
    /// Write the story of a run, as people keep it by hand: figures, diary, where the time went
    #[command(
        after_help = "Example:\n  rebloom run chronicle night-run --format html -o night-run.html"
    )]
    Chronicle {
        #[command(flatten)]
        run: OneRun,
        /// How it is written; html is one page that needs nothing else
        #[arg(long, value_enum, default_value_t = ChronicleFormat::Md)]
        format: ChronicleFormat,
        /// Where it is written to [default: standard output]
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// How a chronicle is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ChronicleFormat {
    /// Markdown.
    Md,
    /// One page of HTML.
    Html,
}

/// A layout as `2x1x4`.
fn layout(text: &str) -> Result<Layout, String> {
    let sizes: Option<Vec<u32>> = text.split('x').map(|size| size.parse().ok()).collect();
    match sizes.as_deref() {
        Some(&[tensor, pipeline, data]) => Ok(Layout {
            tensor,
            pipeline,
            data,
        }),
        _ => Err("is not three numbers such as 2x1x4".to_owned()),
    }
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
        #[arg(long, value_name = "N")]
        step: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChaosCommand {
    /// kill -9 of ranks: the survivors re-form in place and the lost ones are started anew
    #[command(
        after_help = "Example:\n  rebloom chaos kill-rank        # a random one\n  rebloom chaos kill-rank 3 5"
    )]
    KillRank {
        /// Which; a random one if none is named
        #[arg(value_name = "RANK")]
        ranks: Vec<u32>,
    },
    /// SIGSTOP a rank, so that it hangs: its phase deadline passes, it is blamed and replaced
    #[command(after_help = "Example:\n  rebloom chaos stop-rank 2")]
    StopRank {
        /// Which; a random one if none is named
        #[arg(value_name = "RANK")]
        ranks: Vec<u32>,
    },
    /// kill -9 of an agent: its ranks train on, and it finds them again
    #[command(after_help = "Example:\n  rebloom chaos kill-agent node-2")]
    KillAgent {
        /// Which; a random one if none is named
        #[arg(value_parser = NodeId::new)]
        node: Option<NodeId>,
    },
    /// kill -9 of the controller: everything trains on, and it catches up
    #[command(after_help = "Example:\n  rebloom chaos kill-controller")]
    KillController,
    /// Flip one bit in a shard of the newest sealed checkpoint: it is never resumed from again
    #[command(
        after_help = "Example:\n  rebloom chaos corrupt-checkpoint && rebloom chaos kill-rank"
    )]
    CorruptCheckpoint {
        /// Whose shard; a random one if none is named
        #[arg(value_name = "RANK")]
        rank: Option<u32>,
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

/// What is said of a folder of text that has no sources.yaml.
#[derive(Debug, Clone, Args)]
pub(crate) struct Permission {
    /// Who permitted training on the text, and where that is recorded
    #[arg(long, value_name = "TEXT", requires = "text")]
    pub(crate) permission: Option<String>,
    /// Code of its language
    #[arg(long, value_name = "CODE", default_value = "und")]
    pub(crate) language: String,
    /// Its licence
    #[arg(long, value_name = "SPDX", default_value = "see permission")]
    pub(crate) licence: String,
    /// Whom to ask about it
    #[arg(long, value_name = "WHO", default_value = "see permission")]
    pub(crate) contact: String,
}

#[cfg(test)]
impl Default for Permission {
    fn default() -> Self {
        Self {
            permission: None,
            language: "und".to_owned(),
            licence: "see permission".to_owned(),
            contact: "see permission".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BuildData {
    /// The sources file
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "text",
        conflicts_with = "text"
    )]
    pub(crate) sources: Option<PathBuf>,
    /// Directory with text files instead, for one source with --permission
    #[arg(long, value_name = "DIR")]
    pub(crate) text: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) said: Permission,
    /// Path of the dataset without .bin / .idx
    #[arg(long, value_name = "PATH")]
    pub(crate) prefix: PathBuf,
    /// Size of the tokenizer's vocabulary
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pub(crate) vocab: u32,
    /// A tokenizer.json to use instead of training one
    #[arg(long, value_name = "FILE", conflicts_with = "vocab")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// One dataset for each source, PATH-NAME, for a blend with weights
    #[arg(long)]
    pub(crate) separate: bool,
    /// Only say what would be read and written
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct InspectData {
    /// A sources file (.yaml), or the path of a dataset without .bin / .idx
    pub(crate) target: PathBuf,
    /// Where to write the web page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Texts shown of each source
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) samples: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Train a tokenizer on sources and write them as a dataset (docs/data.md explains how)
    #[command(
        after_help = "Example:\n  rebloom data build --sources sources.yaml --prefix /data/corpus --vocab 32768\n  \
        rebloom data build --sources sources.yaml --prefix /data/corpus --dry-run\n  \
        rebloom data build --text ~/novels --permission \"written by me\" --prefix /data/novels"
    )]
    Build(BuildData),
    /// Show sizes, languages, samples and duplicates of each source, and write them as a web page
    #[command(
        after_help = "Example:\n  rebloom data inspect sources.yaml --html corpus.html\n  \
        rebloom data inspect /data/corpus   # a dataset that was built"
    )]
    Inspect(InspectData),
    /// Read a dataset whole, name every damage, and say what is in it
    #[command(after_help = "Example:\n  rebloom data verify /data/novels\n  \
        rebloom data verify /data/novels -o json | jq .damage")]
    Verify {
        /// Path of the dataset without .bin / .idx
        prefix: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
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
        look(&Cli::command(), "rebloom");
    }
}
