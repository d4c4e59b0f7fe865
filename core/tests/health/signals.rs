//! Signals that no probe can have seen.

use super::{on, over, xid};
use rebloom_core::health::signal::{Headroom, Sign, Signal};

#[test]
fn signals_that_cannot_be() {
    let bad = [
        xid(0, 0, ""),
        xid(0, 10_000, ""),
        xid(0, 79, &"x".repeat(241)),
        over(xid(0, 79, "")),
        Signal::raised(None, Sign::GpuLost),
        on(0, Sign::ClockSkew { nanos: 5 }),
        on(0, Sign::NvLinkDown { link: 64 }),
        Signal::raised(
            None,
            Sign::HostMemory {
                available: 2,
                total: 1,
            },
        ),
        Signal::raised(
            None,
            Sign::Storage {
                of: Headroom::Space,
                left: 2,
                total: 1,
            },
        ),
    ];
    for signal in bad {
        assert!(signal.check().is_err(), "{signal:?}");
    }
}
