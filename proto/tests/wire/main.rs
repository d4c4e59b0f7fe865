//! What is sent is what arrives, and what is malformed is refused where it is wrong.

mod refuse;
mod samples;

use prost::Message;
use rebloom_core::cause::Cause;
use rebloom_core::engine::{Answer, Ask, HealthRuleView, NodeView, Refusal, RuleHit, RunView};
use rebloom_core::health::signal::Signal;
use rebloom_core::id::{Generation, Rank, Slot};
use rebloom_core::order::Stop;
use rebloom_proto::admin::{self, CheckpointVerified};
use rebloom_proto::link::{FromAgent, ToAgent, Verified};
use rebloom_proto::rank::{FromRank, ToRank};
use rebloom_proto::{Malformed, wire};
use std::fmt::Debug;

/// Sends every sample through its bytes and back.
fn round_trip<W, T>(samples: Vec<T>)
where
    W: Message + Default + From<T>,
    T: TryFrom<W, Error = Malformed> + Clone + PartialEq + Debug,
{
    assert!(!samples.is_empty());
    for sample in samples {
        let bytes = W::from(sample.clone()).encode_to_vec();
        let arrived = W::decode(bytes.as_slice()).expect("what was encoded can be decoded");
        assert_eq!(T::try_from(arrived), Ok(sample));
    }
}

#[test]
fn what_is_sent_is_what_arrives() {
    round_trip::<wire::FromAgent, FromAgent>(samples::from_agent());
    round_trip::<wire::ToAgent, ToAgent>(samples::to_agent());
    round_trip::<wire::FromRank, FromRank>(samples::from_rank());
    round_trip::<wire::ToRank, ToRank>(samples::to_rank());
    round_trip::<wire::RunView, RunView>(samples::runs());
    round_trip::<wire::NodeView, NodeView>(samples::nodes());
    round_trip::<wire::Signal, Signal>(samples::health::signals());
    round_trip::<wire::Cause, Cause>(samples::health::causes());
    round_trip::<wire::ListHealthRulesReply, Vec<HealthRuleView>>(vec![samples::health::rules()]);
    round_trip::<wire::TestHealthRuleReply, Vec<RuleHit>>(vec![samples::health::hits()]);
    round_trip::<wire::VerifyCheckpointReply, CheckpointVerified>(vec![CheckpointVerified {
        checkpoint: samples::checkpoint(),
        node: samples::node(),
        verified: Verified {
            shards: 8,
            bytes: 10,
            problems: Vec::new(),
        },
    }]);
}

/// NaN is how a page says that nothing is known yet.
#[test]
fn a_page_without_a_loss_arrives_without_one() {
    let mut messages = samples::from_agent();
    let beat = messages.iter_mut().find_map(|message| match message {
        FromAgent::Beat(beat) => Some(beat),
        FromAgent::Join(_) | FromAgent::Report { .. } | FromAgent::Reply { .. } => None,
    });
    let beat = beat.expect("there is a beat among the samples");
    beat.pages[0].sightings[0].page.loss = f32::NAN;
    let arrived = rebloom_core::report::Beat::try_from(wire::Beat::from(beat.clone())).unwrap();
    assert!(arrived.pages[0].sightings[0].page.loss.is_nan());
}

#[test]
fn a_refusal_comes_through_its_status() {
    for refusal in samples::refusals() {
        let status = admin::answer(Answer::Refused(refusal.clone())).unwrap_err();
        assert_eq!(status.message(), refusal.to_string());
        assert_eq!(admin::refusal(&status), Some(refusal));
    }
    assert_eq!(
        admin::refusal(&tonic::Status::not_found("something else")),
        None
    );
    let garbage = tonic::Status::with_details(tonic::Code::Internal, "", vec![0xFF; 9].into());
    assert_eq!(admin::refusal(&garbage), None);
}

#[test]
fn each_kind_of_refusal_has_its_code() {
    let codes: Vec<_> = samples::refusals()
        .into_iter()
        .map(|refusal| admin::status(refusal).code())
        .collect();
    use tonic::Code::{
        AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied,
        ResourceExhausted,
    };
    assert_eq!(
        codes,
        [
            InvalidArgument,
            AlreadyExists,
            NotFound,
            NotFound,
            FailedPrecondition,
            PermissionDenied,
            ResourceExhausted,
            InvalidArgument,
            NotFound
        ]
    );
    assert!(matches!(samples::refusals()[0], Refusal::Flaws(_)));
}

#[test]
fn answers_arrive() {
    let seating = rebloom_core::engine::Seating {
        rank: Rank(0),
        node: samples::node(),
        slot: Slot(1),
    };
    for sample in [
        Answer::Done {
            message: "submitted".to_owned(),
            generation: Some(Generation(1)),
        },
        Answer::Done {
            message: "cordoned".to_owned(),
            generation: None,
        },
        Answer::WouldPlace {
            seating: vec![seating],
            message: "fits".to_owned(),
        },
    ] {
        let sent = admin::answer(sample.clone()).expect("no refusal");
        assert_eq!(Answer::try_from(sent), Ok(sample));
    }
}

#[test]
fn requests_become_asks() {
    let (run, node) = (samples::run(), samples::node());
    let submit = wire::SubmitRunRequest {
        spec: Some(samples::spec().into()),
        dry_run: true,
    };
    let spec = Box::new(samples::spec());
    assert_eq!(
        Ask::try_from(submit),
        Ok(Ask::Submit {
            spec,
            dry_run: true
        })
    );
    let stop = wire::StopRunRequest {
        run: run.to_string(),
        how: wire::Stop::Now.into(),
    };
    assert_eq!(
        Ask::try_from(stop),
        Ok(Ask::Stop {
            run: run.clone(),
            how: Stop::Now
        })
    );
    for layout in [None, Some(samples::spec().layout)] {
        let resume = wire::ResumeRunRequest {
            run: run.to_string(),
            layout: layout.map(Into::into),
        };
        let run = run.clone();
        assert_eq!(Ask::try_from(resume), Ok(Ask::Resume { run, layout }));
    }
    let cordon = wire::CordonRequest {
        node: node.to_string(),
    };
    assert_eq!(
        Ask::try_from(cordon),
        Ok(Ask::Cordon { node: node.clone() })
    );
    let uncordon = wire::UncordonRequest {
        node: node.to_string(),
    };
    assert_eq!(
        Ask::try_from(uncordon),
        Ok(Ask::Uncordon { node: node.clone() })
    );
    let drain = wire::DrainRequest {
        node: node.to_string(),
        dry_run: false,
    };
    assert_eq!(
        Ask::try_from(drain),
        Ok(Ask::Drain {
            node,
            dry_run: false
        })
    );
}

#[test]
fn the_descriptors_name_every_service() {
    let text = String::from_utf8_lossy(rebloom_proto::FILE_DESCRIPTOR_SET);
    for service in ["AgentLink", "RankLink", "Store", "Admin"] {
        assert!(
            text.contains(service),
            "{service} is not in the descriptors"
        );
    }
}
