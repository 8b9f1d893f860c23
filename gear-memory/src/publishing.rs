//! From a route to the model: where messages go, what their publishers are told, and what
//! happens to those that can not go yet.

use std::{sync::Arc, time::Duration};

use gear_api::{
    Message, Publish, PublishError, Route, Text,
    topology::{self, QueueType},
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    fault::BrokerFault,
    model::{ConnectionId, ExchangeId, Outcome, Refusal},
    now::Now,
    record::Event,
    shared::{Shared, State},
    waiting::{Asker, HandedOver, Waiting},
};

/// Where a message goes, in terms of the model.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    exchange: ExchangeId,
    key: Text,
    /// Whether reaching nobody is an error.
    mandatory: bool,
    expires: Option<Instant>,
    /// It expires so long after it was routed.
    leaves_after: Option<Duration>,
    /// Whether it is not sent once its deadline has passed: that is for requests and events, and
    /// not for what answers one, or is kept.
    perishable: bool,
}

impl Target {
    /// When it is of no use to send it any more.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.expires.filter(|_| self.perishable)
    }

    pub(crate) fn is_late(&self, now: &Now) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now.get())
    }

    pub(crate) fn key(&self) -> &Text {
        &self.key
    }

    /// Routes a message to where it goes.
    #[inline(always)]
    pub(crate) fn route(self, state: &mut State, message: Message, now: &Now) -> Routed {
        let expires = match self.leaves_after {
            None => self.expires,
            Some(time) => Some(now.after(time)),
        };
        let outcome = state.model.publish(self.exchange, self.key, message, expires, now);
        Routed { outcome, mandatory: self.mandatory }
    }
}

/// What became of a message that was routed.
pub(crate) struct Routed {
    outcome: Outcome,
    mandatory: bool,
}

impl Routed {
    /// What its publisher is told.
    #[inline]
    pub(crate) fn answer(self) -> Result<(), PublishError> {
        if self.outcome.refused {
            Err(PublishError::Refused(Text::from_static("a queue is full")))
        } else if self.outcome.queues == 0 && self.mandatory {
            Err(PublishError::NotRouted)
        } else {
            Ok(())
        }
    }
}

/// How long a publisher waits for a confirm that is lost.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
const NOT_FOR_REPLIES: Text =
    Text::from_static("its caller names a queue of a system that is not for replies");

impl Shared {
    pub(crate) fn target(
        self: &Arc<Self>,
        route: Route<'_>,
        message: &Message,
    ) -> Result<Target, PublishError> {
        let exchanges = &self.exchanges;
        let expires = message.deadline().map(|deadline| self.clock.instant(deadline));
        let target = |exchange, key, mandatory| Target {
            exchange,
            key,
            mandatory,
            expires: None,
            leaves_after: None,
            perishable: false,
        };
        Ok(match route {
            Route::Address(address) => {
                let key = address.key();
                let exchange = exchanges.entry;
                Target { expires, perishable: true, ..target(exchange, key, true) }
            }
            Route::Reply(to) => {
                if !to.is_gear() && topology::is_for_no_reply(to.as_str()) {
                    return Err(PublishError::Invalid(NOT_FOR_REPLIES));
                }
                let exchange = if to.is_gear() { exchanges.reply } else { exchanges.default };
                // Some brokers return what they delivered to a direct reply address.
                let mandatory = !to.as_str().starts_with("amq.rabbitmq.reply-to.");
                Target { expires, ..target(exchange, to.key(), mandatory) }
            }
            Route::Event(topic) => {
                let key = topic.key();
                let exchange = exchanges.events;
                Target { expires, perishable: true, ..target(exchange, key, false) }
            }
            Route::Dead(service) => {
                let key = service.as_str().into();
                let exchange = exchanges.dead;
                target(exchange, key, true)
            }
            Route::Queue(queue) => target(exchanges.default, queue.into(), true),
            Route::Delayed { delay, jitter, queue } => {
                let declared =
                    self.with(|state, now| declare_delay(state, delay, self.queue_type, now));
                let exchange = declared
                    .map_err(|refusal| PublishError::Refused(refusal.to_string().into()))?;
                let sooner = (!jitter.is_zero()).then(|| delay.saturating_sub(jitter));
                Target { leaves_after: sooner, ..target(exchange, queue.into(), true) }
            }
            _ => return Err(PublishError::Unsupported("route of this kind")),
        })
    }

    /// Hands a message over, with the fault that hits it. `number` is its place in the order of
    /// sending.
    pub(crate) fn hand_over(&self, state: &mut State, number: u64, sent: HandedOver, now: &Now) {
        let HandedOver { target, message, .. } = &sent;
        let fault = state.faults.next(&target.key);
        if let Some(fault) = fault {
            state.model.note(now, || Event::fault(fault, target.key.clone(), message));
        }
        let told = match fault {
            None => target.clone().route(state, message.clone(), now).answer(),
            Some(BrokerFault::Refuse) => {
                Err(PublishError::Refused(Text::from_static("a fault was injected")))
            }
            Some(BrokerFault::LoseConfirm) => {
                target.clone().route(state, message.clone(), now);
                return lose_confirm(state, number, sent, now);
            }
            Some(BrokerFault::Duplicate) => {
                target.clone().route(state, message.clone(), now);
                target.clone().route(state, message.clone(), now).answer()
            }
            Some(fault) => {
                let mut queues = Vec::new();
                state.model.find_queues(target.exchange, &target.key, &mut queues);
                if queues.is_empty() && target.mandatory {
                    Err(PublishError::NotRouted)
                } else {
                    if let BrokerFault::Delay(delay) = fault {
                        let number = state.number();
                        state.model.activity += 1;
                        let held = (target.clone(), message.clone());
                        state.held.insert((now.after(delay), number), held);
                    }
                    Ok(())
                }
            }
        };
        sent.answer(told);
    }

    /// Sends where something is in the way: a cut link, an alarm, a fault.
    pub(crate) fn send_slowly(
        self: &Arc<Self>,
        connection: ConnectionId,
        target: Target,
        message: Message,
    ) -> Publish {
        let deadline = target.deadline();
        let (hand_over, mut receiver) = oneshot::channel();
        // What is settled already need not be in the way.
        self.settle_all();
        self.with(|state, _| {
            let asker = Asker::Waiting(hand_over);
            state.wait(Waiting { connection, target, message, deadline, asker });
        });
        // `with` has handed it over already if it could.
        match receiver.try_recv() {
            Ok(Ok(answer)) => Publish::handed_over(answer),
            Ok(Err(error)) => Publish::ready(Err(error)),
            Err(_) => Publish::waiting(receiver),
        }
    }
}

fn declare_delay(
    state: &mut State,
    delay: Duration,
    queue_type: QueueType,
    now: &Now,
) -> Result<ExchangeId, Refusal> {
    let (exchange, mut declaration) = topology::delay(delay);
    declaration.queue.queue_type = queue_type;
    let exchange = state.model.declare_exchange(&exchange)?;
    let nobody = ConnectionId::default();
    let queue = state.model.declare_queue(&declaration.queue, nobody, now)?;
    for binding in &declaration.bindings {
        state.model.bind(queue, exchange, &binding.key)?;
    }
    Ok(exchange)
}

/// A confirm that never comes: the publisher gives up at the deadline, or after a while.
fn lose_confirm(state: &mut State, number: u64, sent: HandedOver, now: &Now) {
    let limit = now.after(CONFIRM_TIMEOUT);
    let until = sent.deadline.map_or(limit, |deadline| deadline.min(limit));
    state.unconfirmed.insert((until, number), sent);
}
