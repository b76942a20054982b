"""Log files of programs: bounded in size, and their last words."""

import contextlib
import os
import re
import shutil
from pathlib import Path

LOG_BYTES, LOGS_KEPT = 10_000_000, 3


def rotate(log: Path, limit: int = LOG_BYTES, kept: int = LOGS_KEPT) -> None:
    """Copy a log of more than `limit` bytes to LOG.1, that to LOG.2, ..., and begin it anew.

    The program goes on writing to the same file, at its end.
    """
    try:
        if log.stat().st_size <= limit:
            return
        for i in range(kept, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{log}.{i - 1}").replace(f"{log}.{i}")
        shutil.copyfile(log, f"{log}.1")
        os.truncate(log, 0)
    except OSError:  # a full disk stops no program
        return


def last_words(log: Path) -> str:
    """The last line of a log that says what went wrong, else the last line; without colours, at most 300 characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines()]
    said = [line for line in lines if line and not line.startswith("For more information")]
    wrong = [line for line in said if not line.startswith("INFO")]
    return (wrong or said or [""])[-1][:300]
