"""`fedmerge audit`: whether a log is whole, and what it tells a data-protection officer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from fedmerge.trust.audit import Report


@dataclass(frozen=True)
class Book:
    """A home's log: where it is, whose it is, in which consortium, and the owner's keys, oldest first."""

    path: Path
    owner: str
    consortium: str
    keys: "tuple[Ed25519PublicKey, ...]"


def verify(
    home: Annotated[Path, typer.Argument(help="Home of a site or of a server.")],
    witness: Annotated[
        Path | None,
        typer.Argument(help="Home or copied log of the other side, whose record of HOME's heads is compared."),
    ] = None,
) -> None:
    """Check every line of an audit log, and that nothing which the other side saw is missing."""
    from fedmerge.trust import audit

    book = book_of(home)
    report = audit.verify(book.path, *book.keys) if book.path.exists() else audit.Report(book.path, "", (), "")
    screen.say(verdict(report))
    sound = report.sound
    if witness is not None:
        seen = audit.witnessed(book.path, witness if witness.is_file() else book_of(witness).path)
        for line in seen.missing:
            screen.say(f"{line.owner} saw the head {line.peer_head[:16]}… at {line.at} (its line {line.n}): it is gone")
        screen.say(f"{witness}: {seen.heads} heads of {book.owner} were witnessed, {len(seen.missing)} are missing.")
        sound = sound and not seen.missing
    if not sound:
        raise typer.Exit(2)


def verdict(report: "Report") -> str:
    """One sentence on a whole log."""
    if not report.sound:
        return f"{report.path}: line {report.bad} is bad: {report.reason}; the {report.bad - 1} before it are good."
    if not report.lines:
        return f"{report.path}: the log is empty."
    return f"{report.path}: all {len(report.lines)} lines are good; the head is {report.head}."


def book_of(folder: Path) -> Book:
    """The log of a home, a site's or a server's.

    Raises:
        ConfigError: it is neither.
    """
    from fedmerge.trust import audit, keys
    from server import home as servers
    from sites import home as sites

    if sites.Paths(folder).consortium_file.exists():
        site = sites.open(folder)
        texts = site.retired.read_text(encoding="utf-8").split() if site.retired.exists() else []
        known = [keys.signing_of(text, str(site.retired)) for text in texts]
        known.append(keys.read_signing(site.signing_key).public_key())
        return Book(site.audit, site.name, site.consortium, tuple(known))
    if servers.Paths(folder).consortium_file.exists():
        server = servers.open(folder)
        key = keys.read_signing(server.audit_key).public_key()
        return Book(server.audit, audit.SERVER, server.name, (key,))
    raise ConfigError(f"{folder} is neither a site's home nor a server's")
