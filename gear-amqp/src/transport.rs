//! One node's connection to RabbitMQ: the [`Transport`].

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use gear_api::{
    Capabilities, Clock, Consumer, Message, Publish, Route, Status, SubscribeError, Subscription,
    Text, Transport,
};
use tokio::sync::watch;

use crate::{
    AmqpBuilder, AmqpError,
    consuming::Consumers,
    consuming::inbox::InboxSource,
    consuming::subscribed::Subscribed,
    link::board::Board,
    link::choice::Choice,
    link::supervisor::{self, Supervisor},
    publishing::Publisher,
    settings::Settings,
};

/// One node's connection to RabbitMQ.
///
/// Cheap to clone; the clones are one connection, which is closed with the last of them.
///
/// ```no_run
/// use gear_amqp::AmqpTransport;
/// use gear_api::{Client, Operation, Service};
///
/// const CTRL: Service = Service::new("CTRL");
/// const SHOUT: Operation<String, String> = Operation::new("shout");
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let transport = AmqpTransport::connect("amqp://guest:guest@localhost:5672/%2f").await?;
/// let client = Client::builder(transport, "CLI.laptop".parse()?).start().await?;
/// assert_eq!(client.call(CTRL, SHOUT, &"hello".to_owned()).await?, "HELLO");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AmqpTransport(Arc<Handle>);

struct Handle {
    settings: Arc<Settings>,
    board: Arc<Board>,
    publisher: Arc<Publisher>,
    consumers: Arc<Consumers>,
    closing: watch::Sender<bool>,
    /// Held by whoever waits for the closing, so that the second waits for the first.
    closed: tokio::sync::Mutex<Closing>,
    runtime: tokio::runtime::Handle,
}

enum Closing {
    Not,
    /// Goes on when nobody waits for it any more.
    Now(tokio::task::JoinHandle<()>),
    Done,
}

/// How long closing waits for confirms.
const FLUSH: Duration = Duration::from_secs(3);

impl AmqpTransport {
    /// Connects with the options in `url`.
    ///
    /// # Errors
    ///
    /// [`AmqpError`]: each broker that the URL names is tried once.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing remains connected.
    pub async fn connect(url: &str) -> Result<Self, AmqpError> {
        Self::builder(url)?.connect().await
    }

    /// Starts from a URL; see [`AmqpBuilder`] for its options.
    ///
    /// # Errors
    ///
    /// [`AmqpError::InvalidUrl`] and [`AmqpError::InvalidOption`].
    pub fn builder(url: &str) -> Result<AmqpBuilder, AmqpError> {
        AmqpBuilder::new(url)
    }

    pub(crate) async fn start(options: AmqpBuilder) -> Result<Self, AmqpError> {
        let settings = Arc::new(Settings::new(options));
        let board = Arc::new(Board::new());
        let publisher = Arc::new(Publisher::new(Arc::clone(&settings), Arc::clone(&board)));
        let consumers = Arc::new(Consumers::new(
            Arc::clone(&settings),
            Arc::clone(&publisher),
            Arc::clone(&board),
        ));
        let (closing, _) = watch::channel(false);
        // Nodes that were all given the same list spread over it.
        let choice = {
            use std::hash::{BuildHasher, RandomState};
            Arc::new(Choice::new(RandomState::new().hash_one(0u8) as usize))
        };
        let supervisor = |publisher: Option<_>, consumers: Option<_>| Supervisor {
            settings: Arc::clone(&settings),
            board: Arc::clone(&board),
            publisher,
            consumers,
            closing: closing.subscribe(),
            choice: Arc::clone(&choice),
        };
        let (some_publisher, some_consumers) =
            (Some(Arc::clone(&publisher)), Some(Arc::clone(&consumers)));
        let supervisors = if settings.options.single_connection {
            vec![supervisor(some_publisher, some_consumers)]
        } else {
            vec![supervisor(some_publisher, None), supervisor(None, some_consumers)]
        };
        let links = supervisor::start(&supervisors).await?;
        tokio::spawn(Arc::clone(&publisher).keep_time());
        for (supervisor, link) in supervisors.into_iter().zip(links) {
            tokio::spawn(supervisor.run(link));
        }
        let mut status = board.watch();
        let limit = settings.options.connect_timeout;
        // Whoever gives up from here on closes it.
        let transport = Self(Arc::new(Handle {
            settings,
            board,
            publisher,
            consumers,
            closing,
            closed: tokio::sync::Mutex::new(Closing::Not),
            runtime: tokio::runtime::Handle::current(),
        }));
        let ready = status.wait_for(|status| *status != Status::Connecting);
        let _ = tokio::time::timeout(limit, ready).await;
        Ok(transport)
    }
}

impl From<AmqpTransport> for Arc<dyn Transport> {
    fn from(transport: AmqpTransport) -> Self {
        Arc::new(transport)
    }
}

impl fmt::Debug for AmqpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpTransport")
            .field("status", &*self.0.board.watch().borrow())
            .finish_non_exhaustive()
    }
}

async fn close(
    publisher: Arc<Publisher>,
    consumers: Arc<Consumers>,
    board: Arc<Board>,
    closing: watch::Sender<bool>,
) {
    consumers.close().await;
    publisher.close(FLUSH).await;
    board.closed(Text::from_static("it was closed"));
    closing.send_replace(true);
    // The supervisors hold receivers until they have said goodbye.
    let _ = tokio::time::timeout(FLUSH, closing.closed()).await;
}

impl Handle {
    fn begin_to_close(&self) -> tokio::task::JoinHandle<()> {
        self.runtime.spawn(close(
            Arc::clone(&self.publisher),
            Arc::clone(&self.consumers),
            Arc::clone(&self.board),
            self.closing.clone(),
        ))
    }
}

/// The last clone is gone: what was sent still goes out.
impl Drop for Handle {
    fn drop(&mut self) {
        if matches!(self.closed.get_mut(), Closing::Not) {
            drop(self.begin_to_close());
        }
    }
}

#[async_trait]
impl Transport for AmqpTransport {
    fn send(&self, route: Route<'_>, message: Message) -> Publish {
        self.0.publisher.send(route, message)
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Consumer, SubscribeError> {
        let Handle { settings, publisher, consumers, .. } = &*self.0;
        let (subscribed, established) = Subscribed::plan(settings, publisher, subscription)?;
        // Dropping it is stopping it, also while it is waited for.
        let consumer = Consumer::new(InboxSource::new(Arc::clone(&subscribed.inbox)));
        consumers.add(subscribed)?;
        established.await.unwrap_or(Err(SubscribeError::Closed))?;
        Ok(consumer)
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::default();
        all.confirms = true;
        all.mandatory = true;
        all.durable = true;
        all.expiry = true;
        all.delays = true;
        all.dead_letters = true;
        all.events = true;
        all.taps = true;
        all.exclusive_instances = true;
        all.max_message_bytes = self.0.settings.options.max_message_bytes;
        all
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.0.board.watch()
    }

    fn clock(&self) -> Clock {
        Clock::system()
    }

    async fn close(&self) {
        let mut closed = self.0.closed.lock().await;
        if matches!(*closed, Closing::Not) {
            *closed = Closing::Now(self.0.begin_to_close());
        }
        if let Closing::Now(closing) = &mut *closed {
            let _ = closing.await;
            *closed = Closing::Done;
        }
    }
}
