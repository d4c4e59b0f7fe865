//! The groups of one rank in one generation, how they are formed and how a fence ends them.

use super::forming::{Formed, Forming, Meeting, OnDevice, Way, way};
use super::{CommError, Store, Watch, spent};
use crate::shim::{self, Device, ShimError, Work, cuda};
use rebloom_core::flight::Channel;
use rebloom_core::id::Rank;
use rebloom_core::layout::Layout;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tch::{Tensor, no_grad};

/// How often the fence is looked at: often enough that nobody notices, seldom enough to cost nothing.
const LOOK: Duration = Duration::from_millis(8);

/// One process group and how its waits end.
#[derive(Debug, Clone)]
pub struct Group {
    host: Arc<shim::Group>,
    device: Option<OnDevice>,
    watch: Watch,
    /// This rank's place in the group.
    pub rank: u32,
    /// Members of the group.
    pub size: u32,
}

/// An operation that was begun and is waited for later.
#[derive(Debug)]
#[must_use = "it is not done before it was waited for"]
pub struct Pending {
    work: Work,
    watch: Watch,
    channel: Option<Channel>,
    /// What arrives in the host's memory, and where on a GPU it belongs.
    landing: Option<(Tensor, Tensor)>,
}

impl Pending {
    /// Waits for it.
    pub fn wait(self) -> Result<(), CommError> {
        let (watch, channel) = (self.watch, self.channel);
        self.end(channel)?;
        if let Some(channel) = channel {
            watch.recorder.done(channel);
        }
        Ok(())
    }

    /// Waits for it, and counts it in `channel` for the time of the wait only.
    pub fn wait_in(self, channel: Channel) -> Result<(), CommError> {
        let watch = self.watch;
        watch.recorder.entered(channel);
        self.end(Some(channel))?;
        watch.recorder.done(channel);
        Ok(())
    }

    /// Whether [`Self::follow`] would hold up nobody.
    pub fn is_ready(&self) -> bool {
        self.work.is_ready()
    }

    /// Lets what is computed next come after it, and counts it nowhere. On a GPU only the GPU waits; the host has
    /// to wait for a later operation of the group before it may take this one for done.
    pub fn follow(self) -> Result<(), CommError> {
        self.watch.judge(self.work.order())
    }

    fn end(self, channel: Option<Channel>) -> Result<(), CommError> {
        let Self {
            work,
            watch,
            landing,
            ..
        } = self;
        // Inside of a layer only the GPU waits; everywhere else the host does, so that the page tells the truth
        // and what a fence broke off is not taken for done.
        let outcome = spent::waiting(channel, || match channel {
            Some(Channel::Tensor) => work.order(),
            Some(_) | None => work.wait(),
        });
        watch.judge(outcome)?;
        if let Some((arrived, mut place)) = landing {
            no_grad(|| place.copy_(&arrived));
        }
        Ok(())
    }
}

impl Group {
    /// The group as the linear layers take it.
    pub fn shim(&self) -> &shim::Group {
        match &self.device {
            Some(OnDevice::All(group)) => group,
            Some(OnDevice::Lanes(_)) | None => &self.host,
        }
    }

    /// The generation it belongs to.
    pub const fn watch(&self) -> Watch {
        self.watch
    }

    fn begin(
        &self,
        channel: Option<Channel>,
        tensor: &Tensor,
        begin: impl FnOnce(&shim::Group) -> Result<Work, ShimError>,
    ) -> Result<Pending, CommError> {
        let group = match (way(tensor.device(), false, false), &self.device) {
            (Way::Device, Some(OnDevice::All(group))) => group,
            _ => &self.host,
        };
        self.begin_on(channel, group, begin)
    }

    fn begin_on(
        &self,
        channel: Option<Channel>,
        group: &shim::Group,
        begin: impl FnOnce(&shim::Group) -> Result<Work, ShimError>,
    ) -> Result<Pending, CommError> {
        if let Some(channel) = channel {
            self.watch.recorder.entered(channel);
        }
        let work = self.watch.judge(begin(group))?;
        Ok(Pending {
            work,
            watch: self.watch,
            channel,
            landing: None,
        })
    }

