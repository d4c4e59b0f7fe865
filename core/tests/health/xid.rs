//! The XID catalogue against the table it was made from, written down here a second time.

use rebloom_core::health::Action;
use rebloom_core::health::xid::{
    Bucket, LinkFault, catalogue, is_called_fatal, link_fault, look_up,
};

/// Each bucket with its codes, as published; `a-b` is a range.
const PUBLISHED: [(Bucket, &str); 14] = [
    (
        Bucket::Ignore,
        "14 37 38 43 44 63 66 67 92 93 106 107 121 137 141 152 153 157 161",
    ),
    (
        Bucket::RestartApp,
        "8 11 13 25 31 32 39-41 60 68-72 75-77 80 82-86 88 89 94 96-105 126-135 139",
    ),
    (
        Bucket::ResetGpu,
        "46 62 64 95 109 110 119 120 136 140 143 155 156 158 162",
    ),
    (Bucket::RebootNode, "79 160"),
    (Bucket::RestartVm, "151"),
    (Bucket::DoubleBit, "48"),
    (Bucket::Cleanup, "45"),
    (Bucket::NvLink, "74"),
    (Bucket::NvLink5, "144-150"),
    (Bucket::CheckMechanicals, "54"),
    (Bucket::UpdateSoftware, "78"),
    (Bucket::CheckUvm, "159"),
    (Bucket::Follow, "154"),
    (
        Bucket::Support,
        "1-7 9 10 12 15-24 26-30 33-36 42 47 49-53 55-59 61 65 73 81 87 90 91 108 111-118 122-125 138 142",
    ),
];

fn codes(text: &str) -> Vec<u32> {
    let ranges = text
        .split(' ')
        .map(|part| part.split_once('-').unwrap_or((part, part)));
    ranges
        .flat_map(|(first, last)| first.parse::<u32>().unwrap()..=last.parse().unwrap())
        .collect()
}

#[test]
fn every_published_code_is_in_the_catalogue_and_no_other() {
    let mut all = Vec::new();
    for (bucket, text) in PUBLISHED {
        for code in codes(text) {
            assert_eq!(look_up(code).bucket, bucket, "XID {code}");
            assert_eq!(look_up(code).code, code);
            all.push(code);
        }
    }
    all.sort_unstable();
    let known: Vec<_> = catalogue().entries.iter().map(|entry| entry.code).collect();
    assert_eq!(known, all, "one line a code, in order");
    assert_eq!(all.len(), 162);
    assert_eq!(catalogue().version, "2026-11");
}

#[test]
fn every_line_of_the_data_is_understood() {
    let text = include_str!("../../data/xid.csv");
    let lines = text
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(lines.count(), catalogue().entries.len());
}

#[test]
fn every_code_has_a_meaning_and_says_where_it_is_from() {
    for entry in &catalogue().entries {
        let known = ["catalogue", "driver"].contains(&entry.source);
        assert!(known && !entry.meaning.is_empty(), "XID {}", entry.code);
    }
    let of = |code| (look_up(code).source, look_up(code).meaning);
    assert_eq!(of(79), ("catalogue", "GPU has fallen off the bus"));
    assert_eq!(of(137), ("catalogue", "NVLink privilege error"));
    assert_eq!(of(9000), ("", ""));
}

#[test]
fn what_a_code_asks_for() {
    let asks = [
        (13, Action::RestartApp),
        (14, Action::None),
        (48, Action::ResetGpu),
        (54, Action::CheckHardware),
        (74, Action::CheckLinks),
        (78, Action::UpdateSoftware),
        (79, Action::RebootNode),
        (151, Action::RebootNode),
        (61, Action::ContactSupport),
    ];
    for (code, action) in asks {
        assert_eq!(look_up(code).action, action, "XID {code}");
    }
    let unknown = look_up(9000);
    assert_eq!(
        (unknown.bucket, unknown.action),
        (Bucket::Support, Action::ContactSupport)
    );
    assert!(
        unknown.bucket.is_fatal(),
        "an unknown number is taken seriously"
    );
}

#[test]
fn the_registers_of_an_nvlink_error() {
    let line = |registers: &str| {
        format!(
            "pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 3({registers})"
        )
    };
    let cases = [
        (
            "0x100000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0",
            LinkFault::Hardware,
        ),
        ("0x2, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", LinkFault::Hardware),
        ("0x0, 0x0, 0x2000, 0x0, 0x0, 0x0, 0x0", LinkFault::Hardware),
        ("0x0, 0x0, 0x0, 0x40000, 0x0, 0x0, 0x0", LinkFault::Hardware),
        (
            "0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0",
            LinkFault::HardwareIfAgain,
        ),
        (
            "0x10, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0",
            LinkFault::HardwareIfAgain,
        ),
        (
            "0x0, 0x0, 0x4, 0x0, 0x0, 0x0, 0x0",
            LinkFault::HardwareIfAgain,
        ),
        ("0x200000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", LinkFault::Signal),
        (
            "0x0, 0x0, 0x0, 0x0, 0x1000000, 0x0, 0x0",
            LinkFault::HardwareIfAgain,
        ),
        ("0x0, 0x0, 0x0, 0x0, 0x800000, 0x0, 0x0", LinkFault::Unclear),
        ("0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0", LinkFault::Unclear),
        ("", LinkFault::Unclear),
        ("0xzz, 99999999999999999999", LinkFault::Unclear),
    ];
    for (registers, fault) in cases {
        assert_eq!(link_fault(&line(registers)), fault, "{registers}");
    }
    assert_eq!(link_fault("no registers at all"), LinkFault::Unclear);
    assert!(is_called_fatal(
        "RLW_CTRL Fatal XC0 i0 Link 05 (0x00000001 0x0)"
    ));
    assert!(!is_called_fatal(
        "RLW_REMAP Nonfatal XC1 i0 Link 05 (0x00000001 0x0)"
    ));
}

#[test]
fn which_buckets_say_that_a_unit_cannot_go_on() {
    let fatal = [
        Bucket::ResetGpu,
        Bucket::RebootNode,
        Bucket::RestartVm,
        Bucket::DoubleBit,
        Bucket::CheckMechanicals,
        Bucket::Support,
    ];
    for (bucket, _) in PUBLISHED {
        assert_eq!(bucket.is_fatal(), fatal.contains(&bucket), "{bucket:?}");
    }
}
