"""`auto`: candidates that the target's own cases choose among.

Candidates are each single source, a merge of all, and where the sources train one after the other the end of the chain
that does not forget. Where the target's labels are the sources' own, heads are stitched. A target with few validation
cases cross-validates: every labelled case is held out once while a candidate trains on the others, and the candidate
with the highest mean score over all of them is trained as its row says. A single source that is better than all merges
by that measure is what comes out; so is one that is good where another is bad.

Of three sources and more, some may be better than all, by what each source did alone: merges of the best two, the best
three and so on are candidates too, and chains that leave out the worst one, the worst two and so on, until that helps
no more. Such a chain is trained when it is asked for. Test cases are never looked at.
"""

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedmerge import fusion
from fedmerge.errors import Refused
from server.adaptation import Place
from server.exchange import Answer, Ask
from server.ground import Ground
from server.merging import Outcome
from server.plan import Plan

MERGED = "imm-mode+warm-up"
STITCHED = "imm-mode+stitch+keep-norm+wise-ft"
CHAIN = "lwf+stitch+wise-ft"
FOLDS = 3


class Wanted(Exception):
    """A chain that nobody has trained yet.

    Attributes:
        way: of the chain (`fusion.Method.way`).
    """

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self.way = way


def candidates(ground: Ground, target: str) -> list[fusion.Method]:
    """The methods that `auto` chooses among at a target, best guess first: of equals the first is taken."""
    plan = ground.plan
    whole = [MERGED]
    if plan.trust == "group":
        return fusion.expand([*whole, *(_alone(plan).values() if len(plan.mixed) > 1 else ())], plan.mixed)
    if plan.fit == "far":
        return fusion.expand(whole, plan.sources)
    if _chained(ground):
        whole.insert(0, _named(ground, target, plan.sources, CHAIN))
    elif _known(ground, target, plan.sources):
        whole.insert(0, STITCHED)
    return fusion.expand([*whole, "transfer"], plan.sources)


def further(ground: Ground, target: str, scores: dict[str, float]) -> Iterator[fusion.Method]:
    """Candidates of some sources only, in the order in which they are worth a try.

    Args:
        ground: the campaign.
        target: who chooses.
        scores: of all candidates so far; a chain of fewer sources follows where the one before was no worse.
    """
    sources = ground.plan.mixed
    alone = {site: scores[name] for site, name in _alone(ground.plan).items() if name in scores}
    best_first = sorted(alone, key=lambda site: -alone[site])
    if len(best_first) < 3:
        return
    for count in range(2, len(best_first)):
        few = [site for site in sources if site in best_first[:count]]
        yield fusion.method(fusion.named(MERGED, few), sources)
        if ground.plan.trust != "group" and not _chained(ground) and _known(ground, target, few):
            yield fusion.method(fusion.named(STITCHED, few), sources)
    if not _chained(ground):
        return
    last = _named(ground, target, sources, CHAIN)
    for count in range(len(best_first) - 1, 1, -1):
        few = [site for site in sources if site in best_first[:count]]
        name = _named(ground, target, few, fusion.named(CHAIN, few))
        yield fusion.method(name, sources)
        if name not in scores or scores[name] < scores.get(last, 0.0):
            return
        last = name


def _alone(plan: Plan) -> dict[str, str]:
    """Source, or group -> the candidate that is its model alone."""
    if plan.trust == "group":
        return {name: fusion.named(MERGED, [name]) for name in plan.mixed}
    return {name: f"transfer:{name}" for name in plan.mixed}


def _chained(ground: Ground) -> bool:
    """Whether the sources can train one after the other in a way of their own."""
    return ground.plan.schedule == "chain" and len(ground.plan.sources) > 1 and not ground.given


def _known(ground: Ground, target: str, sources: Sequence[str]) -> bool:
    """Whether each of the target's labels, or regions, is one of these sources'."""
    net = ground.nets[target]
    there = [ground.nets[name] for name in sources if name in ground.nets]
    return set(net.rows) <= {row for one in there if bool(one.regions) == bool(net.regions) for row in one.rows}


