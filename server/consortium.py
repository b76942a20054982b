"""What the coordinator decides: a consortium is founded, sites are approved and revoked, and each change is an epoch.

All of it is files in the server's home; nothing here needs a server that is up. The front door reads the roster's file
anew when it changes, and `server.registry` makes Flower's registry follow.
"""

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec

from fedmerge.errors import ConfigError, Refused
from fedmerge.trust import audit, certificates, keys, request
from fedmerge.trust.dates import DAY, day
from fedmerge.trust.request import JoinRequest
from fedmerge.trust.roster import Entry, Past, Roster
from server import home as homes
from server import rosters
from server.home import Home
from server.rosters import authority, current, public_bytes, publish

__all__ = ["DAYS", "approve", "authority", "current", "init", "invitation", "public_bytes", "publish", "revoke"]

DAYS = 365

TEMPLATE = """\
# What this consortium proposes to its hospitals. It travels in the signed roster, and `fedmerge site join` shows it in
# the hospital's own file. What a hospital allows, the hospital's own file alone decides.
# After a change: fedmerge server roster --publish

[policy]                        # the keys of [policy] in a hospital's site.toml
roles = ["source", "target"]
min_cases = 20
weights = true
trust = ["server", "target", "group"]
receivers = ["*"]
fisher = "full"                 # "full", "channel" or "none"
metrics = true

[labels]                        # names that everybody uses for the same structure; empty: not agreed on
# tumour = "the whole tumour with its edema"
"""


def init(
    folder: Path, name: str, hosts: Sequence[str], *, port: int = homes.PORT, superlink_port: int = 0, now: float
) -> Home:
    """Found a consortium: authority, server's certificate, keys, the first roster (of nobody) and a policy template.

    Args:
        folder: the server's home; new or empty.
        name: the consortium's.
        hosts: DNS names and IP addresses under which the hospitals reach the front door.
        port: of the front door.
        superlink_port: of the SuperLink on loopback; 0: any free one.
        now: seconds since 1970.

    Raises:
        ConfigError: the folder holds something, or a name, a host or a port is none.
    """
    folder = folder.absolute()
    homes.check_name(name, "--name")
    named = list(dict.fromkeys(homes.check_host(host, "--host") for host in hosts))
    if not named:
        raise ConfigError("--host expected the name or address under which hospitals reach this server, got none")
    homes.check_port(port, "--port", least=1)
    homes.check_port(superlink_port, "--superlink-port")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder, and a consortium is founded only once")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    fresh.mkdir(mode=0o700)
    try:
        facts = {"name": name, "hosts": named, "port": port, "superlink_port": superlink_port}
        (fresh / "consortium.toml").write_text(tomli_w.dumps(facts), encoding="utf-8")
        _found(homes.open(fresh), now)
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return homes.open(folder)


def _found(home: Home, now: float) -> None:
    """Keys, certificates and the first roster of a new home."""
    for path in (home.keys, home.flower, home.requests, home.rosters, home.runs, home.run):
        path.mkdir(mode=0o700)
    home.authority.parent.mkdir()
    own, ca = certificates.new_authority(home.name, home.hosts, now)
    server, signer = ec.generate_private_key(ec.SECP384R1()), keys.new_signing()
    keys.keep(home.authority_key, own)
    keys.keep(home.server_key, server)
    keys.keep(home.roster_key, signer)
    keys.keep(home.audit_key, keys.new_signing())
    keys.keep_bytes(home.superexec_secret, secrets.token_urlsafe(48).encode())
    for path, certificate in (
        (home.authority, ca),
        (home.server_certificate, certificates.server_certificate(own, ca, server.public_key(), home.hosts, now)),
        (home.roster_certificate, certificates.roster_certificate(own, ca, signer.public_key(), now)),
    ):
        path.write_text(certificates.text(certificate), encoding="utf-8")
    home.policy_template.write_text(TEMPLATE, encoding="utf-8")
    rosters.write(home, None, (), (), now, "founded")


def invitation(home: Home, site: str = "NAME") -> str:
    """The command that a hospital types."""
    host = f"[{home.hosts[0]}]" if ":" in home.hosts[0] else home.hosts[0]
    pinned = certificates.fingerprint(authority(home))
    return f"fedmerge site join --server {host}:{home.port} --ca-fingerprint {pinned} --name {site}"


