//! The rules of RabbitMQ that a broker in one process can have, one test for each.
//!
//! The [`Broker`] here is the model with names instead of ids. After every step it counts
//! all that is stored, so that each test of a rule is one of the accounting, too.

mod accounting;
mod dead_letters;
mod declarations;
mod dispatch;
mod found;
mod limits;
mod oracle;
mod requeue;
mod restart;
mod routing;

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Duration};

use gear_api::{Kind, Message, Pattern, Text, Verdict, topology};
use slotmap::SlotMap;
use tokio::time::Instant;

use super::{publish::Outcome, *};

/// A model, and who is connected to it.
struct Broker {
    model: Model<Outbox>,
    connections: SlotMap<ConnectionId, ()>,
}

/// Where the model puts what it delivers.
#[derive(Debug, Clone, Default)]
struct Outbox(Rc<RefCell<Arrived>>);

#[derive(Debug, Default)]
struct Arrived {
    deliveries: VecDeque<Delivered>,
}

impl Outlet for Outbox {
    type Wake = ();

    fn deliver(&self, delivered: Delivered) -> Option<()> {
        self.0.borrow_mut().deliveries.push_back(delivered);
        None
    }
}

/// One consumer.
#[derive(Debug, Clone)]
struct Mailbox {
    id: ConsumerId,
    outbox: Outbox,
}

impl Mailbox {
    /// The next delivery.
    #[track_caller]
    fn next(&self) -> Delivered {
        self.try_next().expect("a delivery")
    }

    fn try_next(&self) -> Option<Delivered> {
        self.outbox.0.borrow_mut().deliveries.pop_front()
    }

    /// All that has arrived, each with `!` if it is marked as redelivered.
    fn take(&self) -> Vec<String> {
        std::iter::from_fn(|| self.try_next()).map(|delivered| delivered.label()).collect()
    }
}

impl Delivered {
    fn label(&self) -> String {
        let mark = if self.redelivered { "!" } else { "" };
        format!("{}{mark}", text(&self.message))
    }
}

/// How a test consumes unless it says otherwise: without a limit, and with acks.
fn consume(connection: ConnectionId) -> Consume {
    Consume {
        connection,
        connection_number: 0,
        prefetch: 0,
        no_ack: false,
        exclusive: false,
        priority: 0,
        set_aside: None,
        follows: Vec::new(),
    }
}

fn message(body: &str) -> Message {
    Message::builder(Kind::Cast, "test").body(body.to_owned()).build()
}

