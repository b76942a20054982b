"""The loss barrier between independently trained nets, with and without permutation alignment.

Nets of different starting points are trained on one hospital's cases, in pairs. The loss of the nets on the straight
line between the two weights, on cases that neither was trained on, is compared with the straight line between the two
losses:

    barrier = max over k of  L((1 - k) A + k B) - ((1 - k) L(A) + k L(B))           Frankle et al. 2020; Ainsworth 2023

    python -m benchmarks.align                                     the built-in synthetic hospital `north`
    python -m benchmarks.align --data FOLDER                       the Decathlon's hippocampus, `north` of the example

The barriers have no bound, they are reported whatever comes out. One match of nets of the default width has one.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fedmerge import campaign, devices, evaluation, losses, nets, params
from fedmerge.fusion import align, symmetry
from fedmerge.params import Params
from fedmerge.training import Settings, train
from server import plan
from server.plan import Plan
from sites import cases, config, predict
from sites.cases import Case
from sites.source import parts

BOUND = 2.0  # seconds for one match, one thread
POINTS = 11
HIPPOCAMPUS = Path(__file__).parent.parent / "examples" / "hippocampus.toml"


def hospital(data: Path | None, folder: Path) -> tuple[Plan, list[Case], list[Case], tuple[str, ...]]:
    """The plan of the campaign, north's cases to train on and those held out, and its labels."""
    path = HIPPOCAMPUS if data else campaign.built_in()
    p = plan.read(path, base=folder)
    site = config.from_campaign(path, "north", work=folder / "work", data=data or folder, base=folder)
    own = parts(site, p.patch)
    return p, own["train"], own["test"], tuple(site.data.labels)


def loss_of(net: nn.Module, weights: Params, held: Sequence[Case]) -> float:
    """The training's loss over all cases, in evaluation mode."""
    params.load(net, weights)
    net.eval()
    with torch.no_grad():
        logits = net(torch.stack([case.image for case in held]))
        return float(losses.dice_ce()(logits, torch.stack([case.label for case in held])))


def dice_of(net: nn.Module, weights: Params, held: list[Case], labels: tuple[str, ...]) -> float:
    """Mean Dice on the files' own voxels."""
    params.load(net, weights)
    return evaluation.mean_dice(s["dice"] for s in predict.score(net, held, labels)) or 0.0


def between(first: Params, second: Params, k: float) -> Params:
    """The weights a share `k` of the way."""
    return {name: torch.lerp(value, second[name], k) for name, value in first.items()}


def barrier(curve: Sequence[float]) -> float:
    """How far a curve of losses rises above the straight line between its ends."""
    last = len(curve) - 1
    return max(value - (curve[0] + (curve[-1] - curve[0]) * k / last) for k, value in enumerate(curve))


def spread(values: Sequence[float]) -> str:
    """Mean, spread and every single value."""
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f} ({' '.join(f'{v:.3f}' for v in values)})"


def main() -> int:
    """Train the pairs, walk both lines, print the table; 1 if a match took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with the hippocampus of the Decathlon")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--width", type=int, default=8, help="filters of the first level")
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    logging.getLogger("fedmerge").setLevel(logging.ERROR)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        p, known, held, labels = hospital(asked.data, Path(temporary))
        settings = {**p.net, "base_filters": asked.width}
        training = Settings(**{**p.train.settings(1), "steps": asked.steps, "validate_every": 0})

        def build(seed: int) -> nn.Module:
            return nets.build(settings, in_channels=known[0].image.shape[0], out_channels=len(labels) + 1, seed=seed)

        def trained(seed: int) -> Params:
            net = build(seed)
            train(net, cases.batches(known, training.batch_size, seed), training, seed=seed, precision="float32")
            return params.of(net)

        net = build(0)
        groups = symmetry.of(net, known[0].image.shape)
        symmetry.verify(net, groups, known[0].image.shape)
        print(f"{sum(q.numel() for q in net.parameters())} parameters, {len(groups.sizes)} groups of units, "
              f"{len(known)} cases to train on, {len(held)} held out, {training.steps} steps", flush=True)  # fmt: skip
        barriers: dict[str, list[float]] = {}
        ends, middles, moved, seconds = [], {}, [], []
        for pair in range(asked.pairs):
            first, second = trained(2 * pair), trained(2 * pair + 1)
            start = time.perf_counter()
            found = align.match(first, second, groups, seed=pair)
            seconds.append(time.perf_counter() - start)
            moved.append(statistics.fmean(float((q != torch.arange(len(q))).float().mean()) for q in found.values()))
            ends += [dice_of(net, weights, held, labels) for weights in (first, second)]
            for name, other in (("as trained", second), ("aligned", symmetry.permute(second, groups, found))):
                curve = [loss_of(net, between(first, other, k / (POINTS - 1)), held) for k in range(POINTS)]
                barriers.setdefault(name, []).append(barrier(curve))
                middles.setdefault(name, []).append(dice_of(net, between(first, other, 0.5), held, labels))
                print(f"pair {pair}, {name:>10}: loss {' '.join(f'{value:.3f}' for value in curve)}", flush=True)
        print(f"Dice of the nets: {spread(ends)}")
        for name in barriers:
            print(f"{name:>10}: barrier {spread(barriers[name])}, Dice halfway {spread(middles[name])}")
        print(f"units that changed places: {spread(moved)}; match took {max(seconds):.2f} s at most "
              f"(bound {BOUND} s); all {time.perf_counter() - began:.0f} s")  # fmt: skip
    return int(max(seconds) > BOUND)


if __name__ == "__main__":
    with devices.threads(1):
        sys.exit(main())
