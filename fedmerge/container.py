"""The safetensors container: its header, written and checked by ourselves.

A file is 8 bytes (length of the header, little-endian), the header (JSON), and the tensors' bytes. Nothing
of a foreign file is used before its header has been checked here. `docs/wire-format.md` has the rules.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge.errors import Refused

MAX_HEADER = 8 * 2**20  # bytes; a net of ten thousand tensors needs about two million
MAX_DIMENSIONS = 8
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file; `start` and `stop` are bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a file holds: its metadata, and its tensors in the order of their bytes."""

    metadata: dict[str, str]
    entries: dict[str, Entry]


def canonical(value: Any) -> str:  # noqa: ANN401 - anything that JSON can hold
    """JSON in one form only: sorted keys, no spaces, ASCII, no NaN or infinity.

    Raises:
        ValueError: a number is not finite.
        TypeError: something that JSON has no form for.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def parse(text: str | bytes, who: str) -> Any:  # noqa: ANN401
    """JSON without its traps: a key given twice, NaN, infinities and bottomless nesting are refused.

    Raises:
        Refused: names `who`.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a key is given twice")
        return dict(pairs)

    def no_constant(name: str) -> Any:  # noqa: ANN401
        raise ValueError(f"{name} is not a number")

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise Refused(f"{who}: the header is not the JSON expected: {reason}") from None


def encode(entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The 8 bytes of length and the header of a file, padded with spaces to a multiple of 8.

    Args:
        entries: name -> (dtype, shape), in the order in which the bytes will follow.
        metadata: string -> string.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in entries.items():
        begin, end = end, end + SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def decode(head: bytes, total: int, who: str, most: int = MAX_HEADER) -> Header:
    """Check the header of a file, and that the tensors fill the rest of it exactly.

    Args:
        head: the first bytes of the file, at least up to the end of its header.
        total: length of the whole file in bytes.
        who: the site or the file, for the sentences.
        most: the longest header that is parsed, in bytes; parsed, a header takes up to fifty times its length.

    Raises:
        Refused: says what was expected and what came.
    """
    size = header_size(head, total, who, most)
    if len(head) < 8 + size:
        raise Refused(f"{who}: the header announces {size} bytes, got {len(head) - 8}")
    header = parse(bytes(head[8 : 8 + size]), who)
    if not isinstance(header, dict):
        raise Refused(f"{who}: the header expected a JSON object, got {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused(f"{who}: __metadata__ expected strings by name, got something else")
    entries = {name: _entry(name, facts, 8 + size, who) for name, facts in header.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = 8 + size
    for name, entry in entries.items():
        if entry.start != end:
            kind = "overlaps the tensor before it" if entry.start < end else "leaves a gap before it"
            raise Refused(f"{who}: '{name}' expected to begin at byte {end}, got {entry.start}: it {kind}")
        end = entry.stop
    if end != total:
        raise Refused(f"{who}: the header describes {end} bytes, got {total}")
    return Header(metadata, entries)


def header_size(head: bytes, total: int, who: str, most: int = MAX_HEADER) -> int:
    """The length of the header that the first 8 bytes announce.

    Raises:
        Refused: fewer than 8 bytes, or a header longer than the file or than `most`.
    """
    most = min(most, MAX_HEADER)
    if total < 8 or len(head) < 8:
        raise Refused(f"{who}: expected a safetensors file, got {total} bytes")
    size: int = struct.unpack("<Q", head[:8])[0]
    if size > most:
        raise Refused(f"{who}: the header expected at most {most} bytes, got {size}")
    if size > total - 8:
        raise Refused(f"{who}: the header announces {size} bytes, got {total - 8}")
    return size


def read_header(path: Path, *, who: str = "", most: int = MAX_HEADER) -> Header:
    """The checked header of a file; no tensor is read.

    Args:
        path: the file.
        who: from whom it came, for the sentences; the path unless given.
        most: the longest header that is parsed, in bytes.

    Raises:
        Refused: names the file.
    """
    who = who or str(path)
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            if len(head) == 8:
                head += file.read(header_size(head, total, who, most))
    except OSError as error:
        raise Refused(f"{who}: the file cannot be read: {error.strerror}") from None
    return decode(head, total, who, most)


def _entry(name: str, facts: Any, base: int, who: str) -> Entry:  # noqa: ANN401
    if not isinstance(facts, dict) or facts.keys() != {"dtype", "shape", "data_offsets"}:
        raise Refused(f"{who}: '{name}' expected dtype, shape and data_offsets, got something else")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise Refused(f"{who}: '{name}' expected a known dtype, got {dtype!r:.40}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS or 0 in shape:
        raise Refused(f"{who}: '{name}' expected a shape of at most {MAX_DIMENSIONS} sizes, got {shape!r:.80}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise Refused(f"{who}: '{name}' expected two data_offsets, got {offsets!r:.80}")
    want, got = SIZES[dtype] * math.prod(shape), offsets[1] - offsets[0]
    if got != want:
        raise Refused(f"{who}: '{name}' of shape {tuple(shape)} expected {want} bytes, got {got}")
    return Entry(dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _naturals(values: Any) -> bool:  # noqa: ANN401
    # the bound keeps the products below small; no file is that long
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**48 for v in values)
