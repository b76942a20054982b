"""What the server keeps: every contribution and every finished phase, on disk before the next one begins.

Entries are named by a hash of all that went into them, so a campaign resumes, and another run reuses, exactly what
would come out the same.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def key(**ingredients: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """A name for what these ingredients make: 24 hexadecimal digits of the SHA-256 of their JSON."""
    text = json.dumps(ingredients, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def write(path: Path, data: bytes) -> None:
    """Write so that the file is either absent, old or whole, also when the machine stops in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@dataclass(frozen=True)
class Store:
    """A folder of contributions and finished phases, and perhaps an earlier run's contributions to read."""

    folder: Path
    earlier: Path | None = None

    def contribution(self, name: str, *, own: bool = True, reuse: bool = True) -> Path | None:
        """The file of a contribution, of this run (`own`) or the earlier one (`reuse`), as its site lets it be used."""
        for folder in (self.folder if own else None, self.earlier if reuse else None):
            if folder and (path := folder / "contributions" / f"{name}.safetensors").exists():
                return path
        return None

    def keep_contribution(self, name: str, data: bytes) -> Path:
        """Store the bytes as they came."""
        path = self.folder / "contributions" / f"{name}.safetensors"
        write(path, data)
        return path

    def phase(self, name: str) -> dict[str, Any] | None:
        """The result of a finished phase, or None."""
        path = self.folder / "phases" / f"{name}.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def keep_phase(self, name: str, result: Mapping[str, Any]) -> None:
        """Store the result of a finished phase."""
        write(self.folder / "phases" / f"{name}.json", json.dumps(result, sort_keys=True).encode())

    def blob(self, name: str) -> Path:
        """Where the tensors of a phase are, or will be (logits, the state of a far fit)."""
        return self.folder / "phases" / f"{name}.safetensors"

    def keep_blob(self, name: str, data: bytes) -> None:
        """Store the tensors of a phase."""
        write(self.blob(name), data)
