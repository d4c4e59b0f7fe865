//! The binary as a script sees it: exit codes and messages, without a cluster.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const SPEC: &str = "\
name: small
model:
  layers: 4
  hidden: 64
  heads: 4
  vocab: 2048
  sequence: 64
layout:
  tensor: 2
  pipeline: 2
  data: 2
train:
  steps: 10
  global_batch: 8
  micro_batch: 2
data:
  prefix: /nonexistent/data
checkpoint:
  directory: /nonexistent/checkpoints
  every_steps: 5
";

fn rebloom(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rebloom"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("REBLOOM_CONTROLLER")
        .env_remove("REBLOOM_TLS")
        .output()
        .expect("it can be started")
}

/// Exit code and standard error.
fn refused(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = rebloom(directory, arguments);
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let code = output.status.code().expect("it ended by itself");
    (code, String::from_utf8(output.stderr).expect("it is text"))
}

#[test]
fn a_bad_spec_is_bad_input_and_names_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (SPEC.replace("  steps: 10\n", ""), "missing field `steps`"),
        (
            SPEC.replace("pipeline: 2", "pipelines: 2"),
            "run.yaml:10: layout: unknown field `pipelines`",
        ),
        (
            SPEC.replace("tensor: 2", "tensor: 3"),
            "run.yaml:9: layout.tensor: 3 does not divide",
        ),
        (
            SPEC.replace("pipeline: 2", "pipeline: 9"),
            "run.yaml:10: layout.pipeline: 9 is more than",
        ),
        (SPEC.replace("steps: 10", "steps: -10"), "integer `-10`"),
        (SPEC.replace("steps: 10", "steps: 1e99"), "train.steps"),
        (SPEC.replace("global_batch: 8", "global_batch: 9"), "use 12"),
        (
            SPEC.replace("/nonexistent/data", "data"),
            "data.prefix: `data` is not an absolute path",
        ),
        (
            SPEC.replace("name: small", "name: Not A Name"),
            "`Not A Name` is not a name",
        ),
    ];
    for (spec, expected) in cases {
        fs::write(folder.path().join("run.yaml"), spec).unwrap();
        let (code, message) = refused(folder.path(), &["run", "submit", "run.yaml", "--dry-run"]);
        assert_eq!(code, 2, "{message}");
        assert!(
            message.contains(expected),
            "{expected:?} is not in {message}"
        );
    }
    let (code, message) = refused(folder.path(), &["run", "submit", "other.yaml"]);
    assert_eq!(code, 2);
    assert!(message.contains("other.yaml"), "{message}");
}

#[test]
fn without_a_controller_there_is_a_code_and_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let (code, message) = refused(folder.path(), &["run", "list"]);
    assert_eq!(code, 4, "{message}");
    assert!(message.contains("rebloom up"), "{message}");

    assert!(rebloom(folder.path(), &["tls", "init"]).status.success());
    let nobody = ["--controller", "127.0.0.1:1", "--tls", "tls"];
    for command in [
        &["run", "list"][..],
        &["node", "list"],
        &["run", "stop", "small", "--now"],
    ] {
        let (code, message) = refused(folder.path(), &[&nobody, command].concat());
        assert_eq!(code, 4, "{message}");
        assert!(message.contains("127.0.0.1:1"), "{message}");
    }
}

/// A missing dataset is refused before anybody is asked, where the nodes are this machine.
#[test]
fn a_missing_dataset_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("run.yaml"), SPEC).unwrap();
    let here = [
        "--controller",
        "127.0.0.1:1",
        "--tls",
        "tls",
        "run",
        "submit",
        "run.yaml",
    ];
    let (code, message) = refused(folder.path(), &here);
    assert_eq!(code, 2, "{message}");
    assert!(
        message.contains("run.yaml:17: data.prefix: `/nonexistent/data` has no dataset"),
        "{message}"
    );
}

#[test]
fn a_command_line_that_makes_no_sense_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["run", "submit"][..],
        &["run", "fly"],
        &["run", "get", "Not A Name"],
        &["run", "logs", "small", "--rank", "-1"],
        &["node", "drain"],
        &["--output", "xml", "run", "list"],
    ] {
        assert_eq!(refused(folder.path(), arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn chaos_needs_a_cluster_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let (code, message) = refused(folder.path(), &["chaos", "kill-controller"]);
    assert_eq!(code, 3, "{message}");
}

#[test]
fn help_and_completions_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let help = rebloom(folder.path(), &["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(
        help.contains("4  the controller cannot be reached"),
        "{help}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = rebloom(folder.path(), &["completions", shell]);
        assert!(script.status.success());
        let script = String::from_utf8(script.stdout).unwrap();
        assert!(script.contains("kill-rank"), "{shell}");
    }
}

#[test]
fn a_dataset_is_built_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("text")).unwrap();
    fs::write(
        folder.path().join("text/a.txt"),
        "born free and equal ".repeat(50),
    )
    .unwrap();
    let build = [
        "data", "build", "--text", "text", "--prefix", "out/set", "--vocab", "300",
    ];
    let built = rebloom(folder.path(), &build);
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let verified = rebloom(folder.path(), &["data", "verify", "out/set", "-o", "json"]);
    assert!(verified.status.success());
    let meta: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert!(meta["tokens"].as_u64().unwrap() > 0);
    let bin = folder.path().join("out/set.bin");
    fs::write(&bin, b"short").unwrap();
    assert_eq!(refused(folder.path(), &["data", "verify", "out/set"]).0, 1);
    assert_eq!(
        refused(folder.path(), &["data", "verify", "out/other"]).0,
        3
    );
}
