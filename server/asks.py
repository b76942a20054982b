"""What goes back and forth between the plan and the exchange: asks and answers; and between the exchange and a site."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmerge import parts
from fedmerge.errors import Refused
from fedmerge.transport import Letter

Payload = Mapping[str, bytes | Path]  # by name: bytes, or the file that holds them


@dataclass(frozen=True)
class Ask:
    """A task for a site.

    Attributes:
        site: who is asked.
        kind: Flower's message type.
        task: a record of `fedmerge.tasks` as a table.
        payload: what goes with it.
        what: the word for the traffic table.
        most: the most bytes that a payload of the answer may have.
    """

    site: str
    kind: str
    task: dict[str, Any]
    payload: Payload = field(default_factory=dict)
    what: str = "task"
    most: int = parts.PART_BYTES


@dataclass(frozen=True)
class Answer:
    """What the site answered; a payload that came in parts is a file, which belongs to whoever asked."""

    task: dict[str, Any]
    payload: Payload

    def came(self, name: str, site: str) -> bytes | Path:
        """A payload that has to be there, as it came.

        Raises:
            Refused: it is not there.
        """
        if name not in self.payload:
            raise Refused(f"{site}: expected a {name} in the answer, got {sorted(self.payload) or 'nothing'}")
        return self.payload[name]

    def need(self, name: str, site: str) -> bytes:
        """A payload that has to be there, in memory; a file is gone afterwards.

        Raises:
            Refused: it is not there.
        """
        data = self.came(name, site)
        if isinstance(data, Path):
            read = data.read_bytes()
            data.unlink()
            return read
        return data


Conversation = Generator[Ask, Answer, None]
Part = Generator[Ask, Answer, dict[str, Any]]  # a piece of a conversation, with a finished phase as its value


@dataclass(frozen=True, eq=False)
class Send:
    """One message to a site; several may make up one ask.

    Attributes:
        ask: the ask that it belongs to.
        kind: Flower's message type of this one.
        task: what it says.
        payload: byte strings by name.
        note: what the machinery adds.
        what: the word for the traffic table.
    """

    ask: Ask
    kind: str
    task: dict[str, Any]
    payload: dict[str, bytes]
    note: dict[str, Any]
    what: str

    @property
    def site(self) -> str:
        """Who gets it."""
        return self.ask.site


Flow = Generator[list[Send], tuple[Send, Letter], Answer]
"""The messages of one ask: yields those to send now, and is resumed with one of those out, and what came back."""
