//! Whoever asked, to a handler that says itself how they are answered: now, later, or by another service.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Context, Fault, Reply, handler::encode_reply};
use crate::{
    Address, Cast, CastError, Codec, Deferred, Headers, Json, NotSent, Operation, Sending, Text,
    clock::after,
    topology::{MAX_HOPS, header},
};

/// Whoever asked, and waits for a `Rep`: what handlers get that
/// [say themselves](crate::NodeBuilder::on_with_caller) how they are answered.
///
/// ```
/// use gear_api::{Caller, Context, Fault, Node, Operation, Outcome, Service};
/// use gear_memory::MemoryBroker;
/// use std::{collections::HashMap, sync::Arc};
///
/// const CTRL: Service = Service::new("CTRL");
/// const REPO: Service = Service::new("REPO");
/// const FIND: Operation<String, u64> = Operation::new("find");
/// const LOOKUP: Operation<String, u64> = Operation::new("lookup");
///
/// /// What it does not know, REPO answers, straight to whoever asked.
/// async fn find(
///     known: Arc<HashMap<String, u64>>,
///     _: Context,
///     word: String,
///     caller: Caller<u64>,
/// ) -> Result<Outcome, Fault> {
///     match known.get(&word) {
///         Some(place) => caller.reply(place),
///         None => Ok(caller.forward(REPO, LOOKUP, &word).await?),
///     }
/// }
///
/// async fn lookup(_: Arc<()>, _: Context, word: String) -> Result<u64, Fault> {
///     Ok(word.len() as u64)
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = MemoryBroker::new();
/// let ctrl = Node::builder(broker.connect(), CTRL.at("host1")?)
///     .state(HashMap::from([("rose".to_owned(), 17)]))
///     .on_with_caller(FIND, find)
///     .start()
///     .await?;
/// let repo = Node::builder(broker.connect(), REPO.at("host1")?).on(LOOKUP, lookup).start().await?;
/// let client = repo.client();
/// assert_eq!(client.call(CTRL, FIND, &"rose".to_owned()).await?, 17);
/// assert_eq!(client.call(CTRL, FIND, &"thorn".to_owned()).await?, 5);
/// # drop(ctrl);
/// # Ok(())
/// # }
/// ```
pub struct Caller<Rep, C = Json> {
    cx: Context,
    types: PhantomData<fn(Rep) -> C>,
}

/// How a request is answered, as its handler says: made by a [`Caller`].
#[must_use = "a handler returns it"]
#[derive(Debug)]
pub struct Outcome(pub(super) Reply);

impl<Rep, C> Caller<Rep, C> {
    pub(super) fn new(cx: Context) -> Self {
        Self { cx, types: PhantomData }
    }

    /// Answers now, when the handler returns. A cast wants no answer, and gets none.
    ///
    /// # Errors
    ///
    /// [`code::UNENCODABLE`](crate::code::UNENCODABLE) if the codec has no form for it.
    pub fn reply(&self, reply: &Rep) -> Result<Outcome, Fault>
    where
        C: Codec<Rep>,
    {
        match self.cx.wants_answer() {
            true => encode_reply::<Rep, C>(reply).map(Outcome),
            false => Ok(Outcome(Reply::default())),
        }
    }

