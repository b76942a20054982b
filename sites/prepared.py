"""Prepared cases that are kept: the last ones in memory, and on the site's own disk as many as it allows.

A file is `KEY.safetensors`; its key is a hash of all that went in: the files' names, sizes and times, every setting,
and the versions of the programs. A change of any of them is another key, and what nobody asks for any more is thrown
away first. Files hold patients' images: they lie in the site's work folder, for the site's own user alone.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedmerge import whole

log = logging.getLogger("fedmerge.site")

FORMAT = 1
"""Goes up when the same settings make other cases, or the files have another form."""
LIBRARIES = ("fedmerge", "numpy", "torch", "nibabel", "SimpleITK")
DAY_S = 24 * 3600.0
Arrays = dict[str, npt.NDArray[Any]]


class Sized(Protocol):
    """What a memory holds knows its size."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)
T = TypeVar("T")
R = TypeVar("R")


class Memory(Generic[K, V]):
    """The cases loaded last, up to a number of bytes; sites of one simulation may ask from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.cases: OrderedDict[K, V] = OrderedDict()
        self.lock = Lock()

    def get(self, key: K) -> V | None:
        """The case of this key, which then is the last one asked for."""
        with self.lock:
            if key in self.cases:
                self.cases.move_to_end(key)
            return self.cases.get(key)

    def put(self, key: K, case: V) -> None:
        """Keep a case; those that nobody has asked for longest make room."""
        with self.lock:
            if key in self.cases:
                return
            self.cases[key] = case
            self.bytes += case.nbytes
            while self.bytes > self.max_bytes and len(self.cases) > 1:
                _, old = self.cases.popitem(last=False)
                self.bytes -= old.nbytes


def in_order(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """What the work gives for each, in order, from so many threads; after an error nothing more is begun."""
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="preparing") as pool:
        futures = [pool.submit(work, one) for one in items]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True)
class Disk:
    """Prepared cases in a folder; what is damaged, or cannot be written, is as if it were not there.

    Attributes:
        folder: of the files.
        max_bytes: those that nobody has asked for longest are thrown away beyond that; 0: nothing is kept.
    """

    folder: Path
    max_bytes: int

    def get(self, key: object) -> tuple[Arrays, dict[str, Any]] | None:
        """A case's arrays and facts; None where they are not there, or not as they were written."""
        if not self.max_bytes:
            return None
        path = self._path(key)
        try:
            with safe_open(path, "np") as file:
                total, _, facts = (file.metadata() or {}).get("case", "").partition(" ")
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("%s is damaged, and made anew: %s", path.name, error)
            return None
        if total != _sum(arrays, facts):
            log.warning("%s is damaged, and made anew: its checksum is another one", path.name)
            return None
        return arrays, json.loads(facts)

    def put(self, key: object, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Keep a case, as a whole or not at all."""
        if not self.max_bytes:
            return
        text = json.dumps(facts)
        try:
            with whole.writing(self._path(key), mode=0o600) as file:
                file.write(save(arrays, {"case": f"{_sum(arrays, text)} {text}"}))
            self._trim()
        except OSError as error:  # the campaign goes on without
            log.warning("prepared cases cannot be kept: %s", error.strerror or error)

    def _path(self, key: object) -> Path:
        text = repr((FORMAT, _versions(), key))
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"

    def _trim(self) -> None:
        """Throw away the oldest, and what killed runs have left half written."""
        found = []
        for entry in os.scandir(self.folder):
            try:
                stat = entry.stat()
            except FileNotFoundError:  # another process was first
                continue
            if entry.name.endswith(".safetensors"):
                found.append((stat.st_mtime_ns, stat.st_size, entry.path))
            elif entry.name.endswith(".part") and time.time() - stat.st_mtime > DAY_S:
                Path(entry.path).unlink(missing_ok=True)
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.max_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size


@cache
def _versions() -> tuple[str, ...]:
    """Of the programs that a prepared case depends on."""
    return tuple(version(name) for name in LIBRARIES)


def _sum(arrays: Arrays, facts: str) -> str:
    """A checksum against damage of the disk (CRC-32), over names, types, shapes, values and facts."""
    total = zlib.crc32(facts.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), total)
        total = zlib.crc32(array.tobytes(), total)
    return f"{total:08x}"
