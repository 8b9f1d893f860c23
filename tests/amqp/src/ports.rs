//! Free ports, taken once only by the test processes of one machine.
//!
//! Below the range from which systems take ports for outgoing connections: a broker that is down
//! for a moment finds its port free when it comes back.

use crate::Error;
use std::{
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
};

const RANGE: Range<u16> = 20_000..32_000;

/// Ports in a row that nobody else gets while this lives.
#[derive(Debug)]
pub(crate) struct Ports {
    first: u16,
    /// The locks go with the files, and with the process.
    _locks: Vec<File>,
}

impl Ports {
    /// `count` free ports in a row.
    pub(crate) fn reserve(count: u16) -> Result<Self, Error> {
        let user = std::env::var("USER").unwrap_or_default();
        let folder = std::env::temp_dir().join(format!("gear-test-ports-{user}"));
        fs::create_dir_all(&folder).map_err(Error::io(folder.display().to_string()))?;
        for _ in 0..200 {
            let random = RandomState::new().build_hasher().finish();
            let span = u64::from(RANGE.end - RANGE.start - count);
            let first = RANGE.start + u16::try_from(random % span).unwrap_or_default();
            let all = first..first + count;
            let locks: Option<Vec<File>> = all.clone().map(|port| lock(&folder, port)).collect();
            if let Some(locks) = locks
                && all.clone().all(is_free)
            {
                return Ok(Self { first, _locks: locks });
            }
        }
        Err(Error::Start(format!("no {count} free ports in a row in {RANGE:?}")))
    }

    /// The port at `index` of the row.
    pub(crate) fn get(&self, index: u16) -> u16 {
        self.first + index
    }
}

/// `None` when somebody holds `port`.
fn lock(folder: &std::path::Path, port: u16) -> Option<File> {
    let file =
        File::options().create(true).append(true).open(folder.join(port.to_string())).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(local(port)).is_ok()
}

/// `port` of this machine.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
