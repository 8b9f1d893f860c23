//! Who can be addressed: services, instances, and the four forms of an address.
//! Every type here can only hold a value that the wire contract allows.

mod name;
mod reply_to;
mod topic;

use std::{fmt, str::FromStr};

pub use name::{
    MAX_HASHES, MAX_INSTANCE_BYTES, MAX_KEY_BYTES, MAX_SERVICE_BYTES, NameError, NameProblem,
};
pub use reply_to::ReplyTo;
pub use topic::{EventGroup, Pattern, Topic};

use crate::Text;

/// A kind of program, e.g. `CTRL`: the part of an address before the dot.
///
/// `[A-Za-z0-9_-]+`, not starting with `amq`, at most [`MAX_SERVICE_BYTES`] bytes,
/// case-sensitive.
///
/// ```
/// use gear_api::Service;
///
/// const CTRL: Service = Service::new("CTRL"); // checked at compile time
/// let repo: Service = "REPO".parse()?;        // checked here
/// assert_eq!(CTRL.at("host1")?.to_string(), "CTRL.host1");
/// assert_eq!(repo.all().to_string(), "REPO.*");
/// # Ok::<(), gear_api::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service(Text);

impl Service {
    /// A service whose name is known to the compiler.
    ///
    /// # Panics
    ///
    /// If the name breaks a rule; in a `const` that is a compile error.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        name::or_panic(name::check_service(name));
        Self(Text::from_static(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The instance of this service on `host`.
    ///
    /// # Errors
    ///
    /// [`NameError`] if the host name is not made of words of `[A-Za-z0-9_-]+` with
    /// dots between them, or `SERVICE.host` has more than [`MAX_INSTANCE_BYTES`] bytes.
    pub fn at(&self, host: &str) -> Result<Instance, NameError> {
        Instance::new(self.clone(), host)
    }

    /// Every instance of this service, `CTRL.*`.
    #[must_use]
    pub fn all(&self) -> Address {
        Address::Multicast(self.clone())
    }

    pub(crate) fn text(&self) -> &Text {
        &self.0
    }
}

/// One running copy of a service, e.g. `REPO.host2`.
///
/// ```
/// let instance: gear_api::Instance = "REPO.db.example.com".parse()?;
/// assert_eq!(instance.service().as_str(), "REPO");
/// assert_eq!(instance.host(), "db.example.com");
/// # Ok::<(), gear_api::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance {
    /// `REPO.host2`, kept whole because it is the routing key.
    key: Text,
    service: Service,
}

impl Instance {
    fn new(service: Service, host: &str) -> Result<Self, NameError> {
        name::check_host(host).map_err(|problem| NameError::new("host name", host, problem))?;
        let key = format!("{service}.{host}");
        if key.len() > MAX_INSTANCE_BYTES {
            let problem = NameProblem::TooLong { bytes: key.len(), max: MAX_INSTANCE_BYTES };
            return Err(NameError::new("instance name", &key, problem));
        }
        Ok(Self { key: key.into(), service })
    }

    /// The service that it is a copy of.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The name of the place where it runs.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.key[self.service.as_str().len() + 1..]
    }

    /// `SERVICE.host`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.key
    }

    pub(crate) fn text(&self) -> &Text {
        &self.key
    }
}

/// Where a request goes: one of the four forms.
///
/// | form | text | who gets it |
/// |---|---|---|
/// | [`Service`](Self::Service) | `CTRL` | one instance of CTRL, in turn among those with capacity |
/// | [`Instance`](Self::Instance) | `REPO.host2` | that instance, nobody else |
/// | [`Multicast`](Self::Multicast) | `CTRL.*` | every instance of CTRL, once each |
/// | [`Broadcast`](Self::Broadcast) | `*.*` | every instance of every service, once each |
///
/// ```
/// use gear_api::{Address, Service};
///
/// const CTRL: Service = Service::new("CTRL");
/// assert_eq!("CTRL".parse::<Address>()?, Address::from(&CTRL));
/// assert_eq!("CTRL.*".parse::<Address>()?, CTRL.all());
/// assert_eq!("*.*".parse::<Address>()?, Address::Broadcast);
/// assert!("CTRL.*.x".parse::<Address>().is_err());
/// # Ok::<(), gear_api::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Any one instance of the service.
    Service(Service),
    /// This instance.
    Instance(Instance),
    /// Every instance of the service.
    Multicast(Service),
    /// Every instance of every service, the sender's own too.
    Broadcast,
}

impl Address {
    /// The routing key of [`Address::Broadcast`].
    pub const BROADCAST_KEY: Text = Text::from_static("*.*");

    /// The routing key on the wire. Allocates only for a multicast.
    #[must_use]
    pub fn key(&self) -> Text {
        match self {
            Self::Service(service) => service.text().clone(),
            Self::Instance(instance) => instance.text().clone(),
            Self::Multicast(service) => format!("{service}.*").into(),
            Self::Broadcast => Self::BROADCAST_KEY,
        }
    }

    /// Whether more than one instance may get it.
    #[must_use]
    pub fn is_group(&self) -> bool {
        matches!(self, Self::Multicast(_) | Self::Broadcast)
    }
}

impl FromStr for Service {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        name::check_service(name)
            .map_err(|problem| NameError::new("service name", name, problem))?;
        Ok(Self(name.into()))
    }
}

impl FromStr for Instance {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((service, host)) = text.split_once('.') else {
            let problem = match name::check_service(text) {
                Ok(()) => NameProblem::NoHost,
                Err(problem) => problem,
            };
            return Err(NameError::new("instance name", text, problem));
        };
        service.parse::<Service>()?.at(host)
    }
}

