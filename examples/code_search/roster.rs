//! Who takes part, and which REPO a file belongs to.
//! The one place that knows the names of hosts: main starts them, WEB and CTRL ask them.

use gear_api::{Instance, NameError, Service};

/// Reads folders, asks questions, shows answers.
pub(crate) const WEB: Service = Service::new("WEB");
/// Tokenizes files and parses queries; keeps nothing.
pub(crate) const CTRL: Service = Service::new("CTRL");
/// Keeps a shard of the index.
pub(crate) const REPO: Service = Service::new("REPO");

/// The instances that are meant to run. Who is on it and does not answer is missed.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    web: Instance,
    ctrls: Vec<Instance>,
    repos: Vec<Instance>,
}

impl Roster {
    /// One WEB and as many of the others as asked for, on `host1`, `host2` and so on.
    pub(crate) fn new(ctrls: usize, repos: usize) -> Result<Self, NameError> {
        let hosts = |service: &Service, count: usize| {
            (1..=count).map(|n| service.at(&format!("host{n}"))).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { web: WEB.at("host1")?, ctrls: hosts(&CTRL, ctrls)?, repos: hosts(&REPO, repos)? })
    }

    /// The WEB.
    pub(crate) fn web(&self) -> &Instance {
        &self.web
    }

    /// Every CTRL.
    pub(crate) fn ctrls(&self) -> &[Instance] {
        &self.ctrls
    }

    /// Every REPO.
    pub(crate) fn repos(&self) -> &[Instance] {
        &self.repos
    }

    /// Every instance of every service.
    pub(crate) fn everyone(&self) -> impl Iterator<Item = &Instance> {
        std::iter::once(&self.web).chain(&self.ctrls).chain(&self.repos)
    }

    /// The REPO that keeps the file at `path`; none if there is no REPO.
    ///
    /// Rendezvous hashing: every host has a weight for every path, and the heaviest wins. All
    /// who know the hosts agree without asking anybody, and when a host comes or goes only
    /// the files that it wins or had won move.
    pub(crate) fn owner(&self, path: &str) -> Option<&Instance> {
        self.repos.iter().max_by_key(|repo| weight(repo.host(), path))
    }
}

/// The same on every machine and in every build, unlike the hashes of std: FNV-1a over both
/// texts, spread by the finalizer of SplitMix64.
fn weight(host: &str, path: &str) -> u64 {
    let bytes = host.bytes().chain([0]).chain(path.bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let z = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> impl Iterator<Item = String> {
        (0..4000).map(|n| format!("crate-1.{}/src/file{n}.rs", n % 50))
    }

    #[test]
    fn shares_are_even() {
        let roster = Roster::new(2, 4).unwrap();
        for repo in roster.repos() {
            let share = paths().filter(|path| roster.owner(path) == Some(repo)).count();
            assert!((900..1100).contains(&share), "{repo} has {share} of 4000");
        }
    }

    #[test]
    fn a_new_host_takes_files_and_moves_no_others() {
        let (four, five) = (Roster::new(2, 4).unwrap(), Roster::new(2, 5).unwrap());
        let newcomer = five.repos().last();
        for path in paths() {
            assert!(five.owner(&path) == newcomer || five.owner(&path) == four.owner(&path));
        }
    }
}
