"""What a source has made, sealed to another site; and what was sealed to this one, opened.

A contribution stays here until the server names the site that it is for. It passes the door out like any other, is
sealed to that site's key, and whoever carries it sees its size. The next site of a chain gets the body alone, as it
does without a seal, or the contribution where its way of training looks at that.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmerge import params, parts, seals, tasks, whole, wire
from fedmerge.container import canonical
from fedmerge.errors import SealError
from fedmerge.privacy import envelope, seal
from fedmerge.privacy.header import Facts, Header
from fedmerge.trust import keys as keys_of
from fedmerge.trust.audit import NOTHING
from sites import correspondence, outbound
from sites.inbound import Declined
from sites.records import Site

Payload = dict[str, bytes | Path]
Heard = Callable[[Header], None]

MOST_HELD = 16  # sealed files that are kept to be sent again


def forget_it(header: Header) -> None:
    """What a site without an audit log does with a header."""


def kept(site: Site, key: str) -> Path:
    """Where what a task made lies, in full."""
    return site.work / "contributions" / f"{key}.safetensors"


def leaving(site: Site, made: Path, net: tasks.Net) -> tuple[str, str]:
    """The digests of a contribution as the policy lets it go, and of its body."""
    found = wire.read(made, site=site.name)
    reduced = outbound.reduced(site, found)
    data: bytes | Path = made if reduced is found else wire.to_bytes(reduced)
    return f"sha256:{parts.digest(data)}", params.digest(params.split(found.weights, _body(net))[0])


def seal_to(site: Site, task: dict[str, Any], head: str = "") -> tuple[dict[str, Any], Payload]:
    """Seal what a task made to the site that the server names; asked again, the same file is sent.

    Args:
        site: the source.
        task: a `seals.Seal`.
        head: of the site's audit log; an empty text where it keeps none.

    Raises:
        Declined: the policy does not let it go, nothing was made, or the receiver is unknown here.
    """
    asked = tasks.from_table(seals.Seal, task, "server")
    if asked.what not in envelope.WHATS:
        raise Declined(f"{site.name}: expected one of {', '.join(envelope.WHATS)} to seal, got {asked.what[:40]!r}")
    path = kept(site, asked.key)
    if not path.exists():
        raise Declined(f"{site.name}: there is nothing that the task {asked.key} made")
    outbound.check_trust(site, "target")
    receiver = correspondence.peer(site, asked.receiver, asked.keys, asked.epoch)
    outbound.check_receiver(site, asked.receiver, receiver.fingerprint)
    data = outbound.contribution(site, path, asked.key)
    if asked.what == envelope.BODY:
        data = wire.params_to_bytes(params.split(wire.read(path, site=site.name).weights, _body(asked.net))[0])
    digest = f"sha256:{parts.digest(data)}"
    facts = envelope.facts(asked.run, asked.key, asked.what, site.name, asked.receiver, asked.net)
    own = correspondence.own(site)
    out = site.work / "sealed" / f"{_name(facts, digest, receiver.fingerprint, own.signing)}.sealed"
    if not out.exists():
        plain = data if isinstance(data, Path) else out.with_suffix(f".{secrets.token_hex(4)}.plain")
        try:
            if isinstance(data, bytes):
                whole.write(plain, data)
            seal.seal_file(plain, out, facts, head or NOTHING, own.signing, receiver.sealing)
        finally:
            if plain != data:
                plain.unlink(missing_ok=True)
        _make_room(out.parent)
    return tasks.to_table(seals.Sealed(digest)), {"sealed": out}


def opened(site: Site, asked: tasks.Contribute, payload: Payload, heard: Heard = forget_it) -> Payload:
    """The payloads of a task, those opened that are sealed to this site; `forget` throws them away.

    Raises:
        Declined: one cannot be opened; never why.
    """
    found = dict(payload)
    for name, told in asked.sealed.items():
        if name not in payload or not isinstance(told, dict):
            raise Declined(f"{site.name}: the task names a sealed '{name[:40]}' and brings none")
        what = envelope.BODY if name == "start" else envelope.CONTRIBUTION
        sender, key, net = str(told.get("sender")), str(told.get("round")), told.get("net")
        theirs = tasks.from_table(tasks.Net, net if isinstance(net, dict) else {}, "server")
        facts = envelope.facts(asked.run, key, what, sender, site.name, theirs)
        found[name] = open_to(site, payload[name], facts, asked.keys, asked.epoch, heard)
    return found


def open_to(
    site: Site, data: bytes | Path, facts: Facts, keys: Mapping[str, Any], epoch: int, heard: Heard = forget_it
) -> Path:
    """The plaintext of a sealed file, as a file of the site's own (0600).

    Args:
        site: the receiver.
        data: the sealed file.
        facts: what it has to be.
        keys: in a simulation, name -> public keys.
        epoch: of the roster that the server goes by.
        heard: is told the header of what was opened, with the head of the sender's audit log.

    Raises:
        Declined: the sender is unknown here, or the file cannot be opened.
    """
    told = keys.get(facts.sender, {})
    sender = correspondence.peer(site, facts.sender, told if isinstance(told, dict) else {}, epoch)
    out = site.work / "opened" / f"{secrets.token_hex(12)}.safetensors"
    sealed = data if isinstance(data, Path) else out.with_suffix(".sealed")
    try:
        if isinstance(data, bytes):
            whole.write(sealed, data)
        heard(seal.open_sealed(sealed, out, facts, sender.signing, correspondence.own(site).opening))
    except SealError as error:
        raise Declined(f"{site.name}: from {facts.sender}: {error}") from None
    finally:
        if sealed != data:
            sealed.unlink(missing_ok=True)
    return out


def forget(asked: tasks.Contribute, opened: Payload) -> None:
    """Throw away what was opened for a training that is over."""
    for name in asked.sealed:
        if isinstance(path := opened.get(name), Path):
            path.unlink(missing_ok=True)


def _body(net: tasks.Net) -> set[str]:
    return {*net.fusable, *net.norms}


def _name(facts: Facts, digest: str, receiver: str, signing: Ed25519PrivateKey) -> str:
    """The name of a sealed file: of all that it depends on, keys too, which a site may get anew."""
    every = [vars(facts), digest, receiver, keys_of.public_text(signing.public_key())]
    return hashlib.sha256(canonical(every).encode()).hexdigest()[:24]


def _make_room(folder: Path) -> None:
    """Keep the latest sealed files only; another is made where one is asked for again."""
    files = sorted(folder.glob("*.sealed"), key=lambda path: path.stat().st_mtime)
    for path in files[:-MOST_HELD]:
        path.unlink(missing_ok=True)
