//! What all handles of one broker share. Everything here blocks.

use crate::{
    Error, Tls,
    http::{Management, json, segment as encode},
    machine::Machine,
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// A broker, and who one is on it.
pub(crate) struct Inner {
    pub(super) machine: Box<dyn Machine>,
    pub(super) version: String,
    pub(super) tls: Option<Tls>,
    pub(super) user: String,
    pub(super) password: String,
    /// As it was given, for a broker that somebody else runs.
    pub(super) url: Option<String>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { machine, version, .. } = self;
        formatter
            .debug_struct("Inner")
            .field("machine", machine)
            .field("version", version)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// The URL of a vhost whose name is percent-encoded.
    pub(crate) fn url_of(&self, vhost: &str) -> String {
        let address = self.machine.amqp();
        format!("amqp://{}:{}@{address}/{vhost}", encode(&self.user), encode(&self.password))
    }

    pub(super) fn management(&self) -> Option<Management> {
        let (user, password) = (self.user.clone(), self.password.clone());
        self.machine.management().map(|address| Management { address, user, password })
    }

    pub(crate) fn api(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Result<String, Error> {
        self.management()
            .ok_or_else(|| Error::NotPossible("the broker has no management API".to_owned()))?
            .request(method, path, body)
    }

    pub(super) fn wait_for_management(&self) -> Result<(), Error> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match self.api("GET", "/api/whoami", None) {
                Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(50)),
                answer => return answer.map(drop),
            }
        }
    }

    pub(super) fn add_user(&self, name: &str, password: &str, vhost: &str) -> Result<(), Error> {
        let user = encode(name);
        let body = match password {
            "" => r#"{"password_hash":"","tags":""}"#.to_owned(),
            password => format!(r#"{{"password":{},"tags":""}}"#, json(password)),
        };
        self.api("PUT", &format!("/api/users/{user}"), Some(&body))?;
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        self.api("PUT", &format!("/api/permissions/{vhost}/{user}"), Some(all)).map(drop)
    }
}
