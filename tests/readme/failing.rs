//! What becomes of it when something fails.

use gear::memory::{BrokerFault, MemoryBroker};
use gear::{Caller, Context, Deduplicate, Fault, Node, Operation, Outcome, Service, Window};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SHOP: Service = Service::new("SHOP");
const BANK: Service = Service::new("BANK");
const ORDER: Operation<u64, u64> = Operation::new("order");
const PAY: Operation<u64, u64> = Operation::new("pay");
const MAIL: Operation<String, ()> = Operation::new("mail");

/// BANK answers whoever asked SHOP. To answer later: `caller.defer()`.
async fn order(_: Arc<()>, _: Context, cents: u64, caller: Caller<u64>) -> Result<Outcome, Fault> {
    match cents {
        0 => caller.reply(&0),
        _ => Ok(caller.forward(BANK, PAY, &cents).await?),
    }
}

async fn pay(balance: Arc<AtomicU64>, _: Context, cents: u64) -> Result<u64, Fault> {
    Ok(balance.fetch_add(cents, Ordering::SeqCst) + cents)
}

async fn mail(_: Arc<()>, cx: Context, to: String) -> Result<(), Fault> {
    if !to.contains('@') {
        return Err(Fault::new("address", "that is no address").permanent()); // to SHOP:dead
    }
    if cx.attempt() == 0 {
        return Err(Fault::new("busy", "the mail server is busy")); // again in a second
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn orders() -> Result<(), Box<dyn std::error::Error>> {
    let (broker, balance) = (MemoryBroker::new(), Arc::new(AtomicU64::new(0)));
    let shop = Node::builder(broker.connect(), SHOP.at("host1")?)
        .on_with_caller(ORDER, order)
        .on(MAIL, mail)
        .start()
        .await?;
    let bank = Node::builder(broker.connect(), BANK.at("host1")?)
        .layer(Deduplicate::new(Window::default())) // or an `Inbox` in your database
        .state(Arc::clone(&balance))
        .on(PAY, pay)
        .start()
        .await?;

    broker.inject(BrokerFault::Duplicate); // the order comes twice, and is handed on twice
    assert_eq!(bank.client().call(SHOP, ORDER, &100).await?, 100);
    bank.client().cast(SHOP, MAIL, &"ada@example.org".to_owned()).await?;
    bank.client().cast(SHOP, MAIL, &"ada".to_owned()).await?;
    broker.idle().await; // nothing more will happen: the delays have passed, in no time

    assert_eq!(balance.load(Ordering::SeqCst), 100); // paid once
    assert_eq!((shop.stats().retried, shop.stats().set_aside), (1, 1));
    let mut dead = bank.client().dead_letters(&SHOP).await?;
    let letter = dead.next().await.ok_or("there is one")?;
    assert_eq!(letter.reason(), "address: that is no address");
    Ok(())
}
