//! Whoever asked, to a handler that says itself how they are answered: now, later, or by another service.

use std::{fmt, marker::PhantomData};

use tokio::time::Instant;

use super::{Context, Fault, Reply, handler::encode_reply};
use crate::{
    Address, Cast, CastError, Codec, Deferred, Json, NotSent, Operation, Text,
    client::Client,
    clock::after,
    message::Head,
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
    /// the broker has confirmed that it is there. Awaiting it waits for that. Its id, its deadline, its
    /// headers and whether it is durable stay the same; what is asked, and in which words, may change. A
    /// cast is handed on as a cast.
    ///
    /// Of a group the first answer counts, and who gathers sees who answered, not who was asked.
    ///
    /// # Errors
    ///
    /// As a cast. [`NotSent::TooManyHops`] if it was handed on [`MAX_HOPS`] times before: services that
    /// hand on to each other in a circle would do so for ever. What `?` makes of an error
    /// tells whoever asked that it was not handed on.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, it may have been handed on.
    pub async fn forward<Req>(
        &self,
        to: impl Into<Address>,
        operation: Operation<Req, Rep, C>,
        request: &Req,
    ) -> Result<Outcome, CastError>
    where
        C: Codec<Req>,
    {
        let sent = self.handed_on(to.into(), operation.text(), C::CONTENT_TYPE, C::encode(request));
        sent?.await?;
        Ok(Outcome(Reply::elsewhere()))
    }

    fn handed_on(
        &self,
        to: Address,
        operation: Text,
        content_type: Text,
        body: Result<bytes::Bytes, crate::CodecError>,
    ) -> Result<Cast, CastError> {
        let (core, message) = (self.cx.core(), self.cx.message());
        if message.hops() >= MAX_HOPS {
            return Err(CastError::NotSent(NotSent::TooManyHops));
        }
        let mut headers = message.headers().clone();
        headers.remove(header::KEY);
        let started = Instant::now();
        let mut head = Head { headers, content_type, ..self.cx.head_of(operation) };
        head.sent_at = Some(core.clock.timestamp(started));
        let body = body.map_err(NotSent::Encode).and_then(|body| {
            core.check_body(body.len())?;
            Ok(body)
        });
        let give_up = after(started, core.settings.send_timeout);
        let client: Client = self.cx.client();
        let give_up = client.bound(give_up);
        Ok(Cast::of_request(client, to, give_up, head, body, None))
    }

    /// Answers later: with what this returns, here or elsewhere. The request is done with when the handler
    /// returns the outcome; what is to outlive this process is saved before.
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
        let deferred = Deferred::of(self.cx.message(), self.cx.wants_answer());
        (deferred, Outcome(Reply::elsewhere()))
    }
}

impl<Rep, C> fmt::Debug for Caller<Rep, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("request", &self.cx).finish()
    }
}
