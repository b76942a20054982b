"""The lines of logs as messages: when, how grave, from which program, and what; a traceback belongs to its message."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedmerge.dashboard.files import Lines

LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),?\d* (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")
PROGRESS = re.compile(r"[\w.-]+: .* \d+/\d+")  # what `sites.progress` says, which the page shows as bars
GRAVE = {"DEBUG": "progress", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LONGEST = 4000  # characters of a message with its traceback


@dataclass
class Message:
    """One message.

    Attributes:
        at: when it was written, in seconds since 1970; 0: not known.
        level: "progress", "info", "warning" or "error".
        source: the program; empty where there is only one.
        text: what it says.
    """

    at: float
    level: str
    source: str
    text: str


class Log:
    """A program's log while it grows.

    Args:
        path: the file.
        source: the program's name.
    """

    def __init__(self, path: Path, source: str = "") -> None:
        self.source, self._lines = source, Lines(path)

    def more(self) -> list[Message]:
        """The messages that came since the last look."""
        return read(self._lines.more()[0], self.source)


def read(lines: Iterable[str], source: str = "") -> list[Message]:
    """The messages in some lines; what has no date goes with the message before it.

    Example:
        >>> read(["2026-01-01 10:00:00,000 INFO north: training 3/6"])[0].level
        'progress'
    """
    found: list[Message] = []
    for raw in lines:
        line = COLOUR.sub("", raw).rstrip()
        if match := LINE.fullmatch(line):
            level, text = GRAVE[match[2]], match[3][:LONGEST]
            if level == "info" and PROGRESS.fullmatch(text):
                level = "progress"
            found.append(Message(_seconds(match[1]), level, source, text))
        elif found and line:
            found[-1].text = f"{found[-1].text}\n{line}"[:LONGEST]
        elif line:
            found.append(Message(0.0, "info", source, line[:LONGEST]))
    return found


def in_order(several: Iterable[list[Message]]) -> list[Message]:
    """The new messages of several programs, by time; those of one stay in their order."""
    dated = []
    for own in several:
        last = 0.0
        for message in own:
            last = message.at or last
            dated.append((last, message))
    return [message for _, message in sorted(dated, key=lambda pair: pair[0])]


def _seconds(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").astimezone().timestamp()
    except (ValueError, OverflowError):  # 2026-02-31
        return 0.0
