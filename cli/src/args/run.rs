//! What `rebloom run` takes.

use super::MOST_RANK;
use super::number::whole;
use clap::{Args, Subcommand};
use rebloom_core::id::RunId;
use rebloom_core::layout::Layout;
use std::path::PathBuf;

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
        #[arg(long, default_value_t = 0, value_name = "N", value_parser = whole::<u32>(0, MOST_RANK))]
        rank: u32,
        /// Go on with what it writes from now on
        #[arg(long, short)]
        follow: bool,
        /// Only the last lines
        #[arg(long, value_name = "LINES", value_parser = whole::<u32>(1, u32::MAX.into()))]
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
        after_help = "Example:\n  rebloom run chronicle night-run --format html -f night-run.html"
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
        Some(sizes) if sizes.contains(&0) => Err("holds a 0; each size is 1 or more".to_owned()),
        Some(&[tensor, pipeline, data]) => Ok(Layout {
            tensor,
            pipeline,
            data,
        }),
        _ => Err("is not three numbers such as 2x1x4".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_three_sizes_of_at_least_1() {
        assert_eq!(layout("2x1x4").unwrap().world(), 8);
        assert!(layout("0x1x4").unwrap_err().contains("1 or more"));
        for text in ["", "2x1", "2x1x4x1", "axbxc", "-1x1x1"] {
            assert!(layout(text).unwrap_err().contains("2x1x4"), "{text}");
        }
    }
}
