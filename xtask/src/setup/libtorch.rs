//! libtorch from PyTorch's wheel, with the two CUDA libraries that its CPU part links, and the headers that
//! the worker's CUDA part is compiled against.
//!
//! The wheels are unpacked side by side because `libtorch_cpu.so` finds its CUDA runtime by a
//! relative path. tch links every library it sees, so it sees only `view/`: a folder of links to
//! the headers and to the libraries of the CPU part.

use super::piece::{Piece, Pin, clear};
use super::{Python, say};
use crate::checkout::{spelled, status};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const TORCH: Piece = Piece {
    folder: "libtorch/torch",
    pins: &[Pin {
        project: "torch",
        version: "2.11.0",
        file: "torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        sha256: "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
        megabytes: 531,
    }],
    keep: &["torch/lib/", "torch/include/"],
    inner: "torch",
};

const NVIDIA: Piece = Piece {
    folder: "libtorch/nvidia",
    pins: &[
        Pin {
            project: "nvidia-cuda-runtime",
            version: "13.0.96",
            file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
            megabytes: 2,
        },
        Pin {
            project: "nvidia-cuda-cupti",
            version: "13.0.85",
            file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
            sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
            megabytes: 11,
        },
    ],
    keep: &["nvidia/"],
    inner: "nvidia",
};

/// What NCCL and CUDA declare, in the versions that PyTorch 2.11.0 names. Nothing of them is linked: where there
/// is a GPU, its own PyTorch has the libraries.
const HEADERS: Piece = Piece {
    folder: "libtorch/headers",
    pins: &[
        Pin {
            project: "nvidia-cuda-crt",
            version: "13.0.88",
            file: "nvidia_cuda_crt-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
            megabytes: 1,
        },
        Pin {
            project: "nvidia-cuda-cccl",
            version: "13.0.85",
            file: "nvidia_cuda_cccl-13.0.85-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
            megabytes: 3,
        },
        Pin {
            project: "nvidia-nccl-cu13",
            version: "2.28.9",
            file: "nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl",
            sha256: "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
            megabytes: 197,
        },
    ],
    keep: &["nvidia/cu13/include/", "nvidia/nccl/include/"],
    inner: "nvidia",
};

/// Installs libtorch and its view.
pub(super) fn install(home: &Path) -> Result<()> {
    for piece in [&NVIDIA, &HEADERS, &TORCH] {
        if !piece.is_there(home) {
            let python = Python::find(home)?;
            piece.install(home, &python, |pin, folder| wheel(&python, pin, folder))?;
        }
    }
    view(home)
}

/// Downloads one wheel for the platform that libtorch is pinned for, whatever runs pip.
pub(super) fn wheel(python: &Python, pin: &Pin, folder: &Path) -> Result<()> {
    let mut pip = python.pip(["download", "--no-deps", "--only-binary=:all:"]);
    pip.args(["--python-version", "3.11", "--implementation", "cp"]);
    for platform in ["2_28", "2_25", "2_18", "2_17"] {
        pip.args(["--platform", &format!("manylinux_{platform}_x86_64")]);
    }
    pip.args(["--platform", "manylinux2014_x86_64", "--dest"])
        .arg(folder);
    pip.arg(format!("{}=={}", pin.project, pin.version));
    let ended = status(&mut pip)?;
    if !ended.success() {
        bail!("`{}` failed ({ended})", spelled(&pip));
    }
    Ok(())
}

/// What the view holds: names and what they point to, relative to it.
fn links(home: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let libraries = TORCH.path(home).join("lib");
    let mut links = vec![("include".into(), "../torch/include".into())];
    let mut needed = vec![
        "libtorch.so".to_owned(),
        "libtorch_cpu.so".to_owned(),
        "libc10.so".to_owned(),
    ];
    let listed =
        fs::read_dir(&libraries).with_context(|| format!("cannot list {}", libraries.display()))?;
    for entry in listed {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("libgomp") {
            needed.push(name);
        }
    }
    for name in needed {
        if !libraries.join(&name).exists() {
            bail!(
                "{} has no {name}; remove it and repeat this command",
                libraries.display()
            );
        }
        links.push((
            Path::new("lib").join(&name),
            Path::new("../../torch/lib").join(&name),
        ));
    }
    Ok(links)
}

fn view(home: &Path) -> Result<()> {
    let links = links(home)?;
    let view = home.join("libtorch/view");
    if links
        .iter()
        .all(|(name, to)| fs::read_link(view.join(name)).is_ok_and(|found| found == *to))
    {
        return Ok(());
    }
    let aside = home.join("libtorch/view.new");
    clear(&aside)?;
    fs::create_dir_all(aside.join("lib"))
        .with_context(|| format!("cannot make {}", aside.display()))?;
    for (name, to) in &links {
        symlink(to, aside.join(name))
            .with_context(|| format!("cannot link {}", aside.join(name).display()))?;
    }
    clear(&view)?;
    fs::rename(&aside, &view).with_context(|| format!("cannot move {}", view.display()))?;
    say(&format!("{} is in place", view.display()));
    Ok(())
}
