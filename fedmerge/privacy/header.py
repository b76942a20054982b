"""What a sealed file says of itself, in the clear: from whom to whom, in which run and round, and how it is cut.

Its canonical bytes are bound into everything that is made with them: the sealing of the file key, each chunk, the
signature. Sender and receiver know the `Facts` beforehand, and a file with others is not opened.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from io import BufferedIOBase
from typing import BinaryIO

from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from fedmerge import forms
from fedmerge.container import canonical, parse
from fedmerge.errors import ConfigError, Refused
from fedmerge.trust.hybrid import HybridPublicKey
from fedmerge.trust.keys import Sealing

FORMAT = "fedmerge-seal/1"
FIRST = f"{FORMAT}\n".encode()  # the first bytes of a sealed file
KEY = 32  # bytes of a file key
TAG = 16  # bytes that AES-GCM adds
SIGNATURE = 64  # bytes
CHUNK = 2**20  # bytes of plaintext
MOST_CHUNK = 2**24
LONGEST = 2**16  # bytes of a header

SUITES = {  # name -> KEM of HPKE, bytes of an encapsulated key
    "MLKEM768-X25519, HKDF-SHA256, AES-256-GCM": (KEM.MLKEM768_X25519, 1120),
    "X25519, HKDF-SHA256, AES-256-GCM": (KEM.X25519, 32),
}
HYBRID, PLAIN = SUITES


@dataclass(frozen=True)
class Facts:
    """What sender and receiver know before anything is sealed.

    Attributes:
        run: the campaign's run.
        round: what it is within the run ("chain 0 / north"); nothing else of the run has the same.
        sender: the site that seals and signs.
        receiver: the site that opens.
        schema: what the plaintext holds, as `schema_of` gives it.
    """

    run: str
    round: str
    sender: str
    receiver: str
    schema: str


@dataclass(frozen=True)
class Header(Facts):
    """The facts, and what the sender adds.

    Attributes:
        audit_head: head of the sender's audit log, 64 hex digits.
        size: of the plaintext, in bytes.
        suite: a name of `SUITES`; the kind of the receiver's key decides.
        chunk: bytes of plaintext in each chunk but the last, which may have fewer.
        format: `FORMAT`.
    """

    audit_head: str
    size: int
    suite: str
    chunk: int = CHUNK
    format: str = FORMAT

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = "int" if field.type is int else "str"
            if wrong := forms.wrong(field.name, kind, getattr(self, field.name)):
                raise ConfigError(f"a seal's '{field.name}' expected {wrong}")
        for name, pattern in (("schema", "sha256:[0-9a-f]{64}"), ("audit_head", "[0-9a-f]{64}")):
            if not re.fullmatch(pattern, getattr(self, name)):
                raise ConfigError(f"a seal's '{name}' expected {pattern}, got {getattr(self, name)!r:.80}")
        if self.format != FORMAT or self.suite not in SUITES or not 1 <= self.chunk <= MOST_CHUNK:
            got = f"{self.format!r:.40}, {self.suite!r:.60}, {self.chunk}"
            raise ConfigError(f"a seal expected {FORMAT}, one of its suites and at most {MOST_CHUNK}, got {got}")

    def encode(self) -> bytes:
        """The canonical bytes."""
        return canonical(asdict(self)).encode()

    def has(self, facts: Facts) -> bool:
        """Whether the facts are these."""
        return all(getattr(self, field.name) == getattr(facts, field.name) for field in fields(Facts))

    @property
    def hpke(self) -> Suite:
        """How the file key is sealed."""
        return Suite(SUITES[self.suite][0], KDF.HKDF_SHA256, AEAD.AES_256_GCM)

    @property
    def key_bytes(self) -> int:
        """Bytes of the sealed file key: the encapsulated key, the file key, a tag."""
        return SUITES[self.suite][1] + KEY + TAG

    @property
    def chunks_bytes(self) -> int:
        """Bytes of all sealed chunks."""
        return self.size + TAG * max(1, -(-self.size // self.chunk))

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the largest chunk's plaintext."""
        return min(self.chunk, self.size)

    def chunks(self) -> Iterator[tuple[bytes, int]]:
        """(nonce of 12 bytes, bytes of plaintext) of each chunk: its number from 0, and 1 in the last byte of the last.

        That is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO 2015): no chunk can be moved, left out, repeated or
        be made the last one. A plaintext of 0 bytes has one chunk.
        """
        count = max(1, -(-self.size // self.chunk))
        for number in range(count):
            last = number == count - 1
            length = self.size - number * self.chunk if last else self.chunk
            yield number.to_bytes(11, "big") + bytes([last]), length


def schema_of(text: str) -> str:
    """The digest of a text that names what the plaintext holds: `sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def header_of(facts: Facts, audit_head: str, size: int, receiver: Sealing) -> Header:
    """The header of a file that is sealed now; a ConfigError where a field holds something impossible."""
    known = {field.name: getattr(facts, field.name) for field in fields(Facts)}
    return Header(**known, audit_head=audit_head, size=size, suite=suite_of(receiver))


def suite_of(receiver: Sealing) -> str:
    """The suite for a receiver's public key."""
    return HYBRID if isinstance(receiver, HybridPublicKey) else PLAIN


def write(sink: BinaryIO, header: Header) -> None:
    """The beginning of a sealed file: `FIRST`, the header's length (4 bytes, big-endian), the header."""
    encoded = header.encode()
    sink.write(FIRST + len(encoded).to_bytes(4, "big") + encoded)


def read(file: BufferedIOBase) -> Header:
    """The header of a sealed file, which nobody has vouched for yet.

    Args:
        file: at its beginning; afterwards behind the header.

    Raises:
        Refused: it is none in its one canonical form.
        ConfigError: a field holds something impossible.
    """
    first = file.read(len(FIRST) + 4)
    length = int.from_bytes(first[len(FIRST) :], "big")
    if len(first) != len(FIRST) + 4 or not first.startswith(FIRST) or length > LONGEST:
        raise Refused("it is no sealed file")
    raw = file.read(length)
    table = parse(raw, "it")
    if not isinstance(table, dict) or table.keys() != {field.name for field in fields(Header)}:
        raise Refused("its header has other keys")
    header = Header(**table)
    if header.encode() != raw:
        raise Refused("its header is not in canonical form")
    return header
