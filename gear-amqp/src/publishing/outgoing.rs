//! One message on its way out, and who waits for the broker's answer to it.

use std::time::Duration;

use bytes::Bytes;
use gear_api::{
    HandOver, Id, Message, PublishError, ReplyTo, Route, Text,
    topology::{self, exchange},
};
use lapin::message::BasicReturnMessage;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    settings::Settings,
    wire::{Names, Purpose, is_for_no_reply},
};

/// Where a message goes, in terms of AMQP.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Without the system's prefix.
    pub(crate) exchange: Text,
    pub(crate) key: Text,
    /// Whether reaching nobody is an error.
    pub(crate) mandatory: bool,
    pub(crate) purpose: Purpose,
    /// The exchange is one that holds back so long, and may not exist yet.
    pub(crate) delay: Option<Duration>,
}

impl Target {
    /// # Errors
    ///
    /// For a route that this backend does not know, and a reply that may not go where its caller
    /// wants it.
    pub(crate) fn new(route: Route<'_>, settings: &Settings) -> Result<Self, PublishError> {
        let to = |exchange, key, mandatory| Self {
            exchange,
            key,
            mandatory,
            purpose: Purpose::Request,
            delay: None,
        };
        Ok(match route {
            Route::Address(address) => to(exchange::ENTRY, address.key(), true),
            Route::Reply(reply_to) => {
                may_answer(reply_to, settings.options.foreign_replies)?;
                Self::reply(reply_to)
            }
            Route::Event(topic) => {
                Self { purpose: Purpose::Event, ..to(exchange::EVENTS, topic.key(), false) }
            }
            Route::Dead(service) => {
                let key = service.as_str().into();
                Self {
                    purpose: Purpose::Storage { expires: None },
                    ..to(exchange::DEAD, key, true)
                }
            }
            Route::Queue(queue) => {
                let key = settings.names.on_broker(queue).into();
                let purpose = Purpose::Storage { expires: None };
                Self { purpose, ..to(exchange::DEFAULT, key, true) }
            }
            Route::Delayed { delay, jitter, queue } => {
                // What expires goes through the default exchange, which knows queues by their
                // full names.
                let key = settings.names.on_broker(queue).into();
                let name = topology::delay(delay).0.name;
                let sooner = (!jitter.is_zero()).then(|| delay.saturating_sub(jitter));
                let purpose = Purpose::Storage { expires: sooner };
                Self { purpose, delay: Some(delay), ..to(name, key, true) }
            }
            _ => return Err(PublishError::Unsupported("route of this kind")),
        })
    }

    /// Where an answer goes, whoever asked.
    pub(crate) fn reply(to: &ReplyTo) -> Self {
        let (exchange, mandatory) = match to.is_gear() {
            true => (exchange::REPLY, true),
            false => (exchange::DEFAULT, !is_direct(to)),
        };
        let purpose = Purpose::Answer;
        Self { exchange, key: to.key(), mandatory, purpose, delay: None }
    }
}

/// The default exchange knows every queue, and whoever asks names one: an answer may not come
/// where other things are expected.
fn may_answer(to: &ReplyTo, foreign: bool) -> Result<(), PublishError> {
    let refuse = |why| Err(PublishError::Invalid(Text::from_static(why)));
    match to.is_gear() {
        true => Ok(()),
        false if is_for_no_reply(to.as_str()) => {
            refuse("its caller names a queue of a system that is not for replies")
        }
        false if !foreign => refuse("its caller names a foreign queue, which an option forbids"),
        false => Ok(()),
    }
}

/// The broker's pseudo-queues for direct replies: it returns what it has delivered to them
/// (<https://www.rabbitmq.com/docs/direct-reply-to>).
fn is_direct(to: &ReplyTo) -> bool {
    to.as_str().starts_with("amq.rabbitmq.reply-to.")
}

pub(crate) type Answer = Result<(), PublishError>;

/// Who waits for the broker's answer.
#[derive(Debug)]
pub(crate) enum Asker {
    HandedOver(oneshot::Sender<Answer>),
    /// Can still withdraw the message.
    Waiting(oneshot::Sender<HandOver>),
    /// Has been answered.
    Nobody,
}

