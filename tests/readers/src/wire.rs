//! Reader of what comes over the wire: the first byte says which message the rest is.

use crate::Outcome;
use prost::Message;
use rebloom_core::engine::{NodeView, RunView};
use rebloom_core::spec::RunSpec;
use rebloom_core::word::FromWorker;
use rebloom_proto::link::{FromAgent, ToAgent};
use rebloom_proto::rank::{FromRank, ToRank};
use rebloom_proto::{Malformed, wire};

/// Decodes, converts, and converts what was accepted back.
fn pass<W, T>(bytes: &[u8]) -> Outcome
where
    W: Message + Default + From<T>,
    T: TryFrom<W, Error = Malformed>,
{
    let message = W::decode(bytes).map_err(|e| e.to_string())?;
    let value = T::try_from(message).map_err(|e| e.to_string())?;
    let _: Vec<u8> = W::from(value).encode_to_vec();
    Ok(())
}

pub(crate) fn message(bytes: &[u8]) -> Outcome {
    let Some((kind, bytes)) = bytes.split_first() else {
        return Err("no message".to_owned());
    };
    match kind {
        0 => pass::<wire::FromAgent, FromAgent>(bytes),
        1 => pass::<wire::ToAgent, ToAgent>(bytes),
        2 => pass::<wire::FromRank, FromRank>(bytes),
        3 => pass::<wire::ToRank, ToRank>(bytes),
        4 => pass::<wire::RunView, RunView>(bytes),
        5 => pass::<wire::NodeView, NodeView>(bytes),
        6 => {
            let message = wire::RunSpec::decode(bytes).map_err(|e| e.to_string())?;
            let spec = RunSpec::try_from(message).map_err(|e| e.to_string())?;
            spec.flaws()
                .first()
                .map_or(Ok(()), |flaw| Err(flaw.to_string()))
        }
        7 => {
            let message = wire::WorkerWord::decode(bytes).map_err(|e| e.to_string())?;
            FromWorker::try_from(message)
                .map(drop)
                .map_err(|e| e.to_string())
        }
        _ => Err("no such message".to_owned()),
    }
}