fn durable(body: &str) -> Message {
    message(body).to_builder().durable(true).build()
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

/// A classic queue without limits.
fn queue(name: &str) -> topology::Queue {
    topology::Queue { name: name.into(), ..topology::Queue::default() }
}

fn quorum(name: &str) -> topology::Queue {
    topology::Queue { queue_type: topology::QueueType::Quorum, ..queue(name) }
}

fn exchange(name: &str, kind: topology::ExchangeKind) -> topology::Exchange {
    topology::Exchange { name: name.into(), kind, internal: false }
}

fn key(key: &str) -> Text {
    key.into()
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Broker {
    fn new() -> Self {
        Self { model: Model::new(None), connections: SlotMap::with_key() }
    }

    /// With the record on, settlements take another path.
    fn recording() -> Self {
        let record = Record::new(1_000, Instant::now());
        Self { model: Model::new(Some(record)), connections: SlotMap::with_key() }
    }

    fn connect(&mut self) -> ConnectionId {
        self.connections.insert(())
    }

    #[track_caller]
    fn exchange(&mut self, name: &str, kind: topology::ExchangeKind) {
        self.model.declare_exchange(&exchange(name, kind)).unwrap();
    }

    #[track_caller]
    fn topic(&mut self, name: &str) {
        self.exchange(name, topology::ExchangeKind::Topic);
    }

    /// Declares for nobody in particular.
    fn declare(&mut self, spec: &topology::Queue) -> Result<QueueId, Refusal> {
        self.declare_for(ConnectionId::default(), spec)
    }

    fn declare_for(
        &mut self,
        connection: ConnectionId,
        spec: &topology::Queue,
    ) -> Result<QueueId, Refusal> {
        let declared = self.model.declare_queue(spec, connection, &Now::default());
        self.check();
        declared
    }

    #[track_caller]
    fn queue(&mut self, spec: &topology::Queue) -> QueueId {
        self.declare(spec).unwrap()
    }

    /// A queue `name` that `bindings` lead to.
    #[track_caller]
    fn bound(&mut self, name: &str, bindings: &[(&str, &str)]) {
        self.queue(&queue(name));
        for (exchange, key) in bindings {
            self.bind(name, exchange, key).unwrap();
        }
    }

    fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Refusal> {
        let (queue, exchange) = (self.model.queue(queue)?, self.model.exchange(exchange)?);
        self.model.bind(queue, exchange, &key.into())
    }

    #[track_caller]
    fn unbind(&mut self, queue: &str, exchange: &str, key: &str) {
        let ids = (self.model.queue(queue).unwrap(), self.model.exchange(exchange).unwrap());
        self.model.unbind(ids.0, ids.1, key);
    }

    #[track_caller]
    fn bind_exchange(&mut self, source: &str, to: &str, key: &str) {
        let ids = (self.model.exchange(source).unwrap(), self.model.exchange(to).unwrap());
        self.model.bind_exchange(ids.0, ids.1, &key.into()).unwrap();
    }

    /// What a subscription of Gear declares.
    #[track_caller]
    fn declaration(&mut self, declaration: &topology::Declaration) {
        self.queue(&declaration.queue);
        for binding in &declaration.bindings {
            self.bind(&declaration.queue.name, &binding.exchange, &binding.key).unwrap();
        }
    }

    /// The exchanges of the wire contract.
    fn with_contract(mut self) -> Self {
        for exchange in topology::exchanges() {
            self.model.declare_exchange(&exchange).unwrap();
        }
        let (source, to, key) = topology::CAST_BINDING;
        self.bind_exchange(&source, &to, &key);
        self
    }

    #[track_caller]
    fn publish(&mut self, exchange: &str, key: &str, body: &str) -> Outcome {
        self.publish_message(exchange, key, message(body), None)
    }

    #[track_caller]
    fn publish_message(
        &mut self,
        exchange: &str,
        key: &str,
        message: Message,
        time_to_live: Option<Duration>,
    ) -> Outcome {
        let exchange = self.model.exchange(exchange).unwrap();
        let now = Now::default();
        let expires = time_to_live.map(|ttl| now.get() + ttl);
        let outcome = self.model.publish(exchange, key.into(), message, expires, &now);
        self.check();
        outcome
    }

    /// Straight to a queue.
    #[track_caller]
    fn send(&mut self, queue: &str, body: &str) -> Outcome {
        self.publish("", queue, body)
    }

    #[track_caller]
    fn send_all(&mut self, queue: &str, bodies: &[&str]) {
        for body in bodies {
            self.send(queue, body);
        }
    }

    #[track_caller]
    fn send_expiring(&mut self, queue: &str, body: &str, time_to_live: Duration) {
        self.publish_message("", queue, message(body), Some(time_to_live));
    }

    fn try_consume(&mut self, queue: &str, options: Consume) -> Result<Mailbox, Refusal> {
        let queue = self.model.queue(queue)?;
        let outbox = Outbox::default();
        let started = self.model.consume(queue, options, outbox.clone(), &Now::default());
        self.check();
        started.map(|id| Mailbox { id, outbox })
    }

    #[track_caller]
    fn consume_as(&mut self, queue: &str, options: Consume) -> Mailbox {
        self.try_consume(queue, options).unwrap()
    }

    /// On a connection of its own; a prefetch of 0 is none.
    #[track_caller]
    fn consume(&mut self, queue: &str, prefetch: u32) -> Mailbox {
        let connection = self.connect();
        self.consume_as(queue, Consume { prefetch, ..consume(connection) })
    }

    fn settle(&mut self, mailbox: &Mailbox, delivered: &Delivered, verdict: Verdict) {
        self.settle_all(mailbox, &[delivered], verdict);
    }

    fn settle_all(&mut self, mailbox: &Mailbox, deliveries: &[&Delivered], verdict: Verdict) {
        let verdicts = deliveries.iter().map(|delivered| (delivered.tag.unwrap(), verdict));
        self.model.settle(mailbox.id, verdicts, &Now::default());
        self.check();
    }

    /// Settles the next delivery.
    #[track_caller]
    fn settle_next(&mut self, mailbox: &Mailbox, verdict: Verdict) -> String {
        let delivered = mailbox.next();
        self.settle(mailbox, &delivered, verdict);
        delivered.label()
    }

    fn cancel(&mut self, mailbox: &Mailbox) {
        self.model.cancel(mailbox.id, &Now::default());
        self.check();
    }

    fn drop_connection(&mut self, connection: ConnectionId) {
        self.model.drop_connections(&[connection], &Now::default());
        self.check();
    }

    fn drop_all_connections(&mut self) {
        for connection in self.connections.keys().collect::<Vec<_>>() {
            self.drop_connection(connection);
        }
    }

    fn restart(&mut self) {
        self.drop_all_connections();
        self.model.restart(&Now::default());
        self.check();
    }

    #[track_caller]
    fn delete(&mut self, queue: &str) -> Vec<ConsumerId> {
        let id = self.model.queue(queue).unwrap();
        let consumers = self.model.delete_queue(id, &Now::default());
        self.check();
        consumers
    }

    fn policy(&mut self, queue: &'static str, policy: Policy) {
        self.model.set_policy(Pattern::new(queue), policy, &Now::default());
        self.check();
    }

    /// Lets time pass, and what is due happen.
    async fn pass(&mut self, time: Duration) {
        tokio::time::advance(time).await;
        self.model.tick(&Now::default());
        self.check();
    }

    /// What waits in a queue, in its order.
    #[track_caller]
    fn ready(&self, queue: &str) -> Vec<String> {
        let state = self.model.queue_state(queue).expect("the queue");
        assert_eq!(state.ready(), state.messages().count());
        state.messages().map(text).collect()
    }

    #[track_caller]
    fn ready_messages(&self, queue: &str) -> Vec<Message> {
        self.model.queue_state(queue).expect("the queue").messages().cloned().collect()
    }

    /// The names of the queues that have something, in alphabetical order; each must have
    /// one message, and loses it.
    #[track_caller]
    fn reached(&mut self) -> Vec<String> {
        let mut reached = Vec::new();
        for queue in self.model.queues() {
            assert!(queue.ready() <= 1, "{} has more than one copy", queue.name());
            if queue.ready() == 1 {
                reached.push(queue.name().to_string());
            }
        }
        reached.sort();
        for queue in &reached {
            let consumer = self.consume(queue, 0);
            self.settle_next(&consumer, Verdict::Ack);
            self.cancel(&consumer);
        }
        reached
    }

    fn exists(&self, queue: &str) -> bool {
        self.model.queue(queue).is_ok()
    }

    fn bytes(&self) -> usize {
        self.model.bytes()
    }

    /// Counts again what the model keeps count of.
    #[track_caller]
    fn check(&self) {
        let ready = self.model.queues.values().flat_map(Queue::entries);
        let unsettled = self.model.consumers.values().flat_map(|c| c.unsettled.values());
        let stored: usize = ready.chain(unsettled).map(|entry| entry.charge).sum();
        assert_eq!(self.bytes(), stored, "bytes");
        for (id, queue) in &self.model.queues {
            let mine = || self.model.consumers.values().filter(|consumer| consumer.queue == id);
            let unsettled: usize = mine().map(|consumer| consumer.unsettled.len()).sum();
            assert_eq!(queue.unsettled, unsettled, "unsettled in {}", queue.spec.name);
            let active = mine().filter(|consumer| !consumer.cancelled).count();
            assert_eq!(queue.consumers, active, "consumers of {}", queue.spec.name);
        }
    }
}
