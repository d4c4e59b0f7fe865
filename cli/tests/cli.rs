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
            "run.yaml:9: layout.tensor: 3 does not divide model.heads (4), model.hidden (64); \
             use one of 1, 2, 4",
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
            "run.yaml:1: name: `Not A Name` is not a name",
        ),
        (
            SPEC.replace("layers: 4", "layers: -4"),
            "model.layers: invalid type: integer `-4`, use a whole number from 1 to 1024",
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
        assert!(
            message.starts_with("the controller does not answer; trying for 5 s"),
            "one that comes back is waited for: {message}"
        );
    }
}

#[test]
fn an_address_or_certificates_that_cannot_be_are_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    for address in ["127.0.0.1:99999", "nonsense", "https://here:1"] {
        let (code, message) = refused(folder.path(), &["--controller", address, "run", "list"]);
        assert_eq!(code, 2, "{message}");
        assert!(
            message.contains("use HOST:PORT, port 1 to 65535"),
            "{message}"
        );
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    for tls in ["/nowhere", "empty"] {
        let command = ["--controller", "127.0.0.1:1", "--tls", tls, "run", "list"];
        let (code, message) = refused(folder.path(), &command);
        assert_eq!(code, 2, "{message}");
        assert!(
            message.contains(tls) && message.contains("rebloom tls init"),
            "{message}"
        );
    }
}

/// The file of a cluster is there, and nothing of it runs.
#[test]
fn a_stopped_cluster_says_so_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join(".rebloom/cluster");
    fs::create_dir_all(&state).unwrap();
    let file = serde_json::json!({
        "run": "bloom-small", "controller": "127.0.0.1:1", "metrics": "127.0.0.1:2", "tls": "tls",
        "controller_process": null, "agents": [],
    });
    fs::write(state.join("cluster.json"), file.to_string()).unwrap();
    for command in [&["run", "list"][..], &["chaos", "kill-rank"]] {
        let (code, message) = refused(folder.path(), command);
        assert_eq!(code, 4, "{message}");
        assert!(
            message.starts_with("error: this cluster is stopped; `")
                && message.contains(" up` starts it"),
            "{message}"
        );
    }
}

#[test]
fn a_number_that_does_not_do_is_told_what_would() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (
            &["up", "--steps", "-5"][..],
            "use a whole number from 1 to 1000000000",
        ),
        (
            &["up", "--steps", "abc"],
            "use a whole number from 1 to 1000000000",
        ),
        (
            &["run", "logs", "--rank", "-1"],
            "use a whole number from 0 to 99999",
        ),
        (
            &["chaos", "kill-rank", "-1"],
            "use a whole number from 0 to 99999",
        ),
        (
            &["generate", "--prompt", "x", "--temperature", "-1"],
            "use a number, 0 or more",
        ),
        (
            &["run", "resume", "--layout", "0x1x4"],
            "each size is 1 or more",
        ),
    ] {
        let (code, message) = refused(folder.path(), arguments);
        assert_eq!(code, 2, "{message}");
        assert!(
            message.contains(expected),
            "{expected:?} is not in {message}"
        );
    }
}

#[test]
fn a_file_is_no_directory_of_text() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text.txt"), "born free and equal").unwrap();
    let (code, message) = refused(
        folder.path(),
        &[
            "data",
            "build",
            "--text",
            "text.txt",
            "--permission",
            "ours",
            "--prefix",
            "out",
        ],
    );
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("is no directory"), "{message}");
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
    let mut build = vec![
        "data", "build", "--text", "text", "--prefix", "out/set", "--vocab", "300",
    ];
    let (code, said) = refused(folder.path(), &build);
    assert_eq!(code, 2);
    assert!(said.contains("--permission"), "{said}");
    build.extend(["--permission", "written for this test"]);
    let planned = rebloom(folder.path(), &[build.as_slice(), &["--dry-run"]].concat());
    assert!(String::from_utf8_lossy(&planned.stdout).contains("nothing was written"));
    assert!(!folder.path().join("out").exists());
    let built = rebloom(folder.path(), &build);
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let verify = ["data", "verify", "out/set", "-o", "json"];
    let verified = rebloom(folder.path(), &verify);
    assert!(verified.status.success());
    let found: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert!(found["tokens"].as_u64().unwrap() > 0);
    assert_eq!(
        found["page"]["sources"][0]["permission"],
        "written for this test"
    );
    let bin = folder.path().join("out/set.bin");
    let whole = fs::read(&bin).unwrap();
    fs::write(&bin, b"short").unwrap();
    let shown = rebloom(folder.path(), &verify[..3]);
    let (code, said) = (
        shown.status.code(),
        String::from_utf8(shown.stderr).unwrap(),
    );
    assert_eq!(code, Some(1));
    assert!(said.contains("set.bin: sha256 is"), "{said}");
    let damaged = rebloom(folder.path(), &verify);
    let found: serde_json::Value = serde_json::from_slice(&damaged.stdout).unwrap();
    assert_eq!(found["whole"], false);
    fs::write(&bin, whole).unwrap();
    fs::remove_file(folder.path().join("out/set.json")).unwrap();
    let bare = rebloom(folder.path(), &verify[..3]);
    let said = String::from_utf8(bare.stdout).unwrap();
    assert!(
        bare.status.success() && said.contains("the largest token is "),
        "{said}"
    );
    assert!(said.contains("whole; it has no page beside it"), "{said}");
    let narrow = ["data", "verify", "out/set", "--vocab", "5"];
    let narrow = rebloom(folder.path(), &narrow);
    assert_eq!(narrow.status.code(), Some(1));
    let said = String::from_utf8(narrow.stderr).unwrap();
    assert!(
        said.contains("set.bin: tokens are outside the vocabulary of 5"),
        "{said}"
    );
    assert_eq!(
        refused(folder.path(), &["data", "verify", "out/other"]).0,
        3
    );
}

#[test]
fn sources_are_inspected_and_one_without_permission_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let listed = folder.path().join("sources.yaml");
    fs::write(folder.path().join("a.txt"), "born free and equal").unwrap();
    fs::write(folder.path().join("b.txt"), b"caf\xe9 noir").unwrap();
    let said = "licence: MIT, permission: ours, contact: me";
    let one =
        |name: &str| format!("  - {{name: {name}, path: {name}.txt, language: en, {said}}}\n");
    fs::write(&listed, format!("sources:\n{}{}", one("a"), one("b"))).unwrap();
    let inspect = [
        "data",
        "inspect",
        "sources.yaml",
        "--html",
        "page.html",
        "-o",
        "json",
    ];
    let inspected = rebloom(folder.path(), &inspect);
    assert!(inspected.status.success());
    let report: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(report["sources"][0]["all"]["documents"], 1);
    assert_eq!(report["sources"][1]["left_out"]["counts"]["not UTF-8"], 1);
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("born free and equal"));
    let without = fs::read_to_string(&listed)
        .unwrap()
        .replacen("permission: ours, ", "", 1);
    fs::write(&listed, without).unwrap();
    let build = [
        "data",
        "build",
        "--sources",
        "sources.yaml",
        "--prefix",
        "out/set",
    ];
    for command in [build.as_slice(), &inspect[..3]] {
        let (code, said) = refused(folder.path(), command);
        assert_eq!(code, 2, "{said}");
        assert!(
            said.contains("sources.yaml") && said.contains("source 1 (`a`) has no permission"),
            "{said}"
        );
    }
    assert!(!folder.path().join("out").exists());
    assert_eq!(refused(folder.path(), &["data", "inspect", "gone"]).0, 3);
}
