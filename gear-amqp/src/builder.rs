//! The options of a connection: as methods, and as parameters of a URL.

use std::{fs, str::FromStr, time::Duration};

use gear_api::{Text, topology::QueueType};

use crate::{
    AmqpError, AmqpTransport,
    endpoint::{self, Endpoint},
    wire::is_system,
};

/// Who sees to it that exchanges, queues and bindings exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TopologyMode {
    /// The library: what is missing is declared, what is there is used as it is, whatever its
    /// arguments. So a change of them never keeps a service from starting. An exchange that
    /// somebody deletes is declared again by whoever publishes there next, with the bindings of its
    /// own queues, but not of its taps. Other nodes bind theirs when they connect again: until then
    /// events are confirmed, and do not reach them.
    #[default]
    Declare,
    /// The operator, for example with [`Definitions`](crate::Definitions): an exchange or a shared
    /// queue (of a service, of an event group, of what was set aside or held back) that is missing
    /// is an error. What belongs to one instance is declared and bound still, as nobody can know
    /// it before: its own queue, its reply queues and its taps. The user needs the permissions for
    /// these; `Definitions` grants them.
    Passive,
    /// The library, and what is there must be as it would declare it; if not, the broker's
    /// words are the error.
    Strict,
}

/// Puts a connection to RabbitMQ together.
///
/// | in a URL | method | default | what it is |
/// |---|---|---|---|
/// | several hosts, `h1,h2:5673` | [`url`](Self::url) | | brokers of one cluster, tried in turn |
/// | `system=acme` | [`system`](Self::system) | none | keeps several systems apart on one broker: the prefix of all exchanges and queues |
/// | `queue_type=quorum` | [`queue_type`](Self::queue_type) | `classic` | of the queues that instances share, when they are declared first: a queue that is there stays what it is; in a cluster it must be `quorum` |
/// | `topology=passive` | [`topology`](Self::topology) | `declare` | who declares: see [`TopologyMode`] |
/// | `connections=1` | [`single_connection`](Self::single_connection) | 2 | one to publish and one to consume, or one for both |
/// | `heartbeat=5` | [`heartbeat`](Self::heartbeat) | 10 s | a dead link is noticed within 2.5 of these |
/// | `connect_timeout=3000` (or `connection_timeout`) | [`connect_timeout`](Self::connect_timeout) | 10,000 ms | for one connection to one broker, all in all; at the start as long again for what is declared there |
/// | `confirm_timeout=5000` | [`confirm_timeout`](Self::confirm_timeout) | 10,000 ms | after that an unconfirmed message makes the connection suspect; as often a consumer looks whether its broker still has the cluster, if there are several |
/// | `instance_expires=60000` | [`instance_expires`](Self::instance_expires) | 24 h (in ms) | a queue of an instance that nobody uses is deleted after that |
/// | `recreate_instance_queue=true` | [`recreate_instance_queue`](Self::recreate_instance_queue) | `false` | an instance queue on a broken node of the cluster is deleted and declared again, losing what is in it |
/// | `prefetch=20` | [`max_prefetch`](Self::max_prefetch) | 65,535 | at most so many unsettled deliveries for each consumer, whatever a node asks for |
/// | `max_message_bytes=1048576` | [`max_message_bytes`](Self::max_message_bytes) | 16 MiB | larger bodies are refused before they are sent |
/// | `unconfirmed=500` | [`max_unconfirmed`](Self::max_unconfirmed) | 1,000 | so many messages are on their way at a time; more wait |
/// | `auth_mechanism=external` | [`external_auth`](Self::external_auth) | `plain` | the client's certificate says who we are |
/// | `cacertfile=ca.pem` | [`ca_certificates`](Self::ca_certificates) | the system's | trusted beside the system's |
/// | `certfile=c.pem`, `keyfile=k.pem` | [`client_certificate`](Self::client_certificate) | none | shown to the broker |
/// | `server_name_indication=name` | [`server_name`](Self::server_name) | the host | the name in the broker's certificate |
/// | `user_id=true` | [`send_user_id`](Self::send_user_id) | `false` | every message names its user, and the broker verifies it |
/// | `foreign_replies=false` | [`foreign_replies`](Self::foreign_replies) | `true` | whether callers may name queues that are not Gear's for their replies |
/// | `name=billing` | [`name`](Self::name) | `gear` | what the broker's management shows |
///
/// A URL is `amqp://user:password@host:5672/virtual%20host?option=value&option=value`; without
/// user `guest`, without path the virtual host `/`. All parts are %-escaped: a `?`, `/`, `#` or `@`
/// that is no delimiter, above all in a password, must be.
///
/// ```no_run
/// use gear_amqp::AmqpTransport;
/// use gear_api::topology::QueueType;
/// use std::time::Duration;
///
/// # async fn f() -> Result<(), gear_amqp::AmqpError> {
/// let transport = AmqpTransport::builder("amqp://user:password@host1,host2/shop")?
///     .queue_type(QueueType::Quorum)
///     .heartbeat(Duration::from_secs(5))
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is connected before `connect`"]
pub struct AmqpBuilder {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) system: Text,
    pub(crate) queue_type: QueueType,
    pub(crate) topology: TopologyMode,
    pub(crate) single_connection: bool,
    pub(crate) heartbeat: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) confirm_timeout: Duration,
    pub(crate) instance_expires: Duration,
    pub(crate) recreate_instance_queue: bool,
    pub(crate) max_prefetch: u16,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_unconfirmed: usize,
    pub(crate) external_auth: bool,
    pub(crate) ca: Option<Pem>,
    pub(crate) certificate: Option<Pem>,
    pub(crate) key: Option<Pem>,
    pub(crate) server_name: Option<String>,
    pub(crate) send_user_id: bool,
    pub(crate) foreign_replies: bool,
    pub(crate) name: Text,
}

