"""The target's workplace for one row: its cases, its net as the row starts, and what it mixes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fedmerge import answers, devices, fusion, heads, labelfiles, params, partition, tasks, training, wire
from fedmerge.contribution import Contribution
from fedmerge.errors import NetError
from fedmerge.fusion import mixing, recipe
from fedmerge.fusion.mixing import Mix
from fedmerge.params import Params
from sites import cases, importance, patches, predict, steps, vouched
from sites.config import Site
from sites.inbound import Declined
from sites.parts import received
from sites.source import check_regions, parts
from sites.trainer import build, validator


class Unstitched(Declined):
    """The sources' heads do not answer the target's labels."""


def _contribution(site: Site, name: str) -> Contribution:
    path = received(site, name)
    if not path.exists():
        raise Declined(f"{site.name}: expected the weights {name[:15]} to have come before this task")
    return wire.read(path, site=site.name)


class Bench:
    """The target's workplace for one row: its cases, its net at the row's start, and what it mixes."""

    def __init__(self, site: Site, row: tasks.Row, *, far: bool = False) -> None:
        check_regions(site, row.net)
        self.site, self.row = site, row
        self.method = fusion.Method(**row.method)
        self.folder = site.work / "rows" / row.key
        own = parts(site, row.net.patch, field=row.net.field, seed=row.seed, target_cases=row.target_cases)
        if row.folds:
            own = cases.fold([*own["train"], *own["validate"]], row.fold, row.folds)
        self.train, self.test = own["train"], own["test"]
        self.validate = validator(site, own["validate"], row.net, row.precision)
        self.net = build(row.net, row.net_seed)
        partition.check_buffers(self.net, reestimate=row.buffers == "re-estimate")
        self.mix: Mix | None = None
        self.fused: Params = {}
        self.logits: Params = {}
        _overlay(self.net, wire.open_params(received(site, row.ancestor), site=site.name))
        if not far:
            self._start()
        self.settle()

    def _start(self) -> None:
        """Lay the source's, or the merged, parameters over the ancestor's, and put the heads together."""
        row, method = self.row, self.method
        if method.sources == "rounds":
            (body,) = row.digests
            _overlay(self.net, wire.open_params(received(self.site, body), site=self.site.name))
            return
        vouched.check(self.site, row)
        given = [_contribution(self.site, name) for name in row.digests]
        kept = {
            "norms": row.net.norms if method.norms == "kept" else (),
            "heads": row.net.heads if method.heads == "kept" else (),
            "body": (*row.net.fusable, *row.net.other) if method.rule is None else (),
        }
        if given:  # where there are several, the norms are those of the last
            _overlay(self.net, params.split(given[-1].weights, [n for names in kept.values() for n in names])[0])
        if recipe.combines(method):
            ancestor = wire.open_params(received(self.site, row.ancestor), site=self.site.name)
            models = [c.weights for c in given]
            self.fused = recipe.combine(method, ancestor, models, row.net.fusable, **row.scales)
            params.load(self.net, self.fused)
        elif method.rule is not None:
            self.mix = recipe.mix(
                method,
                [c.weights for c in given],
                self._fishers(given),
                recipe.names(method, row.net.fusable, row.net.norms),
                net=self.net,
                image=(row.net.in_channels, *row.net.patch),
                who=row.sources,
            )
            self.logits = recipe.starting_logits(self.mix, method, row.seed)
            self.merge(self.logits)
        if method.heads == "stitched":
            self._stitch(given)

    def _fishers(self, given: list[Contribution]) -> list[Params]:
        """The sources' Fishers as they came, or those that the target makes."""
        if self.row.fisher != "target":
            return [c.fisher for c in given]
        return [importance.fisher_of(self.site, self.row, c, self.train) for c in given]

    def _stitch(self, given: list[Contribution]) -> None:
        """Put the sources' heads together for the target's labels.

        Raises:
            Unstitched: a label or region is none of theirs, or two classifiers have no class in common.
        """
        names = self.row.net.heads
        there = [heads.Head(_rows(c), params.split(c.weights, names)[0]) for c in given]
        for c in given:
            for site, head in heads.kept(c.weights, names).items():
                there.append(heads.Head(tuple(self.row.kept.get(site, ())), head))
        try:
            stitched = self.row.net.task.stitch(self.row.net.rows, there, heads.axes(self.net, names))
        except NetError as error:
            raise Unstitched(f"{self.site.name}: {error}") from None
        params.load(self.net, stitched)

    def merge(self, logits: Params) -> None:
        """Fuse with these logits and put the result into the net."""
        if self.mix is not None:
            self.fused = mixing.fuse(self.mix, mixing.ratios(logits, self.row.ratios))  # type: ignore[arg-type]
            params.load(self.net, self.fused)

    def settle(self) -> None:
        """Statistics of batch norms, where the campaign re-estimates them: anew for the weights as they are now."""
        if self.row.buffers == "re-estimate":
            partition.reestimate(self.net, patches.images(self.train))

    def score(self, keep_in: str = "") -> list[tasks.CaseScore]:
        """The score of each test case; predictions stay in the site's folder."""
        folder = self.site.work / "predictions" / self.row.label if keep_in else None
        if folder is not None and self.row.net.task.maps:
            labelfiles.write(folder.parent, self.row.net.labels)
        return predict.score(
            self.net,
            self.test,
            self.row.net.labels,
            measures=self.row.measures,
            overlap=self.row.net.overlap,
            flips=self.row.flips,
            precision=self.row.precision,
            keep=folder,
            regions=self.row.net.task.regions,
        )

    def point(self, step: int) -> tasks.Curve:
        """The learning curve's point at a step; none where the target holds no validation cases."""
        return [(step, self.validate(self.net))] if self.validate else []

    def rates(self, settings: training.Settings) -> dict[str, float]:
        """A learning rate for every parameter: S may have one of its own."""
        own = {*self.row.net.norms, *self.row.net.heads, *self.row.net.other}
        return settings.rates([name for name, _ in self.net.named_parameters()], own)

    def batches(self, settings: training.Settings, offset: int = 0) -> Callable[[int], tuple[Tensor, Tensor]]:
        """The row's batches; fine-tuning goes on in the stream where adaptation stopped."""
        stream = cases.batches(
            self.train,
            settings.batch_size,
            self.row.seed,
            foreground=self.row.net.foreground,
            changes=settings.augment,
        )
        return lambda step: stream(step + offset)


