//! A broker that goes no further than the handshake, is made to close channels, or loses confirms: it
//! stands before a real one.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use gear_test_amqp::Broker;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
};

/// What becomes of a connection when it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    GoesOn,
    IsClosed,
    /// Nothing is answered any more.
    IsSilent,
}

pub(crate) struct Handshake {
    port: u16,
    then: watch::Sender<Then>,
    close_channels: watch::Sender<()>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    /// Channels that were to be opened.
    channels: AtomicUsize,
    /// Confirms that are still to be lost.
    to_lose: AtomicUsize,
    /// Consumers that are still to begin late.
    to_begin_late: AtomicUsize,
    /// Whether the answers to exchange.bind and queue.bind are.
    loses_binds: AtomicBool,
    /// Whether this, in properties and headers, is made unreadable.
    corrupts: AtomicBool,
    /// Clients that are connected.
    open: AtomicUsize,
}

impl Handshake {
    pub(crate) async fn before(broker: &Broker, then: Then) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (then, told) = watch::channel(then);
        let (close_channels, close) = watch::channel(());
        let seen = Arc::<Seen>::default();
        let (see, target) = (Arc::clone(&seen), broker.port());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                see.accepted.fetch_add(1, Ordering::Relaxed);
                let see = Arc::clone(&see);
                let relay = relay(client, target, told.clone(), close.clone(), Arc::clone(&see));
                tokio::spawn(async move {
                    see.open.fetch_add(1, Ordering::Relaxed);
                    let _ = relay.await;
                    see.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { port, then, close_channels, seen })
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Ends all connections; new ones are treated in this way.
    pub(crate) fn change(&self, then: Then) {
        self.then.send_replace(then);
    }

    /// Has the broker close every channel that has begun to consume: it gets an ack there that it
    /// does not wait for.
    pub(crate) fn close_channels(&self) {
        self.close_channels.send_replace(());
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::Relaxed)
    }

    /// Channels that were opened so far.
    pub(crate) fn channels(&self) -> usize {
        self.seen.channels.load(Ordering::Relaxed)
    }

    /// Clients that are connected now.
    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(Ordering::Relaxed)
    }

    /// From now on no binding is answered: a cluster that has just lost a node writes none.
    pub(crate) fn lose_binds(&self) {
        self.seen.loses_binds.store(true, Ordering::Relaxed);
    }

    /// Properties and headers with [`CORRUPTED`] in them have bytes there that are no UTF-8, or have
    /// them no more.
    pub(crate) fn corrupt(&self, corrupts: bool) {
        self.seen.corrupts.store(corrupts, Ordering::Relaxed);
    }

    /// When the next consumer has begun the broker says nothing for a while, that least of all.
    pub(crate) fn begin_late(&self) {
        self.seen.to_begin_late.fetch_add(1, Ordering::Relaxed);
    }

    /// The next confirm never comes.
    pub(crate) fn lose_a_confirm(&self) {
        self.seen.to_lose.fetch_add(1, Ordering::Relaxed);
    }
}

/// One more of so many. Returns whether there was one left.
fn take(left: &AtomicUsize) -> bool {
    let one_less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
}

impl Seen {
    fn loses(&self, answer: &[u8]) -> bool {
        if is_method(answer, EXCHANGE_BIND_OK) || is_method(answer, QUEUE_BIND_OK) {
            return self.loses_binds.load(Ordering::Relaxed);
        }
        is_method(answer, ACK) && take(&self.to_lose)
    }

    fn is_late(&self, answer: &[u8]) -> bool {
        is_method(answer, CONSUME_OK) && take(&self.to_begin_late)
    }
}