/// The text of a PEM file; not shown, since it may be a key.
#[derive(Clone)]
pub(crate) struct Pem(pub(crate) String);

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PEM")
    }
}

impl AmqpBuilder {
    /// Starts from a URL and its options.
    ///
    /// # Errors
    ///
    /// [`AmqpError::InvalidUrl`] and [`AmqpError::InvalidOption`].
    pub(crate) fn new(url: &str) -> Result<Self, AmqpError> {
        let mut builder = Self {
            endpoints: Vec::new(),
            system: Text::EMPTY,
            queue_type: QueueType::Classic,
            topology: TopologyMode::Declare,
            single_connection: false,
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(10),
            instance_expires: gear_api::topology::INSTANCE_QUEUE_EXPIRES,
            recreate_instance_queue: false,
            max_prefetch: u16::MAX,
            max_message_bytes: 16 * 1024 * 1024,
            max_unconfirmed: 1_000,
            external_auth: false,
            ca: None,
            certificate: None,
            key: None,
            server_name: None,
            send_user_id: false,
            foreign_replies: true,
            name: Text::from_static("gear"),
        };
        builder.endpoints = endpoint::parse(url, &mut builder)?;
        Ok(builder)
    }

    /// Adds another broker of the same cluster. Options in its URL count for all.
    ///
    /// # Errors
    ///
    /// [`AmqpError::InvalidUrl`] and [`AmqpError::InvalidOption`].
    pub fn url(mut self, url: &str) -> Result<Self, AmqpError> {
        let more = endpoint::parse(url, &mut self)?;
        self.endpoints.extend(more);
        Ok(self)
    }

    /// Names the system: `[A-Za-z0-9_-]`, at most 32 bytes. All exchanges and queues are then
    /// called `NAME/…`, and services see only those of their own system. The empty name is the
    /// default: no prefix.
    ///
    /// # Errors
    ///
    /// [`AmqpError::InvalidOption`] for another name.
    pub fn system(mut self, name: &str) -> Result<Self, AmqpError> {
        if !is_system(name) {
            return Err(invalid(
                "system",
                "up to 32 of A-Z a-z 0-9 _ -, and not amq at the beginning",
            ));
        }
        self.system = name.into();
        Ok(self)
    }

