//! Messages as AMQP has them: properties and headers, both ways.

mod decode;
mod encode;
mod size;
mod value;

use gear_api::{ReplyTo, Text, topology};

pub(crate) use decode::{Decoder, Origin};
pub(crate) use encode::{NotEncodable, Purpose, encode};
pub(crate) use size::header_frame;

/// The names of one system on the broker: a prefix, or none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// `acme/`, or empty.
    prefix: Text,
}

impl Names {
    pub(crate) fn new(system: &str) -> Self {
        Self { prefix: if system.is_empty() { Text::EMPTY } else { format!("{system}/").into() } }
    }

    /// The name on the broker. The broker's own have no prefix.
    pub(crate) fn on_broker(&self, name: &str) -> String {
        if name.is_empty() || self.prefix.is_empty() {
            name.to_owned()
        } else {
            [&self.prefix, name].concat()
        }
    }

    /// The name without the system's prefix, of a queue or an exchange that has it.
    pub(crate) fn own<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.prefix.as_str()).unwrap_or(name)
    }

    /// The queue that a request names for its reply, as the caller's own program knows it: any
    /// program can publish to that name through the default exchange.
    pub(crate) fn reply_to(&self, to: &ReplyTo) -> String {
        if to.is_gear() { self.on_broker(to.as_str()) } else { to.as_str().to_owned() }
    }

    /// Where a reply goes, from the name in a request. One of another system, or of a foreign
    /// program, is a queue like any other, even if its name begins like ours.
    fn read_reply_to(&self, name: &str) -> ReplyTo {
        match name.strip_prefix(self.prefix.as_str()).map(ReplyTo::queue) {
            Some(own) if own.is_gear() => own,
            _ => ReplyTo::queue(name),
        }
    }
}

/// Whether a queue of this name, whichever system's, is one of Gear's that no reply may come to.
pub(crate) fn is_for_no_reply(queue: &str) -> bool {
    let name = match queue.split_once('/') {
        Some((system, name)) if !system.is_empty() && is_system(system) => name,
        _ => queue,
    };
    topology::is_for_no_reply(name)
}

/// Whether a system can have this name.
pub(crate) fn is_system(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    name.len() <= MAX_SYSTEM_BYTES && name.bytes().all(is_allowed) && !name.starts_with("amq")
}

/// The longest name of a system, in bytes: queue names leave so much room.
const MAX_SYSTEM_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reply_may_come_to_a_queue_of_other_things_of_any_system() {
        for queue in
            ["CTRL:dead", "acme/CTRL:dead", "acme/CTRL:events.mail", "acme/gear:retry.1000"]
        {
            assert!(is_for_no_reply(queue), "{queue}");
        }
        for queue in ["CTRL", "acme/WEB.h1:reply.1", "my/own/queue", "amq.gen-x", "/CTRL:dead"] {
            assert!(!is_for_no_reply(queue), "{queue}");
        }
    }

    #[test]
    fn a_reply_finds_its_system() {
        let (none, acme) = (Names::new(""), Names::new("acme"));
        assert_eq!(none.on_broker("gear.cast"), "gear.cast");
        assert_eq!(acme.on_broker("gear.cast"), "acme/gear.cast");
        assert_eq!(acme.on_broker(""), "");
        let own = ReplyTo::queue("WEB.h1:reply.1");
        assert_eq!(acme.reply_to(&own), "acme/WEB.h1:reply.1");
        assert_eq!(acme.read_reply_to("acme/WEB.h1:reply.1"), own);
        assert!(!acme.read_reply_to("other/WEB.h1:reply.1").is_gear());
        assert!(!none.read_reply_to("acme/WEB.h1:reply.1").is_gear());
        let foreign = ReplyTo::queue("amq.gen-x");
        assert_eq!(acme.reply_to(&foreign), "amq.gen-x");
        assert_eq!(acme.read_reply_to("amq.gen-x"), foreign);
        for alike in ["acme/foo.bar", "acme/CTRL:dead", "acme/"] {
            assert_eq!(acme.reply_to(&acme.read_reply_to(alike)), alike);
        }
    }
}
