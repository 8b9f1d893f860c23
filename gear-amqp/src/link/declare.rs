//! Declaring what must exist: passive first, so that a later change of arguments keeps no service
//! from starting, and each try where its failure harms nobody.

use std::time::Duration;

use gear_api::topology::{self, Binding, Declaration, Exchange, ExchangeKind, Queue, QueueType};
use lapin::{
    Channel, Connection,
    options::{
        ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use crate::{
    TopologyMode,
    link::rpc::{ANSWER, RpcError, Scratch, code},
    wire::Names,
};

/// A name or key as AMQP's methods take it. All of ours fit: their lengths are checked when an
/// address is made.
pub(crate) fn short(text: impl Into<String>) -> Result<ShortString, RpcError> {
    ShortString::try_new(text).map_err(|_| RpcError::Refused {
        code: code::PRECONDITION_FAILED,
        text: "a name is longer than 255 bytes".into(),
    })
}

/// Whose a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Several instances share it.
    Many,
    /// One instance, over all its starts.
    Instance,
    /// One connection or start: it is either new or exactly as it was declared.
    Start,
}

/// Declares on one connection.
pub(crate) struct Declarer<'a> {
    scratch: Scratch<'a>,
    names: &'a Names,
    mode: TopologyMode,
    own: Duration,
    again: bool,
}

/// RabbitMQ 4 drops a message of a quorum queue after 20 returns by default; the library sets aside
/// what is lost again and again, and never drops. "No limit" is -1 there, which RabbitMQ 3 refuses.
pub(crate) const DELIVERY_LIMIT: u32 = 1_000_000;

/// How long bindings are waited for that are most likely there.
const AGAIN: Duration = Duration::from_secs(2);

/// How long a queue of one start is waited for: it is made anew rather than waited for any longer.
const OWN: Duration = Duration::from_secs(2);

/// How long the queue of an instance is waited for: until the broker says whether it can be reached.
/// When its node had been killed, RabbitMQ 3.10 said so at once, 4.0 after 70 to 116 s, 4.3 after 91
/// to 122 s. Silence tells nothing, since a broker may be slow.
const JUDGEMENT: Duration = Duration::from_secs(180);

/// What is known of a queue that exists.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) consumers: u32,
    /// It was declared just now, or may have been.
    is_new: bool,
}

impl Found {
    fn new(queue: &lapin::Queue, is_new: bool) -> Self {
        let consumers = queue.consumer_count();
        Self { name: queue.name().as_str().to_owned(), consumers, is_new }
    }
}

impl<'a> Declarer<'a> {
    pub(crate) fn new(connection: &'a Connection, names: &'a Names, mode: TopologyMode) -> Self {
        Self { scratch: Scratch::new(connection), names, mode, own: OWN, again: false }
    }

    /// For what was declared before. A cluster that has just lost a node may bind nothing for a
    /// minute (Mnesia, until `net_ticktime` is over), and routes by what it knows: bindings of what
    /// still exists are asked for, and not waited for.
    pub(crate) fn again(self, again: bool) -> Self {
        Self { again, ..self }
    }

    /// Waits for a queue of one start as long as for any other, since the broker is slow.
    pub(crate) fn patient(self, patient: bool) -> Self {
        Self { own: if patient { ANSWER } else { OWN }, ..self }
    }

    /// Whether the broker answers at all, so that a queue that does not is to blame.
    pub(crate) async fn answers(&mut self) -> bool {
        let [entry, ..] = topology::exchanges();
        let look = self.declare_exchange(&entry, true);
        matches!(tokio::time::timeout(OWN, look).await, Ok(Ok(())))
    }

    fn patience(&self, owner: Owner) -> Duration {
        match owner {
            Owner::Many => ANSWER,
            Owner::Instance => JUDGEMENT,
            Owner::Start => self.own,
        }
    }

    pub(crate) async fn done(self) {
        self.scratch.close().await;
    }

