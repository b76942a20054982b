"""Gradient inversion: an image drawn back from one patient's gradient, as a far adaptation would show it.

Zhu et al. (2019) move an image until its gradient is the one that was seen; Geiping et al. (2020) compare directions
and ask for little total variation:

    x* = argmin_x 1 - <g(x), g> / (|g(x)| |g|) + tv * TV(x)             Geiping 2020, eq. 4

The attacker here is a strong one: it knows the weights, the patient's labels, and that the gradient is of this patient
alone. What it cannot draw, a weaker one cannot either; what it draws, a gradient of several patients shows less of.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmerge import losses
from fedmerge.errors import DataError, NetError
from fedmerge.params import Params


@dataclass(frozen=True)
class Likeness:
    """How near an image comes to the patient's.

    Attributes:
        ncc: normalised cross-correlation over all voxels, -1 to 1; blind to brightness and contrast, as a reader is.
        psnr: peak signal-to-noise ratio in decibels, the peak being the range of the true image; inf where they agree.
    """

    ncc: float
    psnr: float


def gradient(net: nn.Module, image: Tensor, label: Tensor, names: Iterable[str], loss: losses.Loss) -> Params:
    """The gradient of one patient's loss, in evaluation mode: what a far adaptation sends of a batch of one.

    Args:
        net: maps (B, C, *S) to logits (B, K, *S), or to (B, K).
        image: (C, *S) float32.
        label: (1, *S) int64, or () of a classifier.
        names: the parameters, at least one.
        loss: (logits, labels) -> scalar.

    Returns:
        name -> tensor of the parameter's shape.

    Raises:
        NetError: a name is not the net's.
    """
    own = dict(net.named_parameters())
    wanted = list(names)
    if missing := [name for name in wanted if name not in own]:
        raise NetError(f"the net has no parameter '{missing[0]}'")
    found = _gradients(net, image, label, [own[name] for name in wanted], loss, again=False)
    return {name: one.detach() for name, one in zip(wanted, found)}


def invert(
    net: nn.Module,
    target: Params,
    label: Tensor,
    shape: tuple[int, ...],
    loss: losses.Loss,
    *,
    steps: int = 300,
    lr: float = 0.1,
    tv: float = 1e-2,
    seed: int = 0,
) -> Tensor:
    """The image whose gradient points where `target` points.

    Args:
        net: with the weights at which the gradient was taken; it is left as it was.
        target: the gradient that was seen.
        label: of the patient, as for `gradient`.
        shape: (C, *S).
        loss: as for `gradient`.
        steps: of Adam, on the signs of the image's gradient, with a rate that falls to a tenth.
        lr: the first rate, in units of a normalised image's intensities.
        tv: weight of the mean absolute difference between neighbours.
        seed: of the noise that the image begins as.

    Returns:
        (C, *S) float32 on the CPU.

    Raises:
        DataError: the gradient is zero everywhere.
    """
    own = dict(net.named_parameters())
    weights = [own[name] for name in target]
    seen = [value.to(weights[0]) for value in target.values()]
    size = torch.stack([value.square().sum() for value in seen]).sum().sqrt()
    if not size > 0:
        raise DataError("gradient inversion expected a gradient, got zeros")
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x = noise.to(weights[0]).requires_grad_()
    adam = torch.optim.Adam([x], lr=lr)
    fall = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.1, total_iters=steps)
    for _ in range(steps):
        mine = _gradients(net, x, label, weights, loss, again=True)
        dot = torch.stack([(a * b).sum() for a, b in zip(mine, seen)]).sum()
        length = torch.stack([a.square().sum() for a in mine]).sum().sqrt()
        cost = 1 - dot / (length * size).clamp_min(1e-20) + tv * total_variation(x)
        (slope,) = torch.autograd.grad(cost, x)
        x.grad = slope.sign()
        adam.step()
        fall.step()
    return x.detach().float().cpu()


def total_variation(image: Tensor) -> Tensor:
    """The mean absolute difference of neighbours along each axis of (C, *S), summed over the axes."""
    steps = [image.diff(dim=axis).abs().mean() for axis in range(1, image.dim())]
    return torch.stack(steps).sum()


def likeness(found: Tensor, truth: Tensor) -> Likeness:
    """How near an image comes to the true one, both of one shape.

    >>> likeness(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 4.0, 8.0])).ncc
    1.0
    """
    a, b = (image.double().flatten() for image in (found, truth))
    apart, size = (a - b).square().mean().item(), (b.max() - b.min()).item()
    a, b = a - a.mean(), b - b.mean()
    both = (a.norm() * b.norm()).item()
    ncc = round((a * b).sum().item() / both, 12) if both > 0 else 0.0
    psnr = float(10 * torch.log10(torch.tensor(size * size / apart))) if apart > 0 and size > 0 else float("inf")
    return Likeness(ncc, psnr)


def _gradients(
    net: nn.Module, image: Tensor, label: Tensor, weights: list[nn.Parameter], loss: losses.Loss, *, again: bool
) -> tuple[Tensor, ...]:
    """Gradients of the weights; `again`: they can be differentiated once more. Modes and flags are put back."""
    modes = {module: module.training for module in net.modules()}
    flags = [weight.requires_grad for weight in weights]
    net.eval()
    try:
        for weight in weights:
            weight.requires_grad_()
        with torch.enable_grad():
            logits = net(image[None].to(weights[0]))
            value = loss(logits, label[None].to(logits.device))
            return torch.autograd.grad(value, weights, create_graph=again, allow_unused=True, materialize_grads=True)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for weight, flag in zip(weights, flags):
            weight.requires_grad_(flag)
