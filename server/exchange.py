"""Asking the sites: many conversations at once over one Grid.

A conversation is a generator: it yields an `Ask` and is resumed with the site's `Answer`, so a campaign reads from
top to bottom while several of its parts are under way. What stands in the way of an answer is thrown into it: that
the site is absent, has failed, or has sent what was not agreed.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flwr.serverapp import Grid

from fedmerge import parts
from fedmerge.errors import Absent, CampaignStopped, ConfigError, FedmergeError, Refused
from fedmerge.transport import Letter
from server import parts as ways
from server import spans
from server.asks import Answer, Ask, Conversation, Flow, Part, Payload, Send
from server.parts import Way
from server.post import Post
from server.presence import Presence
from server.progress import Progress
from server.record import Witness

__all__ = ["Answer", "Ask", "Conversation", "Exchange", "Part"]


@dataclass(eq=False)
class Under:
    """A conversation under way, and what it has asked.

    Attributes:
        conversation: it.
        ask: what it waits for.
        flow: the messages of the ask.
        taken: when it was asked for, in seconds since 1970; then when the first message was seen to have left.
        down: bytes of its task and payloads.
        begun: whether one of them has left.
        spent: seconds since then in which the site was there.
    """

    conversation: Conversation
    ask: Ask
    flow: Flow
    taken: float
    down: int
    begun: bool = False
    spent: float = 0.0


class Exchange:
    """The sites by name, and the traffic with them.

    Args:
        grid: Flower's.
        timeout_s: how long a site that is there may take for one ask.
        wait_s: how long one that is not there is waited for; as long as `timeout_s` unless given.
        deployed: whether the sites are real: they may go and come, and each gets one message at a time.
        way: how large payloads and long work travel.
        witness: writes into the server's audit log.
        progress: is told where each site is.
        clock: seconds that only go forward.
        wall: the time of day in seconds since 1970.

    Attributes:
        timeline: when each site was at what (`server.spans`).
    """

    def __init__(
        self,
        grid: Grid,
        timeout_s: float,
        way: Way,
        *,
        wait_s: float | None = None,
        deployed: bool = False,
        witness: Witness | None = None,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.grid, self.timeout_s, self.way = grid, timeout_s, way
        self.wait_s = timeout_s if wait_s is None else wait_s
        self.witness, self.progress, self.clock = witness or Witness(), progress or Progress(), clock
        self.wall = wall
        self.timeline: list[dict[str, Any]] = []
        self.presence = Presence(grid, deployed)
        self.post = Post(grid, self.presence, way.hold_s, timeout_s + self.wait_s)
        self.sites: tuple[str, ...] = ()
        self._under: list[Under] = []
        self._failures: list[FedmergeError] = []

    @property
    def traffic(self) -> list[dict[str, Any]]:
        """Bytes and messages by sender, receiver and purpose."""
        return self.post.traffic

    def roll_call(
        self, expected: Iterable[str], task: dict[str, Any], patience_s: float, dispensable: Iterable[str] = ()
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Find the sites among Flower's nodes and ask each for its description.

        A registered node has its site's name, and a deployment waits for it. The nodes of a simulation have none and
        play the sites in turn, so there may be fewer of them: `flwr run` makes two unless it is told otherwise.

        Args:
            expected: the sites.
            task: what they are asked.
            patience_s: how long to wait for the nodes of a simulation.
            dispensable: sites that the campaign goes on without where they do not come.

        Returns:
            site -> the description as the site sent it, and (site -> why) of those that did not come.

        Raises:
            ConfigError: no node of a simulation came in time, or a site has none.
            Absent: a site did not come.
            Refused: who answered is not the site that was asked.
        """
        self.sites = tuple(expected)
        if not self.presence.deployed:
            self.presence.nodes = _deal(self.grid, self.sites, patience_s)
        told: dict[str, Any] = {}
        absent: dict[str, str] = {}
        excused = set(dispensable)

        def ask(name: str) -> Conversation:
            try:
                answer = yield Ask(name, "query.describe", task, what="roll call")
                _check_name(answer.task, name)
            except (CampaignStopped, Refused) as error:
                if name not in excused:
                    raise
                absent[name] = str(error)
            else:
                told[name] = answer.task

        self.converse([ask(name) for name in self.sites])
        return {name: told[name] for name in self.sites if name in told}, absent

    def converse(self, conversations: Iterable[Conversation], at_once: int = 64) -> None:
        """Hold the conversations, up to `at_once` of them at the same time, in the order given.

        Raises:
            FedmergeError: what was thrown into a conversation and not caught there. The others are heard out first,
                so that nothing that is under way is lost; but an absent site is not waited for any more.
        """
        waiting = list(conversations)
        self._failures = []
        last, pause = self.clock(), 0.001
        while waiting or self._under:
            while waiting and len(self._under) < at_once and not self._failures:
                self._resume(waiting.pop(0), None)
            if self._failures:
                waiting.clear()
            now = self.clock()
            for site in self.presence.look(self.sites, now):
                self.post.back(site, now)
            busy = self.post.dispatch(lambda: self.witness.head, now)
            for send, found in self.post.collect(now):
                busy = True
                self._go_on(send, found)
            self._judge(now, now - last)
            self._tell()
            last = now
            pause = 0.001 if busy else min(pause * 1.5, getattr(self.grid, "poll_s", 1.0))
            if self._under and not busy:
                time.sleep(pause)
        self._tell(at_last=True)
        if self._failures:
            raise self._failures[0]

    def _resume(self, conversation: Conversation, what: Answer | FedmergeError | None) -> None:
        """Go on with a conversation, and take what it asks next."""
        try:
            if isinstance(what, FedmergeError):
                ask = conversation.throw(what)
            else:
                ask = next(conversation) if what is None else conversation.send(what)
        except StopIteration:
            return
        except FedmergeError as error:
            self._failures.append(error)
            return
        self._write_down(ask, "task", ask.task, ask.payload)
        flow = ways.ask(ask, self.way)
        self._under.append(Under(conversation, ask, flow, self.wall(), spans.size(ask.task, ask.payload)))
        for send in next(flow):
            self.post.take(send)

    def _go_on(self, send: Send, found: Letter | FedmergeError) -> None:
        """The next messages of an ask, or the end of it."""
        under = next((under for under in self._under if under.ask is send.ask), None)
        if under is None:  # it ended with another one of its messages
            return
        if isinstance(found, FedmergeError):
            return self._end(under, found)
        ask = under.ask
        self.progress.tell(ask.site, found.note.get("progress"))
        try:
            for more in under.flow.send((send, found)):
                self.post.take(more)
        except FedmergeError as error:
            self.witness.refused(ask.site, ask.what, str(error))
            self._end(under, error)
        except StopIteration as end:
            answer: Answer = end.value
            self._write_down(ask, "answer", answer.task, answer.payload, found.head)
            self._end(under, answer)
        return None

    def _end(self, under: Under, what: Answer | FedmergeError) -> None:
        up = None if isinstance(what, FedmergeError) else spans.size(what.task, what.payload)
        spans.add(self.timeline, under.ask, (under.taken, self.wall()), under.down, up)
        self.post.drop(under.ask)
        self._under.remove(under)
        under.flow.close()
        self._resume(under.conversation, what)

    def _judge(self, now: float, elapsed: float) -> None:
        """Who has been away, or at work, for too long?"""
        self.presence.name_the_absent(self.sites, now)
        for under in list(self._under):
            ask, gap = under.ask, self.presence.gap(under.ask.site)
            if gap is not None:
                if self._failures or (gap.named and now - gap.since > self.wait_s):
                    words = f"{ask.site} has not been there for {now - gap.since:.0f} s: {gap.reason}"
                    self._end(under, Absent(words))
            elif under.begun or self.post.out(ask):  # a site's time for an ask passes while it is there
                under.taken = under.taken if under.begun else self.wall()
                under.begun, under.spent = True, under.spent + elapsed
                if under.spent > self.timeout_s:
                    words = f"{ask.site} did not answer {ask.kind} within {self.timeout_s:.0f} s"
                    self._end(under, Absent(words))

    def _tell(self, *, at_last: bool = False) -> None:
        asked: dict[str, str] = {}
        for under in self._under:
            asked.setdefault(under.ask.site, under.ask.kind)

        def begun() -> list[dict[str, Any]]:
            return [spans.begun(one.ask, one.taken, one.down) for one in self._under if one.begun]

        self.progress.write(
            self.sites, self.presence, asked, self.traffic, at_last=at_last, timeline=self.timeline, under=begun
        )

    def _write_down(self, ask: Ask, word: str, task: dict[str, Any], payload: Payload, head: str = "") -> None:
        """The lines of an ask, or of an answer, in the audit log."""
        if not self.witness.writes:
            return
        for what, data in {word: json.dumps(task).encode(), **payload}.items():
            size, digest = parts.length(data), f"sha256:{parts.digest(data)}"
            if word == "task":
                self.witness.sent(ask.site, what, size, digest, ask.kind)
            else:
                self.witness.came(ask.site, what, size, digest, ask.kind, head)


def _check_name(told: dict[str, Any], name: str) -> None:
    if told.get("site") != name:
        raise Refused(f"{name}: expected a description with this name, got {told.get('site')!r:.80}")


def _deal(grid: Grid, expected: tuple[str, ...], patience_s: float) -> dict[str, int]:
    """The nodes of a simulation by site."""
    end = time.monotonic() + patience_s
    while len(nodes := list(grid.get_nodes())) < len(expected) and time.monotonic() < end:
        time.sleep(0.5)
    named = {node.name: node.node_id for node in nodes if node.name}
    found = named or ({name: nodes[i % len(nodes)].node_id for i, name in enumerate(expected)} if nodes else {})
    for name in expected:
        if name not in found:
            raise ConfigError(f"site '{name}' is not there; Flower knows {', '.join(found) or 'no node'}")
    return found
