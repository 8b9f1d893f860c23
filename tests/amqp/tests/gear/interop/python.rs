//! Running the Python programs of `tests/interop/`, with pika in an environment of their own.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::{PATIENCE, Test};

/// A Python that has what the programs need.
pub(crate) struct Python(PathBuf);

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../interop")
}

impl Python {
    /// Makes the environment if it is not there. None if there is no `python3`.
    pub(crate) async fn find() -> Test<Option<Self>> {
        blocking(|| {
            if output(Command::new("python3").arg("--version")).is_err() {
                // Not by a macro: the harness keeps to itself what those write.
                let _ = writeln!(std::io::stderr(), "no python3 here: no independent client ran");
                return Ok(None);
            }
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../interop");
            let python = folder.join("bin/python");
            std::fs::create_dir_all(&folder)?;
            // Several tests need it at once; one makes it.
            let lock = File::create(folder.join("lock"))?;
            lock.lock()?;
            let requirements = programs().join("requirements.txt");
            let wanted = std::fs::read_to_string(&requirements)?;
            if !output(Command::new(&python).args(["-m", "pip", "freeze"]))
                .is_ok_and(|installed| installed.lines().any(|line| line == wanted.trim()))
            {
                output(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
                let mut install = Command::new(&python);
                install.args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements);
                output(&mut install)?;
            }
            Ok(Some(Self(python)))
        })
        .await
    }

    fn program(&self, name: &str, url: &str, system: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.arg("-B").arg(programs().join(name)).args(["--url", url, "--system", system]);
        command
    }

    /// Runs the client; returns what it says.
    pub(crate) async fn client(&self, url: &str, system: &str, arguments: &[&str]) -> Test<Value> {
        let mut command = self.program("client.py", url, system);
        command.args(arguments);
        let said = tokio::time::timeout(PATIENCE, blocking(move || output(&mut command))).await??;
        Ok(serde_json::from_str(&said)?)
    }

    /// Starts the service, and returns when it is ready.
    pub(crate) async fn serve(&self, url: &str, system: &str) -> Test<Served> {
        let mut command = self.program("service.py", url, system);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = child.stdout.take().ok_or("it has an output")?;
        let served = Served(Some(child));
        let (sender, mut said) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            // Read to the end: a pipe that is full would stop it.
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let first = tokio::time::timeout(PATIENCE, said.recv()).await?;
        let first: Value = serde_json::from_str(&first.ok_or("it ended at once")?)?;
        assert_eq!((&first["event"], &first["instance"]), (&"ready".into(), &"PYSRV.py1".into()));
        Ok(served)
    }
}

/// The service, until it is stopped; it ends with this process, too.
pub(crate) struct Served(Option<Child>);

impl Served {
    /// Lets it end in order.
    pub(crate) async fn stop(mut self) -> Test {
        let Some(mut child) = self.0.take() else { return Ok(()) };
        drop(child.stdin.take());
        let (sender, ended) = oneshot::channel();
        std::thread::spawn(move || sender.send(child.wait()));
        let status = tokio::time::timeout(PATIENCE, ended).await???;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}").into()) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a program to its end; returns what it writes, or why it failed.
fn output(command: &mut Command) -> Test<String> {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output()?;
    if status.success() {
        return Ok(String::from_utf8(stdout)?);
    }
    let (said, failed) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Err(format!("{command:?}: {status}\n{said}{failed}").into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Test<T> + Send + 'static) -> Test<T> {
    tokio::task::spawn_blocking(work).await?
}
