"""How a hospital joins: it pins the consortium's authority, makes its keys, and writes a request.

Every private key is born in the hospital's own folder and stays there. What the hospital sends is `request.json`, which
holds public keys only; by telephone it tells the fingerprint.
"""

import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509

from fedmerge import sessions
from fedmerge.errors import ConfigError, Refused
from fedmerge.trust import audit, certificates, keys, request
from fedmerge.trust.request import JoinRequest
from fedmerge.trust.roster import LARGEST, ROLES, Roster
from sites import home as homes
from sites import membership, reach, template
from sites.home import Home, Paths
from sites.membership import Standing, explain, refresh_roster

__all__ = ["Joined", "Standing", "explain", "join", "refresh_roster"]

PORT = 8443
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Joined:
    """What came of joining.

    Attributes:
        home: the site's home.
        request: what was written to `request.json`.
        roster: the consortium's roster; None where the server could not be reached.
        unreached: why it could not; empty where it could.
    """

    home: Home
    request: JoinRequest
    roster: Roster | None
    unreached: str


def join(
    folder: Path,
    server: str,
    name: str,
    *,
    roles: Sequence[str] = ("source",),
    authority: Path | None = None,
    fingerprint: str = "",
    confirm: Callable[[str], bool] = lambda _: False,
    new_keys: bool = False,
    now: float,
) -> Joined:
    """Make a site's home, or write the request of one anew.

    Args:
        folder: the home; made where it is missing. Keys that are there are used again.
        server: `HOST` or `HOST:PORT` of the front door.
        name: the site's.
        roles: the roles that it offers.
        authority: file of the certificate of authority; else the server is asked for it.
        fingerprint: of that certificate, as the invitation has it.
        confirm: asked whether a fingerprint is the coordinator's, where none was given.
        new_keys: make new keys; the old ones are done with.
        now: seconds since 1970.

    Raises:
        ConfigError: a name, a role or an address is none, or the folder joined something else.
        Refused: the authority is not the one that was invited to.
        Unreachable: no certificate was given, and the server did not answer.
    """
    _check(name, roles)
    address, paths = _address(server), Paths(folder.absolute())
    before = homes.open(folder) if paths.consortium_file.exists() else None
    if before is not None and before.name != name:
        raise ConfigError(f"{folder} is the home of {before.name}, not of {name}")
    if before is not None and new_keys and sessions.is_up(before.run / "state.json"):
        raise ConfigError(f"{folder} is up and uses its keys: stop `fedmerge site up`, then make new ones")
    given = authority or (paths.authority if before else None)
    ca = certificates.read(given.read_bytes() if given else _introduced(address), "the authority's certificate")
    certificates.check_authority(ca)
    shown = certificates.fingerprint(ca)
    _pin(shown, before, fingerprint, confirm)
    _make_folders(paths)
    home = before or Home(paths.folder, name, certificates.consortium(ca), address, shown, 0)
    homes.write(home.authority, certificates.text(ca))
    home = homes.remember(home, address=address)
    _make_keys(home, now, replace=new_keys)
    known, unreached = _roster(home, ca, now)
    if not home.site_file.exists():
        proposed = known.policy if known else {}
        homes.write(home.site_file, template.site_file(name, roles[0], proposed))
    asked = _ask(home, roles, now)
    return Joined(homes.open(folder), asked, known, unreached)


def _check(name: str, roles: Sequence[str]) -> None:
    if not NAME.fullmatch(name) or name == audit.SERVER:
        raise ConfigError(f"--name: a name is up to 64 letters, digits, dots and dashes, got {name!r:.80}")
    if not roles or len(set(roles)) != len(roles) or any(role not in ROLES for role in roles):
        raise ConfigError(f"--role expected {' or '.join(ROLES)}, each once, got {', '.join(roles) or 'none'}")


def _address(server: str) -> str:
    """`HOST:PORT`, with the usual port where none is given."""
    match = re.fullmatch(r"(?:https://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::(\d{1,5}))?/?", server)
    port = int(match[2] or PORT) if match else 0
    if match is None or not 0 < port < 2**16:
        raise ConfigError(f"--server expected HOST or HOST:PORT, got {server!r:.80}")
    return f"{match[1].lower()}:{port}"


