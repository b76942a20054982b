"""Two sites and what goes sealed from one to the other, taken apart and put together by those who should not."""

import base64
import hashlib
import io
import json
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmerge.container import canonical
from fedmerge.errors import SealError
from fedmerge.privacy import header as headers
from fedmerge.privacy import seal
from fedmerge.privacy.header import FIRST, SIGNATURE, TAG, Facts
from fedmerge.trust import hybrid, keys

CHUNK = 32
HEAD = "0123456789abcdef" * 4
FACTS = Facts("run 7", "chain 0 / north", "north", "harbour", headers.schema_of("weights/conv: (2, 3)"))
KINDS = {"x25519": X25519PrivateKey.generate} | ({"hybrid": keys.new_sealing} if hybrid.supported() else {})
HYBRID = hybrid.HybridPublicKey(bytes(hybrid.PUBLIC))  # of that kind, and that is all
OTHER = {"x25519": HYBRID, "hybrid": X25519PrivateKey.generate().public_key()}


@dataclass(frozen=True)
class Parties:
    """The sender's signing key and the receiver's opening key, of the kind `kind`."""

    kind: str
    signing: object
    opening: object

    @staticmethod
    def of(kind):
        """New keys."""
        return Parties(kind, keys.new_signing(), KINDS[kind]())

    def header(self, size, chunk=CHUNK):
        """Of a plaintext of `size` bytes, in small chunks."""
        return replace(headers.header_of(FACTS, HEAD, size, self.opening.public_key()), chunk=chunk)

    def unseal(self, path, out, facts=FACTS, sender=None, receiver=None):
        """Open a file with the right keys, or with others."""
        return seal.open_sealed(path, out, facts, (sender or self.signing).public_key(), receiver or self.opening)

    def open(self, folder, data, **others):
        """Write and open; the header."""
        (folder / "sealed").write_bytes(data)
        return self.unseal(folder / "sealed", folder / "out", **others)

    def apart(self, data):
        """(all before the chunks, the sealed chunks, the signature)."""
        length = int.from_bytes(data[len(FIRST) : len(FIRST) + 4], "big")
        key_bytes = headers.SUITES[headers.suite_of(self.opening.public_key())][1] + 48
        start = len(FIRST) + 4 + length + key_bytes
        middle = data[start:-SIGNATURE]
        pieces = [middle[i : i + CHUNK + TAG] for i in range(0, len(middle), CHUNK + TAG)]
        return data[:start], pieces, data[-SIGNATURE:]

    def signed_again(self, start, chunks):
        """A whole file, with a signature by the sender's own key over whatever it is now."""
        length = int.from_bytes(start[len(FIRST) : len(FIRST) + 4], "big")
        raw, sealed_key = start[len(FIRST) + 4 :][:length], start[len(FIRST) + 4 + length :]
        try:
            table = json.loads(raw)
        except ValueError:
            table = None
        body = {
            "header": table, "sealed_key": base64.b64encode(sealed_key).decode(),
            "chunks": hashlib.sha256(chunks).hexdigest(),
        }  # fmt: skip
        return start + chunks + base64.b64decode(keys.sign(self.signing, seal.PURPOSE, canonical(body).encode()))


def sealed_bytes(parties, plain, chunk=CHUNK, source=None):
    """A sealed file in memory."""
    sink = io.BytesIO()
    header = parties.header(len(plain), chunk)
    seal.seal(source or io.BytesIO(plain), sink, header, parties.signing, parties.opening.public_key())
    return sink.getvalue()


def refused(parties, folder, data, there=None, **others):
    """Opening fails with the one error, which says nothing, and leaves nothing in the folder that was not there."""
    with pytest.raises(SealError) as told:
        parties.open(folder, data, **others)
    error = told.value
    assert type(error) is SealError
    assert str(error) == "the sealed file could not be opened"
    assert error.__cause__ is None
    assert error.__context__ is None
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert left == {"sealed": data} | (there or {})
