//! A vhost of one's own: where one test can not meet another.

use crate::{
    Error,
    broker::Inner,
    http::{json, segment},
    io::{blocking, off_runtime},
    unique::unique_system,
};
use std::sync::Arc;

/// A vhost, which is deleted when dropped, with its queues and connections. It keeps its broker
/// from going before it.
#[derive(Debug)]
pub struct Vhost {
    name: String,
    broker: Arc<Inner>,
}

impl Vhost {
    pub(crate) fn new(broker: &Arc<Inner>) -> Result<Self, Error> {
        let vhost = Self { name: unique_system(), broker: Arc::clone(broker) };
        broker.api("PUT", &format!("/api/vhosts/{}", vhost.name), Some("{}"))?;
        Ok(vhost)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `amqp://guest:guest@127.0.0.1:PORT/NAME`
    #[must_use]
    pub fn url(&self) -> String {
        self.broker.url_of(&self.name)
    }

    /// Sets a policy: `definition` is a JSON object, for example `{"max-length":1}`; `apply_to` is
    /// `queues`, `exchanges` or `all`.
    ///
    /// # Errors
    ///
    /// [`Error::Management`] with the broker's words.
    pub async fn set_policy(
        &self,
        name: &str,
        pattern: &str,
        definition: &str,
        apply_to: &str,
    ) -> Result<(), Error> {
        let path = format!("/api/policies/{}/{}", self.name, segment(name));
        let body = format!(
            r#"{{"pattern":{},"definition":{definition},"apply-to":{}}}"#,
            json(pattern),
            json(apply_to),
        );
        let broker = Arc::clone(&self.broker);
        blocking(move || broker.api("PUT", &path, Some(&body)).map(drop)).await
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        // On a broker that is down there is nobody to tell; and in a drop nobody to be told.
        _ = off_runtime(|| self.broker.api("DELETE", &format!("/api/vhosts/{}", self.name), None));
    }
}
