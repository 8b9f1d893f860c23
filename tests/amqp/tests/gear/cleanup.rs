//! What a test process started goes with it, even when it is killed.

use crate::eventually;
use gear_test_amqp::{Broker, Options, image, private_is_container};
use std::{
    env,
    io::{BufRead, BufReader},
    net::TcpStream,
    process::{Command, Stdio},
};

/// Tells the test below, which is also the child, what to start.
const ROLE: &str = "GEAR_TEST_CLEANUP";

#[tokio::test]
async fn nothing_outlives_a_killed_process() {
    match env::var(ROLE).as_deref() {
        Err(_) => {}
        Ok("container") => {
            let image = Some(image());
            wait_to_be_killed(&Broker::private_with(Options { image, ..Options::default() }).await);
        }
        Ok("shared") => wait_to_be_killed(Broker::shared().await),
        Ok(_) => wait_to_be_killed(&Broker::private().await),
    }
    for role in ["private", "container", "shared"] {
        if role == "container" && private_is_container() {
            continue; // As the private one was.
        }
        let mut child = Command::new(env::current_exe().expect("this program has a path"))
            .args(["--exact", "cleanup::nothing_outlives_a_killed_process", "--nocapture"])
            .env(ROLE, role)
            .env_remove("GEAR_TEST_AMQP_URL")
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("port=")?.1.parse::<u16>().ok())
            .expect("the child has a broker");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        child.kill().expect("it is killed");
        child.wait().expect("it ends");
        let gone = || TcpStream::connect(("127.0.0.1", port)).is_err();
        eventually(&format!("the broker goes ({role})"), gone).await;
    }
}

fn wait_to_be_killed(broker: &Broker) -> ! {
    println!("port={}", broker.port());
    loop {
        std::thread::park();
    }
}
