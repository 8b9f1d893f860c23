//! Faults between client and broker, on an echo service whose bytes can be counted, and on AMQP.

use crate::{
    bare::{declare, get, open, publish},
    eventually,
};
use gear_test_amqp::{Broker, Proxy};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Long enough that a byte would have come.
const MOMENT: Duration = Duration::from_millis(200);

/// A service that sends back what it gets, after `mark`, and counts the bytes that it got.
async fn echo(mark: u8) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte).await {
                    seen.fetch_add(1, Ordering::SeqCst);
                    if stream.write_all(&[mark, byte[0]]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, count)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("a proxy accepts")
}

/// The two bytes of an answer.
async fn answer(stream: &mut TcpStream) -> [u8; 2] {
    let mut bytes = [0; 2];
    let read = timeout(Duration::from_secs(10), stream.read_exact(&mut bytes)).await;
    read.expect("an answer comes").expect("the connection is open");
    bytes
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match timeout(Duration::from_secs(10), stream.read(&mut byte)).await {
        Ok(read) => matches!(read, Ok(0) | Err(_)),
        Err(_) => false,
    }
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(MOMENT, stream.read(&mut [0])).await.is_err()
}

#[tokio::test]
async fn freezing_holds_back_both_ways() {
    let (target, count) = echo(b'a').await;
    let proxy = Proxy::to(target).await;
    let mut stream = connect(&proxy).await;
    stream.write_all(b"1").await.expect("open");
    assert_eq!(answer(&mut stream).await, *b"a1");

    proxy.freeze();
    let before = count.load(Ordering::SeqCst);
    stream.write_all(b"2").await.expect("open");
    assert!(is_silent(&mut stream).await);
    assert_eq!(count.load(Ordering::SeqCst), before, "nothing passed");
    let mut second = connect(&proxy).await;
    second.write_all(b"3").await.expect("open");
    assert!(is_silent(&mut second).await, "and a new connection goes nowhere");

    proxy.heal();
    assert_eq!(answer(&mut stream).await, *b"a2");
    assert_eq!(answer(&mut second).await, *b"a3");
    assert_eq!((proxy.connections(), proxy.accepted()), (2, 2));
}

#[tokio::test]
async fn freezing_answers_lets_requests_pass() {
    let (target, count) = echo(b'a').await;
    let proxy = Proxy::to(target).await;
    let mut stream = connect(&proxy).await;
    proxy.freeze_answers();
    stream.write_all(b"1").await.expect("open");
    eventually("the request passes", || count.load(Ordering::SeqCst) == 1).await;
    assert!(is_silent(&mut stream).await);
    proxy.heal();
    assert_eq!(answer(&mut stream).await, *b"a1");
}

#[tokio::test]
async fn cutting_closes_old_and_new() {
    let (target, _count) = echo(b'a').await;
    let proxy = Proxy::to(target).await;
    let mut stream = connect(&proxy).await;
    stream.write_all(b"1").await.expect("open");
    assert_eq!(answer(&mut stream).await, *b"a1");
    proxy.cut();
    assert!(is_closed(&mut stream).await);
    assert!(is_closed(&mut connect(&proxy).await).await);
    eventually("all are closed", || proxy.connections() == 0).await;
    proxy.heal();
    let mut stream = connect(&proxy).await;
    stream.write_all(b"2").await.expect("open");
    assert_eq!(answer(&mut stream).await, *b"a2");

    proxy.drop_connections();
    assert!(is_closed(&mut stream).await);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"3").await.expect("open");
    assert_eq!(answer(&mut stream).await, *b"a3", "new ones pass");
    assert_eq!(proxy.accepted(), 4);
}

#[tokio::test]
async fn silence_is_for_new_connections() {
    let (first, _count) = echo(b'a').await;
    let (second, _count) = echo(b'b').await;
    let proxy = Proxy::to(first).await;
    let mut old = connect(&proxy).await;
    old.write_all(b"1").await.expect("open");
    assert_eq!(answer(&mut old).await, *b"a1");
    proxy.silent();
    let mut new = connect(&proxy).await;
    new.write_all(b"2").await.expect("open");
    assert!(is_silent(&mut new).await);
    old.write_all(b"3").await.expect("open");
    assert_eq!(answer(&mut old).await, *b"a3");
    proxy.retarget(second);
    proxy.heal();
    assert_eq!(answer(&mut new).await, *b"b2", "it goes to where new ones go now");
    drop(proxy);
    assert!(is_closed(&mut old).await);
    assert!(is_closed(&mut new).await);
}

#[tokio::test]
async fn much_passes_unchanged() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = Proxy::to(listener.local_addr().expect("an address")).await;
    let data: Vec<u8> =
        (0..8_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut client = connect(&proxy).await;
    let (mut server, _) = listener.accept().await.expect("a connection");
    let expected = data.clone();
    let receiving = tokio::spawn(async move {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.expect("all of it");
        assert!(got == expected);
        server.write_all(b"last words").await.expect("the other way is open");
    });
    for chunk in data.chunks(100_000) {
        client.write_all(chunk).await.expect("open");
        if chunk[0].is_multiple_of(7) {
            proxy.freeze();
            tokio::task::yield_now().await;
            proxy.heal();
        }
    }
    client.shutdown().await.expect("open");
    receiving.await.expect("the same bytes");
    let mut words = Vec::new();
    client.read_to_end(&mut words).await.expect("open");
    assert_eq!(words, b"last words");
}

#[tokio::test]
async fn amqp_passes_and_is_cut() {
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let proxy = broker.proxy().await;
    let url = proxy.through(&vhost.url());
    let (connection, channel) = open(&url).await;
    declare(&channel, "q").await;
    publish(&channel, "q", b"1").await.expect("it is confirmed");
    proxy.freeze_answers();
    let unconfirmed = timeout(MOMENT, publish(&channel, "q", b"2")).await;
    assert!(unconfirmed.is_err(), "its confirm is held back");
    proxy.cut();
    eventually("the connection is seen to be lost", || !connection.status().connected()).await;
    proxy.heal();
    let (_connection, channel) = open(&url).await;
    for body in [b"1", b"2"] {
        assert_eq!(get(&channel, "q").await.as_deref(), Some(&body[..]));
    }
}

#[tokio::test]
async fn urls_lead_through_it() {
    let proxy = Proxy::to(1).await;
    let port = proxy.port();
    for (url, through) in [
        ("amqp://a:b@host:1/v", format!("amqp://a:b@127.0.0.1:{port}/v")),
        ("amqp://host", format!("amqp://127.0.0.1:{port}")),
        ("amqps://u:p%40@host:1/%2f?x=a@b", format!("amqps://u:p%40@127.0.0.1:{port}/%2f?x=a@b")),
    ] {
        assert_eq!(proxy.through(url), through);
    }
}
