//! What the node is: host name, cores, memory and, where NVIDIA's library is there, its GPUs.
//!
//! Read once, at the start. That there is no such library is a fact about the node, not an error, unless the
//! node shows GPUs all the same: then it is its driver that fails.

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use rebloom_core::id::NodeId;
use rebloom_core::labels::Labels;
use rebloom_core::ladder::gate::Nccl;
use rebloom_core::report::NodeFacts;
use std::ffi::OsStr;
use std::fs::{read_dir, read_to_string};
use std::path::Path;
use sysinfo::System;

/// NVIDIA's number on the PCI bus.
const NVIDIA: &str = "0x10de";
/// Start of the class of display devices on the PCI bus, graphics or not.
const DISPLAY: &str = "0x03";

/// Names of the node's GPUs, by slot. `library` replaces the name under which NVML is looked for, `root` is the
/// root of the file system. An error where the node has GPUs that NVML cannot name.
pub fn gpus(library: Option<&OsStr>, root: &Path) -> Result<Vec<String>, String> {
    let mut builder = Nvml::builder();
    if let Some(library) = library {
        builder.lib_path(library);
    }
    let names = builder.init().and_then(|nvml| {
        (0..nvml.device_count()?)
            .map(|slot| nvml.device_by_index(slot)?.name())
            .collect()
    });
    // A driver that is loaded and fails has something to drive.
    let is_driven = names.as_ref().is_err_and(|error| {
        !matches!(
            error,
            NvmlError::LibloadingError(_) | NvmlError::DriverNotLoaded
        )
    });
    let shown = shown(root).or(is_driven.then_some("their driver"));
    known(names.map_err(|error| error.to_string()), shown)
}

/// Which GPUs a node has, by what NVML and the system say.
fn known(
    named: Result<Vec<String>, String>,
    shown: Option<&'static str>,
) -> Result<Vec<String>, String> {
    let why = match (named, shown) {
        (Ok(names), None) => return Ok(names),
        (Ok(names), Some(_)) if !names.is_empty() => return Ok(names),
        (Err(_), None) => return Ok(Vec::new()),
        (Ok(_), Some(_)) => "it lists none".to_owned(),
        (Err(error), Some(_)) => error,
    };
    let shown = shown.unwrap_or_default();
    Err(format!(
        "this node has GPUs of NVIDIA by {shown}, but NVML cannot name them: {why}; mend the driver, or give \
         --slots N to run N ranks on its CPU"
    ))
}

/// Where a node shows that it has GPUs of NVIDIA, whether or not their driver answers.
fn shown(root: &Path) -> Option<&'static str> {
    let any = |folder: &str, is_it: &dyn Fn(&Path, &str) -> bool| {
        let entries = read_dir(root.join(folder)).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| is_it(&entry.path(), name))
        })
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_file = |_: &Path, name: &str| name.strip_prefix("nvidia").is_some_and(is_number);
    let is_display = |device: &Path, _: &str| {
        let says = |file, start| {
            read_to_string(device.join(file)).is_ok_and(|text: String| text.starts_with(start))
        };
        says("vendor", NVIDIA) && says("class", DISPLAY)
    };
    if any("dev", &is_file) {
        Some("/dev/nvidia*")
    } else if any("proc/driver/nvidia/gpus", &|_, _| true) {
        Some("/proc/driver/nvidia/gpus")
    } else {
        any("sys/bus/pci/devices", &is_display).then_some("/sys/bus/pci/devices")
    }
}

/// What a join says of the node.
pub fn facts(
    node: NodeId,
    slots: u32,
    (gpus, nccl): (Vec<String>, Option<Nccl>),
    store_address: String,
    labels: Labels,
) -> NodeFacts {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    NodeFacts {
        node,
        slots,
        gpus,
        store_address,
        host: System::host_name().unwrap_or_default(),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory: memory(),
        nccl,
        labels,
    }
}

/// Bytes of memory that processes of this agent can have; 0 where the system does not say.
fn memory() -> u64 {
    match System::new() {
        Ok(mut system) => {
            system.refresh_memory();
            let total = system.total_memory();
            system
                .cgroup_limits()
                .map_or(total, |limits| limits.total_memory.min(total))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot find out how much memory there is");
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_nvml_has_no_gpus_and_still_has_facts() {
        let bare = tempfile::tempdir().unwrap();
        let nowhere = Some(OsStr::new("/nowhere/libnvidia-ml.so"));
        assert_eq!(gpus(nowhere, bare.path()), Ok(Vec::new()));
        let node = NodeId::new("n").unwrap();
        let facts = facts(
            node,
            2,
            (Vec::new(), None),
            "127.0.0.1:1".to_owned(),
            Labels::default(),
        );
        assert!(
            facts.memory > 1 << 20 && facts.cores > 0 && !facts.host.is_empty(),
            "{facts:?}"
        );
    }

    #[test]
    fn a_node_that_shows_gpus_is_none_without() {
        let nowhere = Some(OsStr::new("/nowhere/libnvidia-ml.so"));
        let pci = |vendor, class| {
            let device = "sys/bus/pci/devices/0000:17:00.0";
            vec![
                (format!("{device}/vendor"), vendor),
                (format!("{device}/class"), class),
            ]
        };
        let one = |path: &str| vec![(path.to_owned(), "")];
        for (files, place) in [
            (one("dev/nvidia0"), Some("/dev/nvidia*")),
            (one("dev/nvidia13"), Some("/dev/nvidia*")),
            (
                one("proc/driver/nvidia/gpus/0000:17:00.0/information"),
                Some("/proc/driver/nvidia/gpus"),
            ),
            (pci("0x10de\n", "0x030200\n"), Some("/sys/bus/pci/devices")),
            // Another's display, NVIDIA's sound, and files that no GPU needs.
            (pci("0x1002\n", "0x030000\n"), None),
            (pci("0x10de\n", "0x040300\n"), None),
            (one("dev/nvidiactl"), None),
            (one("dev/nvidia"), None),
            (one("proc/driver/nvidia/version"), None),
        ] {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in &files {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            assert_eq!(shown(root.path()), place, "{files:?}");
            let gpus = gpus(nowhere, root.path());
            assert_eq!(gpus.is_err(), place.is_some(), "{gpus:?}");
        }
    }

    #[test]
    fn what_nvml_says_goes_unless_it_is_nothing() {
        let two = || vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(known(Ok(two()), None), Ok(two()));
        assert_eq!(known(Ok(two()), Some("/dev/nvidia*")), Ok(two()));
        assert_eq!(known(Ok(Vec::new()), None), Ok(Vec::new()));
        assert_eq!(known(Err("no driver".to_owned()), None), Ok(Vec::new()));
        let none = known(Ok(Vec::new()), Some("/dev/nvidia*")).unwrap_err();
        assert!(
            none.contains("/dev/nvidia*") && none.contains("--slots"),
            "{none}"
        );
        let failed = known(Err("no driver".to_owned()), Some("/dev/nvidia*")).unwrap_err();
        assert!(failed.contains("no driver"), "{failed}");
    }
}
