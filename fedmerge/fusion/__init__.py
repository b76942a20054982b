"""Starting points for the target's fine-tuning, as one table of choices.

`METHODS` maps the name that a campaign uses to what it is made of: how the sources train, rule, grain, chooser, how the
target starts and how it finishes. `OPTIONS` are choices that may follow a name, as in `"lwf+stitch+wise-ft"`.
`docs/methods.md` explains each row. Other packages may add rows (`fusion.foreign`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedmerge.errors import ConfigError
from fedmerge.fusion import foreign

CHAINED = ("l2", "drop", "ewc", "lwf")  # ways of training that look back at the source before
ROUNDS = ("fedavg", "fedprox", "fedavg-fisher")


@dataclass(frozen=True)
class Method:
    """What a row of the comparison is made of.

    Attributes:
        name: as asked for, such as `"transfer:north"`.
        sources: which sites' models it begins with; `"last"`: the last one of the chain; `"rounds"`: the average that
            rounds of federated training end with; `"pooled"`: one model of all sources' data together;
            `"candidates"`: several methods, of which the target's cases choose one.
        training: how the sources train. `"plain"`: as the campaign's schedule has it; `"parallel"`: each from the
            ancestor; `"own"`: each from an initialisation of its own; the others are names of papers' methods.
        rule: `"mean"`, `"mode"`, `"task-arithmetic"`, `"ties"`, the name of another package's method that has a rule of
            its own, or None where nothing is fused.
        grain: what shares one ratio.
        chooser: where the ratios come from; `"anchored"`: fitted, from the first source's model on.
        heads: whether the target's heads begin fresh, as they were, or put together from the sources' rows.
        norms: whether the affine parameters of normalisation layers begin fresh, as the (last) source's, or merged.
        warm_up: S is adapted before the fine-tuning (with the logits, where they are fitted).
        paper: whom to cite.
        site: the source of a transfer.
        align: whether the models' hidden units are matched to the first model's before they are merged.
        soup: how the fine-tuned models of several learning rates become one; an empty text: there is one rate.
        wise_ft: the model ends halfway between the fine-tuning's start and its end.
        ema: the fine-tuning's weights are averaged on the way.
        only: of all sources, those that are merged, or that a chain is made of; empty: every one.
        admit: whether the target's validation cases say which sources' models are merged.
    """

    name: str
    sources: Literal["none", "one", "last", "all", "rounds", "pooled", "candidates"]
    training: Literal["plain", "parallel", "own", "l2", "drop", "ewc", "lwf", "fedavg", "fedprox", "fedavg-fisher"]
    rule: str | None
    grain: str
    chooser: Literal["uniform", "random", "fitted", "anchored", "given"]
    heads: Literal["fresh", "kept", "stitched"]
    norms: Literal["fresh", "kept", "merged"]
    warm_up: bool
    paper: str
    site: str | None = None
    align: bool = False
    soup: Literal["", "greedy", "gou", "gog"] = ""
    wise_ft: bool = False
    ema: bool = False
    only: tuple[str, ...] = ()
    admit: bool = False

    @property
    def way(self) -> str:
        """How its sources train, and which of them where a chain leaves some out: `"lwf"`, `"lwf[north/south]"`."""
        return f"{self.training}[{'/'.join(self.only)}]" if self.sources == "last" and self.only else self.training

    @property
    def fits(self) -> bool:
        """Whether its ratios are fitted on the target's cases."""
        return self.chooser in ("fitted", "anchored")


