//! A broker that goes no further than the handshake: it stands before a real one.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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
    accepted: Arc<AtomicUsize>,
}

impl Handshake {
    pub(crate) async fn before(broker: &Broker, then: Then) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (then, told) = watch::channel(then);
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, target) = (Arc::clone(&accepted), broker.port());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(relay(client, target, told.clone()));
            }
        });
        Ok(Self { port, then, accepted })
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Ends all connections; new ones are treated in this way.
    pub(crate) fn change(&self, then: Then) {
        self.then.send_replace(then);
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn relay(client: TcpStream, target: u16, mut told: watch::Receiver<Then>) -> io::Result<()> {
    let then = *told.borrow_and_update();
    let (mut from_broker, mut to_broker) =
        TcpStream::connect(("127.0.0.1", target)).await?.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let answers = async {
        shake_hands(&mut from_broker, &mut to_client).await?;
        match then {
            Then::GoesOn => copy(&mut from_broker, &mut to_client).await.map(drop),
            Then::IsClosed => Ok(()),
            Then::IsSilent => copy(&mut from_broker, &mut tokio::io::sink()).await.map(drop),
        }
    };
    tokio::select! {
        passed = copy(&mut from_client, &mut to_broker) => passed.map(drop),
        answered = answers => answered,
        _ = told.changed() => Ok(()),
    }
}

/// Passes the broker's frames until it says `connection.open-ok` (AMQP 0-9-1, 1.4.2.8).
async fn shake_hands(
    from: &mut tcp::OwnedReadHalf,
    to: &mut tcp::OwnedWriteHalf,
) -> io::Result<()> {
    const OPEN_OK: [u8; 4] = [0, 10, 0, 41];
    loop {
        let mut frame = vec![0; 7];
        from.read_exact(&mut frame).await?;
        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
        frame.resize(7 + size as usize + 1, 0);
        from.read_exact(&mut frame[7..]).await?;
        to.write_all(&frame).await?;
        if frame[7..].starts_with(&OPEN_OK) {
            return Ok(());
        }
    }
}
