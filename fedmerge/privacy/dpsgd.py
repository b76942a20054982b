"""DP-SGD whose unit is the patient (Abadi et al. 2016, algorithm 1).

A step draws each patient with probability q, independently of the others. Each drawn patient has one backward pass
over all its cases; that gradient, over all trained parameters together, is scaled down to the norm C at most. Then

    g = (sum_i g_i min(1, C / |g_i|) + sigma C N(0, 1)) / (q n)

is what the optimiser gets, AdamW or any other: from here on everything is post-processing. q n is a constant that
everybody may know; the number of patients drawn is not, and a step that draws nobody is a step on noise.

One patient more or less changes the sum by at most C, because nothing else in a step looks at more than one patient.
That is why layers that do, batch norm above all, are refused; why all patients of a step share a dropout mask, which
is a function of seed and step; why a gradient that is not finite counts as zero and does not stop the training; and
why there is no validation: to keep the best epoch, or to stop early, is to tell what private cases said. For the same
reason no loss is recorded.

A checkpoint holds weights, optimiser and step, and a digest of settings, mechanism and data, but no key and no state
of the noise. A training that goes on draws new patients and new noise for the steps that it makes again, so that no
noise ever covers two different sums, and what is released at the end is distributed as if nothing had happened. Two
runs are therefore never equal. With other data, it is refused.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fedmerge import checkpoint as disk
from fedmerge import devices, dropout, losses, optimiser, params, schedules, workers
from fedmerge.errors import ConfigError, NetError
from fedmerge.passes import across_images
from fedmerge.privacy import noise
from fedmerge.privacy.mechanism import Mechanism, released
from fedmerge.privacy.noise import Streams
from fedmerge.records import History, Record, Settings
from fedmerge.training import Through, answer

Patient = Sequence[tuple[Tensor, Tensor]]  # images (C, *S) float32, labels (1, *S) or () int64
View = Callable[[int, int], Patient]


def train(
    net: nn.Module,
    patients: Sequence[Patient],
    settings: Settings,
    mechanism: Mechanism,
    *,
    seed: int,
    rates: Mapping[str, float] | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    loss: losses.Loss | None = None,
    through: Through | None = None,
    view: View | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 0,
    progress: Callable[[Record], None] | None = None,
    unsafe_seed: int | None = None,
) -> History:
    """Train for exactly `settings.steps` steps, from `checkpoint` where that file exists; the last weights stay.

    Args:
        net: trained in place.
        patients: each with all its cases, of one size unless `view` makes them so.
        settings: how to train; its `batch_size` says nothing here, `mechanism` does.
        mechanism: what a step does to the patients.
        seed: of the dropout masks; no secret.
        rates: as for `training.Run`.
        device: as for `training.Run`.
        precision: as for `training.Run`.
        loss: as for `training.Run`; a mean over its images.
        through: as for `training.Run`. What it adds to the loss is clipped with it, and may be made of the patient's
            images and of received models.
        view: (step, number of the patient) -> what the step sees of it; all its cases when missing. A function of the
            patient's own cases and of nothing else that is private: then what is clipped is one patient's.
        checkpoint: file to save to every `checkpoint_every` steps, and after the last one.
        checkpoint_every: 0: after the last step only.
        progress: called with a record without a loss.
        unsafe_seed: for tests and simulations only: **whoever knows it can take all noise off the model.** None: keys
            from the operating system.

    Raises:
        ConfigError: the settings validate, stop early, average or clip by themselves, or there is no patient; or the
            checkpoint is another run's.
        NetError: a layer looks at several cases at once, or a name is not the net's.
        DeviceError: one of several devices that share the patients of a step failed.
    """
    check(net, settings)
    if not patients:
        raise ConfigError("expected at least one patient to train on, got none")
    where = devices.resolve(device)
    dtype = devices.precision(where, precision)
    devices.place(net, where)
    own = dict(net.named_parameters())
    before = {name: p.requires_grad for name, p in own.items()}
    rates = dict.fromkeys(own, settings.lr) if rates is None else dict(rates)
    trained = optimiser.open_gradients(own, rates)
    adamw = optimiser.adamw(own, rates, settings.weight_decay)
    make = partial(
        _Gradient, net, tuple(rates),
        seed=seed, dtype=dtype, loss=losses.dice_ce() if loss is None else loss,
        through=through or (lambda net, x, step: (answer(settings, net, x), None)),
    )  # fmt: skip
    facts = {
        "settings": settings.facts, "mechanism": asdict(mechanism), "seed": seed, "rates": rates,
        "shapes": params.shapes(net), "data": digest(patients),
    }  # fmt: skip
    identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    streams: Streams = noise.fresh() if unsafe_seed is None else noise.repeatable(unsafe_seed, identity)
    began = 0
    if checkpoint is not None and checkpoint.exists():
        began = _restore(checkpoint, identity, net, own, adamw)
    clock, was = time.perf_counter(), net.training
    records: list[Record] = []

    net.train()
    others = workers.here(where)
    if others is not None:
        others.hold(make, make)
    gradient = make(where)

    def gradients(step: int, drawn: Sequence[int]) -> Iterator[Sequence[Tensor | None]]:
        seen = (patients[k] if view is None else view(step, k) for k in drawn)
        pairs = ([torch.stack(parts) for parts in zip(*one, strict=True)] for one in seen)
        items = ((step, x, y, list(own.values())) for x, y in pairs)
        return others.in_turn(gradient, items) if others is not None else (gradient(*item) for item in items)

    for step in range(began, settings.steps):
        s = settings
        factor = schedules.factor(s.schedule, step, max(1, s.steps), final=s.final, cycles=s.cycles)
        lr = optimiser.scale(adamw, factor)
        mean = released(partial(gradients, step), trained, mechanism, len(patients), streams(step))
        for p, value in zip(trained, mean, strict=True):
            p.grad = optimiser.like(p, value)
        adamw.step()
        done = step + 1
        if checkpoint is not None and (done == s.steps or (checkpoint_every and done % checkpoint_every == 0)):
            _save(checkpoint, identity, net, own, adamw, done)
        if progress is not None and (done == s.steps or done % max(1, s.steps // 20) == 0):
            records.append(Record(done, None, lr, None, time.perf_counter() - clock))
            progress(records[-1])
    net.train(was)
    for name, p in own.items():
        p.requires_grad_(before[name])
        p.grad = None
    return History(tuple(records), settings.steps, settings.steps, time.perf_counter() - clock)


class _Gradient:
    """The gradient of the mean loss over a patient's cases, on one of the devices that share the patients of a step.

    Args:
        net: in training mode.
        names: of what is trained.
        device: where.
        seed: of the dropout masks.
        dtype: for autocast.
        loss: as for `train`.
        through: as for `train`.
    """

    def __init__(
        self, net: nn.Module, names: Sequence[str], device: torch.device,
        *, seed: int, dtype: torch.dtype | None, loss: losses.Loss, through: Through,
    ) -> None:  # fmt: skip
        devices.place(net, device)
        own = dict(net.named_parameters())
        self._net, self._own, self._device = net, list(own.values()), device
        self._trained = [own[name] for name in names]
        self._seed, self._dtype, self._loss, self._through = seed, dtype, loss, through
        self._layers, self._masks = dropout.active(net), torch.Generator(device)

    def __call__(self, step: int, x: Tensor, y: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """One for each trained parameter that has one, with these weights in the net."""
        with torch.no_grad():
            for p, value in zip(self._own, weights, strict=True):
                if p is not value:  # on a further device
                    p.copy_(value)
        x, y = x.to(self._device), y.to(self._device)
        if self._layers:
            self._masks.manual_seed(dropout.number(self._seed, step))  # one mask for all patients of a step
        with dropout.drawn_from(self._layers, self._masks), devices.same_kernels(self._device):
            with torch.autocast(self._device.type, self._dtype) if self._dtype is not None else nullcontext():
                logits, more = self._through(self._net, x, step)
            total = losses.at_levels(self._loss, logits, y)
            total = total if more is None else total + more
            return torch.autograd.grad(total, self._trained, allow_unused=True)


def check(net: nn.Module, settings: Settings) -> None:
    """Refuse what would tell of a patient past clipping and noise.

    Raises:
        ConfigError: the settings validate, stop early, average the weights, or clip the sum once more.
        NetError: a layer looks at several cases at once, or keeps running statistics of them.
    """
    for name, why in (
        ("validate_every", "the choice of an epoch tells what private cases said; all steps are made"),
        ("patience", "to stop early tells what private cases said; all steps are made"),
        ("clip_norm", "each patient's gradient is clipped by itself"),
        ("ema", "no average of the weights is kept"),
    ):
        if value := getattr(settings, name):
            raise ConfigError(f"with differential privacy {name} expected 0, got {value}: {why}")
    if (found := across_images(net)) is not None:
        raise NetError(
            f"'{found[0]}' is a {found[1]}, which keeps statistics of all cases that it sees: "
            "expected a net without such layers where patients are protected one by one"
        )


def digest(patients: Sequence[Patient]) -> str:
    """SHA-256 over all images and labels, patient by patient, in hexadecimal digits."""
    total = hashlib.sha256()
    for patient in patients:
        total.update(f"patient {len(patient)}".encode())
        for value in (tensor for case in patient for tensor in case):
            total.update(f"{tuple(value.shape)} {value.dtype}\0".encode())
            total.update(value.contiguous().numpy().data)
    return total.hexdigest()


def _save(
    path: Path, identity: str, net: nn.Module, own: Mapping[str, nn.Parameter], adamw: torch.optim.Optimizer, step: int
) -> None:
    kinds = {"weights": own, "buffers": dict(net.named_buffers()), **optimiser.state(adamw, own)}
    disk.write(path, kinds, {"identity": identity, "step": step})


def _restore(
    path: Path, identity: str, net: nn.Module, own: Mapping[str, nn.Parameter], adamw: torch.optim.Optimizer
) -> int:
    """How many steps are done."""
    kinds, facts = disk.read(path)
    if facts.get("identity") != identity:
        raise ConfigError(f"{path} was saved with other data, another net, seed, mechanism or other settings")
    params.load(net, kinds.pop("weights"))
    for name, value in kinds.pop("buffers", {}).items():
        net.get_buffer(name).copy_(value)
    optimiser.restore(adamw, own, kinds)
    return int(facts["step"])
