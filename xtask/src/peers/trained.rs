//! The whole way out: a small run is trained by eight ranks of a real cluster, its newest checkpoint is exported by name, and
//! transformers gives the same logits, loss and words.

use super::must;
use crate::checkout::{Checkout, spelled};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PROOF: &str = include_str!("trained.py");

const NAME: &str = "proof";
const STEPS: u64 = 160;
const SEQUENCE: u64 = 32;
/// Held-out samples.
const SAMPLES: u64 = 12;
/// Tokens that are written after each prompt.
const TOKENS: u64 = 24;
/// Several, since a small model soon repeats itself.
const PROMPTS: [&str; 6] = [
    "A run goes back to its newest",
    "| rule | what it sees |",
    "```\nrebloom",
    "The controller",
    "When a node is lost,",
    "Every checkpoint",
];
/// Steps, start-up and all, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// How far logits that are computed in bf16 may be from those in fp32, as a share of the largest: twice what was measured; see
/// trained.py for why it is no less.
const BF16: f64 = 1.0 / 64.0;
/// What it is trained on: prose of this project.
const TEXT: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "docs/operating.md",
    "docs/health.md",
    "docs/replay.md",
    "docs/run-spec.md",
];

/// Trains, exports, and lets transformers judge.
pub(super) fn prove(checkout: &Checkout, binaries: &Path, environment: &Path) -> Result<()> {
    let place = Place {
        folder: environment.join("trained"),
        binaries,
    };
    if place.folder.exists() {
        fs::remove_dir_all(&place.folder)
            .with_context(|| format!("cannot remove {}", place.folder.display()))?;
    }
    let dataset = place.dataset(checkout)?;
    let state = place.folder.join(".rebloom/cluster");
    fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
    let checkpoints = place.folder.join("checkpoints");
    write(&state.join("run.yaml"), &spec(&dataset, &checkpoints))?;
    println!("peers: training {STEPS} steps in TP 2 x PP 2 x DP 2");
    let mut up = place.rebloom(&["up", "--plain", "--keep", "--state"]);
    let log = fs::File::create(place.folder.join("up.log")).context("cannot make a log")?;
    up.arg(&state).stdout(log).stderr(Stdio::inherit());
    let mut cluster = Cluster(up.spawn().context("cannot start `rebloom up`")?);
    let run = place.completed(&mut cluster)?;
    let facts = place.facts(&run, &dataset, &checkpoints)?;
    let path = place.folder.join("facts.json");
    write(&path, &facts.to_string())?;
    let proof = environment.join("trained.py");
    write(&proof, PROOF)?;
    let mut judge = Command::new(environment.join("bin/python"));
    judge.arg(&proof).arg(&path);
    must(judge.envs([("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")]))
}

/// `rebloom up`, which ends all that it started when it is asked to.
struct Cluster(Child);

impl Drop for Cluster {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        drop(Command::new("kill").args(["-INT", &pid]).status());
        drop(self.0.wait());
    }
}

/// Where it all lies.
struct Place<'a> {
    folder: PathBuf,
    binaries: &'a Path,
}

