"""What became of the hypotheses: confirmed, refuted, or not tested, each with its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedmerge import measures
from fedmerge.bench import statistics
from fedmerge.bench.suite import Hypothesis, expand
from fedmerge.bench.summary import Comparison, Line, find
from fedmerge.measures import Measure

Word = Literal["confirmed", "refuted", "not tested"]


@dataclass(frozen=True)
class Finding:
    """One comparison that a hypothesis speaks of, at one target size."""

    what: str
    verdict: Word
    numbers: str


@dataclass(frozen=True)
class Verdict:
    """A hypothesis with all its findings; confirmed where each is, not tested where one could not be."""

    text: str
    verdict: Word
    test: str
    findings: tuple[Finding, ...]


def pairs(hypotheses: Sequence[Hypothesis], sources: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """The pairs of methods that the hypotheses compare."""
    return [
        (first, second)
        for one in hypotheses
        for first in expand([one.method], sources)
        for second in expand(one.than, sources)
        if first != second
    ]


def judge(
    hypotheses: Sequence[Hypothesis],
    sources: Mapping[str, Sequence[str]],
    lines: Sequence[Line],
    comparisons: Sequence[Comparison],
    measure: Measure = measures.DICE,
) -> list[Verdict]:
    """A verdict for each hypothesis.

    Args:
        hypotheses: as the suite has them.
        sources: arm -> its sources, for `transfer`.
        lines: of the suite.
        comparisons: with Holm's correction.
        measure: what is scored by.
    """
    verdicts = []
    for one in hypotheses:
        found: list[Finding] = []
        for first in expand([one.method], sources):
            for n in one.n:
                if one.test == "at_least":
                    found.append(_at_least(one, first, n, lines))
                    continue
                others = [name for name in expand(one.than, sources) if name != first]
                found += [_compared(one, first, second, n, comparisons, measure) for second in others]
        words = {finding.verdict for finding in found}
        whole: Word = "confirmed" if words == {"confirmed"} else "refuted" if "refuted" in words else "not tested"
        verdicts.append(Verdict(one.text, whole, condition(one, measure), tuple(found)))
    return verdicts


def condition(one: Hypothesis, measure: Measure) -> str:
    """The test in words."""
    if one.test == "better":
        also = f", that of the {measure.single} is above 0" if _apart(measure) else ""
        return f"the mean difference is above 0 in every chain{also}, and p after Holm's correction is below {one.p:g}"
    if one.test == "not_below":
        least = f"\u2212{one.margin:g}" if one.margin else "0"
        return f"the mean difference over chains is at least {least}"
    return f"the mean {measure.name} of the stage '{one.stage}' over chains is at least {one.value:g}"


def _apart(measure: Measure) -> bool:
    """Whether p is about something else than the scores: one case has no F1."""
    return measure.single != measure.name


def _at_least(one: Hypothesis, method: str, n: int, lines: Sequence[Line]) -> Finding:
    what = f"{method}, n = {n}"
    line = next((line for line in lines if (line.method, line.target_cases) == (method, n)), None)
    measured = line.stage(one.stage) if line else None
    if measured is None or measured.mean is None:
        return Finding(what, "not tested", "no result")
    return Finding(what, "confirmed" if measured.mean >= one.value else "refuted", f"{measured.mean:.3f}")


def _compared(
    one: Hypothesis, first: str, second: str, n: int, comparisons: Sequence[Comparison], measure: Measure
) -> Finding:
    what = f"{first} against {second}, n = {n}"
    pair = find(comparisons, first, second, n)
    if pair is None or pair.difference.mean is None:
        return Finding(what, "not tested", "no result of both")
    mean, chains = pair.difference.mean, list(pair.difference.chains.values())
    above = sum(value > 0 for value in chains)
    numbers = f"{mean:+.3f}, above 0 in {above} of {len(chains)} chains"
    if one.test == "not_below":
        return Finding(what, "confirmed" if mean >= -one.margin else "refuted", numbers)
    if pair.p_holm is None:
        flat = mean <= 0 or not statistics.one_sign(chains)
        return Finding(what, "refuted" if flat else "not tested", f"{numbers}, too few cases for a test")
    if _apart(measure):
        numbers += f", {measure.single} {pair.case_difference:+.3f}"
    holds = statistics.one_sign(chains) and mean > 0 and pair.case_difference > 0 and pair.p_holm < one.p
    return Finding(what, "confirmed" if holds else "refuted", f"{numbers}, p = {pair.p_holm:.2g}")
