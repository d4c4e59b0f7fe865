//! Reads XIDs out of lines of the kernel log. Pure; whatever a line holds, it is read or passed by.
//!
//! The NVIDIA driver writes `NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen
//! off the bus.`; /dev/kmsg puts `priority,sequence,microseconds,flags;` before it
//! (Documentation/ABI/testing/dev-kmsg of the Linux kernel).

use super::signal::{Recovery, shortened};

/// Most bytes of a line that are looked at.
const MOST_LINE: usize = 4096;

/// An XID, as the kernel log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XidLine {
    /// Domain, bus and device of the GPU, in small letters: `0000:3b:00`.
    pub pci: String,
    /// The number.
    pub code: u32,
    /// The rest of the line.
    pub detail: String,
}

/// The XID that a line of the kernel log tells of, if it does.
pub fn xid(line: &str) -> Option<XidLine> {
    let mut end = line.len().min(MOST_LINE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    // What follows in a record of /dev/kmsg are its properties, not its message.
    let first = line.get(..end)?.lines().next()?;
    let rest = first.split_once("NVRM: Xid (")?.1;
    let (place, rest) = rest.split_once("): ")?;
    let pci = pci(place.strip_prefix("PCI:").unwrap_or(place))?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (code, detail) = rest.split_at_checked(digits)?;
    let code = code.parse().ok().filter(|code| (1..=9999).contains(code))?;
    // A number that goes on as something else is none.
    if !(detail.is_empty() || detail.starts_with(',') || detail.starts_with(' ')) {
        return None;
    }
    let detail = detail.trim_start_matches(',').trim();
    let printable: String = detail.chars().filter(|c| !c.is_control()).collect();
    Some(XidLine {
        pci,
        code,
        detail: shortened(&printable),
    })
}

/// `00000000:3B:00.0` and `0000:3b:00` are the same device.
pub fn pci(text: &str) -> Option<String> {
    let text = text.split('.').next()?;
    let mut parts = text.split(':');
    let domain = u32::from_str_radix(parts.next()?, 16).ok()?;
    let bus = u8::from_str_radix(parts.next()?, 16).ok()?;
    let device = u8::from_str_radix(parts.next()?, 16).ok()?;
    parts
        .next()
        .is_none()
        .then(|| format!("{domain:04x}:{bus:02x}:{device:02x}"))
}

/// What an XID 154 says that the driver asks for from now on: `GPU recovery action changed from 0x0
/// (None) to 0x1 (GPU Reset Required)`. None where it cannot be read; some of none for nothing.
pub fn recovery(detail: &str) -> Option<Option<Recovery>> {
    let rest = detail
        .split_once("action changed from")?
        .1
        .split_once(" to 0x")?
        .1;
    let digits = rest.len()
        - rest
            .trim_start_matches(|c: char| c.is_ascii_hexdigit())
            .len();
    let number = u64::from_str_radix(rest.get(..digits)?, 16).ok()?;
    let action = Recovery::from_nvml(number);
    (number == 0 || action.is_some()).then_some(action)
}
