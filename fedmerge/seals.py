"""What server and sites ask of each other for sealed contributions (`trust = "target"`); `tasks` has the others."""

from dataclasses import dataclass, field
from typing import Any

from fedmerge.tasks import Net


@dataclass(frozen=True)
class Seal:
    """Seal to `receiver` what the task `key` made: the `"contribution"`, or its `"body"` (P and the norm parameters).

    `keys` has the receiver's public keys in a simulation; elsewhere the roster has them, of which the server's is of
    `epoch`.
    """

    campaign: str
    run: str
    key: str
    what: str
    receiver: str
    net: Net
    keys: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0


@dataclass(frozen=True)
class Sealed:
    """The sealed file is in payload `sealed`; `digest` is that of the plaintext."""

    digest: str


@dataclass(frozen=True)
class Open:
    """Open the contribution in payload `sealed`, check it, and keep it under its `digest`.

    `site` sealed it, after the task `key`. `kept` are the shapes of the heads that it carries for other sites, `after`
    the digest of the contribution whose body its training started from; without one it started from the ancestor.
    """

    campaign: str
    run: str
    site: str
    key: str
    digest: str
    net: Net
    ancestor: str
    parent: str
    fisher: str
    kept: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    keys: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0


@dataclass(frozen=True)
class Opened:
    """The contribution, or the model of a group, is there under this digest."""

    digest: str


@dataclass(frozen=True)
class Judge:
    """Which of these contributions (site -> digest) moved more than `max_change` times as far as the others?"""

    campaign: str
    models: dict[str, Any]
    max_change: float


@dataclass(frozen=True)
class Judged:
    """The sites whose weights did, and those of which it is known how far they moved."""

    beyond: tuple[str, ...]
    known: tuple[str, ...]
