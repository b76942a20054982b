"""Finding a site's cases on disk, as they lie there: one reader a layout, none of which opens an image.

`docs/layouts.md` shows each tree. The layouts `phantom` and `classes` can hold synthetic cases, written on first use:
phantoms as a Decathlon folder, pictures in a folder for each class.
"""

from collections.abc import Callable
from typing import Any

from fedmerge.errors import DataError
from sites import phantom, spots
from sites.folders import bids, brats, classes, decathlon, freesurfer, single
from sites.folders.found import ALL, LABEL, MASK, Found, Listing, patient
from sites.records import Data

__all__ = ["Found", "find", "modalities", "patient", "scan"]

SYNTHETIC: dict[str, Any] = {"phantom": phantom, "classes": spots}  # layout -> how its synthetic cases are made

READERS: dict[str, Callable[[Data], Listing]] = {
    "msd": decathlon.read,
    "folders": single.read,
    "brats": brats.read,
    "freesurfer": freesurfer.read,
    "bids": bids.read,
    "phantom": decathlon.read,
}


def find(data: Data) -> list[Found]:
    """The folder's cases, sorted by id.

    Raises:
        DataError: the folder is missing or empty, or a case is not complete.
    """
    found, problems = scan(data)
    if problems:
        raise DataError(next(iter(problems.values())))
    return found


def scan(data: Data) -> tuple[list[Found], dict[str, str]]:
    """The complete cases, sorted by id, and for each other one ("" for the folder) a sentence why not."""
    if data.phantom is not None:
        SYNTHETIC[data.layout].ensure(data.folder, **data.phantom)
    if not data.folder.is_dir():
        return [], {"": f"there is no folder {data.folder}"}
    if data.layout == "classes":
        return classes.scan(data)
    listing = READERS[data.layout](data)
    found, problems = [], {}
    for case in sorted({*listing.cases, *listing.problems}):
        sentence = listing.problems.get(case) or _incomplete(case, listing)
        if sentence:
            problems[case] = f"{data.folder.name}: {sentence}"
            continue
        got = listing.cases[case]
        images = tuple(got[name] for name in ([ALL] if ALL in got else listing.names))
        who = patient(case, data.patient) if data.patient else listing.patients.get(case) or patient(case, None)
        found.append(Found(case, who, images, got[LABEL], never=listing.never.get(case, ()), mask=got.get(MASK)))
    if not found and not problems:
        problems[""] = f"{data.folder} holds no case in the layout '{data.layout}'"
    return found, problems


def modalities(data: Data) -> tuple[str, ...]:
    """The names of the channels, in order: the site's own, else `dataset.json`'s, else the files'."""
    if data.modalities:
        return data.modalities
    if data.phantom is not None or data.layout == "classes":
        names: tuple[str, ...] = SYNTHETIC[data.layout].MODALITIES
        return names
    if not data.folder.is_dir():
        raise DataError(f"there is no folder {data.folder}")
    return READERS[data.layout](data).names


def _incomplete(case: str, listing: Listing) -> str | None:
    """What a case lacks, or has too much, in a sentence."""
    got = listing.cases[case]
    images = got.keys() - {LABEL, MASK}
    if images not in ({ALL}, set(listing.names)):
        have, want = ", ".join(sorted(images)) or "none", ", ".join(listing.names)
        return f"case '{case}' has the modalities {have}, expected {want}"
    if LABEL not in got:
        return f"case '{case}' has no label map" + (f" {listing.label}" if listing.label else "")
    if listing.mask and MASK not in got:
        return f"case '{case}' has no mask {listing.mask}"
    return None
