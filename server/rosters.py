"""The roster in the server's home: read, published as a new epoch, and written into the history and the audit log."""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography import x509

from fedmerge import whole
from fedmerge.container import canonical
from fedmerge.errors import ConfigError
from fedmerge.trust import audit, certificates, keys, roster
from fedmerge.trust.roster import Entry, Past, Roster
from server.home import Home


def authority(home: Home) -> x509.Certificate:
    """The consortium's certificate of authority."""
    return certificates.read(home.authority.read_bytes(), str(home.authority))


def current(home: Home, now: float) -> Roster:
    """The current roster, checked as a hospital checks it.

    Raises:
        Refused: the file was edited.
        OSError: it cannot be read.
    """
    return roster.open(home.roster.read_bytes(), authority(home), now)


def public_bytes(home: Home) -> bytes:
    """What the front door answers to `GET /v1/roster`: the authority's certificate, and the signed roster."""
    told = {"authority": home.authority.read_text(encoding="utf-8"), "roster": json.loads(home.roster.read_bytes())}
    return json.dumps(told).encode()


def publish(home: Home, now: float, after: int = 0) -> Roster:
    """A new epoch with the same sites, and the policy template as it is now.

    Args:
        home: of the server.
        now: seconds since 1970.
        after: the new epoch is greater than this one too: hospitals that saw it take no older roster, and a home that
            was restored from a backup may be behind them.
    """
    with alone(home):
        before = current(home, now)
        return write(home, before, before.entries, before.past, now, "published", after)


def write(
    home: Home,
    before: Roster | None,
    entries: tuple[Entry, ...],
    past: tuple[Past, ...],
    now: float,
    why: str,
    after: int = 0,
) -> Roster:
    """Sign the next roster, put it in its place, and write it into the history and the audit log.

    Args:
        home: of the server; the caller is `alone`.
        before: the roster of now; None: this is the first one.
        entries: the sites of the next one.
        past: those that take part no more.
        now: seconds since 1970.
        why: what happened, for the audit log.
        after: the new epoch is greater than this one too.
    """
    epoch = max(before.epoch if before else 0, after) + 1
    log = keys.read_signing(home.audit_key)
    fresh = Roster(
        consortium=home.name, epoch=epoch, made=int(now), previous=before.digest if before else "",
        audit_key=keys.public_text(log), entries=entries, past=past, policy=policy(home),
    )  # fmt: skip
    certificate = certificates.read(home.roster_certificate.read_bytes(), str(home.roster_certificate))
    data = roster.seal(fresh, keys.read_signing(home.roster_key), certificate)
    roster.open(data, authority(home), now)  # what a hospital would refuse is not published
    history = home.rosters / f"{epoch}.json"
    for path in (history, home.roster):
        partial = path.with_name(f".{path.name}.part")
        partial.write_bytes(data)
        partial.replace(path)
    audit.Log(home.audit, log, audit.SERVER, clock=lambda: now).append(
        "note", f"roster epoch {epoch}", "roster", len(data), fresh.digest, reason=why
    )
    return fresh


def policy(home: Home) -> dict[str, Any]:
    """The tables of the policy template.

    Raises:
        ConfigError: it is not TOML, or holds something that a roster cannot carry.
    """
    try:
        table = tomllib.loads(home.policy_template.read_text(encoding="utf-8"))
        canonical(table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{home.policy_template} is not TOML: {error}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{home.policy_template} holds a value that a roster cannot carry: {error}") from None
    return table


@contextmanager
def alone(home: Home) -> Iterator[None]:
    """Nobody else changes the roster while the block runs."""
    with whole.locked(home.rosters / ".lock"):
        yield
