"""Sealing and opening a file of 128 MiB, against AES-256-GCM and SHA-256 of the same bytes in memory.

Reference: `AESGCM` and `hashlib.sha256` of the same libraries on the same bytes in pieces of the same size, without any
file: for sealing each piece is encrypted and hashed, for opening hashed and decrypted. Ours reads and writes files, and
opening reads twice. Both are timed in turn, in processor time of this process, whose work is in one thread; the ratio
is that of the best rounds. Speeds are bytes of plaintext over processor time, and over the clock beside it, which has
the disk in it. A speed below 150 MB/s of processor time fails too.

    python -m benchmarks.seal [FOLDER]

FOLDER holds about 0.5 GB while this runs (default: a temporary folder). Exits with 1 past a bound.
"""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmerge.privacy import header, seal
from fedmerge.trust import keys

SIZE = 2**27
ROUNDS = 5
LEAST = 150e6  # bytes of plaintext in a second of processor time
CASES = {"sealing": (3.0,), "opening": (4.0,)}  # bound of the ratio
FACTS = header.Facts("run", "round", "north", "harbour", header.schema_of("benchmark"))


def encrypt_and_hash(cipher: AESGCM, plain: memoryview, sealed: memoryview) -> None:
    """The reference of sealing."""
    digest = hashlib.sha256()
    for nonce, (begin, end) in pieces():
        cipher.encrypt_into(nonce, plain[begin:end], None, sealed)
        digest.update(sealed)
    digest.digest()


def hash_and_decrypt(cipher: AESGCM, sealed: list[bytes], plain: memoryview) -> None:
    """The reference of opening."""
    digest = hashlib.sha256()
    for (nonce, (begin, end)), piece in zip(pieces(), sealed):
        digest.update(piece)
        cipher.decrypt_into(nonce, piece, None, plain[begin:end])
    digest.digest()


def pieces() -> list[tuple[bytes, tuple[int, int]]]:
    """(nonce, first and last byte) of each piece."""
    return [
        (i.to_bytes(12, "big"), (begin, begin + header.CHUNK)) for i, begin in enumerate(range(0, SIZE, header.CHUNK))
    ]


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Processor time and wall time of one call."""
    wall, own = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - own, time.perf_counter() - wall


def main(folder: Path) -> int:
    """Print both speeds and ratios; 1 if one is past its bound."""
    plain, sealed, opened = folder / "plain", folder / "sealed", folder / "opened"
    data = memoryview(bytearray(os.urandom(SIZE)))
    plain.write_bytes(data)
    signing, opening = keys.new_signing(), keys.new_sealing()
    cipher = AESGCM(AESGCM.generate_key(256))
    closed = [cipher.encrypt(nonce, data[begin:end], None) for nonce, (begin, end) in pieces()]
    buffer = memoryview(bytearray(header.CHUNK + header.TAG))
    ours: dict[str, Callable[[], object]] = {
        "sealing": lambda: seal.seal_file(plain, sealed, FACTS, "0" * 64, signing, opening.public_key()),
        "opening": lambda: seal.open_sealed(sealed, opened, FACTS, signing.public_key(), opening),
    }
    references: dict[str, Callable[[], object]] = {
        "sealing": lambda: encrypt_and_hash(cipher, data, buffer),
        "opening": lambda: hash_and_decrypt(cipher, closed, data),
    }
    print(f"{SIZE / 2**20:.0f} MiB; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {type(opening).__name__}")
    good = True
    for name, (bound,) in CASES.items():
        rounds = [(seconds(ours[name]), seconds(references[name])) for _ in range(ROUNDS)]
        own, wall, reference = (min(x) for x in zip(*((*mine, other[0]) for mine, other in rounds)))
        good &= own / reference <= bound and SIZE / own >= LEAST
        print(
            f"{name}: {SIZE / own / 1e6:.0f} MB/s of one core ({SIZE / wall / 1e6:.0f} MB/s by the clock), reference "
            f"{SIZE / reference / 1e6:.0f} MB/s, ratio {own / reference:.2f} "
            f"(bound {bound:g}, at least {LEAST / 1e6:g} MB/s)"
        )
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary)))
