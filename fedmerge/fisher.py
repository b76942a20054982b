"""The diagonal of the Fisher information: how much each parameter matters to a site's own task.

    F_i = mean over cases x of (d log p(y | x) / d theta_i)^2

The gradient is that of one whole case; it is squared first and averaged afterwards. A case too large for one forward
pass comes in pieces: the gradients of their log-likelihoods are added up before they are squared. With labels sampled
from the model this is the true Fisher (one draw a voxel; a classifier: an image), with the observed labels the
empirical one (Kunstner et al., 2019, on the difference). What a net's logits say of labels is a `Likelihood`: one label
a voxel by a softmax, or regions that may overlap (`fedmerge.regions`).
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from fedmerge import params, workers
from fedmerge.errors import DataError, NetError, Refused
from fedmerge.likelihood import ELSEWHERE, SOFTMAX, Likelihood
from fedmerge.params import Params

Labels = Literal["sampled", "observed"]
Method = Literal["loop", "vmap"]


class Piece(NamedTuple):
    """A part of a case: image (C, *S), label (*S) or (1, *S), and the box of its voxels that count (None: all)."""

    image: Tensor
    label: Tensor
    own: tuple[slice, ...] | None = None


Case = tuple[Tensor, Tensor] | list[Piece]

VMAP_CASES = 8  # cases in one vmap: their gradients are all in memory at once
TOGETHER = 2  # pieces in one forward pass: a single one is slow in float32 on a CPU


def diagonal(
    net: nn.Module,
    cases: Iterable[Case],
    names: Iterable[str],
    *,
    labels: Labels = "sampled",
    generator: torch.Generator | None = None,
    likelihood: Likelihood = SOFTMAX,
    method: Method = "loop",
    progress: Callable[[int], None] | None = None,
) -> Params:
    """The mean over cases of the squared gradient of each case's log-likelihood.

    Dropout and batch statistics are off meanwhile (evaluation mode), autocast too; both are restored. The
    cases are read once, so what they hold cannot change between two passes.

    Args:
        net: maps (B, C, *S) to logits (B, K, *S), or to (B, K); its device is where the work is done.
        cases: (image (C, *S) float, label (*S) or (1, *S), or () of a classifier), one patient each; or each a list of
            pieces of one size, whose own voxels make up the case. With sampled labels only the shape of the label
            counts.
        names: the parameters wanted.
        labels: `"sampled"` from the model (true Fisher) or `"observed"` (empirical Fisher).
        generator: draws the sampled labels; the same generator gives the same labels by both methods.
        likelihood: what the net's logits say of labels.
        method: `"loop"` over cases, or `"vmap"` over up to eight at a time (small 2D nets; much memory; no pieces).
        progress: is told how many cases are done.

    Returns:
        name -> float32 tensor of the parameter's shape, on the CPU, not normalised; subnormals are zero.

    Raises:
        NetError: a name is not the net's, or the gradient is not finite.
        DeviceError: one of several devices that share the cases failed.
        DataError: no cases; a voxel that is not finite; an observed label that the net has no channel for; a case in
            pieces that vmap cannot take.
    """
    wanted = list(dict.fromkeys(names))
    own = dict(net.named_parameters())
    for name in wanted:
        if name not in own:
            raise NetError(f"the net has no parameter '{name}'")
    if not wanted:
        raise NetError("the Fisher was asked for no parameter at all")
    run = {"loop": _loop, "vmap": _vmap}[method]
    with _evaluation(net, {own[name] for name in wanted}):
        weights: Params = {name: own[name] for name in wanted}
        squares, count = run(net, weights, _checked(cases), labels, generator, likelihood, progress)
    if not count:
        raise DataError("the Fisher needs at least one case, got none")
    fisher = {}
    for name, square in zip(wanted, squares):
        value = (square / count).to("cpu", torch.float32)
        if not torch.isfinite(value).all():
            raise NetError(f"the Fisher of '{name}' is not finite")
        fisher[name] = value.masked_fill_(value < torch.finfo(torch.float32).tiny, 0.0)
    return fisher


def normalise(fisher: Mapping[str, Tensor], *, floor: float = 1e-3, cap: float = 1e4, who: str = "") -> Params:
    """Each tensor divided by its own mean, then clipped to [floor, cap].

    The floor is what keeps eq. 2 away from 0 / 0: where no site cares about a parameter, all weigh the same
    up to their ratios. A tensor that is zero everywhere counts as flat (ones), with a warning.

    Args:
        fisher: name -> tensor, non-negative.
        floor: smallest value, relative to the mean of the tensor.
        cap: largest value, likewise.
        who: the site, for the sentences.

    Returns:
        name -> tensor of the same shape, dtype and device.

    Raises:
        Refused: a value is negative or not finite, or every tensor is zero everywhere.
    """
    site = f"{who}: " if who else ""
    normal, flat = {}, []
    for name, value in fisher.items():
        mean = value.double().mean()
        if not torch.isfinite(mean):
            raise Refused(f"{site}fisher['{name}'] expected finite values, got NaN or infinity")
        if value.min() < 0:
            raise Refused(f"{site}fisher['{name}'] expected no negative value, got {value.min().item():.3g}")
        if mean == 0:
            flat.append(name)
            normal[name] = torch.ones_like(value)
        else:
            normal[name] = (
                (value / mean).clamp_(floor, cap)
                if value.dtype == torch.float64
                else ((value.double() / mean).clamp_(floor, cap).to(value.dtype))
            )
    if flat and len(flat) == len(normal):
        raise Refused(f"{site}the whole Fisher is zero")
    if flat:
        more = f" and {len(flat) - 1} more" if len(flat) > 1 else ""
        warnings.warn(f"{site}fisher['{flat[0]}']{more} is zero everywhere and counts as flat", stacklevel=2)
    return normal


Sums = tuple[list[Tensor], int]


def _loop(
    net: nn.Module,
    weights: Params,
    cases: Iterator[list[Piece]],
    labels: Labels,
    generator: torch.Generator | None,
    likelihood: Likelihood,
    progress: Callable[[int], None] | None,
) -> Sums:
    """Sum of squared gradients, a case at a time, or one on each device; the sum is taken in the order of the cases."""
    wanted = list(weights.values())
    squares = [torch.zeros_like(w, memory_format=torch.contiguous_format) for w in wanted]

    def draw(piece: Piece) -> Tensor:
        return _uniform((likelihood.draws * piece.label.numel(),), generator)

    items = (
        (count, case, [draw(piece) for piece in case] if labels == "sampled" else None)
        for count, case in enumerate(cases, start=1)
    )
    make = partial(_Score, net, tuple(weights), likelihood)
    score, others = make(wanted[0].device), workers.here(wanted[0].device)
    if others is not None:
        others.hold(make, make)
    scores = (score(*item) for item in items) if others is None else others.in_turn(score, items)
    count = 0
    for count, own in enumerate(scores, start=1):
        torch._foreach_addcmul_(squares, own, own)
        if progress:
            progress(count)
    return squares, count


class _Score:
    """The gradient of a case's log-likelihood, on one of the devices that share the cases.

    Args:
        net: as for `diagonal`.
        names: the parameters wanted.
        likelihood: as for `diagonal`.
    """

    def __init__(self, net: nn.Module, names: tuple[str, ...], likelihood: Likelihood, _device: torch.device) -> None:
        own = dict(net.named_parameters())
        self._net, self._likelihood = net, likelihood
        self._wanted = [own[name] for name in names]

    def __call__(self, count: int, case: list[Piece], uniform: list[Tensor] | None) -> list[Tensor]:
        """Of the case of this number, a forward and a backward pass for each, or for some of its pieces.

        The labels are drawn by the random numbers, (draws * voxels,) for each piece; observed where there are none.
        """
        score: list[Tensor] = []
        log, sampled, read, n, values = self._likelihood
        with _evaluation(self._net, set(self._wanted)):
            for start in range(0, len(case), TOGETHER):
                some = case[start : start + TOGETHER]
                logits = self._net(torch.stack([piece.image for piece in some]).to(self._wanted[0]))
                size = logits.shape[2:]
                if uniform is not None:
                    draws = torch.stack(uniform[start : start + TOGETHER])
                    truth = sampled(logits, draws.reshape(len(some), n, *size).to(logits))
                else:
                    truth = torch.stack([piece.label for piece in some]).to(logits.device).reshape(len(some), 1, *size)
                    _check(truth, count, logits.shape[1] if values is None else values)
                    truth = read(truth)
                if any(piece.own for piece in some):
                    truth = _counted(truth.reshape(len(some), -1, *size).long(), some)
                # d log p(case) = sum over pieces of d log p(piece)
                own = torch.autograd.grad(log(logits, truth).sum(), self._wanted, materialize_grads=True)
                score = list(torch._foreach_add(score, own)) if score else list(own)
        return score


def _check(truth: Tensor, count: int, values: int) -> None:
    low, high = int(truth.min()), int(truth.max())
    if not 0 <= low <= high < values:
        raise DataError(f"case {count} expected labels from 0 to {values - 1}, got {low} to {high}")


def _counted(truth: Tensor, pieces: list[Piece]) -> Tensor:
    """(B, n, *S) labels, `ELSEWHERE` where a voxel is not the piece's own."""
    elsewhere = torch.ones_like(truth, dtype=torch.bool)
    for voxels, piece in zip(elsewhere, pieces, strict=True):
        voxels[(slice(None), *(piece.own or ()))] = False
    return truth.masked_fill(elsewhere, ELSEWHERE)


def _vmap(
    net: nn.Module,
    weights: Params,
    cases: Iterator[list[Piece]],
    labels: Labels,
    generator: torch.Generator | None,
    likelihood: Likelihood,
    progress: Callable[[int], None] | None,
) -> Sums:
    """The same sum with the gradients of several cases of one shape taken together."""

    def case_log_lik(theta: Params, image: Tensor, label: Tensor) -> Tensor:
        with params.holding(net, theta):
            logits = net(image[None])
        if labels == "sampled":
            return likelihood.log(logits, likelihood.sample(logits, label[None])).sum()
        return likelihood.log(logits, likelihood.read(label.reshape(1, 1, *logits.shape[2:]))).sum()

    scores = vmap(grad(case_log_lik), in_dims=(None, 0, 0))
    theta = {name: w.detach() for name, w in weights.items()}
    one = next(iter(theta.values()))
    squares = [torch.zeros_like(w, memory_format=torch.contiguous_format) for w in theta.values()]
    count = 0
    for batch in _batches(cases):
        images = torch.stack([piece.image.to(one) for piece in batch])
        if labels == "sampled":  # the label's place is taken by the random numbers that will draw it
            draws = likelihood.draws
            truths = torch.stack([_uniform((draws * piece.label.numel(),), generator).to(one) for piece in batch])
        else:
            truths = torch.stack([piece.label.to(one.device) for piece in batch])
        for square, score in zip(squares, scores(theta, images, truths).values()):
            square += score.square().sum(0)
        count += len(batch)
        if progress:
            progress(count)
    return squares, count


def _batches(cases: Iterator[list[Piece]]) -> Iterator[list[Piece]]:
    """Neighbouring cases of one shape, at most `VMAP_CASES` together."""
    batch: list[Piece] = []
    for case, *others in cases:
        if others:
            raise DataError(f"vmap expected cases in one piece, got one in {1 + len(others)}: take the loop")
        if batch and (len(batch) == VMAP_CASES or case.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(case)
    if batch:
        yield batch


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Random numbers drawn on the generator's own device: a CPU generator gives the same ones everywhere."""
    device = generator.device if generator else torch.device("cpu")
    return torch.rand(shape, generator=generator, device=device)


def _checked(cases: Iterable[Case]) -> Iterator[list[Piece]]:
    """Each case as a list of pieces, most often of one."""
    for count, case in enumerate(cases, start=1):
        pieces = case if isinstance(case, list) else [Piece(*case)]
        if not all(torch.isfinite(piece.image).all() for piece in pieces):
            raise DataError(f"case {count} of the Fisher expected finite voxels, got NaN or infinity")
        yield pieces


@contextmanager
def _evaluation(net: nn.Module, wanted: set[Tensor]) -> Iterator[None]:
    """Evaluation mode, float32, and gradients of `wanted` only; all put back afterwards."""
    modes = {module: module.training for module in net.modules()}
    asked = {p: p.requires_grad for p in net.parameters()}
    device = next(net.parameters()).device.type
    net.eval()
    try:
        for p in asked:
            p.requires_grad_(p in wanted)
        with torch.enable_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for p, flag in asked.items():
            p.requires_grad_(flag)
