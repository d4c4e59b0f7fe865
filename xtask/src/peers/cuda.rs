//! PyTorch and transformers on a machine with a GPU: the CUDA libraries themselves, and what torch.compile needs.

use super::{PACKAGES, must, transformers};
use crate::checkout::Checkout;
use crate::setup::{self, Python};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What PyTorch 2.11.0 names beside the two that its CPU part needs.
const CUDA: [&str; 17] = [
    "cuda-bindings==13.0.3",
    "cuda-pathfinder==1.3.3",
    "nvidia-cublas==13.1.0.3",
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cudnn-cu13==9.19.0.56",
    "nvidia-cufft==12.0.0.61",
    "nvidia-cufile==1.15.1.6",
    "nvidia-curand==10.4.0.35",
    "nvidia-cusolver==12.0.4.66",
    "nvidia-cusparse==12.6.3.3",
    "nvidia-cusparselt-cu13==0.8.0",
    "nvidia-nccl-cu13==2.28.9",
    "nvidia-nvjitlink==13.0.88",
    "nvidia-nvshmem-cu13==3.4.5",
    "nvidia-nvtx==13.0.85",
    "setuptools==80.9.0",
    "triton==3.6.0",
];

/// Installs them into an environment of their own; answers its Python.
pub(super) fn install(checkout: &Checkout) -> Result<PathBuf> {
    let home = checkout.installed();
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let _held = setup::hold(&home)?;
    let environment = home.join("gpu");
    let python = environment.join("bin/python");
    let marker = environment.join(".pinned");
    let pinned = [&PACKAGES[..], &CUDA].concat().join("\n") + "\n";
    if !fs::read_to_string(&marker).is_ok_and(|text| text == pinned) {
        if !python.exists() {
            must(
                Python::find(&home)?
                    .command()
                    .args(["-m", "venv", "--clear"])
                    .arg(&environment),
            )?;
        }
        println!("gpu: installing PyTorch 2.11.0 with CUDA (2.7 GB)");
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "--disable-pip-version-check", "install"])
            .arg("--no-deps")
            .args(PACKAGES)
            .args(CUDA);
        must(&mut pip).context("PyTorch cannot be installed; is there a network?")?;
        fs::write(&marker, pinned).with_context(|| format!("cannot write {}", marker.display()))?;
    }
    transformers::install(&environment)?;
    Ok(python)
}
