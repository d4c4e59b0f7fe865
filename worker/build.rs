//! Compiles the shim against libtorch's headers and lets the binaries find libtorch where it lies.
//!
//! What needs CUDA's headers becomes an object of its own, which the worker loads where there is a GPU; so one
//! binary runs on every machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

const SOURCES: [&str; 6] = [
    "shim/attention.cpp",
    "shim/device.cpp",
    "shim/group.cpp",
    "shim/pointwise.cpp",
    "shim/train.cpp",
    "shim/waits.cpp",
];
/// The object that is loaded, and its source.
const CUDA_PART: (&str, &str) = ("librebloom_cuda.so", "shim/cuda.cpp");

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(torch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        panic!("LIBTORCH is not set: run `cargo xtask setup`, or point it at a libtorch 2.11");
    };
    // The folder that LIBTORCH names may hold links; the real library finds its own dependencies
    // beside itself.
    let library = torch.join("lib/libtorch_cpu.so");
    let library = library.canonicalize().unwrap_or_else(|error| {
        panic!(
            "{} cannot be read: {error}; run `cargo xtask setup`",
            library.display()
        )
    });
    let folder = library.parent().expect("a file lies in a folder");
    // Beside the others: it takes as long as all of them.
    let (mut command, cuda_part) = cuda_part(&torch, folder);
    let compiling = command.spawn();
    shim(&torch).files(SOURCES).compile("rebloom_shim");
    let ended = compiling.and_then(|mut child| child.wait());
    assert!(
        ended.as_ref().is_ok_and(ExitStatus::success),
        "{command:?}: {ended:?}"
    );
    println!("cargo:rustc-env=REBLOOM_CUDA_PART={}", cuda_part.display());
    println!(
        "cargo:rustc-link-search=native={}",
        torch.join("lib").display()
    );
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    // DT_RPATH, not DT_RUNPATH: it also holds for what libtorch_cpu itself needs.
    println!(
        "cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{}",
        folder.display()
    );
}

fn shim(torch: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .include("shim")
        .include("shim/include")
        .flag(system(&torch.join("include")))
        .flag(system(&torch.join("include/torch/csrc/api/include")))
        .define("USE_C10D_GLOO", None)
        .define("USE_DISTRIBUTED", None)
        .opt_level(3)
        // Nobody asks how a number came about, and loops over them need it not to matter.
        .flag_if_supported("-fno-math-errno")
        .flag_if_supported("-fno-trapping-math")
        .debug(false);
    build
}

fn system(folder: &Path) -> String {
    format!("-isystem{}", folder.display())
}

/// How the object is compiled, and where it then lies. It names functions of libtorch_cuda that are found when it
/// is loaded, and not before.
fn cuda_part(torch: &Path, libraries: &Path) -> (Command, PathBuf) {
    let beside = libraries.join("../..");
    // Where set-up puts them, and where the packages that PyTorch itself depends on have theirs.
    let headers = ["headers", "nvidia"].map(|name| beside.join(name));
    let headers: Vec<_> = headers
        .iter()
        .flat_map(|folder| [folder.join("nccl/include"), folder.join("cu13/include")])
        .filter(|folder| folder.is_dir())
        .collect();
    for needed in ["nccl.h", "cuda_runtime_api.h", "crt/host_defines.h"] {
        if !headers.iter().any(|folder| folder.join(needed).exists()) {
            panic!(
                "{needed} is missing beside {}: run `cargo xtask setup`",
                libraries.display()
            );
        }
    }
    let (name, source) = CUDA_PART;
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names it")).join(name);
    let mut build = shim(torch);
    build
        .include("shim/include/cuda")
        .define("USE_C10D_NCCL", None)
        .pic(true);
    for folder in &headers {
        build.flag(system(folder));
    }
    let mut command = build.get_compiler().to_command();
    command.arg(source).args(["-shared", "-o"]).arg(&out);
    (command, out)
}
