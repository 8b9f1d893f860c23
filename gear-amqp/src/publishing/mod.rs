//! The channel that publishes: what waits, what is on its way, and what becomes of it when the
//! channel or the connection goes.
//!
//! One lock is held while a message is given to lapin: tag and frame of a publish are assigned
//! under different locks in there, so that two publishers on one channel would get each other's
//! confirms. Nobody awaits anything under that lock; a publish is polled once, which queues its
//! frames, and its confirm is awaited by the one task that [`Publisher::serve`] is.

mod delays;
mod flight;
pub(crate) mod gate;
pub(crate) mod outgoing;
mod sent;
mod serve;
mod time;
mod window;
mod write;

pub(crate) use serve::Ended;

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, SystemTime},
};

use gear_api::{Clock, Id, Kind, Message, Publish, PublishError, Route, Text, Timestamp};
use tokio::sync::{Notify, oneshot};

use self::{
    delays::Delays,
    flight::{Flight, Publishing, Signal},
    gate::Gate,
    outgoing::{Asker, Outgoing, Target},
    sent::Sent,
    time::Oldest,
};
use crate::{
    link::{board::Board, declare::short, rpc::is_reproach},
    settings::Settings,
    wire::{NotEncodable, Purpose, encode, header_frame},
};

/// The time; asked for only where something depends on it.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Bytes of bodies on their way at a time; one message always may.
const MAX_UNCONFIRMED_BYTES: usize = 32 * 1024 * 1024;

pub(crate) struct Publisher {
    settings: Arc<Settings>,
    board: Arc<Board>,
    clock: Clock,
    state: Mutex<State>,
    /// Wakes the serving task: a confirm is there, or something has changed.
    signal: Arc<Signal>,
    waker: Waker,
    pub(crate) gate: Arc<Gate>,
    /// Exchanges were gone, and are declared again: queues are to be bound again.
    pub(crate) redeclared: Notify,
}

struct State {
    link: Link,
    /// What has not left yet, in order.
    queue: VecDeque<Outgoing>,
    /// A delay is being declared,
    declaring: bool,
    /// and those that can not leave before one is are out of the way of others, in order.
    held: Vec<Outgoing>,
    sent: Sent,
    oldest: Oldest,
    /// How often the oldest was overdue, since something was heard.
    suspicions: u32,
    /// How often something was confirmed, or an alarm began or ended.
    heard: u64,
    /// The broker closed the last channel: whoever may be the reason goes alone.
    careful: bool,
    delays: Delays,
    closing: bool,
}

enum Link {
    /// There is no connection.
    Down,
    /// There is one, and another channel is to take the place of the last.
    Replacing,
    Up(Box<Up>),
    Closed,
}

struct Up {
    flight: Flight,
    /// The broker takes nothing for now.
    blocked: bool,
    failed: Option<lapin::Error>,
    /// Bytes of one frame, at most.
    frame_max: usize,
    /// Delays whose exchange was declared over this one.
    delays: HashSet<Duration>,
    /// The one that messages name, if they shall: each broker may know us by another.
    user: Option<String>,
}

