//! What is malformed is refused with the path to what is wrong; nothing that arrives panics.

use crate::samples;
use proptest::prelude::*;
use prost::Message;
use rebloom_core::order::Order;
use rebloom_core::report::{Join, Report};
use rebloom_core::spec::RunSpec;
use rebloom_proto::link::{FromAgent, ToAgent};
use rebloom_proto::rank::{FromRank, ToRank};
use rebloom_proto::{MAX_LIST, MAX_TEXT, Malformed, wire};

fn field<T>(result: Result<T, Malformed>) -> String {
    match result {
        Ok(_) => "accepted".to_owned(),
        Err(malformed) => malformed.field,
    }
}

/// A changed copy of a good spec.
fn spec(change: impl FnOnce(&mut wire::RunSpec)) -> String {
    let mut spec = wire::RunSpec::from(samples::spec());
    change(&mut spec);
    field(RunSpec::try_from(spec))
}

#[test]
fn an_empty_message_is_refused() {
    let problem = |field: &str| Malformed::new(field, "is missing");
    assert_eq!(
        FromAgent::try_from(wire::FromAgent::default()),
        Err(problem("what"))
    );
    assert_eq!(
        ToAgent::try_from(wire::ToAgent::default()),
        Err(problem("what"))
    );
    assert_eq!(
        FromRank::try_from(wire::FromRank::default()),
        Err(problem("word"))
    );
    assert_eq!(
        ToRank::try_from(wire::ToRank::default()),
        Err(problem("what"))
    );
    assert_eq!(Join::try_from(wire::Join::default()), Err(problem("facts")));
}

#[test]
fn a_spec_names_what_is_wrong_with_it() {
    assert_eq!(spec(|_| ()), "accepted");
    assert_eq!(spec(|spec| spec.name = "Not A Name".to_owned()), "name");
    assert_eq!(spec(|spec| spec.model = None), "model");
    assert_eq!(spec(|spec| spec.layout = None), "layout");
    assert_eq!(spec(|spec| spec.train = None), "train");
    assert_eq!(
        spec(|spec| spec.train.as_mut().unwrap().optimizer = None),
        "train.optimizer"
    );
    assert_eq!(spec(|spec| spec.data = None), "data");
    assert_eq!(spec(|spec| spec.checkpoint = None), "checkpoint");
    assert_eq!(spec(|spec| spec.deadlines = None), "deadlines");
    assert_eq!(spec(|spec| spec.recovery = None), "recovery");
    let long = "/".repeat(MAX_TEXT + 1);
    assert_eq!(
        spec(|spec| spec.data.as_mut().unwrap().prefix = long),
        "data.prefix"
    );
}

/// Core multiplies and divides by these.
#[test]
fn a_layout_of_nothing_or_of_too_much_is_refused() {
    let layout = |tensor, pipeline, data| {
        spec(|spec| {
            spec.layout = Some(wire::Layout {
                tensor,
                pipeline,
                data,
            })
        })
    };
    assert_eq!(layout(0, 1, 1), "layout.tensor");
    assert_eq!(layout(1, 0, 1), "layout.pipeline");
    assert_eq!(layout(1, 1, 0), "layout.data");
    assert_eq!(layout(u32::MAX, u32::MAX, u32::MAX), "layout");
    assert_eq!(layout(100, 100, 11), "layout");
    assert_eq!(layout(100, 100, 10), "accepted");
}

#[test]
fn unknown_and_unspecified_values_are_refused() {
    let kill = |kind| {
        let order = wire::order::Kill {
            run: samples::run().into(),
            generation: 1,
            rank: 0,
            cause: Some(wire::Cause { kind }),
        };
        field(Order::try_from(wire::Order {
            what: Some(wire::order::What::Kill(order)),
        }))
    };
    assert_eq!(kill(None), "kill.cause.kind");
    for phase in [0, 99, -1] {
        let hung = wire::cause::GangHung {
            phase,
            ..Default::default()
        };
        let kind = wire::cause::Kind::GangHung(hung);
        assert_eq!(kill(Some(kind)), "kill.cause.gang_hung.phase");
    }
    let unspecified = wire::cause::GangHung::default();
    let cause = wire::Cause {
        kind: Some(wire::cause::Kind::GangHung(unspecified)),
    };
    let error = rebloom_core::cause::Cause::try_from(cause).unwrap_err();
    assert_eq!(
        error.to_string(),
        "malformed message: gang_hung.phase: is missing"
    );
}

#[test]
fn the_place_in_a_list_is_named() {
    let mut manifest = wire::Manifest::from(samples::manifest());
    manifest.shards[1].hash.pop();
    let what = Some(wire::order::What::Seal(wire::order::Seal {
        directory: "/checkpoints".to_owned(),
        manifest: Some(manifest),
    }));
    let error = Order::try_from(wire::Order { what }).unwrap_err();
    assert_eq!(error.field, "seal.manifest.shards[1].hash");
    assert_eq!(error.problem, "has 31 bytes, a SHA-256 has 32");
}

#[test]
fn nothing_leads_out_of_the_checkpoint_directory() {
    let mut manifest = wire::Manifest::from(samples::manifest());
    manifest.shards[0].file = "../../etc/passwd".to_owned();
    let error = rebloom_core::checkpoint::Manifest::try_from(manifest).unwrap_err();
    assert_eq!(error.field, "shards[0].file");
    let what = Some(wire::order::What::Prune(wire::order::Prune {
        run: samples::run().into(),
        directory: "relative".to_owned(),
        checkpoints: Vec::new(),
    }));
    assert_eq!(
        field(Order::try_from(wire::Order { what })),
        "prune.directory"
    );
}

