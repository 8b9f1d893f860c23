//! What can happen, as data with a text form: one line each, so that a failure can be read, and
//! kept in a file that outlives changes of the generator.

use std::{fmt, str::FromStr};

/// The nodes that there can be; `B.x.y` has a dot in its host name.
pub const NODES: [&str; 4] = ["A.h1", "A.h2", "B.h1", "B.x.y"];

/// A node, by its instance name: one of [`NODES`].
pub type Node = &'static str;

/// What a node consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The queue that the instances of its service share.
    Service,
    /// Its own queue.
    Instance,
    /// The events of its service's group `g`.
    Events,
    /// Answers to its calls.
    Replies,
    /// Copies of requests.
    Tap,
    /// Copies of events.
    Watch,
}

impl Role {
    pub(crate) const ALL: [Self; 6] =
        [Self::Service, Self::Instance, Self::Events, Self::Replies, Self::Tap, Self::Watch];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Instance => "instance",
            Self::Events => "events",
            Self::Replies => "replies",
            Self::Tap => "tap",
            Self::Watch => "watch",
        }
    }

    /// Whether it has a pattern.
    pub(crate) const fn has_pattern(self) -> bool {
        matches!(self, Self::Events | Self::Tap | Self::Watch)
    }

    /// Whether its deliveries are to be settled.
    pub(crate) const fn is_settled(self) -> bool {
        matches!(self, Self::Service | Self::Instance | Self::Events)
    }
}

/// One subscription of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// Whose.
    pub node: Node,
    /// Of what.
    pub role: Role,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `A`, `A.h1`, `A.*` or `*.*`.
    Address(String),
    /// An event under this topic.
    Event(String),
    /// A reply to any instance of a service.
    Reply(String),
    /// A reply to the reply queue that a node had last.
    Answer(Node),
    /// What a service has set aside.
    Dead(String),
    /// To this queue, after a delay that passes before the next operation.
    Later(String),
}

/// What is special about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Nothing: it is durable, and has no deadline.
    Plain,
    /// It has a deadline, which passes before the next operation.
    Mortal,
    /// It is not durable.
    Transient,
    /// The broker is under an alarm when it is sent; the alarm ends before the next operation.
    Blocked,
}

/// How a delivery is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Ack,
    /// Not wanted.
    Reject,
    /// Back to where it was.
    Requeue,
    /// Lost by a bug, and so back.
    Drop,
}

/// One operation. Each is complete, with all that follows from it, before the next begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A node subscribes; it connects if it has to.
    Join {
        /// Who, and to what.
        seat: Seat,
        /// Unsettled deliveries at a time.
        prefetch: u16,
        /// Of events and taps.
        pattern: String,
    },
    /// A node ends a subscription; what it holds of it, it may still settle.
    Stop(Seat),
    /// A node closes its connection in order.
    Leave(Node),
    /// A node's connection is cut, and the node does not come back.
    Crash(Node),
    /// A node's connection is cut, and stays so. One at a time.
    Cut(Node),
    /// It can connect again, and does.
    Mend(Node),
    /// Messages are sent, one right after the other.
    Publish {
        /// Where to.
        to: Target,
        /// How many.
        count: u32,
        /// What is special about them.
        manner: Manner,
    },
    /// A node settles the `nth` of the deliveries that it holds of a subscription.
    Settle {
        /// Who, and of what.
        seat: Seat,
        /// The oldest is 0.
        nth: usize,
        /// How.
        verdict: Verdict,
    },
    /// An operator deletes a queue that nobody, or one alone, consumes.
    Delete(String),
    /// The broker restarts.
    Restart,
}

