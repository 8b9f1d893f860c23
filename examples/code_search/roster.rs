//! Who takes part, and which REPO a file belongs to.
//! The one place that knows the names of hosts: main starts them, WEB and CTRL ask them.
//!
//! It is given, not discovered: who is not there yet, or not any more, must not change where a
//! file belongs.

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
    /// One WEB, and the others on these hosts.
    pub(crate) fn new(web: &str, ctrls: &[String], repos: &[String]) -> Result<Self, NameError> {
        let on = |service: &Service, hosts: &[String]| {
            hosts.iter().map(|host| service.at(host)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { web: WEB.at(web)?, ctrls: on(&CTRL, ctrls)?, repos: on(&REPO, repos)? })
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

/// `host1`, `host2` and so on.
pub(crate) fn hosts(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("host{n}")).collect()
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

    fn roster(repos: usize) -> Roster {
        Roster::new("host1", &hosts(2), &hosts(repos)).unwrap()
    }

    fn paths() -> impl Iterator<Item = String> {
        (0..4000).map(|n| format!("crate-1.{}/src/file{n}.rs", n % 50))
    }

    #[test]
    fn shares_are_even() {
        let roster = roster(4);
        for repo in roster.repos() {
            let share = paths().filter(|path| roster.owner(path) == Some(repo)).count();
            assert!((900..1100).contains(&share), "{repo} has {share} of 4000");
        }
    }

    #[test]
    fn a_new_host_takes_files_and_moves_no_others() {
        let (four, five) = (roster(4), roster(5));
        let newcomer = five.repos().last();
        for path in paths() {
            assert!(five.owner(&path) == newcomer || five.owner(&path) == four.owner(&path));
        }
    }
}
