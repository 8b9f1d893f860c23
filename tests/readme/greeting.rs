//! The shortest service, and its test.

use gear::{Context, Fault, Node, Operation, Service, memory::MemoryBroker};
use std::{sync::Arc, time::Duration};

const GREETER: Service = Service::new("GREETER"); // names are checked at compile time
const GREET: Operation<String, String> = Operation::new("greet"); // shared by both ends

async fn greet(_state: Arc<()>, _cx: Context, name: String) -> Result<String, Fault> {
    Ok(format!("Hello, {name}!"))
}

#[tokio::test(start_paused = true)] // virtual time: timeouts take no time
async fn greets() -> Result<(), Box<dyn std::error::Error>> {
    let broker = MemoryBroker::new();
    let greeter =
        Node::builder(broker.connect(), GREETER.at("host1")?).on(GREET, greet).start().await?;
    let web = Node::builder(broker.connect(), "WEB.host1".parse()?).start().await?;

    let call = web.client().call(GREETER, GREET, &"world".to_owned());
    assert_eq!(call.timeout(Duration::from_secs(2)).await?, "Hello, world!");

    assert!(greeter.shutdown(Duration::from_secs(5)).await.is_clean());
    Ok(())
}
