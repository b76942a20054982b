"""`fedmerge audit`: whether a log is whole, and what it tells a data-protection officer."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import screen
from fedmerge.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from fedmerge.trust.audit import Report, Witnessed
    from sites.home import Home


@dataclass(frozen=True)
class Book:
    """A home's log: where it is, whose it is, in which consortium, the owner's keys (oldest first), a site's policy."""

    path: Path
    owner: str
    consortium: str
    keys: "tuple[Ed25519PublicKey, ...]"
    policy: tuple[str, ...] = ()


def verify(
    home: Annotated[Path, typer.Argument(help="Home of a site or of a server.")],
    witness: Annotated[
        Path | None,
        typer.Argument(help="Home or copied log of the other side, whose record of HOME's heads is compared."),
    ] = None,
) -> None:
    """Check every line of an audit log, and that nothing which the other side saw is missing."""
    book = book_of(home)
    report = report_of(book)
    screen.say(verdict(report))
    sound = report.sound
    if witness is not None:
        seen = seen_by(witness, book)
        for line in seen.missing:
            screen.say(f"{line.owner} saw the head {line.peer_head[:16]}… at {line.at} (its line {line.n}): it is gone")
        screen.say(f"{testimony(seen, book)} ({witness})")
        sound = sound and not seen.missing
    if not sound:
        raise typer.Exit(2)


def show(
    home: Annotated[Path, typer.Argument(help="Home of a site or of a server.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The page, one HTML file.")],
    witness: Annotated[
        Path | None,
        typer.Option(
            "--witness", help="Home or copied log of the other side, whose record of HOME's heads is compared."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it is there.")] = False,
) -> None:
    """Write a page for a data-protection officer: what left, when, to whom, why, and whether the log is whole."""
    from fedmerge.trust import dossier, keys

    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out} is there already; --overwrite replaces it")
    book = book_of(home)
    report = report_of(book)
    seen = seen_by(witness, book) if witness is not None else None
    cover = dossier.Cover(
        owner=book.owner,
        consortium=book.consortium,
        key=keys.fingerprint(book.keys[-1].public_bytes_raw()),
        made=time.time(),
        policy=book.policy,
        witness=testimony(seen, book) if seen else "",
        gone=len(seen.missing) if seen else 0,
    )
    out.write_text(dossier.page(report, cover), encoding="utf-8")
    screen.say(verdict(report))
    screen.say(f"The page is {out}.")
    if not report.sound or (seen and seen.missing):
        raise typer.Exit(2)


def report_of(book: Book) -> "Report":
    """What a look at the log finds; a log that is not there yet is empty."""
    from fedmerge.trust import audit

    if not book.path.exists():
        return audit.Report(book.path, "", (), audit.NOTHING)
    return audit.verify(book.path, *book.keys)


def seen_by(witness: Path, book: Book) -> "Witnessed":
    """What the other side, a home or a copied log, knows of a log."""
    from fedmerge.trust import audit

    return audit.witnessed(book.path, witness if witness.is_file() else book_of(witness).path, book.owner)


def testimony(seen: "Witnessed", book: Book) -> str:
    """One sentence on what the other side saw."""
    if not seen.heads:
        return f"The other side has no record of any head of {book.owner}'s log."
    gone = f"{len(seen.missing)} of them are missing: lines were cut off" if seen.missing else "all of them are there"
    return f"The other side saw {seen.heads} heads of {book.owner}'s log; {gone}."


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
        return Book(site.audit, site.name, site.consortium, tuple(known), policy_of(site))
    if servers.Paths(folder).consortium_file.exists():
        server = servers.open(folder)
        key = keys.read_signing(server.audit_key).public_key()
        return Book(server.audit, audit.SERVER, server.name, (key,))
    raise ConfigError(f"{folder} is neither a site's home nor a server's")


def policy_of(home: "Home") -> tuple[str, ...]:
    """A site's policy in sentences; none where its file cannot be read."""
    from sites import tables, toml, wording

    try:
        table = toml.table_of(toml.read(home.site_file), "policy", home.site_file.name)
        return tuple(wording.sentences(tables.policy(table, home.site_file.name)).values())
    except ConfigError:
        return ()
