"""The layout `freesurfer`: a SUBJECTS_DIR. Images and label map of a case are `SUBJECT/mri/NAME.mgz`.

Of one scan there may be several folders: `SCAN` on its own, and `SCAN.long.TEMPLATE` with the help of the patient's
template. The longitudinal one stands for the scan then; the template `TEMPLATE` itself is no scan at all.
"""

import re
from pathlib import Path

from sites.folders.found import LABEL, MASK, Listing, folders, patient, put, volumes
from sites.records import Data
from sites.volumes import stem

AVERAGES = re.compile(r"fsaverage.*|cvs_avg35.*|[lr]h\.EC_average|V1_average")  # brains that FreeSurfer brings
LONG = re.compile(r"(?P<scan>.+)\.long\.(?P<template>.+)")


def read(data: Data) -> Listing:
    """The subjects with a folder `mri`; unless the site names other files, T1.mgz is the image, aseg.mgz the map."""
    wanted = {data.files.get(name, name): name for name in data.modalities or ("T1",)}
    label = data.label_file or "aseg"
    subjects = {path.name: path for path in folders(data.folder) if (path / "mri").is_dir()}
    long = {name: match for name in subjects if (match := LONG.fullmatch(name))}
    aside = {match[part] for match in long.values() for part in ("scan", "template")}
    needed = [*wanted.items(), (label, LABEL), *([(data.mask_file, MASK)] if data.mask_file else [])]
    listing = Listing(names=tuple(wanted.values()), label=f"mri/{label}.mgz")
    for case, folder in subjects.items():
        if case in aside or AVERAGES.fullmatch(case) or (folder / "base-tps").exists():
            continue
        listing.cases[case] = {}
        for path in volumes(folder / "mri"):
            if stem(path) == data.mask_file:
                put(listing, case, MASK, path)
            if stem(path) == label:
                put(listing, case, LABEL, path)
            elif stem(path) in wanted:
                put(listing, case, wanted[stem(path)], path)
        lacking = [file for file, name in needed if name not in listing.cases[case]]
        if lacking:
            files = ", ".join(f"mri/{file}.mgz" for file in lacking)
            listing.problems.setdefault(case, f"case '{case}' has no {files}{_unfinished(folder)}")
        if case in long:
            scan, template = long[case]["scan"], long[case]["template"]
            listing.patients[case] = patient(scan, None) or patient(template, None) or template
    return listing


def _unfinished(folder: Path) -> str:
    """What recon-all leaves when it is done, where it left nothing."""
    scripts = folder / "scripts"
    unfinished = scripts.is_dir() and not (scripts / "recon-all.done").exists()
    return ": recon-all did not finish there (no scripts/recon-all.done)" if unfinished else ""
