//! The commands that are other commands in a row: `up`, `test`, `bench`.

use crate::checkout::{Checkout, spelled, status};
use crate::{layers, peers, setup, tidy};
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// The packages of the four binaries; each finds the others beside its own file.
const BINARIES: [&str; 4] = [
    "rebloom-controller",
    "rebloom-agent",
    "rebloom-worker",
    "rebloom-cli",
];

/// Sets up, builds, and becomes `rebloom up`.
pub(crate) fn up(checkout: &Checkout, arguments: &[String]) -> Result<ExitCode> {
    if let Some(failed) = prepare(checkout)? {
        return Ok(failed);
    }
    let program = target(checkout)?.join("debug/rebloom");
    let error = Command::new(&program).arg("up").args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// What can be measured.
pub(crate) const BENCHES: [&str; 7] = [
    "recovery",
    "overhead",
    "checkpoint",
    "worker",
    "cluster",
    "fleet",
    "engine",
];

/// Those whose ranks are light or made up, and the packages of what they start: no libtorch, so no set-up.
const LIGHT: [&str; 2] = ["cluster", "fleet"];
const LIGHT_BINARIES: [&str; 3] = ["rebloom-controller", "rebloom-agent", "rebloom-tests"];

/// Sets up, builds, and runs the bench of that name, or all of them, on the binaries that `up` runs;
/// `engine` is of the engine alone, in release mode.
pub(crate) fn bench(checkout: &Checkout, arguments: &[String]) -> Result<ExitCode> {
    if arguments.first().is_some_and(|name| name == "engine") {
        // It needs nothing but core, so no set-up either.
        let mut bench = checkout.cargo(["bench", "-p", "rebloom-sim", "--bench", "engine"]);
        bench.arg("--").args(arguments.iter().skip(1));
        return run(bench);
    }
    let is_light = arguments
        .first()
        .is_some_and(|name| LIGHT.contains(&name.as_str()));
    let prepared = if is_light {
        build(checkout, &LIGHT_BINARIES)?
    } else {
        match prepare(checkout)? {
            None => build(checkout, &LIGHT_BINARIES)?,
            failed => failed,
        }
    };
    if let Some(failed) = prepared {
        return Ok(failed);
    }
    let compares = arguments
        .first()
        .is_none_or(|name| name == "recovery" || name == "worker");
    if compares && let Some(failed) = failure(peers::run(checkout)?) {
        return Ok(failed);
    }
    let mut bench = checkout.cargo(["run", "-p", "rebloom-tests", "--bin", "bench", "--"]);
    bench.args(arguments);
    run(bench)
}

/// Installs what is compared with, and lets transformers open what the binaries export.
pub(crate) fn compare(checkout: &Checkout) -> Result<ExitCode> {
    if let Some(failed) = prepare(checkout)? {
        return Ok(failed);
    }
    if let Some(failed) = failure(peers::run(checkout)?) {
        return Ok(failed);
    }
    peers::prove(checkout, &target(checkout)?.join("debug"))
}

fn prepare(checkout: &Checkout) -> Result<Option<ExitCode>> {
    if let Some(failed) = failure(setup::run(checkout)?) {
        return Ok(Some(failed));
    }
    println!("setup: building the binaries (the first build takes ten minutes on two cores)");
    build(checkout, &BINARIES)
}

fn build(checkout: &Checkout, packages: &[&str]) -> Result<Option<ExitCode>> {
    let mut build = checkout.cargo(["build"]);
    build.args(packages.iter().flat_map(|package| ["-p", package]));
    Ok(failure(run(build)?))
}

fn target(checkout: &Checkout) -> Result<PathBuf> {
    let metadata = checkout.metadata()?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo names no target directory")?;
    Ok(PathBuf::from(folder))
}

/// Sets up and runs every check, the quick ones first; the first that fails ends it with its code.
pub(crate) fn test(checkout: &Checkout) -> Result<ExitCode> {
    let stages: [(&str, &dyn Fn() -> Result<ExitCode>); 9] = [
        ("set-up", &|| setup::run(checkout)),
        ("lock files", &|| lock_files(checkout)),
        ("format", &|| {
            run(checkout.cargo(["fmt", "--all", "--check"]))
        }),
        ("layers", &|| layers::run(checkout)),
        ("tidy", &|| tidy::run(checkout)),
        ("clippy", &|| run(checkout.cargo(CLIPPY))),
        ("fuzz targets", &|| run(fuzz_targets(checkout)?)),
        // The binaries that tests start, with the features that `cargo test` builds everything with.
        ("build", &|| {
            run(checkout.cargo(["build", "--workspace", "--all-targets"]))
        }),
        ("tests", &|| {
            run(checkout.cargo(["test", "--workspace", "--no-fail-fast"]))
        }),
    ];
    let began = Instant::now();
    let mut times = Vec::new();
    for (name, stage) in stages {
        println!("\n==> {name}");
        let stage_began = Instant::now();
        let code = stage()?;
        times.push(format!("{name} {}", clock(stage_began.elapsed())));
        if let Some(failed) = failure(code) {
            println!("\nxtask test: {name} failed ({})", times.join(", "));
            return Ok(failed);
        }
    }
    println!(
        "\nxtask test: every stage passed in {} ({})",
        clock(began.elapsed()),
        times.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

/// Whether each `Cargo.lock` fits its manifests: an import that one of the two workspaces gained and the other's
/// file lacks shows here, and not after clippy's ten minutes.
fn lock_files(checkout: &Checkout) -> Result<ExitCode> {
    for manifest in ["Cargo.toml", FUZZ] {
        let mut update = checkout.cargo(["update", "--workspace", "--locked", "--quiet"]);
        update.args(["--manifest-path", manifest]);
        if let Some(failed) = failure(run(update)?) {
            eprintln!("`cargo update --workspace --manifest-path {manifest}` makes it fit");
            return Ok(failed);
        }
    }
    Ok(ExitCode::SUCCESS)
}

const FUZZ: &str = "fuzz/Cargo.toml";

/// Checks the targets of `fuzz/`, a workspace of its own that nothing else builds. It shares the target folder,
/// so that what clippy made of the readers serves here as well.
fn fuzz_targets(checkout: &Checkout) -> Result<Command> {
    let mut check = checkout.cargo(["check", "--locked", "--manifest-path", FUZZ]);
    check.arg("--target-dir").arg(target(checkout)?);
    Ok(check)
}

const CLIPPY: [&str; 6] = [
    "clippy",
    "--workspace",
    "--all-targets",
    "--",
    "-D",
    "warnings",
];

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{}:{:02} min", seconds / 60, seconds % 60)
    }
}

fn failure(code: ExitCode) -> Option<ExitCode> {
    (code != ExitCode::SUCCESS).then_some(code)
}

fn run(mut command: Command) -> Result<ExitCode> {
    let ended = status(&mut command)?;
    if ended.success() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("`{}` ended with {ended}", spelled(&command));
    Ok(ended
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_failed_command_is_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 7"]);
        assert_eq!(run(command).unwrap(), ExitCode::from(7));
        assert_eq!(run(Command::new("true")).unwrap(), ExitCode::SUCCESS);
    }

    #[test]
    fn times_read_well() {
        assert_eq!(clock(Duration::from_millis(1530)), "1.5 s");
        assert_eq!(clock(Duration::from_secs(605)), "10:05 min");
    }
}
