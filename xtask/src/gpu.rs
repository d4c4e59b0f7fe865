//! What is done on a machine with a GPU: the worker's tests on it, and how fast it trains there beside transformers.
//!
//! The work itself is `tests/peers/gpu.py`, which needs a Python with PyTorch for CUDA and no Rust. This builds
//! what it starts and installs that Python; or it packs all of it for a machine that has the Python already.

use crate::checkout::{Checkout, spelled, status};
use crate::{peers, setup};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The worker's tests that are run on a GPU.
const TESTS: [&str; 2] = ["conformance", "cuda"];
/// What starts them and measures, and what it measures against.
const SCRIPTS: [&str; 2] = ["gpu.py", "train_bloom_gpu.py"];
/// The part of the worker that it loads where there is a GPU.
const CUDA_PART: &str = "librebloom_cuda.so";

/// Programs as cargo built them.
struct Built {
    worker: PathBuf,
    cuda_part: PathBuf,
    tests: Vec<(String, PathBuf)>,
}

/// `cargo xtask gpu [ARGS]`, ARGS for `gpu.py`; or `cargo xtask gpu --pack DIR`.
pub(crate) fn run(checkout: &Checkout, arguments: &[String]) -> Result<ExitCode> {
    match arguments {
        [flag, folder] if flag == "--pack" => pack(checkout, Path::new(folder)),
        [flag, ..] if flag == "--pack" => {
            eprintln!("`cargo xtask gpu --pack` takes one folder");
            Ok(ExitCode::from(2))
        }
        _ if !has_gpu(Path::new("/dev")) => {
            eprintln!("this machine has no NVIDIA GPU (no /dev/nvidiactl)");
            Ok(ExitCode::from(2))
        }
        rest => measure(checkout, rest),
    }
}

fn has_gpu(devices: &Path) -> bool {
    devices.join("nvidiactl").exists()
}

fn measure(checkout: &Checkout, arguments: &[String]) -> Result<ExitCode> {
    setup::run(checkout)?;
    let built = build(checkout)?;
    let python = peers::on_gpu(checkout)?;
    let scripts = checkout.root.join("tests/peers");
    let mut command = Command::new(python);
    command
        .arg(scripts.join(SCRIPTS[0]))
        .arg("--worker")
        .arg(&built.worker)
        .arg("--cases")
        .arg(checkout.root.join("tests/conformance"));
    for (_, test) in &built.tests {
        command.arg("--test").arg(test);
    }
    command.args(arguments);
    let ended = status(&mut command)?;
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Builds the worker and its tests.
fn build(checkout: &Checkout) -> Result<Built> {
    let mut command = checkout.cargo(["build", "-p", "rebloom-worker", "--bin", "rebloom-worker"]);
    for test in TESTS {
        command.args(["--test", test]);
    }
    command.arg("--message-format=json-render-diagnostics");
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("`{}` failed ({})", spelled(&command), output.status);
    }
    read(&String::from_utf8_lossy(&output.stdout))
}

/// What cargo says that it built.
fn read(messages: &str) -> Result<Built> {
    let (mut worker, mut cuda_part, mut tests) = (None, None, Vec::new());
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let text = |at: &str| message.pointer(at).and_then(Value::as_str);
        if let Some(out) = text("/out_dir")
            && Path::new(out).join(CUDA_PART).exists()
        {
            cuda_part = Some(Path::new(out).join(CUDA_PART));
        }
        if let (Some(name), Some(program)) = (text("/target/name"), text("/executable")) {
            match text("/target/kind/0") {
                Some("test") => tests.push((name.to_owned(), program.into())),
                Some("bin") if name == "rebloom-worker" => worker = Some(program.into()),
                Some(_) | None => {}
            }
        }
    }
    if tests.len() != TESTS.len() {
        bail!("cargo built {} of {} tests", tests.len(), TESTS.len());
    }
    Ok(Built {
        worker: worker.context("cargo built no worker")?,
        cuda_part: cuda_part.with_context(|| format!("the build made no {CUDA_PART}"))?,
        tests,
    })
}

/// Puts all that a machine with PyTorch and transformers needs into a folder: `python3 FOLDER/gpu.py` does the rest.
fn pack(checkout: &Checkout, folder: &Path) -> Result<ExitCode> {
    setup::run(checkout)?;
    let built = build(checkout)?;
    let cases = folder.join("conformance");
    make(&cases)?;
    let mut programs = vec![(built.worker, "rebloom-worker".to_owned())];
    programs.push((built.cuda_part, CUDA_PART.to_owned()));
    for (name, program) in built.tests {
        programs.push((program, format!("{name}.test")));
    }
    for (from, name) in programs {
        // Without what only a debugger reads they are a tenth as large.
        let to = folder.join(&name);
        let mut strip = Command::new("strip");
        let strip = strip.arg("--strip-unneeded").arg(&from).arg("-o").arg(&to);
        if !status(strip)?.success() {
            bail!("`{}` failed", spelled(strip));
        }
    }
    for script in SCRIPTS {
        copy(
            &checkout.root.join("tests/peers").join(script),
            &folder.join(script),
        )?;
    }
    for case in list(&checkout.root.join("tests/conformance"))? {
        if !case.is_dir() {
            continue;
        }
        let to = cases.join(case.file_name().context("a case has a name")?);
        make(&to)?;
        for file in list(&case)? {
            copy(
                &file,
                &to.join(file.file_name().context("a file has a name")?),
            )?;
        }
    }
    println!(
        "gpu: {} is packed; there: `python3 {}/gpu.py`",
        folder.display(),
        folder.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_drivers_device_has_no_gpu() {
        let devices = tempfile::tempdir().unwrap();
        assert!(!has_gpu(devices.path()));
        fs::write(devices.path().join("nvidiactl"), "").unwrap();
        assert!(has_gpu(devices.path()));
    }

    #[test]
    fn what_cargo_built_is_read_from_its_messages() {
        let out = tempfile::tempdir().unwrap();
        fs::write(out.path().join(CUDA_PART), "").unwrap();
        let built = |kind: &str, name: &str| {
            format!(
                r#"{{"target":{{"kind":["{kind}"],"name":"{name}"}},"executable":"/t/{name}"}}"#
            )
        };
        let mut lines = vec![
            format!(
                r#"{{"reason":"build-script-executed","out_dir":{:?}}}"#,
                out.path()
            ),
            built("bin", "rebloom-worker"),
            built("test", "conformance"),
            r#"{"target":{"kind":["lib"],"name":"x"},"executable":null}"#.to_owned(),
        ];
        let error = read(&lines.join("\n")).err().unwrap();
        assert_eq!(error.to_string(), "cargo built 1 of 2 tests");
        lines.push(built("test", "cuda"));
        let read = read(&lines.join("\n")).unwrap();
        assert_eq!(read.worker, Path::new("/t/rebloom-worker"));
        assert_eq!(read.cuda_part, out.path().join(CUDA_PART));
        let names: Vec<_> = read.tests.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, TESTS);
    }
}