    /// The exchanges that every node needs. Returns whether one was missing, and so whatever was bound to
    /// it; where they are declared in any case, that is not known.
    pub(crate) async fn exchanges(&mut self) -> Result<bool, RpcError> {
        let mut some_are_new = false;
        for exchange in topology::exchanges() {
            some_are_new |= self.exchange(&exchange).await?;
        }
        let are_known = self.again && !some_are_new;
        if self.mode != TopologyMode::Passive {
            let (source, destination, key) = topology::CAST_BINDING;
            let destination = short(self.names.on_broker(&destination))?;
            let source = short(self.names.on_broker(&source))?;
            let key = short(key.as_str())?;
            let bind = async move |channel: Channel| {
                let (options, arguments) = (ExchangeBindOptions::default(), FieldTable::default());
                channel.exchange_bind(destination, source, key, options, arguments).await
            };
            self.bind("binding an exchange", 1, are_known, bind).await?;
        }
        Ok(some_are_new && self.mode == TopologyMode::Declare)
    }

    /// So many bindings, which may be there already.
    async fn bind<A>(
        &mut self,
        what: &'static str,
        count: u32,
        are_known: bool,
        bind: impl FnOnce(Channel) -> A,
    ) -> Result<(), RpcError>
    where
        A: Future<Output = lapin::Result<()>> + Send + 'static,
    {
        let limit = if are_known { AGAIN } else { ANSWER * count };
        match self.scratch.ask(limit, what, bind).await {
            Err(error @ RpcError::Silent { .. }) if are_known => {
                tracing::warn!(%error, "not waited for");
                Ok(())
            }
            done => done,
        }
    }

    /// Returns whether it was declared just now, or may have been.
    pub(crate) async fn exchange(&mut self, exchange: &Exchange) -> Result<bool, RpcError> {
        if self.mode != TopologyMode::Strict {
            match self.declare_exchange(exchange, true).await {
                Err(error) if error.is(code::NOT_FOUND) && self.mode == TopologyMode::Declare => {}
                found => return found.map(|()| false),
            }
        }
        match self.declare_exchange(exchange, false).await {
            // Somebody was faster, with other arguments: theirs count.
            Err(error)
                if error.is(code::PRECONDITION_FAILED) && self.mode == TopologyMode::Declare =>
            {
                tracing::warn!(exchange = %exchange.name, %error, "used as it is");
                Ok(true)
            }
            declared => declared.map(|()| true),
        }
    }

    async fn declare_exchange(&mut self, it: &Exchange, passive: bool) -> Result<(), RpcError> {
        let kind = match it.kind {
            ExchangeKind::Topic => lapin::ExchangeKind::Topic,
            ExchangeKind::Direct => lapin::ExchangeKind::Direct,
            ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        };
        let options = ExchangeDeclareOptions {
            passive,
            durable: true,
            internal: it.internal,
            ..ExchangeDeclareOptions::default()
        };
        let name = short(self.names.on_broker(&it.name))?;
        let declare = async move |channel: Channel| {
            channel.exchange_declare(name, kind, options, FieldTable::default()).await
        };
        self.scratch.ask(ANSWER, "declaring an exchange", declare).await
    }

    /// A queue with its bindings. An operator declares those that are shared at most: which
    /// instances there will be, and when they start, is not known before.
    pub(crate) async fn queue(
        &mut self,
        declaration: &Declaration,
        owner: Owner,
    ) -> Result<Found, RpcError> {
        let passive = self.mode == TopologyMode::Passive && owner == Owner::Many;
        let found = self.find_or_declare(&declaration.queue, passive, owner).await?;
        if passive {
            return Ok(found);
        }
        let (stale, wanted) = (&declaration.stale, &declaration.bindings);
        let count = u32::try_from(stale.len() + wanted.len()).unwrap_or(u32::MAX);
        if count > 0 {
            let queue = short(found.name.as_str())?;
            let (stale, wanted) = (self.bindings(stale)?, self.bindings(wanted)?);
            let bind = async move |channel: Channel| {
                for (exchange, key) in stale {
                    let none = FieldTable::default();
                    channel.queue_unbind(queue.clone(), exchange, key, none).await?;
                }
                for (exchange, key) in wanted {
                    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
                    channel.queue_bind(queue.clone(), exchange, key, options, none).await?;
                }
                Ok(())
            };
            self.bind("binding a queue", count, self.again && !found.is_new, bind).await?;
        }
        Ok(found)
    }

