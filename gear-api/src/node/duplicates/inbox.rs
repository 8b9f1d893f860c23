//! What was handled before, and where it is recorded.

use std::{fmt, sync::Arc};

use super::{BoxError, Reply};
use crate::{Id, Text};

/// What tells one message from all others: its copies, if there are several, have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct InboxKey {
    /// The queue that it came by. Where a message goes to several queues, each handles it.
    pub queue: Text,
    /// Its id, which its sender has given it.
    pub id: Id,
    /// How often it was [handed on](crate::Caller::forward): it may come to one queue twice on
    /// its way.
    pub hops: u32,
}

/// As one text, to be a key elsewhere: `CTRL 0199d9a4-7b3c-7000-8000-000000000001 0`.
impl fmt::Display for InboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.queue, self.id, self.hops)
    }
}

/// What an [`Inbox`] knows of a message.
#[derive(Debug)]
pub enum Known<T> {
    /// It was handled, and this was answered.
    Handled(Reply),
    /// It was not: what the handler does belongs to this transaction.
    New(T),
}

/// Where [`Deduplicate`](crate::Deduplicate) looks up what was handled, and records it: a [`Window`](crate::Window) in memory, or a
/// store of one's own, which instances share.
///
/// A store that keeps the record where the handler has its effect, and writes both in one
/// transaction, makes the two happen together or not at all (the inbox pattern). The handler finds the
/// transaction in its context, as an [extension](crate::Context::extension):
///
/// ```
/// use gear_api::{BoxError, Context, Deduplicate, Fault, Inbox, InboxKey, Known, Node, Operation, Reply, Service};
/// use gear_memory::{BrokerFault, MemoryBroker};
/// use std::{collections::HashMap, sync::{Arc, Mutex}};
///
/// const BANK: Service = Service::new("BANK");
/// const PAY: Operation<i64, i64> = Operation::new("pay");
///
/// /// Stands for a database with two tables.
/// #[derive(Default)]
/// struct Database(Mutex<(i64, HashMap<String, Reply>)>);
///
/// /// What is to be added to the balance.
/// type Transaction = Arc<Mutex<i64>>;
///
/// impl Inbox for Database {
///     type Transaction = Transaction;
///
///     async fn begin(&self, key: &InboxKey) -> Result<Known<Transaction>, BoxError> {
///         let tables = self.0.lock().unwrap();
///         Ok(match tables.1.get(&key.to_string()) {
///             Some(reply) => Known::Handled(reply.clone()),
///             None => Known::New(Transaction::default()),
///         })
///     }
///
///     async fn commit(
///         &self,
///         key: &InboxKey,
///         transaction: Transaction,
///         reply: &Reply,
///     ) -> Result<(), BoxError> {
///         let mut tables = self.0.lock().unwrap();
///         tables.0 += *transaction.lock().unwrap();
///         tables.1.insert(key.to_string(), reply.clone());
///         Ok(())
///     }
/// }
///
/// async fn pay(_: Arc<()>, cx: Context, amount: i64) -> Result<i64, Fault> {
///     let transaction: &Transaction = cx.extension().expect("the layer has begun one");
///     *transaction.lock().unwrap() += amount;
///     Ok(amount)
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (broker, database) = (MemoryBroker::new(), Arc::new(Database::default()));
/// let bank = Node::builder(broker.connect(), BANK.at("host1")?)
///     .layer(Deduplicate::new(Arc::clone(&database)))
///     .on(PAY, pay)
///     .start()
///     .await?;
/// broker.inject(BrokerFault::Duplicate);
/// bank.client().cast(BANK, PAY, &100).await?;
/// broker.idle().await;
/// assert_eq!(bank.stats().operations[0].1, 2); // it came twice
/// assert_eq!(database.0.lock().unwrap().0, 100);
/// # Ok(())
/// # }
/// ```
pub trait Inbox: Send + Sync + 'static {
    /// What a handler writes to, `()` if there is no such thing. One that is dropped has done nothing.
    type Transaction: Clone + Send + Sync + 'static;

    /// A message is here. Was it handled before?
    ///
    /// # Errors
    ///
    /// Whatever keeps the store from knowing. The message is not handled then: a call is answered with
    /// [`code::UNAVAILABLE`](crate::code::UNAVAILABLE), a cast is tried again.
    fn begin(
        &self,
        key: &InboxKey,
    ) -> impl Future<Output = Result<Known<Self::Transaction>, BoxError>> + Send;

    /// The handler has succeeded, and this is its answer. From now on the message is handled.
    ///
    /// # Errors
    ///
    /// Whatever keeps the store from writing it down, also that another has done so meanwhile. The
    /// message then counts as failed, as above.
    fn commit(
        &self,
        key: &InboxKey,
        transaction: Self::Transaction,
        reply: &Reply,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl<I: Inbox> Inbox for Arc<I> {
    type Transaction = I::Transaction;

    async fn begin(&self, key: &InboxKey) -> Result<Known<I::Transaction>, BoxError> {
        (**self).begin(key).await
    }

    async fn commit(
        &self,
        key: &InboxKey,
        transaction: I::Transaction,
        reply: &Reply,
    ) -> Result<(), BoxError> {
        (**self).commit(key, transaction, reply).await
    }
}
