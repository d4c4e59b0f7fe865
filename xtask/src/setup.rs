//! Set-up: what the build and the first run need beyond Rust, into `.rebloom/`.
//!
//! Every piece is pinned by version and SHA-256, unpacked aside and renamed into place together
//! with its marker, so a piece is there whole or not at all, and set-up can be stopped and started
//! again at any moment. When all is in place it only looks, in milliseconds.

mod corpus;
mod libtorch;
mod piece;
mod python;

pub(crate) use python::Python;

use crate::checkout::Checkout;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Installs what is missing.
pub(crate) fn run(checkout: &Checkout) -> Result<ExitCode> {
    platform()?;
    tools()?;
    let home = checkout.installed();
    std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let _held = hold(&home)?;
    libtorch::install(&home)?;
    corpus::install(&home)?;
    say("set-up is complete");
    Ok(ExitCode::SUCCESS)
}

/// One line of progress.
fn say(line: &str) {
    println!("setup: {line}");
}

/// Only one set-up at a time in one checkout.
pub(crate) fn hold(home: &Path) -> Result<File> {
    let path = home.join("setup.lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        say("another set-up is at work in this checkout; waiting for it");
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

fn platform() -> Result<()> {
    if cfg!(all(
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu"
    )) {
        return Ok(());
    }
    bail!(
        "set-up knows libtorch only for x86-64 Linux with glibc, this is {} {}",
        std::env::consts::ARCH,
        std::env::consts::OS
    )
}

/// The tools that we cannot install: say which one is missing before an hour of work fails on it.
fn tools() -> Result<()> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let asked = [
        (
            compiler.as_str(),
            "--version",
            "install a C++ compiler (Debian, Ubuntu: `apt install g++`)",
        ),
        (
            "cargo-clippy",
            "--version",
            "run `rustup component add clippy`",
        ),
        ("rustfmt", "--version", "run `rustup component add rustfmt`"),
    ];
    for (program, argument, remedy) in asked {
        if !answers(Command::new(program).arg(argument)) {
            bail!("`{program}` does not run: {remedy}, then repeat this command");
        }
    }
    Ok(())
}

/// Whether a command can be run and succeeds.
fn answers(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