    /// Exchanges and keys as AMQP's methods take them.
    fn bindings(&self, of: &[Binding]) -> Result<Vec<(ShortString, ShortString)>, RpcError> {
        let on_broker = |binding: &Binding| {
            Ok((short(self.names.on_broker(&binding.exchange))?, short(binding.key.as_str())?))
        };
        of.iter().map(on_broker).collect()
    }

    async fn find_or_declare(
        &mut self,
        queue: &Queue,
        passive: bool,
        owner: Owner,
    ) -> Result<Found, RpcError> {
        let named = !queue.name.is_empty();
        // What this start made is there, unless it was here already.
        let may_be_there = owner != Owner::Start || self.again;
        if named && self.mode != TopologyMode::Strict && may_be_there {
            match self.find(&queue.name, owner).await {
                Err(error) if error.is(code::NOT_FOUND) && !passive => {
                    // The node that has a classic queue may be down: declaring would not help.
                    if error.is_out_of_reach() {
                        return Err(error);
                    }
                }
                found => return found,
            }
        }
        match self.declare_queue(queue, owner).await {
            Err(error)
                if error.is(code::PRECONDITION_FAILED)
                    && self.mode != TopologyMode::Strict
                    && named =>
            {
                match self.find(&queue.name, owner).await {
                    // What it complains of is not that there is one.
                    Err(missing) if missing.is(code::NOT_FOUND) => Err(error),
                    found => {
                        tracing::warn!(queue = %queue.name, %error, "used as it is");
                        found
                    }
                }
            }
            declared => declared,
        }
    }

    /// A queue that exists; waits for no message of it.
    async fn find(&mut self, name: &str, owner: Owner) -> Result<Found, RpcError> {
        self.look(name, self.patience(owner)).await
    }

    /// A queue that exists, as the broker sees it, which is waited for so long.
    pub(crate) async fn look(&mut self, name: &str, limit: Duration) -> Result<Found, RpcError> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = short(self.names.on_broker(name))?;
        let find = async move |channel: Channel| {
            channel.queue_declare(name, options, FieldTable::default()).await
        };
        let queue = self.scratch.ask(limit, "looking for a queue", find).await?;
        Ok(Found::new(&queue, false))
    }

    async fn declare_queue(&mut self, queue: &Queue, owner: Owner) -> Result<Found, RpcError> {
        let options = QueueDeclareOptions {
            durable: !queue.exclusive,
            exclusive: queue.exclusive,
            auto_delete: queue.auto_delete,
            ..QueueDeclareOptions::default()
        };
        let name = short(self.names.on_broker(&queue.name))?;
        let arguments = arguments(queue);
        let declare =
            async move |channel: Channel| channel.queue_declare(name, options, arguments).await;
        let limit = self.patience(owner);
        let queue = self.scratch.ask(limit, "declaring a queue", declare).await?;
        Ok(Found::new(&queue, true))
    }

    pub(crate) async fn delete(&mut self, name: &str) -> Result<(), RpcError> {
        let name = short(self.names.on_broker(name))?;
        let delete = async move |channel: Channel| {
            channel.queue_delete(name, QueueDeleteOptions::default()).await
        };
        self.scratch.ask(ANSWER, "deleting a queue", delete).await.map(drop)
    }
}

fn arguments(queue: &Queue) -> FieldTable {
    let mut table = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let number = |n: u128| AMQPValue::LongLongInt(i64::try_from(n).unwrap_or(i64::MAX));
    let mut set = |name: &'static str, value| {
        table.insert(ShortString::from(name), value);
    };
    // Always: an absent type means the virtual host's default.
    set(
        "x-queue-type",
        text(match queue.queue_type {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
        }),
    );
    if let Some(expires) = queue.expires {
        set("x-expires", number(expires.as_millis()));
    }
    if let Some(ttl) = queue.message_ttl {
        set("x-message-ttl", number(ttl.as_millis()));
    }
    if let Some(exchange) = &queue.dead_letter_exchange {
        set("x-dead-letter-exchange", text(exchange));
    }
    if let Some(length) = queue.max_length {
        set("x-max-length", number(length.into()));
    }
    if queue.queue_type == QueueType::Quorum {
        set("x-delivery-limit", number(DELIVERY_LIMIT.into()));
    }
    table
}
