"""Starting points for the target's fine-tuning, as one table of choices: rule, grain, chooser.

`METHODS` maps the name that a campaign uses to what it is made of; `docs/methods.md` explains each row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fedmerge.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """What a row of the comparison is made of.

    Attributes:
        name: as asked for, such as `"transfer:north"`.
        sources: which sites' models it begins with; `"pooled"`: one model of all sources' data together.
        rule: `"mean"`, `"mode"`, or None where nothing is fused.
        grain: what shares one ratio.
        chooser: where the ratios come from.
        heads: whether the target's heads begin fresh or as they were.
        norms: likewise for the affine parameters of normalisation layers.
        warm_up: S is adapted before the fine-tuning (with the logits, where they are fitted).
        paper: whom to cite.
        site: the source of a transfer.
    """

    name: str
    sources: Literal["none", "one", "all", "pooled"]
    rule: str | None
    grain: str
    chooser: Literal["uniform", "random", "fitted", "given"]
    heads: Literal["fresh", "kept"]
    norms: Literal["fresh", "kept"]
    warm_up: bool
    paper: str
    site: str | None = None


METHODS: dict[str, Method] = {
    method.name: method
    for method in [
        Method("none", "none", None, "model", "given", "fresh", "fresh", False, "the control: no source at all"),
        Method("transfer", "one", None, "model", "given", "fresh", "kept", True, "Yosinski 2014; Kumar 2022"),
        Method("mean", "all", "mean", "model", "uniform", "fresh", "fresh", False, "Lee 2017; Wortsman 2022"),
        Method("imm-mode", "all", "mode", "model", "uniform", "fresh", "fresh", False, "Lee 2017"),
        Method("imm-mode+warm-up", "all", "mode", "model", "uniform", "fresh", "fresh", True, "Lee 2017; a control"),
        Method("random-ratios", "all", "mode", "layer", "random", "fresh", "fresh", True, "a control of T-IMM"),
        Method("t-imm", "all", "mode", "layer", "fitted", "fresh", "fresh", True, "Geyer 2019"),
        Method("t-imm-kernel", "all", "mode", "kernel", "fitted", "fresh", "fresh", True, "after Geyer 2019"),
        Method("pooled", "pooled", None, "model", "given", "kept", "kept", False, "the upper reference"),
    ]
}  # fmt: skip


def method(name: str, sites: Sequence[str]) -> Method:
    """The row of one name.

    Args:
        name: a key of `METHODS`, or `"transfer:SITE"`.
        sites: the campaign's sources.

    Raises:
        ConfigError: the name is unknown, a transfer names no source, or another method names one.
    """
    base, colon, site = name.partition(":")
    if base not in METHODS:
        raise ConfigError(f"method '{name}' is unknown; the known ones are {', '.join(METHODS)}")
    if METHODS[base].sources != "one":
        if colon:
            raise ConfigError(f"method '{name}': '{base}' takes no site")
        return METHODS[base]
    if site not in sites:
        raise ConfigError(f"method '{name}' expected one of the sources {', '.join(sites)}, got '{site}'")
    return replace(METHODS[base], name=name, site=site)


def expand(names: Sequence[str], sites: Sequence[str]) -> list[Method]:
    """The rows of several names, in their order, each once; plain `transfer` means one for each source.

    Raises:
        ConfigError: as in `method`.
    """
    asked = [f"transfer:{site}" if name == "transfer" else name for name in names
             for site in (sites if name == "transfer" else [""])]  # fmt: skip
    return [method(name, sites) for name in dict.fromkeys(asked)]
