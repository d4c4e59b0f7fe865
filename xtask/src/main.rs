//! The chores of this checkout: set-up, checks, start, benches.
//!
//! It installs only into `.rebloom/` and depends on no crate of the workspace, so that it builds
//! in seconds on a machine that has nothing yet.

mod checkout;
mod gpu;
mod layers;
mod peers;
mod setup;
mod source;
mod stages;
mod tidy;

use checkout::Checkout;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup          install what the build and the first run need into .rebloom/ (once; resumable)
  up [ARGS]      set up, build, and start a cluster on this machine: `rebloom up ARGS`
  test           set up, then every check and every test
  layers         compare imports with the import table
  tidy           the house rules that no compiler checks
  bench [NAME]   set up, build, and measure: recovery, overhead, checkpoint, worker, cluster, fleet, engine;
                 without a name all but engine
  peers          install what is compared with (PyTorch's torchrun, transformers), build the worker, and let
                 transformers open what it exports; --only-install does no more than that
  gpu [ARGS]     on a machine with a GPU: the worker's tests on it, and tokens/s and MFU beside transformers
                 (ARGS: see `--help`)
  gpu --pack DIR build all that into a folder, for a machine with PyTorch and without Rust: `python3 DIR/gpu.py`
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[] as &[String]),
    };
    let checkout = Checkout::here();
    let outcome = match command {
        "up" => stages::up(&checkout, rest),
        "bench"
            if rest
                .first()
                .is_some_and(|name| !stages::BENCHES.contains(&name.as_str())) =>
        {
            eprintln!("no bench `{}`\n\n{USAGE}", rest[0]);
            return ExitCode::from(2);
        }
        "bench" => stages::bench(&checkout, rest),
        "setup" | "test" | "layers" | "tidy" if !rest.is_empty() => {
            eprintln!("`cargo xtask {command}` takes no arguments\n\n{USAGE}");
            return ExitCode::from(2);
        }
        "setup" => setup::run(&checkout),
        "test" => stages::test(&checkout),
        "layers" => layers::run(&checkout),
        "tidy" => tidy::run(&checkout),
        "gpu" => gpu::run(&checkout, rest),
        "peers" => match rest {
            [] => stages::compare(&checkout),
            [flag] if flag == "--only-install" => peers::run(&checkout),
            _ => {
                eprintln!("`cargo xtask peers` takes --only-install or nothing\n\n{USAGE}");
                return ExitCode::from(2);
            }
        },
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("there is no command `{other}`\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