    /// Hands the request on: `to` answers whoever asked, and this node has nothing more to do with it once
    /// the broker has confirmed that it is there. It is sent now; awaiting it waits for that, for the
    /// node's `send_timeout` at most. From then on this handler answers no call any more, whatever it returns;
    /// a cast whose handler fails after that is tried again, and handed on again. The deadline, the headers and
    /// whether it is durable stay the same; what is asked, and in which words, may change. A cast is handed on
    /// as a cast.
    ///
    /// Its id follows from the one before, from this queue, and from what is handed on to whom: the parts of a
    /// request have ids of their own, and the same ones if it comes again. Two that are the same in address,
    /// operation and body count as one to [`Deduplicate`](crate::Deduplicate).
    ///
    /// What was done before is done: an error of a service that it was handed on to never says that asking
    /// again is [safe](crate::Retry::Safe). Of a group the first answer counts. To who gathers, an answer is
    /// that of the instance that was asked, whoever gives it.
    ///
    /// # Errors
    ///
    /// As a cast. [`NotSent::TooManyHops`] if it was handed on [`MAX_HOPS`] times before, or if it came through a
    /// group, was handed on, and is to go to a group again: services that hand on to each other in a circle would
    /// do so for ever. What `?` makes of an error is the answer to whoever asked. Where nobody knows whether the
    /// broker has a call ([`CastError::Unknown`]) it counts as handed on: an answer may still come.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, the request may have been handed on, and what this handler returns is sent as
    /// well; the first answer counts.
    pub fn forward<Req>(
        &self,
        to: impl Into<Address>,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Forwarding
    where
        C: Codec<Req>,
    {
        let body = C::encode(request).map_err(NotSent::Encode);
        let sent = self.hand_on(to.into(), operation.text(), C::CONTENT_TYPE, body);
        Forwarding { sent: sent.map_err(Some), cx: self.cx.clone() }
    }

    fn hand_on(
        &self,
        to: Address,
        operation: Text,
        content_type: Text,
        body: Result<Bytes, NotSent>,
    ) -> Result<Sending, CastError> {
        let (core, message) = (self.cx.core(), self.cx.message());
        // From group to group it would be more and more.
        let multiplies = to.is_group() && self.cx.is_of_group() && message.hops() > 0;
        if message.hops() >= MAX_HOPS || multiplies {
            return Err(CastError::NotSent(NotSent::TooManyHops));
        }
        let body = body.and_then(|body| core.check_body(body.len()).map(|()| body));
        let started = Instant::now();
        let now = core.clock.timestamp(started);
        let mut head = core.head(message.kind(), operation, now, None);
        head.content_type = content_type;
        head.headers = self.headers(&head.operation);
        head.durable = message.is_durable();
        head.hops = message.hops() + 1;
        head.correlation = message.correlation().or(message.id()).cloned();
        head.reply_to = message.reply_to().cloned();
        head.deadline = message.deadline();
        // The same if this handler gets it once more, and another for each part that it makes of one.
        let (queue, key) = (self.cx.queue(), to.key());
        let bytes = body.as_deref().unwrap_or_default();
        let parts = [queue.as_bytes(), key.as_bytes(), head.operation.as_bytes(), bytes];
        head.id = Some(match message.id() {
            Some(id) => id.derived(&parts),
            None => core.next_id(now),
        });
        let client = self.cx.client();
        let give_up = client.bound(after(started, core.settings.send_timeout));
        Ok(Cast::of_request(client, to, give_up, head, body, None).send())
    }

    /// Those of the request, with what its answer has to know.
    fn headers(&self, operation: &Text) -> Headers {
        let message = self.cx.message();
        let mut headers = message.headers().clone();
        for own in [header::KEY, header::DEAD_QUEUE, header::DEAD_REASON] {
            headers.remove(own);
        }
        let mut note = |name, value: &Text| {
            if headers.get(name).is_none() {
                // Where there is no room for it, the answer is found by its correlation alone.
                let _ = headers.insert_reserved(Text::from_static(name), value.clone().into());
            }
        };
        if self.cx.is_of_group() {
            note(header::GROUP, self.cx.key());
        }
        if self.cx.wants_answer() && operation != message.operation() {
            note(header::ASKED, message.operation());
        }
        if self.cx.wants_answer() && self.cx.is_of_instance() {
            note(header::ASKED_OF, self.cx.instance().text());
        }
        headers
    }

    /// Answers later: with what this returns, here or elsewhere, before the deadline of the call, which is 30 s
    /// after it was made unless it says otherwise. What takes hours is asked with a
    /// [`timeout`](crate::Call::timeout) of as many, and [a reply handler](crate::Call::reply_to).
    ///
    /// The request is done with when the handler returns the outcome; what is to outlive this process is saved
    /// before. A request that comes again is put off again: behind [`Deduplicate`](crate::Deduplicate) it is not.
    ///
    /// ```
    /// use gear_api::{Caller, Client, Context, Deferred, Fault, Node, Operation, Outcome, Service};
    /// use gear_memory::MemoryBroker;
    /// use std::sync::{Arc, Mutex};
    ///
    /// const SHOP: Service = Service::new("SHOP");
    /// const BUY: Operation<String, u64> = Operation::new("buy");
    ///
    /// /// Stands for a database.
    /// type Orders = Mutex<Vec<String>>;
    ///
    /// async fn buy(
    ///     orders: Arc<Orders>,
    ///     _: Context,
    ///     _what: String,
    ///     caller: Caller<u64>,
    /// ) -> Result<Outcome, Fault> {
    ///     let (deferred, outcome) = caller.defer();
    ///     orders.lock().unwrap().push(serde_json::to_string(&deferred)?);
    ///     Ok(outcome)
    /// }
    ///
    /// /// When it is paid, by whichever process learns of it.
    /// async fn paid(orders: &Orders, client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    ///     let order = orders.lock().unwrap().pop().ok_or("there is none")?;
    ///     let deferred: Deferred<u64> = serde_json::from_str(&order)?;
    ///     deferred.reply(client, &4711).await?;
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (broker, orders) = (MemoryBroker::new(), Arc::new(Orders::default()));
    /// let shop = Node::builder(broker.connect(), SHOP.at("host1")?)
    ///     .state(Arc::clone(&orders))
    ///     .on_with_caller(BUY, buy)
    ///     .start()
    ///     .await?;
    /// let client = Client::builder(broker.connect(), "CLI.laptop".parse()?).start().await?;
    /// let bought = client.call(SHOP, BUY, &"a rose".to_owned()).send();
    /// broker.idle().await;
    /// paid(&orders, &client).await?;
    /// assert_eq!(bought.await?, 4711);
    /// # drop(shop);
    /// # Ok(())
    /// # }
    /// ```
    pub fn defer(&self) -> (Deferred<Rep, C>, Outcome) {
        let mut asked = self.cx.asked();
        if self.cx.is_of_instance() {
            asked.instance.get_or_insert_with(|| self.cx.instance().text().clone());
        }
        (Deferred::of(asked, self.cx.reply_to().cloned()), Outcome(Reply::elsewhere()))
    }
}

/// A request that is being [handed on](Caller::forward).
///
/// # Cancel safety
///
/// Dropped before it returns, it may have been handed on.
#[must_use = "the broker's answer tells whether it was handed on"]
#[derive(Debug)]
pub struct Forwarding {
    sent: Result<Sending, Option<CastError>>,
    cx: Context,
}

impl Future for Forwarding {
    type Output = Result<Outcome, CastError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let result = match &mut self.sent {
            Ok(sending) => ready!(Pin::new(sending).poll(task)),
            Err(error) => Err(error.take().unwrap_or(CastError::Closed)),
        };
        match result {
            Ok(()) => {}
            Err(CastError::Unknown(why)) if self.cx.wants_answer() => {
                tracing::warn!(%why, "nobody knows whether the request was handed on");
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
        self.cx.set_handed_on();
        Poll::Ready(Ok(Outcome(Reply::elsewhere())))
    }
}

impl<Rep, C> fmt::Debug for Caller<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("request", &self.cx).finish()
    }
}
