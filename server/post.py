"""Messages on their way: one at a time to a real site, sent again where they came to nothing, late replies accepted.

Every task is named by what goes into it, so a site that gets one twice does it once. That is why a message may be sent
again whenever there is doubt.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedmerge import transport
from fedmerge.errors import CampaignStopped, FedmergeError
from fedmerge.transport import Letter
from server.asks import Ask, Send
from server.presence import NAMED_AFTER_S, Presence

log = logging.getLogger("fedmerge")

SILENCE_S = 75.0  # how much longer than it may keep a message a node that is there may be silent
SLOWEST_BYTES_S = 125_000.0  # of a link: a part may travel for as long as it takes at 1 Mbit/s
SILENT = "its node is connected, and nothing answers"
PAUSES_S = (1.0, 5.0, 15.0, 30.0)  # before a message that came to nothing is sent again
UNDELIVERED = 5
TRANSIENT = {
    3: "its reply could not be read whole",
    4: "its reply came too late",
    UNDELIVERED: "its node is not connected",
    8: "the program that took the message died",
}
"""Flower's error codes that say nothing of the task."""


@dataclass
class Ticket:
    """A message and its fate.

    Attributes:
        send: the message.
        ids: Flower's names of it, one for each time that it was sent: any of them may be replied to.
        sent: when it left for the last time; None: it has not yet.
        due: when it has to be sent; None: it is out.
        tries: how often it came to nothing.
    """

    send: Send
    ids: list[str] = field(default_factory=list)
    sent: float | None = None
    due: float | None = 0.0
    tries: int = 0


