"""Serves PYSRV on Gear's wire contract, until stdin ends.

    echo    answers with the body of the request
    fail    answers with a failure
    noted   answers with the bodies of all `note` so far
    note    remembers its body
"""

import argparse
import json
import sys
import threading

import wire


class Service:
    def __init__(self, arguments):
        self.names = wire.Names(arguments.system)
        self.connection = wire.connect(arguments.url)
        self.channel = self.connection.channel()
        self.noted = []
        wire.declare_exchanges(self.channel, self.names)
        shared, self.instance = wire.declare_service(
            self.channel, self.names, arguments.service, arguments.host
        )
        self.channel.basic_qos(prefetch_count=50)
        self.channel.basic_consume(self.names(shared), self.on_message)
        # One instance name, one program: a second consumer would be refused.
        self.channel.basic_consume(self.names(self.instance), self.on_message, exclusive=True)

    def run(self):
        say(event="ready", instance=self.instance)
        threading.Thread(target=self.stop_at_end_of_input, daemon=True).start()
        self.channel.start_consuming()
        self.connection.close()

    def stop_at_end_of_input(self):
        sys.stdin.read()
        self.connection.add_callback_threadsafe(self.channel.stop_consuming)

    def on_message(self, channel, method, request, body):
        kind = (request.headers or {}).get("gear-kind")
        say(
            event="call" if request.reply_to else "cast",
            key=method.routing_key,
            operation=request.type,
            kind=kind,
            sender=request.app_id,
            redelivered=method.redelivered,
        )
        if kind != "reply":
            result, error = self.handle(request.type, body)
            if request.reply_to:
                wire.answer(channel, self.names, request, self.instance, result, error)
        # Last: a request whose answer is not sent comes again.
        channel.basic_ack(method.delivery_tag)

    def handle(self, operation, body):
        """The result and no error, or what failed and its code."""
        try:
            body = wire.decode(body)
        except ValueError:
            return failure("undecodable", "the body is not JSON")
        if operation == "echo":
            return body, None
        if operation == "note":
            self.noted.append(body)
            return None, None
        if operation == "noted":
            return self.noted, None
        if operation == "fail":
            return failure("too-bad", "it was asked to fail", details={"asked": body})
        return failure("unknown-operation", f"no operation {operation}")


def failure(code, message, retryable=False, details=None):
    body = {"code": code, "message": message, "retryable": retryable, "details": details}
    return body, code


def say(**words):
    print(json.dumps(words), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--system", default="")
    parser.add_argument("--service", default="PYSRV")
    parser.add_argument("--host", default="py1")
    Service(parser.parse_args()).run()


if __name__ == "__main__":
    main()
