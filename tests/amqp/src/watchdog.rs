//! Cleaning up, even after `kill -9` on this process.
//!
//! A shell waits for its stdin to end, and then cleans up. This process holds the other end of
//! that pipe, and the system closes it whatever this process dies of.

use crate::Error;
use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

/// Runs a shell script when it is dropped, or when this process ends.
#[derive(Debug)]
pub(crate) struct Watchdog(Child);

impl Watchdog {
    /// `script` finds `arguments` in `$1`, `$2` and so on.
    pub(crate) fn new(script: &str, arguments: &[&str]) -> Result<Self, Error> {
        Command::new("sh")
            .arg("-c")
            .arg(format!("cat >/dev/null\n{script}"))
            .arg("gear-test-watchdog")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal is for the test, and not for the one that tidies up after it.
            .process_group(0)
            .spawn()
            .map(Self)
            .map_err(Error::io("sh"))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        _ = self.0.wait();
    }
}
