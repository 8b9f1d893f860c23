//! What every part of one connection needs to know.

use crate::{AmqpBuilder, wire::Names};

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) options: AmqpBuilder,
    pub(crate) names: Names,
}

impl Settings {
    pub(crate) fn new(options: AmqpBuilder) -> Self {
        Self { names: Names::new(&options.system), options }
    }

    /// The user that messages name, if they shall.
    pub(crate) fn user_id(&self) -> Option<&str> {
        let first = self.options.endpoints.first()?;
        self.options.send_user_id.then_some(first.user.as_str())
    }
}
