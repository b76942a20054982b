"""Sealing keys that hold against quantum computers as well: ML-KEM-768 and X25519 together, as X-Wing joins them.

What is sealed to such a key stays closed as long as one of the two holds (FIPS 203; RFC 7748;
draft-connolly-cfrg-xwing-kem, which HPKE knows as MLKEM768-X25519, KEM 0x647a of draft-ietf-hpke-pq). `cryptography`
has the two halves and the way to join them, but no file for both: a private key is kept as X-Wing's seed of 32 bytes.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey

SEED = 32  # bytes of a private key
MLKEM = 1184  # bytes of an ML-KEM-768 public key
PUBLIC = MLKEM + 32  # bytes of a public key
BEGIN, END = (f"-----{word} FEDMERGE MLKEM768-X25519 PRIVATE KEY-----" for word in ("BEGIN", "END"))


@dataclass(frozen=True)
class HybridPublicKey:
    """The public half.

    Attributes:
        raw: ML-KEM-768's 1184 bytes, then X25519's 32.
    """

    raw: bytes

    def public_bytes_raw(self) -> bytes:
        """All 1216 bytes."""
        return self.raw

    def for_hpke(self) -> MLKEM768X25519PublicKey:
        """The key as HPKE takes it.

        Raises:
            ValueError: it is none.
            UnsupportedAlgorithm: `cryptography` was built without ML-KEM.
        """
        mlkem = MLKEM768PublicKey.from_public_bytes(self.raw[:MLKEM])
        return MLKEM768X25519PublicKey(mlkem, X25519PublicKey.from_public_bytes(self.raw[MLKEM:]))


@dataclass(frozen=True)
class HybridPrivateKey:
    """The private half.

    Attributes:
        seed: 32 random bytes; everything follows from them.
    """

    seed: bytes = field(repr=False)

    def _halves(self) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        """`expandDecapsulationKey` of the draft, section 5.2."""
        expanded = hashlib.shake_256(self.seed).digest(96)
        return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])

    def public_key(self) -> HybridPublicKey:
        """The public half; an UnsupportedAlgorithm where `cryptography` was built without ML-KEM."""
        mlkem, x25519 = self._halves()
        return HybridPublicKey(mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw())

    def for_hpke(self) -> MLKEM768X25519PrivateKey:
        """The key as HPKE takes it; an UnsupportedAlgorithm where `cryptography` was built without ML-KEM."""
        return MLKEM768X25519PrivateKey(*self._halves())


def supported() -> bool:
    """Whether `cryptography` was built with ML-KEM: its own wheels are, from 48 on."""
    try:
        HybridPrivateKey(bytes(SEED)).public_key()
    except UnsupportedAlgorithm:
        return False
    return True


def to_text(key: HybridPrivateKey) -> bytes:
    """The private key as a file: the seed in base64 between two lines that say what it is."""
    return f"{BEGIN}\n{base64.b64encode(key.seed).decode()}\n{END}\n".encode()


def from_text(data: bytes) -> HybridPrivateKey | None:
    """The private key of a file of `to_text`; None where it is none."""
    lines = data.decode("ascii", "replace").split("\n")
    if len(lines) != 4 or [lines[0], *lines[2:]] != [BEGIN, END, ""]:
        return None
    try:
        seed = base64.b64decode(lines[1], validate=True)
    except (binascii.Error, ValueError):
        return None
    return HybridPrivateKey(seed) if len(seed) == SEED else None
