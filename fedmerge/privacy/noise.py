"""Random numbers that nobody can draw a second time: AES-256 in counter mode under a key that is thrown away.

The noise of differential privacy has to be secret for good. Whoever could draw it again would subtract it, and a
Mersenne Twister can be wound back from what it gave. So each training step has a key of its own from the operating
system, which is never written down.

    step -> Stream       fresh()              for patients: a key from os.urandom for each call
                         repeatable(7, "x")   for tests and simulations: whoever knows the seed knows the noise
"""

import hashlib
import math
import os
from collections.abc import Callable

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

Streams = Callable[[int], "Stream"]


class Stream:
    """An endless stream of random numbers.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def uniforms(self, count: int) -> Tensor:
        """So many independent numbers from [0, 1), multiples of 2^-53: (count,) float64 on the CPU."""
        words = np.frombuffer(self._cipher.update(bytes(8 * count)), "<u8") >> np.uint64(11)
        return torch.from_numpy(words.astype(np.float64) * 2.0**-53)

    def normals(self, count: int) -> Tensor:
        """So many independent numbers of the standard normal distribution: (count,) float64 on the CPU.

        Box and Muller 1958. None is beyond 8.6, where a normal number lies with probability 1e-17.
        """
        half = (count + 1) // 2
        radius = (-2 * torch.log1p(-self.uniforms(half))).sqrt()  # 1 - u is never 0
        angle = 2 * math.pi * self.uniforms(half)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]


def fresh() -> Streams:
    """A stream under a key of its own at every call; asked twice for a step, it gives other numbers."""
    return lambda step: Stream(os.urandom(32))


def repeatable(seed: int, context: str) -> Streams:
    """Unsafe: the same numbers for the same seed, context and step. For tests and simulations without patients.

    Args:
        seed: whoever knows it can take the noise off again.
        context: what the noise is for, data included: the difference of two sums with the same noise has none.
    """
    return lambda step: Stream(hashlib.sha256(f"{seed}\0{context}\0{step}".encode()).digest())
