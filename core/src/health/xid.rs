//! The XID catalogue: what NVIDIA's driver means by its error numbers, as data with a version.
//!
//! The numbers stand in `data/xid.csv`, one line each; a driver that brings new ones brings new
//! lines. What a number asks for alone is here; what its history adds is for the rules.

use super::Action;
use std::sync::LazyLock;

/// What a number alone says: the buckets of NVIDIA's catalogue as NVSentinel sorts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// Nothing that matters here.
    Ignore,
    /// The process is at fault or is the only victim.
    RestartApp,
    /// The GPU has to be reset.
    ResetGpu,
    /// The node has to be rebooted.
    RebootNode,
    /// The virtual machine has to be rebooted.
    RestartVm,
    /// 48: a double-bit error.
    DoubleBit,
    /// 45: the driver cleans up after another error.
    Cleanup,
    /// 74: an NVLink error, told apart by its registers.
    NvLink,
    /// 144 to 150: an NVLink 5 error, fatal or not by its text.
    NvLink5,
    /// 54: power is not connected as it should be.
    CheckMechanicals,
    /// 78: software has to be updated.
    UpdateSoftware,
    /// 159: unified memory has to be checked.
    CheckUvm,
    /// 154: says that another number's action has changed.
    Follow,
    /// Nobody should see it: treated as fatal, for NVIDIA's support.
    Support,
}

const BUCKETS: [(&str, Bucket); 14] = [
    ("ignore", Bucket::Ignore),
    ("restart_app", Bucket::RestartApp),
    ("reset_gpu", Bucket::ResetGpu),
    ("reboot_node", Bucket::RebootNode),
    ("restart_vm", Bucket::RestartVm),
    ("double_bit", Bucket::DoubleBit),
    ("cleanup", Bucket::Cleanup),
    ("nvlink", Bucket::NvLink),
    ("nvlink5", Bucket::NvLink5),
    ("check_mechanicals", Bucket::CheckMechanicals),
    ("update_software", Bucket::UpdateSoftware),
    ("check_uvm", Bucket::CheckUvm),
    ("follow", Bucket::Follow),
    ("support", Bucket::Support),
];

impl Bucket {
    /// Its name in the data.
    pub fn name(self) -> &'static str {
        let mut known = BUCKETS.iter().filter(|(_, bucket)| *bucket == self);
        known.next().map_or("support", |(name, _)| name)
    }

    /// Whether one alone says that the unit cannot go on as it is.
    pub const fn is_fatal(self) -> bool {
        match self {
            Self::ResetGpu
            | Self::RebootNode
            | Self::RestartVm
            | Self::DoubleBit
            | Self::CheckMechanicals
            | Self::Support => true,
            Self::Ignore
            | Self::RestartApp
            | Self::Cleanup
            | Self::NvLink
            | Self::NvLink5
            | Self::UpdateSoftware
            | Self::CheckUvm
            | Self::Follow => false,
        }
    }
}

/// One number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The number.
    pub code: u32,
    /// What it says alone.
    pub bucket: Bucket,
    /// What is to be done.
    pub action: Action,
    /// Where the meaning is from: `catalogue` or `driver`, see the data; empty where there is none.
    pub source: &'static str,
    /// What happened, in a few words; empty where NVIDIA does not say.
    pub meaning: &'static str,
}

/// The catalogue.
#[derive(Debug)]
pub struct Catalogue {
    /// Which edition of the data.
    pub version: &'static str,
    /// By number.
    pub entries: Vec<Entry>,
}

const DATA: &str = include_str!("../../data/xid.csv");

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue {
    version: DATA
        .lines()
        .find_map(|line| line.strip_prefix("# version "))
        .unwrap_or_default(),
    entries: DATA.lines().filter_map(entry).collect(),
});

/// One line of the data; a test makes sure that every line is understood.
fn entry(line: &'static str) -> Option<Entry> {
    let mut fields = line.splitn(5, ',');
    let code = fields.next()?.parse().ok()?;
    let bucket = fields.next()?;
    let action = fields.next()?;
    Some(Entry {
        code,
        bucket: BUCKETS.iter().find(|(name, _)| *name == bucket)?.1,
        action: Action::from_name(action)?,
        source: fields.next()?,
        meaning: fields.next()?,
    })
}

/// The catalogue that is compiled in.
pub fn catalogue() -> &'static Catalogue {
    &CATALOGUE
}

/// What is known of a number. One that is not in the catalogue is for support, as NVIDIA asks.
pub fn look_up(code: u32) -> Entry {
    let entries = &CATALOGUE.entries;
    let at = entries.binary_search_by_key(&code, |entry| entry.code);
    at.ok()
        .and_then(|at| entries.get(at))
        .copied()
        .unwrap_or(Entry {
            code,
            bucket: Bucket::Support,
            action: Action::ContactSupport,
            source: "",
            meaning: "",
        })
}

/// What the registers of an XID 74 say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    /// The signal is poor: a connector or a cable.
    Signal,
    /// The hardware, at once.
    Hardware,
    /// The hardware, when it comes again.
    HardwareIfAgain,
    /// Nothing that is known to matter.
    Unclear,
}

/// By register: bits, and what any of them says. The first row that fits decides.
///
/// Source: the XID 74 rules of NVSentinel's health-events-analyzer, which follow NVIDIA's catalogue.
const REGISTERS: [(usize, &[u32], LinkFault); 10] = [
    (0, &[1, 20], LinkFault::Hardware),
    (2, &[13], LinkFault::Hardware),
    (3, &[18], LinkFault::Hardware),
    (0, &[4, 5], LinkFault::HardwareIfAgain),
    (0, &[8, 9, 12, 16, 17, 24, 28], LinkFault::HardwareIfAgain),
    (0, &[27, 29], LinkFault::HardwareIfAgain),
    (2, &[0, 1, 2, 6], LinkFault::HardwareIfAgain),
    (2, &[16, 17, 18, 19], LinkFault::HardwareIfAgain),
    (
        4,
        &[18, 19, 21, 22, 24, 25, 27, 28],
        LinkFault::HardwareIfAgain,
    ),
    (0, &[21, 22], LinkFault::Signal),
];

/// Reads the registers of an XID 74: `... on link 3(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)`.
pub fn link_fault(detail: &str) -> LinkFault {
    let inside = detail
        .split_once("link ")
        .and_then(|(_, rest)| rest.split_once('('))
        .and_then(|(_, rest)| rest.split_once(')'));
    let Some((inside, _)) = inside else {
        return LinkFault::Unclear;
    };
    let register = |text: &str| {
        let text = text.trim();
        u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).unwrap_or(0)
    };
    let registers: Vec<u32> = inside.split(',').take(7).map(register).collect();
    let is_set = |at: usize, bits: &[u32]| {
        let value = registers.get(at).copied().unwrap_or(0);
        bits.iter().any(|bit| value >> bit & 1 == 1)
    };
    REGISTERS
        .iter()
        .find(|(at, bits, _)| is_set(*at, bits))
        .map_or(LinkFault::Unclear, |(_, _, fault)| *fault)
}

/// Whether the text of an NVLink 5 error (144 to 150) calls it fatal: `RLW_CTRL Fatal XC0 i0 Link 05`.
pub fn is_called_fatal(detail: &str) -> bool {
    detail.split_whitespace().any(|word| word == "Fatal")
}
