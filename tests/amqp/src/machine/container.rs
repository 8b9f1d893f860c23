//! A broker in a container, through testcontainers.

use super::{CTL, Machine, START, STOP, certificates, conf, plugins, tail, wait_for_the_rest};
use crate::{
    Error, Options, command, io, ports::Ports, probe, tls, unique::unique_system,
    watchdog::Watchdog,
};
use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    path::Path,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt, TestcontainersError,
    core::IntoContainerPort, runners::AsyncRunner,
};

const AMQP: u16 = 5672;
const MANAGEMENT: u16 = 15672;
const TLS: u16 = 5671;
const CERTIFICATES: &str = "/etc/rabbitmq/gear-test";

/// An error unless Docker is here and answers.
pub(crate) fn docker() -> Result<(), Error> {
    let mut ask = Command::new("docker");
    ask.args(["version", "--format", "{{.Server.Version}}"]);
    command::run(&mut ask, Duration::from_secs(10)).map(drop)
}

/// A container of one's own. It keeps its data and its ports when its broker dies and comes back.
#[derive(Debug)]
pub(crate) struct Container {
    name: String,
    /// `None` only while it is dropped.
    container: Option<ContainerAsync<GenericImage>>,
    addresses: Mutex<Addresses>,
    tls: bool,
    /// How often it was started.
    starts: AtomicUsize,
    _ports: Ports,
    _watchdog: Watchdog,
}

#[derive(Clone, Copy, Debug)]
struct Addresses {
    amqp: SocketAddr,
    management: SocketAddr,
    tls: Option<SocketAddr>,
}

