//! Compiles the shim against libtorch's headers and lets the binaries find libtorch where it lies.

use std::env;
use std::path::PathBuf;

const SOURCES: [&str; 3] = ["shim/group.cpp", "shim/train.cpp", "shim/waits.cpp"];

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
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .files(SOURCES)
        .include("shim")
        .include("shim/include")
        .flag(format!("-isystem{}", torch.join("include").display()))
        .flag(format!(
            "-isystem{}",
            torch.join("include/torch/csrc/api/include").display()
        ))
        .define("USE_C10D_GLOO", None)
        .define("USE_DISTRIBUTED", None)
        .opt_level(2)
        .debug(false)
        .compile("rebloom_shim");
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
