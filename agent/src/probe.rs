//! What the node is: host name, cores, memory and, where NVIDIA's library is there, its GPUs.
//!
//! Read once, at the start. That there is no such library is a fact about the node, not an error.

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use rebloom_core::id::NodeId;
use rebloom_core::labels::Labels;
use rebloom_core::ladder::gate::Nccl;
use rebloom_core::report::NodeFacts;
use std::ffi::OsStr;
use sysinfo::System;

/// Names of the node's GPUs, by slot. `library` replaces the name under which NVML is looked for.
pub fn gpus(library: Option<&OsStr>) -> Vec<String> {
    let mut builder = Nvml::builder();
    if let Some(library) = library {
        builder.lib_path(library);
    }
    let names = builder.init().and_then(|nvml| {
        (0..nvml.device_count()?)
            .map(|slot| nvml.device_by_index(slot)?.name())
            .collect()
    });
    match names {
        Ok(names) => names,
        Err(NvmlError::LibloadingError(_) | NvmlError::DriverNotLoaded) => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "NVML is there but cannot be asked; the node counts as having no GPU");
            Vec::new()
        }
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
        assert_eq!(
            gpus(Some(OsStr::new("/nowhere/libnvidia-ml.so"))),
            Vec::<String>::new()
        );
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
}
