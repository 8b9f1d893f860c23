//! Does the same happen on gear-memory and on RabbitMQ? Sequences of operations are drawn from
//! seeds and done to three things: a [model](model::Model) of the semantics that can be read in
//! one sitting, gear-memory in virtual time, and a real RabbitMQ through gear-amqp, all through
//! `dyn Transport`. What can be seen must be the same.
//!
//! | | |
//! |---|---|
//! | [`op`] | what can happen, with a text form |
//! | [`model`], [`selects`](fn@selects) | what must come of it |
//! | [`generate`] | sequences from seeds |
//! | [`world`], [`memory`], [`rabbit`] | what a backend must let a test do to it |
//! | [`runner`] | does one sequence, step by step, and compares |
//! | [`campaign`], [`shrink`], [`kept`] | many of them; a failing one made short, and kept |
//! | [`page`] | the Markdown page of what was proven |
//!
//! # How it is exact on a real broker
//!
//! Each sequence has a vhost of its own. An operation is complete before the next begins: the
//! answer to a publisher is awaited, then every delivery that the model expects. When a
//! connection is cut, the number of consumers of its queues, which a passive declaration tells
//! exactly, shows when the broker has noticed. That *nothing more* has happened shows in the end:
//! the nodes leave, what anybody has too much goes back to its queue, and the contents of all
//! queues are compared. Taps and replies, which nothing goes back from, get one message more,
//! which must be the next. The management API is asked only which queues exist.
//!
//! An ack has no answer. Where it matters that the broker has it (before a cut, and where
//! several consumers take turns), something else is asked for on the same connection, which takes
//! several answers.
//!
//! What is left open, and what differs on purpose, is at the end of the [page].
//!
//! # When there is a difference
//!
//! The test prints the shortest sequence that shows it, as `kept.txt` has it. Ask the real broker
//! who is right, mend that, and add the sequence to `kept.txt`: those are run first, ever after.
//!
//! | variable | |
//! |---|---|
//! | `GEAR_TEST_LONG=1` | 5,000 sequences instead of 100 |
//! | `GEAR_DIFFERENTIAL_SEQUENCES` | so many |
//! | `GEAR_DIFFERENTIAL_MARKDOWN` | the file of the [page] |
//! | `GEAR_TEST_RABBITMQ_IMAGE` and others | which RabbitMQ: see `gear_test_amqp` |

pub mod campaign;
pub mod generate;
pub mod kept;
pub mod memory;
pub mod model;
pub mod op;
pub mod page;
pub mod rabbit;
pub mod runner;
mod selects;
pub mod shrink;
pub mod world;

pub use selects::selects;
