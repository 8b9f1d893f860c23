//! Where a broker comes from: the order that the crate's documentation tells.

use super::{Broker, Inner, Options};
use crate::{
    Error, Tls,
    machine::{self, Container, DEFAULT_IMAGE, External, Machine, Native},
    tls,
};
use std::sync::Arc;

/// The variable for the image to use, or `none`.
const IMAGE: &str = "GEAR_TEST_RABBITMQ_IMAGE";
const NONE: &str = "none";

impl Broker {
    pub(super) fn find_shared() -> Result<Self, Error> {
        if let Ok(url) = std::env::var("GEAR_TEST_AMQP_URL") {
            let (external, version) = External::new(url)?;
            let inner = Inner {
                version,
                tls: None,
                user: external.user.clone(),
                password: external.password.clone(),
                url: Some(external.url.clone()),
                machine: Box::new(external),
            };
            return Ok(Self { inner: Arc::new(inner) });
        }
        let options = Options::default();
        let asked = asked_image();
        let docker = match asked.as_deref() {
            Some(NONE) => Err(Error::NotPossible(format!("{IMAGE}={NONE}"))),
            image => machine::docker()
                .and_then(|()| Self::container(image.unwrap_or(DEFAULT_IMAGE), &options)),
        };
        match docker {
            Ok(broker) => Ok(broker),
            Err(error) if asked.as_deref().is_some_and(|image| image != NONE) => Err(error),
            Err(error) if machine::is_installed() => {
                eprintln!("gear-test-amqp: no container ({error}); rabbitmq-server instead");
                Self::native(&options)
            }
            Err(error) => Err(missing(&error)),
        }
    }

    pub(super) fn find_private(options: &Options) -> Result<Self, Error> {
        let asked = options.image.clone().or_else(|| asked_image().filter(|image| image != NONE));
        match asked {
            Some(image) => Self::container(&image, options),
            None if machine::is_installed() => Self::native(options),
            None => machine::docker()
                .and_then(|()| Self::container(DEFAULT_IMAGE, options))
                .map_err(|error| missing(&error)),
        }
    }

    fn native(options: &Options) -> Result<Self, Error> {
        let made = options.tls.then(tls::make).transpose()?;
        let (node, version) = Native::new(options, made.as_ref())?;
        Self::new(Box::new(node), version, made)
    }

    fn container(image: &str, options: &Options) -> Result<Self, Error> {
        let made = options.tls.then(tls::make).transpose()?;
        let (container, version) = Container::new(image, options, made.as_ref())?;
        Self::new(Box::new(container), version, made)
    }

    fn new(
        machine: Box<dyn Machine>,
        version: String,
        made: Option<tls::Made>,
    ) -> Result<Self, Error> {
        let port = machine.tls().map_or(0, |address| address.port());
        let tls = made.map(|made| Tls { port, ..made.client });
        let (user, password) = ("guest".to_owned(), "guest".to_owned());
        let inner = Inner { machine, version, tls, user, password, url: None };
        inner.wait_for_management()?;
        if inner.tls.is_some() {
            inner.add_user(tls::USER, "", "%2F")?;
        }
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// The image for containers: `GEAR_TEST_RABBITMQ_IMAGE`, or else [`DEFAULT_IMAGE`].
#[must_use]
pub fn image() -> String {
    asked_image().filter(|image| image != NONE).unwrap_or_else(|| DEFAULT_IMAGE.to_owned())
}

/// Whether [`Broker::private`] is a container: an image is asked for, or nothing is installed. Then
/// what a private broker shows need not be shown in a container again.
#[must_use]
pub fn private_is_container() -> bool {
    asked_image().is_some_and(|image| image != NONE) || !machine::is_installed()
}

fn asked_image() -> Option<String> {
    std::env::var(IMAGE).ok().filter(|image| !image.is_empty())
}

fn missing(docker: &Error) -> Error {
    Error::Missing(format!(
        "no RabbitMQ for the tests: install Docker or rabbitmq-server (on Debian: `apt-get install \
         rabbitmq-server`), or set GEAR_TEST_AMQP_URL; what Docker said: {docker}"
    ))
}
