//! The rules that are built in: what each sees, makes of it, and where that comes from.
//!
//! The table is what `rebloom health rules list` and `docs/health.md` show; `examine.rs` is what the
//! rules do. An admin may set each to shadow or off, and add rules of their own beside them.

use super::{Action, Mode, Verdict};

/// A rule that is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    missing_docs,
    reason = "`RULES` says what each sees, for code and docs"
)]
pub enum Builtin {
    XidFatal,
    XidRepeated,
    XidOnce,
    XidAgain,
    XidManyUnits,
    XidSoftware,
    NvlinkXid,
    NvlinkXidAgain,
    NvlinkXidFatal,
    RecoveryAction,
    RecoveryDrain,
    GpuLost,
    EccUncorrected,
    EccSram,
    RowRemapPending,
    RowRemapFailed,
    Throttled,
    ThrottledLong,
    PcieReplays,
    NvlinkErrors,
    NvlinkDown,
    HostMemory,
    StorageLow,
    StorageFailing,
    ClockSkew,
    ProbeHung,
    Flapping,
    Lemon,
}

/// What there is to say of a rule.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Which.
    pub id: Builtin,
    /// Its name.
    pub name: &'static str,
    /// What it sees, with its limit.
    pub sees: &'static str,
    /// What it makes of the node.
    pub verdict: Verdict,
    /// What it may ask for, which the signal decides where there are several; empty where it asks for what
    /// another rule does.
    pub actions: &'static [Action],
    /// Whether it acts unless an admin says otherwise.
    pub mode: Mode,
    /// Where it comes from.
    pub source: &'static str,
}

const CATALOGUE: &str = "NVIDIA XID catalogue, sorted as in NVSentinel's xiderrorsmapping.csv";
const NVML: &str = "NVML, as NVIDIA's nvidia-resiliency-ext reads it";

const fn rule(
    id: Builtin,
    name: &'static str,
    sees: &'static str,
    verdict: Verdict,
    actions: &'static [Action],
    source: &'static str,
) -> Rule {
    Rule {
        id,
        name,
        sees,
        verdict,
        actions,
        mode: Mode::Enforce,
        source,
    }
}