def _introduced(address: str) -> bytes:
    """The certificate that a server shows as its authority's; its fingerprint is compared before it is believed."""
    try:
        # The authority is what is asked for, so there is nothing yet to check the connection with.
        with (
            httpx.Client(verify=False, timeout=10, follow_redirects=False) as client,  # noqa: S501
            client.stream("GET", f"https://{address}/v1/roster") as answer,
        ):
            data = b""
            for piece in answer.iter_bytes():
                data += piece
                if len(data) > 2 * LARGEST:
                    break
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        remedy = "is the server up? else have the coordinator send certs/ca.crt, and give it with --ca"
        raise reach.Unreachable(f"{address} could not be reached: {error}; {remedy}", remedy) from None
    if status != 200:
        raise reach.Unreachable(f"{address} answers, but gives no roster (status {status})", "is that the right port?")
    return membership.parts(data)[0]


def _pin(shown: str, before: Home | None, fingerprint: str, confirm: Callable[[str], bool]) -> None:
    """Refuse an authority that is not the one of the invitation, or of the last time."""
    if fingerprint and not keys.same_fingerprint(fingerprint, shown):
        raise Refused(f"the authority's certificate expected the fingerprint {fingerprint:.80}, got {shown}")
    if before is not None:
        if not keys.same_fingerprint(before.fingerprint, shown):
            raise Refused(f"{before.folder} has pinned the authority {before.fingerprint}, got {shown}")
    elif not fingerprint and not confirm(shown):
        raise Refused("the authority's fingerprint was not confirmed: ask the coordinator for it, by telephone")


def _make_folders(paths: Paths) -> None:
    for folder in (paths.folder, paths.private, paths.node):
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)


def _make_keys(home: Home, now: float, *, replace: bool) -> None:
    """The three keys; those that are there stay, unless they are to be replaced."""
    if not home.signing_key.exists():
        keys.keep(home.signing_key, keys.new_signing())
    elif replace:
        _retire(home, now)
    makers: dict[Path, Callable[[Path], None]] = {
        home.sealing_key: lambda path: keys.keep(path, keys.new_sealing()),
        home.node_key: lambda path: keys.keep_node(path, keys.new_node()),
    }
    for path, write in makers.items():
        if not path.exists():
            write(path)
        elif replace:
            _replace(path, write)


def _retire(home: Home, now: float) -> None:
    """A new signing key; the old one's last words are a line of the audit log, and its public half is kept."""
    old = keys.read_signing(home.signing_key)
    text = keys.public_text(old)
    known = home.retired.read_text(encoding="utf-8").split() if home.retired.exists() else []
    if text not in known:
        homes.write(home.retired, "".join(f"{one}\n" for one in (*known, text)))
    fresh = keys.new_signing()
    log = audit.Log(home.audit, old, home.name, clock=lambda: now)
    log.append("note", "new signing key", "rotation", reason=f"the next lines are signed by {keys.public_text(fresh)}")
    _replace(home.signing_key, lambda path: keys.keep(path, fresh))


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """A new key in the place of an old one, for the same owner."""
    partial, owner = path.with_name(f".{path.name}.{secrets.token_hex(4)}"), path.stat()
    write(partial)
    if os.geteuid() == 0:
        os.chown(partial, owner.st_uid, owner.st_gid)
    partial.replace(path)


def _roster(home: Home, ca: x509.Certificate, now: float) -> tuple[Roster | None, str]:
    """The roster of the server, if it answers; what it answers is checked with the pinned authority."""
    try:
        return refresh_roster(home, now), ""
    except reach.Unreachable as error:
        return membership.last_roster(homes.open(home.folder), now), f"{error}; {error.remedy}"


def _ask(home: Home, roles: Sequence[str], now: float) -> JoinRequest:
    """Write the request."""
    signing, sealing = keys.read_signing(home.signing_key), keys.read_sealing(home.sealing_key)
    node = keys.read_node(home.node_key)
    asked = JoinRequest(
        consortium=home.consortium, authority=home.fingerprint, site=home.name, roles=tuple(roles),
        node_key=keys.public_text(node), signing_key=keys.public_text(signing), sealing_key=keys.public_text(sealing),
        made=int(now),
    )  # fmt: skip
    homes.write(home.request, request.to_text(asked, signing, node))
    return asked
