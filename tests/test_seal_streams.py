"""Sealing and opening: all sizes come back, from slow sources too, in little memory; what cannot be sealed is said."""

import base64
import io
import os
import tracemalloc
from dataclasses import replace

import pytest
from sealed import CHUNK, FACTS, HEAD, HYBRID, KINDS, OTHER, Parties, sealed_bytes

from fedmerge.errors import ConfigError, DataError, Refused
from fedmerge.privacy import header as headers
from fedmerge.privacy import seal
from fedmerge.privacy.header import FIRST, SIGNATURE, TAG
from fedmerge.trust import hybrid, keys

PLAIN = bytes(range(3 * CHUNK + 5))


@pytest.fixture(scope="module", params=KINDS)
def parties(request):
    """A sender, a receiver of either kind of key, and strangers."""
    return Parties.of(request.param)


@pytest.mark.parametrize("chunk", [1, 16, 64])
def test_what_is_opened_is_what_was_sealed(parties, chunk, tmp_path):
    """All sizes around the chunks' borders, from a source that gives seven bytes at a time; the lengths are as told."""
    for size in sorted({0, 1, *(n * chunk + more for n in (1, 2, 5) for more in (-1, 0, 1))}):
        plain = os.urandom(size)
        data = sealed_bytes(parties, plain, chunk, io.BufferedReader(Drip(plain), buffer_size=1))
        header = parties.open(tmp_path, data)
        assert (tmp_path / "out").read_bytes() == plain
        assert (header.size, header.chunk, header.audit_head) == (size, chunk, HEAD)
        assert header.has(FACTS)
        chunks = max(1, -(-size // chunk))
        assert len(data) == len(FIRST) + 4 + len(header.encode()) + header.key_bytes + size + TAG * chunks + SIGNATURE


class Drip(io.RawIOBase):
    """A source that gives little at a time, as a pipe may."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def readable(self):
        """It is."""
        return True

    def readinto(self, buffer):
        """At most seven bytes."""
        return self.data.readinto(memoryview(buffer)[:7])


def test_a_file_goes_to_a_file_and_back(parties, tmp_path):
    """With the default chunk; the plaintext is 0600 whatever the umask, and replaces what was there."""
    path, out = tmp_path / "plain", tmp_path / "out"
    path.write_bytes(os.urandom(headers.CHUNK + 1))
    out.write_bytes(b"older")
    arguments = FACTS, HEAD, parties.signing, parties.opening.public_key()
    header = seal.seal_file(path, tmp_path / "sealed", *arguments)
    assert seal.check(tmp_path / "sealed", FACTS, parties.signing.public_key()) == header
    old = os.umask(0)
    try:
        opened = seal.open_sealed(tmp_path / "sealed", out, FACTS, parties.signing.public_key(), parties.opening)
    finally:
        os.umask(old)
    assert opened == header
    assert out.read_bytes() == path.read_bytes()
    assert out.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "plain", "sealed"]


def test_sealing_twice_shares_nothing_but_the_header(parties):
    """Another file key, so that no nonce is ever used twice with one."""
    one, two = (sealed_bytes(parties, PLAIN) for _ in range(2))
    start = len(FIRST) + 4 + len(parties.header(len(PLAIN)).encode())
    assert one[:start] == two[:start]
    assert all(one[i : i + 16] != two[i : i + 16] for i in range(start, len(one) - SIGNATURE, 16))


def test_what_cannot_be_sealed_is_said(parties, tmp_path):
    """A plaintext of another length, a fact that no header holds, another kind of key, a key that is no point."""
    for wrong, sentence in ((PLAIN[1:], "got fewer"), (PLAIN + b"x", "got more")):
        with pytest.raises(DataError, match=sentence):
            sealed_bytes(parties, PLAIN, CHUNK, io.BytesIO(wrong))
    for name, value in (("run", "a\nb"), ("round", "x" * 1025), ("schema", "text"), ("size", -1), ("chunk", 2**24 + 1)):
        with pytest.raises(ConfigError, match=name if name != "chunk" else "at most"):
            replace(parties.header(0), **{name: value})
    with pytest.raises(ConfigError, match="expected the suite"):
        seal.seal(io.BytesIO(), io.BytesIO(), parties.header(0), parties.signing, OTHER[parties.kind])


def test_nothing_is_sealed_to_a_key_that_is_no_key(parties):
    """X25519's point of order 1, alone or in a hybrid key, would give everybody the same secret."""
    raw = parties.opening.public_key().public_bytes_raw()[:-32] + bytes(32)
    bad = keys.sealing_of(base64.b64encode(raw).decode(), "harbour")
    with pytest.raises(Refused, match="harbour: nothing can be sealed to its key"):
        seal.seal(io.BytesIO(), io.BytesIO(), parties.header(0), parties.signing, bad)


@pytest.mark.skipif(hybrid.supported(), reason="`cryptography` has ML-KEM here")
def test_a_key_that_the_library_cannot_seal_to_is_told(tmp_path):
    """Where `cryptography` was built without ML-KEM."""
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(ConfigError, match="harbour: its key needs ML-KEM-768"):
        seal.seal_file(tmp_path / "plain", tmp_path / "out", FACTS, HEAD, keys.new_signing(), HYBRID)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


class Counted(io.RawIOBase):
    """A source of zeros, none of which is held."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        """It is."""
        return True

    def readinto(self, buffer):
        """Zeros."""
        given = min(len(buffer), self.left)
        buffer[:given] = bytes(given)
        self.left -= given
        return given


def test_memory_does_not_grow_with_the_file(parties, tmp_path):
    """64 MiB there and back in less than six chunks."""
    size, path = 2**26, tmp_path / "sealed"
    header = headers.header_of(FACTS, HEAD, size, parties.opening.public_key())
    tracemalloc.start()
    try:
        with path.open("wb") as sink:
            source = io.BufferedReader(Counted(size))
            seal.seal(source, sink, header, parties.signing, parties.opening.public_key())
        parties.unseal(path, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 6 * headers.CHUNK
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out").stat().st_size == size
