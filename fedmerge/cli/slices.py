"""The images behind a suite's page: a few test cases with what the methods found, read from what a run keeps."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmerge.errors import FedmergeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedmerge.bench.runs import Run
    from fedmerge.bench.samples import Sample
    from fedmerge.bench.slices import Slice
    from fedmerge.comparison import Row
    from fedmerge.results import Results
    from sites.config import Site


def figure(results: "Results", run: "Run", reference: str) -> "Figure | None":
    """Test cases of the first target's first seed in one run; None where nothing was kept.

    Args:
        results: of that run.
        run: where it lies.
        reference: the method whose scores choose the cases.
    """
    from fedmerge import measures
    from fedmerge.bench import slices
    from sites import config

    rows = [row for row in results["rows"] if row["seed"] == run.seeds[0] and row["status"] == "ok"]
    if not rows:
        return None
    target = rows[0]["target"]
    rows = [row for row in rows if row["target"] == target]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    chooser = reference if reference in methods else methods[0]
    try:
        folders = {method: kept(method, results, run, target) for method in slices.shown(methods, chooser)}
        site = config.from_campaign(run.campaign, target, work=run.out / "sites" / target)
        return FIGURES[measures.of(results).key](rows, site, chooser, folders)
    except (FedmergeError, OSError, ValueError):  # the page does without: predictions may have been thrown away
        return None


def _slices(rows: "list[Row]", site: "Site", chooser: str, folders: Mapping[str, Path]) -> "Figure | None":
    from fedmerge.bench import slices

    chosen = slices.choose([row for row in rows if row["method"] == chooser])
    read = [_slice(rows, site, case, folders) for case in chosen]
    return slices.draw(read, list(site.data.labels)) if read else None


def pictures(rows: "list[Row]", site: "Site", chooser: str, folders: Mapping[str, Path]) -> "Figure | None":
    """Test pictures with what the methods took them for; None without any.

    Args:
        rows: of one seed and chain at one target.
        site: the target.
        chooser: the method by whose row they are chosen.
        folders: method -> where its predictions lie.
    """
    from fedmerge.bench import samples

    chosen = samples.choose([row for row in rows if row["method"] == chooser])
    read = [_sample(rows, site, case, folders) for case in chosen]
    return samples.draw(read) if read else None


FIGURES: "dict[str, Callable[[list[Row], Site, str, Mapping[str, Path]], Figure | None]]" = {  # by measure
    "dice": _slices,
    "f1": pictures,
}


def _slice(rows: "Sequence[Row]", site: "Site", case: str, folders: Mapping[str, Path]) -> "Slice":
    import numpy as np

    from fedmerge.bench import slices
    from fedmerge.comparison import case_means, last_stage
    from sites import cases, loading, regrid, volumes

    found = next(one for one in cases.find(site.data) if one.id == case)
    images, _ = regrid.read(found.images, len(cases.modalities(site.data)), site.data.grids, site.name)
    image = images[0]
    truth, _ = loading.read_truth(found, image, site.data, site.name)
    axis, i = slices.cut(truth)
    spacing = [mm for k, mm in enumerate(image.spacing_mm) if k != axis]
    return slices.Slice(
        case=case,
        image=image.data.take(i, axis),
        truth=np.take(truth, i, axis),
        found={
            method: volumes.read_labels(folder / f"{case}.nii.gz").data.take(i, axis)
            for method, folder in folders.items()
        },
        dice={
            method: case_means(last_stage([row for row in rows if row["method"] == method]).values())[case]
            for method in folders
        },
        aspect=spacing[1] / spacing[0],
    )


def _sample(rows: "Sequence[Row]", site: "Site", case: str, folders: Mapping[str, Path]) -> "Sample":
    from fedmerge.bench import samples
    from fedmerge.comparison import last_stage
    from sites import cases
    from sites import pictures as files

    found = next(one for one in cases.find(site.data) if one.id == case)
    told = {
        method: one
        for method in folders
        for row in last_stage([row for row in rows if row["method"] == method]).values()
        for one in row["cases"]
        if one["case"] == case
    }
    return samples.Sample(
        case=case,
        image=files.read(found.images[0], len(cases.modalities(site.data)), who=site.name),
        truth=next(iter(told.values()))["truth"],
        found={
            method: (one["prediction"], _probability(folders[method] / f"{case}.json", one["prediction"]))
            for method, one in told.items()
        },
    )


def _probability(path: Path, prediction: str) -> float | None:
    """What the method gave its answer; None where that was not kept."""
    if not path.is_file():
        return None
    probability: float | None = json.loads(path.read_text(encoding="utf-8"))["probabilities"].get(prediction)
    return probability


def kept(method: str, results: "Results", run: "Run", target: str) -> Path:
    """The folder of a row's predictions; what chooses among candidates keeps them under the name of its choice."""
    from fedmerge import campaign, fusion
    from fedmerge.bench.runs import sources
    from server.adaptation import Place

    mine = (method, run.seeds[0], target)
    chosen = (one for one in results.get("choices", []) if (one["method"], one["seed"], one["target"]) == mine)
    name = next((one["chosen"] for one in chosen), method)
    (row,) = fusion.expand([name], sources(campaign.read(run.campaign)))
    place = Place(row, run.seeds[0], run.chain, "", run.cases)
    return run.out / "sites" / target / "predictions" / place.label