impl Container {
    /// A container of `image` in which a broker answers, and its version.
    pub(crate) fn new(
        image: &str,
        options: &Options,
        made: Option<&tls::Made>,
    ) -> Result<(Self, String), Error> {
        provide(image)?;
        let mut last = None;
        // Somebody who reserves nothing may take a port between our look and Docker's.
        for _ in 0..3 {
            match Self::run(image, options, made) {
                Ok(container) => {
                    let version = container.wait()?;
                    return Ok((container, version));
                }
                Err(error) if error.to_string().contains("address already in use") => {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Start("never tried".to_owned())))
    }

    fn run(image: &str, options: &Options, made: Option<&tls::Made>) -> Result<Self, Error> {
        let name = format!("gear-test-{}", unique_system());
        let ports = Ports::reserve(3)?;
        // Before the container, by name: there is no moment at which nobody would remove it.
        let watchdog = Watchdog::new("docker rm -f -v \"$1\"", &[&name])?;
        let request = request(image, &name, &ports, options, made);
        let (container, addresses) = io::block_on(async {
            let container = request.start().await?;
            let addresses = Addresses::of(&container, options.tls).await?;
            Ok::<_, TestcontainersError>((container, addresses))
        })
        .map_err(|error| Error::Start(format!("{image}: {}", chain(&error))))?;
        Ok(Self {
            name,
            container: Some(container),
            addresses: Mutex::new(addresses),
            tls: options.tls,
            starts: AtomicUsize::new(0),
            _ports: ports,
            _watchdog: watchdog,
        })
    }

    fn wait(&self) -> Result<String, Error> {
        let starts = self.starts.fetch_add(1, Ordering::Relaxed) + 1;
        let version = probe::wait(self.amqp(), START, || {
            let running = io::block_on(self.container()?.is_running());
            if running.unwrap_or(true) { Ok(()) } else { Err(Error::Start(self.log())) }
        })?;
        wait_for_the_rest(starts, || self.docker(&["logs", &self.name]).unwrap_or_default());
        Ok(version)
    }

    fn container(&self) -> Result<&ContainerAsync<GenericImage>, Error> {
        self.container.as_ref().ok_or_else(|| Error::NotPossible("it is removed".to_owned()))
    }

    fn addresses(&self) -> Addresses {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn docker(&self, arguments: &[&str]) -> Result<String, Error> {
        command::run(Command::new("docker").args(arguments), CTL)
    }
}

impl Addresses {
    async fn of(
        container: &ContainerAsync<GenericImage>,
        tls: bool,
    ) -> Result<Self, TestcontainersError> {
        let host = container.get_host().await?.to_string();
        let ip =
            match (host.as_str(), 0).to_socket_addrs().map(|mut all| all.find(SocketAddr::is_ipv4))
            {
                Ok(Some(address)) => address.ip(),
                _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
        let port = async |port| {
            let port = container.get_host_port_ipv4(port).await?;
            Ok::<_, TestcontainersError>(SocketAddr::new(ip, port))
        };
        let tls = if tls { Some(port(TLS).await?) } else { None };
        Ok(Self { amqp: port(AMQP).await?, management: port(MANAGEMENT).await?, tls })
    }
}

fn request(
    image: &str,
    name: &str,
    ports: &Ports,
    options: &Options,
    made: Option<&tls::Made>,
) -> ContainerRequest<GenericImage> {
    let (repository, tag) = split(image);
    let listener = TLS.to_string();
    let mut request = GenericImage::new(repository, tag)
        .with_container_name(name)
        .with_startup_timeout(START)
        .with_mapped_port(ports.get(0), AMQP.tcp())
        .with_mapped_port(ports.get(1), MANAGEMENT.tcp())
        .with_copy_to("/etc/rabbitmq/enabled_plugins", plugins(options).into_bytes())
        .with_copy_to(
            "/etc/rabbitmq/conf.d/90-gear-test.conf",
            conf(options, &listener, CERTIFICATES).into_bytes(),
        );
    if let Some(made) = made {
        request = request.with_mapped_port(ports.get(2), TLS.tcp());
        for (file, pem) in certificates(made) {
            request =
                request.with_copy_to(format!("{CERTIFICATES}/{file}"), pem.as_bytes().to_vec());
        }
    }
    if std::env::var("DOCKER_HOST").is_ok_and(|host| !host.starts_with("unix:")) {
        return request;
    }
    // guest:guest is not for the neighbours.
    request.with_host_config_modifier(|host| {
        for binding in host.port_bindings.iter_mut().flatten().flat_map(|(_, to)| to).flatten() {
            binding.host_ip = Some(Ipv4Addr::LOCALHOST.to_string());
        }
    })
}

/// A repository and its tag; a colon may also stand before a registry's port.
fn split(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, "latest"),
    }
}

/// Makes sure that `image` is here: pulled, or else built by the script of this repository.
pub(crate) fn provide(image: &str) -> Result<(), Error> {
    let mut ask = Command::new("docker");
    if command::run(ask.args(["image", "inspect", "--format", "{{.Id}}", image]), CTL).is_ok() {
        return Ok(());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/broker-image/build.sh");
    // Several test processes need it at once; one makes it.
    let path = std::env::temp_dir().join("gear-broker-image.lock");
    let lock = File::options().create(true).append(true).open(&path);
    if let Ok(lock) = &lock {
        lock.lock().map_err(Error::io(path.display().to_string()))?;
    }
    eprintln!("gear-test-amqp: there is no image {image} here; getting it takes some minutes");
    let mut build = Command::new("bash");
    command::run(build.arg(script).arg(image), Duration::from_secs(900)).map(drop)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text
}

impl Machine for Container {
    fn amqp(&self) -> SocketAddr {
        self.addresses().amqp
    }

    fn management(&self) -> Option<SocketAddr> {
        Some(self.addresses().management)
    }

    fn tls(&self) -> Option<SocketAddr> {
        self.addresses().tls
    }

    fn kill(&self) -> Result<(), Error> {
        if io::block_on(self.container()?.is_running()).unwrap_or(true) {
            self.docker(&["kill", "-s", "KILL", &self.name])?;
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), Error> {
        let seconds = i32::try_from(STOP.as_secs()).unwrap_or(i32::MAX);
        io::block_on(self.container()?.stop_with_timeout(Some(seconds)))
            .map_err(|error| Error::NotPossible(format!("the container: {}", chain(&error))))
    }

    fn start(&self) -> Result<String, Error> {
        let container = self.container()?;
        let addresses = io::block_on(async {
            container.start().await?;
            Addresses::of(container, self.tls).await
        })
        .map_err(|error| Error::Start(chain(&error)))?;
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        self.wait()
    }

    fn ctl(&self, arguments: &[String]) -> Result<String, Error> {
        let mut all = vec!["exec", &self.name, "rabbitmqctl", "-q"];
        all.extend(arguments.iter().map(String::as_str));
        self.docker(&all)
    }

    fn log(&self) -> String {
        let mut logs = Command::new("docker");
        tail(
            &command::run(logs.args(["logs", "--tail", "15", &self.name]), CTL).unwrap_or_default(),
        )
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(container) = self.container.take() {
            // Not by its own drop: that would need the runtime of the test, which may be gone.
            _ = io::block_on(container.rm());
        }
    }
}
