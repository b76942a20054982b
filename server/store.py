"""What the server keeps: every contribution and every finished phase, on disk before the next one begins.

Entries are named by a hash of all that went into them, so a campaign resumes, and another run reuses, exactly what
would come out the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmerge import whole
from fedmerge.errors import Refused
from fedmerge.privacy.accountant import Training


def key(**ingredients: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """A name for what these ingredients make: 24 hexadecimal digits of the SHA-256 of their JSON."""
    text = json.dumps(ingredients, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Store:
    """A folder of contributions and finished phases, and perhaps an earlier run's contributions to read."""

    folder: Path
    earlier: Path | None = None

    def contribution(self, name: str, *, own: bool = True, reuse: bool = True) -> Path | None:
        """The file of a contribution, of this run (`own`) or of an earlier one (`reuse`), as its site lets it be used.

        What is found at the earlier run gets a second place in this run's folder `reused`, so that a later run finds
        it here, whatever runs came before.
        """
        file = f"{name}.safetensors"
        if own and (path := self.folder / "contributions" / file).exists():
            return path
        if not reuse:
            return None
        if (path := self.folder / "reused" / file).exists():
            return path
        for place in ("contributions", "reused"):
            if self.earlier and (found := self.earlier / place / file).exists():
                return _second_place(found, path)
        return None

    def arrived(self, name: str, data: bytes | Path) -> Path:
        """What came as a file, which nobody takes for a contribution before `keep_contribution` has put it there.

        Args:
            name: the key of the task.
            data: the bytes as they came, or the file that they were received into.
        """
        if isinstance(data, Path):
            return data
        path = self.folder / "incoming" / f"{name}.came"
        whole.write(path, data)
        return path

    def keep_contribution(self, name: str, data: bytes | Path) -> Path:
        """Store the bytes as they came; of a file in `incoming`, the file itself."""
        path = self.folder / "contributions" / f"{name}.safetensors"
        if isinstance(data, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            data.replace(path)
        else:
            whole.write(path, data)
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
        whole.write(self.folder / "phases" / f"{name}.json", json.dumps(result, sort_keys=True).encode())

    def keep_noise(self, name: str, training: Training) -> None:
        """Store the mechanism of a contribution that was trained with differential privacy."""
        self.keep_phase(f"noise-{name}", asdict(training))

    def noise(self, name: str) -> Training:
        """The mechanism of a contribution, of this run or of the earlier one that it comes from.

        Raises:
            Refused: nothing is known of it.
        """
        earlier = Store(self.earlier).phase(f"noise-{name}") if self.earlier else None
        if (found := self.phase(f"noise-{name}") or earlier) is None:
            raise Refused(f"nothing is known of the noise of the stored contribution {name}")
        training = Training(**found)
        self.keep_noise(name, training)
        return training

    def blob(self, name: str) -> Path:
        """Where the tensors of a phase are, or will be (logits, the state of a far fit)."""
        return self.folder / "phases" / f"{name}.safetensors"

    def keep_blob(self, name: str, data: bytes) -> None:
        """Store the tensors of a phase."""
        whole.write(self.blob(name), data)


def _second_place(found: Path, path: Path) -> Path:
    """The same file under another name as well; where the disk allows no second name, a copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.hardlink_to(found)
    except FileExistsError:
        pass
    except OSError:
        whole.write(path, found.read_bytes())
    return path
