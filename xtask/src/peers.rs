//! What is compared with: PyTorch's `torchrun`, with Gloo on the CPU, and transformers, in an environment
//! of their own.
//!
//! PyTorch's wheel links three gigabytes of CUDA libraries that a CPU run never calls. Instead of
//! those, one small library stands in under all their names; each of its functions ends the process,
//! so a call to one could not go unnoticed.

mod cuda;
mod trained;
mod transformers;

use crate::checkout::{Checkout, spelled, status};
use crate::setup::{self, Python};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Everything that `import torch` and `torchrun` need on a CPU.
const PACKAGES: [&str; 11] = [
    "torch==2.11.0",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cupti==13.0.85",
    "filelock==3.20.0",
    "fsspec==2025.9.0",
    "jinja2==3.1.6",
    "markupsafe==3.0.3",
    "mpmath==1.3.0",
    "networkx==3.4.2",
    "sympy==1.14.0",
    "typing-extensions==4.15.0",
];

/// The CUDA libraries that are stood in for.
const ABSENT: [&str; 10] = [
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcudnn.so.9",
    "libcufft.so.12",
    "libcufile.so.0",
    "libcurand.so.10",
    "libcusparse.so.12",
    "libcusparseLt.so.0",
    "libnccl.so.2",
    "libnvshmem_host.so.3",
];

/// How their functions begin.
const FAMILIES: [&str; 9] = [
    "cublas", "cudnn", "cufft", "cuFile", "curand", "cusolver", "cusparse", "nccl", "nvshmem",
];

/// The libraries of PyTorch that ask for them.
const ASKING: [&str; 3] = [
    "libtorch_cuda.so",
    "libtorch_nvshmem.so",
    "libtorch_python.so",
];

const PROOF: &str = include_str!("peers/proof.py");

/// Installs PyTorch and transformers, and proves that two ranks under torchrun can talk.
pub(crate) fn run(checkout: &Checkout) -> Result<ExitCode> {
    let home = checkout.installed();
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let _held = setup::hold(&home)?;
    let environment = environment(&home);
    let marker = environment.join(".pinned");
    let pinned = PACKAGES.join("\n") + "\n";
    if !fs::read_to_string(&marker).is_ok_and(|text| text == pinned) {
        pytorch(&home, &environment)?;
        fs::write(&marker, pinned).with_context(|| format!("cannot write {}", marker.display()))?;
    }
    transformers::install(&environment)?;
    println!("peers: {} is in place", environment.display());
    Ok(ExitCode::SUCCESS)
}

/// Proves that transformers opens what Rebloom exports, with the binaries in this folder.
pub(crate) fn prove(checkout: &Checkout, binaries: &Path) -> Result<ExitCode> {
    let home = checkout.installed();
    let _held = setup::hold(&home)?;
    let environment = environment(&home);
    transformers::prove(checkout, binaries, &environment)?;
    trained::prove(checkout, binaries, &environment)?;
    Ok(ExitCode::SUCCESS)
}

fn environment(home: &Path) -> PathBuf {
    home.join("peers")
}

/// Installs PyTorch with CUDA, and transformers; answers the Python that has them.
pub(crate) fn on_gpu(checkout: &Checkout) -> Result<PathBuf> {
    cuda::install(checkout)
}

/// Installs PyTorch and lets two ranks under torchrun talk.
fn pytorch(home: &Path, environment: &Path) -> Result<()> {
    let python = environment.join("bin/python");
    if !python.exists() {
        must(
            Python::find(home)?
                .command()
                .args(["-m", "venv", "--clear"])
                .arg(environment),
        )?;
    }
    println!("peers: installing PyTorch 2.11.0 (531 MB)");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--no-deps",
    ])
    .args(PACKAGES);
    must(&mut pip).context("PyTorch cannot be installed; is there a network?")?;
    stand_in(environment)?;
    println!("peers: two ranks under torchrun");
    let proof = environment.join("proof.py");
    fs::write(&proof, PROOF).with_context(|| format!("cannot write {}", proof.display()))?;
    let mut torchrun = Command::new(environment.join("bin/torchrun"));
    torchrun
        .args(["--standalone", "--nproc-per-node=2"])
        .arg(&proof)
        .env("OMP_NUM_THREADS", "1");
    must(&mut torchrun)
}

fn must(command: &mut Command) -> Result<()> {
    let ended = status(command)?;
    if !ended.success() {
        bail!("`{}` failed ({ended})", spelled(command));
    }
    Ok(())
}

/// Builds the library that stands in, where PyTorch's own search path finds it.
fn stand_in(environment: &Path) -> Result<()> {
    let packages = packages(environment)?;
    let mut names = BTreeSet::new();
    for library in ASKING {
        let path = packages.join("torch/lib").join(library);
        let output = Command::new("nm")
            .args(["-D", "--undefined-only"])
            .arg(&path)
            .output();
        let output = output.context("cannot run nm (it comes with the C++ compiler)")?;
        if !output.status.success() {
            bail!(
                "nm cannot read {}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        names.extend(asked_for(&String::from_utf8_lossy(&output.stdout)));
    }
    let folder = packages.join("nvidia/cu13/lib");
    let (source, library) = (folder.join("absent.c"), folder.join("libabsent.so"));
    let functions: String = names
        .iter()
        .map(|name| format!("void {name}(void) {{ abort(); }}\n"))
        .collect();
    fs::write(&source, format!("#include <stdlib.h>\n{functions}"))
        .with_context(|| format!("cannot write {}", source.display()))?;
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    must(
        Command::new(compiler)
            .args(["-x", "c", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source),
    )?;
    for name in ABSENT {
        match symlink("libabsent.so", folder.join(name)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot link {name}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where pip put the packages: `lib/python3.X/site-packages`.
fn packages(environment: &Path) -> Result<PathBuf> {
    let lib = environment.join("lib");
    let versions = fs::read_dir(&lib).with_context(|| format!("cannot list {}", lib.display()))?;
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("site-packages")));
    let mut holding = folders.filter(|folder| folder.join("torch/lib").exists());
    holding
        .next()
        .with_context(|| format!("{} holds no PyTorch", lib.display()))
}

/// The functions of the absent libraries in what `nm` prints.
fn asked_for(listing: &str) -> impl Iterator<Item = String> + '_ {
    let names = listing
        .lines()
        .filter_map(|line| line.trim().strip_prefix("U ")?.split('@').next());
    names
        .filter(|name| FAMILIES.iter().any(|family| name.starts_with(family)))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_functions_of_absent_libraries_are_stood_in_for() {
        let listing = "                 U cublasCreate_v2@libcublas.so.13\n\
            \x20                U _ZN2at4_ops10_cudnn_rnn4callE\n\
            \x20                U ncclCommAbort\n                 w ncclWeak\n                 U cudaMalloc@libcudart.so.13\n";
        assert_eq!(
            asked_for(listing).collect::<Vec<_>>(),
            ["cublasCreate_v2", "ncclCommAbort"]
        );
    }
}