    /// How the queues that instances share store their messages.
    pub fn queue_type(mut self, queue_type: QueueType) -> Self {
        self.queue_type = queue_type;
        self
    }

    /// Who sees to it that exchanges, queues and bindings exist.
    pub fn topology(mut self, mode: TopologyMode) -> Self {
        self.topology = mode;
        self
    }

    /// Publishes and consumes over one connection. By default there are two: under a memory or
    /// disk alarm RabbitMQ stops reading connections that publish, and so would not see the
    /// acks that let its queues drain.
    pub fn single_connection(mut self, single: bool) -> Self {
        self.single_connection = single;
        self
    }

    /// How often the link is tested: 1 to 60 s, in whole seconds.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Duration::from_secs(interval.as_secs().clamp(1, 60));
        self
    }

    /// How long one connection to one broker may take, from the name to the ready connection, and
    /// at the start what is declared there: 100 ms or more.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.max(Duration::from_millis(100));
        self
    }

    /// How long a message may go unconfirmed before the connection is tested, and left if it
    /// does not answer: a node that is cut off from its cluster shows no other sign. A large message
    /// has the time that it takes at 64 KiB a second, if that is more. Where there are several brokers, a
    /// connection that answers, and confirms nothing at all for twice as long, is left, too; and the
    /// queues that are consumed are looked at as often, since who only consumes misses no confirm. All
    /// connections then move to another broker. 100 ms or more.
    pub fn confirm_timeout(mut self, timeout: Duration) -> Self {
        self.confirm_timeout = timeout.max(Duration::from_millis(100));
        self
    }

    /// When the queue of an instance that nobody uses is deleted, with what is in it. Counts when
    /// the queue is declared first. Between 1 ms and 49 days, which is all that RabbitMQ takes.
    pub fn instance_expires(mut self, after: Duration) -> Self {
        let most = Duration::from_millis(u32::MAX.into());
        self.instance_expires = after.clamp(Duration::from_millis(1), most);
        self
    }

    /// Whether the queue of an instance may be deleted and declared again when the node of the
    /// cluster that has it is gone. What is in it is lost, and a warning says so. It happens only
    /// when the broker itself says that the queue can not be reached, one to three minutes after
    /// its node died: silence may as well mean that the broker is slow. Seen to work on RabbitMQ 4.0
    /// and 4.3; on 3.10 the queue did not come back while its node was down.
    pub fn recreate_instance_queue(mut self, recreate: bool) -> Self {
        self.recreate_instance_queue = recreate;
        self
    }

    /// At most so many unsettled deliveries for each consumer, whatever a node asks for; 1 or
    /// more.
    pub fn max_prefetch(mut self, prefetch: u16) -> Self {
        self.max_prefetch = prefetch.max(1);
        self
    }

    /// Larger bodies are refused before they are sent. RabbitMQ 4 takes 16 MiB by default and
    /// closes the channel on more.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// So many messages are on their way at a time, and 32 MiB of their bodies; more wait their turn.
    /// 1 or more.
    ///
    /// What a broker does not confirm keeps its place until it expires; without a deadline that is for
    /// ever. As many casts to one queue that confirms nothing, e.g. a quorum queue without majority, keep
    /// all else from leaving, replies too. With a deadline ([`Cast::expires`](gear_api::Cast::expires))
    /// they are in nobody's way after that. When ten times as many have expired unconfirmed, their channel
    /// is replaced as soon as nothing else is on its way; at twice that at once, and what is on its way
    /// then is sent again.
    pub fn max_unconfirmed(mut self, messages: usize) -> Self {
        self.max_unconfirmed = messages.max(1);
        self
    }

    /// Lets the client's certificate say who we are (SASL EXTERNAL) instead of a password.
    pub fn external_auth(mut self, external: bool) -> Self {
        self.external_auth = external;
        self
    }

    /// Trusts these authorities beside those of the system: certificates in PEM.
    pub fn ca_certificates(mut self, pem: impl Into<String>) -> Self {
        self.ca = Some(Pem(pem.into()));
        self
    }

    /// Shows the broker this certificate: the chain and its key in PEM.
    pub fn client_certificate(mut self, chain: impl Into<String>, key: impl Into<String>) -> Self {
        self.certificate = Some(Pem(chain.into()));
        self.key = Some(Pem(key.into()));
        self
    }

    /// The name that the broker's certificate must be for, and that it is asked for (SNI), where
    /// that is not the host of the URL.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Whether every message names the user that sends it, which the broker then verifies.
    pub fn send_user_id(mut self, send: bool) -> Self {
        self.send_user_id = send;
        self
    }

    /// Whether a caller may name any queue for its reply (`amq.gen-…`, direct reply-to), as programs
    /// without Gear do. If not, such a reply is [not sent](gear_api::PublishError::Invalid); those
    /// to reply queues and services of this system always are. Queues of any system that are not
    /// for replies (`CTRL:dead`, `CTRL:events.mail`, `gear:retry.1000`) never get
    /// one.
    pub fn foreign_replies(mut self, allow: bool) -> Self {
        self.foreign_replies = allow;
        self
    }

    /// What the broker's management shows.
    pub fn name(mut self, name: impl Into<Text>) -> Self {
        self.name = name.into();
        self
    }

    /// Connects: each broker is tried once. Afterwards the connection is kept up for ever.
    ///
    /// # Errors
    ///
    /// [`AmqpError`]; of several brokers that of the one that came furthest: who refuses came further than
    /// who is silent, and who is silent than who is not there.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing remains connected.
    pub async fn connect(self) -> Result<AmqpTransport, AmqpError> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err(invalid("certfile", "a certificate and its key go together"));
        }
        AmqpTransport::start(self).await
    }

    /// An option as a URL gives it.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), AmqpError> {
        let ms = |value| number(name, value, 1, u64::from(u32::MAX)).map(Duration::from_millis);
        let this = self.clone();
        *self = match name {
            "system" => this.system(value)?,
            "queue_type" => this.queue_type(choice(
                name,
                value,
                &[("classic", QueueType::Classic), ("quorum", QueueType::Quorum)],
            )?),
            "topology" => this.topology(choice(
                name,
                value,
                &[
                    ("declare", TopologyMode::Declare),
                    ("passive", TopologyMode::Passive),
                    ("strict", TopologyMode::Strict),
                ],
            )?),
            "connections" => {
                this.single_connection(choice(name, value, &[("1", true), ("2", false)])?)
            }
            "heartbeat" => this.heartbeat(Duration::from_secs(number(name, value, 1, 60)?)),
            "connect_timeout" | "connection_timeout" => this.connect_timeout(ms(value)?),
            "confirm_timeout" => this.confirm_timeout(ms(value)?),
            "instance_expires" => this.instance_expires(ms(value)?),
            "recreate_instance_queue" => this.recreate_instance_queue(truth(name, value)?),
            "prefetch" => this.max_prefetch(number(name, value, 1, u16::MAX)?),
            "max_message_bytes" => this.max_message_bytes(number(name, value, 1, usize::MAX)?),
            "unconfirmed" => this.max_unconfirmed(number(name, value, 1, 1_000_000)?),
            "auth_mechanism" => this.external_auth(choice(
                name,
                value,
                &[("plain", false), ("external", true), ("PLAIN", false), ("EXTERNAL", true)],
            )?),
            "cacertfile" => Self { ca: Some(pem(name, value)?), ..this },
            "certfile" => Self { certificate: Some(pem(name, value)?), ..this },
            "keyfile" => Self { key: Some(pem(name, value)?), ..this },
            "server_name_indication" => this.server_name(value),
            "user_id" => this.send_user_id(truth(name, value)?),
            "foreign_replies" => this.foreign_replies(truth(name, value)?),
            "name" => this.name(value),
            _ => return Err(invalid(name, "there is no such option")),
        };
        Ok(())
    }
}

