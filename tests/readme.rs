//! The way of a model in and out, as README.md shows it: its commands and its run spec are read from there, and only names of
//! places and sizes are put in that suit this machine.

use anyhow::{Context, Result, ensure};
use rebloom_core::engine::RunState;
use rebloom_core::id::RunId;
use rebloom_core::layout::Layout;
use rebloom_tests::cluster::{Cluster, PATIENCE};
use rebloom_tests::process::{Process, binary};
use rebloom_tests::training::EVERY;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const README: &str = include_str!("../README.md");
const VOCAB: u32 = 320;

/// The first block of this language behind a heading.
fn block(heading: &str, language: &str) -> Result<&'static str> {
    let (_, behind) = README.split_once(heading).context("the heading")?;
    let fence = format!("\n```{language}\n");
    let (_, behind) = behind.split_once(&fence).context("a block")?;
    let (block, _) = behind.split_once("\n```").context("its end")?;
    Ok(block)
}

/// A command of README.md in words, without its remark.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" # ").next().unwrap_or(line);
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.trim().chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            letter => words.last_mut().expect("there is one").push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

struct Walk {
    cluster: Cluster,
    folder: PathBuf,
}

impl Walk {
    /// The command, in the folder of this walk and for its cluster.
    fn command(&self, arguments: &[String]) -> Result<Command> {
        let mut command = Command::new(binary("rebloom")?);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("REBLOOM_CONTROLLER", self.cluster.address.to_string())
            .env("REBLOOM_TLS", self.cluster.folder().join("tls"));
        Ok(command)
    }

    /// What README.md names, where it is here.
    fn here(&self, text: &str) -> String {
        let folder = self.folder.display().to_string();
        text.replace("~/", &format!("{folder}/"))
            .replace("/shared/", &format!("{folder}/shared/"))
    }

    fn rebloom(&self, line: &str) -> Result<String> {
        let line = self.here(line);
        let words = words(line.strip_prefix("rebloom ").unwrap_or(&line));
        let output = self.command(&words)?.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{line}: {said}{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.cluster.logs()
        );
        Ok(said)
    }

    fn json(&self, line: &str) -> Result<Value> {
        let (line, _) = line.split_once(" # ").unwrap_or((line, ""));
        Ok(serde_json::from_str(
            &self.rebloom(&format!("{} -o json", line.trim()))?,
        )?)
    }

    /// Text, and the folder of a model that knows its words: as if it had been downloaded.
    fn prepare(&self) -> Result<()> {
        let text = self.folder.join("text");
        fs::create_dir_all(&text)?;
        let readme = README.split("\n\n").filter(|part| part.len() > 80);
        for (at, part) in readme.enumerate() {
            fs::write(text.join(format!("{at:03}.txt")), part)?;
        }
        let held = self.folder.join("held-out");
        fs::create_dir_all(held.join("sw"))?;
        fs::write(
            held.join("fr.txt"),
            "Tous les \u{ea}tres humains naissent libres.",
        )?;
        fs::write(held.join("sw/a.txt"), "Watu wote wamezaliwa huru.")?;
        let sources = "sources:\n  - {name: readme, path: text, language: en, licence: Apache-2.0, \
                       permission: of this project, contact: the project}\n";
        fs::write(self.folder.join("sources.yaml"), sources)?;
        self.rebloom(&format!(
            "rebloom data build --text text --permission ours --prefix first --vocab {VOCAB}"
        ))?;
        let mut spec = self.cluster.spec("first")?;
        spec.model.vocab = VOCAB;
        spec.layout = Layout {
            tensor: 1,
            pipeline: 1,
            data: 1,
        };
        spec.train.steps = EVERY;
        spec.data.prefix = self.folder.join("first").display().to_string();
        let run = self.cluster.submit(&spec)?;
        self.cluster.until_completed(&run)?;
        self.rebloom("rebloom model export first --to ~/bloom-560m --license apache-2.0")?;
        Ok(())
    }