    /// NCCL's group for what lies on a GPU and goes from one member to another.
    fn lane(&self, tensor: &Tensor, from: u32, to: u32) -> Option<&shim::Group> {
        match (&self.device, tensor.device()) {
            (Some(OnDevice::Lanes(lanes)), tch::Device::Cuda(_)) => {
                lanes.get(&(from, to)).map(|group| &**group)
            }
            _ => None,
        }
    }

    /// Adds up `tensor` over the group, in place.
    pub fn sum(&self, channel: Channel, tensor: &Tensor) -> Result<(), CommError> {
        self.begin_sum(channel, tensor)?.wait()
    }

    /// Begins to add up `tensor` over the group, in place.
    pub fn begin_sum(&self, channel: Channel, tensor: &Tensor) -> Result<Pending, CommError> {
        self.begin(Some(channel), tensor, |group| group.sum(tensor))
    }

    /// Begins to send the n-th part of `input` to member n, and to gather what they send, in order. Who waits for
    /// it counts it.
    pub fn begin_all_to_all(&self, output: &Tensor, input: &Tensor) -> Result<Pending, CommError> {
        self.begin(None, input, |group| group.all_to_all(output, input))
    }

    /// Gathers every member's `input`, in order.
    pub fn all_gather(
        &self,
        channel: Channel,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<(), CommError> {
        self.begin_all_gather(channel, output, input)?.wait()
    }

    /// Begins to gather every member's `input`, in order.
    pub fn begin_all_gather(
        &self,
        channel: Channel,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<Pending, CommError> {
        self.begin(Some(channel), input, |group| {
            group.all_gather(output, input)
        })
    }

    /// Begins to send `tensor` to member `to`.
    pub fn send(
        &self,
        channel: Channel,
        tensor: &Tensor,
        to: u32,
        tag: u32,
    ) -> Result<Pending, CommError> {
        if let Some(lane) = self.lane(tensor, self.rank, to) {
            return self.begin_on(Some(channel), lane, |lane| lane.send(tensor, 1, tag));
        }
        let tensor = cuda::home(tensor);
        self.begin_on(Some(channel), &self.host, |group| {
            group.send(&tensor, to, tag)
        })
    }

    /// Begins to receive into `tensor` from member `from`; the wait says in which channel it counts.
    pub fn recv(&self, tensor: &Tensor, from: u32, tag: u32) -> Result<Pending, CommError> {
        if let Some(lane) = self.lane(tensor, from, self.rank) {
            return self.begin_on(None, lane, |lane| lane.recv(tensor, 0, tag));
        }
        if tensor.device() == tch::Device::Cpu {
            return self.begin_on(None, &self.host, |group| group.recv(tensor, from, tag));
        }
        let room = Tensor::empty(tensor.size(), (tensor.kind(), tch::Device::Cpu));
        let pending = self.begin_on(None, &self.host, |group| group.recv(&room, from, tag))?;
        Ok(Pending {
            landing: Some((room, tensor.shallow_clone())),
            ..pending
        })
    }
}

/// Every group of one rank; none where it would be alone in it.
#[derive(Debug)]
pub struct Groups {
    /// The ranks that share its layers.
    pub tensor: Option<Group>,
    /// The ranks that hold the same parameters.
    pub data: Option<Group>,
    /// The stages of its copy of the model.
    pub pipeline: Option<Group>,
    watch: Watch,
    computes_on: tch::Device,
    _watcher: Watcher,
}

impl Groups {
    /// Forms the groups of `rank`; ends early when the generation is fenced.
    pub fn form(
        layout: Layout,
        rank: Rank,
        store: Arc<dyn Store>,
        device: &Arc<Device>,
        watch: Watch,
        connect: Duration,
    ) -> Result<Self, CommError> {
        // On a thread of its own: a peer that was stopped while it connects can hold up Gloo for as
        // long as `connect`, and a fence must not wait for that.
        let (send, news) = mpsc::channel();
        let computes_on = cuda::device();
        let meeting = Meeting {
            store,
            interface: Arc::clone(device),
            connect,
            device: computes_on,
            launches_block: cuda::launches_block(),
        };
        let forming = thread::Builder::new()
            .name("forming".to_owned())
            .spawn(move || {
                // Nobody listens where the fence went up; then the groups close again right here.
                let tell = |news| drop(send.send(news));
                let formed = meeting.form(layout, rank, &tell);
                tell(Forming::Over(formed));
            });
        if let Err(error) = forming {
            return Err(CommError::PeerLost(format!(
                "a thread cannot be started: {error}"
            )));
        }
        let formed = loop {
            match news.recv_timeout(LOOK) {
                Ok(Forming::Begun(channel)) => watch.recorder.entered(channel),
                Ok(Forming::Done(channel)) => watch.recorder.done(channel),
                Ok(Forming::Over(formed)) => break watch.judge(formed)?,
                Err(RecvTimeoutError::Timeout) if watch.fenced() => {
                    return Err(CommError::Fenced(watch.generation));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(watch.failure("the thread that forms the groups panicked"));
                }
            }
        };
        // Gloo's first: what a GPU makes of a group that was dropped under it must not get past the next meeting
        // of the gang.
        let (hosts, devices): (Vec<_>, Vec<_>) =
            formed.iter().flatten().map(Formed::groups).unzip();
        let groups = hosts.into_iter().chain(devices.into_iter().flatten());
        let watcher = Watcher::start(groups.cloned(), watch)
            .map_err(|error| CommError::PeerLost(format!("a thread cannot be started: {error}")))?;
        let [tensor, data, pipeline] = formed.map(|formed| {
            formed.map(|formed| Group {
                host: formed.host,
                device: formed.device,
                watch,
                rank: formed.rank,
                size: formed.size,
            })
        });
        Ok(Self {
            tensor,
            data,
            pipeline,
            watch,
            computes_on,
            _watcher: watcher,
        })
    }

    /// The generation.
    pub const fn watch(&self) -> Watch {
        self.watch
    }

    /// Where the rank computes.
    pub const fn device(&self) -> tch::Device {
        self.computes_on
    }

    /// Adds up `tensor`, which lies in the host's memory, over the whole gang, in place: over the tensor groups, then the data groups,
    /// then the pipelines, so that no group ever has more members than one dimension of the layout.
    pub fn sum_over_world(&self, tensor: &Tensor) -> Result<(), CommError> {
        self.watch.recorder.entered(Channel::World);
        for group in [&self.tensor, &self.data, &self.pipeline]
            .into_iter()
            .flatten()
        {
            let pending = group.begin(None, tensor, |group| group.sum(tensor))?;
            spent::waiting(Some(Channel::World), || pending.wait())?;
        }
        self.watch.recorder.done(Channel::World);
        Ok(())
    }
}

/// The thread that fails every group when the fence goes up.
#[derive(Debug)]
struct Watcher {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    fn start(
        groups: impl Iterator<Item = Arc<shim::Group>>,
        watch: Watch,
    ) -> std::io::Result<Self> {
        // Weak, so that groups close when they are dropped and not when this thread wakes up.
        let groups: Vec<_> = groups.map(|group| Arc::downgrade(&group)).collect();
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let thread = thread::Builder::new()
            .name("fence".to_owned())
            .spawn(move || {
                while !ended.load(Ordering::Acquire) {
                    if watch.fenced() {
                        groups
                            .iter()
                            .filter_map(Weak::upgrade)
                            .for_each(|g| g.abort());
                        return;
                    }
                    thread::park_timeout(LOOK);
                }
            })?;
        Ok(Self {
            over,
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}
