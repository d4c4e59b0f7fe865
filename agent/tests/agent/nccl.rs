//! Which NCCL a worker would load: a program and libraries that lie as PyTorch's do, and do nothing.

use rebloom_agent::nccl;
use rebloom_core::ladder::gate::Nccl;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Builds one of them from a line of C.
fn build(file: &Path, source: &str, flags: &[String]) {
    let folder = file.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let code = folder.join("source.c");
    std::fs::write(&code, source).unwrap();
    let mut command = Command::new("cc");
    command
        .arg("-Wl,--no-as-needed")
        .arg("-o")
        .arg(file)
        .arg(&code);
    let status = command.args(flags).status().unwrap();
    assert!(status.success(), "{command:?}");
}

/// A worker whose libtorch is that of a Python's packages, behind a link; it says that it ran.
fn worker(root: &TempDir, nccl: &str) -> std::path::PathBuf {
    let at = |path: &str| root.path().join(path);
    let shared = |name| {
        vec![
            "-shared".to_owned(),
            "-fPIC".to_owned(),
            format!("-Wl,-soname,{name}"),
        ]
    };
    let library = at("site/nvidia/nccl/lib/libnccl.so.2");
    let text = format!("const char version[] = \"{nccl}\";");
    build(&library, &text, &shared("libnccl.so.2"));
    let torch = at("site/torch/lib");
    build(
        &torch.join("libtorch_cpu.so"),
        "int torch;",
        &shared("libtorch_cpu.so"),
    );
    let mut cuda = shared("libtorch_cuda.so");
    cuda.push(library.display().to_string());
    cuda.push("-Wl,-rpath,$ORIGIN/../../nvidia/nccl/lib".to_owned());
    build(&torch.join("libtorch_cuda.so"), "int cuda;", &cuda);
    let view = at("view");
    std::fs::create_dir(&view).unwrap();
    std::os::unix::fs::symlink(torch.join("libtorch_cpu.so"), view.join("libtorch_cpu.so"))
        .unwrap();
    let worker = at("rebloom-worker");
    let ran = at("ran").display().to_string();
    let source =
        format!("#include <stdio.h>\nint main(void) {{ fopen(\"{ran}\", \"w\"); return 0; }}");
    let flags = [
        format!("-L{}", view.display()),
        "-ltorch_cpu".to_owned(),
        format!("-Wl,-rpath,{}", view.display()),
    ];
    build(&worker, &source, &flags);
    worker
}

#[test]
fn the_nccl_that_a_worker_would_load_says_its_version() {
    let root = TempDir::new().unwrap();
    let worker = worker(&root, "NCCL version 2.28.9+cuda13.0");
    assert_eq!(nccl::of(&worker), Some(Nccl(2, 28, 9)));
    assert!(!root.path().join("ran").exists(), "the worker was run");
    // What a worker cannot load has no version.
    std::fs::remove_file(root.path().join("site/nvidia/nccl/lib/libnccl.so.2")).unwrap();
    assert_eq!(nccl::of(&worker), None);
    std::fs::remove_file(root.path().join("site/torch/lib/libtorch_cuda.so")).unwrap();
    assert_eq!(nccl::of(&worker), None);
}

#[test]
fn a_worker_without_libtorch_or_a_library_without_a_version_says_none() {
    let root = TempDir::new().unwrap();
    assert_eq!(nccl::of(&worker(&root, "no version")), None);
    assert_eq!(nccl::of(Path::new("/bin/sh")), None);
    assert_eq!(nccl::of(Path::new("/nowhere/rebloom-worker")), None);
}