    /// The spec of README.md, with the lines that the import printed and sizes for a test.
    fn spec(&self, printed: &str) -> Result<String> {
        let mut spec = self.here(block("## Models in and out", "yaml")?);
        let (_, printed) = printed.split_once("\ninit:").context("it prints lines")?;
        let (printed, _) = printed.split_once("\n\n").context("they end")?;
        let lines: Vec<&str> = spec.lines().collect();
        let kept = lines
            .into_iter()
            .filter(|line| !line.starts_with("init:") && !line.starts_with("model:"));
        spec = kept.collect::<Vec<_>>().join("\n") + "\ninit:" + printed + "\n";
        for (large, small) in [
            ("steps: 20000", "steps: 30"),
            ("global_batch: 256", "global_batch: 8"),
            ("every_steps: 1000", "every_steps: 10"),
            ("every_steps: 500", "every_steps: 5"),
            ("keep: 3", "keep: 100"),
        ] {
            ensure!(spec.contains(large), "README.md has no `{large}`");
            spec = spec.replace(large, small);
        }
        Ok(spec)
    }
}

#[test]
fn a_model_goes_in_and_out_as_the_readme_says() -> Result<()> {
    let cluster = Cluster::start(4)?;
    let folder = cluster.folder().join("walk");
    fs::create_dir_all(folder.join("shared"))?;
    let walk = Walk { cluster, folder };
    walk.prepare()?;
    let way = block("## Models in and out", "")?.replace("\\\n", "");
    let mut lines = way.lines().filter(|line| !line.trim().is_empty());
    let mut next = |what: &str| {
        let line = lines.next().unwrap_or_default();
        ensure!(line.starts_with(what), "README.md has `{line}`, not {what}");
        Ok(line)
    };

    let printed = walk.rebloom(next("rebloom model import")?)?;
    walk.rebloom(next("rebloom data build --sources")?)?;
    fs::write(walk.folder.join("run.yaml"), walk.spec(&printed)?)?;

    // It is watched until it stops, and goes on in another layout.
    let submit = words(next("rebloom run submit run.yaml --watch")?);
    let log = walk.folder.join("submit.log");
    let mut watching = Process::start(walk.command(&submit[1..])?, &log)?;
    let run = RunId::new("night-run")?;
    walk.cluster.until_step(&run, EVERY + 2)?;
    walk.rebloom("rebloom run stop night-run")?;
    let code = watching.wait(PATIENCE)?;
    ensure!(code == Some(0), "{code:?}: {}", fs::read_to_string(&log)?);
    let stopped = walk.cluster.run(&run)?;
    ensure!(stopped.state == RunState::Stopped, "{}", stopped.why);
    walk.rebloom(next("rebloom run resume night-run --layout 2x1x4")?)?;
    let end = walk.cluster.until_completed(&run)?;
    let wanted = Layout {
        tensor: 2,
        pipeline: 1,
        data: 4,
    };
    ensure!(end.spec.layout == wanted, "{}", end.spec.layout);
    ensure!(end.incidents.is_empty(), "{:#?}", end.incidents);
    let loss = |at: usize| end.evaluations.get(at).map(|(_, it)| it.scores[0].loss());
    ensure!(loss(2) < loss(0), "it learned: {:?}", end.evaluations);

    let written = walk.json(next("rebloom generate night-run")?)?;
    ensure!(written["prompt"] == "All human beings", "{written}");
    let text = walk.json(next("rebloom eval night-run --text held-out")?)?;
    let scores = text["scores"].as_array().context("scores")?;
    let sets: Vec<_> = scores.iter().map(|score| score["set"].as_str()).collect();
    ensure!(sets[..2] == [Some("fr"), Some("sw")], "{text}");
    let own = walk.json(next("rebloom eval night-run")?)?;
    let alone = own["scores"][0]["loss"].as_f64().context("a loss")?;
    let gang = loss(2).context("an evaluation")?;
    ensure!((alone - gang).abs() < 1e-5, "{alone} and {gang}");
    walk.rebloom(next("rebloom model export night-run")?)?;
    let export = walk.folder.join("night-run-hf");
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    ] {
        ensure!(export.join(file).exists(), "{file} is missing");
    }
    is_the_run(&walk, &export)
}

/// What came out goes in again, and predicts as the run does.
fn is_the_run(walk: &Walk, export: &Path) -> Result<()> {
    let ask = |which: &str| {
        walk.json(&format!(
            "rebloom generate {which} --prompt 'All human beings' --tokens 12"
        ))
    };
    let out = ask(&format!("--from {}", export.display()))?;
    let run = ask("night-run")?;
    ensure!(out["text"] == run["text"], "{out} and {run}");
    Ok(())
}
