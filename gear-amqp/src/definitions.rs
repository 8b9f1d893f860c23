//! What an operator declares: the topology, policies and permissions, as a file that RabbitMQ
//! imports.

use std::{fmt, time::Duration};

use gear_api::{
    EventGroup, Pattern, Service, Text,
    topology::{self, Declaration, ExchangeKind, QueueType},
};
use serde_json::{Map, Value, json};

use crate::{AmqpError, link::declare::DELIVERY_LIMIT, wire::Names};

/// A definitions file for RabbitMQ (<https://www.rabbitmq.com/docs/definitions>): what services
/// need, for `rabbitmqctl import_definitions` or the management's upload. With it services may
/// run with [`TopologyMode::Passive`](crate::TopologyMode::Passive) and users that can declare
/// nothing but what belongs to one instance. The delays after which what failed is
/// [tried again](gear_api::NodeBuilder::retries) are in it.
///
/// Users are not created: passwords do not belong into files. The permissions are granted to
/// users that exist.
///
/// ```
/// use gear_amqp::Definitions;
/// use gear_api::{Service, topology::QueueType};
///
/// let file = Definitions::new("shop", "")?
///     .queue_type(QueueType::Quorum)
///     .service(&Service::new("CTRL"), "ctrl-user")
///     .to_string();
/// assert!(file.contains("\"CTRL:dead\""));
/// # Ok::<(), gear_amqp::AmqpError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "print it"]
pub struct Definitions {
    vhost: Text,
    names: Names,
    queue_type: QueueType,
    max_dead: u32,
    services: Vec<(Service, Text)>,
    groups: Vec<(EventGroup, Vec<Pattern>)>,
    delays: Vec<Duration>,
}

impl Definitions {
    /// Definitions for the virtual host `vhost` and the system `system` (empty: none). The path of the URL
    /// `amqp://broker/shop` stands for the virtual host `shop`; without a path it is `/`.
    ///
    /// # Errors
    ///
    /// [`AmqpError::InvalidOption`] if `system` is no name of a system.
    pub fn new(vhost: impl Into<Text>, system: &str) -> Result<Self, AmqpError> {
        let _checked = crate::AmqpBuilder::new("amqp://localhost")?.system(system)?;
        Ok(Self {
            vhost: vhost.into(),
            names: Names::new(system),
            queue_type: QueueType::Classic,
            max_dead: 100_000,
            services: Vec::new(),
            groups: Vec::new(),
            delays: topology::RETRY_STEPS.to_vec(),
        })
    }

    /// How the queues that instances share store their messages.
    pub fn queue_type(mut self, queue_type: QueueType) -> Self {
        self.queue_type = queue_type;
        self
    }

    /// So many messages that were set aside are kept for each service; the oldest go first.
    /// 100,000 by default.
    pub fn max_dead(mut self, messages: u32) -> Self {
        self.max_dead = messages;
        self
    }

    /// A service with its shared queue, and what its user may do: talk to everybody, and declare
    /// what belongs to its instances.
    pub fn service(mut self, service: &Service, user: impl Into<Text>) -> Self {
        self.services.push((service.clone(), user.into()));
        self
    }

    /// An event group with what it listens to.
    pub fn events(mut self, group: EventGroup, patterns: Vec<Pattern>) -> Self {
        self.groups.push((group, patterns));
        self
    }

    /// For how long else services may hold messages back ([`Route::Delayed`](gear_api::Route::Delayed)),
    /// between 1 ms and 49 days: each is an exchange and a queue, which their users may not declare.
    pub fn delay(mut self, delay: Duration) -> Self {
        if !self.delays.contains(&delay) {
            self.delays.push(delay);
        }
        self
    }

