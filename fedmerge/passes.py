"""One forward and backward pass as a function of the step: precision, dropout, and what to do if memory is short."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge import devices, dropout, losses, recompute
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
    or from the first pass on that does not fit (`recompute`). The gradients are the same in every case.

    Args:
        net: on its device.
        device: where it is.
        seed: of the dropout masks.
        dtype: for autocast; None for float32.
        loss: (logits, labels) -> scalar.
        through: (net, images, step) -> (logits, a scalar to add to the loss or None); the net's own forward pass, and
            only then compiled, when missing.
        deep: the net's own forward pass gives logits of several levels.

    Raises:
        ConfigError: deep supervision is asked of a net without levels.
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
        self._generator = torch.Generator(device)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Passes are made within the block: dropout draws from the step, and no kernel is chosen by timing."""
        with dropout.drawn_from(self._layers, self._generator), devices.same_kernels(self.device):
            yield

    def __call__(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """The loss, detached; each parameter that wants a gradient has that of this pass afterwards.

        Args:
            x: images (B, C, *S) float32 on the device.
            y: labels as the loss wants them.
            step: of the dropout masks, and for `through`.

        Raises:
            NetError: the pass does not fit into the device's memory.
        """
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
