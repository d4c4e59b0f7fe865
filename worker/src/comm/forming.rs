//! How the groups of a rank are formed, and what carries a tensor in them.
//!
//! Gloo carries what lies in the host's memory, on every machine. Where the rank computes on a GPU, NCCL carries
//! what lies there. NCCL does the operations of a communicator one after the other, so a pipeline has one for
//! each direction of each pair of stages that talk: a receive that is asked for early must not hold up a send.

use super::Store;
use crate::shim::{self, Device, ShimError};
use rebloom_core::flight::Channel;
use rebloom_core::id::Rank;
use rebloom_core::layout::Layout;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What carries a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Gloo, from where it lies.
    Host,
    /// NCCL, from where it lies.
    Device,
    /// Gloo, with a copy in the host's memory.
    ThroughHost,
}

/// What carries a tensor on `device`. Where launches block, a send or a receive would keep the host until its
/// peer came, and a stage that asked early for what is to come would wait for ever.
pub(super) const fn way(device: tch::Device, is_to_one: bool, launches_block: bool) -> Way {
    match device {
        tch::Device::Cpu => Way::Host,
        tch::Device::Cuda(_) | tch::Device::Mps | tch::Device::Vulkan => {
            if is_to_one && launches_block {
                Way::ThroughHost
            } else {
                Way::Device
            }
        }
    }
}

/// From whom to whom, by place in the pipeline.
pub(super) type Lane = (u32, u32);

/// The lanes of `stage`, in an order in which all stages can form them: first of neighbours, then of the two ends.
pub(super) fn lanes(stage: u32, stages: u32) -> impl Iterator<Item = Lane> {
    let neighbours = (1..stages).map(|behind| (behind - 1, behind));
    let ends = (stages > 2).then(|| (0, stages - 1));
    neighbours
        .chain(ends)
        .flat_map(|(a, b)| [(a, b), (b, a)])
        .filter(move |&(from, to)| from == stage || to == stage)
}

/// What carries tensors on a GPU.
#[derive(Debug, Clone)]
pub(super) enum OnDevice {
    /// All members together.
    All(Arc<shim::Group>),
    /// One member to another.
    Lanes(BTreeMap<Lane, Arc<shim::Group>>),
}

impl OnDevice {
    fn groups(&self) -> Vec<&Arc<shim::Group>> {
        match self {
            Self::All(group) => vec![group],
            Self::Lanes(lanes) => lanes.values().collect(),
        }
    }
}

/// A group as it was formed.
#[derive(Debug, Clone)]
pub(super) struct Formed {
    pub(super) host: Arc<shim::Group>,
    /// None where the rank computes on the CPU.
    pub(super) device: Option<OnDevice>,
    /// This rank's place in it.
    pub(super) rank: u32,
    /// Members.
    pub(super) size: u32,
}

impl Formed {
    /// Everything that a fence has to fail, what carries tensors on a GPU apart.
    pub(super) fn groups(&self) -> (&Arc<shim::Group>, Vec<&Arc<shim::Group>>) {
        let device = self.device.as_ref();
        (&self.host, device.map(OnDevice::groups).unwrap_or_default())
    }
}

/// What the forming thread says. It counts as an operation of the group, so that the page shows who
/// waits for whom; only who waits for this thread may write the page, since a fence leaves it behind.
pub(super) enum Forming {
    Begun(Channel),
    Done(Channel),
    Over(Result<[Option<Formed>; 3], ShimError>),
}

/// Where a rank forms its groups.
#[derive(Clone)]
pub(super) struct Meeting {
    pub(super) store: Arc<dyn Store>,
    pub(super) interface: Arc<Device>,
    pub(super) connect: Duration,
    /// Where the rank computes.
    pub(super) device: tch::Device,
    pub(super) launches_block: bool,
}

impl Meeting {
    fn host(&self, prefix: &str, rank: u32, size: u32) -> Result<Arc<shim::Group>, ShimError> {
        let store = Arc::clone(&self.store);
        let (interface, connect) = (&self.interface, self.connect);
        shim::Group::form(store, prefix, rank, size, interface, connect).map(Arc::new)
    }

    fn device(&self, prefix: &str, rank: u32, size: u32) -> Result<Arc<shim::Group>, ShimError> {
        let store = Arc::clone(&self.store);
        shim::Group::form_on_device(store, prefix, rank, size, self.device).map(Arc::new)
    }