def _named(ground: Ground, target: str, sources: Sequence[str], name: str) -> str:
    """The chain as the target can use it: with the sources' heads, or without where it has labels of its own."""
    return name if _known(ground, target, sources) else name.replace("+stitch+wise-ft", "")


def ways(ground: Ground, targets: tuple[str, ...]) -> list[str]:
    """How the sources have to train for the candidates."""
    found = (method.way for target in targets for method in candidates(ground, target))
    return list(dict.fromkeys(found))


def folds(ground: Ground, place: Place) -> int:
    """Into how many parts the labelled cases are divided; 0: the validation cases are enough."""
    validate = ground.sites[place.target].validate
    labelled = validate + place.cases
    return 0 if validate >= ground.plan.measure.enough or labelled < 2 else min(FOLDS, labelled)


@dataclass
class Trials:
    """What trying the candidates came to.

    Attributes:
        scores: of each candidate that could be run, 0 to 1.
        dropped: why each of the others could not.
        steps: at the target, of all trials together.
        seconds: these took.
    """

    scores: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0


def measure(
    ground: Ground, place: Place, run: Callable[[Place], Generator[Ask, Answer, Outcome]]
) -> Generator[Ask, Answer, Trials]:
    """Try each candidate.

    Args:
        ground: the campaign.
        place: `auto`'s row.
        run: place -> the conversation of a row, which returns its outcome.

    Raises:
        Refused: the target's policy releases no metrics, or no candidate could be run; says why.
        Wanted: a chain of some sources is to be tried, and has to be trained first.
    """
    trials, parts = Trials(), folds(ground, place)
    for method in itertools.chain(candidates(ground, place.target), further(ground, place.target, trials.scores)):
        found: list[float] = []
        try:
            _there(ground, place.chain, method)
            for fold in range(parts) if parts else [-1]:
                outcome = yield from run(replace(place, method=method, fold=fold, folds=parts))
                last = outcome.stages[-1]
                values = [ground.plan.measure.case(case) for case in last["cases"]] if parts else [best(last)]
                found += [value for value in values if value is not None]
                trials.steps, trials.seconds = trials.steps + last["target_steps"], trials.seconds + last["seconds"]
        except Refused as error:
            trials.dropped[method.name] = str(error)
        if found:
            trials.scores[method.name] = sum(found) / len(found)
    if not trials.scores:
        reasons = "; ".join(f"{name}: {why}" for name, why in trials.dropped.items()) or "its policy releases no scores"
        raise Refused(f"auto had nothing to choose among at {place.target}: {reasons}")
    return trials


def _there(ground: Ground, chain: int, method: fusion.Method) -> None:
    """Whether a chain of some sources has trained.

    Raises:
        Wanted: nobody has asked for it yet.
        Refused: it was asked for, and cannot be had.
    """
    if method.sources != "last" or not method.only:
        return
    if reason := ground.gone.get((chain, method.way)):
        raise Refused(reason)
    if ground.sources(chain, method.way) != method.only:
        raise Wanted(method.way)


def best(stage: dict[str, Any]) -> float | None:
    """The best validation of a row."""
    return max((value for _, value in stage["curve"] if value is not None), default=None)


def sentence(ground: Ground, place: Place, scores: dict[str, float]) -> str:
    """What was chosen and why."""
    chosen = max(scores, key=lambda name: scores[name])
    parts = folds(ground, place)
    cases = ground.sites[place.target].validate + (place.cases if parts else 0)
    how = f"{cases} cases, each held out once" if parts else f"{cases} validation cases"
    single = {name: scores[name] for name in _alone(ground.plan).values() if name in scores}
    kind = "group" if ground.plan.trust == "group" else "source"
    first = max(single, key=lambda name: single[name], default="")
    beside = "" if not first or first == chosen else f", against {single[first]:.3f} of {first}, the best single {kind}"
    measure = ground.plan.measure
    what = measure.single if parts else measure.name
    return f"auto chose {chosen}: mean {what} {scores[chosen]:.3f} over {how}{beside}"