class Post:
    """The messages that are out, and those that wait for their turn.

    Args:
        grid: Flower's.
        presence: who is there.
        hold_s: how long a site may keep a message; None in a simulation, whose nodes neither go nor come.
        ttl_s: how long Flower keeps a message.
    """

    def __init__(self, grid: Grid, presence: Presence, hold_s: float | None, ttl_s: float) -> None:
        self.grid, self.presence, self.hold_s, self.ttl_s = grid, presence, hold_s, ttl_s
        self.tickets: list[Ticket] = []
        self.queues: dict[str, list[Ask]] = {}
        self.traffic: list[dict[str, Any]] = []

    def take(self, send: Send) -> None:
        """Put a message at the end of its site's queue; those of an ask that has begun come before other asks."""
        queue = self.queues.setdefault(send.site, [])
        if not any(ask is send.ask for ask in queue):
            queue.append(send.ask)
        self.tickets.append(Ticket(send))

    def drop(self, ask: Ask) -> None:
        """Wait for an ask's messages no more; the next ask of its site has its turn."""
        self.tickets = [ticket for ticket in self.tickets if ticket.send.ask is not ask]
        self.queues[ask.site] = [other for other in self.queues[ask.site] if other is not ask]

    def out(self, ask: Ask) -> bool:
        """Whether a message of an ask has left."""
        return any(ticket.send.ask is ask and ticket.sent is not None for ticket in self.tickets)

    def dispatch(self, head: Callable[[], str], now: float) -> bool:
        """Send what is due; tells whether anything was.

        Args:
            head: gives that of the server's audit log; it is read from the disk, so only for what is sent.
            now: seconds of a clock that only goes forward.
        """
        busy = False
        for ticket in list(self.tickets):
            send = ticket.send
            if self.presence.deployed and self.queues[send.site][0] is not send.ask:
                continue
            self._listen(ticket, now)
            if ticket.due is None or now < ticket.due or self.presence.offline(send.site):
                continue
            content = transport.pack(send.task, send.payload, send.site, head=head(), note=send.note)
            message = Message(content, self.presence.nodes[send.site], send.kind, ttl=self.ttl_s)
            names = [name for name in self.grid.push_messages([message]) if name]
            if not names:
                self._again(ticket, "Flower takes no message for it", now)
                continue
            self._count("server", send.site, send.what, transport.size(content))
            ticket.ids += names
            ticket.sent, ticket.due, busy = now, None, True
        return busy

    def collect(self, now: float) -> list[tuple[Send, Letter | FedmergeError]]:
        """The replies that are there: letters, and errors that are final."""
        by_id = {name: t for t in self.tickets if not self.presence.offline(t.send.site) for name in t.ids}
        found: list[tuple[Send, Letter | FedmergeError]] = []
        for reply in self.grid.pull_messages(list(by_id)) if by_id else []:
            name = reply.metadata.reply_to_message_id
            ticket = by_id[name]
            if name in ticket.ids and (letter := self._opened(ticket, name, reply, now)) is not None:
                ticket.ids = []  # replies to the same message under another name say the same
                self.tickets.remove(ticket)
                found.append((ticket.send, letter))
        return found

    def back(self, site: str, now: float) -> None:
        """A site is connected again: what was on its way may be lost, or may be answered yet."""
        for ticket in self.tickets:
            if ticket.send.site == site and ticket.ids and ticket.due is None:
                ticket.due = now + (self.hold_s or 0.0) + NAMED_AFTER_S

    def _opened(self, ticket: Ticket, name: str, reply: Message, now: float) -> Letter | FedmergeError | None:
        """What a reply says; None where the message has to be sent again."""
        site = ticket.send.site
        if reply.has_error():
            code = reply.error.code
            if not self.presence.deployed or code not in TRANSIENT:
                return CampaignStopped(f"{site} failed in {ticket.send.ask.kind}: {reply.error.reason}")
            if code != UNDELIVERED:
                ticket.ids.remove(name)
            if ticket.due is None:
                self._again(ticket, TRANSIENT[code], now)
            return None
        try:
            letter = transport.read(reply.content, site)
        except FedmergeError as error:
            return error
        if self.presence.deployed and "away" in letter.note:
            ticket.ids = []
            self._again(ticket, str(letter.note["away"])[:200], now)
            return None
        self._count(site, "server", ticket.send.what, transport.size(reply.content))
        self.presence.heard(site, now)
        return letter

    def _again(self, ticket: Ticket, reason: str, now: float) -> None:
        """A message came to nothing, through no fault of the task: it is sent once more after a pause."""
        self.presence.troubled(ticket.send.site, reason, now)
        ticket.due = now + PAUSES_S[min(ticket.tries, len(PAUSES_S) - 1)]
        ticket.tries += 1

    def _listen(self, ticket: Ticket, now: float) -> None:
        """A node that is there and silent for too long, since it was asked or has answered anything, is troubled.

        What it was asked is sent again; where that was in vain, after twice the time.
        """
        send = ticket.send
        if not self.presence.deployed or ticket.sent is None or ticket.due is not None:
            return
        since = max(ticket.sent, self.presence.last_heard(send.site))
        patience_s = (self.hold_s or 0.0) + SILENCE_S + _bytes(send) / SLOWEST_BYTES_S
        if self.presence.offline(send.site) or now - since <= patience_s:
            return
        self.presence.troubled(send.site, SILENT, since)
        if now - since > patience_s * 2 ** min(ticket.tries, 3):
            log.info("%s has been silent for %.0f s and is asked again", send.site, now - since)
            ticket.due, ticket.tries = now, ticket.tries + 1

    def _count(self, sender: str, receiver: str, what: str, size: int) -> None:
        """Add to the traffic table; equal lines are one line with their sum and number."""
        for line in self.traffic:
            if (line["from"], line["to"], line["what"]) == (sender, receiver, what):
                line["bytes"] += size
                line["messages"] += 1
                return
        self.traffic.append({"from": sender, "to": receiver, "what": what, "bytes": size, "messages": 1})


def _bytes(send: Send) -> int:
    """The bytes of a part that travel with a message, or with its answer."""
    return sum(map(len, send.payload.values())) + int(send.task["length"] if send.kind == "query.part" else 0)
