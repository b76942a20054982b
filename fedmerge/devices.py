"""Where a net is trained, and in which precision."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmerge.errors import ConfigError

PRECISIONS = ("auto", "float32", "bfloat16")
RECOMPUTE = ("auto", "always", "never")


@dataclass(frozen=True)
class Hardware:
    """How a machine's owner wants it to be used.

    Attributes:
        device: what `auto` means for `resolve`.
        compile: `torch.compile` for trainings whose forward pass is the net's own.
        recompute: whether trainings save memory by computing parts twice (`recompute`): always, never, or from the
            first step on that does not fit.
        devices: how many share each training, `device` being the first: a number, or all CUDA devices from it on.
    """

    device: str = "auto"
    compile: bool = False
    recompute: Literal["auto", "always", "never"] = "auto"
    devices: int | Literal["all"] = 1


ANY = Hardware()
_HERE: ContextVar[Hardware] = ContextVar("hardware", default=ANY)
_ENDS: ContextVar[ExitStack] = ContextVar("ends")


def here() -> Hardware:
    """What holds where this is called."""
    return _HERE.get()


@contextmanager
def using(hardware: Hardware) -> Iterator[None]:
    """Within the block, in this thread, the machine is used so."""
    with ExitStack() as ends:
        ends.callback(_HERE.reset, _HERE.set(hardware))
        ends.callback(_ENDS.reset, _ENDS.set(ends))
        yield


def at_end(do: Callable[[], object]) -> None:
    """Have this done when the innermost block of `using` ends, the last first; there has to be one."""
    _ENDS.get().callback(do)


def resolve(device: str | torch.device = "auto") -> torch.device:
    """The device that is meant: `auto` is that of `here()`, and else CUDA where there is one, else the CPU.

    Raises:
        ConfigError: CUDA is asked for where there is none, or the name is not a device's.
    """
    if device == "auto":
        device = here().device
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device expected auto, cpu or cuda, got {device!r}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device} was asked for, but torch {torch.__version__} sees no CUDA here")
    if found.type == "cuda" and found.index is not None and found.index >= torch.cuda.device_count():
        raise ConfigError(f"device {device} was asked for, but there are {torch.cuda.device_count()} CUDA devices here")
    return found


def together() -> tuple[torch.device, ...]:
    """The devices that share a training here: that of `here()`, and those after it.

    On a processor they are processes, each with as many threads as the first.

    Raises:
        ConfigError: as `resolve`; or there are fewer than are asked for.
    """
    first, wanted = resolve(), here().devices
    if wanted == 1:
        return (first,)
    if first.type == "cuda":
        at = first.index or 0
        there, what = torch.cuda.device_count() - at, f"from cuda:{at} on there are"
    else:
        at, there, what = 0, os.cpu_count() or 1, "the cores of this machine are"
    if wanted == "all":
        wanted = there if first.type == "cuda" else 1
    if wanted > there:
        raise ConfigError(f"devices = {wanted} was asked for, but {what} {there}")
    if first.type != "cuda":
        return (first,) * wanted
    return tuple(torch.device("cuda", at + k) for k in range(wanted))


def precision(device: torch.device, wanted: str = "auto") -> torch.dtype | None:
    """The type for autocast, or None for plain float32; parameters stay float32 in either case.

    `auto` is bfloat16 on CUDA, and on a processor with AMX whose bfloat16 gradients are right (see
    `gradients_are_right`). Elsewhere it is float32: with AVX-512 BF16 alone bfloat16 gains little for two images or
    more, and the gradients of small 3D layers were seen to be wrong; without it, it is emulated, ten times slower.

    What is at stake, in milliseconds of a training step (Isensee base 8, depth 3, 16x24x16, one thread of an
    AMD EPYC with AVX-512 BF16), float32 / bfloat16: batch 1 61 / 12, batch 2 24 / 20, batch 4 42 / 34. In
    float32 a single 3D image takes a slow path in PyTorch, so two images take less time than one.

    Raises:
        ConfigError: `wanted` is not one of `PRECISIONS`.
    """
    if wanted not in PRECISIONS:
        raise ConfigError(f"precision expected one of {', '.join(PRECISIONS)}, got {wanted!r}")
    if wanted == "auto":
        pays = device.type == "cuda" or (_has_amx() and gradients_are_right())
        wanted = "bfloat16" if pays else "float32"
    return torch.bfloat16 if wanted == "bfloat16" else None


def _has_amx() -> bool:
    # a private name of torch.cpu: where a version lacks it, the answer is no
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(ask and ask())


@cache
def gradients_are_right() -> bool:
    """Whether this processor's bfloat16 gives a 3D conv the gradient that float32 gives it, to a few per cent.

    With oneDNN 3.12 on AVX-512 BF16 it does not, silently: where a conv's first axis has two voxels (the
    coarsest level of a small patch), the filters' gradient contains memory that nobody wrote. So this asks for
    such a gradient, a few times, with rubbish lying about.
    """
    g = torch.Generator().manual_seed(0)
    x, filters = torch.randn(2, 32, 2, 3, 2, generator=g), torch.randn(32, 32, 3, 3, 3, generator=g)

    def gradient(dtype: torch.dtype) -> Tensor:
        w = filters.to(dtype).requires_grad_()
        y = F.conv3d(x.to(dtype), w, padding=1).float()
        return torch.autograd.grad(y.square().sum(), w)[0].float()

    want = gradient(torch.float32)
    near = 0.05 * float(want.abs().max())
    for _ in range(3):
        for size in range(10, 20, 2):
            torch.full((2**size,), torch.nan)  # freed at once, and handed out again
        if not torch.allclose(gradient(torch.bfloat16), want, rtol=0, atol=near):
            return False
    return True


def describe(device: str | torch.device = "auto", wanted: str = "auto") -> str:
    """Device, threads and precision in words: where two runs agree in it, their numbers can be equal."""
    where = resolve(device)
    kind = "bfloat16" if precision(where, wanted) is not None else "float32"
    compiled = ", compiled" if here().compile else ""
    if (count := len(together())) > 1:
        compiled += f", {count} devices"
    if where.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(where)}), {kind}{compiled}"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}, {kind}{compiled}"


def layout(x: Tensor) -> torch.memory_format:
    """The layout that CUDA's convs like best: channels last for 2D and 3D.

    On a processor it was measured to be up to a tenth slower, so there everything stays contiguous.
    """
    return {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim, torch.contiguous_format)


def place(net: nn.Module, device: torch.device) -> None:
    """Move the net, in the device's layout; its parameters stay the same objects."""
    net.to(device)
    if device.type == "cuda":
        for p in net.parameters():
            p.data = p.data.contiguous(memory_format=layout(p))


def same_kernels(device: torch.device) -> AbstractContextManager[Any]:
    """Within the block no conv of CUDA is chosen by timing or sums in the order in which threads come."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    return flags


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads within the block; the last digits of a conv's gradient depend on it.

    Raises:
        ConfigError: `count` is not positive.
    """
    if count < 1:
        raise ConfigError(f"threads expected at least 1, got {count}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