fn invalid(name: &str, problem: impl Into<Text>) -> AmqpError {
    // Whatever stands where a name should be, an error shows no more than a name's worth of it.
    AmqpError::InvalidOption {
        name: name.chars().take(40).collect::<String>().into(),
        problem: problem.into(),
    }
}

fn number<T>(name: &str, value: &str, min: T, max: T) -> Result<T, AmqpError>
where
    T: Copy + FromStr + PartialOrd + std::fmt::Display,
{
    match value.parse() {
        Ok(number) if number >= min && number <= max => Ok(number),
        _ => Err(invalid(name, format!("a number from {min} to {max} is expected"))),
    }
}

fn choice<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T, AmqpError> {
    let chosen = choices.iter().find(|(word, _)| *word == value).map(|(_, chosen)| *chosen);
    chosen.ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        invalid(name, format!("one of {} is expected", words.join(", ")))
    })
}

fn truth(name: &str, value: &str) -> Result<bool, AmqpError> {
    choice(name, value, &[("true", true), ("false", false)])
}

fn pem(name: &str, path: &str) -> Result<Pem, AmqpError> {
    let text = fs::read_to_string(path);
    text.map(Pem).map_err(|error| invalid(name, format!("the file can not be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: &str) -> Result<AmqpBuilder, AmqpError> {
        AmqpBuilder::new(&format!("amqp://localhost/%2f?{options}"))
    }

    #[test]
    fn no_instance_waits_longer_than_a_broker_can() {
        let longest = with("instance_expires=4294967295").unwrap().instance_expires;
        let builder = with("").unwrap().instance_expires(Duration::from_secs(60 * 86_400));
        assert_eq!(builder.instance_expires, longest);
    }

    #[test]
    fn every_option_has_its_parameter() {
        let builder = with(
            "system=acme&queue_type=quorum&topology=strict&connections=1&heartbeat=5\
             &connect_timeout=3000&confirm_timeout=4000&instance_expires=60000\
             &recreate_instance_queue=true&prefetch=20&max_message_bytes=1000&unconfirmed=7\
             &auth_mechanism=external&server_name_indication=rabbit&user_id=true&foreign_replies=false\
             &&name=my%20c%2b+service",
        )
        .unwrap();
        assert_eq!(builder.system, "acme");
        assert_eq!(builder.queue_type, QueueType::Quorum);
        assert_eq!(builder.topology, TopologyMode::Strict);
        assert!(builder.single_connection && builder.recreate_instance_queue);
        assert!(builder.external_auth && builder.send_user_id && !builder.foreign_replies);
        assert_eq!(builder.heartbeat, Duration::from_secs(5));
        assert_eq!(builder.connect_timeout, Duration::from_secs(3));
        assert_eq!(builder.confirm_timeout, Duration::from_secs(4));
        assert_eq!(builder.instance_expires, Duration::from_secs(60));
        assert_eq!((builder.max_prefetch, builder.max_message_bytes), (20, 1000));
        assert_eq!(builder.max_unconfirmed, 7);
        assert_eq!(builder.server_name.as_deref(), Some("rabbit"));
        assert_eq!(builder.name, "my c++service", "a + is a +");
    }

    #[test]
    fn a_value_that_can_not_be_says_what_can() {
        for (option, expected) in [
            ("heartbeat=0", "the option heartbeat: a number from 1 to 60 is expected"),
            ("heartbeat=", "the option heartbeat: a number from 1 to 60 is expected"),
            ("connections=3", "the option connections: one of 1, 2 is expected"),
            ("queue_type=stream", "the option queue_type: one of classic, quorum is expected"),
            ("user_id=yes", "the option user_id: one of true, false is expected"),
            ("hartbeat=5", "the option hartbeat: there is no such option"),
            ("prefetch=70000", "the option prefetch: a number from 1 to 65535 is expected"),
        ] {
            assert_eq!(with(option).unwrap_err().to_string(), expected);
        }
        for system in ["a/b", "amq", "x".repeat(33).as_str(), "ü"] {
            assert!(with(&format!("system={system}")).is_err(), "{system}");
        }
        assert!(with("cacertfile=/no/such/file").unwrap_err().to_string().contains("cacertfile"));
    }
}