METHODS: dict[str, Method] = {
    method.name: method
    for method in [
        Method("none", "none", "plain", None, "model", "given", "fresh", "fresh", False, "the control"),
        Method("transfer", "one", "plain", None, "model", "given", "fresh", "kept", True, "Yosinski 2014; Kumar 2022"),
        Method("pooled", "pooled", "plain", None, "model", "given", "kept", "kept", False, "the upper reference"),
        Method("mean", "all", "plain", "mean", "model", "uniform", "fresh", "fresh", False, "Lee 2017; Wortsman 2022"),
        Method("imm-mode", "all", "plain", "mode", "model", "uniform", "fresh", "fresh", False, "Lee 2017"),
        Method("imm-mode+warm-up", "all", "plain", "mode", "model", "uniform", "fresh", "fresh", True, "a control"),
        Method("random-ratios", "all", "plain", "mode", "layer", "random", "fresh", "fresh", True, "a control"),
        Method("t-imm", "all", "plain", "mode", "layer", "fitted", "fresh", "fresh", True, "Geyer 2019"),
        Method("t-imm-kernel", "all", "plain", "mode", "kernel", "fitted", "fresh", "fresh", True, "after Geyer 2019"),
        Method("imm-l2", "all", "l2", "mode", "model", "uniform", "fresh", "fresh", False, "Lee 2017"),
        Method("imm-drop", "all", "drop", "mode", "model", "uniform", "fresh", "fresh", False, "Lee 2017"),
        Method("ewc", "last", "ewc", None, "model", "given", "fresh", "kept", True, "Kirkpatrick 2016"),
        Method("lwf", "last", "lwf", None, "model", "given", "fresh", "kept", True, "Li & Hoiem 2016"),
        Method("medmerge", "all", "own", "mean", "kernel", "anchored", "fresh", "fresh", True, "Almakky 2024"),
        Method("aligned-mean", "all", "own", "mean", "model", "uniform", "fresh", "fresh", False,
               "Ainsworth 2023", align=True),
        Method("aligned-t-imm", "all", "own", "mode", "layer", "fitted", "fresh", "fresh", True,
               "Ainsworth 2023; Geyer 2019", align=True),
        Method("greedy-soup", "all", "plain", "mode", "model", "uniform", "fresh", "fresh", True,
               "Wortsman 2022", soup="greedy"),
        Method("gou", "all", "plain", "mode", "model", "uniform", "fresh", "fresh", True, "Sanjeev 2024", soup="gou"),
        Method("gog", "all", "plain", "mode", "model", "uniform", "fresh", "fresh", True, "Sanjeev 2024", soup="gog"),
        Method("fedavg", "rounds", "fedavg", None, "model", "given", "fresh", "kept", True, "McMahan 2017"),
        Method("fedprox", "rounds", "fedprox", None, "model", "given", "fresh", "kept", True, "Li 2020"),
        Method("fedavg-fisher", "rounds", "fedavg-fisher", None, "model", "given", "fresh", "kept", True,
               "Matena & Raffel 2022"),
        Method("task-arithmetic", "all", "parallel", "task-arithmetic", "model", "given", "fresh", "fresh", True,
               "Ilharco 2023"),
        Method("ties", "all", "parallel", "ties", "model", "given", "fresh", "fresh", True, "Yadav 2023"),
        Method("auto", "candidates", "plain", None, "model", "given", "fresh", "fresh", False, "ours"),
    ]
}  # fmt: skip

OPTIONS: dict[str, dict[str, Any]] = {
    "stitch": {"heads": "stitched"},
    "keep-norm": {"norms": "kept"},
    "merge-norm": {"norms": "merged"},
    "wise-ft": {"wise_ft": True},
    "ema": {"ema": True},
    "admit": {"admit": True},
}


def method(name: str, sites: Sequence[str]) -> Method:
    """The row of one name.

    Args:
        name: a key of `METHODS`, or `"transfer:SITE"`, perhaps with options behind it. A merge or a chain of some
            sources only names them: `"t-imm:north/south"`, `"lwf:north/south"`.
        sites: the campaign's sources.

    Raises:
        ConfigError: the name or an option is unknown or cannot be had together, a transfer names no source, or a
            method names sources that it cannot have.
    """
    found, options = _base(name, sites)
    if options and found.sources == "candidates":
        raise ConfigError(f"method '{name}': '{found.name}' chooses its options itself")
    for option in options:
        if option not in OPTIONS:
            raise ConfigError(f"method '{name}': the option '+{option}' is unknown; there are +{', +'.join(OPTIONS)}")
        if options.count(option) > 1:
            raise ConfigError(f"method '{name}' has the option '+{option}' twice")
        found = _with(found, option, name)
    return replace(found, name=name)


