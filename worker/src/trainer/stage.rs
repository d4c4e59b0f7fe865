//! How a rank takes its micro-batches through its stage: what it receives, computes and sends.

use super::{StepError, Trainer};
use crate::comm::spent::{Part, computing};
use crate::comm::{Group, Pending};
use crate::data::numbers;
use crate::model::InFlight;
use crate::optim::Final;
use crate::pipeline::{self, Action};
use rebloom_core::flight::Channel;
use std::collections::VecDeque;
use tch::{Kind, Tensor};

/// Tag of what the two ends of the pipeline tell each other.
pub(super) const TIED: u32 = 1 << 30;

pub(super) const fn activation_tag(micro: u32) -> u32 {
    2 * micro
}

const fn gradient_tag(micro: u32) -> u32 {
    2 * micro + 1
}

/// What arrives from a neighbour, in order; the next one is always asked for before this one is used, so
/// that it travels while this rank computes.
pub(super) struct Inbox<'a> {
    group: &'a Group,
    from: u32,
    channel: Channel,
    tag: fn(u32) -> u32,
    next: u32,
    end: u32,
    arriving: Option<(Tensor, Pending)>,
}

impl<'a> Inbox<'a> {
    /// What arrives from stage `from`, once for each of `end` micro-batches.
    pub(super) fn new(
        group: &'a Group,
        from: u32,
        channel: Channel,
        tag: fn(u32) -> u32,
        end: u32,
    ) -> Self {
        Self {
            group,
            from,
            channel,
            tag,
            next: 0,
            end,
            arriving: None,
        }
    }

    fn ask(&mut self, empty: &impl Fn() -> Tensor) -> Result<(), StepError> {
        if self.arriving.is_none() && self.next < self.end {
            let tensor = empty();
            let pending = self.group.recv(&tensor, self.from, (self.tag)(self.next))?;
            self.next += 1;
            self.arriving = Some((tensor, pending));
        }
        Ok(())
    }

    pub(super) fn take(&mut self, empty: &impl Fn() -> Tensor) -> Result<Tensor, StepError> {
        self.ask(empty)?;
        let (tensor, pending) = self.arriving.take().expect("a micro-batch is taken once");
        pending.wait_in(self.channel)?;
        self.ask(empty)?;
        Ok(tensor)
    }
}

/// What is on its way to a neighbour.
pub(super) struct Outbox<'a> {
    group: &'a Group,
    to: u32,
    channel: Channel,
    tag: fn(u32) -> u32,
    leaving: Option<Pending>,
}

impl<'a> Outbox<'a> {
    /// What leaves for stage `to`.
    pub(super) const fn new(
        group: &'a Group,
        to: u32,
        channel: Channel,
        tag: fn(u32) -> u32,
    ) -> Self {
        Self {
            group,
            to,
            channel,
            tag,
            leaving: None,
        }
    }

    pub(super) fn send(&mut self, tensor: &Tensor, micro: u32) -> Result<(), StepError> {
        self.finish()?;
        let tag = (self.tag)(micro);
        self.leaving = Some(self.group.send(self.channel, tensor, self.to, tag)?);
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), StepError> {
        self.leaving
            .take()
            .map_or(Ok(()), |pending| Ok(pending.wait()?))
    }
}

impl Trainer {
    /// Runs every micro-batch of one step; answers this rank's part of the mean loss, which nobody has waited for.
    /// Where it `overlaps`, gradients are reduced as soon as the last micro-batch makes them final.
    pub(super) fn run_pipeline(&mut self, overlaps: bool) -> Result<Tensor, StepError> {
        let Self {
            spec,
            at,
            stage,
            model,
            optimizer,
            reader,
            groups,
            samples,
            ..
        } = self;
        let micros = spec.micro_batches(spec.train.batch(*samples));
        let micro_batch = spec.train.micro_batch;
        let tokens = f64::from(micro_batch) * f64::from(spec.model.sequence);
        let scale = 1.0 / (tokens * f64::from(micros) * f64::from(spec.layout.data));
        let counts_loss = at.tensor == 0;

        let group = groups.pipeline.as_ref();
        let (here, last) = (at.stage, spec.layout.pipeline - 1);
        let before = group.zip(here.checked_sub(1));
        let behind = group.zip((here < last).then_some(here + 1));
        let (forward, backward) = (activation_tag, gradient_tag);
        let mut from_before =
            before.map(|(g, from)| Inbox::new(g, from, Channel::ForwardIn, forward, micros));
        let mut to_behind = behind.map(|(g, to)| Outbox::new(g, to, Channel::ForwardOut, forward));
        let mut from_behind =
            behind.map(|(g, from)| Inbox::new(g, from, Channel::BackwardIn, backward, micros));
        let mut to_before =
            before.map(|(g, to)| Outbox::new(g, to, Channel::BackwardOut, backward));

        for inbox in [&mut from_before, &mut from_behind].into_iter().flatten() {
            inbox.ask(&|| model.activations(micro_batch))?;
        }
        let mut loss = Tensor::zeros([], (Kind::Double, groups.device()));
        let mut in_flight: VecDeque<(InFlight, Option<Tensor>, Option<Tensor>)> = VecDeque::new();
        for action in pipeline::order(at.stage, spec.layout.pipeline, micros) {
            match action {
                Action::Forward(micro) => {
                    let numbers = numbers(spec, *samples, at.data, micro);
                    let batch = if stage.is_first || stage.is_last {
                        Some(reader.read(numbers.clone()).map_err(StepError::Data)?)
                    } else {
                        None
                    };
                    let (words, targets) = batch.unzip();
                    let words = words.filter(|_| stage.is_first);
                    let input = match (&words, &mut from_before) {
                        (Some(words), _) => model.embed(words)?,
                        (None, Some(inbox)) => inbox.take(&|| model.activations(micro_batch))?,
                        (None, None) => {
                            unreachable!("a stage that is not the first has one before it")
                        }
                    };
                    let pass = computing(Part::Forward, || model.forward(input, Some(numbers)))?;
                    let mut grad = None;
                    if let Some(outbox) = &mut to_behind {
                        outbox.send(&pass.output(), micro)?;
                    } else if let Some(targets) = targets {
                        let loss_of = || model.loss(&pass, &targets, scale);
                        let (part, output_grad) = computing(Part::Forward, loss_of)?;
                        if counts_loss {
                            loss += part;
                        }
                        grad = Some(output_grad);
                    }
                    in_flight.push_back((pass, words, grad));
                }
                Action::Backward(micro) => {
                    let (pass, words, grad) = in_flight
                        .pop_front()
                        .expect("each backward pass follows its forward pass");
                    let grad = match (grad, &mut from_behind) {
                        (Some(grad), _) => grad,
                        (None, Some(inbox)) => inbox.take(&|| model.activations(micro_batch))?,
                        (None, None) => {
                            unreachable!("a stage that is not the last has one behind it")
                        }
                    };
                    let is_final = overlaps && micro + 1 == micros;
                    let done = |block| match is_final {
                        true => Ok(optimizer.finish(Final::Block(block))?),
                        false => Ok(()),
                    };
                    let grad = computing(Part::Backward, || model.backward(pass, grad, done))?;
                    if let Some(outbox) = &mut to_before {
                        outbox.send(&grad, micro)?;
                    }
                    if let Some(words) = words {
                        computing(Part::Backward, || model.learn_words(&words, &grad));
                    }
                }
            }
        }
        for outbox in [&mut to_behind, &mut to_before].into_iter().flatten() {
            outbox.finish()?;
        }
        Ok(loss)
    }
}
