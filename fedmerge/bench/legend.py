"""What the reader of a suite's page has to know, in sentences."""

from html import escape

from fedmerge.bench.gather import Bench


def legend(bench: Bench) -> list[str]:
    """What a reader has to know, in sentences (HTML)."""
    suite, measure = bench.suite, bench.measure
    reach = ""
    if suite.reach is not None:
        reach = f"; <b>steps</b>: until it is {suite.reach:g}, median of the runs that get there"
    tests = sum(one.p is not None for one in bench.comparisons)
    return [
        f"<b>Final {measure.name}</b> is that after the last stage: {measure.sentence} It is averaged over "
        "the seeds of each chain, then over the chains; the figure after ± is the standard deviation over the chains. "
        "A chain is one training of all sources; seeds draw the target's cases and are not independent of each other.",
        *(f"<b>{name.capitalize()}</b> is that after the last stage, too." for name in measure.more.values()),
        f"<b>Start</b> is the test {measure.name} before any training at the target, <b>adapted</b> the one right "
        f"after adaptation. <b>Area</b> is the mean height of the curve of validation {measure.name} over the target's "
        f"steps{reach}. <b>Forgetting</b> is the {measure.name} that the sources' own tasks lose with the merged body. "
        "<b>Seconds</b> are the target's, scoring included.",
        "<b>By chain</b> counts the chains with a difference above zero. <b>p</b> is Wilcoxon's signed-rank test over "
        f"the test cases ({measure.single}, each averaged over the runs), and so are the <b>cases ahead</b>; "
        f"<b>p (Holm)</b> is corrected over all {tests} comparisons of this page, the hypotheses' "
        "included. It speaks of these trained models; the chains say whether others would do alike.",
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


def samples(bench: Bench) -> tuple[str, str]:
    """What the figure of a few test cases is called, and which cases and methods it shows (HTML)."""
    suite = bench.suite
    where = f"{escape(suite.arms[0].name)}, " if suite.arms[0].name else ""
    run = f"of one run ({where}chain {suite.chains[0]}, seed {suite.seeds[0]}, {suite.target_cases[0]} training cases)"
    title, which = SAMPLES[bench.measure.key]
    return title, which.format(run=run, reference=escape(suite.reference))


SAMPLES = {  # measure -> title and sentences
    "dice": (
        "Slices",
        "Three test cases {run}: those at the tenth, half and ninth tenth of the Dice of {reference}, not picked by "
        "eye. Each is cut where most of its labels are seen; the figure is the Dice of the whole case. At most six "
        "methods have a column, in the order of the suite.",
    ),
    "f1": (
        "Pictures",
        "Test images {run}: the first of each class by name, not picked by eye. Under each stands what it is, and what "
        "each method took it for, with the probability that it gave. At most six methods have a line, in the order of "
        "the suite.",
    ),
}