    fn queue(&self, declaration: &Declaration, queues: &mut Vec<Value>, bindings: &mut Vec<Value>) {
        let name = self.names.on_broker(&declaration.queue.name);
        let queue_type = match self.queue_type {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
        };
        let mut arguments = json!({ "x-queue-type": queue_type });
        if let Some(ttl) = declaration.queue.message_ttl {
            arguments["x-message-ttl"] = json!(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        }
        if let Some(exchange) = &declaration.queue.dead_letter_exchange {
            arguments["x-dead-letter-exchange"] = json!(&**exchange);
        }
        queues.push(json!({
            "vhost": &*self.vhost, "name": name, "durable": true, "auto_delete": false,
            "arguments": arguments,
        }));
        for binding in &declaration.bindings {
            bindings.push(json!({
                "vhost": &*self.vhost,
                "source": self.names.on_broker(&binding.exchange),
                "destination": name, "destination_type": "queue",
                "routing_key": &*binding.key, "arguments": {},
            }));
        }
    }

    fn policy(&self, name: &str, pattern: &str, definition: &Value) -> Value {
        let prefix = escape(&self.names.on_broker("x"));
        let prefix = prefix.strip_suffix('x').unwrap_or_default();
        json!({
            "vhost": &*self.vhost, "name": self.names.on_broker(name), "priority": 0,
            "pattern": format!("^{prefix}{pattern}$"), "apply-to": "queues",
            "definition": definition,
        })
    }

    /// The document.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let vhost = &*self.vhost;
        let delays: Vec<_> = self.delays.iter().map(|delay| topology::delay(*delay)).collect();
        let exchanges: Vec<Value> = topology::exchanges()
            .iter()
            .chain(delays.iter().map(|(exchange, _)| exchange))
            .map(|exchange| {
                let kind = match exchange.kind {
                    ExchangeKind::Topic => "topic",
                    ExchangeKind::Direct => "direct",
                    ExchangeKind::Fanout => "fanout",
                };
                json!({
                    "vhost": vhost, "name": self.names.on_broker(&exchange.name), "type": kind,
                    "durable": true, "auto_delete": false, "internal": exchange.internal,
                    "arguments": {},
                })
            })
            .collect();
        let (source, destination, key) = topology::CAST_BINDING;
        let mut bindings = vec![json!({
            "vhost": vhost, "source": self.names.on_broker(&source),
            "destination": self.names.on_broker(&destination), "destination_type": "exchange",
            "routing_key": &*key, "arguments": {},
        })];
        let mut queues = Vec::new();
        let mut permissions = Map::new();
        for (service, user) in &self.services {
            for declaration in [topology::service(service), topology::dead(service)] {
                self.queue(&declaration, &mut queues, &mut bindings);
            }
            let entry = permissions.entry(user.to_string()).or_insert_with(|| json!([]));
            if let Some(names) = entry.as_array_mut() {
                names.push(json!(escape(&self.names.on_broker(service.as_str()))));
            }
        }
        for (group, patterns) in &self.groups {
            self.queue(&topology::events(group, patterns), &mut queues, &mut bindings);
        }
        for (_, declaration) in &delays {
            self.queue(declaration, &mut queues, &mut bindings);
        }
        let gear = escape(&self.names.on_broker("gear"));
        let permissions: Vec<Value> = permissions
            .iter()
            .map(|(user, services)| {
                let services: Vec<&str> =
                    services.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let services = services.join("|");
                json!({
                    "vhost": vhost, "user": user,
                    // Its instances' queues, and taps.
                    "configure": format!("^(({services})(\\..*|:.*)?|amq\\.gen.*)$"),
                    "write": format!(
                        "^({gear}([.:].*)?|({services})(\\..*|:.*)?|amq\\.default|amq\\.gen.*)$"
                    ),
                    "read": format!("^({gear}(\\..*)?|({services})(\\..*|:.*)?|amq\\.gen.*)$"),
                })
            })
            .collect();
        let word = "[A-Za-z0-9_-]+";
        let mut dead = json!({ "max-length": self.max_dead, "overflow": "drop-head" });
        if self.queue_type == QueueType::Quorum {
            // Whoever looks at them gives them back; and one queue has one policy.
            dead["delivery-limit"] = json!(DELIVERY_LIMIT);
        }
        let mut policies = vec![self.policy("gear-dead", &format!("{word}:dead"), &dead)];
        if self.queue_type == QueueType::Quorum {
            policies.push(self.policy(
                "gear-no-delivery-limit",
                &format!("{word}(:events\\..*)?"),
                &json!({ "delivery-limit": DELIVERY_LIMIT }),
            ));
        }
        json!({
            "vhosts": [{ "name": vhost }],
            "exchanges": exchanges, "queues": queues, "bindings": bindings,
            "policies": policies, "permissions": permissions,
        })
    }
}

/// Pretty-printed JSON.
impl fmt::Display for Definitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.to_json())
    }
}

/// A name as a regular expression for exactly it.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        if !character.is_ascii_alphanumeric() && !"_-/".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_all_that_a_service_needs() {
        let file = Definitions::new("/", "acme")
            .unwrap()
            .queue_type(QueueType::Quorum)
            .service(&Service::new("CTRL"), "u")
            .service(&Service::new("WEB"), "u")
            .events(
                EventGroup::new(Service::new("CTRL"), "audit").unwrap(),
                vec!["order.#".parse().unwrap()],
            )
            .to_json();
        let names = |of: &str| -> Vec<String> {
            let list = file[of].as_array().unwrap();
            list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
        };
        let (held, others): (Vec<_>, Vec<_>) =
            names("queues").into_iter().partition(|name| name.starts_with("acme/gear:retry."));
        assert_eq!(
            others,
            ["acme/CTRL", "acme/CTRL:dead", "acme/WEB", "acme/WEB:dead", "acme/CTRL:events.audit"]
        );
        assert_eq!((held.len(), names("exchanges").len()), (6, 5 + 6));
        assert!(held.contains(&"acme/gear:retry.3600000".to_owned()), "{held:?}");
        assert_eq!(names("policies"), ["acme/gear-dead", "acme/gear-no-delivery-limit"]);
        assert_eq!(file["policies"][0]["pattern"], "^acme/[A-Za-z0-9_-]+:dead$");
        for policy in file["policies"].as_array().unwrap() {
            assert_eq!(policy["definition"]["delivery-limit"], DELIVERY_LIMIT, "{policy}");
        }
        let permissions = file["permissions"].as_array().unwrap();
        assert_eq!(permissions.len(), 1);
        assert_eq!(permissions[0]["configure"], "^((acme/CTRL|acme/WEB)(\\..*|:.*)?|amq\\.gen.*)$");
    }
}