def approve(
    home: Home,
    text: str | bytes,
    fingerprint: str,
    *,
    roles: Sequence[str] = (),
    days: int = DAYS,
    replaces: bool = False,
    now: float,
) -> Entry:
    """Take a site into the roster, or renew it; a new epoch.

    Args:
        home: of the server.
        text: the join request, as its file has it.
        fingerprint: of the request, as the hospital told it by another way than the file.
        roles: which of the roles that the hospital offers it takes; all of them where none is given.
        days: how long the site may take part.
        replaces: whether a site of this name with other keys may be replaced.
        now: seconds since 1970.

    Raises:
        Refused: the request, its proofs or its fingerprint are not what they should be.
        ConfigError: `roles` or `days` are impossible.
    """
    asked = request.from_text(text)
    if not keys.same_fingerprint(fingerprint, asked.fingerprint):
        raise Refused(
            f"the request of {asked.site} has the fingerprint {asked.fingerprint}, "
            f"the hospital told {fingerprint or 'none'}: it is not the hospital's request, or not its newest one"
        )
    if days < 1:
        raise ConfigError(f"--days expected 1 or more, got {days}")
    taken = tuple(dict.fromkeys(roles)) or asked.roles
    for role in taken:
        if role not in asked.roles:
            raise ConfigError(f"{asked.site} offers the roles {', '.join(asked.roles)}, not '{role}'")
    with rosters.alone(home):
        before = current(home, now)
        _check(home, before, asked, replaces)
        ca, own = authority(home), keys.read_node(home.authority_key)
        until = int(min(now + days * DAY, certificates.dates_of(ca)[1]))
        signing = keys.signing_of(asked.signing_key, asked.site)
        made = certificates.site_certificate(own, ca, signing, asked.site, int(now), until)
        entry = Entry(
            name=asked.site, roles=taken, node_key=asked.node_key, signing_key=asked.signing_key,
            sealing_key=asked.sealing_key, certificate=certificates.text(made), since=int(now), until=until,
        )  # fmt: skip
        old, past = before.find(entry.name), before.past
        if old is not None and old.node_key != entry.node_key:
            past = (*past, Past(old.name, old.node_key, old.signing_key, int(now), "replaced"))
        elif old is not None and old.signing_key != entry.signing_key:
            past = (*past, Past(old.name, "", old.signing_key, int(now), "replaced"))
        others = tuple(one for one in before.entries if one.name != entry.name)
        kept = home.requests / f"{entry.name}-{before.epoch + 1}.json"
        kept.write_bytes(text.encode() if isinstance(text, str) else text)
        entries = tuple(sorted((*others, entry), key=lambda one: one.name))
        rosters.write(home, before, entries, past, now, f"approved {entry.name} as {' and '.join(taken)}")
    return entry


def _check(home: Home, before: Roster, asked: JoinRequest, replaces: bool) -> None:
    """Whether a request, whose proofs hold, is for this consortium and takes nobody's place."""
    homes.check_name(asked.site, "the request's site")
    if asked.site == audit.SERVER:
        raise Refused(f"no site can be called '{audit.SERVER}': that is the coordinator's name in the audit logs")
    if asked.consortium != before.consortium:
        raise Refused(f"{asked.site} asks to join {asked.consortium:.80}, this is {before.consortium}")
    pinned = certificates.fingerprint(authority(home))
    if not keys.same_fingerprint(asked.authority, pinned):
        raise Refused(
            f"{asked.site} has pinned another authority ({asked.authority:.80}) than this consortium's ({pinned}): "
            "somebody stood between, or it joined an older consortium of this name"
        )
    for gone in before.past:
        if asked.node_key == gone.node_key or (gone.why == "revoked" and asked.signing_key == gone.signing_key):
            raise Refused(
                f"{asked.site} shows keys that were {gone.why} on {day(gone.ended)}; "
                "have the hospital make new ones: fedmerge site join ... --new-keys"
            )
    for one in before.entries:
        same = [asked.node_key == one.node_key, asked.signing_key == one.signing_key]
        if one.name != asked.site and any(same):
            raise Refused(f"{asked.site} shows the keys of {one.name}")
        if one.name == asked.site and not all(same) and not replaces:
            raise Refused(
                f"{asked.site} is on the roster with other keys; if the hospital has made new ones, approve with "
                "--replace, else somebody uses its name"
            )


def revoke(home: Home, name: str, now: float) -> Roster:
    """Take a site off the roster; a new epoch.

    Raises:
        ConfigError: there is no such site.
    """
    with rosters.alone(home):
        before = current(home, now)
        entry = before.find(name)
        if entry is None:
            known = ", ".join(one.name for one in before.entries) or "none"
            raise ConfigError(f"no site '{name}' is on the roster; its sites are {known}")
        past = (*before.past, Past(name, entry.node_key, entry.signing_key, int(now), "revoked"))
        others = tuple(one for one in before.entries if one.name != name)
        return rosters.write(home, before, others, past, now, f"revoked {name}")
