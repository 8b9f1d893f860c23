//! Whether AMQP answers, and which RabbitMQ it is.
//!
//! That a port can be connected to says nothing: Docker opens it before the broker listens.

use crate::Error;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Reads the server's `connection.start`, and returns the version that it tells.
pub(crate) fn version(address: SocketAddr) -> std::io::Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"AMQP\0\0\x09\x01")?;
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let [kind, _, _, size @ ..] = head;
    let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if kind != 1 || size > 1 << 16 {
        return Err(std::io::Error::other("what answers is not AMQP 0-9-1"));
    }
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload)?;
    Ok(field(&payload, b"version").unwrap_or_else(|| "unknown".to_owned()))
}

/// A string in the table of server properties, looked for by its name.
fn field(payload: &[u8], name: &[u8]) -> Option<String> {
    let at = payload
        .windows(name.len() + 1)
        .position(|window| window[1..] == *name && usize::from(window[0]) == name.len())?;
    let value = payload.get(at + 1 + name.len()..)?.strip_prefix(b"S")?;
    let (size, value) = value.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_be_bytes(*size)).ok()?;
    Some(String::from_utf8_lossy(value.get(..size)?).into_owned())
}

/// Waits until AMQP answers at `address`. `alive` is asked between the tries, and ends the wait
/// with its error.
pub(crate) fn wait(
    address: SocketAddr,
    limit: Duration,
    mut alive: impl FnMut() -> Result<(), Error>,
) -> Result<String, Error> {
    let end = Instant::now() + limit;
    loop {
        match version(address) {
            Ok(version) => return Ok(version),
            Err(error) if Instant::now() >= end => {
                return Err(Error::Start(format!("no AMQP at {address} after {limit:?}: {error}")));
            }
            Err(_) => alive()?,
        }
        thread::sleep(Duration::from_millis(50));
    }
}