impl Place<'_> {
    /// A command line of `rebloom`, which finds the cluster by the folder.
    fn rebloom(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.join("rebloom"));
        command.args(arguments).current_dir(&self.folder);
        command
    }

    /// What a command prints as JSON.
    fn said(command: &mut Command) -> Result<Value> {
        let line = spelled(command);
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot run `{line}`"))?;
        ensure!(
            output.status.success(),
            "`{line}` failed ({})",
            output.status
        );
        serde_json::from_slice(&output.stdout).with_context(|| format!("`{line}` printed no JSON"))
    }

    fn dataset(&self, checkout: &Checkout) -> Result<PathBuf> {
        let text = self.folder.join("text");
        fs::create_dir_all(&text).with_context(|| format!("cannot make {}", text.display()))?;
        for name in TEXT {
            let from = checkout.root.join(name);
            let read = fs::read_to_string(&from);
            let read = read.with_context(|| format!("cannot read {}", from.display()))?;
            write(&text.join(name.replace('/', "-") + ".txt"), &read)?;
        }
        let prefix = self.folder.join("words");
        let mut build = self.rebloom(&["data", "build", "--permission", "Apache-2.0", "--vocab"]);
        build.arg("1024").arg("--text").arg(&text);
        must(build.arg("--prefix").arg(&prefix))?;
        Ok(prefix)
    }

    /// Waits for the end of the run.
    fn completed(&self, cluster: &mut Cluster) -> Result<Value> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(ended) = cluster.0.try_wait().context("cannot wait")? {
                bail!("`rebloom up` ended with {ended}; its words are in up.log");
            }
            let mut get = self.rebloom(&["run", "get", NAME, "-o", "json"]);
            // Until the cluster is up there is nobody to answer.
            let output = get.output().context("cannot run rebloom")?;
            if output.status.success() {
                let run: Value = serde_json::from_slice(&output.stdout)?;
                match run["state"].as_str() {
                    Some("completed") => return Ok(run),
                    Some("failed" | "parked") => bail!("the run came to nothing: {run}"),
                    _ => {}
                }
            }
            sleep(Duration::from_millis(500));
        }
        bail!("the run was not done within {} s", PATIENCE.as_secs())
    }

    /// Exports the run and collects what Rebloom says of it, for trained.py.
    fn facts(&self, run: &Value, dataset: &Path, checkpoints: &Path) -> Result<Value> {
        let export = |dtype: &str| -> Result<PathBuf> {
            let to = self.folder.join(format!("export-{dtype}"));
            let mut export = self.rebloom(&["model", "export", NAME, "--license", "apache-2.0"]);
            export.args(["--dtype", dtype]).arg("--to").arg(&to);
            must(&mut export)?;
            Ok(to)
        };
        let (fp32, bf16) = (export("fp32")?, export("bf16")?);
        let newest = checkpoints
            .join(NAME)
            .join(format!("step-{STEPS:08}.g{}", run["generation"]));
        let read: Vec<u64> = (0..SEQUENCE).map(|at| (at * at + 7 * at) % 1024).collect();
        let logits = |from: &Path, name: &str| -> Result<PathBuf> {
            let to = self.folder.join(format!("{name}.safetensors"));
            let read: Vec<_> = read.iter().map(u64::to_string).collect();
            let mut logits = Command::new(self.binaries.join("rebloom-worker"));
            logits.arg("logits").arg("--from").arg(from);
            logits.args(["--read", &read.join(",")]);
            logits.arg("--to").arg(&to).env("RUST_LOG", "error");
            must(logits.stdout(Stdio::null()))?;
            Ok(to)
        };
        let tokens = TOKENS.to_string();
        let write = |which: &[&str], from: Option<&Path>| -> Result<Vec<Value>> {
            let written = PROMPTS.iter().map(|prompt| {
                let mut write = self.rebloom(&["generate"]);
                write.args(which).args(from);
                write.args(["--prompt", prompt, "--tokens", &tokens, "-o", "json"]);
                Ok(Self::said(&mut write)?["tokens"].clone())
            });
            written.collect()
        };
        let eval = Self::said(&mut self.rebloom(&["eval", NAME, "-o", "json"]))?;
        let last = run["evaluations"].as_array().and_then(|all| all.last());
        let gang = &last.context("the run was not evaluated")?[1];
        ensure!(
            gang["step"] == STEPS,
            "evaluated after step {}",
            gang["step"]
        );
        let score = &gang["scores"][0];
        let (nats, predicted) = (score["nats"].as_f64(), score["tokens"].as_f64());
        let loss = nats.zip(predicted).map(|(nats, tokens)| nats / tokens);
        let page = fs::read(self.folder.join("words.tokenizer.json"));
        let page: Value = serde_json::from_slice(&page.context("no tokenizer beside the data")?)?;
        let added = page["added_tokens"].as_array();
        let mut added = added.into_iter().flatten();
        let end = added.find(|token| token["content"] == "</s>");
        Ok(json!({
            "fp32": fp32,
            "bf16": bf16,
            "bf16_bound": BF16,
            "read": read,
            "logits": logits(&newest, "logits")?,
            "logits_bf16": logits(&bf16, "logits-bf16")?,
            "dataset": dataset,
            "samples": SAMPLES,
            "sequence": SEQUENCE,
            "loss_of_gang": loss.context("a score has no figures")?,
            "loss_of_eval": eval["scores"][0]["loss"],
            "prompts": PROMPTS,
            "tokens": TOKENS,
            "end": end.context("the tokenizer has no end of documents")?["id"],
            "written": write(&[NAME], None)?,
            "written_bf16": write(&["--from"], Some(&bf16))?,
        }))
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn spec(dataset: &Path, checkpoints: &Path) -> String {
    // JSON is YAML.
    let spec = json!({
        "name": NAME,
        "model": {"layers": 4, "hidden": 64, "heads": 4, "vocab": 1024, "sequence": SEQUENCE},
        "layout": {"tensor": 2, "pipeline": 2, "data": 2},
        "train": {
            "steps": STEPS, "global_batch": 16, "micro_batch": 2, "seed": 7,
            "optimizer": {"learning_rate": 0.01},
            "numerics": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
        },
        "data": {"prefix": dataset},
        "checkpoint": {"directory": checkpoints, "every_steps": 40, "keep": 2},
        "eval": {
            "every_steps": STEPS, "samples": SAMPLES,
            "sets": [{"name": "first", "prefix": dataset}],
        },
    });
    spec.to_string()
}
