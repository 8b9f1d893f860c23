//! Running other programs, bounded in time.

use crate::Error;
use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Runs `command` to its end, and returns what it wrote to stdout.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<String, Error> {
    let line = line(command);
    let failed = |output: String| Error::Command { command: line.clone(), output };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let out = collect(child.stdout.take());
    let err = collect(child.stderr.take());
    let status = wait(&mut child, limit).map_err(|error| failed(error.to_string()))?;
    let text = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(text(out)),
        Some(status) => {
            let (out, err) = (text(out), text(err));
            Err(failed(format!("{status}: {} {}", err.trim(), out.trim()).trim().to_owned()))
        }
        None => {
            _ = child.kill();
            _ = child.wait();
            // Not its output: a grandchild may hold the pipes open for ever.
            Err(failed(format!("not done within {limit:?}")))
        }
    }
}

/// Waits until `child` ends: `None` when it has not within `limit`.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether `program` is in PATH.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

fn collect(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
