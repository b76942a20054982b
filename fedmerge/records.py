"""What a training is asked to do, and what it tells of itself."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from fedmerge import augment, schedules
from fedmerge.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """How one phase trains.

    Attributes:
        steps: optimiser steps, one batch each.
        lr: AdamW's learning rate.
        batch_size: for those who make the batches; the loop takes what `batches` gives.
        augment: likewise: names of changes to the images (`augment.NAMES`).
        schedule: one of `schedules.SCHEDULES`, multiplied with every rate.
        final: the schedule's last factor.
        cycles: cycles of schedule `cyclical`.
        weight_decay: AdamW's, for every parameter that is trained.
        clip_norm: upper bound of the gradient's norm over all trained parameters; None: no clipping.
        validate_every: steps between validations; 0: none.
        patience: validations without a new best before training ends early; 0: it never does.
        specific_lr: the rate of task-specific parameters in `rates`; None: `lr`.
        record_every: steps between records (an epoch, say); 0: one with each validation, or twenty in a run.
        ema: decay of an exponential average of the weights, which is validated and kept in their place; 0: none.
        deep: whether the loss is also taken of the coarser logits of a net that has some (`losses.at_levels`).
    """

    steps: int
    lr: float
    batch_size: int = 2
    schedule: str = "constant"
    final: float = 0.1
    cycles: int = 1
    weight_decay: float = 0.0
    clip_norm: float | None = None
    validate_every: int = 0
    patience: int = 0
    specific_lr: float | None = None
    record_every: int = 0
    ema: float = 0.0
    augment: tuple[str, ...] = ()
    deep: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in schedules.SCHEDULES:
            known = ", ".join(schedules.SCHEDULES)
            raise ConfigError(f"schedule expected one of {known}, got {self.schedule!r}")
        for name in ("lr", "batch_size", "cycles"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} expected a positive number, got {getattr(self, name)}")
        for name in ("steps", "final", "weight_decay", "validate_every", "patience", "record_every", "ema"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} expected 0 or more, got {getattr(self, name)}")
        for change in self.augment:
            if change not in (augment.ALL, *augment.NAMES):
                raise ConfigError(f"augment expected names of {', '.join(augment.NAMES)}, or all, got {change!r}")
        if self.ema >= 1:
            raise ConfigError(f"ema expected a decay below 1, got {self.ema}")

    @property
    def facts(self) -> dict[str, Any]:
        """All settings for a name or a checkpoint; those that came later are left out where they say nothing."""
        return {key: value for key, value in asdict(self).items() if value or key not in ("augment", "deep")}

    def rates(self, names: Iterable[str], specific: Iterable[str] = ()) -> dict[str, float]:
        """The learning rate of each name: `specific_lr` for those in `specific`, `lr` for the others."""
        own = set(specific)
        other = self.lr if self.specific_lr is None else self.specific_lr
        return {name: other if name in own else self.lr for name in names}


@dataclass(frozen=True)
class Record:
    """What is known after `step` steps.

    Attributes:
        step: steps done.
        loss: mean over the steps since the last record; None where there was no step since.
        lr: the highest rate of the step to come.
        validation: what `validate` gave, or None where none was due.
        seconds: time spent in the loop so far, earlier processes included.
    """

    step: int
    loss: float | None
    lr: float
    validation: float | None
    seconds: float


@dataclass(frozen=True)
class History:
    """A finished run: its records, the step whose weights are kept, the steps made, and the time they took."""

    records: tuple[Record, ...]
    best_step: int
    steps: int
    seconds: float
