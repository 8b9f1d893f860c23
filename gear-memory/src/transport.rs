//! One node's connection to the broker: the [`Transport`] on top of the model.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use gear_api::{
    Capabilities, Clock, Consumer, ConsumerEnd, Id, MAX_KEY_BYTES, Message, Publish, PublishError,
    ReplyTo, Route, Settlement, Status, SubscribeError, Subscription, Text, Transport, Verdict,
};
use tokio::sync::watch;

use crate::{
    headers,
    inbox::{InboxSource, Lease, Settled},
    model::ConnectionId,
    now::Now,
    publishing::Target,
    record::Event,
    shared::{Link, Shared},
    subscribed::{Listening, Subscribed},
};

/// One node's connection to a [`MemoryBroker`](crate::MemoryBroker).
///
/// Cheap to clone; the clones are one connection. A test keeps one to cut it:
///
/// ```
/// use gear_api::{Status, Transport};
/// use gear_memory::MemoryBroker;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let broker = MemoryBroker::new();
/// let link = broker.connect();
/// link.cut();
/// assert_eq!(*link.status().borrow(), Status::Connecting);
/// broker.idle().await; // by now it is back
/// assert_eq!(*link.status().borrow(), Status::Ready);
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryTransport(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    id: ConnectionId,
    /// From 0, in the order of `connect`.
    number: u64,
    status: watch::Sender<Status>,
}

impl MemoryTransport {
    pub(crate) fn new(
        shared: Arc<Shared>,
        id: ConnectionId,
        number: u64,
        status: watch::Sender<Status>,
    ) -> Self {
        Self(Arc::new(Handle { shared, id, number, status }))
    }

    /// Cuts the connection, as a network does. It comes back after the broker's
    /// [`reconnect_delay`](crate::MemoryBrokerBuilder::reconnect_delay), and sends again what was
    /// not confirmed. What was settled before has reached the broker; what is settled later has not.
    pub fn cut(&self) {
        self.cut_for(self.0.shared.reconnect_delay);
    }

    /// Cuts the connection for so long.
    pub fn cut_for(&self, time: Duration) {
        self.0.shared.settle_all();
        self.0.shared.with(|state, now| {
            if state.connections.get(self.0.id).is_some_and(|c| c.link == Link::Up) {
                state.cut(&[self.0.id], now.after(time), now);
            }
        });
    }
}

impl Handle {
    /// Sends a message, and acknowledges the request that it answers with the same lock, if it leaves
    /// at once.
    #[inline]
    fn send(&self, route: Route<'_>, message: Message, request: &mut Settlement) -> Publish {
        let shared = &self.shared;
        let limit = shared.max_message_bytes;
        if message.body().len() > limit {
            let bytes = message.body().len();
            return Publish::ready(Err(PublishError::TooLarge { bytes, limit }));
        }
        if matches!(route, Route::Delayed { .. })
            && matches!(*self.status.borrow(), Status::Closed(_))
        {
            return Publish::ready(Err(PublishError::Closed)); // and nothing is declared for it
        }
        let target = match shared.target(route, &message) {
            Ok(target) => target,
            Err(error) => return Publish::ready(Err(error)),
        };
        if let Some(what) = too_long(&target, &message) {
            let why = format!("the {what} is longer than {MAX_KEY_BYTES} bytes");
            return Publish::ready(Err(PublishError::Invalid(why.into())));
        }
        let message = headers::to_send(message);
        let now = Now::default();
        // The clock is not read while others wait for the lock.
        let is_late = target.is_late(&now);
        let mut state = shared.begin(&now);
        let Some(connection) = state.connections.get(self.id) else {
            shared.finish(state, &now);
            return Publish::ready(Err(PublishError::Closed));
        };
        if is_late {
            shared.finish(state, &now);
            let why = Text::from_static("its deadline passed");
            return Publish::ready(Err(PublishError::NotSent(why)));
        }
        if connection.link == Link::Up && state.is_plain(shared) {
            let answer = target.route(&mut state, message, &now).answer();
            let acknowledged =
                answer.is_ok() && Lease::acknowledge(request, shared, &mut state, &now);
            shared.finish(state, &now);
            if acknowledged {
                // Only now that the broker is unlocked: it may be the last of its consumer.
                request.forget();
            }
            return Publish::ready(answer);
        }
        shared.finish(state, &now);
        shared.send_slowly(self.id, target, message)
    }

