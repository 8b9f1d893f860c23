//! The wire contract as data: the exchanges, queues and bindings that a subscription
//! needs, and the names of the headers.
//!
//! Backends that speak AMQP, or emulate it, declare exactly this; nothing else in the
//! library knows the names.

use std::time::Duration;

use crate::{
    Address, EventGroup, Feed, Headers, Instance, Message, Pattern, ReplyTo, Service, Text,
};

/// The exchanges.
pub mod exchange {
    use crate::Text;

    /// The one public entry: topic.
    pub const ENTRY: Text = Text::from_static("gear");
    /// Literal comparison of group keys: direct, internal.
    pub const CAST: Text = Text::from_static("gear.cast");
    /// Replies: direct.
    pub const REPLY: Text = Text::from_static("gear.reply");
    /// Events: topic.
    pub const EVENTS: Text = Text::from_static("gear.events");
    /// What was set aside: direct.
    pub const DEAD: Text = Text::from_static("gear.dead");
    /// The broker's own, which routes by queue name: direct.
    pub const DEFAULT: Text = Text::EMPTY;
}

/// The headers that Gear sets; users can not set them.
pub mod header {
    /// [`Kind`](crate::Kind), as a word. A request without it is a cast, or a call if it says where
    /// the answer goes.
    pub const KIND: &str = "gear-kind";
    /// The deadline, in milliseconds since 1970.
    pub const DEADLINE: &str = "gear-deadline";
    /// How often it was tried before.
    pub const ATTEMPT: &str = "gear-attempt";
    /// How many services have handed it on.
    pub const HOPS: &str = "gear-hops";
    /// In a reply: the code of the failure.
    pub const ERROR: &str = "gear-error";
    /// On what was handed on, and asks something else since: what whoever asked has asked.
    pub const ASKED: &str = "gear-asked";
    /// On what was handed on, and on its answer: the instance that was asked.
    pub const ASKED_OF: &str = "gear-asked-of";
    /// On what was handed on and came through a group: that group.
    pub const GROUP: &str = "gear-group";
    /// On what was held back or set aside: the key that it was sent under, if that is not the name of the
    /// queue that it came from.
    pub const KEY: &str = "gear-key";
    /// On what was set aside: why.
    pub const DEAD_REASON: &str = "gear-dead-reason";
    /// On what was set aside: the queue that it came from.
    pub const DEAD_QUEUE: &str = "gear-dead-queue";
    /// The trace that it belongs to (W3C Trace Context).
    pub const TRACEPARENT: &str = "traceparent";
    /// What tracing systems add to it (W3C Trace Context).
    pub const TRACESTATE: &str = "tracestate";
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By patterns.
    Topic,
    /// By equality.
    Direct,
    /// To all.
    Fanout,
}

/// An exchange. All are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: Text,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Whether clients may not publish to it.
    pub internal: bool,
}

/// How a queue stores: the broker's types of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueType {
    /// On one node of the broker.
    #[default]
    Classic,
    /// On a majority of the nodes.
    Quorum,
}

/// A queue. All but the exclusive ones are durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Queue {
    /// Its name; empty if the broker shall choose one.
    pub name: Text,
    /// Whether it belongs to the connection and ends with it.
    pub exclusive: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// How it stores.
    pub queue_type: QueueType,
    /// Deleted when unused for so long (`x-expires`).
    pub expires: Option<Duration>,
    /// Its messages expire after so long (`x-message-ttl`).
    pub message_ttl: Option<Duration>,
    /// Where expired, rejected and surplus messages go (`x-dead-letter-exchange`).
    pub dead_letter_exchange: Option<Text>,
    /// At most so many messages; the oldest go first (`x-max-length`).
    pub max_length: Option<u32>,
}

/// A binding of a queue to an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The exchange.
    pub exchange: Text,
    /// The pattern, or the key.
    pub key: Text,
}

/// What one subscription needs to exist: its queue, and what leads there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// The queue that is consumed.
    pub queue: Queue,
    /// What leads there.
    pub bindings: Vec<Binding>,
    /// Bindings that an older layout may have left, to be removed.
    pub stale: Vec<Binding>,
}

