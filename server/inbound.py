"""Bytes from a site become a checked contribution, or a refusal that names site, tensor, expected and got."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fedmerge import nets, params, tasks, wire
from fedmerge.contribution import Contribution, Expected, check
from fedmerge.errors import ConfigError, Refused

SLACK = 1 << 20  # header and settings: bytes beyond those of the tensors


def read_given(path: Path, site: str) -> Contribution:
    """A stored contribution that stands in for a site's training.

    Raises:
        ConfigError: the file is missing.
        Refused: it is no contribution, or another site's.
    """
    if not path.exists():
        raise ConfigError(f"{site}: there is no contribution {path}")
    found = wire.from_bytes(path.read_bytes(), site=site)
    if found.site != site:
        raise Refused(f"{site}: expected this site's contribution in {path.name}, got that of '{found.site}'")
    return found


def expected(net: tasks.Net, ancestor: str, *, fisher: bool = True) -> Expected:
    """What a contribution of this net has to hold."""
    like = nets.on_meta(net.settings, in_channels=net.in_channels, out_channels=net.out_channels)
    shapes = params.shapes(like)
    wanted = {*net.fusable, *net.norms} if fisher else set()
    return Expected(
        shapes=shapes,
        fisher=tuple(name for name in shapes if name in wanted),
        ancestor=ancestor,
        net=nets.canonical(net.settings, in_channels=net.in_channels, out_channels=net.out_channels),
        labels=net.labels,
    )


def accept(data: bytes, want: Expected, site: str) -> Contribution:
    """Open what a site sent; its size is bounded by what the net needs before anything is parsed.

    Raises:
        Refused: as the format or the check says.
    """
    floats = sum(_count(shape) for shape in want.shapes.values())
    floats += sum(_count(want.shapes[name]) for name in want.fisher)
    found = wire.from_bytes(data, max_bytes=4 * floats + SLACK, site=site)
    check(found, want, site)
    return found


def name_of(data: bytes) -> str:
    """The name by which others refer to these bytes: their SHA-256."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _count(shape: Iterable[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
