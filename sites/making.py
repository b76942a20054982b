"""Writing cohorts: folders in the layout of the Decathlon, several processes at a time, and what is there is kept.

Beside each image lies a file of the same name that ends in .json. It says what the case was made from, and is written
last: a case without it is made again.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from fedmerge.errors import DataError
from sites import freesurfer, volumes
from sites.cohort import VERSION, Hospital, case, check
from sites.phantom import PROFILES
from sites.progress import report


def write(folder: Path, hospitals: Sequence[Hospital], workers: int) -> int:
    """Writes each hospital into the folder of its name: `imagesTr`, `labelsTr`, `dataset.json`.

    Args:
        folder: of the hospitals.
        hospitals: what to make.
        workers: processes.

    Returns:
        how many cases were made; the others were there.

    Raises:
        ConfigError: the settings contradict each other.
        DataError: a label map cannot be used, or a folder holds cases that were not made here.
    """
    for hospital in hospitals:
        check(hospital)
    jobs = []
    for hospital in hospitals:
        for name in ("imagesTr", "labelsTr"):
            (folder / hospital.name / name).mkdir(parents=True, exist_ok=True)
        _clear(folder / hospital.name, set(hospital.ids))
        digests = {brain: _digest(hospital, path) for brain, path in hospital.brains.items()}
        wanted = {case: digests[brain] for case, brain in hospital.ids.items()}
        jobs += [(folder, hospital, c, d) for c, d in wanted.items() if _made(folder / hospital.name, c) != d]
    done = {h.name: len(h.ids) - sum(job[1] is h for job in jobs) for h in hospitals}
    if workers > 1 and len(jobs) > 1:
        # processes that start fresh: a fork would copy the threads' locks of whoever calls
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
            futures = {pool.submit(_write_case, *job): job[1] for job in jobs}
            try:
                for future in as_completed(futures):
                    future.result()
                    _count(futures[future], done)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    else:
        for job in jobs:
            _write_case(*job)
            _count(job[1], done)
    for hospital in hospitals:
        _describe(folder / hospital.name, hospital)
    return len(jobs)


def _write_case(folder: Path, hospital: Hospital, name: str, digest: str) -> None:
    """Image, label map and, when both are there, what they were made from."""
    home = folder / hospital.name
    record = home / "imagesTr" / f"{name}.json"
    record.unlink(missing_ok=True)
    brain = hospital.ids[name]
    made = case(hospital, _read(hospital.brains[brain]), name)
    array = np.stack(made.images, -1) if len(made.images) > 1 else made.images[0]
    volumes.write(array, made.affine, home / "imagesTr" / f"{name}.nii.gz")
    volumes.write(made.labels, made.affine, home / "labelsTr" / f"{name}.nii.gz")
    record.write_text(json.dumps({"made_from": digest, "brain": brain, **made.tumour}) + "\n", encoding="utf-8")


@lru_cache(maxsize=2)
def _read(path: Path) -> freesurfer.Brain:
    """A process's last brains: cases of one brain follow each other."""
    return freesurfer.read(path)


def _digest(hospital: Hospital, path: Path) -> str:
    """SHA-256 over all that shapes the cases of a brain."""
    settings = {k: v for k, v in asdict(hospital).items() if k not in ("brains", "cases")}
    settings |= {"profile": asdict(PROFILES[hospital.name]), "version": VERSION}
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    total.update(path.read_bytes())
    return f"sha256:{total.hexdigest()}"


def _made(home: Path, name: str) -> str | None:
    """What a case was made from; None where it is not complete."""
    try:
        record = json.loads((home / "imagesTr" / f"{name}.json").read_text(encoding="utf-8"))
        complete = all((home / part / f"{name}.nii.gz").is_file() for part in ("imagesTr", "labelsTr"))
        return str(record["made_from"]) if complete else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _clear(home: Path, wanted: set[str]) -> None:
    """Takes away cases of an earlier call that are not wanted now; what was not made here is left, and refused."""
    for path in sorted((home / "imagesTr").glob("*.nii*")):
        name = volumes.stem(path)
        if name in wanted:
            continue
        if _made(home, name) is None and not (home / "imagesTr" / f"{name}.json").is_file():
            raise DataError(f"{home} holds the case '{name}', which was not made here: choose another folder")
        for part in (home / "imagesTr" / f"{name}.json", home / "labelsTr" / path.name, path):
            part.unlink(missing_ok=True)


def _describe(home: Path, hospital: Hospital) -> None:
    table = {
        "name": f"hospital '{hospital.name}', synthetic images of real anatomy",
        "modality": {str(k): name for k, name in enumerate(hospital.contrasts)},
        "labels": {"0": "background"} | {str(value): name for name, value in freesurfer.LABELS.items()},
        "numTraining": hospital.cases,
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in hospital.ids],
    }
    (home / "dataset.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def _count(hospital: Hospital, done: dict[str, int]) -> None:
    done[hospital.name] += 1
    report(hospital.name, "making patients", done[hospital.name], hospital.cases)