def named(name: str, sites: Sequence[str]) -> str:
    """The name of a method for some sources only: `"lwf+stitch"` and two of them make `"lwf:north/west+stitch"`."""
    base, options = _words(name)
    return "+".join([f"{base}:{'/'.join(sites)}", *options])


def parted(way: str) -> tuple[str, tuple[str, ...]]:
    """A `Method.way` as (training, the sources of its chain); no sources where all take part."""
    training, bracket, named = way.removesuffix("]").partition("[")
    return training, tuple(named.split("/")) if bracket else ()


def expand(names: Sequence[str], sites: Sequence[str]) -> list[Method]:
    """The rows of several names, in their order, each once; a transfer without a site means one for each source.

    Raises:
        ConfigError: as in `method`.
    """
    asked: list[str] = []
    for name in names:
        base, plus, options = name.partition("+")
        asked += [f"transfer:{site}{plus}{options}" for site in sites] if base == "transfer" else [name]
    return [method(name, sites) for name in dict.fromkeys(asked)]


def _base(name: str, sites: Sequence[str]) -> tuple[Method, list[str]]:
    """The table's row, and the options behind its name."""
    first, options = _words(name)
    base, colon, named = first.partition(":")
    row = foreign.row(base, METHODS) or METHODS.get(base)
    if row is None:
        known = ", ".join([*METHODS, *foreign.names(METHODS)])
        raise ConfigError(f"method '{name}' is unknown; the known ones are {known}")
    found = row
    own = named.split("/") if colon else []
    if found.sources == "one":
        if named not in sites:
            raise ConfigError(f"method '{name}' expected one of the sources {', '.join(sites)}, got '{named}'")
        found = replace(found, site=named)
    elif found.sources in ("all", "last"):
        if unknown := [site for site in own if site not in sites or own.count(site) > 1]:
            raise ConfigError(f"method '{name}' expected sources of {', '.join(sites)}, each once, got '{unknown[0]}'")
        found = replace(found, only=tuple(site for site in sites if site in own))
        if found.sources == "last" and len(own) == len(sites):
            found = replace(found, only=())  # the chain of all
    elif colon:
        raise ConfigError(f"method '{name}': '{base}' takes no site")
    return found, options


def _words(name: str) -> tuple[str, list[str]]:
    """What stands before the options, and these; a name of the table may hold a plus itself."""
    words = name.split("+")
    two = ":" not in words[0] and "+".join(words[:2]).partition(":")[0] in METHODS
    count = 2 if two else 1
    return "+".join(words[:count]), words[count:]


def _with(found: Method, option: str, name: str) -> Method:
    """The row with one more option."""
    if option == "stitch" and found.sources in ("none", "rounds", "pooled"):
        raise ConfigError(f"method '{name}': there are no sources' heads to stitch")
    if option == "keep-norm" and found.sources == "none":
        raise ConfigError(f"method '{name}': there are no norm parameters to keep")
    if option == "merge-norm" and (found.sources != "all" or found.rule not in ("mean", "mode")):
        raise ConfigError(f"method '{name}': norm parameters are merged where models are, by mean or mode")
    if option == "merge-norm" and found.fits:
        raise ConfigError(f"method '{name}': norm parameters train while ratios are fitted, and cannot be merged too")
    if option == "admit" and found.sources != "all":
        raise ConfigError(f"method '{name}': no sources' models are merged, so none has to be admitted")
    changed = replace(found, **OPTIONS[option])
    if changed.heads == "stitched" and not changed.fits:
        changed = replace(changed, warm_up=False)  # stitched heads are trained: there is nothing to warm up
    return changed
