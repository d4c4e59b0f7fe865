//! Where things are in this checkout, and how its tools are called.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// The checkout that xtask was built from.
pub(crate) struct Checkout {
    /// Its first folder.
    pub(crate) root: PathBuf,
}

impl Checkout {
    /// The checkout that this binary belongs to.
    pub(crate) fn here() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest
            .parent()
            .expect("xtask lies in a folder of the checkout")
            .to_owned();
        Self { root }
    }

    /// Where set-up installs; ignored by git.
    pub(crate) fn installed(&self) -> PathBuf {
        self.root.join(".rebloom")
    }

    /// The cargo that runs us, in the first folder of the checkout.
    pub(crate) fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        arguments: I,
    ) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// What cargo says of the workspace: its packages and their declared dependencies.
    pub(crate) fn metadata(&self) -> Result<Value> {
        let output = self
            .cargo(["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!(
                "cargo metadata failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
    }
}

/// Runs a command on our own terminal.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .status()
        .with_context(|| format!("cannot run {name}"))
}

/// A command as a user would type it, for messages.
pub(crate) fn spelled(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