/// Every rule, in the order of [`Builtin`].
pub const RULES: [Rule; 28] = [
    rule(
        Builtin::XidFatal,
        "xid_fatal",
        "an XID after which the unit cannot go on as it is",
        Verdict::Faulty,
        &[
            Action::ResetGpu,
            Action::RebootNode,
            Action::CheckHardware,
            Action::ContactSupport,
        ],
        CATALOGUE,
    ),
    rule(
        Builtin::XidRepeated,
        "xid_repeated",
        "5 fatal XIDs of one GPU within 24 h; what it says within 3 h of one that was not repaired \
         is the echo of that one",
        Verdict::Faulty,
        &[Action::ReplaceNode],
        "NVSentinel, RepeatedXIDErrorOnSameGPU (burst window 3 min, sticky window 3 h)",
    ),
    rule(
        Builtin::XidOnce,
        "xid_once",
        "an XID that a process may have caused by itself: only told",
        Verdict::Healthy,
        &[Action::RestartApp],
        "NVSentinel, XIDErrorSoloNoBurst",
    ),
    rule(
        Builtin::XidAgain,
        "xid_again",
        "such an XID twice on one GPU within 24 h, 3 min or more apart: the same unit again is its \
         hardware",
        Verdict::Quarantined,
        &[Action::RunDiagnostics],
        "NVSentinel, RepeatedXID31OnSameGPU; for XID 13, whose unit there is a GPC and TPC, ours is the \
         GPU",
    ),
    rule(
        Builtin::XidManyUnits,
        "xid_many_units",
        "such an XID on 3 GPUs within 3 min: many units are the software; only told, and counted \
         against none of them, nor against those who said it first",
        Verdict::Healthy,
        &[Action::RestartApp],
        "after NVSentinel, RepeatedXID31OnDifferentGPU, which counts two GPUs of one node within 24 h; 3 \
         of the fleet within 3 min are ours",
    ),
    rule(
        Builtin::XidSoftware,
        "xid_software",
        "an XID that asks for newer software or a look at unified memory",
        Verdict::Suspect,
        &[Action::UpdateSoftware],
        CATALOGUE,
    ),
    rule(
        Builtin::NvlinkXid,
        "nvlink_xid",
        "an NVLink XID (74, 144 to 150) that is not called fatal",
        Verdict::Suspect,
        &[Action::CheckLinks],
        "NVSentinel, the XID 74 register rules",
    ),
    rule(
        Builtin::NvlinkXidAgain,
        "nvlink_xid_again",
        "such an XID twice on one GPU within 24 h",
        Verdict::Quarantined,
        &[Action::CheckLinks],
        "NVSentinel, RepeatedXID74Reg0HardwareIssue and its kin",
    ),
    rule(
        Builtin::NvlinkXidFatal,
        "nvlink_xid_fatal",
        "an NVLink XID whose registers or text call it fatal, or whose registers speak of hardware \
         for the second time within 24 h",
        Verdict::Faulty,
        &[Action::ResetGpu],
        "NVSentinel, XID74Reg0SoloNVLinkError, XID74Reg2Bit13Set, XID74Reg3Bit18Set",
    ),
    rule(
        Builtin::RecoveryAction,
        "recovery_action",
        "NVML asks for a reset or a reboot: the driver's own vote",
        Verdict::Faulty,
        &[Action::ResetGpu, Action::RebootNode],
        "NVML, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION (driver 570 or newer)",
    ),
    rule(
        Builtin::RecoveryDrain,
        "recovery_drain",
        "NVML asks to let peer-to-peer work drain",
        Verdict::Quarantined,
        &[Action::CheckLinks],
        "NVML, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION (driver 570 or newer)",
    ),
    rule(
        Builtin::GpuLost,
        "gpu_lost",
        "NVML says that a GPU is lost, or lists fewer than before",
        Verdict::Faulty,
        &[Action::RebootNode],
        "NVML, NVML_ERROR_GPU_IS_LOST",
    ),
    rule(
        Builtin::EccUncorrected,
        "ecc_uncorrected",
        "uncorrected ECC errors since the driver was loaded; what could not be contained comes as an \
         XID too",
        Verdict::Suspect,
        &[Action::ResetGpu],
        NVML,
    ),
    rule(
        Builtin::EccSram,
        "ecc_sram",
        "more than 4 uncorrected ECC errors in SRAM over the life of the GPU",
        Verdict::Faulty,
        &[Action::ReplaceNode],
        "the usual rule for a replacement, in the Machine Learning Engineering open book",
    ),
    rule(
        Builtin::RowRemapPending,
        "row_remap_pending",
        "a remapped row waits for a reset to take effect",
        Verdict::Suspect,
        &[Action::ResetGpu],
        "NVIDIA, GPU memory error management (XID 63)",
    ),
    rule(
        Builtin::RowRemapFailed,
        "row_remap_failed",
        "a row could not be remapped",
        Verdict::Faulty,
        &[Action::ReplaceNode],
        "NVIDIA, GPU memory error management (XID 64)",
    ),
    rule(
        Builtin::Throttled,
        "throttled",
        "a GPU holds its clocks down for heat or power for 30 s",
        Verdict::Suspect,
        &[Action::CheckCooling],
        "NVML clock event reasons; the time is ours",
    ),
    rule(
        Builtin::ThrottledLong,
        "throttled_long",
        "the same for 10 min: one such GPU slows its whole gang down",
        Verdict::Quarantined,
        &[Action::CheckCooling],
        "NVML clock event reasons; the time is ours (BLOOM lost 5.5 % to one slow node)",
    ),
    rule(
        Builtin::PcieReplays,
        "pcie_replays",
        "more than 8 PCIe replays within a minute",
        Verdict::Suspect,
        &[Action::CheckHardware],
        "DCGM, its limit for the replay rate",
    ),
    rule(
        Builtin::NvlinkErrors,
        "nvlink_errors",
        "errors of an NVLink within a minute: replays, recoveries, CRC",
        Verdict::Suspect,
        &[Action::CheckLinks],
        "nvidia-resiliency-ext, windowed NVLink counters; DCGM treats each recovery as a warning",
    ),
    rule(
        Builtin::NvlinkDown,
        "nvlink_down",
        "an NVLink that was up is down",
        Verdict::Faulty,
        &[Action::CheckLinks],
        NVML,
    ),
    rule(
        Builtin::HostMemory,
        "host_memory",
        "less than 3 % of the host's memory is left; over again above 6 %",
        Verdict::Suspect,
        &[Action::FreeMemory],
        "ByteRobust: 10.1 % of all incidents were out of host memory; the limit is ours",
    ),
    rule(
        Builtin::StorageLow,
        "storage_low",
        "less than 10 % of the checkpoints' space, inodes or quota is left; over again above 15 %. \
         Only told: the storage is shared, so no node is at fault",
        Verdict::Healthy,
        &[Action::FreeStorage],
        "BLOOM's fs-watchdog, which warned at 85 %; ours is later, since it does not go by mail",
    ),
    rule(
        Builtin::StorageFailing,
        "storage_failing",
        "a node cannot use the checkpoints' storage, unless 3 nodes cannot: then it is the storage",
        Verdict::Quarantined,
        &[Action::MendStorage],
        "ByteRobust: file system mounts, 2.1 % of all incidents",
    ),
    rule(
        Builtin::ClockSkew,
        "clock_skew",
        "the node's clock is off by more than 1 s; over again below 0.5 s",
        Verdict::Suspect,
        &[Action::SetClock],
        "ours: logs and incidents are read side by side",
    ),
    Rule {
        id: Builtin::ProbeHung,
        name: "probe_hung",
        sees: "a probe has not answered for 45 s, three times its interval: it hangs, or what it asks cannot tell it",
        verdict: Verdict::Quarantined,
        actions: &[Action::RebootNode],
        mode: Mode::Shadow,
        source: "NVSentinel, GpuDcgmUnresponsive, shipped STORE_ONLY there too",
    },
    rule(
        Builtin::Flapping,
        "flapping",
        "a level that makes a node suspect is raised for the third time within an hour; that of host memory or \
         the clock not where 3 nodes raise it within 3 min: that is none of theirs",
        Verdict::Quarantined,
        &[],
        "NVSentinel, RepeatedNICDegradation",
    ),
    rule(
        Builtin::Lemon,
        "lemon",
        "a node is withdrawn for the fifth time within 7 days: it leaves for good, until an admin \
         uncordons it",
        Verdict::Faulty,
        &[Action::ReplaceNode],
        "NVSentinel, MultipleRemediations; lemon nodes in Meta's RSC (arXiv:2410.21680)",
    ),
];