    /// Lets go of everything. What consumers have settled is settled; the rest goes back.
    fn close(&self) {
        // Its subscriptions are dropped when the broker is unlocked.
        let _closed = self.shared.with(|state, now| {
            let connection = state.connections.remove(self.id)?;
            if let Link::Down(back) = connection.link {
                state.down.remove(&(back, self.id));
            }
            connection.status.send_replace(Status::Closed(Text::from_static("it was closed")));
            // First all of them end, so that nothing goes from one to the other.
            for subscribed in connection.subscriptions.iter().filter(|s| !s.inbox.takes_replies()) {
                if let Some(consumer) = subscribed.inbox.consumer() {
                    state.model.cancel(consumer, now);
                }
            }
            for subscribed in &connection.subscriptions {
                if let Some(Settled { consumer, verdicts, .. }) = subscribed.inbox.take_settled() {
                    state.model.settle(consumer, verdicts, now);
                }
                if let Some((consumer, arrived)) = subscribed.inbox.take_arrived() {
                    // Nobody has looked at it: it does not come back as a failure.
                    let returned = arrived.into_iter().map(|tag| (tag, Verdict::Requeue));
                    state.model.settle(consumer, returned, now);
                }
                let consumer = subscribed.inbox.consumer();
                subscribed.inbox.detach();
                let (_, wake) = subscribed.inbox.finish(ConsumerEnd::Closed);
                state.model.wakes().extend(wake);
                if let Some(consumer) = consumer.filter(|_| subscribed.inbox.takes_replies()) {
                    // Whoever answers now learns at once that nobody listens.
                    state.model.delete_queue_of(consumer, now);
                }
            }
            state.close_publishers(self.id);
            state.model.note(now, || Event::Closed { number: self.number });
            state.model.drop_connections(&[self.id], now);
            Some(connection)
        });
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl From<MemoryTransport> for Arc<dyn Transport> {
    fn from(transport: MemoryTransport) -> Self {
        Arc::new(transport)
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport")
            .field("status", &*self.0.status.borrow())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn send(&self, route: Route<'_>, message: Message) -> Publish {
        self.0.send(route, message, &mut Settlement::none())
    }

    fn answer(&self, to: &ReplyTo, answer: Message, request: &mut Settlement) -> Publish {
        self.0.send(Route::Reply(to), answer, request)
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Consumer, SubscribeError> {
        let shared = &self.0.shared;
        let (subscribed, listening) =
            Subscribed::plan(shared, self.0.id, self.0.number, subscription)?;
        loop {
            let down = shared.with(|state, now| {
                let connection = state.connections.get(self.0.id).ok_or(SubscribeError::Closed)?;
                if connection.link != Link::Up {
                    return Ok(true);
                }
                shared
                    .start(state, &subscribed, now)
                    .map_err(|refusal| subscribed.explain(refusal))?;
                if let Some(connection) = state.connections.get_mut(self.0.id) {
                    connection.subscriptions.push(subscribed.clone());
                }
                Ok(false)
            })?;
            if !down {
                break;
            }
            let mut status = self.0.status.subscribe();
            let _ = status.wait_for(|status| *status != Status::Connecting).await;
        }
        if let Some(Listening { sink, at }) = listening {
            sink.listening(at);
        }
        let is_tap = subscribed.is_tap();
        Ok(Consumer::new(InboxSource::new(Arc::clone(shared), subscribed.inbox, is_tap)))
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::default();
        all.confirms = true;
        all.mandatory = true;
        all.durable = true;
        all.expiry = true;
        all.delays = true;
        all.dead_letters = true;
        all.events = true;
        all.taps = true;
        all.exclusive_instances = true;
        all.virtual_time = true;
        all.max_message_bytes = self.0.shared.max_message_bytes;
        all
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    fn clock(&self) -> Clock {
        self.0.shared.clock
    }

    fn seed(&self) -> u64 {
        use std::hash::{BuildHasher, RandomState};
        let number = self.0.number;
        self.0.shared.seed_of(number).unwrap_or_else(|| RandomState::new().hash_one(number))
    }

    async fn close(&self) {
        self.0.close();
    }
}

/// What AMQP 0-9-1 has no room for (section 4.2.5.3, short strings).
fn too_long(target: &Target, message: &Message) -> Option<&'static str> {
    let texts = [
        ("routing key", target.key().as_str()),
        ("operation", message.operation().as_str()),
        ("content type", message.content_type().as_str()),
        ("sender", message.sender().as_str()),
        ("reply_to", message.reply_to().map_or("", ReplyTo::as_str)),
    ];
    let ids = [("message id", message.id()), ("correlation", message.correlation())];
    // Whether there is one at all is what every message asks.
    if texts.iter().all(|(_, text)| text.len() <= MAX_KEY_BYTES)
        && !ids.iter().any(|(_, id)| id.is_some_and(is_too_long))
    {
        return None;
    }
    let text = texts.into_iter().find_map(|(what, t)| (t.len() > MAX_KEY_BYTES).then_some(what));
    text.or_else(|| ids.into_iter().find_map(|(what, id)| is_too_long(id?).then_some(what)))
}

/// UUIDs are less than all texts, and are not written down to see how long they are.
fn is_too_long(id: &Id) -> bool {
    *id > Id::from([u8::MAX; 16]) && id.to_string().len() > MAX_KEY_BYTES
}
