"""Masked sums: a group's models are added up under masks that cancel in the sum of all, and in no other sum.

    message_i = encoded_i + sum over j > i of PRG(k_ij) - sum over j < i of PRG(k_ij) + PRG(k_i,target)    in Z_2^64

Bonawitz et al., CCS 2017, without the recovery of members who drop out: the masks cancel when all have sent, or nothing
is opened. The target's streams lie over the sum as well, so whoever relays it sees uniform noise. `docs/mask.md` has
every byte.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from fedmerge.container import canonical
from fedmerge.contribution import MOST
from fedmerge.errors import Refused
from fedmerge.params import Params
from fedmerge.privacy import fixed, ledger, message
from fedmerge.privacy.fixed import SLAB, Words
from fedmerge.privacy.hello import FORMAT, Hello, schema
from fedmerge.privacy.transcript import Transcript
from fedmerge.trust import keys

_ZEROS = memoryview(bytes(8 * (SLAB + 1)))


@dataclass(frozen=True)
class Opened:
    """A group's sums: name -> float64 of the parameter's shape.

    Attributes:
        numerator: sum over the members of w F (theta - ancestor).
        denominator: sum over the members of w F.
    """

    numerator: Params
    denominator: Params


def mask(
    weights: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    ancestor: Mapping[str, Tensor],
    transcript: Transcript,
    member: str,
    home: Path,
) -> Iterator[bytes]:
    """A member's masked message, piece by piece; the ledger has it on disk before the first piece is made.

    Args:
        weights: at least the ancestor's names, float32.
        fisher: raw, of the same names, or empty (ones everywhere).
        ancestor: the common starting weights of exactly the names that enter the sum.
        transcript: as `gather` made it.
        member: this site.
        home: the folder of its ledger.

    Returns:
        The pieces of a `fedmerge-masked/1` document; the same ones for the same model and transcript.

    Raises:
        Refused: the transcript is about other tensors, the model cannot be encoded or could make the sum overflow, or
            `ledger.enter` refuses it.
        DataError: the ledger cannot be read.
    """
    if schema(ancestor) != transcript.target.schema:
        raise Refused(f"{member}: the transcript is about other tensors, or other starting weights")
    weight, T = transcript.of(member).weight, len(transcript.members)
    weights = {name: value for name, value in weights.items() if name in ancestor}
    fisher = {name: value for name, value in fisher.items() if name in ancestor}
    fixed.check(weights, fisher, ancestor, member)
    for _ in fixed.encode(weights, fisher, ancestor, weight=weight, members=T, who=member):
        pass  # an overflow is refused before the ledger is written and before anything leaves
    key = ledger.enter(home, ledger.artefact(weights, fisher, ancestor), transcript, member)
    plus, minus = _streams(key, transcript, member)
    shapes = {name: tuple(value.shape) for name, value in ancestor.items()}
    encoded = fixed.encode(weights, fisher, ancestor, weight=weight, members=T, who=member)
    return message.write(shapes, transcript.digest, (member,), _shifted(encoded, plus, minus))


def add(parts: Sequence[Path]) -> Iterator[bytes]:
    """The sum of masked messages, or of sums of them, piece by piece; whoever relays can do it, or the target.

    Args:
        parts: `fedmerge-masked/1` documents of one transcript; no member in two of them.

    Returns:
        The pieces of a document that carries the names of all members in it.

    Raises:
        Refused: a document breaks the format, is of another transcript or of other tensors, or a member is in twice.
    """
    if not parts:
        raise Refused("a sum of masked messages needs at least one, got none")
    first, *others = read = [message.read(path) for path in parts]
    for one in others:
        if one.transcript != first.transcript:
            raise Refused(f"{one.who}: transcript expected {first.transcript}, got {one.transcript}")
        if one.shapes != first.shapes:
            raise Refused(f"{one.who}: the masked message is about other tensors than {first.who}")
    members = [name for one in read for name in one.members]
    for name in members:
        if members.count(name) > 1:
            raise Refused(f"{name}: a masked message is in the sum twice")

    def slabs() -> Iterator[Words]:
        for start in range(0, len(first.words), SLAB):
            total = first.words[start : start + SLAB].copy()
            for one in others:
                total += one.words[start : start + SLAB]
            yield total

    return message.write(first.shapes, first.transcript, members, slabs())


def open_sum(path: Path, transcript: Transcript, key: X25519PrivateKey, ancestor: Mapping[str, Tensor]) -> Opened:
    """Take the target's streams off the sum of all members, and read it.

    Args:
        path: the `fedmerge-masked/1` document with all members in it (`add`).
        transcript: as `gather` made it.
        key: the private half of the key of the target's hello.
        ancestor: the common starting weights of exactly the names that entered the sum.

    Raises:
        Refused: another transcript, a member is missing or a stranger is in, another key, other tensors; or the masks
            did not cancel, because a message was made with other hellos or was changed on its way.
    """
    target, found = transcript.target, message.read(path)
    who = f"group {target.group}"
    if found.transcript != transcript.digest:
        raise Refused(f"{who}: transcript expected {transcript.digest}, got {found.transcript}")
    if found.members != transcript.names:
        absent = sorted(set(transcript.names) - set(found.members))
        wrong = f"without {', '.join(absent)}" if absent else f"got {', '.join(found.members)}"
        raise Refused(f"{who}: the sum expected {', '.join(transcript.names)}, {wrong}; it is opened as a whole or not")
    shapes = {name: tuple(value.shape) for name, value in ancestor.items()}
    if schema(ancestor) != target.schema or found.shapes != shapes:
        raise Refused(f"{who}: the masked sum is about other tensors, or other starting weights")
    if keys.public_text(key) != target.key:
        raise Refused(f"{who}: the key is not that of {target.name}'s hello")
    minus = [_key(key, one, "target", one.name, target.name, transcript) for one in transcript.members]
    low, high = fixed.bounds(tuple(one.weight for one in transcript.members))
    sums: dict[str, Params] = {part: {} for part in fixed.PARTS}
    begin = 0
    for full, shape in fixed.layout(shapes).items():
        part, _, name = full.partition("/")
        value = sums[part][name] = torch.empty(shape, dtype=torch.float64)
        flat = value.reshape(-1).numpy()
        for start in range(0, len(flat), SLAB):
            words = found.words[begin + start : begin + min(start + SLAB, len(flat))].copy()
            for one in minus:
                words -= stream(one, begin + start, len(words))
            if part == "denominator" and not (low <= int(words.min()) and int(words.max()) <= high):
                raise Refused(f"{who}: the masks did not cancel; a message was made with other hellos, or was changed")
            flat[start : start + len(words)] = fixed.decode(words)
        begin += len(flat)
    return Opened(sums["numerator"], sums["denominator"])


def merged(opened: Opened, ancestor: Mapping[str, Tensor]) -> tuple[Params, Params]:
    """A group as if it were one source: its merged weights and its Fisher, for `fusion.mixing.prepare`.

        theta = ancestor + numerator / denominator,   F = denominator             Geyer et al. 2019, eq. 2

    Returns:
        (weights, Fisher): name -> float32 of the parameter's shape.

    Raises:
        Refused: names a tensor with a number that no trained net holds: the sum was changed on its way.
    """
    weights, fisher = {}, {}
    for name, denominator in opened.denominator.items():
        theta = ancestor[name].double() + opened.numerator[name] / denominator
        if not bool((theta.abs() <= MOST).all()):
            raise Refused(f"the group's '{name}' expected numbers up to {MOST:.0e}: the sum was changed")
        weights[name], fisher[name] = theta.float(), denominator.float()
    return weights, fisher


def stream(key: bytes, start: int, count: int) -> Words:
    """Numbers `start` to `start + count` of a mask: AES-256 in counter mode, little-endian.

    Args:
        key: 32 bytes.
        start: the first number's place in the message.
        count: how many, at most `SLAB`.

    Returns:
        uint64 (count,).

    Raises:
        ValueError: more than `SLAB` were asked for.
    """
    if count > SLAB:
        raise ValueError(f"a piece of a stream expected at most {SLAB} numbers, got {count}")
    block, odd = divmod(start, 2)  # a block of AES is two numbers
    size = 8 * (odd + count)
    made = np.empty(size + 15, np.uint8)
    Cipher(AES256(key), CTR(block.to_bytes(16, "big"))).encryptor().update_into(_ZEROS[:size], made.data)
    return made[8 * odd : size].view("<u8")


def _streams(key: X25519PrivateKey, transcript: Transcript, member: str) -> tuple[list[bytes], list[bytes]]:
    """The keys of the streams that a member adds, and of those that it subtracts."""
    target = transcript.target
    plus = [_key(key, target, "target", member, target.name, transcript)]
    minus: list[bytes] = []
    for peer in transcript.members:
        if peer.name != member:
            small, large = sorted((member, peer.name))
            (plus if member == small else minus).append(_key(key, peer, "pair", small, large, transcript))
    return plus, minus


def _key(own: X25519PrivateKey, peer: Hello, kind: str, one: str, other: str, transcript: Transcript) -> bytes:
    info = canonical([FORMAT, kind, transcript.digest, one, other]).encode()
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(own.exchange(peer.public))


def _shifted(encoded: Iterator[Words], plus: list[bytes], minus: list[bytes]) -> Iterator[Words]:
    start = 0
    for words in encoded:
        for key in plus:
            words += stream(key, start, len(words))
        for key in minus:
            words -= stream(key, start, len(words))
        start += len(words)
        yield words
