//! The example over RabbitMQ, each instance a process of its own, while something goes wrong.

use std::{path::PathBuf, process::Stdio, time::Duration};

use gear_test_amqp::Broker;
use tokio::process::Command;

use crate::{System, Test};

/// The example as a program; `cargo test --workspace --all-features` has built it already.
async fn program() -> Result<PathBuf, std::io::Error> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--workspace", "--all-features", "--example", "code_search"];
    let built = Command::new(cargo).args(arguments).args(["--locked", "--quiet"]).status().await?;
    assert!(built.success(), "the example builds");
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/test");
    Ok(profile.join("examples/code_search"))
}

/// Seven processes index and search a folder; in the middle something is done.
async fn seven(system: &System, at: &str, what: &str) -> Result<String, std::io::Error> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let url = format!("{}?system={}&heartbeat=5", system.url, system.name);
    let running = Command::new("bash")
        .arg(root.join("examples/code_search/processes.sh"))
        .args([&url, "--at", at, "--do", what])
        .arg(root.join("gear-api"))
        .env("CODE_SEARCH", program().await?)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(180), running).await??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_processes_agree_with_a_plain_scan() -> Test {
    seven(&System::new().await, "index", "nothing").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_do_when_one_is_killed_in_the_middle() -> Test {
    seven(&System::new().await, "index", "kill").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_do_when_the_broker_is_restarted_in_the_middle() -> Test {
    let broker = Broker::private().await;
    let system = System::on(&broker);
    let folder = std::env::temp_dir().join(&system.name);
    std::fs::create_dir(&folder)?;
    let (now, done) = (folder.join("now"), folder.join("done"));
    let what = format!(
        "touch '{}'; while [ ! -e '{}' ]; do sleep 0.05; done",
        now.display(),
        done.display()
    );
    let restarting = async {
        while !now.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        broker.restart().await;
        std::fs::write(&done, "")
    };
    let (text, restarted) = tokio::join!(seven(&system, "index", &what), restarting);
    std::fs::remove_dir_all(&folder)?;
    text?;
    restarted?;
    Ok(())
}
