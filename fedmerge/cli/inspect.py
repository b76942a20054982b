"""`fedmerge inspect`: what a safetensors file holds, contribution, model or any other."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmerge.cli import screen
from fedmerge.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, FISHER = "weights/", "fisher/"
SHOWN = 100  # characters of one entry of the metadata


def inspect(
    file: Annotated[Path, typer.Argument(help="A safetensors file.")],
) -> None:
    """Show names, shapes, types, metadata and digest of a file, and the Fisher of a contribution."""
    from safetensors import SafetensorError, safe_open

    if file.is_dir():
        raise DataError(f"{file}: expected a safetensors file, got a folder")
    if not file.is_file():
        raise DataError(f"{file}: there is no such file")
    try:
        with safe_open(file, framework="pt") as opened:
            _show(file, opened)
    except SafetensorError as error:
        raise DataError(f"{file}: not a safetensors file: {error}") from None


class Weights(Mapping[str, "Tensor"]):
    """The tensors of an open file whose names begin with `prefix`, read one at a time."""

    def __init__(self, opened: Any, prefix: str) -> None:  # noqa: ANN401 - safetensors exports no type
        self._opened, self._prefix = opened, prefix
        self._names = [name.removeprefix(prefix) for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118 - the file is no mapping

    def __getitem__(self, name: str) -> "Tensor":
        tensor: Tensor = self._opened.get_tensor(self._prefix + name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _show(file: Path, opened: Any) -> None:  # noqa: ANN401 - safetensors exports no type
    from fedmerge import params

    names = list(opened.keys())
    told = metadata(opened.metadata() or {})
    contribution = dict(told).get("format", "").startswith("fedmerge-contribution/")
    weights = Weights(opened, WEIGHTS if contribution else "")
    fisher = Weights(opened, FISHER if contribution else "\0")
    kinds = {name: opened.get_slice(name).get_dtype() for name in names}
    size = f"{file.stat().st_size:,}"
    facts = [("file", str(file)), *(_card(file) if contribution else []), ("bytes", size), ("tensors", str(len(names)))]
    facts += [*_essentials(opened), *told]
    if set(kinds.values()) == {"F32"}:
        facts.append(("digest of the weights", params.digest(weights)))
    screen.table(["", ""], facts, left=2)
    rows = []
    for name in weights:
        full = WEIGHTS + name if contribution else name
        shape = " x ".join(map(str, opened.get_slice(full).get_shape())) or "scalar"
        statistics = _statistics(fisher[name]) if name in fisher else ["", "", ""]
        rows.append([name, shape, kinds[full], *(statistics if contribution else [])])
    heading = ["name", "shape", "type", *(["Fisher min", "mean", "max"] if contribution else [])]
    screen.table(heading, rows, left=3)


def _card(file: Path) -> list[tuple[str, str]]:
    """Where the page about a contribution is, if there is one."""
    from fedmerge import contribution_cards

    card = contribution_cards.path_of(file)
    return [("card", str(card))] if card.is_file() else []


def _essentials(opened: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - safetensors exports no type
    """What the file of a model amounts to; nothing of others."""
    from fedmerge import cards

    try:
        own = json.loads((opened.metadata() or {}).get("fedmerge", ""))
    except ValueError:
        return []
    return cards.essentials(own) if isinstance(own, dict) else []


def metadata(found: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name and text of each entry of a file's metadata; ours is one entry of JSON, which is unfolded."""
    entries: dict[str, Any] = dict(found)
    try:
        own = json.loads(entries.get("fedmerge", ""))
    except ValueError:
        own = None
    if isinstance(own, dict):
        del entries["fedmerge"]
        entries = {**own, **entries}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in entries.items()
    }
    return [(name, text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...") for name, text in texts.items()]


def _statistics(tensor: "Tensor") -> list[str]:
    if not tensor.numel():
        return ["", "", ""]
    values = tensor.double()
    return [f"{value.item():.3g}" for value in (values.min(), values.mean(), values.max())]
