"""A site's ledger of masked sums: each artefact is opened at most once, and each mask hides one artefact only.

Two sums of one artefact in different company are two linear equations about it; three sites' models fall to three of
them. So the ledger stands before the masks: the private key that they are derived from is given out by `enter` alone.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from torch import Tensor

from fedmerge import whole
from fedmerge.container import canonical, parse
from fedmerge.errors import DataError, Refused
from fedmerge.privacy.transcript import Transcript
from fedmerge.trust import keys

FORMAT = "fedmerge-mask-ledger/1"
FILE = "masked.json"


@dataclass(frozen=True)
class Artefact:
    """What a site puts into a sum, by its digests.

    Attributes:
        digest: of all its weights and Fishers with their names.
        tensors: SHA-256 of the numbers of each tensor that tells something: not all alike, not the ancestor's. Sorted.
    """

    digest: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        artefact: the artefact's digest.
        tensors: the digests of its tensors.
        run: the campaign's run.
        group: the group's name.
        transcript: the digest of all hellos.
        weight: w in units of 2^-20.
        members: the members' names.
        target: the site that opens the sum.
    """

    artefact: str
    tensors: tuple[str, ...]
    run: str
    group: str
    transcript: str
    weight: int
    members: tuple[str, ...]
    target: str


def artefact(weights: Mapping[str, Tensor], fisher: Mapping[str, Tensor], ancestor: Mapping[str, Tensor]) -> Artefact:
    """The digests of an artefact, of the ancestor's names alone: what does not enter the sum does not count.

    Args:
        weights: float32 by name.
        fisher: the raw Fisher by name, or empty.
        ancestor: the common starting weights.
    """
    every, telling = {}, set()
    for part, tensors in (("weights", weights), ("fisher", fisher)):
        for name in sorted(ancestor.keys() & tensors.keys()):
            value = tensors[name].detach().to("cpu", torch.float32)
            digest = every[f"{part}/{name}"] = _digest(value)
            known = part == "weights" and torch.equal(value, ancestor[name])
            if not known and bool(value.min() < value.max()):
                telling.add(digest)
    return Artefact("sha256:" + hashlib.sha256(canonical(every).encode()).hexdigest(), tuple(sorted(telling)))


def key_file(home: Path, run: str, group: str) -> Path:
    """Where the key for one run and group is kept."""
    return home / f"masked-{hashlib.sha256(canonical([run, group]).encode()).hexdigest()}.key"


def begin(home: Path, run: str, group: str) -> X25519PublicKey:
    """The public half of this site's fresh key for one run and group, made and kept (0600) at the first call.

    Args:
        home: the folder of the ledger, the site's own; made closed to others where it is missing.
        run: the campaign's run.
        group: the group's name.

    Raises:
        Refused: the key was forgotten, since that run of the group is over.
        DataError: the ledger cannot be read.
    """
    with _locked(home):
        path = key_file(home, run, group)
        if not path.exists():
            if any((entry.run, entry.group) == (run, group) for entry in read(home)):
                raise Refused(f"group {group} of run {run} is over: its key was forgotten")
            keys.keep(path, keys.new_exchange())
        return keys.read_exchange(path).public_key()


def enter(home: Path, new: Artefact, transcript: Transcript, member: str) -> X25519PrivateKey:
    """Write down that the artefact goes into this sum, then give out the key that masks it.

    When this returns, the line is on the disk. The same artefact under the same transcript is no new line: the masks
    are the same, and so are the bytes.

    Args:
        home: as for `begin`.
        new: what goes in.
        transcript: as `gather` made it.
        member: this site.

    Raises:
        Refused: this artefact, or one tensor of it, is in the ledger with another group, run, transcript or weight;
            this run of the group, or its transcript, is there with another artefact; the transcript's key is not the
            kept one.
        DataError: the ledger cannot be read.
        OSError: it cannot be written; it is as it was.
    """
    hello = transcript.of(member)
    entry = Entry(
        new.digest, new.tensors, hello.run, hello.group, transcript.digest, hello.weight, transcript.names,
        transcript.target.name,
    )  # fmt: skip
    with _locked(home):
        path = key_file(home, hello.run, hello.group)
        if not path.exists():
            raise Refused(f"{member}: there is no key for group {hello.group} of run {hello.run}, or it was forgotten")
        key = keys.read_exchange(path)
        if keys.public_text(key) != hello.key:
            raise Refused(f"{member}: the key of the hello expected the one kept here, got another")
        entries = read(home)
        for old in entries:
            _check(old, entry, member)
        if entry not in entries:
            _write(home, (*entries, entry))
    return key


def holds(home: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether one of these tensors has entered a masked sum; such a model leaves in no other way.

    Args:
        home: as for `begin`.
        tensors: weights, or Fishers, float32 by name.

    Raises:
        DataError: the ledger cannot be read.
    """
    known = {digest for entry in read(home) for digest in entry.tensors}
    return bool(known) and any(_digest(value) in known for value in tensors.values())


def forget(home: Path, run: str, group: str) -> None:
    """Delete the key of a run that is over; its entry stays, and nothing can be sent again."""
    with _locked(home):
        key_file(home, run, group).unlink(missing_ok=True)


def read(home: Path) -> tuple[Entry, ...]:
    """The entries, oldest first.

    Raises:
        DataError: the file is no ledger.
    """
    path = home / FILE
    if not path.exists():
        return ()
    try:
        table = parse(path.read_bytes(), str(path))
        entries = tuple(Entry(**{key: _value(value) for key, value in row.items()}) for row in table["entries"])
        sound = table["format"] == FORMAT
    except (Refused, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise DataError(f"{path} is no ledger of masked sums; without it nothing can be masked here")
    return entries


def _digest(value: Tensor) -> str:
    return hashlib.sha256(value.detach().to("cpu", torch.float32).contiguous().numpy().data).hexdigest()


def _value(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    return tuple(value) if isinstance(value, list) else value


def _check(old: Entry, new: Entry, member: str) -> None:
    if (old.artefact, old.transcript) == (new.artefact, new.transcript):
        return
    there = f"group {old.group} of run {old.run} with weight {old.weight} (transcript {old.transcript})"
    if old.artefact == new.artefact or set(old.tensors) & set(new.tensors):
        advice = "a training with another seed makes another model"
        raise Refused(f"{member}: this model has entered {there}, and enters one sum only; {advice}")
    if old.transcript == new.transcript or (old.run, old.group) == (new.run, new.group):
        raise Refused(f"{member}: another model has entered {there}, and a mask hides one model only")


def _write(home: Path, entries: tuple[Entry, ...]) -> None:
    whole.write(home / FILE, canonical({"format": FORMAT, "entries": [asdict(entry) for entry in entries]}))
    folder = os.open(home, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name as well, before anything leaves
    finally:
        os.close(folder)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Threads and processes of the site one after the other."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole.locked(home / ".masked.lock"):
        yield
