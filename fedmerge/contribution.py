"""What a source sends: a frozen record, and the check that it is what was agreed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedmerge.container import canonical
from fedmerge.errors import Refused
from fedmerge.params import Params

FISHER_LABELS = ("sampled", "observed", "flat", "none")
MOST = 1e30  # magnitude of a number of a contribution: a fusion multiplies numbers, and sums stay finite below it
SLAB = 1 << 20  # numbers that are looked at together, so that a check needs little memory beside a large tensor


@dataclass(frozen=True, eq=False)
class Contribution:
    """One site's model.

    Attributes:
        site: who sends it.
        net: canonical settings of the net (`nets.canonical`): whatever JSON can hold.
        labels: the task's label names in the order of their values and of the output channels, background left out.
        channels: the image channels in their order.
        cases: how many cases the site trained on.
        ancestor: digest of the campaign's common starting weights (P and norms).
        parent: digest of the weights that this training began from.
        weights: all named parameters, float32.
        fisher: raw diagonal Fisher of P and of the norm parameters, never of heads; empty if withheld.
        fisher_labels: `"sampled"`, `"observed"`, `"flat"` (ones in its place), or `"none"`.
        settings: digest of the training settings.
        regions: what the output channels are where they are no labels: name -> labels (`fedmerge.regions`).
    """

    site: str
    net: dict[str, Any]
    labels: tuple[str, ...]
    channels: tuple[str, ...]
    cases: int
    ancestor: str
    parent: str
    weights: Params
    fisher: Params
    fisher_labels: str
    settings: str
    regions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Everything but the tensors, as plain JSON values."""
        return {
            "site": self.site,
            "net": self.net,
            "labels": list(self.labels),
            "channels": list(self.channels),
            "cases": self.cases,
            "ancestor": self.ancestor,
            "parent": self.parent,
            "fisher_labels": self.fisher_labels,
            "settings": self.settings,
            **({"regions": {name: list(own) for name, own in self.regions.items()}} if self.regions else {}),
        }

    def __eq__(self, other: object) -> bool:
        """Equal facts, equal names, and tensors that are equal element by element."""
        if not isinstance(other, Contribution):
            return NotImplemented
        return (
            canonical(self.facts()) == canonical(other.facts())
            and _same(self.weights, other.weights)
            and _same(self.fisher, other.fisher)
        )

    __hash__ = None  # type: ignore[assignment]  # tensors have no hash by value


@dataclass(frozen=True)
class Expected:
    """What a campaign expects of a contribution; None: anything.

    Attributes:
        shapes: all parameters of the net.
        fisher: the names that carry a Fisher; empty if none may come.
        ancestor: digest of the common starting weights.
        net: canonical settings of the net.
        labels: label names in channel order.
        parent: digest of the weights that the training was to begin from.
        settings: the task's key, which no other task has: a contribution to an earlier round has another one.
        fisher_labels: the words that the Fisher may come with.
        regions: what the channels are where they are no labels; empty: labels.
    """

    shapes: Mapping[str, tuple[int, ...]]
    fisher: tuple[str, ...] = ()
    ancestor: str | None = None
    net: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    parent: str | None = None
    settings: str | None = None
    fisher_labels: tuple[str, ...] | None = None
    regions: Mapping[str, Sequence[str]] | None = None


def slabs(value: Tensor) -> Iterator[Tensor]:
    """The tensor's numbers in pieces of at most `SLAB`; views where it is contiguous."""
    flat = value.reshape(-1)
    return (flat[start : start + SLAB] for start in range(0, flat.numel(), SLAB))