def _rows(given: Contribution) -> tuple[str, ...]:
    """What the rows of a contribution's head stand for."""
    return answers.of(given.net, given.labels, given.regions).rows(given.labels)


def _overlay(net: nn.Module, given: Params) -> None:
    """Load what the net has under the same name and shape; a stem with other channels keeps its own."""
    own = params.shapes(net)
    params.load(net, {n: v for n, v in given.items() if own.get(n) == tuple(v.shape)})


def card(bench: Bench) -> dict[str, Any]:
    """What a model file says of itself: enough to build the net, prepare an image and name the labels."""
    row, data = bench.row, bench.site.data
    return {
        "net": row.net.settings,
        "in_channels": row.net.in_channels,
        "labels": list(row.net.labels),
        **({"regions": row.net.regions} if row.net.regions else {}),
        "channels": list(data.modalities),
        "patch": list(row.net.patch),
        "field": row.net.field,
        "overlap": row.net.overlap,
        "spacing_mm": list(data.spacing_mm) if data.spacing_mm else None,
        "preparation": steps.table(steps.of(data)),
        "method": bench.method.name,
        "sources": list(row.sources),
        "contributions": list(row.digests),
        "target_cases": row.target_cases,
        "seed": row.seed,
        "device": devices.describe(wanted=row.precision),
    }