impl FromStr for Address {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('.') {
            None => text.parse().map(Self::Service),
            Some(("*", "*")) => Ok(Self::Broadcast),
            Some((service, "*")) => service.parse().map(Self::Multicast),
            Some(("*", _)) => Err(NameError::new("address", text, NameProblem::Form)),
            Some((service, host)) => service.parse::<Service>()?.at(host).map(Self::Instance),
        }
    }
}

impl From<Service> for Address {
    fn from(service: Service) -> Self {
        Self::Service(service)
    }
}

impl From<&Service> for Address {
    fn from(service: &Service) -> Self {
        Self::Service(service.clone())
    }
}

impl From<Instance> for Address {
    fn from(instance: Instance) -> Self {
        Self::Instance(instance)
    }
}

impl From<&Instance> for Address {
    fn from(instance: &Instance) -> Self {
        Self::Instance(instance.clone())
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Instance(instance) => instance.fmt(f),
            Self::Multicast(_) | Self::Broadcast => f.pad(&self.key()),
        }
    }
}

/// `Display` and `Debug` of a type that is one text.
macro_rules! shown_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.as_str())
            }
        }
    )*};
}
use shown_as_text;

/// serde as the text that `Display` shows and `FromStr` reads, with every rule checked.
macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
use serde_as_text;

shown_as_text!(Service, Instance);
serde_as_text!(Service, Instance, Address);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_read_back_as_written() {
        for text in ["CTRL", "REPO.host2", "REPO.db-1.example.com", "CTRL.*", "*.*", "a_b-C9"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.key(), text);
        }
    }

    #[test]
    fn every_rule_on_names_is_told_with_its_place() {
        use NameProblem as P;
        let dot = |at| P::Character { character: '.', at, dots: false };
        for (text, problem) in [
            ("", P::Empty),
            ("amq", P::Reserved),
            ("amqp.host", P::Reserved),
            ("a b", P::Character { character: ' ', at: 1, dots: false }),
            ("a#", P::Character { character: '#', at: 1, dots: false }),
            ("a:dead", P::Character { character: ':', at: 1, dots: false }),
            ("a/b", P::Character { character: '/', at: 1, dots: false }),
            ("a.", P::Empty),
            (".a", P::Empty),
            ("a..b", P::EmptyWord { at: 0 }),
            ("a.b..c", P::EmptyWord { at: 2 }),
            ("a.b.", P::EmptyWord { at: 2 }),
            ("a.b:c", P::Character { character: ':', at: 1, dots: true }),
            ("*.a", P::Form),
            ("*", P::Character { character: '*', at: 0, dots: false }),
            ("a.*.b", P::Character { character: '*', at: 0, dots: true }),
        ] {
            assert_eq!(text.parse::<Address>().unwrap_err().problem(), problem, "{text:?}");
        }
        assert_eq!("a.b".parse::<Service>().unwrap_err().problem(), dot(1));
        assert!("AMQ".parse::<Service>().is_ok(), "names are case-sensitive");
    }

    #[test]
    fn a_character_of_several_bytes_is_shown_whole() {
        for character in ['é', 'ß', '߿', 'ࠀ', '語', '\u{ffff}', '🦀', '\u{10ffff}'] {
            let problem = NameProblem::Character { character, at: 2, dots: false };
            let error = format!("Na{character}me").parse::<Service>().unwrap_err();
            assert_eq!(error.problem(), problem);
        }
        let error = "REPO.hôte".parse::<Instance>().unwrap_err();
        let text = "invalid host name \"hôte\": 'ô' at byte 1 is not one of A-Z a-z 0-9 _ - \
                    (or a dot between words)";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn an_instance_without_a_host_is_told_what_is_missing() {
        let error = "REPO".parse::<Instance>().unwrap_err();
        assert_eq!(error.problem(), NameProblem::NoHost);
        let text =
            "invalid instance name \"REPO\": the host is missing: an instance is SERVICE.host";
        assert_eq!(error.to_string(), text);
        assert_eq!("".parse::<Instance>().unwrap_err().problem(), NameProblem::Empty);
    }

    #[test]
    fn names_are_as_long_as_the_longest_queue_name_allows() {
        let longest = "s".repeat(MAX_SERVICE_BYTES);
        let service: Service = longest.parse().unwrap();
        let instance = service.at("h").unwrap();
        assert_eq!(instance.as_str().len(), MAX_INSTANCE_BYTES);
        assert!(service.at("hh").is_err());
        let queue = name::MAX_SYSTEM_BYTES + MAX_INSTANCE_BYTES + name::REPLY_SUFFIX_BYTES;
        assert_eq!(queue, MAX_KEY_BYTES);
        let error = format!("{longest}s").parse::<Service>().unwrap_err();
        assert!(matches!(error.problem(), NameProblem::TooLong { max: MAX_SERVICE_BYTES, .. }));
        assert!(error.to_string().len() < 1000);
    }

    #[test]
    fn names_are_texts_in_json_and_are_checked_on_the_way_in() {
        let address: Address = "REPO.host2".parse().unwrap();
        let json = serde_json::to_string(&address).unwrap();
        assert_eq!(json, r#""REPO.host2""#);
        assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        assert!(serde_json::from_str::<Instance>(r#""REPO""#).is_err());
    }

    #[test]
    fn a_huge_input_makes_a_small_error() {
        let error = "é".repeat(1_000_000).parse::<Address>().unwrap_err();
        assert!(error.to_string().len() < 2000);
    }
}
