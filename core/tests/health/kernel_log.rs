//! Lines of kernel logs as they are found in the field, and lines that only look like them.

use proptest::prelude::*;
use rebloom_core::health::kernel_log::{XidLine, pci, recovery, xid};
use rebloom_core::health::signal::{MOST_TEXT, Recovery};

fn line(pci: &str, code: u32, detail: &str) -> Option<XidLine> {
    let (pci, detail) = (pci.to_owned(), detail.to_owned());
    Some(XidLine { pci, code, detail })
}

#[test]
fn real_lines() {
    let cases = [
        (
            "3,1489,62342103,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            line(
                "0000:3b:00",
                79,
                "pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            ),
        ),
        (
            "[Fri Aug 30 11:43:09 2024] NVRM: Xid (PCI:0000:cb:00): 13, pid=1234, name=python3, Graphics SM Warp Exception on (GPC 7, TPC 0, SM 0): Out Of Range Address",
            line(
                "0000:cb:00",
                13,
                "pid=1234, name=python3, Graphics SM Warp Exception on (GPC 7, TPC 0, SM 0): Out Of Range Address",
            ),
        ),
        (
            "NVRM: Xid (0000:03:00): 6, PE0001",
            line("0000:03:00", 6, "PE0001"),
        ),
        (
            "4,77,1,-;NVRM: Xid (PCI:0000:9b:00): 145, RLW_REMAP Nonfatal XC1 i0 Link 05 (0x00000004 0x00000000)",
            line(
                "0000:9b:00",
                145,
                "RLW_REMAP Nonfatal XC1 i0 Link 05 (0x00000004 0x00000000)",
            ),
        ),
        (
            "6,1,1,-;NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
            line(
                "0009:01:00",
                154,
                "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
            ),
        ),
        // Without anything after the number.
        (
            "NVRM: Xid (PCI:0000:17:00): 119",
            line("0000:17:00", 119, ""),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(xid(text), expected, "{text}");
    }
}

#[test]
fn lines_that_are_none() {
    let cases = [
        "",
        "6,1,1,-;",
        "6,1,1,-;usb 1-1: new high-speed USB device",
        "NVRM: GPU at PCI:0000:3b:00: GPU-1b0f6f1e-0000-0000-0000-000000000000",
        "NVRM: Xid (PCI:0000:3b:00) 79, no colon",
        "NVRM: Xid (PCI:0000:3b:00): , no number",
        "NVRM: Xid (PCI:0000:3b:00): seventy-nine",
        "NVRM: Xid (PCI:0000:3b:00): 79abc",
        "NVRM: Xid (PCI:0000:3b:00): 0, no such number",
        "NVRM: Xid (PCI:0000:3b:00): 99999999999999999999, too large",
        "NVRM: Xid (PCI:zzzz:3b:00): 79, no such place",
        "NVRM: Xid (PCI:0000:3b): 79, half a place",
        "NVRM: Xid (PCI:0000:3b:00:11): 79, too much of a place",
        "NVRM: Xid (PCI:0000:3b:0",
        // A continuation line of a record of /dev/kmsg.
        "6,1,1,-;harmless\n SUBSYSTEM=NVRM: Xid (PCI:0000:3b:00): 79, quoted",
    ];
    for text in cases {
        assert_eq!(xid(text), None, "{text}");
    }
}

#[test]
fn long_and_strange_text_is_cut_at_a_character() {
    let text = format!(
        "NVRM: Xid (PCI:0000:3b:00): 79, {}",
        "\u{fc}\u{7}".repeat(3000)
    );
    let detail = xid(&text).unwrap().detail;
    assert!(detail.len() <= MOST_TEXT && detail.len() > MOST_TEXT - 4);
    assert!(
        detail.chars().all(|c| c == '\u{fc}'),
        "control characters are left out"
    );
}

#[test]
fn the_text_of_an_xid_may_hold_semicolons() {
    let place = "NVRM: Xid (PCI:0000:3b:00)";
    let read = |line: &str| xid(line).map(|xid| xid.detail);
    assert_eq!(read(&format!("{place}: 31, a; b")), Some("a; b".to_owned()));
    let record = format!("3,1,2,-;{place}: 31, a; b");
    assert_eq!(read(&record), Some("a; b".to_owned()));
    let dated = format!("12:00:00,5 host kernel: {place}: 31, a; b");
    assert_eq!(read(&dated), Some("a; b".to_owned()));
}

#[test]
fn a_line_is_looked_at_up_to_a_character_s_edge() {
    let head = "NVRM: Xid (PCI:0000:3b:00): 79,";
    // Control characters are left out, so that only what the cut leaves can be seen.
    let line = |bytes: usize| format!("{head}{}\u{fc}", "\u{7}".repeat(bytes - head.len()));
    assert_eq!(xid(&line(4094)).unwrap().detail, "\u{fc}");
    assert_eq!(xid(&line(4095)).unwrap().detail, "");
}

#[test]
fn places_are_compared_by_what_they_mean() {
    assert_eq!(pci("00000000:3B:00.0"), pci("0000:3b:00"));
    assert_eq!(pci("0009:01:00"), Some("0009:01:00".to_owned()));
    assert_eq!(pci(""), None);
}

#[test]
fn what_a_154_asks_for() {
    let says = |to: &str| format!("GPU recovery action changed from 0x0 (None) to {to}");
    assert_eq!(
        recovery(&says("0x1 (GPU Reset Required)")),
        Some(Some(Recovery::Reset))
    );
    assert_eq!(
        recovery(&says("0x2 (Node Reboot Required)")),
        Some(Some(Recovery::Reboot))
    );
    assert_eq!(recovery(&says("0x0 (None)")), Some(None));
    assert_eq!(recovery(&says("0x63 (what?)")), None);
    assert_eq!(recovery(&says("0x (what?)")), None);
    assert_eq!(recovery("something else"), None);
}

proptest! {
    #[test]
    fn no_line_breaks_the_reader(text in "(6,1,1,-;)?(NVRM: Xid \\((PCI:)?)?[0-9a-f:.]{0,14}\\)?:? ?[0-9]{0,6}.{0,80}") {
        if let Some(line) = xid(&text) {
            prop_assert!((1..=9999).contains(&line.code));
            prop_assert!(line.detail.len() <= MOST_TEXT);
        }
        recovery(&text);
    }
}
