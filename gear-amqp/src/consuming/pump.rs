//! From one consumer of lapin to whoever takes its deliveries.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use gear_api::{ConsumerEnd, Delivery, Kind, Message, Settlement, topology::exchange};
use lapin::options::BasicCancelOptions;
use tokio::time::timeout;

use super::{
    Consumers,
    acks::{Acks, Settler},
    establish::Established,
    inbox::Item,
    ping,
    subscribed::{Particular, Slot, Subscribed},
};
use crate::{
    link::rpc::{ANSWER, within},
    publishing::{now, outgoing::Target},
    wire::{Decoder, Origin},
};

/// Deliveries that are taken without a look at anything else.
const BATCH: usize = 128;
const GONE: &str = "the queue was deleted, or its node is gone";

/// What the broker sends before it hears of this goes back.
async fn cancel(consumer: &lapin::Consumer, acks: &Acks) {
    let options = BasicCancelOptions::default();
    let (channel, tag) = (acks.channel().clone(), consumer.tag());
    let cancel = async move { channel.basic_cancel(tag, options).await };
    let _ = within(ANSWER, "cancelling a consumer", cancel).await;
}

/// Why no more is read.
pub(super) enum Pumped {
    Stopped,
    Ended(String),
}

impl Consumers {
    /// Brings what comes to whoever takes it, until it is stopped or the broker ends it.
    pub(super) async fn pump(
        &self,
        subscribed: &Arc<Subscribed>,
        established: Established,
    ) -> Pumped {
        let Established { mut consumer, acks } = established;
        let (drops, inbox) = (Arc::clone(&subscribed.drops), Arc::downgrade(&subscribed.inbox));
        let settler = Arc::new(Settler::new(Arc::clone(&acks), drops, inbox));
        let mut decoder = Decoder::new(&self.settings.names);
        let stop = subscribed.inbox.stop.notified();
        tokio::pin!(stop);
        let why = 'pump: loop {
            if subscribed.inbox.is_stopping() {
                break None;
            }
            let next = tokio::select! {
                biased;
                () = &mut stop => break None,
                next = consumer.next() => next,
            };
            match next {
                Some(Ok(delivery)) => {
                    self.deliver(subscribed, delivery, &mut decoder, &acks, &settler);
                    // What is here already needs no look at anything else.
                    for _ in 0..BATCH {
                        match consumer.next().now_or_never() {
                            Some(Some(Ok(delivery))) => {
                                self.deliver(subscribed, delivery, &mut decoder, &acks, &settler);
                            }
                            Some(Some(Err(error))) => break 'pump Some(error.to_string()),
                            Some(None) => break 'pump Some(GONE.to_owned()),
                            None => break,
                        }
                    }
                }
                Some(Err(error)) => break Some(error.to_string()),
                None => break Some(GONE.to_owned()),
            }
        };
        match why {
            Some(why) => {
                if !acks.channel().status().connected() {
                    // The broker has back what nobody has taken yet.
                    subscribed.inbox.lost();
                }
                Pumped::Ended(why)
            }
            None => {
                cancel(&consumer, &acks).await;
                subscribed.inbox.give_back();
                loop {
                    let next = timeout(Duration::from_secs(1), consumer.next()).await;
                    match next {
                        Ok(Some(Ok(left))) => {
                            self.take_back(subscribed, left, &mut decoder, &acks, &settler);
                        }
                        Err(_) if acks.channel().status().connected() => {
                            // Whoever stops it does not wait for that.
                            subscribed.inbox.end(ConsumerEnd::Stopped);
                        }
                        _ => break,
                    }
                }
                Pumped::Stopped
            }
        }
    }

    /// Ends a consumer that began when nobody waited for it any more.
    pub(super) async fn end_late(&self, subscribed: &Subscribed, late: Established) {
        let Established { mut consumer, acks } = late;
        let (drops, inbox) = (Arc::clone(&subscribed.drops), Arc::downgrade(&subscribed.inbox));
        let settler = Arc::new(Settler::new(Arc::clone(&acks), drops, inbox));
        let mut decoder = Decoder::new(&self.settings.names);
        cancel(&consumer, &acks).await;
        while let Some(Ok(left)) = consumer.next().await {
            self.take_back(subscribed, left, &mut decoder, &acks, &settler);
        }
    }

    /// Until a broker that is slow has heard that a consumer is cancelled, it may send more, which
    /// would stay with this connection.
    fn take_back(
        &self,
        subscribed: &Subscribed,
        left: lapin::message::Delivery,
        decoder: &mut Decoder<'_>,
        acks: &Arc<Acks>,
        settler: &Arc<Settler>,
    ) {
        // The broker waits for no word about replies, and takes one as an error.
        if matches!(subscribed.particular, Particular::Replies(..)) {
            return self.deliver(subscribed, left, decoder, acks, settler);
        }
        acks.out(left.delivery_tag);
        acks.give_back(left.delivery_tag, false);
    }

    fn deliver(
        &self,
        subscribed: &Subscribed,
        delivery: lapin::message::Delivery,
        decoder: &mut Decoder<'_>,
        acks: &Arc<Acks>,
        settler: &Arc<Settler>,
    ) {
        let lapin::message::Delivery {
            delivery_tag: tag,
            exchange,
            routing_key,
            redelivered,
            properties,
            data,
            ..
        } = delivery;
        let names = &self.settings.names;
        // Answers come past the entry, be it through `gear.reply` or to the queue's own name.
        let origin = match subscribed.origin {
            Origin::Requests
                if subscribed.slot == Slot::Shared
                    && names.own(exchange.as_str()) != exchange::ENTRY.as_str() =>
            {
                Origin::Either
            }
            origin => origin,
        };
        let message = decoder.decode(&properties, data, origin, now);
        if let Particular::Replies(_, sink) = &subscribed.particular {
            acks.needs_none(tag);
            return sink.deliver(message);
        }
        acks.out(tag);
        if matches!(subscribed.particular, Particular::Instance(_)) && ping::is_ping(&message) {
            acks.ack(tag);
            return self.pong(&message);
        }
        let key = if exchange.as_str() == exchange::DEFAULT.as_str() {
            decoder.key(names.own(routing_key.as_str()))
        } else {
            decoder.key(routing_key.as_str())
        };
        let item = if matches!(subscribed.particular, Particular::Tap) {
            let delivery = Delivery::new(message, key, redelivered, Settlement::none());
            Item { delivery, ack_when_taken: Some((Arc::clone(acks), tag)) }
        } else {
            if redelivered {
                settler.out_again(tag, &message, &key);
            }
            let settle: Arc<dyn gear_api::Settle> = Arc::<Settler>::clone(settler);
            let settlement = Settlement::new(settle, tag);
            let delivery = Delivery::new(message, key, redelivered, settlement);
            Item { delivery, ack_when_taken: None }
        };
        subscribed.inbox.put(item);
    }

    /// Somebody wants to know whether this instance is alive.
    fn pong(&self, ping: &Message) {
        // Its queue is foreign: the broker named it.
        let Some(to) = ping.reply_to().filter(|to| to.as_str().starts_with("amq.gen-")) else {
            return;
        };
        let pong = Message::builder(Kind::Reply, ping.operation().clone())
            .correlation(ping.correlation().cloned())
            .build();
        self.publisher.send_to(Target::reply(to), pong).detach();
    }
}
