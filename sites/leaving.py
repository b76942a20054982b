"""What a merged model of the target would be without each of its sources, by the validation cases.

The ratios stay as they are, those of the one that is left out apart, and nothing is trained: heads, norms and whatever
else the target has of its own have been adapted to the merge of all. So the numbers say what a source does in this
merge, not what would have come of a row without it.
"""

from collections.abc import Iterable
from typing import Any

from fedmerge import params
from fedmerge.fusion import leaving, mixing
from sites.bench import Bench


def measure(bench: Bench, names: Iterable[str]) -> dict[str, Any]:
    """The validation score of the merged model, and of the same without each source.

    Args:
        bench: its net holds the merged model, and does so again afterwards.
        names: what is merged anew without a source; the other parameters stay as they are.

    Returns:
        `score`, and `without`: source -> score. Empty where nothing is mixed, where there is one source only, or where
        there are no validation cases.
    """
    row, validate = bench.row, bench.validate
    if bench.mix is None or validate is None or len(row.sources) < 2:
        return {}
    whole, body = params.of(bench.net), tuple(names)
    ratios = mixing.ratios(bench.logits, row.ratios)  # type: ignore[arg-type]  # the plan allows these words
    score, without = validate(bench.net), {}
    for number, source in enumerate(row.sources):
        fused = mixing.fuse(bench.mix, leaving.without(ratios, number))
        params.load(bench.net, params.split(fused, body)[0])
        bench.settle()
        without[source] = validate(bench.net)
    params.load(bench.net, whole)
    bench.settle()
    return {"score": score, "without": without}


def at_start(bench: Bench) -> dict[str, Any]:
    """The same for a model that is fine-tuned as it was merged; empty where its head is fresh and says nothing yet."""
    return {} if bench.method.heads == "fresh" else measure(bench, bench.fused)