impl Publisher {
    pub(crate) fn new(settings: Arc<Settings>, board: Arc<Board>) -> Self {
        let signal = Arc::new(Signal::default());
        Self {
            settings,
            board,
            clock: Clock::system(),
            state: Mutex::new(State::new()),
            waker: Waker::from(Arc::clone(&signal)),
            signal,
            gate: Arc::new(Gate::default()),
            redeclared: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a message over, or lets it wait its turn.
    pub(crate) fn send(&self, route: Route<'_>, message: Message) -> Publish {
        match Target::new(route, &self.settings) {
            Ok(target) => self.send_to(target, message),
            Err(error) => Publish::ready(Err(error)),
        }
    }

    pub(crate) fn send_to(&self, target: Target, message: Message) -> Publish {
        let limit = self.settings.options.max_message_bytes;
        if message.body().len() > limit {
            let bytes = message.body().len();
            return Publish::ready(Err(PublishError::TooLarge { bytes, limit }));
        }
        if target.key.len() > gear_api::MAX_KEY_BYTES {
            let why = "a key has at most 255 bytes";
            return Publish::ready(Err(PublishError::Invalid(Text::from_static(why))));
        }
        // The broker's returns are told apart by their ids.
        let message = if message.id().is_none() {
            message.to_builder().id(Id::from(uuid::Uuid::now_v7().into_bytes())).build()
        } else {
            message
        };
        let may_expire = matches!(target.purpose, Purpose::Request | Purpose::Event);
        let deadline = message.deadline().filter(|_| may_expire);
        let deadline = deadline.map(|deadline| self.clock.instant(deadline));
        let mut outgoing = Outgoing {
            target,
            message,
            deadline,
            asker: Asker::Nobody,
            size: 0,
            handed_over: false,
            lost: false,
            abandoned: false,
            suspect: false,
            declared_again: false,
            alone_when_closed: 0,
        };
        let mut state = self.state();
        if state.closing {
            return Publish::ready(Err(PublishError::Closed));
        }
        if state.queue.is_empty() && state.may_hand_over(&self.settings, &outgoing) {
            let (asker, mut answer) = oneshot::channel();
            outgoing.asker = Asker::HandedOver(asker);
            self.hand_over(&mut state, outgoing);
            // What is refused here is known at once: a node then answers something else.
            match answer.try_recv() {
                Ok(refused) => Publish::ready(refused),
                Err(_) => Publish::handed_over(answer),
            }
        } else {
            let (asker, hand_over) = oneshot::channel();
            outgoing.asker = Asker::Waiting(asker);
            state.queue.push_back(outgoing);
            drop(state);
            self.waker.wake_by_ref();
            Publish::waiting(hand_over)
        }
    }

    /// Gives a message to lapin: its frames are queued when this returns.
    fn hand_over(&self, state: &mut State, mut outgoing: Outgoing) {
        let Link::Up(up) = &mut state.link else {
            return state.queue.push_front(outgoing);
        };
        let publishing = match self.prepare(&outgoing, up) {
            Ok(publishing) => publishing,
            Err(NotEncodable::TooLate) => return outgoing.give_up("its deadline passed"),
            Err(NotEncodable::TooLong(what)) => {
                let why = format!("{what} is longer than AMQP allows");
                return outgoing.refuse(PublishError::Invalid(why.into()));
            }
            Err(NotEncodable::FrameTooSmall { bytes, limit }) => {
                let why = format!(
                    "properties and headers of {bytes} bytes; the connection's frames have {limit}"
                );
                return outgoing.refuse(PublishError::Invalid(why.into()));
            }
        };
        if !outgoing.hand_over() {
            return; // withdrawn
        }
        outgoing.handed_over = true;
        outgoing.size = publishing.body.len();
        let number = state.sent.push(outgoing);
        up.flight.publish(number, publishing);
    }

    fn prepare(&self, outgoing: &Outgoing, up: &Up) -> Result<Publishing, NotEncodable> {
        let limit = up.frame_max;
        let Outgoing { target, message, .. } = outgoing;
        let names = &self.settings.names;
        let too_long = |_| NotEncodable::TooLong("the key");
        let properties = encode(message, names, up.user.as_deref(), target.purpose, now)?;
        let bytes = header_frame(&properties);
        if bytes > limit {
            return Err(NotEncodable::FrameTooSmall { bytes, limit });
        }
        Ok(Publishing {
            exchange: short(names.on_broker(&target.exchange)).map_err(too_long)?,
            key: short(target.key.as_str()).map_err(too_long)?,
            mandatory: target.mandatory,
            properties,
            body: message.body().clone(),
            is_reply: message.kind() == Kind::Reply,
        })
    }

    /// Takes every confirm that is ready, and tells what is certain of them.
    fn drain(&self, state: &mut State) {
        let State { link, sent, .. } = state;
        let Link::Up(up) = link else { return };
        let failed = &mut up.failed;
        let drained = up.flight.drain(|number, confirmation| match confirmation {
            Ok(confirmation) => sent.confirm(number, confirmation, &self.settings.names),
            Err(error) => blame(failed, error),
        });
        if let Err(error) = drained {
            blame(failed, error);
        }
        let (any, returned) = sent.settle();
        if any {
            state.heard();
        }
        state.send_again(returned);
    }
}

/// The first error counts, and before it one that tells what was wrong.
fn blame(failed: &mut Option<lapin::Error>, error: lapin::Error) {
    if failed.as_ref().is_none_or(|first| !is_reproach(first) && is_reproach(&error)) {
        *failed = Some(error);
    }
}

impl State {
    fn new() -> Self {
        Self {
            link: Link::Down,
            queue: VecDeque::new(),
            declaring: false,
            held: Vec::new(),
            sent: Sent::new(),
            oldest: Oldest::default(),
            suspicions: 0,
            heard: 0,
            careful: false,
            delays: Delays::default(),
            closing: false,
        }
    }

    /// Whether nothing is left to do.
    fn is_done(&self) -> bool {
        self.queue.is_empty() && self.held.is_empty() && self.sent.awaited().messages == 0
    }

    /// Whether a message may leave now.
    fn may_hand_over(&self, settings: &Settings, next: &Outgoing) -> bool {
        let Link::Up(up) = &self.link else { return false };
        if up.blocked || up.failed.is_some() {
            return false;
        }
        if next.target.delay.is_some_and(|delay| !up.delays.contains(&delay)) {
            return false;
        }
        // While somebody is suspected of having closed the last channel, each goes alone.
        let awaited = self.sent.awaited();
        if self.careful && awaited.messages > 0 {
            return false;
        }
        let bytes = awaited.bytes + next.message.body().len();
        awaited.messages == 0
            || (awaited.messages < settings.options.max_unconfirmed
                && bytes <= MAX_UNCONFIRMED_BYTES)
    }
}
