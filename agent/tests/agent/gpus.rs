//! The NVML probe against a made-up library: what a GPU says, what it cannot say, and when it is lost.

use rebloom_agent::watch::gpu::{Gpus, Slots};
use rebloom_core::health::gauge::{GpuReading, Reading};
use rebloom_core::health::signal::{Recovery, Throttle};
use rebloom_core::id::Slot;
use std::collections::BTreeMap;
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

/// What is said, by slot. A look that does not see all GPUs that were ever there says so.
fn seen(gpus: &mut Gpus, directory: &TempDir, state: &str) -> BTreeMap<Slot, GpuReading> {
    std::fs::write(directory.path().join("state"), state).unwrap();
    let look = gpus.look();
    let all = if state.contains("1 bus") { 2 } else { 1 };
    assert_eq!(look.is_blind, look.readings.len() < all, "{look:?}");
    let readings = look.readings.into_iter();
    let reading = |reading| match reading {
        Reading::Gpu { device, reading } => (device, reading),
        other => panic!("{other:?}"),
    };
    readings.map(reading).collect()
}

/// What each GPU says, where each says something.
fn look(gpus: &mut Gpus, directory: &TempDir, state: &str) -> Vec<GpuReading> {
    let seen = seen(gpus, directory, state);
    let slots = (0..).map(Slot).zip(seen.keys());
    assert!(slots.into_iter().all(|(at, slot)| at == *slot), "{seen:?}");
    seen.into_values().collect()
}

fn gpus(directory: &TempDir) -> Gpus {
    let nvml = library(directory.path()).into_os_string();
    Gpus::new(Some(nvml), Arc::default())
}

/// Errors that say nothing of the GPU: no permission, a timeout, the operating system, unknown.
const SILENT: [u32; 4] = [4, 10, 17, 999];

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
        throttles: Some(vec![Throttle::Thermal]),
        pcie_replays: Some(12),
        links: vec![(0, true, Some(6)), (5, false, None)],
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

#[test]
fn of_a_gpu_that_nvml_cannot_answer_for_nothing_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let mut gpus = gpus(&directory);
    let both = "-1 count 2\n0 bus 59\n1 bus 203\n";
    assert_eq!(seen(&mut gpus, &directory, both).len(), 2);
    for key in ["!handle", "!bus", "!all"] {
        for code in SILENT {
            let state = format!("{both}1 {key} {code}\n1 field230 0\n");
            let seen = seen(&mut gpus, &directory, &state);
            let slots: Vec<_> = seen.into_keys().collect();
            assert_eq!(slots, [Slot(0)], "{key} {code}");
        }
        let state = format!("{both}1 {key} 15\n1 field230 0\n");
        let seen = seen(&mut gpus, &directory, &state);
        assert!(!seen[&Slot(0)].is_lost && seen[&Slot(1)].is_lost, "{key}");
    }
}

#[test]
fn a_gpu_that_refuses_until_it_is_reset_asks_for_that() {
    let directory = tempfile::tempdir().unwrap();
    let mut gpus = gpus(&directory);
    let one = "-1 count 1\n0 bus 59\n";
    for key in ["!handle", "!bus", "!all", "!ecc"] {
        let needs = format!("{one}0 {key} 16\n");
        let seen = look(&mut gpus, &directory, &needs);
        assert_eq!(seen[0].recovery, Some(Some(Recovery::Reset)), "{key}");
        assert_eq!(seen[0].throttles, None);
        // Silence is no answer; an answer without a vote of its own ends it, once.
        let silent = format!("{one}0 !all 10\n");
        assert!(look(&mut gpus, &directory, &silent).is_empty(), "{key}");
        let no_vote = format!("{one}0 !field230 10\n0 ecc 0\n");
        assert_eq!(look(&mut gpus, &directory, &no_vote)[0].recovery, None);
        let seen = look(&mut gpus, &directory, one);
        assert_eq!(seen[0].recovery, Some(None), "{key}");
        assert_eq!(look(&mut gpus, &directory, one)[0].recovery, None);
    }
    // What the driver asks for by its vote says more; a number that nobody knows is not nothing.
    let both = format!("{one}0 !ecc 16\n0 field230 2\n");
    let vote = Some(Some(Recovery::Reboot));
    assert_eq!(look(&mut gpus, &directory, &both)[0].recovery, vote);
    let unknown = format!("{one}0 field230 99\n");
    assert_eq!(look(&mut gpus, &directory, &unknown)[0].recovery, None);
}

#[test]
fn gpus_that_cannot_be_counted_are_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut gpus = gpus(&directory);
    let both = "-1 count 2\n0 bus 59\n1 bus 203\n";
    assert_eq!(look(&mut gpus, &directory, both).len(), 2);
    for code in SILENT {
        let state = format!("{both}-1 !count {code}\n");
        assert!(look(&mut gpus, &directory, &state).is_empty());
        // As long as NVML does not come up again there is no answer either.
        let state = format!("{both}-1 !init {code}\n");
        assert!(look(&mut gpus, &directory, &state).is_empty());
        let seen = look(&mut gpus, &directory, both);
        assert!(seen.len() == 2 && seen.iter().all(|seen| !seen.is_lost));
    }
}

#[test]
fn a_value_that_does_not_answer_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let mut gpus = gpus(&directory);
    let one = "-1 count 1\n0 bus 59\n0 ecc 3\n0 sram 5\n0 throttle 64\n0 link0 1\n\
               0 errors0.0 4\n0 errors0.1 0\n";
    let whole = look(&mut gpus, &directory, one).remove(0);
    assert_eq!(whole.links, [(0, true, Some(4))]);
    for key in ["!ecc", "!sram", "!throttle", "!errors0.1"] {
        let state = format!("{one}0 {key} 10\n");
        let mut expected = whole.clone();
        match key {
            "!ecc" => expected.ecc = None,
            "!sram" => expected.sram = None,
            "!throttle" => expected.throttles = None,
            _ => expected.links = vec![(0, true, None)],
        }
        assert_eq!(look(&mut gpus, &directory, &state), [expected]);
    }
}

#[test]
fn newer_links_tell_their_errors_by_fields() {
    let directory = tempfile::tempdir().unwrap();
    let mut gpus = gpus(&directory);
    let mut links = |state: &str| {
        let head = "-1 count 1\n0 bus 59\n0 link0 1\n0 link7 1\n";
        let seen = look(&mut gpus, &directory, &format!("{head}{state}"));
        seen[0].links.clone()
    };
    let of = |zero, seven| [(0, true, zero), (7, true, seven)];
    let older = "0 errors0.0 100\n0 errors7.0 200\n";
    assert_eq!(
        links(older),
        of(Some(100), Some(200)),
        "they have no such fields"
    );
    let newer = "0 field208.0 3\n0 field215.0 4\n0 field208.7 5\n";
    assert_eq!(links(&format!("{older}{newer}")), of(Some(7), Some(5)));
    // Neither a field that does not answer nor one that is not there now is made up for by the older count.
    let silent = format!("0 !field215.0 10\n{older}{newer}");
    assert_eq!(links(&silent), of(None, Some(5)));
    let gone = format!("{older}0 field208.7 5\n");
    assert_eq!(links(&gone), of(None, Some(5)));
}
