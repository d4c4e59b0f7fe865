//! The groups of one rank in one generation, how they are formed and how a fence ends them.

use super::{CommError, Store, Watch, spent};
use crate::shim::{self, Device, Work};
use rebloom_core::flight::Channel;
use rebloom_core::id::Rank;
use rebloom_core::layout::Layout;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tch::Tensor;

/// How often the fence is looked at: often enough that nobody notices, seldom enough to cost nothing.
const LOOK: Duration = Duration::from_millis(8);

/// One process group and how its waits end.
#[derive(Debug, Clone)]
pub struct Group {
    inner: Arc<shim::Group>,
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
}

impl Pending {
    /// Waits for it.
    pub fn wait(self) -> Result<(), CommError> {
        self.watch
            .judge(spent::waiting(self.channel, || self.work.wait()))?;
        if let Some(channel) = self.channel {
            self.watch.recorder.done(channel);
        }
        Ok(())
    }

    /// Waits for it, and counts it in `channel` for the time of the wait only.
    pub fn wait_in(self, channel: Channel) -> Result<(), CommError> {
        self.watch.recorder.entered(channel);
        self.watch
            .judge(spent::waiting(Some(channel), || self.work.wait()))?;
        self.watch.recorder.done(channel);
        Ok(())
    }
}

impl Group {
    /// The group as the linear layers take it.
    pub fn shim(&self) -> &shim::Group {
        &self.inner
    }

    /// The generation it belongs to.
    pub const fn watch(&self) -> Watch {
        self.watch
    }

    fn begin(
        &self,
        channel: Option<Channel>,
        begin: impl FnOnce(&shim::Group) -> Result<Work, shim::ShimError>,
    ) -> Result<Pending, CommError> {
        if let Some(channel) = channel {
            self.watch.recorder.entered(channel);
        }
        let work = self.watch.judge(begin(&self.inner))?;
        Ok(Pending {
            work,
            watch: self.watch,
            channel,
        })
    }

    /// Adds up `tensor` over the group, in place.
    pub fn sum(&self, channel: Channel, tensor: &Tensor) -> Result<(), CommError> {
        self.begin_sum(channel, tensor)?.wait()
    }

    /// Begins to add up `tensor` over the group, in place.
    pub fn begin_sum(&self, channel: Channel, tensor: &Tensor) -> Result<Pending, CommError> {
        self.begin(Some(channel), |group| group.sum(tensor))
    }

    /// Sends the n-th part of `input` to member n, and gathers what they send, in order.
    pub fn all_to_all(
        &self,
        channel: Channel,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<(), CommError> {
        self.begin(Some(channel), |group| group.all_to_all(output, input))?
            .wait()
    }

    /// Gathers every member's `input`, in order.
    pub fn all_gather(
        &self,
        channel: Channel,
        output: &Tensor,
        input: &Tensor,
    ) -> Result<(), CommError> {
        self.begin(Some(channel), |group| group.all_gather(output, input))?
            .wait()
    }

    /// Begins to send `tensor` to member `to`.
    pub fn send(
        &self,
        channel: Channel,
        tensor: &Tensor,
        to: u32,
        tag: u32,
    ) -> Result<Pending, CommError> {
        self.begin(Some(channel), |group| group.send(tensor, to, tag))
    }

    /// Begins to receive into `tensor` from member `from`; the wait says in which channel it counts.
    pub fn recv(&self, tensor: &Tensor, from: u32, tag: u32) -> Result<Pending, CommError> {
        self.begin(None, |group| group.recv(tensor, from, tag))
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
        let device = Arc::clone(device);
        let forming = thread::Builder::new()
            .name("forming".to_owned())
            .spawn(move || {
                // Nobody listens where the fence went up; then the groups close again right here.
                let tell = |news| drop(send.send(news));
                let formed = connect_all(layout, rank, &store, &device, connect, &tell);
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
        let watcher = Watcher::start(formed.iter().flatten().map(|(g, ..)| Arc::clone(g)), watch)
            .map_err(|error| {
            CommError::PeerLost(format!("a thread cannot be started: {error}"))
        })?;
        let [tensor, data, pipeline] = formed.map(|formed| {
            formed.map(|(inner, rank, size)| Group {
                inner,
                watch,
                rank,
                size,
            })
        });
        Ok(Self {
            tensor,
            data,
            pipeline,
            watch,
            _watcher: watcher,
        })
    }

    /// The generation.
    pub const fn watch(&self) -> Watch {
        self.watch
    }

    /// Where the tensors lie that they carry.
    pub const fn device(&self) -> tch::Device {
        tch::Device::Cpu
    }

    /// Adds up `tensor` over the whole gang, in place: over the tensor groups, then the data groups,
    /// then the pipelines, so that no group ever has more members than one dimension of the layout.
    pub fn sum_over_world(&self, tensor: &Tensor) -> Result<(), CommError> {
        self.watch.recorder.entered(Channel::World);
        for group in [&self.tensor, &self.data, &self.pipeline]
            .into_iter()
            .flatten()
        {
            let pending = group.begin(None, |group| group.sum(tensor))?;
            spent::waiting(Some(Channel::World), || pending.wait())?;
        }
        self.watch.recorder.done(Channel::World);
        Ok(())
    }
}

type Formed = Option<(Arc<shim::Group>, u32, u32)>;

/// What the forming thread says. It counts as an operation of the group, so that the page shows who
/// waits for whom; only who waits for this thread may write the page, since a fence leaves it behind.
enum Forming {
    Begun(Channel),
    Done(Channel),
    Over(Result<[Formed; 3], shim::ShimError>),
}

fn connect_all(
    layout: Layout,
    rank: Rank,
    store: &Arc<dyn Store>,
    device: &Device,
    connect: Duration,
    tell: &dyn Fn(Forming),
) -> Result<[Formed; 3], shim::ShimError> {
    let one = |name: &str, channel: Channel, members: Vec<Rank>| {
        let size = u32::try_from(members.len()).unwrap_or(u32::MAX);
        if size == 1 {
            return Ok(None);
        }
        let place = members.iter().position(|&member| member == rank);
        let place = u32::try_from(place.unwrap_or_default()).unwrap_or_default();
        let prefix = format!("{name}{}", members[0]);
        tell(Forming::Begun(channel));
        let group = shim::Group::form(Arc::clone(store), &prefix, place, size, device, connect)?;
        tell(Forming::Done(channel));
        Ok(Some((Arc::new(group), place, size)))
    };
    Ok([
        one("t", Channel::Tensor, layout.tensor_group(rank))?,
        one("d", Channel::Data, layout.data_group(rank))?,
        // The last one: whoever is not in it yet is waited for.
        one("p", Channel::World, layout.pipeline_group(rank))?,
    ])
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
