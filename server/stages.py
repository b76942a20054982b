"""How the phases train: `[train]`, `[adapt]` and `[finetune]` of a campaign file, as frozen records."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fedmerge import schedules
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

    def length(self, cases: int) -> int:
        """Steps of this phase on so many cases."""
        return self.steps or self.epochs * math.ceil(cases / self.batch_size)

    def settings(self, cases: int, steps: int | None = None) -> dict[str, Any]:
        """The fields of `fedmerge.training.Settings`, the length resolved to steps."""
        table: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(Stage) if f.name != "epochs"}
        table["steps"] = self.length(cases) if steps is None else steps
        table["clip_norm"] = self.clip_norm or None
        table["specific_lr"] = self.specific_lr or None
        return table


@dataclass(frozen=True)
class Train(Stage):
    """`[train]`: a source at home, and the Fisher it takes afterwards."""

    lr: float = 3e-3
    fisher: str = "sampled"
    fisher_cases: int = 20


@dataclass(frozen=True)
class Adapt(Stage):
    """`[adapt]`: `lr` is for the target's own parameters S, `logits_lr` for the mixing logits."""

    lr: float = 1e-2
    logits_lr: float = 0.05


@dataclass(frozen=True)
class Finetune(Stage):
    """`[finetune]`: everything trains at the target."""

    lr: float = 3e-3


S = TypeVar("S", bound=Stage)
Check = Callable[[Any, str], Any]

KINDS: dict[Any, Check] = {int: values.whole, float: values.number, str: values.text}
NARROWER: dict[str, Check] = {
    "lr": partial(values.number, positive=True),
    "batch_size": partial(values.whole, least=1),
    "cycles": partial(values.whole, least=1),
    "final": partial(values.number, most=1),
    "schedule": partial(values.choice, options=tuple(schedules.SCHEDULES)),
    "fisher": partial(values.choice, options=("sampled", "observed")),
}


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
