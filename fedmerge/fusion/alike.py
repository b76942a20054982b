"""Whether sets of parameters can be merged at all: the same names, the same shapes, floating-point numbers."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedmerge.errors import ConfigError, Refused

STRANGERS = 0.1
"""Below this cosine two models show no sign of a common start."""


def sites(models: Sequence[object], who: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the models for sentences: those given, or `model 0`, `model 1`, ...

    Raises:
        ConfigError: not one name a model.
    """
    if who is None:
        return tuple(f"model {t}" for t in range(len(models)))
    if len(who) != len(models):
        raise ConfigError(f"expected one name a model, got {len(who)} names and {len(models)} models")
    return tuple(who)


def check(
    sets: Sequence[Mapping[str, Tensor]],
    what: str,
    like: Mapping[str, Tensor],
    names: Sequence[str],
    sites: Sequence[str],
) -> None:
    """Refuse sets that lack a name, or hold another shape or whole numbers there.

    Args:
        sets: one a site.
        what: `"weights"` or `"fisher"`, for sentences.
        like: the set that has the right shapes.
        names: what is looked at.
        sites: the sites' names, for sentences.

    Raises:
        Refused: with the site, the tensor, what was expected and what came.
    """
    for site, own in zip(sites, sets, strict=True):
        for name in names:
            if name not in own:
                raise Refused(f"{site}: {what}['{name}'] is missing")
            want, got = tuple(like[name].shape), tuple(own[name].shape)
            if got != want:
                raise Refused(f"{site}: {what}['{name}'] expected shape {want}, got {got}")
            if not own[name].is_floating_point():
                raise Refused(f"{site}: {what}['{name}'] expected a float dtype, got {own[name].dtype}")


def cosine(first: Mapping[str, Tensor], second: Mapping[str, Tensor], names: Sequence[str]) -> float | None:
    """The cosine between the weights of two models, read one tensor at a time.

    Training turns weights away from where they began, and not all the way: of models with a common start it is well
    above 0, of others as near to 0 as chance has it. Only tensors of two axes and more count; biases and norms begin
    alike everywhere.

    Args:
        first: weights by name.
        second: likewise.
        names: what is compared.

    Returns:
        the cosine; None where there is nothing to compare.
    """
    product = one = other = 0.0
    for name in names:
        a, b = first[name], second[name]
        if a.ndim > 1:
            a, b = a.double(), b.double()
            product += float((a * b).sum())
            one += float(a.square().sum())
            other += float(b.square().sum())
    return product / (one * other) ** 0.5 if one * other > 0 else None
