"""What the paper's net costs on a GPU at its real size, beside plain PyTorch and beside what the device can do.

The net of Isensee et al. with base 16 and depth 5, four channels, patches of 128^3, two a batch, bfloat16 autocast.
Everything goes through fedmerge's own loop, with batches that begin on the CPU; the rival is the same net, loss and
optimiser in a plain loop whose one batch lies on the device.

    python benchmarks/gpu.py                                           # on CUDA
    python benchmarks/gpu.py --devices 4                               # and several of them together
    python benchmarks/gpu.py --device cpu --patch 32 --base 4 --depth 3 --steps 2 --peak 512    # does it run?

prints a line for each figure, with bounds where there are any, and exits with 1 when one is missed.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedmerge import devices, fisher, likelihood, losses, nets, params, partition
from fedmerge.devices import Hardware
from fedmerge.fusion import fitting, mixing
from fedmerge.training import Run, Settings

CHANNELS, LOGITS, ROUNDS = 4, 4, 3
CASES = {  # what is measured, beside what, and the bound of the ratio; 1.05 in time is a throughput of 0.95
    "training": ("a plain step", 1.05),
    "adaptation": ("a training step", 1.1),
    "Fisher": ("a forward and a backward pass", 1.1),
}


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bfloat16", choices=devices.PRECISIONS)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--base", type=int, default=16)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps of each round")
    parser.add_argument("--models", type=int, nargs="*", default=[2, 5], help="numbers of models to adapt")
    parser.add_argument("--peak", type=int, default=8192, help="side of the matrices of the product")
    parser.add_argument("--devices", type=int, default=1, help="how many share a step in the line about several")
    parser.add_argument("--json", help="a file for the figures")
    return parser.parse_args()


class Bench:
    """The net's settings, its batch, and how time and memory are taken."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = devices.resolve(args.device)
        self.dtype = devices.precision(self.device, args.precision)
        self.precision, self.steps = args.precision, args.steps
        self.settings = {"name": "isensee2017", "dims": 3, "base_filters": args.base, "depth": args.depth}
        g = torch.Generator().manual_seed(0)
        shape = (args.batch, CHANNELS, *[args.patch] * 3)
        self.x = torch.randn(shape, generator=g)
        self.y = torch.randint(0, LOGITS, (args.batch, 1, *shape[2:]), generator=g)
        self.figures: dict[str, Any] = {}
        self.worst = 0

    def net(self, seed: int = 0) -> nn.Module:
        """The net, on the CPU."""
        return nets.build(self.settings, in_channels=CHANNELS, out_channels=LOGITS, seed=seed)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def taken(self, do: Callable[[int], None], times: int) -> tuple[float, float]:
        """Seconds of one of `times` steps after a warm-up, the median of some rounds, and the peak of memory in GiB."""
        cuda = self.device.type == "cuda"
        do(max(1, times // 4))
        self.wait()
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        rounds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            do(times)
            self.wait()
            rounds.append((time.perf_counter() - began) / times)
        return statistics.median(rounds), torch.cuda.max_memory_allocated(self.device) / 2**30 if cuda else float("nan")

    def run(self, net: nn.Module, **options: Any) -> Run:
        """Our loop over the batch that begins on the CPU."""
        settings = Settings(steps=10**9, lr=1e-4, record_every=10**9)
        return Run(
            net, lambda _: (self.x, self.y), settings,
            seed=0, device=self.device, precision=self.precision, **options,
        )  # fmt: skip

    def tell(self, name: str, seconds: float, gib: float, ratio: float | None = None, case: str = "") -> None:
        """One line, with the verdict where it is one of `CASES`, and the figure for the file."""
        told = "" if math.isnan(gib) else f", peak {gib:.2f} GiB"
        told += f", ratio {ratio:.3f}" if ratio is not None else ""
        if case and ratio is not None:
            against, bound = CASES[case]
            self.worst |= ratio > bound
            told += f" to {against} (bound {bound}) {'TOO SLOW' if ratio > bound else 'ok'}"
        self.figures[name] = {"seconds": seconds, "peak_gib": gib, "ratio": ratio}
        print(f"{name}: {seconds * 1e3:.1f} ms{told}", flush=True)


def plain(bench: Bench) -> Callable[[int], None]:
    """PyTorch as one writes it: channels last on CUDA, fused AdamW, autocast, the batch on the device."""
    layout = torch.channels_last_3d if bench.device.type == "cuda" else torch.contiguous_format
    net = bench.net().to(bench.device, memory_format=layout).train()
    x, y = bench.x.to(bench.device, memory_format=layout), bench.y.to(bench.device)
    loss, optimiser = losses.dice_ce(), torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

    def steps(count: int) -> None:
        for _ in range(count):
            optimiser.zero_grad()
            with torch.autocast(bench.device.type, bench.dtype, enabled=bench.dtype is not None):
                logits = net(x)
            loss(logits.float(), y).backward()
            optimiser.step()

    return steps


def ours(bench: Bench, how: str = "never") -> Callable[[int], None]:
    """The same steps by fedmerge's loop."""
    with devices.using(Hardware(recompute=how)):  # type: ignore[arg-type]  # one of the words
        run = bench.run(bench.net())
    return lambda count: run.advance(run.step + count)


def several(bench: Bench, count: int) -> float:
    """Seconds of a training step of `count` devices, each with a batch like that of one."""
    bench.x, bench.y, x, y = torch.cat([bench.x] * count), torch.cat([bench.y] * count), bench.x, bench.y
    with devices.using(Hardware(str(bench.device), devices=count)):
        run = bench.run(bench.net())
        seconds, gib = bench.taken(lambda steps: run.advance(run.step + steps), bench.steps)
    bench.x, bench.y = x, y
    bench.tell(f"fedmerge, a training step of {count} devices", seconds, gib)
    return seconds


def adaptation(bench: Bench, models: int) -> Callable[[int], None]:
    """Steps of the near fit by layer with rule mode: fuse, load, forward, backward, S, logits."""
    net = bench.net()
    heads = nets.heads(bench.settings, in_channels=CHANNELS, out_channels=LOGITS)
    names = partition.of(net, heads).fusable
    given = [params.of(bench.net(seed)) for seed in range(1, models + 1)]
    fishers = [{name: model[name].square() for name in names} for model in given]
    mix = mixing.prepare(given, fishers, names, axes=partition.kernel_axes(net))
    own = dict(net.named_parameters())
    run = bench.run(net, rates={name: 1e-4 for name in own if name not in names}, watch=names)

    def respond(_step: int, fused: params.Params) -> params.Params:
        params.load(net, fused)
        run.advance(run.step + 1)
        return {name: own[name].grad.detach() for name in names}  # type: ignore[union-attr]  # watched

    return lambda count: void(fitting.fit(mix, respond, steps=count, lr=0.05, device=bench.device))


def void(_: object) -> None:
    """Nothing."""


def fisher_cases(bench: Bench) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """The Fisher of so many cases, and their forward and backward passes in float32, as the Fisher takes them."""
    net = bench.net()
    devices.place(net, bench.device)
    net.eval()
    names = [name for name, _ in net.named_parameters()]
    image, label = bench.x[0], bench.y[0]

    def ours(count: int) -> None:
        fisher.diagonal(net, [(image, label)] * count, names, labels="observed")

    def passes(count: int) -> None:
        for _ in range(count):
            net.zero_grad()
            logits = net(image[None].to(bench.device))
            likelihood.log_likelihood(logits, label[None].to(bench.device)).sum().backward()

    return ours, passes


def product(bench: Bench, side: int) -> float:
    """Operations a second of a large matrix product in the precision of autocast."""
    a = torch.randn(side, side, device=bench.device, dtype=bench.dtype or torch.float32)

    def multiply(count: int) -> None:
        for _ in range(count):
            a @ a

    return 2 * side**3 / bench.taken(multiply, bench.steps)[0]


def operations(bench: Bench) -> int:
    """Of one training step: the convs of both passes."""
    net = bench.net().to(bench.device)
    counter = FlopCounterMode(display=False)
    with counter:
        net(bench.x.to(bench.device)).sum().backward()
    return counter.get_total_flops()


def predicted(bench: Bench) -> Callable[[int], None]:
    """The net's answers to one image, probabilities on the CPU."""
    net = bench.net()
    devices.place(net, bench.device)
    net.eval()
    image = bench.x[:1]

    def forward(count: int) -> None:
        with torch.inference_mode(), torch.autocast(bench.device.type, bench.dtype, enabled=bench.dtype is not None):
            for _ in range(count):
                answer: Tensor = torch.softmax(net(image.to(bench.device)).float(), dim=1)
                answer.cpu()

    return forward


def main() -> int:
    """Print the lines; 1 if a bound is missed."""
    args = asked()
    bench = Bench(args)
    where = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else platform.processor() or "cpu"
    told = devices.describe(args.device, args.precision)
    print(f"{where}, torch {torch.__version__}, CUDA {torch.version.cuda}, {told}")
    rival, rival_gib = bench.taken(plain(bench), args.steps)
    bench.tell("plain PyTorch, a training step", rival, rival_gib)
    step, gib = bench.taken(ours(bench), args.steps)
    bench.tell("fedmerge, a training step", step, gib, step / rival, "training")
    sparing, gib = bench.taken(ours(bench, "always"), args.steps)
    bench.tell("fedmerge, a training step in less memory", sparing, gib, sparing / step)
    if args.devices > 1:
        rate, single = args.devices * args.batch / several(bench, args.devices), args.batch / step
        bench.figures["several"] = {"images_per_second": rate, "of_one": single}
        of = rate / single / args.devices
        print(f"{args.devices} devices: {rate:.2f} images/s, {of:.3f} of {args.devices} times one")
    peak, needed = product(bench, args.peak), operations(bench)
    share = needed / step / peak
    bench.figures["share"] = {"of_peak": share, "flop": needed, "peak_flops": peak}
    print(f"share of the matrix product's {peak / 1e12:.1f} TFLOP/s: {share:.3f} ({needed / 1e12:.2f} TFLOP a step)")
    for models in args.models:
        adapt, gib = bench.taken(adaptation(bench, models), args.steps)
        bench.tell(f"an adaptation step, T = {models}", adapt, gib, adapt / step, "adaptation")
    diagonal, passes = fisher_cases(bench)
    base, gib = bench.taken(passes, args.steps)
    bench.tell("a forward and backward pass of one case, float32", base, gib)
    case, gib = bench.taken(diagonal, args.steps)
    bench.tell("the Fisher of one case", case, gib, case / base, "Fisher")
    answer, gib = bench.taken(predicted(bench), args.steps)
    bench.tell("a prediction of one patch", answer, gib)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:  # noqa: PTH123 - a path from the command line
            json.dump({"device": where, "torch": torch.__version__, "args": vars(args), "figures": bench.figures}, file)
    return bench.worst


if __name__ == "__main__":
    sys.exit(main())
