"""Files that are absent, old or whole, also where the machine stops or the disk is full in between."""

import os
import secrets
from pathlib import Path


def write(path: Path, data: bytes | str) -> None:
    """Write beside the file, down to the disk, then take its place: a reader sees the old file or the new one.

    Where there is no room, nothing of it is left: it is tried again and again, and would fill the disk by itself.

    Args:
        path: the file; its folder is made where it is missing.
        data: what it holds; a text is written as UTF-8.

    Raises:
        OSError: the file cannot be written; the old one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
