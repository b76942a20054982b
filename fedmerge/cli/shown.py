"""The test cases behind a run's page, read from the images of a target that lives on this machine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedmerge.errors import FedmergeError

if TYPE_CHECKING:
    from fedmerge.comparison import Row
    from fedmerge.pages.around import Images
    from fedmerge.pages.cases import Shown
    from fedmerge.results import Results
    from sites.config import Site
    from sites.folders import Found

UNREADABLE = (FedmergeError, OSError, ValueError, KeyError)


def of_run(out: Path, found: "Results", cases: int) -> "tuple[Images | None, str]":
    """The images for the page of a run, or None and why there are none.

    Args:
        out: the run's folder.
        found: its results.
        cases: how many are shown; 0: all that there is room for.
    """
    from fedmerge import campaign
    from fedmerge.bench.runs import Run
    from fedmerge.cli import slices
    from sites import config

    path, rows = out / "campaign.toml", _first(found)
    if not rows:
        return None, "no test case was scored, or their scores stay at the target"
    first = rows[0]
    target = first["target"]
    if not path.is_file() or target not in campaign.residents(campaign.read(path)):
        return None, f"those of {target} are at {target}, and only there"
    methods = tuple(dict.fromkeys(row["method"] for row in rows))
    run = Run("", first["chain"], first["target_cases"], (first["seed"],), methods, path, out)
    try:
        site = config.from_campaign(path, target, work=out / "sites" / target)
        folders = {method: slices.kept(method, found, run, target) for method in methods}
        return _images(found, rows, site, folders, cases), ""
    except UNREADABLE as error:
        return None, f"they cannot be read any more ({error})"


def of_site(site: "Site", folder: Path, found: "Results", cases: int) -> "tuple[Images | None, str]":
    """The same for a campaign as its target kept it.

    Args:
        site: the target.
        folder: of the campaign, in the site's working folder.
        found: its results.
        cases: as above.
    """
    from sites import recalled

    rows = _first(found)
    if not rows:
        return None, "no test case was scored"
    kept = recalled.predictions(site, folder)
    key = tuple(rows[0][name] for name in ("seed", "chain", "target_cases"))
    try:
        return _images(found, rows, site, {k[0]: path for k, path in kept.items() if k[1:] == key}, cases), ""
    except UNREADABLE as error:
        return None, f"they cannot be read any more ({error})"


def _first(found: "Results") -> "list[Row]":
    """The rows of the first run at the first target that have scores of single cases."""
    rows = [row for row in found["rows"] if row["status"] == "ok" and row["cases"]]
    key = ("seed", "chain", "target", "target_cases")
    return [row for row in rows if all(row[name] == rows[0][name] for name in key)]


def _images(found: "Results", rows: "list[Row]", site: "Site", folders: Mapping[str, Path], cases: int) -> "Images":
    """Volumes or pictures of the target's test cases, with at most as many methods as a figure of slices has."""
    from fedmerge.bench.slices import shown
    from fedmerge.pages import verdict
    from fedmerge.pages.around import Images

    first = rows[0]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    chosen = verdict.subject(methods, str(found["campaign"]["campaign"].get("method", "")))
    some = {method: folders[method] for method in shown(methods, chosen) if folders[method].is_dir()}
    if not some:
        raise FileNotFoundError("no prediction was kept")
    told = (
        f"Predictions of the run with chain {first['chain']}, seed {first['seed']} and {first['target_cases']} "
        f"training cases at {site.name}."
    )
    shared = Images(site.name, site.data.phantom is not None, told)
    return KINDS[found["campaign"]["campaign"].get("task", "segmentation")](shared, rows, site, chosen, some, cases)


def _volumes(
    shared: "Images", rows: "list[Row]", site: "Site", chosen: str, folders: Mapping[str, Path], cases: int
) -> "Images":
    """As many test cases as there is room for; where not all have it, evenly over the chosen method's scores."""
    from dataclasses import replace

    from fedmerge import measures
    from fedmerge.comparison import case_means, last_stage
    from fedmerge.pages import cases as packing
    from sites import cases as site_cases

    last = {method: last_stage([row for row in rows if row["method"] == method]).values() for method in folders}
    besides = [key for key in measures.EXTRAS if any(key in case for row in rows for case in row["cases"])]
    scores = {
        method: {measures.DICE.key: case_means(own), **{key: case_means(own, key) for key in besides}}
        for method, own in last.items()
    }
    known = {one.id: one for one in site_cases.find(site.data)}
    tested = dict.fromkeys(case["case"] for row in rows for case in row["cases"])
    by_score = scores[chosen][measures.DICE.key] if chosen in scores else {}
    order = sorted((case for case in tested if case in known), key=lambda case: (by_score.get(case, -1.0), case))
    if not order:
        raise FileNotFoundError("the files of the test cases are not there any more")
    some = [order[i] for i in packing.spread(len(order))[: cases or None]]

    def read(case: str) -> "Shown":
        own = {method: {key: by.get(case) for key, by in told.items()} for method, told in scores.items()}
        return _case(known[case], site, folders, own)

    packed = packing.fit(sorted(some, key=order.index), read)
    return replace(shared, packed=packed, methods=tuple(folders), labels=tuple(site.data.labels))


def _case(
    one: "Found", site: "Site", folders: Mapping[str, Path], scores: Mapping[str, Mapping[str, float | None]]
) -> "Shown":
    from fedmerge.pages.cases import Shown
    from sites import cases, loading, regrid, volumes

    images, _ = regrid.read(one.images, len(cases.modalities(site.data)), site.data.grids, site.name)
    image = images[0]
    truth, _ = loading.read_truth(one, image, site.data, site.name)
    return Shown(
        case=one.id,
        image=image.data,
        truth=truth,
        found={method: volumes.read_labels(folder / f"{one.id}.nii.gz").data for method, folder in folders.items()},
        affine=image.affine,
        spacing_mm=image.spacing_mm,
        scores=scores,
    )


def _pictures(
    shared: "Images", rows: "list[Row]", site: "Site", chosen: str, folders: Mapping[str, Path], _: int
) -> "Images":
    """The first test image of each class, with what the methods took it for."""
    from dataclasses import replace

    from fedmerge.cli import slices

    drawn = slices.pictures(rows, site, chosen, folders)
    if drawn is None:
        raise FileNotFoundError("no test picture was scored")
    return replace(shared, pictures=drawn)


Kind = Callable[["Images", "list[Row]", "Site", str, Mapping[str, Path], int], "Images"]
KINDS: dict[str, Kind] = {"segmentation": _volumes, "classification": _pictures}
