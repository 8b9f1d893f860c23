//! Prints a definitions file for RabbitMQ:
//!
//! ```text
//! cargo run -p gear-amqp --example definitions -- VHOST SYSTEM USER SERVICE...
//! cargo run -p gear-amqp --example definitions -- / "" app CTRL REPO WEB > definitions.json
//! rabbitmqctl import_definitions definitions.json
//! ```

use gear_amqp::Definitions;
use gear_api::{Service, topology::QueueType};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(vhost), Some(system), Some(user)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("definitions VHOST SYSTEM USER SERVICE...".into());
    };
    let mut file = Definitions::new(vhost, &system)?.queue_type(QueueType::Quorum);
    for service in arguments {
        file = file.service(&service.parse::<Service>()?, user.as_str());
    }
    println!("{file}");
    Ok(())
}
