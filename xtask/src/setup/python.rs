//! Finds a Python with pip, the one tool of set-up that is not Rust.
//!
//! pip downloads, Python's own zipfile and tarfile unpack. Nothing is installed into the user's
//! Python.

use super::{answers, say};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const UNPACK: &str = include_str!("unpack.py");

/// An interpreter that has pip.
pub(crate) struct Python {
    program: PathBuf,
}

impl Python {
    /// The first interpreter on the path that has pip; where none has, a virtual environment made
    /// by one of them.
    pub(crate) fn find(home: &Path) -> Result<Self> {
        let mut names = vec!["python3".to_owned(), "python".to_owned()];
        names.extend((9..=15).rev().map(|minor| format!("python3.{minor}")));
        let found: Vec<_> = names
            .iter()
            .filter(|name| answers(Command::new(name).args(["-c", IS_3_9])))
            .collect();
        for name in &found {
            let python = Self {
                program: name.into(),
            };
            if python.has_pip() {
                return Ok(python);
            }
        }
        let Some(bare) = found.first() else {
            bail!(
                "found no Python from 3.9 on (tried {}); install Python 3 and its pip \
                 (Debian, Ubuntu: `apt install python3-pip`), then repeat this command",
                names.join(", ")
            );
        };
        let environment = home.join("python");
        let own = Self {
            program: environment.join("bin/python"),
        };
        if !own.has_pip() {
            say(&format!(
                "{bare} has no pip; making a virtual environment that has"
            ));
            let made = answers(
                Command::new(bare)
                    .args(["-m", "venv", "--clear"])
                    .arg(&environment),
            );
            if !made || !own.has_pip() {
                bail!(
                    "{bare} has no pip and cannot make a virtual environment; install pip \
                     (Debian, Ubuntu: `apt install python3-pip`), then repeat this command"
                );
            }
        }
        Ok(own)
    }

    fn has_pip(&self) -> bool {
        answers(&mut self.pip(["--version"]))
    }

    /// This interpreter, to be given arguments.
    pub(crate) fn command(&self) -> Command {
        Command::new(&self.program)
    }

    /// pip of this interpreter.
    pub(crate) fn pip<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.command();
        command
            .args(["-m", "pip", "--disable-pip-version-check"])
            .args(arguments);
        command
    }

    /// Unpacks what lies under `keep` in a wheel or a gzipped tar into a folder.
    pub(crate) fn unpack(&self, archive: &Path, into: &Path, keep: &[&str]) -> Result<()> {
        let mut command = self.command();
        command
            .args(["-c", UNPACK])
            .arg(archive)
            .arg(into)
            .args(keep);
        let status = command.status().context("cannot run Python")?;
        if !status.success() {
            bail!("cannot unpack {} ({status})", archive.display());
        }
        Ok(())
    }
}

const IS_3_9: &str = "import sys; sys.exit(sys.version_info < (3, 9))";
