"""Gear's wire contract: exchanges, queues, and the properties of messages."""

import json
import re
import secrets
import time
import uuid

import pika

DAY_MS = 24 * 60 * 60 * 1000
REPLY_MS = 10 * 60 * 1000
# `CTRL`, for a reply to any instance, or `CTRL.host1:reply.ID`.
GEAR = re.compile(r"(?!amq)[A-Za-z0-9_-]+(\.[^:]+:reply\.[^:]+)?")


class Names:
    """The names of exchanges and queues. Those of a system other than the default have a prefix;
    keys never have."""

    def __init__(self, system=""):
        self.prefix = f"{system}/" if system else ""

    def __call__(self, name):
        return self.prefix + name

    def key(self, name):
        """The key of a queue of this system: its name without the prefix. None for any other."""
        return name[len(self.prefix) :] if name.startswith(self.prefix) else None


def connect(url):
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = 10
    parameters.blocked_connection_timeout = 30
    return pika.BlockingConnection(parameters)


def declare_exchanges(channel, names):
    """What every program may declare, because all of it is the same everywhere."""
    for exchange, kind, internal in [
        ("gear", "topic", False),
        ("gear.cast", "direct", True),
        ("gear.reply", "direct", False),
        ("gear.events", "topic", False),
        ("gear.dead", "direct", False),
    ]:
        channel.exchange_declare(names(exchange), kind, durable=True, internal=internal)
    # A wildcard lives in a binding; the exchange behind it compares group keys literally.
    channel.exchange_bind(names("gear.cast"), names("gear"), "*.*")


def declare_queue(channel, names, queue, bindings, expires=None):
    arguments = {"x-queue-type": "classic"}
    if expires is not None:
        arguments["x-expires"] = expires
    channel.queue_declare(names(queue), durable=True, arguments=arguments)
    for exchange, key in bindings:
        channel.queue_bind(names(queue), names(exchange), key)


def declare_service(channel, names, service, host):
    """The queue that all instances share, and the one of this instance."""
    instance = f"{service}.{host}"
    declare_queue(channel, names, service, [("gear", service), ("gear.reply", service)])
    bindings = [("gear", instance), ("gear.cast", f"{service}.*"), ("gear.cast", "*.*")]
    declare_queue(channel, names, instance, bindings, expires=DAY_MS)
    return service, instance


def declare_replies(channel, names, instance):
    """A queue for the answers to one start of a program. Its name on the broker is what `reply_to`
    says."""
    queue = f"{instance}:reply.{uuid.uuid4().hex}"
    declare_queue(channel, names, queue, [("gear.reply", queue)], expires=REPLY_MS)
    return names(queue)


def properties(kind, operation, sender, timeout=None, persistent=True, headers=(), **more):
    """The properties of a message of `kind`. `timeout` is in seconds."""
    headers = {"gear-kind": kind, **dict(headers)}
    if timeout is not None:
        more["expiration"] = str(int(timeout * 1000))
        headers["gear-deadline"] = int((time.time() + timeout) * 1000)
    return pika.BasicProperties(
        message_id=str(uuid7()),
        type=operation,
        content_type="application/json",
        timestamp=int(time.time()),
        app_id=sender,
        delivery_mode=2 if persistent else 1,
        headers=headers,
        **more,
    )


def answer(channel, names, request, sender, body, error=None):
    """Answers the sender of `request` (its properties): a reply echoes the correlation id."""
    destination = request.reply_to
    headers = {"gear-error": error} if error else {}
    message = properties(
        "reply",
        request.type,
        sender,
        persistent=False,
        headers=headers,
        correlation_id=request.correlation_id or request.message_id,
        expiration=request.expiration,
    )
    # A name of Gear's goes through the exchange for replies, which leads to reply queues and
    # services only. A queue of another program is reached by its name, through the default exchange.
    key = names.key(destination)
    if key is not None and GEAR.fullmatch(key):
        channel.basic_publish(names("gear.reply"), key, encode(body), message)
    else:
        channel.basic_publish("", destination, encode(body), message)


def uuid7():
    """A UUID of version 7: the time in milliseconds, and 74 random bits."""
    bits = int(time.time() * 1000) << 80 | 7 << 76 | secrets.randbits(12) << 64
    return uuid.UUID(int=bits | 2 << 62 | secrets.randbits(62))


def encode(body):
    return json.dumps(body).encode()


def decode(body):
    return json.loads(body) if body else None
