"""Moments in files: whole seconds since 1970, written as `2026-03-01T12:00:00Z`."""

from datetime import UTC, datetime

from fedmerge.errors import Refused

DAY = 86_400  # seconds
FORM = "%Y-%m-%dT%H:%M:%SZ"


def text(seconds: float) -> str:
    """A moment as text, in UTC, cut to whole seconds.

    Args:
        seconds: since 1970.
    """
    return datetime.fromtimestamp(int(seconds), UTC).strftime(FORM)


def seconds(text: object, who: str) -> int:
    """The moment that a text names, in seconds since 1970.

    Args:
        text: as `text` writes it; no other form is read.
        who: what the moment belongs to, for the sentence.

    Raises:
        Refused: it is not such a text.
    """
    try:
        read = datetime.strptime(text, FORM).replace(tzinfo=UTC) if isinstance(text, str) else None
    except ValueError:
        read = None
    if read is None or read.strftime(FORM) != text:
        raise Refused(f"{who}: expected a moment such as 2026-03-01T12:00:00Z, got {text!r:.60}")
    return int(read.timestamp())


def day(seconds: float) -> str:
    """The day of a moment, in UTC, for a sentence."""
    return text(seconds)[:10]
