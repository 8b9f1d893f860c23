"""Calls Gear's services, or tells them something, on the wire contract alone.

Writes one JSON object:
    {"outcome": "reply", "body": …}                 a call was answered
    {"outcome": "failure", "code": …, "body": …}    it was answered with a failure
    {"outcome": "timeout"}                          it was not answered in time
    {"outcome": "confirmed"}                        a cast is in every queue that it was meant for
    {"outcome": "not routed"}                       there is no such service or instance
"""

import argparse
import json
import uuid

import pika.exceptions

import wire

DIRECT = "amq.rabbitmq.reply-to"


class Client:
    def __init__(self, arguments):
        self.arguments = arguments
        self.names = wire.Names(arguments.system)
        self.connection = wire.connect(arguments.url)
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        wire.declare_exchanges(self.channel, self.names)
        self.me = "PYCLI." + arguments.host
        self.correlation_id = None
        self.reply = None

    def cast(self, key, operation, body):
        return self.publish(key, body, wire.properties("cast", operation, self.me))

    def call(self, key, operation, body):
        reply_to = self.reply_queue()
        correlation_id = uuid.uuid4().hex
        timeout = self.arguments.timeout
        request = wire.properties(
            "call",
            operation,
            self.me,
            timeout=timeout,
            reply_to=reply_to,
            correlation_id=correlation_id,
        )
        if self.arguments.bare:
            # All that a program may know of Gear: where to answer, and to what.
            request = pika.BasicProperties(
                type=operation, reply_to=reply_to, correlation_id=correlation_id
            )
        self.correlation_id = correlation_id
        sent = self.publish(key, body, request)
        if sent["outcome"] != "confirmed":
            return sent
        self.connection.call_later(timeout, self.channel.stop_consuming)
        self.channel.start_consuming()
        return self.reply or {"outcome": "timeout"}

    def reply_queue(self):
        """Consumes where the answer will come, and returns what to put into `reply_to`."""
        how = self.arguments.replies
        if how == "gear":
            reply_to = queue = wire.declare_replies(self.channel, self.names, self.me)
        elif how == "exclusive":
            declared = self.channel.queue_declare("", exclusive=True)
            reply_to = queue = declared.method.queue
        else:
            reply_to = queue = DIRECT
        self.channel.basic_consume(queue, self.on_reply, auto_ack=True)
        return reply_to

    def on_reply(self, channel, _method, properties, body):
        if properties.correlation_id != self.correlation_id:
            return
        code = (properties.headers or {}).get("gear-error")
        self.reply = {"outcome": "reply", "body": wire.decode(body), "sender": properties.app_id}
        if code is not None:
            self.reply.update(outcome="failure", code=code)
        channel.stop_consuming()

    def publish(self, key, body, properties):
        try:
            self.channel.basic_publish(
                self.names("gear"), key, wire.encode(body), properties, mandatory=True
            )
        except pika.exceptions.UnroutableError:
            return {"outcome": "not routed"}
        return {"outcome": "confirmed"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--system", default="")
    parser.add_argument("--host", default="py1")
    parser.add_argument("--timeout", type=float, default=10, help="seconds for a call")
    parser.add_argument("--replies", choices=["gear", "exclusive", "direct"], default="gear")
    parser.add_argument("--bare", action="store_true", help="send only what AMQP programs know")
    parser.add_argument("what", choices=["call", "cast"])
    parser.add_argument("key")
    parser.add_argument("operation")
    parser.add_argument("body", type=json.loads)
    arguments = parser.parse_args()
    client = Client(arguments)
    outcome = getattr(client, arguments.what)(arguments.key, arguments.operation, arguments.body)
    client.connection.close()
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
