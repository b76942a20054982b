"""Files that are absent, old or whole, also where the machine stops, the disk is full, or two want to make them."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def writing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file beside `path` that goes down to the disk and takes its place when the block ends; after an error, nothing.

    Where there is no room, nothing of it is left: it is tried again and again, and would fill the disk by itself.

    Args:
        path: the file; its folder is made where it is missing.
        mode: the permissions, less the umask.

    Raises:
        OSError: the file cannot be written; the old one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, data: bytes | str | Iterator[bytes]) -> None:
    """Write a file as a whole, as `writing` does: a reader sees the old file or the new one.

    Args:
        path: the file; its folder is made where it is missing.
        data: what it holds, at once or in pieces; a text is written as UTF-8.

    Raises:
        OSError: the file cannot be written; the old one is as it was.
    """
    with writing(path) as file:
        data = data.encode() if isinstance(data, str) else data
        file.writelines(data if isinstance(data, Iterator) else [data])


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Only one at a time, of threads and processes, is in the block for this path, whether or not the file is there.

    Args:
        path: the file; beside it, in a folder that is made where it is missing, stays an empty one for the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):
        yield


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Only one at a time, of threads and processes, is in the block for this lock.

    Args:
        lock: an empty file that stays; its folder is there.
    """
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and with it the lock goes
