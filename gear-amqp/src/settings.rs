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
}
