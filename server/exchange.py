"""Asking the sites: many conversations at once over one Grid, late replies accepted, every byte counted.

A conversation is a generator: it yields an `Ask` and is resumed with the site's `Answer`, so a campaign reads from
top to bottom while several of its parts are under way.
"""

import logging
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedmerge import transport
from fedmerge.errors import CampaignStopped, ConfigError, FedmergeError, Refused

log = logging.getLogger("fedmerge")


@dataclass(frozen=True)
class Ask:
    """A task for a site: `kind` is Flower's message type, `what` the word for the traffic table."""

    site: str
    kind: str
    task: dict[str, Any]
    payload: transport.Payload = field(default_factory=dict)
    what: str = "task"


@dataclass(frozen=True)
class Answer:
    """What the site answered."""

    task: dict[str, Any]
    payload: transport.Payload

    def need(self, name: str, site: str) -> bytes:
        """A payload that has to be there.

        Raises:
            Refused: it is not.
        """
        if name not in self.payload:
            raise Refused(f"{site}: expected a {name} in the answer, got {sorted(self.payload) or 'nothing'}")
        return self.payload[name]


Conversation = Generator[Ask, Answer, None]
Part = Generator[Ask, Answer, dict[str, Any]]  # a piece of a conversation, with a finished phase as its value


class Exchange:
    """The sites by name, and the traffic with them."""

    def __init__(self, grid: Grid, timeout_s: float) -> None:
        self.grid = grid
        self.timeout_s = timeout_s
        self.nodes: dict[str, int] = {}
        self.traffic: list[dict[str, Any]] = []

    def roll_call(self, expected: Iterable[str], task: dict[str, Any], patience_s: float) -> dict[str, Any]:
        """Find the sites among Flower's nodes and ask each for its description.

        A registered node has its site's name. The nodes of a simulation have none and play the sites in turn, so
        there may be fewer of them: `flwr run` makes two unless it is told otherwise.

        Returns:
            site -> the description as the site sent it.

        Raises:
            ConfigError: no node came in time, or a site has none.
            Refused: who answered is not the site that was asked.
        """
        expected = tuple(expected)
        end = time.monotonic() + patience_s
        while len(nodes := list(self.grid.get_nodes())) < len(expected) and time.monotonic() < end:
            time.sleep(0.5)
        named = {node.name: node.node_id for node in nodes if node.name}
        dealt = {name: nodes[i % len(nodes)].node_id for i, name in enumerate(expected)} if nodes else {}
        self.nodes = named or dealt
        for name in expected:
            if name not in self.nodes:
                raise ConfigError(f"site '{name}' is not there; Flower knows {', '.join(self.nodes) or 'no node'}")
        told: dict[str, Any] = {}

        def ask(name: str) -> Conversation:
            answer = yield Ask(name, "query.describe", task, what="roll call")
            if answer.task.get("site") != name:
                raise Refused(f"{name}: expected a description with this name, got {answer.task.get('site')!r}")
            told[name] = answer.task

        self.converse([ask(name) for name in expected])
        return {name: told[name] for name in expected}

    def converse(self, conversations: Iterable[Conversation], at_once: int = 64) -> None:
        """Hold the conversations, up to `at_once` of them at the same time, in the order given.

        Raises:
            CampaignStopped: a site failed or was silent for too long; the others are heard out first, so that nothing
                that is under way is lost.
        """
        waiting = list(conversations)
        open_: dict[str, tuple[Conversation, Ask, float]] = {}
        failures: list[FedmergeError] = []
        pause = 0.001
        while waiting or open_:
            while waiting and len(open_) < at_once and not failures:
                self._go_on(waiting.pop(0), None, open_, failures)
            if failures:
                waiting.clear()
            replies = list(self.grid.pull_messages(list(open_))) if open_ else []
            for reply in replies:
                conversation, ask, _ = open_.pop(reply.metadata.reply_to_message_id)
                answer = self._answer(ask, reply, failures)
                if answer is not None:
                    self._go_on(conversation, answer, open_, failures)
            pause = 0.001 if replies else min(pause * 1.5, getattr(self.grid, "poll_s", 1.0))
            for name, (_, ask, since) in list(open_.items()):
                if time.monotonic() - since > self.timeout_s:
                    failures.append(
                        CampaignStopped(f"{ask.site} did not answer {ask.kind} within {self.timeout_s:.0f} s")
                    )
                    del open_[name]
            if open_ and not replies:
                time.sleep(pause)
        if failures:
            raise failures[0]

    def _go_on(
        self,
        conversation: Conversation,
        answer: Answer | None,
        open_: dict[str, tuple[Conversation, Ask, float]],
        failures: list[FedmergeError],
    ) -> None:
        """Resume a conversation and send what it asks next."""
        try:
            ask = next(conversation) if answer is None else conversation.send(answer)
        except StopIteration:
            return
        except FedmergeError as error:
            failures.append(error)
            return
        content = transport.pack(ask.task, ask.payload, ask.site)
        message = Message(content, self.nodes[ask.site], ask.kind, ttl=self.timeout_s)
        self._count("server", ask.site, ask.what, transport.size(content))
        (name,) = self.grid.push_messages([message])
        open_[name] = (conversation, ask, time.monotonic())

    def _answer(self, ask: Ask, reply: Message, failures: list[FedmergeError]) -> Answer | None:
        """The reply's content, or a failure that names the site."""
        if reply.has_error():
            failures.append(CampaignStopped(f"{ask.site} failed in {ask.kind}: {reply.error.reason}"))
            return None
        try:
            task, payload = transport.unpack(reply.content, ask.site)
        except FedmergeError as error:
            failures.append(error)
            return None
        self._count(ask.site, "server", ask.what, transport.size(reply.content))
        return Answer(task, payload)

    def _count(self, sender: str, receiver: str, what: str, size: int) -> None:
        """Add to the traffic table; equal lines are one line with their sum and number."""
        for line in self.traffic:
            if (line["from"], line["to"], line["what"]) == (sender, receiver, what):
                line["bytes"] += size
                line["messages"] += 1
                return
        self.traffic.append({"from": sender, "to": receiver, "what": what, "bytes": size, "messages": 1})
