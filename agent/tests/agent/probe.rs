//! The real NVML code against a library that answers as NVIDIA's does on a node with two GPUs.

use rebloom_agent::probe::gpus;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const LIBRARY: &str = r#"
#include <string.h>
typedef struct { int at; } device;
static device devices[2] = {{0}, {1}};
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned at, device **out) { *out = &devices[at]; return 0; }
int nvmlDeviceGetName(device *d, char *name, unsigned length) {
    if (d->at == BROKEN) return 15; /* GPU is lost */
    strncpy(name, d->at ? "NVIDIA A100-SXM4-80GB" : "NVIDIA H200", length);
    return 0;
}
"#;

fn library(folder: &Path, broken: i32) -> std::path::PathBuf {
    let (source, library) = (
        folder.join("nvml.c"),
        folder.join(format!("nvml{broken}.so")),
    );
    std::fs::write(&source, LIBRARY).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", &format!("-DBROKEN={broken}"), "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(status.success());
    library
}

#[test]
fn gpus_are_named_by_slot() {
    let folder = TempDir::new().unwrap();
    let library = library(folder.path(), -1);
    assert_eq!(
        gpus(Some(library.as_os_str()), folder.path()).unwrap(),
        ["NVIDIA H200", "NVIDIA A100-SXM4-80GB"]
    );
}

#[test]
fn a_node_with_a_gpu_that_does_not_answer_is_none_without_gpus() {
    let folder = TempDir::new().unwrap();
    let library = library(folder.path(), 0);
    let refused = gpus(Some(library.as_os_str()), folder.path()).unwrap_err();
    assert!(refused.contains("fell off the bus"), "{refused}");
}