    fn on_device(
        &self,
        channel: Channel,
        prefix: &str,
        rank: u32,
        size: u32,
    ) -> Result<Option<OnDevice>, ShimError> {
        let is_to_one = channel == Channel::World;
        if way(self.device, is_to_one, self.launches_block) != Way::Device {
            return Ok(None);
        }
        if !is_to_one {
            let all = self.device(&format!("{prefix}n"), rank, size)?;
            return Ok(Some(OnDevice::All(all)));
        }
        let lanes = lanes(rank, size).map(|lane| {
            let (from, to) = lane;
            let prefix = format!("{prefix}n{from}-{to}");
            let group = self.device(&prefix, u32::from(to == rank), 2)?;
            Ok((lane, group))
        });
        Ok(Some(OnDevice::Lanes(lanes.collect::<Result<_, _>>()?)))
    }

    /// Forms the groups of `rank`: those of its tensor group, its data group and its pipeline.
    pub(super) fn form(
        &self,
        layout: Layout,
        rank: Rank,
        tell: &dyn Fn(Forming),
    ) -> Result<[Option<Formed>; 3], ShimError> {
        let one = |name: &str, channel: Channel, members: Vec<Rank>| {
            let size = u32::try_from(members.len()).unwrap_or(u32::MAX);
            if size == 1 {
                return Ok(None);
            }
            let place = members.iter().position(|&member| member == rank);
            let place = u32::try_from(place.unwrap_or_default()).unwrap_or_default();
            let prefix = format!("{name}{}", members[0]);
            tell(Forming::Begun(channel));
            let host = self.host(&prefix, place, size)?;
            let device = self.on_device(channel, &prefix, place, size)?;
            tell(Forming::Done(channel));
            Ok(Some(Formed {
                host,
                device,
                rank: place,
                size,
            }))
        };
        Ok([
            one("t", Channel::Tensor, layout.tensor_group(rank))?,
            one("d", Channel::Data, layout.data_group(rank))?,
            // The last one: whoever is not in it yet is waited for.
            one("p", Channel::World, layout.pipeline_group(rank))?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_carries_a_tensor_depends_on_where_it_lies() {
        for (device, is_to_one, launches_block, wanted) in [
            (tch::Device::Cpu, false, false, Way::Host),
            (tch::Device::Cpu, true, true, Way::Host),
            (tch::Device::Cuda(1), false, false, Way::Device),
            (tch::Device::Cuda(1), true, false, Way::Device),
            (tch::Device::Cuda(1), false, true, Way::Device),
            (tch::Device::Cuda(1), true, true, Way::ThroughHost),
        ] {
            assert_eq!(way(device, is_to_one, launches_block), wanted, "{device:?}");
        }
    }

    #[test]
    fn every_pair_that_talks_has_a_lane_each_way() {
        for stages in 2..=12 {
            let all: BTreeSet<_> = (0..stages).flat_map(|s| lanes(s, stages)).collect();
            for (a, b) in (1..stages).map(|b| (b - 1, b)).chain([(0, stages - 1)]) {
                assert!(all.contains(&(a, b)) && all.contains(&(b, a)), "{stages}");
            }
            for stage in 0..stages {
                let mine: Vec<_> = lanes(stage, stages).collect();
                let once: BTreeSet<_> = mine.iter().collect();
                assert_eq!(once.len(), mine.len(), "a lane is formed once");
                assert!(
                    mine.iter()
                        .all(|&(a, b)| a != b && (a == stage || b == stage))
                );
            }
        }
    }

    /// Each stage forms its lanes one after the other, and waits at each until the other end is there.
    #[test]
    fn no_stage_waits_for_ever_while_lanes_form() {
        for stages in 2..=12 {
            let orders: Vec<Vec<_>> = (0..stages).map(|s| lanes(s, stages).collect()).collect();
            let mut at = vec![0; orders.len()];
            let next = |at: &[usize], stage: usize| orders[stage].get(at[stage]).copied();
            while let Some((from, to)) = (0..orders.len()).find_map(|stage| {
                let lane = next(&at, stage)?;
                let ends = [lane.0, lane.1].map(|end| usize::try_from(end).unwrap());
                ends.iter()
                    .all(|&end| next(&at, end) == Some(lane))
                    .then(|| (ends[0], ends[1]))
            }) {
                at[from] += 1;
                at[to] += 1;
            }
            for (order, at) in orders.iter().zip(at) {
                assert_eq!(order.len(), at, "{stages} stages");
            }
        }
    }
}
