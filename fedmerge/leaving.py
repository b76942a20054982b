"""What merges would be without each of their sources, as a table of a run's results."""

from collections.abc import Sequence

from fedmerge import evaluation, measures
from fedmerge.results import Results

Group = tuple[str, int, str, str]  # target, target cases, method, stage


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Heading and lines: each merge with all its sources, and below it without each of them.

    A figure is the mean over runs (seeds and chains) with its standard deviation, of the target's validation cases.
    The difference is taken run by run, over the runs that merged the source.

    Returns:
        the names of the columns, and a list of texts for each line; no lines where nothing was measured.
    """
    found: dict[Group, list[tuple[float, dict[str, float]]]] = {}
    for one in results.get("leave_one_out", []):
        group = (one["target"], one["target_cases"], one["method"], one["stage"])
        found.setdefault(group, []).append((one["score"], one["without"]))
    several = len({group[:2] for group in found}) > 1
    lines = []
    for (target, cases, method, stage), runs in found.items():
        name = f"{method} ({target}, {cases} cases)" if several else method
        lines.append([name, stage, "", _spread([score for score, _ in runs]), ""])
        for site in dict.fromkeys(site for _, without in runs for site in without):
            pairs = [(score, without[site]) for score, without in runs if site in without]
            gains = [value - score for score, value in pairs]
            lines.append(["", "", site, _spread([value for _, value in pairs]), _spread(gains, "+.3f")])
    return ["method", "stage", "without", f"validation {measures.of(results).name}", "difference"], lines


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    mean, sd = evaluation.spread(values)
    return f"{mean:{form}}" if len(values) == 1 else f"{mean:{form}} ± {sd:.3f}"
