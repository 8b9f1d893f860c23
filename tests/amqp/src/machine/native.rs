//! A node made from the `rabbitmq-server` that is installed here: a child process, no root, no
//! Docker, and nothing written outside a folder of its own.

use super::{CTL, Machine, START, STOP, certificates, conf, plugins, tail, wait_for_the_rest};
use crate::{
    Error, Options, command,
    ports::{Ports, local},
    probe, tls,
    unique::unique_system,
    watchdog::Watchdog,
};
use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Kills whoever wrote a `.pid` in the folder, until nobody does any more: who starts too late to be
/// seen finds no folder to write to, and gives up.
const CLEAN_UP: &str = r#"
for again in 1 2 3; do
    for pid in "$1"/*.pid; do [ -e "$pid" ] && kill -KILL "$(cat "$pid")"; done
    rm -rf "$1" && break
    sleep 0.2
done"#;

/// Writes who it is, and becomes the program. RabbitMQ's script in turn becomes the Erlang VM
/// (`RUNNING_UNDER_SYSTEMD`), so the number stays that of the broker.
const BECOME: &str = r#"echo $$ > "$0" && exec "$@""#;

/// Debian's commands in /usr/sbin are wrappers: they refuse every user but root and rabbitmq, and
/// change to the user rabbitmq. The real ones are here.
const DEBIAN: &str = "/usr/lib/rabbitmq/bin";

/// Whether this machine has a broker to start.
pub(crate) fn is_installed() -> bool {
    program("rabbitmq-server").is_some() && command::find("epmd").is_some()
}

fn program(name: &str) -> Option<PathBuf> {
    let debian = Path::new(DEBIAN).join(name);
    if debian.is_file() { Some(debian) } else { command::find(name) }
}

/// The ports of a node, in the order in which they are reserved.
const AMQP: u16 = 0;
const MANAGEMENT: u16 = 1;
const TLS: u16 = 2;
const DISTRIBUTION: u16 = 3;
const EPMD: u16 = 4;
const COUNT: u16 = 5;

/// A node of one's own. It keeps its ports and its data when it dies and comes back.
#[derive(Debug)]
pub(crate) struct Native {
    folder: PathBuf,
    ports: Ports,
    tls: bool,
    server: Mutex<Option<Child>>,
    epmd: Mutex<Child>,
    /// How often it was started.
    starts: AtomicUsize,
    /// Last, so that it goes last: it removes the folder.
    _watchdog: Watchdog,
}

impl Native {
    /// A node that runs, and its version.
    pub(crate) fn new(
        options: &Options,
        made: Option<&tls::Made>,
    ) -> Result<(Self, String), Error> {
        let mut last = None;
        // Somebody who reserves nothing may take a port between our look and the broker's.
        for _ in 0..3 {
            let node = Self::prepare(options, made)?;
            match node.start() {
                Ok(version) => return Ok((node, version)),
                Err(error) if error.to_string().contains("eaddrinuse") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Start("never tried".to_owned())))
    }

    fn prepare(options: &Options, made: Option<&tls::Made>) -> Result<Self, Error> {
        let folder = std::env::temp_dir().join(format!("gear-rabbitmq-{}", unique_system()));
        let ports = Ports::reserve(COUNT)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(Error::io(folder.display().to_string()))?;
        let watchdog = Watchdog::new(CLEAN_UP, &[&folder.to_string_lossy()])?;
        for name in ["home", "data", "log", "plugins", "conf"] {
            let path = folder.join(name);
            fs::create_dir(&path).map_err(Error::io(path.display().to_string()))?;
        }
        let settings = folder.join("conf");
        let listener = local(ports.get(TLS)).to_string();
        let lines = format!(
            "listeners.tcp.default = {}\n\
             distribution.listener.interface = 127.0.0.1\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\n\
             log.console = true\nlog.console.level = info\nlog.file = false\n\
             disk_free_limit.absolute = 1MB\n{}",
            local(ports.get(AMQP)),
            ports.get(MANAGEMENT),
            conf(options, &listener, &settings.to_string_lossy()),
        );
        let mut files = vec![
            ("rabbitmq.conf", lines),
            ("rabbitmq-env.conf", String::new()),
            ("enabled_plugins", plugins(options)),
        ];
        if let Some(made) = made {
            files.extend(certificates(made).map(|(name, pem)| (name, pem.to_owned())));
        }
        for (name, content) in files {
            let path = settings.join(name);
            fs::write(&path, content).map_err(Error::io(path.display().to_string()))?;
        }
        let epmd = Mutex::new(start_epmd(&folder, ports.get(EPMD))?);
        let (tls, server) = (options.tls, Mutex::new(None));
        let starts = AtomicUsize::new(0);
        Ok(Self { folder, ports, tls, server, epmd, starts, _watchdog: watchdog })
    }

    /// `command` with the environment of this node, and nothing of the caller's `RABBITMQ_*`.
    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let settings = self.folder.join("conf");
        command
            .env_clear()
            .current_dir(&self.folder)
            .env("PATH", format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("LANG", "C.UTF-8")
            // The cookie is made in HOME: one for each node.
            .env("HOME", self.folder.join("home"))
            .env("ERL_EPMD_PORT", self.ports.get(EPMD).to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", "gear@localhost")
            .env("RABBITMQ_CONF_ENV_FILE", settings.join("rabbitmq-env.conf"))
            .env("RABBITMQ_CTL_DIST_PORT_MIN", "0")
            .env("RABBITMQ_CTL_DIST_PORT_MAX", "0")
    }

    fn spawn(&self) -> Result<Child, Error> {
        let server = program("rabbitmq-server")
            .ok_or_else(|| Error::Missing("rabbitmq-server is gone".to_owned()))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .map_err(Error::io("the broker's log"))?;
        let errors = log.try_clone().map_err(Error::io("the broker's log"))?;
        let settings = self.folder.join("conf");
        let mut command = become_program(&self.pid_file(), &server, &[]);
        self.environment(&mut command)
            .env("RABBITMQ_DIST_PORT", self.ports.get(DISTRIBUTION).to_string())
            .env("RABBITMQ_MNESIA_BASE", self.folder.join("data"))
            .env("RABBITMQ_LOG_BASE", self.folder.join("log"))
            .env("RABBITMQ_PLUGINS_EXPAND_DIR", self.folder.join("plugins"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", settings.join("enabled_plugins"))
            .env("RABBITMQ_CONFIG_FILE", settings.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", settings.join("advanced.config"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", settings.join("generated"))
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(Error::io("rabbitmq-server"))
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("server.pid")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log/console")
    }

    fn whole_log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The broker has ended: nobody must be killed under its number any more.
    fn forget(&self, mut server: Child) {
        _ = fs::remove_file(self.pid_file());
        _ = server.wait();
    }

    fn take(&self) -> Option<Child> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Machine for Native {
    fn amqp(&self) -> SocketAddr {
        local(self.ports.get(AMQP))
    }

    fn management(&self) -> Option<SocketAddr> {
        Some(local(self.ports.get(MANAGEMENT)))
    }

    fn tls(&self) -> Option<SocketAddr> {
        self.tls.then(|| local(self.ports.get(TLS)))
    }

    fn kill(&self) -> Result<(), Error> {
        if let Some(mut server) = self.take() {
            server.kill().map_err(Error::io("kill -9 of the broker"))?;
            self.forget(server);
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), Error> {
        let Some(mut server) = self.take() else { return Ok(()) };
        let mut kill = Command::new("sh");
        kill.args(["-c", "kill -TERM \"$0\"", &server.id().to_string()]);
        let told = command::run(&mut kill, CTL);
        let ended = command::wait(&mut server, STOP).map_err(Error::io("the broker's end"));
        _ = server.kill();
        self.forget(server);
        told?;
        match ended? {
            Some(_) => Ok(()),
            None => Err(Error::NotPossible(format!("the broker did not stop within {STOP:?}"))),
        }
    }

    fn start(&self) -> Result<String, Error> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_none() {
            *server = Some(self.spawn()?);
            self.starts.fetch_add(1, Ordering::Relaxed);
        }
        let started =
            probe::wait(self.amqp(), START, || match server.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => Ok(()),
                _ => Err(Error::Start(self.log())),
            });
        if started.is_err()
            && let Some(mut server) = server.take()
        {
            _ = server.kill();
            self.forget(server);
        }
        let version = started?;
        wait_for_the_rest(self.starts.load(Ordering::Relaxed), || self.whole_log());
        Ok(version)
    }

    fn ctl(&self, arguments: &[String]) -> Result<String, Error> {
        let program = program("rabbitmqctl")
            .ok_or_else(|| Error::Missing("rabbitmqctl is not installed".to_owned()))?;
        command::run(self.environment(Command::new(program).arg("-q").args(arguments)), CTL)
    }

    fn log(&self) -> String {
        tail(&self.whole_log())
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        _ = self.kill();
        let epmd = self.epmd.get_mut().unwrap_or_else(PoisonError::into_inner);
        _ = epmd.kill();
        _ = fs::remove_file(self.folder.join("epmd.pid"));
        _ = epmd.wait();
    }
}

/// Erlang's directory of nodes. Without one of its own the VM would start a daemon that outlives it.
fn start_epmd(folder: &Path, port: u16) -> Result<Child, Error> {
    let program =
        command::find("epmd").ok_or_else(|| Error::Missing("epmd is not in PATH".to_owned()))?;
    let arguments = ["-port", &port.to_string(), "-address", "127.0.0.1"];
    let mut child = become_program(&folder.join("epmd.pid"), &program, &arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::io("epmd"))?;
    for _ in 0..500 {
        if TcpStream::connect(local(port)).is_ok() {
            return Ok(child);
        }
        thread::sleep(Duration::from_millis(10));
    }
    _ = child.kill();
    _ = child.wait();
    Err(Error::Start("epmd does not listen (eaddrinuse?)".to_owned()))
}

fn become_program(pid: &Path, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(BECOME).arg(pid).arg(program).args(arguments).stdin(Stdio::null());
    // Out of the terminal's foreground: see the watchdog.
    command.process_group(0);
    command
}
