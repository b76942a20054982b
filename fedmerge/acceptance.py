"""A file from a site becomes a checked contribution, or a refusal that names site, tensor, expected and got.

Its numbers are looked at where they lie, a million at a time, so that a check takes no more memory than that: the size
is bounded by what the net needs, then the header's length, then names and shapes, and only then a number is read.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedmerge import container, nets, params, tasks, wire
from fedmerge.contribution import Contribution, Expected, check, check_shapes
from fedmerge.errors import Refused

SLACK = 1 << 16  # bytes of a header beyond names, shapes and places: the net's settings, labels, spaces


def expected(
    net: tasks.Net,
    ancestor: str,
    *,
    fisher: bool = True,
    parent: str | None = None,
    settings: str | None = None,
    fisher_labels: tuple[str, ...] | None = None,
) -> Expected:
    """What a contribution of this net has to hold; the last three: as `Expected` has them."""
    like = nets.on_meta(net.settings, in_channels=net.in_channels, out_channels=net.out_channels)
    shapes = params.shapes(like)
    wanted = {*net.fusable, *net.norms} if fisher else set()
    return Expected(
        shapes=shapes,
        fisher=tuple(name for name in shapes if name in wanted),
        ancestor=ancestor,
        net=nets.canonical(net.settings, in_channels=net.in_channels, out_channels=net.out_channels),
        labels=net.labels,
        regions=net.regions,
        parent=parent,
        settings=settings,
        fisher_labels=fisher_labels,
    )


def of_training(
    net: tasks.Net, ancestor: str, *, parent: str, key: str, fisher: str, heads: Mapping[str, tuple[int, ...]]
) -> Expected:
    """What the contribution of a task has to be, whoever checks it.

    Args:
        net: the source's.
        ancestor: digest of the common starting weights.
        parent: digest of the weights that it was to start from.
        key: of the task.
        fisher: the word of the task; a policy may have put ones in the Fisher's place.
        heads: shapes of those that it keeps for other sites.
    """
    bare = fisher == "none"
    labels = ("none",) if bare else (fisher, "flat")
    want = expected(net, ancestor, fisher=not bare, parent=parent, settings=key, fisher_labels=labels)
    return replace(want, shapes={**want.shapes, **heads})


def limits(want: Expected) -> tuple[int, int]:
    """The longest contribution, and the longest header of one, that a net needs, in bytes."""
    tensors = {f"weights/{name}": shape for name, shape in want.shapes.items()}
    tensors |= {f"fisher/{name}": want.shapes[name] for name in want.fisher}
    ours = container.encode({name: ("F32", shape) for name, shape in tensors.items()}, {})
    header = 2 * len(ours) + SLACK  # others may write more spaces than we do
    return 4 * sum(math.prod(shape) for shape in tensors.values()) + header, header


def room(net: tasks.Net) -> int:
    """The most bytes that weights, or gradients, of a net take."""
    return limits(expected(net, "", fisher=False))[0]


def check_size(size: int, want: Expected, site: str) -> None:
    """Refuse more bytes than the net needs, before any of them is looked at.

    Raises:
        Refused: names site, expected and got.
    """
    most, _ = limits(want)
    if size > most:
        raise Refused(f"{site}: a contribution expected at most {most} bytes, got {size}")


def accept(path: Path, want: Expected, site: str) -> Contribution:
    """Open what a site sent; its tensors stay in the file, mapped.

    Raises:
        Refused: as the format or the check says.
    """
    check_size(path.stat().st_size, want, site)
    _, most = limits(want)
    header = container.read_header(path, who=site, most=most)
    tensors = {name: entry.shape for name, entry in header.entries.items()}
    for part, shapes in (("weights", want.shapes), ("fisher", {name: want.shapes[name] for name in want.fisher})):
        inside = {n.removeprefix(f"{part}/"): s for n, s in tensors.items() if n.startswith(f"{part}/")}
        check_shapes(inside, shapes, part, site)
    found = wire.read(path, site=site)
    check(found, want, site)
    return found


def name_of(path: Path) -> str:
    """The name by which others refer to the bytes of a file: their SHA-256."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
