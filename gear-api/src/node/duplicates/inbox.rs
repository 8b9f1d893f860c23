//! What was handled before, and where it is recorded.

use std::{fmt, sync::Arc};

use super::{BoxError, Reply};
use crate::{Id, Text};

/// What tells one message from all others: its copies, if there are several, have the same.
///
/// Ids of Gear's own are of no other message, unless two nodes were given one
/// [seed](crate::NodeBuilder::seed). Foreign programs that send to one queue must not use the
/// same ones: what only numbers its messages is told from others by something that it puts before the number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct InboxKey {
    /// The queue that it came by. Where a message goes to several queues, each handles it.
    pub queue: Text,
    /// What it asks for.
    pub operation: Text,
    /// Its id, which its sender has given it.
    pub id: Id,
}

impl InboxKey {
    /// The key of the message with this `id` in this `queue`.
    #[must_use]
    pub fn new(queue: impl Into<Text>, operation: impl Into<Text>, id: impl Into<Id>) -> Self {
        Self { queue: queue.into(), operation: operation.into(), id: id.into() }
    }
}

/// As one text, to be a key elsewhere: `BANK "pay" 0199d9a4-7b3c-7000-8000-000000000001`. It stays as it is.
///
/// ```
/// use gear_api::InboxKey;
///
/// let key = InboxKey::new("BANK", "pay", "order 17");
/// assert_eq!(key.to_string(), r#"BANK "pay" order 17"#);
/// ```
impl fmt::Display for InboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.queue, self.operation, self.id)
    }
}

/// What an [`Inbox`] knows of a message.
#[derive(Debug)]
pub enum Known<T> {
    /// It was handled, and this was answered.
    Handled(Reply),
    /// It was not handled: what the handler does belongs to this transaction.
    New(T),
}

/// Where [`Deduplicate`](crate::Deduplicate) looks up what was handled, and records it: a
/// [`Window`](crate::Window) in memory, or a store of one's own, which instances share.
///
/// A store that keeps the record where the handler has its effect, and writes both in one
/// transaction, makes the two happen together or not at all (the inbox pattern). The handler finds the
/// transaction in its context, as an [extension](crate::Context::extension). What it sends meanwhile is not part
/// of it: where that must not come twice either, it is written down in the transaction, too, and sent
/// from there with [its own id](crate::Cast::id) (the outbox pattern).
///
/// Two instances may have the same message at the same time, as after a lost connection. So either
/// [`begin`](Self::begin) claims it, and lets the second one wait (an `insert` of a primary key does in most SQL
/// databases), or [`commit`](Self::commit) fails for the second, which then has the answer of the first.
///
/// ```
/// use gear_api::{
///     BoxError, Context, Deduplicate, Fault, Inbox, InboxKey, Known, Node, Operation, Reply, Service,
/// };
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
///         if tables.1.contains_key(&key.to_string()) {
///             return Err("another instance has handled it meanwhile".into());
///         }
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
    /// What a handler writes to, `()` if there is no such thing. One that is dropped has done nothing: that is
    /// how it ends where the handler is cut off. With most databases it is an
    /// `Arc<tokio::sync::Mutex<Option<…>>>`: the handler writes to what is in there, and
    /// [`commit`](Self::commit) takes it out, so that a clone that the handler has kept can do nothing more.
    type Transaction: Clone + Send + Sync + 'static;

    /// A message is here. Was it handled before?
    ///
    /// It is dropped at the message's deadline: a claim that it has made ends then.
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
    /// All of a reply is written down: its content type, its body, and whether it
    /// [is elsewhere](Reply::is_elsewhere), to be made again with [`Reply::new`] and
    /// [`Reply::not_from_here`]. How long it is kept is the store's affair: a copy may come
    /// [hours later](crate::Window).
    ///
    /// # Errors
    ///
    /// Whatever keeps the store from writing it down. If another has done so meanwhile, as
    /// [`begin`](Self::begin) then says, its answer is given; otherwise the message counts as failed, as above.
    fn commit(
        &self,
        key: &InboxKey,
        transaction: Self::Transaction,
        reply: &Reply,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The handler has failed, or its answer is not recorded. By default the transaction is dropped. It is
    /// dropped, and this is not called, where the handler is cut off.
    fn rollback(
        &self,
        key: &InboxKey,
        transaction: Self::Transaction,
    ) -> impl Future<Output = ()> + Send {
        let _ = key;
        drop(transaction);
        std::future::ready(())
    }
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

    async fn rollback(&self, key: &InboxKey, transaction: I::Transaction) {
        (**self).rollback(key, transaction).await;
    }
}