/// A reply queue that nobody uses goes after this time.
pub const REPLY_QUEUE_EXPIRES: Duration = Duration::from_secs(10 * 60);
/// An instance queue that nobody uses goes after this time, with what is in it.
pub const INSTANCE_QUEUE_EXPIRES: Duration = Duration::from_secs(24 * 60 * 60);
/// A tap that nobody reads keeps so many messages.
pub const TAP_MAX_LENGTH: u32 = 10_000;

/// How long a cast or an event that failed is held back before it is tried again: the first time, the
/// second, and so on; the last from then on.
pub const RETRY_STEPS: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(60 * 60),
];

/// How often a request may be handed on from service to service.
pub const MAX_HOPS: u32 = 16;

/// The exchanges that every node declares.
#[must_use]
pub fn exchanges() -> [Exchange; 5] {
    use ExchangeKind::{Direct, Topic};
    [
        Exchange { name: exchange::ENTRY, kind: Topic, internal: false },
        Exchange { name: exchange::CAST, kind: Direct, internal: true },
        Exchange { name: exchange::REPLY, kind: Direct, internal: false },
        Exchange { name: exchange::EVENTS, kind: Topic, internal: false },
        Exchange { name: exchange::DEAD, kind: Direct, internal: false },
    ]
}

/// The one binding between exchanges: `gear --"*.*"--> gear.cast`. In AMQP the wildcard
/// is in the binding: a queue bound to `gear` with `CTRL.*` would get every
/// `CTRL.host2` too, so the group keys are compared by a direct exchange.
pub const CAST_BINDING: (Text, Text, Text) =
    (exchange::ENTRY, exchange::CAST, Address::BROADCAST_KEY);

fn bind(exchange: Text, key: impl Into<Text>) -> Binding {
    Binding { exchange, key: key.into() }
}

/// The queue that the instances of a service share.
#[must_use]
pub fn service(service: &Service) -> Declaration {
    let key = Address::from(service).key();
    Declaration {
        bindings: vec![bind(exchange::ENTRY, key.clone()), bind(exchange::REPLY, key.clone())],
        queue: Queue { name: key, ..Queue::default() },
        stale: Vec::new(),
    }
}

/// The queue of what a service has set aside.
#[must_use]
pub fn dead(service: &Service) -> Declaration {
    Declaration {
        queue: Queue { name: format!("{service}:dead").into(), ..Queue::default() },
        bindings: vec![bind(exchange::DEAD, service.as_str())],
        stale: Vec::new(),
    }
}

/// A message as it is set aside, for [`Route::Dead`](crate::Route::Dead): it came to `queue` under `key`,
/// and the headers of [`header`] say so, and why it is there. It has no deadline any more, and neither tries
/// nor hops: whoever puts it back has it handled as a new one. For backends, which set aside what is
/// dropped unsettled again and again.
///
/// ```
/// use gear_api::{Kind, Message, topology::{dead_letter, header}};
///
/// let event = Message::builder(Kind::Event, "placed").attempt(6).build();
/// let dead = dead_letter(&event, "SHOP:events.mail", "orders.eu", "no such address");
/// let text = |name| dead.headers().get(name).and_then(|value| value.as_str());
/// assert_eq!(text(header::DEAD_REASON), Some("no such address (tried 7 times)"));
/// assert_eq!(text(header::DEAD_QUEUE), Some("SHOP:events.mail"));
/// assert_eq!(text(header::KEY), Some("orders.eu"));
/// assert_eq!(dead.attempt(), 0);
/// ```
#[must_use]
pub fn dead_letter(message: &Message, queue: &str, key: &str, reason: &str) -> Message {
    /// Of a reason; the rest is cut off.
    const MAX_CHARS: usize = 1024;
    let mut dead = message.to_builder().attempt(0).hops(0).durable(true).deadline(None);
    let mut why: String = reason.chars().take(MAX_CHARS).collect();
    if message.attempt() > 0 {
        why.push_str(&format!(" (tried {} times)", u64::from(message.attempt()) + 1));
    }
    note_key(dead.headers_mut(), queue, key);
    for (name, value) in [(header::DEAD_QUEUE, queue), (header::DEAD_REASON, &*why)] {
        // Headers that are full already lose the note, not the message.
        let _ = dead.headers_mut().insert_reserved(Text::from_static(name), value.into());
    }
    dead.build()
}

