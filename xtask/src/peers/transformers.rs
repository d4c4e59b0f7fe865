//! transformers beside PyTorch, and the proof that it opens what Rebloom writes.

use super::must;
use crate::checkout::Checkout;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that `import transformers` needs beside PyTorch.
const PACKAGES: [&str; 28] = [
    "transformers==5.23.0",
    "annotated-doc==0.0.7",
    "annotated-types==0.8.0",
    "anyio==4.16.0",
    "click==8.5.1",
    "h11==0.16.0",
    "hf-xet==1.8.0",
    "httpcore2==2.16.2",
    "httpx2==2.16.2",
    "huggingface-hub==2.4.0",
    "idna==3.20",
    "markdown-it-py==4.3.0",
    "mdurl==0.1.2",
    "numpy==2.4.6",
    "packaging==26.3",
    "pydantic==2.14.3",
    "pydantic-core==2.50.4",
    "pygments==2.21.0",
    "pyyaml==6.0.3",
    "regex==2026.11.15",
    "rich==15.0.0",
    "safetensors==0.8.0",
    "shellingham==1.5.4",
    "tokenizers==0.23.3",
    "tqdm==4.70.1",
    "truststore==0.10.5",
    "typer==0.29.2",
    "typing-inspection==0.4.5",
];

/// The reference cases whose weights go out and are opened again.
const CASES: [&str; 3] = ["bloom-4l-4h", "bloom-2l-6h", "bloom-2l-12h-post"];

const PROOF: &str = include_str!("opens.py");

/// Installs transformers into the environment that holds PyTorch, once.
pub(super) fn install(environment: &Path) -> Result<()> {
    let marker = environment.join(".pinned-transformers");
    let pinned = PACKAGES.join("\n") + "\n";
    if fs::read_to_string(&marker).is_ok_and(|text| text == pinned) {
        return Ok(());
    }
    println!("peers: installing transformers 5.23.0 (45 MB)");
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--no-deps",
    ])
    .args(PACKAGES);
    must(&mut pip).context("transformers cannot be installed; is there a network?")?;
    fs::write(&marker, pinned).with_context(|| format!("cannot write {}", marker.display()))
}

/// Text of a few scripts, a document a line.
const TEXT: &str = "All human beings are born free and equal in dignity and rights.\n\
    Tous les \u{ea}tres humains naissent libres et \u{e9}gaux en dignit\u{e9} et en droits.\n\
    \u{4eba}\u{4eba}\u{751f}\u{800c}\u{81ea}\u{7531}\u{ff0c}\u{5728}\u{5c0a}\u{56b4}\u{548c}\u{6b0a}\u{5229}\u{4e0a}\u{4e00}\u{5f8b}\u{5e73}\u{7b49} \u{1f54a}\n";

/// Writes the weights of each reference case as a folder, in one file and in several, in fp32 and in bf16, with a
/// tokenizer; lets transformers open each, predict and spell; and takes back what transformers wrote of it.
pub(super) fn prove(checkout: &Checkout, binaries: &Path, environment: &Path) -> Result<()> {
    let work = environment.join("exports");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let proof = environment.join("opens.py");
    fs::write(&proof, PROOF).with_context(|| format!("cannot write {}", proof.display()))?;
    let dataset = spelled_text(&binaries.join("rebloom"), &work)?;
    for case in CASES {
        let weights = checkout.root.join("tests/conformance").join(case);
        for (dtype, most) in [
            ("fp32", "30000"),
            ("fp32", "5000000000"),
            ("bf16", "5000000000"),
        ] {
            let folder = work.join(format!("{case}-{dtype}-{most}"));
            let convert = |from: &Path, to: &Path| {
                let mut convert = Command::new(binaries.join("rebloom-worker"));
                convert.arg("convert").arg("--from").arg(from);
                convert.arg("--to").arg(to).args(["--dtype", dtype]);
                convert.arg("--tokenizer");
                convert.arg(dataset.with_extension("tokenizer.json"));
                must(convert.args(["--file-bytes", most]))
            };
            convert(&weights, &folder)?;
            let mut open = Command::new(environment.join("bin/python"));
            open.arg(&proof)
                .arg(&folder)
                .arg(&weights)
                .arg(dtype)
                .arg(&dataset)
                .envs([("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")]);
            must(&mut open)?;
            let (theirs, back) = (beside(&folder, "-back"), beside(&folder, "-again"));
            convert(&theirs, &back)?;
            for file in files(&folder)? {
                let bytes = |folder: &Path| {
                    let path = folder.join(&file);
                    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
                };
                ensure!(
                    bytes(&folder)? == bytes(&back)?,
                    "{file} is another after it went through transformers"
                );
            }
        }
    }
    println!("peers: what transformers wrote came back to the bit");
    Ok(())
}

/// Files with weights in a folder.
fn files(folder: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names
        .filter(|name| name.ends_with(".safetensors"))
        .collect())
}

fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut path = folder.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Puts [`TEXT`] into the words of a tokenizer that is made of it; answers the path of both without their endings.
fn spelled_text(rebloom: &Path, work: &Path) -> Result<PathBuf> {
    let (folder, dataset) = (work.join("text"), work.join("text-words"));
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (at, line) in TEXT.lines().enumerate() {
        let path = folder.join(format!("{at}.txt"));
        fs::write(&path, line).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let path = dataset.with_extension("txt");
    fs::write(&path, TEXT).with_context(|| format!("cannot write {}", path.display()))?;
    let mut build = Command::new(rebloom);
    build.args(["data", "build", "--permission", "public domain", "--text"]);
    build.arg(&folder).arg("--prefix").arg(&dataset);
    must(build.args(["--vocab", "320"]))?;
    Ok(dataset)
}
