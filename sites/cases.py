"""A site's cases: chosen, split by patient, and dealt out in batches; finding and loading have their own files."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedmerge.errors import ConfigError, DataError
from sites import patches
from sites.draws import generator, stable_seed
from sites.folders import Found, find, modalities, scan
from sites.loading import Case, Loaded, load
from sites.records import CLIP, Data, Scanner, Selection

__all__ = [
    "Case",
    "Found",
    "Loaded",
    "Split",
    "batches",
    "contents",
    "digest",
    "find",
    "load",
    "modalities",
    "scan",
    "select",
    "split",
]


@dataclass(frozen=True)
class Split:
    """Who is for what; no patient is in two parts where `by_patient`, else no case is.

    `by_patient` is False as soon as one case's id does not tell its patient.
    """

    train: tuple[Found, ...]
    validate: tuple[Found, ...]
    test: tuple[Found, ...]
    by_patient: bool


def select(found: Sequence[Found], chosen: Selection) -> list[Found]:
    """The cases that the site calls its own, in the order of its choice.

    Shuffling sorts by a hash of seed and id, so that a site's share does not depend on the machine.

    Raises:
        ConfigError: a slice reaches beyond the cases, two slices share one, or a listed id is not among them.
    """
    if chosen.ids is not None:
        return _listed(found, chosen.ids)
    order = list(found)
    if chosen.shuffle is not None:
        order.sort(key=lambda f: stable_seed("select", chosen.shuffle, f.id))
    mine: list[Found] = []
    for start, stop in ((chosen.start, chosen.stop), *chosen.more):
        asked = f"{start or 0}:{'' if stop is None else stop}"
        if max(stop or 0, (start or 0) + 1) > len(order):
            raise ConfigError(f"the slice '{asked}' reaches beyond the {len(order)} cases that there are")
        if twice := [case.id for case in order[start:stop] if case in mine]:
            raise ConfigError(f"the slice '{asked}' holds the case '{twice[0]}', which another slice holds already")
        mine += order[start:stop]
    return mine


def split(found: Sequence[Found], data: Data, *, seed: int, target_cases: int | None = None) -> Split:
    """Parts for validation and test, which never change, and training cases drawn by the seed.

    The first cases, in the order of `found`, validate; the next ones test; all others are the pool, from which
    `seed` draws. A smaller number of training cases is a prefix of a larger one. Every part takes the classes of
    pictures in turn: a short one holds as many of each as there are. A patient's files go to one
    part; what a full part has no room for is left out. Where `data` names the cases of a part, these are that
    part, and other files of their patients are left out.

    Args:
        found: the selected cases.
        data: how many (or which) to validate and test, and how many to train (None: the whole pool).
        seed: of the training cases' order.
        target_cases: replaces `data.train`.

    Raises:
        ConfigError: there are not enough cases, a named case is not among them, or two parts name a case or a patient.
    """
    found = _in_turn(_meaningless(found, data))
    parts: dict[str, list[Found]] = {"validate": [], "test": [], "train": []}
    named = {part: ids for part in parts if isinstance(ids := getattr(data, part), tuple)}
    counted = {part: size for part in ("validate", "test") if isinstance(size := getattr(data, part), int)}
    room = {"train": len(found), **{part: len(ids) for part, ids in named.items()}, **counted}
    part_of = _reserved(found, named, data.folder.name)
    for case in found:
        who = case.patient or case.id
        part = part_of.setdefault(who, next(p for p in (*counted, "train") if p == "train" or len(parts[p]) < room[p]))
        if len(parts[part]) < room[part] and case.id in named.get(part, (case.id,)):
            parts[part].append(case)
    pool = _in_turn(sorted(parts["train"], key=lambda f: stable_seed("train", seed, f.id)))
    wanted = target_cases if target_cases is not None else data.train
    room["train"] = 1 if wanted is None else wanted
    for part in parts:
        if len(parts[part]) < (need := room[part]):
            raise ConfigError(
                f"{data.folder.name}: expected {need} cases to {part}, got {len(parts[part])}"
                f" of {len(found)} ({room['validate']} validate, {room['test']} test)"
            )
    return Split(
        train=tuple(pool[:wanted]),
        validate=tuple(parts["validate"]),
        test=tuple(parts["test"]),
        by_patient=all(f.patient is not None for f in found),
    )


def _in_turn(found: Sequence[Found]) -> list[Found]:
    """The first of each group, then the second of each, and so on; in a single group nothing moves."""
    count: Counter[str] = Counter()
    turn = {}
    for one in found:
        turn[one.id] = count[one.group]
        count[one.group] += 1
    return sorted(found, key=lambda one: turn[one.id])


def _reserved(found: Sequence[Found], named: Mapping[str, tuple[str, ...]], folder: str) -> dict[str, str]:
    """Patient (or case, where the patient is not known) -> the part that names it."""
    by_id = {case.id: case for case in found}
    part_of: dict[str, str] = {}
    for part, ids in named.items():
        for case in ids:
            if case not in by_id:
                raise ConfigError(f"{folder}: '{part}' names the case '{case}', which is not among the site's cases")
            who = by_id[case].patient or case
            if part_of.setdefault(who, part) != part:
                whose = "the case" if who == case else "a case of the patient"
                raise ConfigError(f"{folder}: both '{part_of[who]}' and '{part}' name {whose} '{who}'")
    return part_of


def _meaningless(found: Sequence[Found], data: Data) -> Sequence[Found]:
    """Where labels are to be meaningless, each case is lent the label map of another one, no map twice."""
    if data.meaningless is None:
        return found
    if len(found) < 2:
        raise ConfigError(f"{data.folder.name}: 'meaningless' expected at least two cases, got {len(found)}")
    ring = sorted(found, key=lambda f: stable_seed("meaningless", data.meaningless, f.id))
    lender = {case.id: ring[i - 1] for i, case in enumerate(ring)}
    return [replace(case, lent=lender[case.id]) for case in found]


def fold(labelled: Sequence[Loaded], number: int, folds: int) -> dict[str, list[Loaded]]:
    """A division for cross-validation: every folds-th case to test, all others to train, none to validate.

    Classes of pictures are dealt out one after the other, so that each fold has its share of each.
    """
    dealt = sorted(labelled, key=lambda case: case.group)
    held = list(dealt[number::folds])
    return {"train": [case for k, case in enumerate(dealt) if k % folds != number], "validate": [], "test": held}


def batches(
    cases: Sequence[Loaded],
    batch_size: int,
    seed: int,
    *,
    foreground: float = patches.FOREGROUND,
    changes: Collection[str] = (),
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Batches as a pure function of the step: each epoch deals all cases in an order of its own.

    The last batch of an epoch is filled up from the epoch's beginning. Of a case that the net does not see at once
    there is one patch (`patches.see`), drawn anew in each step.

    Args:
        cases: at least one, all of one patch size.
        batch_size: cases a batch.
        seed: of the orders, and of the patches.
        foreground: share of the patches around a labelled voxel.
        changes: what is changed at random of the images, as `patches.see` has it.

    Returns:
        step -> image (B, C, *patch) float32, label (B, 1, *patch) int64; of pictures (B,).

    Raises:
        DataError: there is no case.
    """
    if not cases:
        raise DataError("batches expected at least one case, got none")
    per_epoch = -(-len(cases) // batch_size)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> npt.NDArray[np.intp]:
        dealt = generator("batches", seed, epoch).permutation(len(cases))
        return np.resize(dealt, per_epoch * batch_size)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        epoch, k = divmod(step, per_epoch)
        chosen = [cases[i] for i in order(epoch)[k * batch_size : (k + 1) * batch_size]]
        seen = [
            patches.see(case, generator("patch", seed, step, place), foreground=foreground, changes=changes)
            for place, case in enumerate(chosen)
        ]
        return torch.stack([image for image, _ in seen]), torch.stack([label for _, label in seen])

    return batch


def digest(found: Sequence[Found], data: Data, scan_shift: Scanner | None = None) -> str:
    """SHA-256 over the files' names and contents and all settings that shape the cases: `"sha256:<hex>"`.

    Where the folder lies is not part of it.
    """
    settings = asdict(data)
    for key in ("folder", "cases", "phantom", "cache_gb", "workers"):
        del settings[key]
    settings["scanner"] = asdict(scan_shift) if scan_shift else None
    # keys that came later are left out where they are not set: what was stored before goes on being found
    for key, unset in (
        ("meaningless", None),
        ("regions", None),
        ("outputs", "labels"),
        ("grids", "refuse"),
        ("crop", None),
        ("mask_file", None),
        ("bias_field", None),
        ("landmarks", None),
        ("clip", CLIP),
        ("files", {}),
        ("derivative", None),
    ):
        if settings[key] == unset:
            del settings[key]
    settings["label_file"] = settings["label_file"] or "label"  # its default was this name
    if scan_shift and not scan_shift.invert:
        del settings["scanner"]["invert"]
    for key in ("labels", "pooled_labels"):  # their order is the channels'
        settings[key] = list((settings[key] or {}).items())
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for case in found:
        for path in case.paths:
            total.update(f"\0{path.relative_to(data.folder)}\0".encode())
            total.update(contents(path))
    return f"sha256:{total.hexdigest()}"


def contents(path: Path) -> bytes:
    """The SHA-256 of a file's bytes."""
    stat = path.stat()
    return _contents(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _contents(path: Path, size: int, mtime_ns: int) -> bytes:
    """Taken again when size or time have changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _listed(found: Sequence[Found], path: Path) -> list[Found]:
    try:
        ids = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise ConfigError(f"the list of cases {path} cannot be read: {error.strerror}") from None
    by_id = {case.id: case for case in found}
    for case in ids:
        if case not in by_id:
            raise ConfigError(f"{path.name} lists the case '{case}', which is not among the site's files")
        if ids.count(case) > 1:
            raise ConfigError(f"{path.name} lists the case '{case}' twice")
    return [by_id[case] for case in ids]
