"""How near a device's numbers come to those of a processor in float64: gradients, Fisher, answers, a short training.

A net of Isensee et al. on a patch of 32^3, with fedmerge's own pass, loop and Fisher on the device.

    python benchmarks/agreement.py                                 # CUDA where there is one, bfloat16 or float32
    python benchmarks/agreement.py --device cpu --precision float32

prints each error beside its bound, and exits with 1 when one is missed. The bounds are what the documentation promises:
CUDA's convs take float32 with the mantissa of TF32, 10 bits, and bfloat16 has 7.
"""

import argparse
import math
import sys

import torch
from torch import Tensor, nn

from fedmerge import devices, fisher, losses, nets, params
from fedmerge.passes import Pass
from fedmerge.training import Run, Settings

CHANNELS, LOGITS, SIDE, STEPS = 4, 4, 32, 20
NET = {"name": "isensee2017", "dims": 3, "base_filters": 8, "depth": 4}
CASES = {  # (what, in what) -> the bound; of single gradients in bfloat16 nothing is promised: .26 on a processor
    ("gradients of the loss", "float32"): (1e-2,),
    ("the Fisher", "float32"): (2e-2,),  # whatever autocast is
    ("probabilities", "float32"): (1e-2,),
    ("probabilities", "bfloat16"): (5e-2,),
    ("loss after a training", "float32"): (2e-2,),
    ("loss after a training", "bfloat16"): (5e-2,),
}


def net() -> nn.Module:
    """The net, on the processor."""
    return nets.build(NET, in_channels=CHANNELS, out_channels=LOGITS, seed=0)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Two images of a few blocks in noise, drawn from the step."""
    g = torch.Generator().manual_seed(step)
    coarse = torch.randint(0, LOGITS, (2, 1, 4, 4, 4), generator=g)
    labels = nn.functional.interpolate(coarse.float(), scale_factor=SIDE // 4, mode="nearest").long()
    return labels + 0.5 * torch.randn(2, CHANNELS, *[SIDE] * 3, generator=g), labels


def error(got: params.Params, wanted: params.Params) -> float:
    """The length of the difference of all tensors together, as a share of the length of what is wanted."""
    apart = sum(float((got[name].double().cpu() - wanted[name]).square().sum()) for name in wanted)
    return float((apart / sum(float(value.square().sum()) for value in wanted.values())) ** 0.5)


def gradients(device: torch.device, dtype: torch.dtype | None) -> params.Params:
    """Of fedmerge's pass; on the processor in float64 where `device` is meta."""
    own, exact = net(), device.type == "meta"
    device = torch.device("cpu") if exact else device
    devices.place(own, device)
    x, y = batch(0)
    made = Pass(own.double() if exact else own, device, seed=0, dtype=dtype, loss=losses.dice_ce(), through=None)
    with made.ready():
        made((x.double() if exact else x).to(device), y.to(device), 0)
    return {name: p.grad.double().cpu() for name, p in own.named_parameters() if p.grad is not None}


def fishers(device: torch.device, exact: bool) -> params.Params:
    """The empirical Fisher of two cases."""
    own = net()
    devices.place(own, device)
    own = own.double() if exact else own
    pairs = list(zip(*batch(0)))
    kind = torch.float64 if exact else torch.float32
    cases = [(x.to(kind), y) for x, y in pairs]
    found = fisher.diagonal(own, cases, [name for name, _ in own.named_parameters()], labels="observed")
    return {name: value.double() for name, value in found.items()}


def answers(device: torch.device, dtype: torch.dtype | None, exact: bool) -> params.Params:
    """Probabilities of two images."""
    own = net()
    devices.place(own, device)
    own = (own.double() if exact else own).eval()
    x = batch(0)[0].to(device)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        return {"answers": own(x.double() if exact else x).double().softmax(1).cpu()}


def loss_after(device: torch.device, precision: str) -> float:
    """The mean loss of the last steps of a short training."""
    settings = Settings(steps=STEPS, lr=5e-3, record_every=STEPS // 2)
    run = Run(net(), batch, settings, seed=0, device=device, precision=precision)
    run.advance(STEPS)
    return float(run.finish().records[-1].loss or 0.0)


def main() -> int:
    """Print the errors; 1 if one is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=devices.PRECISIONS)
    args = parser.parse_args()
    device, cpu = devices.resolve(args.device), torch.device("cpu")
    dtype = devices.precision(device, args.precision)
    print(f"torch {torch.__version__}, {devices.describe(args.device, args.precision)}; against float64 on a processor")
    wanted = loss_after(cpu, "float32")
    kind, missed = "float32" if dtype is None else "bfloat16", 0
    found = {
        ("gradients of the loss", kind): error(gradients(device, dtype), gradients(torch.device("meta"), None)),
        ("the Fisher", "float32"): error(fishers(device, False), fishers(cpu, True)),
        ("probabilities", kind): error(answers(device, dtype, False), answers(cpu, None, True)),
        ("loss after a training", kind): abs(loss_after(device, args.precision) / wanted - 1),
    }
    for (what, where), off in found.items():
        (bound,) = CASES.get((what, where), (math.inf,))
        missed |= not off <= bound
        told = f"(bound {bound:g}) {'ok' if off <= bound else 'TOO FAR'}" if bound < math.inf else "(no bound)"
        print(f"{what}, {where}: {off:.1e} {told}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
