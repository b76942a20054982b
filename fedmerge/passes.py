"""One forward and backward pass as a function of the step: precision, dropout, short memory, several devices.

Where `devices.here()` has several, a batch is dealt among them. Of B images the k-th device has n_k, and

    gradient = sum_k n_k / B gradient_k,    loss = sum_k n_k / B loss_k

are those of the batch, because losses are means over images. The sums are taken here, in the order of the devices.
Whoever trains notices nothing: weights go out with the images, and nobody but him has an optimiser.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge import devices, dropout, losses, optimiser, recompute, workers
from fedmerge.devices import Hardware
from fedmerge.errors import ConfigError, NetError
from fedmerge.records import Settings

Through = Callable[[nn.Module, Tensor, int], tuple[losses.Logits, Tensor | None]]
log = logging.getLogger("fedmerge")


def answer(settings: Settings, net: nn.Module, images: Tensor) -> losses.Logits:
    """What the loss is taken of: the net's logits, with deep supervision those of all its levels."""
    logits: losses.Logits = net.levels(images) if settings.deep else net(images)  # type: ignore[operator]  # a method
    return logits


class Pass:
    """Loss and gradients of a net.

    `devices.here()` says whether the net is compiled, and whether memory is saved at the price of time: always, never,
    or from the first pass on that does not fit (`recompute`). The gradients are the same in every case. It also says
    how many devices share a pass; of a net with layers that look at several images at once it is one.

    Args:
        net: on its device.
        device: where it is.
        seed: of the dropout masks.
        dtype: for autocast; None for float32.
        loss: (logits, labels) -> scalar; where several devices share a pass, a mean over images.
        through: (net, images, step) -> (logits, a scalar to add to the loss or None); the net's own forward pass, and
            only then compiled, when missing. What is added is a mean over images, or the same for any.
        deep: the net's own forward pass gives logits of several levels.

    Raises:
        ConfigError: deep supervision is asked of a net without levels; or there are fewer devices than are asked for.
    """

    def __init__(
        self,
        net: nn.Module,
        device: torch.device,
        *,
        seed: int,
        dtype: torch.dtype | None,
        loss: losses.Loss,
        through: Through | None,
        deep: bool = False,
    ) -> None:
        if deep and not hasattr(net, "levels"):
            raise ConfigError(
                f"deep supervision expected a net with logits of several levels, got {type(net).__name__}"
            )
        self.net, self.device, self.seed = net, device, seed
        self._dtype, self._loss = dtype, loss
        self._through = through or self._plain
        self._forward: Callable[[Tensor], losses.Logits] = net.levels if deep else net  # type: ignore[assignment]
        self._compiled = torch.compile(self._forward) if devices.here().compile and through is None else self._forward
        self._recompute = devices.here().recompute
        self._layers = dropout.active(net)
        self._generator, self._share = torch.Generator(device), dropout.Share()
        self._together = self._may_be_shared()
        self._others: workers.Workers | None = None
        self._make = partial(
            Part, net, devices.here(), seed=seed, dtype=dtype, loss=loss, through=through, deep=deep
        )  # fmt: skip
        self._me, self._checked = object(), False

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Passes are made within the block: dropout draws from the step, and no kernel is chosen by timing.

        Raises:
            NetError: the net, or what goes with it, cannot be handed to another process.
            DeviceError: a further device fails.
        """
        self._others = workers.here(self.device) if self._together else None
        if self._others is not None and self._others.holder is not self._me:
            self._others.hold(self._me, self._make)
        masks = dropout.drawn_from(self._layers, self._generator, self._share)
        with masks, devices.same_kernels(self.device):
            yield

    def __call__(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """The loss, detached; each parameter that wants a gradient has that of this pass afterwards.

        Args:
            x: images (B, C, *S) float32 on the device.
            y: labels as the loss wants them.
            step: of the dropout masks, and for `through`.

        Raises:
            NetError: the pass does not fit into the device's memory.
            ConfigError: it is shared, and the loss is not a mean over images.
            DeviceError: it is shared, and a device fails.
        """
        if self._others is not None:
            return self._shared(self._others, x, y, step)
        self._share.whole = 0
        return self._alone(x, y, step)

    def part(self, x: Tensor, y: Tensor, step: int, begin: int, whole: int) -> Tensor:
        """The loss of a part of a batch of `whole` images, the first of which is its image `begin`; see `__call__`."""
        self._share.begin, self._share.count, self._share.whole = begin, len(x), whole
        return self._alone(x, y, step)

    def _may_be_shared(self) -> bool:
        if len(devices.together()) == 1:
            return False
        if (found := across_images(self.net)) is not None:
            log.warning("'%s' is a %s, which looks at all images of a batch: one device trains this net", *found)
            return False
        return True

    def _shared(self, others: workers.Workers, x: Tensor, y: Tensor, step: int) -> Tensor:
        own = list(self.net.parameters())
        parts = [part for part in zip(x.tensor_split(others.count), y.tensor_split(others.count)) if len(part[0])]
        begin = len(parts[0][0])
        for rank, (images, labels) in enumerate(parts[1:], 1):
            others.ask(rank, own, images, labels, step, begin, len(x))
            begin += len(images)
        loss = self.part(*parts[0], step, 0, len(x)) * (len(parts[0][0]) / len(x))
        for p in own:
            if p.grad is not None:
                p.grad *= len(parts[0][0]) / len(x)
        for rank, (images, _) in enumerate(parts[1:], 1):
            theirs, gradients = others.answer(rank)
            loss = loss + theirs * (len(images) / len(x))
            for p, gradient in zip(own, gradients, strict=True):
                if gradient is not None:
                    p.grad = optimiser.like(p, torch.zeros_like(p)) if p.grad is None else p.grad
                    p.grad.add_(gradient, alpha=len(images) / len(x))
        return loss

    def _alone(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        loss = self._made(x, y, step)
        if loss is None and self._recompute == "auto":
            log.warning("a training step does not fit into the device's memory: parts are computed twice from now on")
            self._recompute = "always"
            loss = self._made(x, y, step)
        if loss is None:
            b, c, *size = x.shape
            raise NetError(
                f"a training step does not fit into the memory of {self.device}: {b} images of {c} x "
                f"{' x '.join(map(str, size))}; expected a smaller batch_size or patch"
            )
        return loss

    def _made(self, x: Tensor, y: Tensor, step: int) -> Tensor | None:
        """The loss; None where memory ran out, and then nothing of the pass is left in it."""
        self._clear()
        draw = partial(self._draw, step)
        try:
            draw()
            with self._autocast():
                forward = partial(self._through, self.net, x, step)
                logits, more = recompute.sparingly(forward, draw) if self._recompute == "always" else forward()
            if self._share.whole and not self._checked:
                losses.check_mean(self._loss, logits, y)
                self._checked = True
            loss = losses.at_levels(self._loss, logits, y)
            if more is not None:
                loss = loss + more
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        except torch.OutOfMemoryError:
            self._clear()
        if self.device.type == "cuda":  # only now: the handler's traceback held the tensors that have to go
            torch.cuda.empty_cache()
        return None

    def _clear(self) -> None:
        for p in self.net.parameters():
            p.grad = None

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self._dtype) if self._dtype is not None else nullcontext()

    def _draw(self, step: int) -> None:
        if self._layers:
            self._generator.manual_seed(dropout.number(self.seed, step))

    def _plain(self, _net: nn.Module, x: Tensor, _step: int) -> tuple[losses.Logits, Tensor | None]:
        return (self._forward if self._recompute == "always" else self._compiled)(x), None


def across_images(net: nn.Module) -> tuple[str, str] | None:
    """The first layer that looks at several images at once, or keeps running statistics of them: its name and kind."""
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and (
            isinstance(module, nn.modules.batchnorm._BatchNorm) or module.track_running_stats
        ):
            return name, type(module).__name__
    return None


class Part:
    """What a further device does in a pass: loss and gradients of its images, with the weights that come along.

    Args:
        net: as for `Pass`, wherever it is.
        hardware: what holds where the pass is.
        options: further arguments of `Pass`.
        device: the further one.
    """

    def __init__(self, net: nn.Module, hardware: Hardware, device: torch.device, **options: Any) -> None:  # noqa: ANN401 - Pass checks them
        devices.place(net, device)
        with devices.using(replace(hardware, devices=1)):
            self._pass = Pass(net, device, **options)
        self._own = list(net.parameters())

    def __call__(
        self, weights: Sequence[Tensor], x: Tensor, y: Tensor, step: int, begin: int, whole: int
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The loss, and a gradient of each parameter that has one."""
        with torch.no_grad():
            for p, value in zip(self._own, weights, strict=True):
                p.copy_(value)
        with self._pass.ready():
            loss = self._pass.part(x, y, step, begin, whole)
        return loss, [p.grad for p in self._own]
