//! transformers beside PyTorch, and the proof that it opens what Rebloom writes.

use super::must;
use crate::checkout::Checkout;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
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

/// Writes the weights of each reference case as a folder, in one file and in several, and lets transformers open
/// both and predict.
pub(super) fn prove(checkout: &Checkout, environment: &Path) -> Result<()> {
    let work = environment.join("exports");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let proof = environment.join("opens.py");
    fs::write(&proof, PROOF).with_context(|| format!("cannot write {}", proof.display()))?;
    for case in CASES {
        let weights = checkout.root.join("tests/conformance").join(case);
        for most in ["30000", "5000000000"] {
            let folder = work.join(format!("{case}-{most}"));
            let mut convert = checkout.cargo([
                "run",
                "-q",
                "-p",
                "rebloom-worker",
                "--",
                "convert",
                "--from",
            ]);
            convert.arg(&weights).arg("--to").arg(&folder);
            must(convert.args(["--file-bytes", most]))?;
            let mut open = Command::new(environment.join("bin/python"));
            open.arg(&proof)
                .arg(&folder)
                .arg(&weights)
                .envs([("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")]);
            must(&mut open)?;
        }
    }
    Ok(())
}