/// One message on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) target: Target,
    pub(crate) message: Message,
    pub(crate) deadline: Option<Instant>,
    pub(crate) asker: Asker,
    /// Bytes of its body.
    pub(crate) size: usize,
    /// It was given to a connection.
    pub(crate) handed_over: bool,
    /// A channel that it was on is gone, and not because of it: it may have arrived then.
    pub(crate) lost: bool,
    /// It was written, it expired, and only its confirm is still to come.
    pub(crate) abandoned: bool,
    /// It was on a channel that the broker closed, and may be the reason.
    pub(crate) suspect: bool,
    /// It came back because nothing held it back, and goes once more.
    pub(crate) declared_again: bool,
    /// Channels that were closed while it alone was on its way.
    pub(crate) alone_when_closed: u8,
}

impl Outgoing {
    /// Whether the broker returned this one.
    pub(crate) fn is(&self, returned: &BasicReturnMessage, names: &Names) -> bool {
        let properties = &returned.delivery.properties;
        let Some(id) = properties.message_id().as_ref().map(|id| Id::from(id.as_str())) else {
            return false;
        };
        self.target.mandatory
            && self.message.id() == Some(&id)
            && self.target.key == returned.delivery.routing_key.as_str()
            // What is set aside keeps its id, and has a key that a service has, too.
            && names.on_broker(&self.target.exchange) == returned.delivery.exchange.as_str()
    }

    pub(crate) fn answer(&mut self, answer: Answer) {
        // Whoever does not want to know has dropped the other end.
        match std::mem::replace(&mut self.asker, Asker::Nobody) {
            Asker::HandedOver(asker) => drop(asker.send(answer)),
            Asker::Waiting(asker) => {
                if let Err(error) = answer {
                    let _ = asker.send(Err(error));
                }
            }
            Asker::Nobody => {}
        }
    }

    /// Tells whoever waits that the message leaves now. Returns whether it shall: not if it was
    /// withdrawn.
    pub(crate) fn hand_over(&mut self) -> bool {
        match std::mem::replace(&mut self.asker, Asker::Nobody) {
            Asker::Waiting(asker) => {
                let (answer, receiver) = oneshot::channel();
                self.asker = Asker::HandedOver(answer);
                asker.send(Ok(receiver)).is_ok()
            }
            asker => {
                self.asker = asker;
                true
            }
        }
    }

    /// Whether it was withdrawn before it left.
    pub(crate) fn is_withdrawn(&self) -> bool {
        matches!(&self.asker, Asker::Waiting(asker) if asker.is_closed())
    }

    /// The broker does not take it, or it can not be sent to this one.
    pub(crate) fn refuse(&mut self, error: PublishError) {
        self.answer(Err(if self.lost { error.of_another_try() } else { error }));
    }

    /// What the broker says when it is not the first that has it.
    pub(crate) fn again(&self, error: PublishError) -> PublishError {
        if self.lost || self.suspect { error.of_another_try() } else { error }
    }

    /// Nobody waits for it any more: what tells its return from others is all that is kept of it.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        self.message = self.message.to_builder().body(Bytes::new()).build();
    }

    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }

    /// Whether whoever sent it has been answered.
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.asker, Asker::Nobody)
    }

    /// It will not be sent any more.
    pub(crate) fn give_up(&mut self, why: &'static str) {
        let why = Text::from_static(why);
        self.answer(Err(if self.handed_over {
            PublishError::Unknown(why)
        } else {
            PublishError::NotSent(why)
        }));
    }
}

#[cfg(test)]
impl Outgoing {
    /// One that has left.
    pub(crate) fn of_test(size: usize, deadline: Option<Instant>) -> Self {
        let builder = crate::AmqpBuilder::new("amqp://localhost").expect("a good URL");
        let to: gear_api::Address = "CTRL".parse().expect("a good address");
        let target = Target::new(Route::Address(&to), &Settings::new(builder));
        let message = Message::builder(gear_api::Kind::Cast, "note").body(vec![0; size]);
        Self {
            target: target.expect("a good route"),
            message: message.build(),
            deadline,
            asker: Asker::HandedOver(oneshot::channel().0),
            size,
            handed_over: true,
            lost: false,
            abandoned: false,
            suspect: false,
            declared_again: false,
            alone_when_closed: 0,
        }
    }
}
