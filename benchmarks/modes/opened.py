"""The modes whose server reads every contribution, `server` near and far, and the bytes alone that all are held to."""

from pathlib import Path

import numpy as np

from benchmarks.modes.made import Net
from benchmarks.modes.merging import STEPS, fit, gradient_of, merge, mixed
from benchmarks.modes.parties import Parties, Spent, carry, keep
from fedmerge import acceptance, distance, parts, whole, wire
from fedmerge.contribution import Contribution
from fedmerge.fusion import fitting, mixing


def plain(net: Net) -> Spent:
    """The bytes of all contributions: written, carried to the server and on to the target, and read there.

    No format, no check, no secret, and nothing is merged.
    """
    spent = Spent()
    source, server, target = spent.once.all
    draw, size = np.random.default_rng(0), 8 * net.parameters
    for site in net.sources:
        data, path = draw.bytes(size), net.folder / site / "plain"
        with source.at_work():
            whole.write(path, data)
        came = carry(path, source, server, net.folder / "server")
        path.unlink()
        with server.at_work():
            came = keep(came, net.folder / "server" / f"{site}.plain")
        taken = carry(came, server, target, net.folder / "target")
        with target.at_work():
            keep(taken, net.folder / "target" / f"{site}.plain").read_bytes()
    return spent


def near(net: Net) -> Spent:
    """The target gets every contribution and fits beside its data; the server merges with its logits once more."""
    spent = Spent()
    _, server, target = spent.once.all
    names = _contributed(net, spent.once)
    given: list[Contribution] = []
    for site in net.sources:
        taken = carry(_stored(net, site), server, target, net.folder / "target")
        with target.at_work():
            path = keep(taken, net.folder / "target" / f"{site}.safetensors")
            assert parts.digest(path) == names[site]
            given.append(wire.read(path, site=site))
    mix = mixed(target, net, [(c.weights, c.fisher) for c in given])
    del given
    state = fit(mix, spent)
    logits, told = merge(target, mix, state)
    del mix
    carry(logits, target, server, net.folder / "server")
    mix = _opened(net, spent.once)
    _, digest = merge(server, mix, state, net.folder / "server" / "model.safetensors")
    assert digest == told
    return spent


def far(net: Net) -> Spent:
    """The server has every contribution; each step a merged model goes to the target, and a gradient comes back."""
    spent = Spent()
    _contributed(net, spent.once)
    mix = _opened(net, spent.once)
    state = fitting.fit_state(mix)
    for number, now in enumerate((spent.once, *[spent.step] * STEPS)):  # the last message has no answer; it warms up
        _, server, target = now.all
        with server.at_work():
            fused = mixing.fuse(mix, mixing.ratios(fitting.fit_logits(mix, state)))
            data = wire.params_to_bytes(fused)
        came = carry(data, server, target, net.folder / "target")
        del data
        with target.at_work():
            there = wire.open_params(came)
        _gone(came)
        if number == 0:
            continue
        gradient, path = gradient_of(there), net.folder / "target" / "gradient"
        with target.at_work():
            whole.write(path, wire.params_to_bytes(gradient))
        answer = carry(path, target, server, net.folder / "server")
        with server.at_work():
            back = wire.params_from_bytes(answer if isinstance(answer, bytes) else answer.read_bytes())
            state = fitting.fit_step(mix, state, back, 0.05, fused=fused)
            whole.write(net.folder / "server" / "state", wire.params_to_bytes(state))
        _gone(answer)
    spent.step *= 1 / STEPS
    merge(spent.once.server, mix, state, net.folder / "server" / "model.safetensors")
    return spent


def _contributed(net: Net, once: Parties) -> dict[str, str]:
    """Every contribution in the server's store, past its checks: site -> SHA-256 of the file."""
    source, server, _ = once.all
    names = {}
    for site in net.sources:
        path = net.written(site, source)
        came = carry(path, source, server, net.folder / "server")
        path.unlink()
        with server.at_work():
            stored = keep(came, _stored(net, site))
            found = acceptance.accept(stored, net.expected, site)
            distance.change(found.weights, net.ancestor)
            names[site] = acceptance.name_of(stored).removeprefix("sha256:")
    return names


def _opened(net: Net, once: Parties) -> mixing.Mix:
    """What the server mixes."""
    with once.server.at_work():
        given = [wire.read(_stored(net, site), site=site) for site in net.sources]
    return mixed(once.server, net, [(c.weights, c.fisher) for c in given])


def _gone(data: bytes | Path) -> None:
    """A file that came is deleted once it is open."""
    if isinstance(data, Path):
        data.unlink()


def _stored(net: Net, site: str) -> Path:
    """Where the server keeps a contribution."""
    return net.folder / "server" / f"{site}.safetensors"
