"""What the diagonal Fisher costs: its time per case against one forward and backward pass of that case.

Both in evaluation mode and float32, for all parameters, observed labels as the pass needs some. One thread,
the two in turn, medians of five.

    python benchmarks/fisher_case.py

prints the ratio and its bound, and exits with 1 when it is exceeded.
"""

import statistics
import sys
import time

import torch

from fedmerge import devices, fisher, likelihood, nets

ROUNDS, CASES, BOUND = 7, 4, 1.15
SETTINGS = {"name": "isensee2017", "dims": 3, "base_filters": 8, "depth": 4}
SHAPE = (1, 32, 48, 32)


def main() -> int:
    """Print the line; 1 if the bound is exceeded."""
    net = nets.build(SETTINGS, in_channels=1, out_channels=3, seed=0).eval()
    names = [name for name, _ in net.named_parameters()]
    g = torch.Generator().manual_seed(0)
    cases = [(torch.randn(SHAPE, generator=g), torch.randint(0, 3, SHAPE, generator=g)) for _ in range(CASES)]

    def diagonal(labels: fisher.Labels) -> None:
        fisher.diagonal(net, cases, names, labels=labels, generator=torch.Generator().manual_seed(0))

    def passes() -> None:
        for image, label in cases:
            net.zero_grad()
            likelihood.log_likelihood(net(image[None]), label[None]).sum().backward()

    work = {"pass": passes, "observed": lambda: diagonal("observed"), "sampled": lambda: diagonal("sampled")}
    taken: dict[str, list[float]] = {name: [] for name in work}
    with devices.threads(1):
        for _ in range(ROUNDS + 1):  # the first round warms up
            for name, do in work.items():
                began = time.perf_counter()
                do()
                taken[name].append((time.perf_counter() - began) / CASES)
    median = {name: statistics.median(times[1:]) for name, times in taken.items()}
    worst = 0
    for labels in ("observed", "sampled"):
        # round by round, so that a machine that slows down meanwhile slows both
        ratio = statistics.median(a / b for a, b in zip(taken[labels][1:], taken["pass"][1:]))
        verdict = "ok" if ratio <= BOUND else "TOO SLOW"
        worst |= verdict != "ok"
        print(
            f"{labels} labels, {'x'.join(map(str, SHAPE))}: Fisher {median[labels] * 1e3:.0f} ms a case, "
            f"pass {median['pass'] * 1e3:.0f} ms, ratio {ratio:.3f} (bound {BOUND}) {verdict}"
        )
    return worst


if __name__ == "__main__":
    sys.exit(main())
