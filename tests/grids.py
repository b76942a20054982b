"""Grids for tests: sites that say back what they heard, and nodes that are offline or lose messages."""

import time
from pathlib import Path

from flwr.app import Error, Message
from flwr.clientapp import ClientApp

from fedmerge import transport
from server.exchange import Ask, Exchange
from server.inprocess import InProcessGrid
from server.parts import Way

NAMES = ("north", "south", "harbour")
WAY = Way(Path("/nowhere"))  # nothing in these tests is large enough to come in parts


def echo_app(behave=None):
    """A ClientApp whose sites say their name and send back what they got, after `behave(site, task)`."""
    app = ClientApp()

    def site(message):
        return transport.addressee(message.content)

    @app.query("describe")
    def describe(message, context):
        node = context.node_config["partition-id"]
        return Message(transport.pack({"site": site(message), "node": node}), reply_to=message)

    @app.train("echo")
    def echo(message, context):
        task, payload = transport.unpack(message.content, "server")
        error = behave(site(message), task) if behave else None
        if error:
            return Message(Error(code=2, reason=error), reply_to=message)
        payload.get("x", bytearray())
        return Message(transport.pack({**task, "by": site(message)}, payload), reply_to=message)

    return app


def exchange_with(app, workers=1, timeout_s=30.0):
    """An exchange that has called the roll of three sites."""
    exchange = Exchange(InProcessGrid(app, {}, len(NAMES), workers), timeout_s, WAY)
    exchange.roll_call(NAMES, {}, patience_s=1.0)
    return exchange


class Clock:
    """Seconds that go forward by themselves, a hundred times as fast as on the wall."""

    def __init__(self):
        self.began = time.monotonic()

    def __call__(self):
        """Seconds."""
        return 100 * (time.monotonic() - self.began)


class Fallible(InProcessGrid):
    """A Grid of named nodes that may be offline, and whose messages may come to nothing.

    `offline` holds the names of nodes that Flower does not list; `fate(site, kind, n)` says what becomes of the n-th
    message of a kind: None (it is answered), an error code, "lost", or seconds by which the answer is late.
    """

    def __init__(self, app, fate=lambda site, kind, n: None):
        super().__init__(app, {}, len(NAMES), 3, names=NAMES)
        self.offline, self.fate = set(), fate
        self.sent, self._due, self._errors = [], {}, {}

    def get_nodes(self):
        """Those that are not offline."""
        return [node for node in super().get_nodes() if node.name not in self.offline]

    def push_messages(self, messages):
        """As each message's fate has it."""
        ids = []
        for message in messages:
            site, kind = transport.addressee(message.content), message.metadata.message_type
            self.sent.append((site, kind))
            fate = "lost" if site in self.offline else self.fate(site, kind, self.sent.count((site, kind)))
            if fate is None or isinstance(fate, float):
                (name,) = super().push_messages([message])
                self._due[name] = time.monotonic() + (fate or 0.0)
            else:
                name = f"{site}-{len(self.sent)}"
                if fate != "lost":
                    self._errors[name] = self._error(message, name, fate)
            ids.append(name)
        return ids

    def pull_messages(self, message_ids):
        """The replies whose time has come."""
        ids = [name for name in message_ids if self._due.get(name, 0.0) <= time.monotonic()]
        errors = [self._errors.pop(name) for name in ids if name in self._errors]
        return [*errors, *super().pull_messages(ids)]

    @staticmethod
    def _error(message, name, code):
        message.metadata.__dict__["_message_id"] = name
        return Message(Error(code=code, reason="a reason"), reply_to=message)


def deployed(grid, wait_s=600.0, timeout_s=3600.0, **more):
    """An exchange with real sites whose hours are seconds."""
    way = Way(Path("/nowhere"), hold_s=5.0)
    return Exchange(grid, timeout_s, way, wait_s=wait_s, deployed=True, clock=Clock(), **more)


def asking(heard, *sites, kind="train.echo"):
    """A conversation a site, of one question."""

    def ask(site):
        answer = yield Ask(site, kind, {"k": 1}, {"x": b"1"})
        heard.append((site, answer.task["by"]))

    return [ask(site) for site in sites]
