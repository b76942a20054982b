"""What masking costs a site: its time against that of AES-CTR alone, over the bytes of the same streams.

A member of a group of five masks 4 million weights and their Fisher, 32 MB of float32, from the ledger to the last byte
of the message: it encodes twice (an overflow is refused before anything is made), hashes, and adds five streams of
64 MB. Reference: the same five streams by the cipher of `cryptography`, in pieces of the same size, and nothing else.
Both in seconds of the processor, one thread, in turn; the ratio is the median of the ratios round by round.

    python -m benchmarks.mask

prints MB of float32 a second too, and exits with 1 when the bound is exceeded.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # the tests' groups of made-up sites

import made_masks
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedmerge import devices
from fedmerge.privacy import fixed, masking
from fedmerge.privacy.hello import UNIT

SITES = ("east", "north", "south", "west", "centre")
SHAPES = {f"{i}.weight": (128, 64, 5, 5, 5) for i in range(3)} | {"last.weight": (928_000,)}
ROUNDS, BOUND = 5, 7.0


def cipher(streams: int, size: int) -> None:
    """So many streams of so many bytes."""
    zeros, made = bytes(8 * fixed.SLAB), bytearray(8 * fixed.SLAB + 15)
    for k in range(streams):
        encryptor = Cipher(AES256(bytes([k] * 32)), CTR(bytes(16))).encryptor()
        for start in range(0, size, len(zeros)):
            encryptor.update_into(zeros[: size - start], made)


def main() -> int:
    """Print the line; 1 if the bound is exceeded."""
    began = made_masks.ancestor(SHAPES)
    own = made_masks.model("east", began)
    numbers = sum(value.numel() for value in began.values())
    with tempfile.TemporaryDirectory() as temporary, devices.threads(1):
        made = made_masks.form(Path(temporary), began=began, weights=dict.fromkeys(SITES, UNIT))

        def mask() -> None:
            home = made.home("east")
            for _ in masking.mask(own.weights, own.fisher, began, made.transcript, "east", home):
                pass

        pairs = []
        for _ in range(ROUNDS + 1):
            seconds = []
            for work in (mask, lambda: cipher(len(SITES), 16 * numbers)):
                start = time.process_time()
                work()
                seconds.append(time.process_time() - start)
            pairs.append(tuple(seconds))
    del pairs[0]  # a round to warm up
    ratio = median(ours / reference for ours, reference in pairs)
    ours, reference = (median(times) for times in zip(*pairs))
    verdict = "ok" if ratio <= BOUND else "TOO SLOW"
    print(
        f"{numbers / 1e6:.1f} million weights and Fisher, {8 * numbers / 1e6:.0f} MB, group of {len(SITES)}: "
        f"{ours:.2f} s, {8 * numbers / ours / 1e6:.0f} MB/s; AES-CTR of {80 * numbers / 1e6:.0f} MB {reference:.2f} s, "
        f"ratio {ratio:.2f} (bound {BOUND:g}) {verdict}"
    )
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())