impl Builtin {
    /// What there is to say of it.
    pub const fn rule(self) -> &'static Rule {
        &RULES[self as usize]
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.rule().name
    }

    /// From its name.
    pub fn from_name(name: &str) -> Option<Self> {
        let known = RULES.iter().find(|rule| rule.name == name);
        known.map(|rule| rule.id)
    }
}

/// Limits of what agents call a level, with the values at which it is over again.
pub mod limit {
    use crate::time::Duration;

    /// PCIe replays a minute.
    pub const PCIE_REPLAYS: u64 = 8;
    /// Share of host memory left: raised below, cleared above.
    pub const HOST_MEMORY: (f64, f64) = (0.03, 0.06);
    /// Share of the storage left: raised below, cleared above.
    pub const STORAGE: (f64, f64) = (0.10, 0.15);
    /// Clock skew: raised above, cleared below.
    pub const CLOCK_SKEW: (Duration, Duration) =
        (Duration::from_secs(1), Duration::from_millis(500));
    /// How long a GPU must hold its clocks down.
    pub const THROTTLED: Duration = Duration::from_secs(30);
    /// Uncorrected errors in SRAM that a GPU may have in its life.
    pub const ECC_SRAM: u64 = 4;
    /// How often probes look.
    pub const EVERY: Duration = Duration::from_secs(15);
    /// A probe that has not answered for this long hangs or is blind.
    pub const PROBE_HUNG: Duration = Duration::from_secs(45);
}