/// What comes back to a queue has the queue's name as its key. What was noted before stays.
pub(crate) fn note_key(headers: &mut Headers, queue: &str, key: &str) {
    if key != queue {
        let _ = headers.insert_reserved(Text::from_static(header::KEY), key.into());
    }
}

/// The queue of one instance.
#[must_use]
pub fn instance(instance: &Instance) -> Declaration {
    let key = Address::from(instance).key();
    let multicast = instance.service().all().key();
    Declaration {
        bindings: vec![
            bind(exchange::ENTRY, key.clone()),
            bind(exchange::CAST, multicast.clone()),
            bind(exchange::CAST, Address::BROADCAST_KEY),
        ],
        stale: vec![
            bind(exchange::ENTRY, multicast),
            bind(exchange::ENTRY, Address::BROADCAST_KEY),
        ],
        queue: Queue { name: key, expires: Some(INSTANCE_QUEUE_EXPIRES), ..Queue::default() },
    }
}

/// The queue of the answers to one start of a node.
#[must_use]
pub fn replies(at: &ReplyTo) -> Declaration {
    Declaration {
        queue: Queue { name: at.key(), expires: Some(REPLY_QUEUE_EXPIRES), ..Queue::default() },
        bindings: vec![bind(exchange::REPLY, at.key())],
        stale: Vec::new(),
    }
}

/// The queue of an event group.
#[must_use]
pub fn events(group: &EventGroup, patterns: &[Pattern]) -> Declaration {
    Declaration {
        queue: Queue { name: group.as_str().into(), ..Queue::default() },
        bindings: patterns.iter().map(|pattern| bind(exchange::EVENTS, pattern.key())).collect(),
        stale: Vec::new(),
    }
}

/// The queue of a tap. The broker names it.
#[must_use]
pub fn tap(feed: Feed, pattern: &Pattern) -> Declaration {
    let exchange = match feed {
        Feed::Requests => exchange::ENTRY,
        Feed::Events => exchange::EVENTS,
    };
    Declaration {
        queue: Queue {
            exclusive: true,
            auto_delete: true,
            max_length: Some(TAP_MAX_LENGTH),
            ..Queue::default()
        },
        bindings: vec![bind(exchange, pattern.key())],
        stale: Vec::new(),
    }
}

/// Whether a queue of this name is one of Gear's that no reply may come to: an event group's, or
/// one of what was set aside or is held back.
///
/// The default exchange knows every queue, and whoever asks names the one for the answer: a
/// backend checks this before it sends [`Route::Reply`](crate::Route::Reply) there. The names of
/// instances' queues are not among them: a foreign program may call its own so, and a node drops a
/// reply that comes there.
///
/// ```
/// use gear_api::topology::is_for_no_reply;
///
/// assert!(is_for_no_reply("CTRL:dead") && is_for_no_reply("gear:retry.1000"));
/// assert!(!is_for_no_reply("CTRL") && !is_for_no_reply("their.replies"));
/// ```
#[must_use]
pub fn is_for_no_reply(queue: &str) -> bool {
    match queue.split_once(':') {
        None => false,
        Some((service, "dead")) => service.parse::<Service>().is_ok(),
        Some(("gear", held_back)) => held_back.starts_with("retry."),
        Some(_) => queue.parse::<EventGroup>().is_ok(),
    }
}

/// The exchange and the queue that hold messages back for `delay`: whole milliseconds, 49 days
/// at most. The queue keeps the keys: what expires goes through the default exchange to the
/// queue it names. Each delay makes a queue that stays, so use few different ones.
#[must_use]
pub fn delay(delay: Duration) -> (Exchange, Declaration) {
    let ms = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
    let name = Text::from(format!("gear.retry.{ms}"));
    let declaration = Declaration {
        queue: Queue {
            name: format!("gear:retry.{ms}").into(),
            message_ttl: Some(Duration::from_millis(ms.into())),
            dead_letter_exchange: Some(exchange::DEFAULT),
            ..Queue::default()
        },
        bindings: vec![bind(name.clone(), "")],
        stale: Vec::new(),
    };
    (Exchange { name, kind: ExchangeKind::Fanout, internal: false }, declaration)
}
