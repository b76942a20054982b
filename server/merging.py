"""What a row is made of, and its merge: contributions are opened for it and closed again, the merged model is kept.

A mix is as large as three bodies a source, so it is made where it is needed and not kept while a site works.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmerge import nets, params, tasks, wire
from fedmerge.errors import Refused
from fedmerge.fusion import mixing, recipe, rules
from fedmerge.fusion.mixing import Mix
from fedmerge.params import Params
from server.adaptation import Place
from server.ground import Ground
from server.made import Made
from server.wanted import POOLED


@dataclass
class Outcome:
    """What a row came to: its stages, its ratios, what it was made of, where the merged weights lie, its choice.

    `leave_one_out` and `admission`: lines of results.json, where there are any.
    """

    place: Place
    stages: list[dict[str, Any]]
    ratios: dict[str, Any] | None = None
    fused: Path | None = None
    made: list[Made] = field(default_factory=list)
    choice: dict[str, Any] | None = None
    leave_one_out: dict[str, Any] | None = None
    admission: dict[str, Any] | None = None


def ingredients(ground: Ground, place: Place) -> list[Made]:
    """The contributions that the row's method is made of.

    Raises:
        Refused: a source that it cannot do without was left out.
    """
    method, chain = place.method, place.chain
    if method.sources == "one":
        if (chain, str(method.site)) not in ground.made:
            raise Refused(f"{method.site} was left out: {ground.why(chain, str(method.site))}")
        return [ground.made[chain, str(method.site)]]
    if method.sources == "rounds":
        if (chain, method.training) not in ground.made:
            raise Refused(f"chain {chain} has no source left for {method.training}")
        return [ground.made[chain, method.training]]
    if method.sources == "pooled":
        if (chain, f"{POOLED}:{place.target}") not in ground.made:
            absent = [name for name in ground.plan.sources if name not in ground.sites]
            raise Refused(f"'pooled' needs the cases of all sources, and {', '.join(absent)} was left out")
        return [ground.made[chain, f"{POOLED}:{place.target}"]]
    models = ground.models(chain, method.way) if method.sources in ("last", "all") else []
    if method.only:
        models = [one for one in models if one.site in method.only]
        if len(models) < len(method.only):
            gone = next(site for site in method.only if site not in [one.site for one in models])
            raise Refused(f"{gone} was left out: {ground.why(chain, gone)}")
    return models[-1:] if method.sources == "last" else models


def logit_shapes(ground: Ground, place: Place, task: tasks.Row) -> dict[str, tuple[int, ...]]:
    """The shapes of the logits that the target may answer with; none where nothing is merged."""
    if place.method.rule not in rules.RULES:
        return {}
    net = task.net
    like = params.shapes(nets.on_meta(net.settings, in_channels=net.in_channels, out_channels=net.out_channels))
    return mixing.logit_shapes(
        {name: like[name] for name in recipe.names(place.method, net.fusable, net.norms)},
        len(task.sources),
        grain=place.method.grain,
        axes=ground.axes(place.target),
    )


def mix(ground: Ground, place: Place, task: tasks.Row, made: list[Made]) -> Mix | None:
    """What the row mixes, if it mixes."""
    if place.method.rule not in rules.RULES:
        return None
    net = task.net
    given = [one.open() for one in made]
    return recipe.mix(
        place.method,
        [c.weights for c in given],
        [c.fisher for c in given],
        recipe.names(place.method, net.fusable, net.norms),
        net=nets.on_meta(net.settings, in_channels=net.in_channels, out_channels=net.out_channels),
        image=(net.in_channels, *net.patch),
        who=task.sources,
    )


def combine(ground: Ground, place: Place, task: tasks.Row, outcome: Outcome) -> str:
    """Put the models together by a rule that has no ratios; keep the model, and return its digest."""
    models = [one.open().weights for one in outcome.made]
    fused = recipe.combine(place.method, ground.ancestor(place.chain), models, task.net.fusable, **task.scales)
    outcome.fused = _keep(ground, place, task, fused)
    return params.digest(fused)


def merge(ground: Ground, place: Place, task: tasks.Row, outcome: Outcome, mixed: Mix, told: str = "") -> str:
    """Fuse with the logits that were fitted, or those that the row begins with; keep the model.

    Args:
        ground: the campaign.
        place: the row.
        task: the row as the target got it.
        outcome: gets the ratios and the file.
        mixed: what to fuse.
        told: the digest of what the target merged, where it has done so already.

    Returns:
        the digest of the merged weights.

    Raises:
        Refused: the target merged something else.
    """
    logits = recipe.starting_logits(mixed, place.method, place.seed)
    if task.adapt:
        logits = _fitted(ground, task, logits)
    ratios = mixing.ratios(logits, task.ratios)  # type: ignore[arg-type]  # the plan allows two words
    fused = mixing.fuse(mixed, ratios)
    digest = params.digest(fused)
    if told:
        same(place, digest, told)
    outcome.ratios = _ratios(place, task, ratios)
    outcome.fused = _keep(ground, place, task, fused)
    return digest


def taken(ground: Ground, place: Place, task: tasks.Row, outcome: Outcome) -> None:
    """The ratios of a target that merges alone, since nobody else has its Fishers; none where nothing was fitted."""
    if task.adapt:
        logits = _fitted(ground, task, logit_shapes(ground, place, task))
        outcome.ratios = _ratios(place, task, mixing.ratios(logits, task.ratios))  # type: ignore[arg-type]


def _fitted(ground: Ground, task: tasks.Row, groups: Iterable[str]) -> Params:
    """The logits that the target sent, in the net's order again and not the file's."""
    stored = wire.params_from_bytes(ground.store.blob(f"{task.key}-logits").read_bytes())
    return {group: stored[group] for group in groups}


def same(place: Place, digest: str, told: str) -> None:
    """The server's merged model is the target's, bit for bit.

    Raises:
        Refused: it is not.
    """
    if told != digest:
        raise Refused(
            f"{place.target}: the merged model expected digest {digest[:15]}, got {told[:15]}: "
            f"server and target did not compute the same"
        )


def models(ground: Ground) -> Path:
    """Where merged and released models lie."""
    return ground.store.folder.parent / "models"


def _keep(ground: Ground, place: Place, task: tasks.Row, fused: Params) -> Path:
    info = {
        "net": task.net.settings,
        "in_channels": task.net.in_channels,
        "labels": list(task.net.labels),
        **({"regions": task.net.regions} if task.net.regions else {}),
        "method": place.method.name,
        "sources": list(task.sources),
        "contributions": list(task.digests),
        "parameters": "fusable only: the heads and norms are the target's own",
    }
    path = models(ground) / place.target / f"{place.label}.fused.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    wire.write_model(fused, info, path)
    return path


def _ratios(place: Place, task: tasks.Row, ratios: Params) -> dict[str, Any]:
    return {
        **place.columns,
        "sites": list(task.sources),
        "grain": place.method.grain,
        "groups": {name: value.tolist() for name, value in ratios.items()},
    }
