"""How the phases train and what models are scored by: four tables of a campaign file, as frozen records."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fedmerge import augment, measures, schedules
from fedmerge.errors import ConfigError
from server import values


@dataclass(frozen=True)
class Stage:
    """How one phase trains: its length in steps or epochs, and the optimiser's settings."""

    lr: float
    steps: int = 0
    epochs: int = 0
    batch_size: int = 2
    schedule: str = "constant"
    final: float = 0.1
    cycles: int = 1
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    validate_every: int = 0
    patience: int = 0
    specific_lr: float = 0.0
    augment: tuple[str, ...] = ()
    deep: bool = False

    def length(self, cases: int) -> int:
        """Steps of this phase on so many cases."""
        return self.steps or self.epochs * math.ceil(cases / self.batch_size)

    def settings(self, cases: int, steps: int | None = None) -> dict[str, Any]:
        """The fields of `fedmerge.training.Settings`, the length resolved to steps."""
        table: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(Stage) if f.name != "epochs"}
        table["steps"] = self.length(cases) if steps is None else steps
        table["clip_norm"] = self.clip_norm or None
        table["specific_lr"] = self.specific_lr or None
        for later in ("augment", "deep"):  # a task without them keeps the name that it had before there were any
            if not table[later]:
                del table[later]
        return table


@dataclass(frozen=True)
class Train(Stage):
    """`[train]`: a source at home, and the Fisher it takes afterwards.

    The others are for the methods of their names: `l2`, `ewc` and `mu` (FedProx) weigh a penalty, `drop` is the share
    of parameters that drop-transfer puts back, `distil` weighs the distillation of the source before, `rounds` are
    those that the methods of federated averaging divide the steps into. `epsilon` or `dp_noise` asks for differential
    privacy. With `fisher = "target"` no Fisher leaves a source: the target makes one of each model that it receives.
    """

    lr: float = 3e-3
    fisher: str = "sampled"
    fisher_cases: int = 20
    l2: float = 0.01
    drop: float = 0.5
    ewc: float = 0.1
    distil: float = 1.0
    mu: float = 0.01
    rounds: int = 5
    epsilon: float = 0.0
    delta: float = 1e-5
    dp_clip: float = 1.0
    dp_noise: float = 0.0

    @property
    def private(self) -> bool:
        """Whether each patient is to be protected by noise."""
        return self.epsilon > 0 or self.dp_noise > 0

    @property
    def sent(self) -> str:
        """The Fisher that a source sends: `"none"` where the target makes it."""
        return "none" if self.fisher == "target" else self.fisher

    def strength(self, way: str) -> float:
        """What weighs a way of training."""
        named = {"l2": self.l2, "drop": self.drop, "ewc": self.ewc, "lwf": self.distil, "fedprox": self.mu}
        return named.get(way, 0.0)


@dataclass(frozen=True)
class Adapt(Stage):
    """`[adapt]`: `lr` is for the target's own parameters S, `logits_lr` for the mixing logits.

    `scale` is what task arithmetic multiplies the sum of the differences with, `density` the share of each difference
    that TIES keeps.
    """

    lr: float = 1e-2
    logits_lr: float = 0.05
    scale: float = 0.5
    density: float = 0.2


@dataclass(frozen=True)
class Finetune(Stage):
    """`[finetune]`: everything trains at the target.

    `gentle` scales the rates where the heads are stitched, `share` is the end's in `+wise-ft`, `ema` the decay of
    `+ema`, `soup_rates` are the factors of `lr` whose models a soup is made of, `soup_cycles` the snapshots of each
    rate in `gou` and `gog`.
    """

    lr: float = 3e-3
    gentle: float = 0.1
    share: float = 0.5
    ema: float = 0.98
    soup_rates: tuple[float, ...] = (0.3, 1.0, 3.0)
    soup_cycles: int = 4


@dataclass(frozen=True)
class Evaluate:
    """`[evaluate]`: what test cases are scored by, and how models are asked.

    `overlap` is the share that neighbouring windows over a whole volume have in common. With `flips` test cases are
    answered by the mean over all mirrored images.
    """

    measures: tuple[str, ...] = ("dice",)
    overlap: float = 0.5
    flips: bool = False


S = TypeVar("S", bound=Stage)
Check = Callable[[Any, str], Any]


def _changes(value: Any, where: str) -> tuple[str, ...]:  # noqa: ANN401 - whatever TOML can hold
    """Names of augmentations."""
    found = values.texts(value, where)
    for name in found:
        values.choice(name, where, options=(augment.ALL, *augment.NAMES))
    return found


KINDS: dict[Any, Check] = {
    int: values.whole,
    float: values.number,
    str: values.text,
    bool: values.truth,
    tuple[float, ...]: values.numbers,
    tuple[str, ...]: _changes,
}
NARROWER: dict[str, Check] = {
    "lr": partial(values.number, positive=True),
    "batch_size": partial(values.whole, least=1),
    "cycles": partial(values.whole, least=1),
    "final": partial(values.number, most=1),
    "schedule": partial(values.choice, options=tuple(schedules.SCHEDULES)),
    "fisher": partial(values.choice, options=("sampled", "observed", "target")),
    "drop": partial(values.number, most=1),
    "density": partial(values.number, positive=True, most=1),
    "rounds": partial(values.whole, least=1),
    "delta": partial(values.number, positive=True, most=0.5),
    "dp_clip": partial(values.number, positive=True),
    "gentle": partial(values.number, positive=True),
    "share": partial(values.number, most=1),
    "ema": partial(values.number, most=1),
    "soup_cycles": partial(values.whole, least=1),
}


def _measures(value: Any, where: str) -> tuple[str, ...]:  # noqa: ANN401 - whatever TOML can hold
    """Dice, and what else is measured."""
    found = values.texts(value, where)
    for name in found:
        values.choice(name, where, options=("dice", *measures.EXTRAS))
    if "dice" not in found:
        raise ConfigError(f"{where} expected 'dice' among them, by which models are chosen, got {value!r}")
    return ("dice", *(name for name in measures.EXTRAS if name in found))


SCORING: dict[str, Check] = {
    "measures": _measures,
    "overlap": partial(values.number, most=0.9),
    "flips": values.truth,
}


def evaluation(table: Mapping[str, Any], where: str) -> Evaluate:
    """`[evaluate]` of a campaign file.

    Raises:
        ConfigError: a key is unknown or impossible.
    """
    place = f"{where}: [evaluate]"
    given = values.table(table, "evaluate", place)
    values.only(given, place, SCORING)
    return Evaluate(**{key: SCORING[key](value, f"{place} {key}") for key, value in given.items()})


def read(kind: type[S], table: Mapping[str, Any], name: str, where: str) -> S:
    """One phase of a campaign file.

    Args:
        kind: the record to read it into; its fields say which keys there are, and of which type.
        table: the file's tables.
        name: the phase's table among them.
        where: the file, for the sentences.

    Raises:
        ConfigError: a key is unknown or impossible, or the length is given twice or not at all.
    """
    place = f"{where}: [{name}]"
    given = values.table(table, name, place)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values.only(given, place, fields)
    read = {key: NARROWER.get(key, KINDS[fields[key].type])(value, f"{place} {key}") for key, value in given.items()}
    if bool(read.get("steps")) == bool(read.get("epochs")):
        raise ConfigError(f"{place} expected either steps or epochs, got {'both' if read.get('steps') else 'neither'}")
    return kind(**read)
