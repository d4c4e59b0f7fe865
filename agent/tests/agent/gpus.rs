//! The NVML probe against a made-up library: what a GPU says, what it cannot say, and when it is lost.

use rebloom_agent::watch::gpu::{Gpus, Slots};
use rebloom_core::health::gauge::{GpuReading, Reading};
use rebloom_core::health::signal::{Recovery, Throttle};
use rebloom_core::id::Slot;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// Builds the library; it says what `state` in its directory says.
fn library(directory: &Path) -> std::path::PathBuf {
    let library = directory.join("libnvidia-ml.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agent/nvml.c");
    let state = format!("-DSTATE=\"{}\"", directory.join("state").display());
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(state)
        .arg(source)
        .status()
        .unwrap();
    assert!(built.success(), "the made-up library cannot be built");
    library
}

fn look(gpus: &mut Gpus, directory: &TempDir, state: &str) -> Vec<GpuReading> {
    std::fs::write(directory.path().join("state"), state).unwrap();
    let read = gpus.look().into_iter().enumerate();
    let reading = |(at, reading)| match reading {
        Reading::Gpu { device, reading } => {
            assert_eq!(device, Slot(u32::try_from(at).unwrap()));
            reading
        }
        other => panic!("{other:?}"),
    };
    read.map(reading).collect()
}

#[test]
fn what_gpus_say() {
    let directory = tempfile::tempdir().unwrap();
    let slots = Arc::new(Slots::default());
    let nvml = library(directory.path()).into_os_string();
    let mut gpus = Gpus::new(Some(nvml), Arc::clone(&slots));
    let both = "-1 count 2\n0 bus 59\n1 bus 203\n";
    // An old driver on one, a GPU with everything wrong on the other.
    let state = format!(
        "{both}1 ecc 3\n1 sram 5\n1 field230 1\n1 field143 7\n1 field144 1\n1 field145 0\n\
         1 throttle 64\n1 replays 12\n1 link0 1\n1 errors0.0 4\n1 errors0.3 2\n1 link5 0\n"
    );
    let seen = look(&mut gpus, &directory, &state);
    assert_eq!(
        seen[0],
        GpuReading::default(),
        "what it does not know it does not say"
    );
    let ill = GpuReading {
        is_lost: false,
        recovery: Some(Some(Recovery::Reset)),
        ecc: Some(3),
        sram: Some(5),
        rows: Some((7, true, false)),
        throttles: vec![Throttle::Thermal],
        pcie_replays: Some(12),
        links: vec![(0, true, 6), (5, false, 0)],
    };
    assert_eq!(seen[1], ill);
    assert_eq!(slots.of("0000:cb:00"), Some(Slot(1)));
    assert_eq!(slots.of("0000:17:00"), None);

    let nothing = format!("{both}0 field230 0\n1 lost 1\n");
    let seen = look(&mut gpus, &directory, &nothing);
    assert_eq!(seen[0].recovery, Some(None));
    assert!(!seen[0].is_lost && seen[1].is_lost);
    // One is not even listed any more.
    let seen = look(&mut gpus, &directory, "-1 count 1\n0 bus 59\n");
    assert!(!seen[0].is_lost && seen[1].is_lost);
}
