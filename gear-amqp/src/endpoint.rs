//! Where a broker is and who we are there, from a URL.

use std::fmt;

use url::Url;

use crate::{AmqpBuilder, AmqpError};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One broker, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) vhost: String,
}

impl Endpoint {
    /// `host:port`, for people.
    pub(crate) fn name(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A URL may name several brokers, `amqp://user:password@host1,host2:5673/vhost?options`: that
/// is as many URLs. The options go into `builder`.
pub(crate) fn parse(url: &str, builder: &mut AmqpBuilder) -> Result<Vec<Endpoint>, AmqpError> {
    let invalid = AmqpError::InvalidUrl;
    let (scheme, rest) = url.split_once("://").ok_or(invalid("it has no \"://\""))?;
    if scheme != "amqp" && scheme != "amqps" {
        return Err(invalid("the scheme is neither amqp nor amqps"));
    }
    let split = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(split);
    // Most likely the credentials hold one of these, and what comes after it would be taken for
    // the virtual host or an option, which errors and the broker's log show.
    if tail.contains('@') {
        return Err(invalid("a / ? # or @ that is no delimiter must be percent-encoded"));
    }
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (format!("{credentials}@"), hosts),
        None => (String::new(), authority),
    };
    let mut endpoints = Vec::new();
    for host in hosts.split(',') {
        // One at a time, so that the crate sees a usual URL. Its errors are not passed on: they
        // are about characters, and one might show a part of a password.
        let url = Url::parse(&format!("{scheme}://{credentials}{host}{tail}"))
            .map_err(|_| invalid("a host, a port or the part before @ is malformed"))?;
        if endpoints.is_empty() {
            // Not as a form, where a + is a space.
            for option in url.query().into_iter().flat_map(|query| query.split('&')) {
                if option.is_empty() {
                    continue;
                }
                let (name, value) = option.split_once('=').unwrap_or((option, ""));
                let decode = |text| percent_decode(text).ok_or(invalid(MALFORMED));
                builder.set(&decode(name)?, &decode(value)?)?;
            }
        }
        endpoints.push(endpoint(&url)?);
    }
    Ok(endpoints)
}

const MALFORMED: &str = "a %-escape is malformed, or what it says is no UTF-8";

/// AMQP's limit for names. A password may be longer: OAuth 2.0 tokens are.
const MAX_NAME_BYTES: usize = 255;

fn endpoint(url: &Url) -> Result<Endpoint, AmqpError> {
    let invalid = AmqpError::InvalidUrl;
    let decode = |text: &str| percent_decode(text).ok_or(invalid(MALFORMED));
    let tls = url.scheme() == "amqps";
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(invalid("it names no host"));
    }
    if url.fragment().is_some() {
        return Err(invalid("a # must be written as %23"));
    }
    let (user, password) = match (url.username(), url.password()) {
        ("", None) => ("guest".to_owned(), "guest".to_owned()),
        (user, password) => (decode(user)?, decode(password.unwrap_or_default())?),
    };
    // As RabbitMQ reads it: no path is the virtual host "/", and the path "/" is the one whose
    // name is empty, which no broker has by default.
    let vhost = match url.path() {
        "" | "/" => "/".to_owned(),
        path if path[1..].contains('/') => {
            return Err(invalid("a / within the virtual host must be written as %2f"));
        }
        path => decode(&path[1..])?,
    };
    if vhost.len() > MAX_NAME_BYTES || user.len() > MAX_NAME_BYTES {
        return Err(invalid("the virtual host or the user is longer than 255 bytes"));
    }
    let port = url.port().unwrap_or(if tls { 5671 } else { 5672 });
    Ok(Endpoint { tls, host: decode(host)?, port, user, password: Secret(password), vhost })
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(url: &str) -> Endpoint {
        AmqpBuilder::new(url).unwrap().endpoints.remove(0)
    }

    #[test]
    fn the_parts_of_a_url() {
        let broker = one("amqps://us%40er:p%3Aw@broker.example:1234/my%2fvhost?heartbeat=5");
        assert!(broker.tls);
        assert_eq!((broker.host.as_str(), broker.port), ("broker.example", 1234));
        assert_eq!((broker.user.as_str(), broker.password.reveal()), ("us@er", "p:w"));
        assert_eq!(broker.vhost, "my/vhost");
        assert_eq!(broker.name(), "broker.example:1234");
    }

    #[test]
    fn what_is_not_said_is_as_rabbitmq_has_it() {
        for url in ["amqp://localhost", "amqp://localhost/", "amqp://localhost/%2f"] {
            let broker = one(url);
            assert_eq!((broker.user.as_str(), broker.password.reveal()), ("guest", "guest"));
            assert_eq!((broker.port, broker.vhost.as_str()), (5672, "/"));
        }
        assert_eq!(one("amqps://localhost").port, 5671);
    }

    #[test]
    fn several_hosts_addresses_and_odd_ones() {
        let builder = AmqpBuilder::new("amqp://u:p@h1,h2:5673,[::1]:5674,10.0.0.1/v").unwrap();
        let names: Vec<String> = builder.endpoints.iter().map(Endpoint::name).collect();
        assert_eq!(names, ["h1:5672", "h2:5673", "[::1]:5674", "10.0.0.1:5672"]);
        assert!(builder.endpoints.iter().all(|e| e.user == "u" && e.vhost == "v"));
        assert_eq!(builder.endpoints[2].host, "::1");
    }

    #[test]
    fn what_is_not_a_url_says_why_and_shows_no_password() {
        for url in [
            "",
            "localhost",
            "http://u:canary@h",
            "amqp://",
            "amqp://u:canary@",
            "amqp://u:canary@h:port",
            "amqp://u:canary@h:70000",
            "amqp://u:canary@h,,i",
            "amqp://u:canary@h/a/b",
            "amqp://u:canary%@h",
            "amqp://u:canary%ff@h",
            "amqp://u:canary@h/v#x",
            "amqp://u:12?canary@h",
            "amqp://u:12/canary@h",
            "amqp://u:12#canary@h",
            "amqp://u:canary/12@h",
            "amqp://u:12/?name=canary@h",
            "amqp://u:12/canary@h/v?name=x",
            "amqp://u@x:12/canary@h",
            "amqps://u:12?heartbeat=canary@h,i",
        ] {
            let error = AmqpBuilder::new(url).unwrap_err();
            assert!(matches!(error, AmqpError::InvalidUrl(_)), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn an_at_sign_that_is_escaped_is_like_any_other() {
        let broker = one("amqp://u:12%3f%2Fx%40y@h/a%40b?name=c%40d");
        assert_eq!((broker.password.reveal(), broker.vhost.as_str()), ("12?/x@y", "a@b"));
    }

    #[test]
    fn names_that_amqp_can_not_carry_are_refused() {
        let (fits, long) = ("x".repeat(255), "x".repeat(256));
        for url in [format!("amqp://u:p@h/{long}"), format!("amqp://{long}:p@h")] {
            let error = AmqpBuilder::new(&url).unwrap_err();
            assert!(matches!(error, AmqpError::InvalidUrl(why) if why.contains("255")), "{error}");
        }
        // Bytes count, not characters of the URL.
        let escaped = "%c3%bc".repeat(127);
        assert_eq!(one(&format!("amqp://{fits}:{long}@h/{escaped}")).vhost.len(), 254);
    }

    #[test]
    fn nothing_shows_a_password() {
        let builder = AmqpBuilder::new("amqp://u:canary@h").unwrap();
        assert!(!format!("{builder:?}").contains("canary"));
    }
}
