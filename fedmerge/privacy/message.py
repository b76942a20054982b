"""Masked messages as documents: whose numbers are in the sum, under which transcript, and the numbers themselves."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmerge import container
from fedmerge.container import canonical, parse
from fedmerge.errors import Refused
from fedmerge.privacy import fixed
from fedmerge.privacy.fixed import Words
from fedmerge.privacy.hello import FORMAT, MOST, TEXT

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Message:
    """One document.

    Attributes:
        who: the file, for the sentences.
        transcript: digest of the hellos that its masks were made from.
        members: whose numbers are summed in it, sorted; one name in a member's own message.
        shapes: name -> shape of what is summed.
        words: uint64 (n,), mapped from the file: all tensors of `fixed.layout`, one after another.
    """

    who: str
    transcript: str
    members: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    words: Words


def write(
    shapes: Mapping[str, tuple[int, ...]], transcript: str, members: Iterable[str], slabs: Iterable[Words]
) -> Iterator[bytes]:
    """The pieces of a document.

    Args:
        shapes: name -> shape of what is summed.
        transcript: digest of the hellos.
        members: whose numbers are in it.
        slabs: uint64, the tensors in the order of `fixed.layout`.
    """
    facts = {"format": FORMAT, "members": sorted(members), "transcript": transcript}
    entries = {name: ("U64", shape) for name, shape in fixed.layout(shapes).items()}
    yield container.encode(entries, {"fedmerge": canonical(facts)})
    for words in slabs:
        yield words.astype("<u8", copy=False).tobytes()


def length(shapes: Mapping[str, tuple[int, ...]], members: Iterable[str]) -> int:
    """Bytes of a document with these members' numbers, as `write` makes it."""
    header = next(write(shapes, "sha256:" + "0" * 64, members, ()))
    return len(header) + sum(8 * math.prod(shape) for shape in fixed.layout(shapes).values())


def read(path: Path) -> Message:
    """A document whose header was checked; its numbers are read when they are used.

    Raises:
        Refused: names the file, what was expected and what came.
    """
    who = str(path)
    header = container.read_header(path, who=who)
    facts = parse(header.metadata.get("fedmerge", ""), who)
    if header.metadata.keys() != {"fedmerge"} or not isinstance(facts, dict):
        raise Refused(f"{who}: __metadata__ expected the one key fedmerge with an object, got something else")
    if facts.keys() != {"format", "members", "transcript"} or facts["format"] != FORMAT:
        raise Refused(f"{who}: expected a document of the form {FORMAT}, got {facts.get('format')!r:.80}")
    members, transcript = facts["members"], facts["transcript"]
    if not isinstance(transcript, str) or not DIGEST.fullmatch(transcript):
        raise Refused(f"{who}: transcript expected sha256: and 64 digits, got {transcript!r:.80}")
    if not isinstance(members, list) or not all(isinstance(name, str) and TEXT.fullmatch(name) for name in members):
        raise Refused(f"{who}: members expected names, got {members!r:.80}")
    if not 1 <= len(members) <= MOST or members != sorted(set(members)):
        raise Refused(f"{who}: members expected 1 to {MOST} names, sorted, each once, got {members!r:.80}")
    if any(entry.dtype != "U64" for entry in header.entries.values()):
        raise Refused(f"{who}: a masked message expected numbers of dtype U64")
    found = {name: entry.shape for name, entry in header.entries.items()}
    shapes = {name.partition("/")[2]: shape for name, shape in found.items()}
    if not found or list(fixed.layout(shapes).items()) != list(found.items()):
        raise Refused(f"{who}: tensors expected denominator/NAME and numerator/NAME of each name, in this order")
    base = next(iter(header.entries.values())).start
    return Message(who, transcript, tuple(members), shapes, np.memmap(path, "<u8", mode="r", offset=base))
