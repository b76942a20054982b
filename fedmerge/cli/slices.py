"""The images behind a suite's page: a few test cases with what the methods found, read from what a run keeps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedmerge.errors import FedmergeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedmerge.bench.runs import Run
    from fedmerge.bench.slices import Slice
    from fedmerge.comparison import Row
    from fedmerge.results import Results


def figure(results: "Results", run: "Run", reference: str) -> "Figure | None":
    """Slices of the first target's first seed in one run; None where nothing was kept.

    Args:
        results: of that run.
        run: where it lies.
        reference: the method whose scores choose the cases.
    """
    from fedmerge.bench import slices

    rows = [row for row in results["rows"] if row["seed"] == run.seeds[0] and row["status"] == "ok"]
    if not rows:
        return None
    target = rows[0]["target"]
    rows = [row for row in rows if row["target"] == target]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    chooser = reference if reference in methods else methods[0]
    chosen = slices.choose([row for row in rows if row["method"] == chooser])
    try:
        read = [_slice(rows, run, target, case, slices.shown(methods, chooser)) for case in chosen]
    except (FedmergeError, OSError):  # the page does without: predictions may have been thrown away
        return None
    labels = next(site["labels"] for site in results["sites"] if site["name"] == target)
    return slices.draw(read, labels) if read else None


def _slice(rows: "Sequence[Row]", run: "Run", target: str, case: str, methods: Sequence[str]) -> "Slice":
    import numpy as np

    from fedmerge.bench import slices
    from fedmerge.comparison import case_means, last_stage
    from sites import cases, config, loading, volumes

    site = config.from_campaign(run.campaign, target, work=run.out / "sites" / target)
    found = next(one for one in cases.find(site.data) if one.id == case)
    image = loading.read_images(found, len(cases.modalities(site.data)), target)[0]
    truth = loading.read_truth(found, image, site.data, target)
    axis, i = slices.cut(truth)
    spacing = [mm for k, mm in enumerate(image.spacing_mm) if k != axis]
    kept = run.out / "sites" / target / "predictions"
    return slices.Slice(
        case=case,
        image=image.data.take(i, axis),
        truth=np.take(truth, i, axis),
        found={
            method: volumes.read_labels(kept / _label(method, run) / f"{case}.nii.gz").data.take(i, axis)
            for method in methods
        },
        dice={
            method: case_means(last_stage([row for row in rows if row["method"] == method]).values())[case]
            for method in methods
        },
        aspect=spacing[1] / spacing[0],
    )


def _label(method: str, run: "Run") -> str:
    """The folder of a row's predictions."""
    from fedmerge import campaign, fusion
    from fedmerge.bench.runs import sources
    from server.adaptation import Place

    (row,) = fusion.expand([method], sources(campaign.read(run.campaign)))
    return Place(row, run.seeds[0], run.chain, "", run.cases).label
