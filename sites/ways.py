"""Ways in which a source trains beside the plain one: what is added to the loss, and heads that are kept.

    l2, fedprox   a penalty on the distance from the start             Lee et al. 2017; Li et al. 2020
    drop          parameters put back to the start at random           Lee et al. 2017, drop-transfer
    ewc           a penalty weighed by the Fishers of those before     Kirkpatrick et al. 2016
    lwf           the model of the site before is distilled            Li & Hoiem 2016

In Learning without Forgetting the net gets the earlier heads as further rows, which learn to say on this site's images
what the model of the site before says there; so no old data is needed. They travel on with the contribution.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge import fisher, heads, nets, params, partition, penalties, tasks, training
from fedmerge.contribution import Contribution
from fedmerge.losses import Logits
from fedmerge.params import Params
from sites.inbound import Declined


@dataclass(frozen=True)
class Way:
    """How one training goes.

    Attributes:
        net: what trains.
        options: further arguments of `training.train`.
        weights: what of the trained net is sent.
        view: of that net, the part that answers the site's own task.
    """

    net: nn.Module
    options: dict[str, Any]
    weights: Callable[[], Params]
    view: Callable[[nn.Module], nn.Module] = lambda net: net


def prepare(asked: tasks.Contribute, net: nn.Module, start: Params, before: list[Contribution]) -> Way:
    """The way of a task.

    Args:
        asked: the task.
        net: with the start's weights in it.
        start: the weights that the training begins with.
        before: the contributions of sources that trained before, as far as the way looks at them.

    Raises:
        Declined: the way is unknown, or it cannot be gone with what came.
    """
    if asked.way not in WAYS:
        raise Declined(f"the task's way expected one of {', '.join(WAYS)}, got {asked.way[:40]!r}")
    if asked.way in ("ewc", "lwf") and not before:
        raise Declined(f"the way '{asked.way}' looks at a source before, and none came")
    return WAYS[asked.way](asked, net, start, before)


def _plain(asked: tasks.Contribute, net: nn.Module, start: Params, before: list[Contribution]) -> Way:
    return Way(net, {}, lambda: params.of(net))


def _penalised(penalty: Callable[[Mapping[str, Tensor], Params, float], Tensor]) -> Callable[..., Way]:
    """A way whose loss has a further term, a function of the net's parameters and the start."""

    def way(asked: tasks.Contribute, net: nn.Module, start: Params, before: list[Contribution]) -> Way:
        own, settings = dict(net.named_parameters()), training.Settings(**asked.settings)

        def through(net: nn.Module, x: Tensor, step: int) -> tuple[Logits, Tensor]:
            return training.answer(settings, net, x), penalty(own, _on(x.device, start), asked.strength)

        return Way(net, {"through": through}, lambda: params.of(net))

    return way


def _ewc(asked: tasks.Contribute, net: nn.Module, start: Params, before: list[Contribution]) -> Way:
    own, shapes, last = dict(net.named_parameters()), params.shapes(net), before[-1]
    names = [n for n in last.fisher if all(shapes.get(n) == tuple(one.fisher[n].shape) for one in before)]
    known = [fisher.normalise(params.split(one.fisher, names)[0], who=one.site) for one in before]
    there = params.split(last.weights, names)[0]
    important = {n: torch.stack([f[n] for f in known]).sum(0) for n in names}
    settings = training.Settings(**asked.settings)

    def through(net: nn.Module, x: Tensor, step: int) -> tuple[Logits, Tensor]:
        return training.answer(settings, net, x), penalties.ewc(
            own, _on(x.device, there), [_on(x.device, important)], asked.strength
        )

    return Way(net, {"through": through}, lambda: params.of(net))


def _drop(asked: tasks.Contribute, net: nn.Module, start: Params, before: list[Contribution]) -> Way:
    own = dict(net.named_parameters())
    generator, axes = torch.Generator(), partition.kernel_axes(net)
    settings = training.Settings(**asked.settings)

    def through(net: nn.Module, x: Tensor, step: int) -> tuple[Logits, None]:
        generator.manual_seed(asked.seed + step)
        there = _on(x.device, start)
        mixed = penalties.drop_transfer(there, own, list(there), asked.strength, generator, axes=axes)
        with params.holding(net, mixed):
            return training.answer(settings, net, x), None

    return Way(net, {"through": through}, lambda: params.of(net))


def _on(device: torch.device, weights: Params) -> Params:
    """On the device; copied there once, and not at all where they are there."""
    for name, value in weights.items():
        if value.device != device:
            weights[name] = value.to(device)
    return weights


def _lwf(asked: tasks.Contribute, net: nn.Module, start: Params, before: list[Contribution]) -> Way:
    names, last = asked.net.heads, before[-1]
    axis = heads.axes(net, names)
    mine = params.of(net)
    earlier = {last.site: params.split(last.weights, names)[0], **heads.kept(last.weights, names)}
    rows = [head[names[0]].shape[axis[names[0]]] for head in (mine, *earlier.values())]
    teacher = _wider(asked, last.weights, list(earlier.values()), axis)
    wide = _wider(asked, mine, [mine, *earlier.values()], axis)
    teacher.eval().requires_grad_(False)
    base, settings = asked.net.task.loss(), training.Settings(**asked.settings)

    def through(wide: nn.Module, x: Tensor, step: int) -> tuple[Logits, Tensor]:
        answer = training.answer(settings, wide, x)
        logits = answer if isinstance(answer, Tensor) else answer[0]
        with torch.no_grad():
            told: Tensor = teacher.to(x.device)(x)
        pairs = zip(torch.split(logits, rows, 1)[1:], torch.split(told, rows[1:], 1))
        terms = [
            penalties.distillation(ours.float(), theirs.float(), regions=site in asked.regional)
            for site, (ours, theirs) in zip(earlier, pairs)
        ]
        return answer, asked.strength * torch.stack(terms).sum()

    def weights() -> Params:
        trained = params.of(wide)
        own, *others = heads.split(trained, rows, axis)
        kept = {f"{n}{heads.KEPT}{site}": head[n] for site, head in zip(earlier, others) for n in names}
        return {**trained, **own, **kept}

    options = {"through": through, "loss": lambda logits, labels: base(logits[:, : rows[0]], labels)}
    return Way(wide, options, weights, lambda wide: _First(wide, rows[0]))


class _First(nn.Module):
    """A net's first output channels."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, channels, *S), or to (B, channels)."""
        out: Tensor = self.net(x)[:, : self.channels]
        return out


def _wider(asked: tasks.Contribute, body: Params, own: list[Params], axis: Mapping[str, int]) -> nn.Module:
    """The task's net with the rows of these heads one after the other.

    Raises:
        Declined: the body is of another net: other image channels, say.
    """
    rows = heads.join(own, axis)
    name = next(iter(axis))
    net = nets.build(
        nets.bare(asked.net.settings), in_channels=asked.net.in_channels, out_channels=rows[name].shape[axis[name]]
    )
    weights = {**{n: v for n, v in body.items() if heads.KEPT not in n}, **rows}
    shapes = params.shapes(net)
    for n, shape in shapes.items():
        if n not in weights or tuple(weights[n].shape) != shape:
            raise Declined(f"the way 'lwf' runs the net of the site before, whose '{n}' has another shape than here")
    params.load(net, weights)
    return net


WAYS: dict[str, Callable[[tasks.Contribute, nn.Module, Params, list[Contribution]], Way]] = {
    "plain": _plain,
    "l2": _penalised(penalties.l2),
    "fedprox": _penalised(penalties.proximal),
    "drop": _drop,
    "ewc": _ewc,
    "lwf": _lwf,
}
