"""Random numbers that depend on names and seeds only, never on the process or on the order of the calls."""

import hashlib

import numpy as np


def stable_seed(*parts: object) -> int:
    """A whole number below 2**63 made from the parts by SHA-256 (Python's own `hash` differs per process)."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> np.random.Generator:
    """A generator seeded by the parts: the same site, case and seed always draw the same numbers."""
    return np.random.Generator(np.random.PCG64(stable_seed(*parts)))