async fn relay(
    client: TcpStream,
    target: u16,
    mut told: watch::Receiver<Then>,
    mut close: watch::Receiver<()>,
    seen: Arc<Seen>,
) -> io::Result<()> {
    let then = *told.borrow_and_update();
    let (mut from_broker, to_broker) =
        TcpStream::connect(("127.0.0.1", target)).await?.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    // One frame at a time.
    let to_broker = tokio::sync::Mutex::new(to_broker);
    let consuming = Mutex::new(BTreeSet::new());
    let requests = async {
        let mut greeting = [0; 8];
        from_client.read_exact(&mut greeting).await?;
        to_broker.lock().await.write_all(&greeting).await?;
        loop {
            let frame = read_frame(&mut from_client).await?;
            if is_method(&frame, CONSUME) {
                consuming.lock().expect("no panic").insert([frame[1], frame[2]]);
            }
            if is_method(&frame, CHANNEL_OPEN) {
                seen.channels.fetch_add(1, Ordering::Relaxed);
            }
            to_broker.lock().await.write_all(&frame).await?;
        }
    };
    let closing = async {
        while close.changed().await.is_ok() {
            let channels = std::mem::take(&mut *consuming.lock().expect("no panic"));
            for channel in channels {
                to_broker.lock().await.write_all(&unknown_ack(channel)).await?;
            }
        }
        std::future::pending().await
    };
    let answers = async {
        shake_hands(&mut from_broker, &mut to_client).await?;
        match then {
            Then::GoesOn => loop {
                let mut answer = read_frame(&mut from_broker).await?;
                if answer[0] == HEADER && seen.corrupts.load(Ordering::Relaxed) {
                    corrupt(&mut answer);
                }
                if seen.is_late(&answer) {
                    tokio::time::sleep(LATE).await;
                }
                if !seen.loses(&answer) {
                    to_client.write_all(&answer).await?;
                }
            },
            Then::IsClosed => Ok(()),
            Then::IsSilent => copy(&mut from_broker, &mut tokio::io::sink()).await.map(drop),
        }
    };
    tokio::select! {
        passed = requests => passed,
        answered = answers => answered,
        closed = closing => closed,
        _ = told.changed() => Ok(()),
    }
}

/// See [`Handshake::begin_late`]: an answer is awaited for 5 s.
const LATE: Duration = Duration::from_secs(6);

/// See [`Handshake::corrupt`].
pub(crate) const CORRUPTED: &str = "corrupted";

/// The type of frames with properties and headers (AMQP 0-9-1, 2.3.5).
const HEADER: u8 = 2;

fn corrupt(frame: &mut [u8]) {
    let at = frame.windows(CORRUPTED.len()).position(|bytes| bytes == CORRUPTED.as_bytes());
    if let Some(at) = at {
        frame[at] = 0xFF;
    }
}

/// Methods by class and number (AMQP 0-9-1, 1.4 to 1.8).
type Method = [u8; 4];
const OPEN_OK: Method = [0, 10, 0, 41];
const CHANNEL_OPEN: Method = [0, 20, 0, 10];
const EXCHANGE_BIND_OK: Method = [0, 40, 0, 31];
const QUEUE_BIND_OK: Method = [0, 50, 0, 21];
const CONSUME: Method = [0, 60, 0, 20];
const CONSUME_OK: Method = [0, 60, 0, 21];
const ACK: Method = [0, 60, 0, 80];

fn is_method(frame: &[u8], method: Method) -> bool {
    frame[0] == 1 && frame[7..].starts_with(&method)
}

fn unknown_ack(channel: [u8; 2]) -> Vec<u8> {
    let payload = [&ACK[..], &u64::MAX.to_be_bytes(), &[0]].concat();
    let size = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    [&[1], &channel[..], &size, &payload, &[0xCE]].concat()
}

async fn read_frame(from: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 7];
    from.read_exact(&mut frame).await?;
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
    frame.resize(7 + size as usize + 1, 0);
    from.read_exact(&mut frame[7..]).await?;
    Ok(frame)
}

/// Passes the broker's frames until it says that the connection is open.
async fn shake_hands(
    from: &mut tcp::OwnedReadHalf,
    to: &mut tcp::OwnedWriteHalf,
) -> io::Result<()> {
    loop {
        let frame = read_frame(from).await?;
        to.write_all(&frame).await?;
        if is_method(&frame, OPEN_OK) {
            return Ok(());
        }
    }
}
