//! Where the answer to a request goes.

use std::fmt;

use super::{Instance, Service, shown_as_text};
use crate::Text;

/// Where the answer to a request goes: the name of a queue, as AMQP's `reply-to`.
///
/// Gear's own are of two kinds: the reply queue of one instance, and the shared
/// queue of a service. A foreign program names a queue of its own, which is reached through the
/// default exchange.
///
/// Such a queue must not be called like a service: an answer to a plain word like `callbacks` is for the
/// service of that name, and goes to the exchange `gear.reply`. A name with a dot, or with another
/// character that no [`Service`] has, is safe (`billing.callbacks`, `billing/callbacks`), as are the
/// names that brokers make up (`amq.gen-…`, `amq.rabbitmq.reply-to.…`); not those that Gear's other
/// queues have ([`is_for_no_reply`](crate::topology::is_for_no_reply)). A queue that keeps its plain
/// name is bound to `gear.reply` with that name as the key, if no service has it.
///
/// ```
/// use gear_api::{ReplyTo, Service};
///
/// let web = Service::new("WEB");
/// assert!(ReplyTo::service(&web).is_gear());
/// assert!(ReplyTo::queue("WEB.host1:reply.6f").is_gear());
/// assert!(!ReplyTo::queue("WEB:dead").is_gear());
/// assert!(!ReplyTo::queue("amq.rabbitmq.reply-to.g1h2").is_gear());
///
/// assert!(ReplyTo::queue("callbacks").is_gear()); // a service for all that Gear knows
/// assert!(!ReplyTo::queue("billing.callbacks").is_gear());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReplyTo {
    queue: Text,
    /// Known from the start, because every reply asks for it.
    gear: bool,
}

const REPLY_INFIX: &str = ":reply.";

impl ReplyTo {
    /// Any one instance of `service`: its reply handler takes the answer.
    #[must_use]
    pub fn service(service: &Service) -> Self {
        Self { queue: service.text().clone(), gear: true }
    }

    /// The reply queue `id` of `instance`. For backends, which make the ids:
    /// `[A-Za-z0-9]`, new for every start, at most 32 characters. The first thousand names of a program
    /// are kept until it ends, since they go with every call.
    #[must_use]
    pub fn instance(instance: &Instance, id: impl fmt::Display) -> Self {
        Self::queue(Text::from(format!("{instance}{REPLY_INFIX}{id}")).kept())
    }

    /// The queue of this name, as a request from the wire gives it.
    #[must_use]
    pub fn queue(name: impl Into<Text>) -> Self {
        let queue = name.into();
        let gear = is_gear(&queue);
        Self { queue, gear }
    }

    /// Whether it is a reply queue or a service, and so is reached through
    /// `gear.reply`. Anything else is somebody's own queue.
    #[must_use]
    pub fn is_gear(&self) -> bool {
        self.gear
    }

    /// Whether it is the reply queue of one instance, where each call has one outcome.
    pub(crate) fn is_instance(&self) -> bool {
        self.gear && self.queue.contains(':')
    }

    /// The name of the queue.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.queue
    }

    /// The name of the queue, to keep.
    #[must_use]
    pub fn key(&self) -> Text {
        self.queue.clone()
    }
}

fn is_gear(queue: &str) -> bool {
    match queue.split_once(REPLY_INFIX) {
        None => queue.parse::<Service>().is_ok(),
        Some((instance, id)) => {
            !id.is_empty()
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && instance.parse::<Instance>().is_ok()
        }
    }
}

shown_as_text!(ReplyTo);
