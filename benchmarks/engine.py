"""What a campaign costs beside its steps: the in-process engine against the same steps in a plain PyTorch script.

The built-in hospitals are written and read before the clock starts. Both sides then train two sources in a chain, take
their Fishers, adapt and fine-tune at the target (rows `none` and `t-imm`), validate and score as often, with one thread
and one worker. What differs is all that a campaign adds: messages, checks, digests, files on disk, resumption.

    python -m benchmarks.engine
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.func import functional_call

from fedmerge import campaign, nets, partition
from server import inprocess, plan
from server.app import app as server_app
from server.plan import Plan
from sites import cases, config, predict
from sites.app import app as client_app
from sites.source import parts

BOUND = 1.10


def engine(out: Path, base: Path) -> float:
    """Seconds of the campaign through the engine, results written."""
    run = {"campaign": "", "out": str(out), "data": str(base), "methods": "none,t-imm", "seeds": "0", "workers": 1}
    began = time.perf_counter()
    inprocess.run(server_app, client_app, run, 3, 1)
    return time.perf_counter() - began


def sgd(net: nn.Module, batches, steps: int, lr: float, validate=None, every: int = 0) -> None:
    """A training loop as one writes it, linear decay to a tenth."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0, fused=True)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - 0.9 * k / steps)
    loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    net.train()
    for step in range(steps):
        if every and step % every == 0:
            validate(net)
        x, y = batches(step)
        optimiser.zero_grad(set_to_none=True)
        loss(net(x), y).backward()
        optimiser.step()
        decay.step()
    if every:
        validate(net)


def fisher(net: nn.Module, some, names: set[str]) -> dict[str, Tensor]:
    """The diagonal Fisher with sampled labels, a backward pass a case."""
    net.eval()
    total = {n: torch.zeros_like(p) for n, p in net.named_parameters() if n in names}
    for case in some:
        logits = net(case.image[None])
        with torch.no_grad():
            flat = logits.softmax(1).movedim(1, -1).flatten(0, -2)
            drawn = torch.multinomial(flat, 1).view(logits.shape[0], *logits.shape[2:])
        net.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
        for n, p in net.named_parameters():
            if n in total:
                total[n] += p.grad.square() / len(some)
    return {n: (f / f.mean()).clamp(1e-3, 1e4) for n, f in total.items()}


def adapt(net: nn.Module, models, fishers, names: list[str], batches, p: Plan, validate) -> None:
    """T-IMM's adaptation by autograd through the fused weights."""
    layers = sorted({n.rpartition(".")[0] for n in names})
    logits = {layer.replace(".", "/"): torch.zeros(2, requires_grad=True) for layer in layers}
    own = [q for n, q in net.named_parameters() if n not in set(names)]
    optimiser = torch.optim.AdamW([{"params": own, "lr": p.adapt.lr}, {"params": list(logits.values()), "lr": 0.05}])
    loss = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)

    def fused() -> dict[str, Tensor]:
        made = {}
        for n in names:
            s = logits[n.rpartition(".")[0].replace(".", "/")].sigmoid()
            w = [s[t] / s.sum() * fishers[t][n] for t in range(2)]
            made[n] = (w[0] * models[0][n] + w[1] * models[1][n]) / (w[0] + w[1])
        return made

    for step in range(p.adapt.steps):
        if step % (p.adapt.validate_every or p.adapt.steps) == 0:
            validate(net)
        x, y = batches(step)
        optimiser.zero_grad(set_to_none=True)
        loss(functional_call(net, fused(), (x,)), y).backward()
        optimiser.step()
    with torch.no_grad():
        for n, value in fused().items():
            net.get_parameter(n).copy_(value)
    validate(net)


def plain(base: Path, out: Path, p: Plan) -> float:
    """Seconds of the same steps without a campaign."""
    path = campaign.built_in()
    sites = [config.from_campaign(path, n, work=out / n, data=base, base=out) for n in p.residents]
    began = time.perf_counter()
    body, models, fishers = None, [], []
    for site in sites[:2]:
        own = parts(site, p.patch)
        net = nets.build(p.net, in_channels=1, out_channels=len(site.data.labels) + 1, seed=0)
        heads = set(nets.heads(p.net, in_channels=1, out_channels=len(site.data.labels) + 1))
        names = list(partition.of(net, heads).fusable)
        if body is not None:
            net.load_state_dict(body, strict=False)
        sgd(net, cases.batches(own["train"], p.train.batch_size, 0), p.train.steps, p.train.lr)
        fishers.append(fisher(net, own["train"][: p.train.fisher_cases], set(names)))
        models.append({n: net.get_parameter(n).detach().clone() for n in names})
        body = {n: v for n, v in net.state_dict().items() if n not in heads}
        for _ in range(4):  # forgetting: two sources and two merges on this source's task
            predict.score(net, own["test"], tuple(site.data.labels))
    target = sites[2]
    labels = tuple(target.data.labels)
    own = parts(target, p.patch, seed=0, target_cases=target.data.train)

    def validate(net: nn.Module) -> None:
        predict.score(net, own["validate"], labels)

    for merged in (False, True):
        net = nets.build(p.net, in_channels=1, out_channels=len(labels) + 1, seed=0)
        batches = cases.batches(own["train"], p.finetune.batch_size, 0)
        predict.score(net, own["test"], labels)
        if merged:
            adapt(net, models, fishers, names, batches, p, validate)
            predict.score(net, own["test"], labels)
        steps = p.finetune.steps + (0 if merged else p.adapt.steps)
        sgd(net, batches, steps, p.finetune.lr, validate, p.finetune.validate_every)
        predict.score(net, own["test"], labels, keep=out / f"predictions-{merged}")
    return time.perf_counter() - began


def main() -> int:
    """Print seconds and their ratio; the exit status says whether the bound holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    logging.getLogger("fedmerge").setLevel(logging.ERROR)
    logging.getLogger("fedmerge.progress").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = folder / "hospitals"
        p = plan.read(campaign.built_in(), base=folder)
        plain(base, folder / "warm-up", p)  # writes and reads the hospitals
        ours, theirs = [], []
        for k in range(runs):
            ours.append(engine(folder / f"engine-{k}", base))
            theirs.append(plain(base, folder / f"plain-{k}", p))
            print(f"run {k}: engine {ours[-1]:.1f} s, plain {theirs[-1]:.1f} s, ratio {ours[-1] / theirs[-1]:.3f}")
    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
    print(f"in-process engine / plain PyTorch: {ratio:.3f} (bound {BOUND})")
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())
