"""The test cases behind a run's page, read from the images of a target that lives on this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmerge.errors import FedmergeError

if TYPE_CHECKING:
    from fedmerge.bench.runs import Run
    from fedmerge.comparison import Row
    from fedmerge.pages.cases import Shown
    from fedmerge.pages.report import Images
    from fedmerge.results import Results
    from sites.config import Site
    from sites.folders import Found


def of(out: Path, found: "Results", cases: int) -> "tuple[Images | None, str]":
    """The images for a page, or None and why there are none.

    Args:
        out: the run's folder.
        found: its results.
        cases: how many are shown; 0: all that there is room for.
    """
    from fedmerge import campaign

    path = out / "campaign.toml"
    rows = [row for row in found["rows"] if row["status"] == "ok" and row["cases"]]
    if not rows:
        return None, "no test case was scored, or their scores stay at the target"
    target = rows[0]["target"]
    if not path.is_file() or target not in campaign.residents(campaign.read(path)):
        return None, f"those of {target} are at {target}, and only there"
    try:
        return _read(out, path, found, rows, cases), ""
    except (FedmergeError, OSError, ValueError, KeyError) as error:
        return None, f"they cannot be read any more ({error})"


def _read(out: Path, path: Path, found: "Results", rows: "list[Row]", cases: int) -> "Images":
    from fedmerge.bench.runs import Run
    from fedmerge.pages import verdict
    from fedmerge.pages.report import Images
    from sites import config

    first = rows[0]
    key = ("seed", "chain", "target", "target_cases")
    rows = [row for row in rows if all(row[name] == first[name] for name in key)]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    chosen = verdict.subject(methods, str(found["campaign"]["campaign"].get("method", "")))
    run = Run("", first["chain"], first["target_cases"], (first["seed"],), tuple(methods), path, out)
    site = config.from_campaign(path, first["target"], work=out / "sites" / first["target"])
    told = (
        f"Predictions of the run with chain {first['chain']}, seed {first['seed']} and {first['target_cases']} "
        f"training cases at {first['target']}."
    )
    shared = Images(first["target"], site.data.phantom is not None, told)
    return KINDS[found["campaign"]["campaign"].get("task", "segmentation")](
        shared, found, rows, run, site, chosen, cases
    )


def _volumes(
    shared: "Images", found: "Results", rows: "Sequence[Row]", run: "Run", site: "Site", chosen: str, cases: int
) -> "Images":
    """As many test cases as there is room for; where not all have it, evenly over the chosen method's scores."""
    from dataclasses import replace

    from fedmerge.bench.slices import shown as first
    from fedmerge.cli import slices
    from fedmerge.comparison import case_means, last_stage
    from fedmerge.pages import cases as packing
    from sites import cases as site_cases

    scores = {
        method: case_means(last_stage([row for row in rows if row["method"] == method]).values())
        for method in run.methods
    }
    folders = {method: slices.kept(method, found, run, site.name) for method in first(run.methods, chosen)}
    folders = {method: folder for method, folder in folders.items() if folder.is_dir()}
    if not folders:
        raise FileNotFoundError("no prediction was kept")
    known = {one.id: one for one in site_cases.find(site.data)}
    tested = dict.fromkeys(case["case"] for row in rows for case in row["cases"])
    order = sorted((case for case in tested if case in known), key=lambda case: (scores[chosen].get(case, -1.0), case))
    some = [order[i] for i in packing.spread(len(order))[:cases]] if cases else order

    def read(case: str) -> "Shown":
        return _case(known[case], site, folders, {method: own.get(case) for method, own in scores.items()})

    packed = packing.fit(sorted(some, key=list(tested).index), read)
    return replace(shared, packed=packed, methods=tuple(folders), labels=tuple(site.data.labels))


def _case(one: "Found", site: "Site", folders: Mapping[str, Path], scores: Mapping[str, float | None]) -> "Shown":
    from fedmerge.pages.cases import Shown
    from sites import cases, loading, volumes

    image = loading.read_images(one, len(cases.modalities(site.data)), site.name)[0]
    return Shown(
        case=one.id,
        image=image.data,
        truth=loading.read_truth(one, image, site.data, site.name),
        found={method: volumes.read_labels(folder / f"{one.id}.nii.gz").data for method, folder in folders.items()},
        spacing_mm=image.spacing_mm,
        scores=scores,
    )


def _pictures(
    shared: "Images", found: "Results", rows: "Sequence[Row]", run: "Run", site: "Site", chosen: str, cases: int
) -> "Images":
    """The first test image of each class, with what the methods took it for."""
    from dataclasses import replace

    from fedmerge.cli import slices

    drawn = slices.figure(found, run, chosen)
    if drawn is None:
        raise FileNotFoundError("no prediction was kept")
    return replace(shared, pictures=drawn)


KINDS = {"segmentation": _volumes, "classification": _pictures}