#[test]
fn what_is_too_long_is_refused() {
    let reply = |what| {
        let reply = wire::AgentReply {
            id: 1,
            what: Some(what),
        };
        let what = Some(wire::from_agent::What::Reply(reply));
        field(FromAgent::try_from(wire::FromAgent { what }))
    };
    let error = wire::agent_reply::What::Error("x".repeat(MAX_TEXT + 1));
    assert_eq!(reply(error), "reply.error");
    let data = vec![0; rebloom_proto::link::MAX_LOG_PART + 1];
    let part = wire::agent_reply::LogPart {
        offset: 0,
        data,
        more: false,
    };
    assert_eq!(
        reply(wire::agent_reply::What::LogPart(part)),
        "reply.log_part.data"
    );

    let pages = wire::Pages {
        run: samples::run().into(),
        sightings: vec![wire::Sighting::default(); MAX_LIST + 1],
        matches: Vec::new(),
    };
    let beat = rebloom_core::report::Beat::try_from(wire::Beat { pages: vec![pages] });
    assert_eq!(field(beat), "pages[0].sightings");
}

#[test]
fn a_page_has_eight_counters_that_make_sense() {
    let page = |counters| {
        let page = wire::Page {
            phase: wire::Phase::Step.into(),
            counters,
            ..Default::default()
        };
        field(rebloom_core::flight::Page::try_from(page))
    };
    assert_eq!(
        page(vec![
            wire::Counter {
                entered: 2,
                done: 1
            };
            8
        ]),
        "accepted"
    );
    assert_eq!(page(vec![wire::Counter::default(); 7]), "counters");
    assert_eq!(
        page(vec![
            wire::Counter {
                entered: 1,
                done: 2
            };
            8
        ]),
        "counters[0].done"
    );
}

#[test]
fn a_ledger_has_each_entry_once() {
    let entry = wire::ledger::Entry {
        spend: wire::Spend::Detect.into(),
        nanos: 1,
        device_micros: 8,
    };
    let ledger = wire::Ledger {
        spent: vec![entry; 2],
        lost_steps: 0,
    };
    assert_eq!(
        field(rebloom_core::engine::Ledger::try_from(ledger)),
        "spent"
    );
}

/// Every way in, from bytes.
fn take_all(bytes: &[u8]) {
    let taken = [
        wire::FromAgent::decode(bytes)
            .ok()
            .map(|it| FromAgent::try_from(it).is_ok()),
        wire::ToAgent::decode(bytes)
            .ok()
            .map(|it| ToAgent::try_from(it).is_ok()),
        wire::FromRank::decode(bytes)
            .ok()
            .map(|it| FromRank::try_from(it).is_ok()),
        wire::ToRank::decode(bytes)
            .ok()
            .map(|it| ToRank::try_from(it).is_ok()),
        wire::Report::decode(bytes)
            .ok()
            .map(|it| Report::try_from(it).is_ok()),
    ];
    std::hint::black_box(taken);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        take_all(&bytes);
    }

    /// A message with some bytes changed or its end cut off is understood or refused.
    #[test]
    fn damage_never_panics(
        pick in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let orders = samples::to_agent().into_iter().map(|it| wire::ToAgent::from(it).encode_to_vec());
        let reports = samples::from_agent().into_iter().map(|it| wire::FromAgent::from(it).encode_to_vec());
        let all: Vec<Vec<u8>> = orders.chain(reports).collect();
        let mut bytes = pick.get(&all).clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        take_all(&bytes);
    }
}

#[test]
fn a_signal_that_cannot_be_is_refused() {
    use rebloom_core::health::signal::Signal;
    use wire::signal::{HostMemory, Sign, Storage, Xid};
    let refused = |device, cleared, sign| {
        let signal = wire::Signal {
            device,
            cleared,
            sign,
        };
        field(Signal::try_from(signal))
    };
    let xid = |code, detail: &str| {
        let detail = detail.to_owned();
        Some(Sign::Xid(Xid { code, detail }))
    };
    assert_eq!(refused(Some(1), false, xid(79, "x")), "accepted");
    assert_eq!(refused(None, false, None), "sign");
    assert_eq!(refused(Some(1), false, xid(0, "x")), "xid");
    assert_eq!(refused(Some(1), true, xid(79, "x")), "xid");
    assert_eq!(refused(Some(1), false, xid(79, &"x".repeat(999))), "xid");
    assert_eq!(
        refused(None, false, Some(Sign::NvlinkDown(1))),
        "nvlink_down"
    );
    assert_eq!(
        refused(Some(1), false, Some(Sign::ClockSkew(1))),
        "clock_skew"
    );
    let recovery = Some(Sign::RecoveryAction(77));
    assert_eq!(refused(Some(1), false, recovery), "recovery_action");
    let memory = Sign::HostMemory(HostMemory {
        available: 2,
        total: 1,
    });
    assert_eq!(refused(None, false, Some(memory)), "host_memory");
    let storage = Sign::Storage(Storage {
        of: 0,
        left: 1,
        total: 2,
    });
    assert_eq!(refused(None, false, Some(storage)), "storage.of");
}
