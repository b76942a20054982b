"""One loop for training at a site, adaptation and fine-tuning.

A run is deterministic: batches, dropout and learning rate are functions of (seed, step), so stopping anywhere
and going on, in the same process or from a checkpoint, gives the numbers of a run that never stopped, bit for
bit at equal threads, device and precision. The weights stay float32; autocast covers the forward pass.

    run = Run(net, batches, Settings(steps=100, lr=1e-3), seed=0)
    run.advance(50)
    run.save(path)
    run.advance(100)
    history = run.finish()
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge import averaging, devices, losses, optimiser, params, schedules, stopping
from fedmerge import checkpoint as disk
from fedmerge.averaging import Average
from fedmerge.errors import ConfigError, NetError
from fedmerge.loader import Ahead, Batches
from fedmerge.params import Params
from fedmerge.passes import Pass, Through, answer
from fedmerge.records import History, Record, Settings

__all__ = ["History", "Record", "Run", "Settings", "Through", "answer", "train"]


def train(
    net: nn.Module,
    batches: Batches,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    **options: Any,  # noqa: ANN401 - Run checks them
) -> History:
    """Train to the end, from `checkpoint` where that file exists, and leave the best weights in the net.

    Args:
        net: as for `Run`.
        batches: as for `Run`.
        settings: as for `Run`.
        checkpoint: as for `Run`.
        options: the other arguments of `Run`.

    Raises:
        ConfigError: the checkpoint is another run's.
        NetError: as `Run`.
    """
    run = Run(net, batches, settings, checkpoint=checkpoint, **options)
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    run.advance(settings.steps)
    return run.finish()


class Run:
    """A training under way.

    Args:
        net: trained in place, and moved to the device. Parameters that are neither trained nor watched get no
            gradient until `finish`.
        batches: step -> images (B, C, *S) float32, labels (B, 1, *S) int64, on the CPU; a pure function.
        settings: how to train.
        seed: of the dropout masks.
        rates: parameter -> learning rate, for what is trained; all at `settings.lr` when missing.
        watch: names whose `.grad` is wanted after a step although they are not trained.
        validate: net in evaluation mode -> score, higher is better. It is asked before the first step, every
            `validate_every` steps, and by `finish`.
        device: see `devices.resolve`.
        precision: see `devices.precision`.
        loss: (logits, labels) -> scalar; `losses.dice_ce()` when missing.
        through: as for `passes.Pass`; it runs under autocast, and is a pure function but for the net's dropout.
        checkpoint: file to save to every `checkpoint_every` steps, and after the last one.
        checkpoint_every: 0: after the last step only.
        progress: called with each record.

    Raises:
        NetError: a name is not the net's.
        ConfigError: nothing is to be trained, or deep supervision is asked of a net without levels.
    """

    def __init__(
        self,
        net: nn.Module,
        batches: Batches,
        settings: Settings,
        *,
        seed: int,
        rates: Mapping[str, float] | None = None,
        watch: Iterable[str] = (),
        validate: Callable[[nn.Module], float] | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        loss: losses.Loss | None = None,
        through: Through | None = None,
        checkpoint: Path | None = None,
        checkpoint_every: int = 0,
        progress: Callable[[Record], None] | None = None,
    ) -> None:
        self.net, self.settings, self.seed = net, settings, seed
        self.step = 0
        self.records: list[Record] = []
        self.device = devices.resolve(device)
        devices.place(net, self.device)
        self._own = dict(net.named_parameters())
        rates = dict.fromkeys(self._own, settings.lr) if rates is None else dict(rates)
        self._before = {name: p.requires_grad for name, p in self._own.items()}
        self._touched = optimiser.open_gradients(self._own, [*rates, *watch])
        self._trained = [self._own[name] for name in rates]
        self._average: Average | None = None
        self._optimiser = optimiser.adamw(self._own, rates, settings.weight_decay)
        self._pass = Pass(
            net, self.device, seed=seed, dtype=devices.precision(self.device, precision),
            loss=losses.dice_ce() if loss is None else loss, through=through, deep=settings.deep,
        )  # fmt: skip
        self._validate = validate if settings.validate_every else None
        self._checkpoint, self._every, self._progress = checkpoint, checkpoint_every, progress
        on_cuda = self.device.type == "cuda"
        self._batch = Ahead(batches, self.device, settings.steps) if on_cuda else batches
        self._sum = torch.zeros((), dtype=torch.float64, device=self.device)  # of the losses since a record
        self._count, self._seconds, self._began = 0, 0.0, 0.0
        self._best: Params = {}
        self._score, self._best_step = -math.inf, 0
        facts = {"settings": settings.facts, "seed": seed, "rates": rates, "shapes": params.shapes(net)}
        self._identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def stopped(self) -> bool:
        """Whether `patience` validations in a row have brought nothing better."""
        worse = sum(r.step > self._best_step for r in self.records if r.validation is not None)
        return 0 < self.settings.patience <= worse

    def advance(self, to: int) -> None:
        """Do the steps [self.step, to), and no more than `settings.steps`; many calls do what one does.

        A validation that is due after s steps is made when step s begins (and the last one by `finish`), so
        that a caller who changes the net between two calls, as adaptation does, has it validated as it then is.

        Raises:
            NetError: the loss is no longer finite; or as `passes.Pass.ready`.
            DeviceError: one of several devices failed.
        """
        self._began, was = time.perf_counter(), self.net.training
        self.net.train()
        try:
            with self._pass.ready():
                while self.step < min(to, self.settings.steps):
                    if self._due():
                        self._record()
                    if self.stopped:
                        break
                    if stopping.asked() and self._checkpoint is not None:
                        self.save(self._checkpoint)
                    stopping.look()
                    self._train_step()
                    self.step += 1
                    if self._checkpoint is not None and self._save_due():
                        self.save(self._checkpoint)
        finally:
            self.net.train(was)
            self._tick()

    def finish(self) -> History:
        """Make the last record, load the best weights into the net, and give its parameters their freedom.

        The net stays on the run's device.

        Raises:
            NetError: the loss is no longer finite.
            KeyboardInterrupt: threads are asked to end (`stopping`); what there is was saved.
        """
        self._began = time.perf_counter()
        if not self.records or self.records[-1].step != self.step:
            self._record(last=True)
        if self._best or self._average:
            params.load(self.net, self._best or self._average.weights)  # type: ignore[union-attr]  # one of the two
        for name, p in self._own.items():
            p.requires_grad_(self._before[name])
            p.grad = None
        if isinstance(self._batch, Ahead):
            self._batch.close()
        best = self._best_step if self._best else self.step
        return History(tuple(self.records), best, self.step, self._seconds)

    def best(self) -> Params:
        """The weights at the best validation so far (the earliest of equals), or as they are without one."""
        now = self._best or self._own
        return {name: p.detach().to("cpu", torch.float32, copy=True).contiguous() for name, p in now.items()}

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on; see `checkpoint.write`."""
        self._tick()
        kinds: dict[str, Mapping[str, Tensor]] = {
            "weights": self._own,
            "buffers": dict(self.net.named_buffers()),
            "best": self._best,
            "average": self._average.weights if self._average else {},
            "loss": {"sum": self._sum},
            **optimiser.state(self._optimiser, self._own),
        }
        facts = {
            "identity": self._identity,
            "step": self.step,
            "records": [asdict(r) for r in self.records],
            "count": self._count,
            "averaged": self._average.count if self._average else 0,
            "score": self._score,
            "best_step": self._best_step,
            "seconds": self._seconds,
        }
        disk.write(path, kinds, facts)

    def restore(self, path: Path) -> None:
        """Go back to what was saved: the run goes on as if it had never stopped.

        Raises:
            ConfigError: the file cannot be read, or was saved with another net, seed or other settings.
        """
        kinds, facts = disk.read(path)
        if facts.pop("identity") != self._identity:
            raise ConfigError(f"{path} was saved with another net, seed or other settings than this run's")
        params.load(self.net, kinds.pop("weights"))
        for name, value in kinds.pop("buffers", {}).items():
            self.net.get_buffer(name).copy_(value)
        self._sum.copy_(kinds.pop("loss")["sum"])
        if average := kinds.pop("average", {}):
            there = {name: optimiser.like(self._own[name], v) for name, v in average.items()}
            self._average = Average(there, facts["averaged"])
        self._best = {name: optimiser.like(self._own[name], v) for name, v in kinds.pop("best", {}).items()}
        optimiser.restore(self._optimiser, self._own, kinds)
        self.step, self._count, self._seconds = facts["step"], facts["count"], facts["seconds"]
        self._score, self._best_step = facts["score"], facts["best_step"]
        self.records = [Record(**r) for r in facts["records"]]

    def _train_step(self) -> None:
        x, y = self._batch(self.step)
        optimiser.scale(self._optimiser, self._factor())
        loss = self._pass(x, y, self.step)
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, self.settings.clip_norm)
        self._optimiser.step()
        if self.settings.ema:
            self._average = averaging.exponential(self._average, self._own, self.settings.ema)
        self._sum += loss  # read at records only: on CUDA a read would wait for the step
        self._count += 1

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the net holds the average of its weights, where one is kept."""
        if self._average is None:
            yield
            return
        now = params.of(self.net)
        params.load(self.net, self._average.weights)
        try:
            yield
        finally:
            params.load(self.net, now)

    def _factor(self) -> float:
        s = self.settings
        return schedules.factor(s.schedule, self.step, max(1, s.steps), final=s.final, cycles=s.cycles)

    def _due(self) -> bool:
        if self.records and self.records[-1].step == self.step:
            return False
        if self._validate is not None and self.step % self.settings.validate_every == 0:
            return True
        every = self.settings.record_every
        if not every and self._validate is None:
            every = max(1, self.settings.steps // 20)
        return every > 0 and self.step > 0 and self.step % every == 0

    def _save_due(self) -> bool:
        return self.step == self.settings.steps or (self._every > 0 and self.step % self._every == 0)

    def _tick(self) -> None:
        now = time.perf_counter()
        self._seconds += now - self._began
        self._began = now

    def _record(self, *, last: bool = False) -> None:
        loss = self._sum.item() / self._count if self._count else None
        if loss is not None and not math.isfinite(loss):
            raise NetError(f"the loss is {loss} after {self.step} steps: expected a finite number")
        self._sum.zero_()
        self._count = 0
        score = None
        if self._validate is not None and (last or self.step % self.settings.validate_every == 0):
            score = self._score_now(self._validate)
        self._tick()
        lr = optimiser.scale(self._optimiser, self._factor())
        self.records.append(Record(self.step, loss, lr, score, self._seconds))
        if self._progress is not None:
            self._progress(self.records[-1])

    def _score_now(self, validate: Callable[[nn.Module], float]) -> float:
        was = self.net.training
        self.net.eval()
        with torch.no_grad(), self._averaged():
            score = float(validate(self.net))
            if score > self._score or not self._best:
                self._best = {name: p.detach().clone() for name, p in self._own.items()}
                self._score, self._best_step = score, self.step
        self.net.train(was)
        return score
