"""Mode `target`: contributions sealed to the target; in a chain the weights are sealed to the next site as well."""

from functools import partial
from pathlib import Path

from benchmarks.modes.made import Net
from benchmarks.modes.merging import checked, fit, merge, mixed
from benchmarks.modes.parties import Parties, Spent, carry, keep
from fedmerge import params, whole, wire
from fedmerge.privacy import header, seal
from fedmerge.privacy.header import Facts
from fedmerge.trust import keys

AUDIT = "0" * 64
SCHEMA = header.schema_of("benchmark")
facts = partial(Facts, "run", schema=SCHEMA)


def target(net: Net) -> Spent:
    """Sealed by a source, checked by who carries it, opened and merged by the target."""
    spent = Spent()
    source, server, aim = spent.once.all
    signing, opening = keys.new_signing(), keys.new_sealing()
    given = []
    for site in net.sources:
        told = facts("contribution", site, "harbour")
        path, closed = net.written(site, source), net.folder / site / "sealed"
        with source.at_work():
            seal.seal_file(path, closed, told, AUDIT, signing, opening.public_key())
        path.unlink()
        came = carry(closed, source, server, net.folder / "server")
        closed.unlink()
        with server.at_work():
            stored = keep(came, net.folder / "server" / f"{site}.sealed")
            seal.check(stored, told, signing.public_key())
        taken = carry(stored, server, aim, net.folder / "target")
        with aim.at_work():
            closed, path = keep(taken, net.folder / "target" / f"{site}.sealed"), net.folder / "target" / site
            seal.open_sealed(closed, path, told, signing.public_key(), opening)
            given.append(checked(path, net, site))
        closed.unlink()
    mix = mixed(aim, net, [(c.weights, c.fisher) for c in given])
    del given
    state = fit(mix, spent)
    merge(aim, mix, state, net.folder / "target" / "model.safetensors")
    return spent


def states(net: Net) -> Spent:
    """What a chain adds: each source but the last seals its weights to the next, which opens them."""
    spent = Spent()
    signing, opening = keys.new_signing(), keys.new_sealing()
    for site, after in zip(net.sources, net.sources[1:]):
        _handed_on(net, site, after, spent.once, signing, opening)
    return spent


def _handed_on(
    net: Net, site: str, after: str, once: Parties, signing: keys.Ed25519PrivateKey, opening: keys.Opening
) -> None:
    """From one source to the next."""
    source, server, _ = once.all
    told = facts("state", site, after)
    weights, path, closed = net.contribution(site).weights, net.folder / site / "state", net.folder / site / "sealed"
    with source.at_work():
        name = params.digest(weights)
        whole.write(path, wire.params_to_bytes(weights))
        seal.seal_file(path, closed, told, AUDIT, signing, opening.public_key())
    del weights
    path.unlink()
    came = carry(closed, source, server, net.folder / "server")
    closed.unlink()
    with server.at_work():
        stored = keep(came, net.folder / "server" / f"{site}.state")
        seal.check(stored, told, signing.public_key())
    taken = carry(stored, server, source, net.folder / after)
    with source.at_work():
        closed, path = keep(taken, net.folder / after / "sealed"), net.folder / after / "state"
        seal.open_sealed(closed, path, told, signing.public_key(), opening)
        assert params.digest(wire.open_params(path)) == name
    for used in (stored, closed, path):
        Path(used).unlink()
