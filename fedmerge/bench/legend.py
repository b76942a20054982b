"""What the reader of a suite's page has to know, in sentences."""

from html import escape

from fedmerge.bench.gather import Bench
from fedmerge.bench.suite import Suite


def legend(bench: Bench) -> list[str]:
    """What a reader has to know, in sentences (HTML)."""
    suite = bench.suite
    reach = ""
    if suite.reach is not None:
        reach = f"; <b>steps</b>: until it is {suite.reach:g}, median of the runs that get there"
    tests = sum(one.p is not None for one in bench.comparisons)
    return [
        "<b>Final Dice</b> is that of the test cases after the last stage, on the original grid. It is averaged over "
        "the seeds of each chain, then over the chains; the figure after ± is the standard deviation over the chains. "
        "A chain is one training of all sources; seeds draw the target's cases and are not independent of each other.",
        "<b>Start</b> is the test Dice before any training at the target, <b>adapted</b> the one right after "
        f"adaptation. <b>Area</b> is the mean height of the curve of validation Dice over the target's steps{reach}. "
        "<b>Forgetting</b> is the Dice that the sources' own tasks lose with the merged body. <b>Seconds</b> are the "
        "target's, scoring included.",
        "<b>By chain</b> counts the chains with a difference above zero. <b>p</b> is Wilcoxon's signed-rank test over "
        f"the test cases, each averaged over the runs; <b>p (Holm)</b> is corrected over all {tests} comparisons of "
        "this page, the hypotheses' included. It speaks of these trained models; the chains say whether others would "
        "do alike.",
        "Nothing is ranked and nothing is left out.",
        *(
            [
                "This is development: its test cases have been looked at before, and choices were made after looking. "
                "It is no evidence."
            ]
            if suite.stage == "development"
            else []
        ),
    ]


def about_slices(suite: Suite) -> str:
    """Which cases and methods the slices are of."""
    where = f"{escape(suite.arms[0].name)}, " if suite.arms[0].name else ""
    return (
        f"Three test cases of one run ({where}chain {suite.chains[0]}, seed {suite.seeds[0]}, {suite.target_cases[0]} "
        f"training cases): those at the tenth, half and ninth tenth of the Dice of {escape(suite.reference)}, not "
        "picked by eye. "
        "Each is cut where most of its labels are seen; the figure is the Dice of the whole case. At most six methods "
        "have a column, in the order of the suite."
    )
