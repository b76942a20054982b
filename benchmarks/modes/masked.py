"""Mode `group`: hellos, masked messages, one sum for each group, which the target opens and takes as a source."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.modes.made import Net
from benchmarks.modes.merging import Model, fit, merge, mixed
from benchmarks.modes.parties import Parties, Spent, carry, keep
from fedmerge import whole, wire
from fedmerge.fusion import fitting
from fedmerge.privacy import hello, ledger, masking, transcript
from fedmerge.privacy.hello import UNIT, Agreed
from fedmerge.privacy.transcript import LEAST, Transcript
from fedmerge.trust import keys

MOST = 5  # members of a group here
TARGET = "harbour"


def groups(sources: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The sources in groups of five, or one group of all where that leaves too few in the last."""
    if len(sources) % MOST in range(1, LEAST):
        return [sources]
    return [sources[at : at + MOST] for at in range(0, len(sources), MOST)]


def group(net: Net) -> Spent:
    """The server adds what it cannot read; the target opens one sum for each group."""
    spent = Spent()
    given = [_sum(net, members, f"g{number}", spent.once) for number, members in enumerate(groups(net.sources))]
    target = spent.once.target
    mix = mixed(target, net, given)
    state = fit(mix, spent) if len(given) > 1 else fitting.fit_state(mix)  # the ratio of one is 1
    merge(target, mix, state, net.folder / "target" / "model.safetensors")
    return spent


def _sum(net: Net, members: tuple[str, ...], name: str, once: Parties) -> Model:
    """One group from its hellos to its model."""
    source, server, target = once.all
    signing = {site: keys.new_signing() for site in (*members, TARGET)}
    key, gathered = _greeted(net, members, name, signing, once)
    messages = []
    for site in members:
        path = net.written(site, source)
        with source.at_work():
            made = wire.read(path, site=site)
            pieces = masking.mask(made.weights, made.fisher, net.ancestor, gathered, site, net.folder / site)
            whole.write(net.folder / site / "masked", pieces)
            del pieces, made
        came = carry(net.folder / site / "masked", source, server, net.folder / "server")
        for used in (path, net.folder / site / "masked"):
            used.unlink()
        with server.at_work():
            messages.append(keep(came, net.folder / "server" / f"{site}.masked"))
    total = net.folder / "server" / f"{name}.sum"
    with server.at_work():
        whole.write(total, masking.add(messages))
    for path in messages:
        path.unlink()
    taken = carry(total, server, target, net.folder / "target")
    with target.at_work():
        path = keep(taken, net.folder / "target" / f"{name}.sum")
        opened = masking.open_sum(path, gathered, key, net.ancestor)
        return masking.merged(opened, net.ancestor)


def _greeted(
    net: Net, members: tuple[str, ...], name: str, signing: dict[str, Ed25519PrivateKey], once: Parties
) -> tuple[keys.X25519PrivateKey, Transcript]:
    """The target's key, and the transcript, which every member and the target make for themselves."""
    source, server, target = once.all
    with server.at_work():
        agreed = Agreed("run", name, hello.schema(net.ancestor), dict.fromkeys(members, UNIT), TARGET)
    roster = {site: key.public_key() for site, key in signing.items()}
    said: list[bytes] = []
    for site in members:
        with source.at_work():
            public = ledger.begin(net.folder / site, agreed.run, agreed.group)
            said.append(hello.greet(agreed, site, public, signing[site]).encode())
    with target.at_work():
        key = keys.new_exchange()
        said.append(hello.greet(agreed, TARGET, key.public_key(), signing[TARGET]).encode())
    for party, raw in zip((source,) * len(members) + (target,), said):
        carry(raw, party, server, Path())
    for party in (source,) * len(members) + (target,):
        for raw in said:
            carry(raw, server, party, Path())
        with party.at_work():
            gathered = transcript.gather([hello.read_hello(raw, "server") for raw in said], agreed, roster)
    return key, gathered