def check(c: Contribution, expected: Expected, site: str) -> None:
    """Refuse a contribution that is not what was agreed.

    Args:
        c: what came.
        expected: what was agreed.
        site: from whom it came, by the transport and not by the contribution's own word.

    Raises:
        Refused: names the site, the tensor or field, what was expected and what came.
    """
    if c.site != site:
        raise Refused(f"{site}: site expected '{site}', got '{c.site}'")
    if expected.ancestor is not None and c.ancestor != expected.ancestor:
        raise Refused(f"{site}: ancestor expected {expected.ancestor}, got {c.ancestor}")
    if expected.net is not None:
        for key in sorted(c.net.keys() | expected.net.keys()):
            want, got = canonical(expected.net.get(key)), canonical(c.net.get(key))
            if want != got:
                raise Refused(f"{site}: net.{key} expected {want}, got {got}")
    if expected.labels is not None and c.labels != expected.labels:
        raise Refused(f"{site}: labels expected {list(expected.labels)}, got {list(c.labels)}")
    if expected.regions is not None and canonical(dict(c.regions)) != canonical(dict(expected.regions)):
        want, got = (canonical(dict(one)) if one else "none" for one in (expected.regions, c.regions))
        raise Refused(f"{site}: regions expected {want}, got {got}")
    if expected.parent is not None and c.parent != expected.parent:
        raise Refused(f"{site}: parent expected {expected.parent}, got {c.parent}: trained from other weights")
    if expected.settings is not None and c.settings != expected.settings:
        raise Refused(f"{site}: settings expected {expected.settings}, got {c.settings}: made for another task")
    if expected.fisher_labels is not None and c.fisher_labels not in expected.fisher_labels:
        want = " or ".join(expected.fisher_labels)
        raise Refused(f"{site}: fisher_labels expected {want}, got {c.fisher_labels}")
    if c.cases < 1:
        raise Refused(f"{site}: cases expected at least 1, got {c.cases}")
    check_tensors(c.weights, expected.shapes, "weights", site)
    check_tensors(c.fisher, {name: expected.shapes[name] for name in expected.fisher}, "fisher", site)
    check_fisher(c.fisher, site)


def check_shapes(
    found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], what: str, site: str
) -> None:
    """Refuse other names or shapes; a header is enough to tell.

    Raises:
        Refused: names site, tensor, expected, got.
    """
    for name in shapes:
        if name not in found:
            raise Refused(f"{site}: {what}['{name}'] is missing")
    for name, shape in found.items():
        if name not in shapes:
            raise Refused(f"{site}: {what}['{name}'] is not expected")
        if shape != tuple(shapes[name]):
            raise Refused(f"{site}: {what}['{name}'] expected shape {tuple(shapes[name])}, got {shape}")


def check_tensors(params: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str, site: str) -> None:
    """Refuse tensors of other names, shapes or dtypes, and values that are not finite.

    Raises:
        Refused: names site, tensor, expected, got.
    """
    check_shapes({name: tuple(value.shape) for name, value in params.items()}, shapes, what, site)
    for name, value in params.items():
        if value.dtype != torch.float32:
            raise Refused(f"{site}: {what}['{name}'] expected torch.float32, got {value.dtype}")
        check_finite(value, f"{what}['{name}']", site)


def check_finite(value: Tensor, what: str, site: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        Refused: names site and tensor, and counts the bad values.
    """
    bad = value.numel() - sum(int(torch.isfinite(piece).sum()) for piece in slabs(value))
    if bad:
        raise Refused(f"{site}: {what} expected finite values, got {bad} that are NaN or infinite")


def check_magnitude(value: Tensor, what: str, site: str) -> None:
    """Refuse numbers that no trained net holds, beyond `MOST`: a merge could not be computed with them.

    Raises:
        Refused: names site and tensor.
    """
    most = max((piece.abs().max().item() for piece in slabs(value)), default=0.0)
    if most > MOST:
        raise Refused(f"{site}: {what} expected numbers up to {MOST:.0e}, got {most:.3g}")


def check_fisher(fisher: Mapping[str, Tensor], site: str) -> None:
    """Refuse a Fisher with a negative value, or one that is zero in every tensor.

    Raises:
        Refused: names site and tensor.
    """
    for name, value in fisher.items():
        if (low := value.min().item()) < 0:
            raise Refused(f"{site}: fisher['{name}'] expected no negative value, got {low:.3g}")
    if fisher and not any(value.any() for value in fisher.values()):
        raise Refused(f"{site}: the whole Fisher is zero")


def common_ancestor(contributions: Iterable[Contribution]) -> str:
    """The ancestor that all contributions share.

    Raises:
        Refused: names the first two sites that differ, or says that there is no contribution.
    """
    first: Contribution | None = None
    for c in contributions:
        first = first or c
        if c.ancestor != first.ancestor:
            raise Refused(
                f"{first.site} and {c.site} share no ancestor: {first.ancestor} and {c.ancestor}; "
                "models that began apart cannot be fused"
            )
    if first is None:
        raise Refused("there is no contribution, so there is no ancestor")
    return first.ancestor


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )
