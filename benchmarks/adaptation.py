"""What fitting the mixing ratios costs: one adaptation step (T = 2) against one plain training step.

An adaptation step fuses two models, loads the result, does a forward and backward pass, updates the
task-specific parameters and pulls the gradient back to the logits. The plain step is PyTorch as one writes it:
the same net, batch and loss, AdamW on all parameters. One thread, float32, the two in turn, medians of five.

    python benchmarks/adaptation.py

prints both ratios and their bounds, and exits with 1 when one is exceeded.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge import devices, losses, nets, params, partition
from fedmerge.fusion import fitting, mixing
from fedmerge.training import Run, Settings

ROUNDS = 5
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], int, float]] = {
    "2D": ({"dims": 2, "base_filters": 16, "depth": 5}, (8, 1, 128, 128), 1, 1.25),
    "3D": ({"dims": 3, "base_filters": 8, "depth": 4}, (2, 1, 32, 48, 32), 3, 1.15),
}


def build(settings: dict[str, Any], seed: int) -> nn.Module:
    """The paper's net with one image channel and three logits."""
    return nets.build({"name": "isensee2017", **settings}, in_channels=1, out_channels=3, seed=seed)


def plain_step(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A training step without any of fedmerge's loop."""
    loss, optimiser = losses.dice_ce(), torch.optim.AdamW(net.parameters(), lr=1e-4)
    net.train()

    def step() -> None:
        optimiser.zero_grad()
        loss(net(x), y).backward()
        optimiser.step()

    return step


def adaptation_step(settings: dict[str, Any], x: Tensor, y: Tensor) -> Callable[[], None]:
    """A step of the near fit, ratios by layer, rule mode, two sources with different Fishers."""
    net = build(settings, seed=0)
    heads = nets.heads({"name": "isensee2017", **settings}, in_channels=1, out_channels=3)
    names = partition.of(net, heads).fusable
    models = [params.of(build(settings, seed)) for seed in (1, 2)]
    fishers = [{name: model[name].square() for name in names} for model in models]
    mix = mixing.prepare(models, fishers, names, rule="mode", grain="layer", axes=partition.kernel_axes(net))
    own = dict(net.named_parameters())
    rates = {name: 1e-4 for name in own if name not in names}
    run = Run(
        net, lambda _: (x, y), Settings(steps=10**6, lr=1e-4), seed=0, rates=rates, watch=names, precision="float32"
    )
    state = fitting.fit_state(mix)

    def step() -> None:
        nonlocal state
        fused = mixing.fuse(mix, mixing.ratios(fitting.fit_logits(mix, state)))
        params.load(net, fused)
        run.advance(run.step + 1)
        grads = {name: own[name].grad for name in names}
        state = fitting.fit_step(mix, state, grads, 0.05, fused=fused)

    return step


def seconds(step: Callable[[], None], times: int) -> float:
    """The mean time of a step over so many in a row."""
    began = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - began) / times


def ratio(settings: dict[str, Any], shape: tuple[int, ...], times: int) -> tuple[float, float]:
    """Seconds of an adaptation step and of a plain one: medians of interleaved rounds, after a warm-up."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(shape, generator=g), torch.randint(0, 3, shape, generator=g)
    steps = adaptation_step(settings, x, y), plain_step(build(settings, seed=0), x, y)
    for step in steps:
        step()
    rounds = [[seconds(step, times) for step in steps] for _ in range(ROUNDS)]
    adapt, plain = (statistics.median(column) for column in zip(*rounds))
    return adapt, plain


def main() -> int:
    """Print a line for each case; 1 if a bound is exceeded."""
    worst = 0
    for name, (settings, shape, times, bound) in CASES.items():
        with devices.threads(1):
            adapt, plain = ratio(settings, shape, times)
        verdict = "ok" if adapt / plain <= bound else "TOO SLOW"
        worst |= verdict != "ok"
        print(
            f"{name} {'x'.join(map(str, shape))}: adaptation {adapt * 1e3:.0f} ms, plain {plain * 1e3:.0f} ms, "
            f"ratio {adapt / plain:.3f} (bound {bound}) {verdict}"
        )
    return worst


if __name__ == "__main__":
    sys.exit(main())