impl Op {
    /// Whether it is done to the whole broker.
    #[must_use]
    pub fn is_serial(&self) -> bool {
        matches!(self, Self::Restart | Self::Publish { manner: Manner::Blocked, .. })
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.node, self.role.word())
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join { seat, prefetch, pattern } => {
                write!(f, "join {seat}")?;
                if seat.role.is_settled() {
                    write!(f, " {prefetch}")?;
                }
                if seat.role.has_pattern() {
                    write!(f, " {pattern}")?;
                }
                Ok(())
            }
            Self::Stop(seat) => write!(f, "stop {seat}"),
            Self::Leave(node) => write!(f, "leave {node}"),
            Self::Crash(node) => write!(f, "crash {node}"),
            Self::Cut(node) => write!(f, "cut {node}"),
            Self::Mend(node) => write!(f, "mend {node}"),
            Self::Publish { to, count, manner } => {
                match (manner, to) {
                    (Manner::Mortal, Target::Address(to)) => write!(f, "expire {to}"),
                    (Manner::Transient, Target::Address(to)) => write!(f, "fleeting {to}"),
                    (Manner::Blocked, Target::Address(to)) => write!(f, "blocked {to}"),
                    (_, Target::Address(to)) => write!(f, "send {to}"),
                    (_, Target::Event(topic)) => write!(f, "event {topic}"),
                    (_, Target::Reply(service)) => write!(f, "reply {service}"),
                    (_, Target::Answer(node)) => write!(f, "answer {node}"),
                    (_, Target::Dead(service)) => write!(f, "dead {service}"),
                    (_, Target::Later(queue)) => write!(f, "later {queue}"),
                }?;
                if *count > 1 { write!(f, " x{count}") } else { Ok(()) }
            }
            Self::Settle { seat, nth, verdict } => {
                let word = match verdict {
                    Verdict::Ack => "ack",
                    Verdict::Reject => "reject",
                    Verdict::Requeue => "requeue",
                    Verdict::Drop => "drop",
                };
                write!(f, "{word} {seat} {nth}")
            }
            Self::Delete(queue) => write!(f, "delete {queue}"),
            Self::Restart => f.write_str("restart"),
        }
    }
}

fn node(word: &str) -> Result<Node, String> {
    let node = NODES.into_iter().find(|node| *node == word);
    node.ok_or_else(|| format!("{word:?} is not a node"))
}

fn seat(whose: &str, of_what: &str) -> Result<Seat, String> {
    let role = Role::ALL.into_iter().find(|role| role.word() == of_what);
    let role = role.ok_or_else(|| format!("{of_what:?} can not be consumed"))?;
    Ok(Seat { node: node(whose)?, role })
}

fn number<N: FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

impl FromStr for Op {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let publish = |to, manner, rest: &[&str]| {
            let count = match rest {
                [] => 1,
                [times] => number(times.trim_start_matches('x'))?,
                _ => return Err(format!("too many words: {line:?}")),
            };
            Ok(Self::Publish { to, count, manner })
        };
        let settle = |whose, what, nth, verdict| {
            Ok(Self::Settle { seat: seat(whose, what)?, nth: number(nth)?, verdict })
        };
        match words[..] {
            ["join", whose, what, ref rest @ ..] => {
                let seat = seat(whose, what)?;
                let (prefetch, rest) = match (seat.role.is_settled(), rest) {
                    (true, [prefetch, rest @ ..]) => (number(prefetch)?, rest),
                    (true, []) => return Err(format!("a prefetch is missing: {line:?}")),
                    (false, rest) => (0, rest),
                };
                let pattern = rest.first().copied().unwrap_or_default().to_owned();
                Ok(Self::Join { seat, prefetch, pattern })
            }
            ["stop", whose, what] => Ok(Self::Stop(seat(whose, what)?)),
            ["leave", who] => Ok(Self::Leave(node(who)?)),
            ["crash", who] => Ok(Self::Crash(node(who)?)),
            ["cut", who] => Ok(Self::Cut(node(who)?)),
            ["mend", who] => Ok(Self::Mend(node(who)?)),
            ["send", to, ref n @ ..] => publish(Target::Address(to.into()), Manner::Plain, n),
            ["expire", to, ref n @ ..] => publish(Target::Address(to.into()), Manner::Mortal, n),
            ["fleeting", to, ref n @ ..] => {
                publish(Target::Address(to.into()), Manner::Transient, n)
            }
            ["blocked", to, ref n @ ..] => publish(Target::Address(to.into()), Manner::Blocked, n),
            ["event", topic, ref n @ ..] => publish(Target::Event(topic.into()), Manner::Plain, n),
            ["reply", to, ref n @ ..] => publish(Target::Reply(to.into()), Manner::Plain, n),
            ["answer", to, ref n @ ..] => publish(Target::Answer(node(to)?), Manner::Plain, n),
            ["dead", to, ref n @ ..] => publish(Target::Dead(to.into()), Manner::Plain, n),
            ["later", to, ref n @ ..] => publish(Target::Later(to.into()), Manner::Plain, n),
            ["ack", whose, what, nth] => settle(whose, what, nth, Verdict::Ack),
            ["reject", whose, what, nth] => settle(whose, what, nth, Verdict::Reject),
            ["requeue", whose, what, nth] => settle(whose, what, nth, Verdict::Requeue),
            ["drop", whose, what, nth] => settle(whose, what, nth, Verdict::Drop),
            ["delete", queue] => Ok(Self::Delete(queue.into())),
            ["restart"] => Ok(Self::Restart),
            _ => Err(format!("not an operation: {line:?}")),
        }
    }
}
