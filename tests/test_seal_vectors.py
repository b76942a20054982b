"""The seal's test vectors, and a second implementation of opening, written from docs/seal.md alone."""

import base64
import hashlib
import io
import json
from dataclasses import fields
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from pages import keys as keys_of_table
from pages import tables
from sealed import FACTS, HEAD, KINDS, Parties, sealed_bytes

from fedmerge.privacy import header as headers
from fedmerge.privacy import seal
from fedmerge.trust import hybrid

VECTORS = json.loads((Path(__file__).parent / "golden/seal-v1.json").read_text())


def open_by_the_page(data, sender, receiver):
    """The plaintext of a sealed file; only what docs/seal.md says, none of our code.

    Args:
        data: the sealed file.
        sender: public Ed25519 key, 32 bytes.
        receiver: private key, 32 bytes, of the kind that the header's suite says.
    """
    assert data[:16] == b"fedmerge-seal/1\n"
    end = 20 + int.from_bytes(data[16:20], "big")
    raw = data[20:end]
    header = json.loads(raw)
    assert json.dumps(header, sort_keys=True, separators=(",", ":")).encode() == raw
    if header["suite"] == "MLKEM768-X25519, HKDF-SHA256, AES-256-GCM":
        seeds = hashlib.shake_256(receiver).digest(96)
        halves = MLKEM768PrivateKey.from_seed_bytes(seeds[:64]), X25519PrivateKey.from_private_bytes(seeds[64:])
        private, kem, length = MLKEM768X25519PrivateKey(*halves), KEM.MLKEM768_X25519, 1120 + 48
    else:
        assert header["suite"] == "X25519, HKDF-SHA256, AES-256-GCM"
        private, kem, length = X25519PrivateKey.from_private_bytes(receiver), KEM.X25519, 32 + 48
    sealed_key, chunks, signature = data[end : end + length], data[end + length : -64], data[-64:]
    body = {
        "header": header,
        "sealed_key": base64.b64encode(sealed_key).decode(),
        "chunks": hashlib.sha256(chunks).hexdigest(),
    }
    told = b"fedmerge sealed file\n" + json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    Ed25519PublicKey.from_public_bytes(sender).verify(signature, told)
    file_key = Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM).decrypt(sealed_key, private, info=raw)
    plain, number = b"", 0
    while True:
        piece, chunks = chunks[: header["chunk"] + 16], chunks[header["chunk"] + 16 :]
        nonce = number.to_bytes(11, "big") + (b"\0" if chunks else b"\1")
        plain += AESGCM(file_key).decrypt(nonce, piece, raw)
        if not chunks:
            break
        number += 1
    assert len(plain) == header["size"]
    return plain


def raw_private(key):
    """The 32 bytes of a private key of either kind."""
    return key.seed if isinstance(key, hybrid.HybridPrivateKey) else key.private_bytes_raw()


@pytest.fixture(params=VECTORS, ids=[vector["name"] for vector in VECTORS])
def vector(request):
    """A vector: bytes where it has hex digits, the header as it is."""
    raw = {k: v if k in ("name", "header") else bytes.fromhex(v) for k, v in request.param.items()}
    if raw["header"]["suite"] == headers.HYBRID and not hybrid.supported():
        pytest.skip("`cryptography` was built without ML-KEM here")
    return raw


def receiver_of(vector):
    """The receiver's private key."""
    if vector["header"]["suite"] == headers.HYBRID:
        return hybrid.HybridPrivateKey(vector["receiver_private"])
    return X25519PrivateKey.from_private_bytes(vector["receiver_private"])


def test_the_vectors_open(vector, tmp_path):
    """With our code, to the plaintext and the header that stand in the vector."""
    (tmp_path / "sealed").write_bytes(vector["sealed"])
    header = headers.Header(**vector["header"])
    sender = Ed25519PublicKey.from_public_bytes(vector["sender_public"])
    assert receiver_of(vector).public_key().public_bytes_raw() == vector["receiver_public"]
    assert seal.open_sealed(tmp_path / "sealed", tmp_path / "out", header, sender, receiver_of(vector)) == header
    assert (tmp_path / "out").read_bytes() == vector["plaintext"]


def test_what_is_not_random_is_made_again(vector):
    """Key and sealed key given, every byte of chunks and signature is that of the vector."""
    sink, signing = io.BytesIO(), Ed25519PrivateKey.from_private_bytes(vector["sender_private"])
    header, source = headers.Header(**vector["header"]), io.BytesIO(vector["plaintext"])
    seal.seal_with(source, sink, header, signing, vector["file_key"], vector["sealed_key"])
    assert sink.getvalue() == vector["sealed"]
    found = header.hpke.decrypt(vector["sealed_key"], for_hpke(receiver_of(vector)), info=header.encode())
    assert found == vector["file_key"]


def for_hpke(key):
    """A private key as HPKE takes it."""
    return key.for_hpke() if isinstance(key, hybrid.HybridPrivateKey) else key


def test_the_second_implementation_opens_the_vectors(vector):
    """The page says enough, and the sender is checked."""
    data, secrets = vector["sealed"], (vector["sender_public"], vector["receiver_private"])
    assert open_by_the_page(data, *secrets) == vector["plaintext"]
    with pytest.raises(InvalidSignature):
        open_by_the_page(data[:-64] + bytes([data[-64] ^ 1]) + data[-63:], *secrets)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 31, 32, 33, 100])
def test_the_second_implementation_opens_what_we_seal(kind, size):
    """New keys, around the border of a chunk."""
    parties, plain = Parties.of(kind), bytes(range(size))
    sender = parties.signing.public_key().public_bytes_raw()
    assert open_by_the_page(sealed_bytes(parties, plain), sender, raw_private(parties.opening)) == plain


def test_the_page_has_the_header_and_the_suites():
    """Every key, every suite with its length of an encapsulated key, and the limits."""
    assert keys_of_table("docs/seal.md", "The header") == [field.name for field in fields(headers.Header)]
    rows = next(rows for title, rows in tables("docs/seal.md") if title == "Suites")
    assert {row[0].strip("`"): int(row[2]) for row in rows} == {name: n for name, (_, n) in headers.SUITES.items()}
    page = (Path(__file__).parent.parent / "docs/seal.md").read_text()
    assert f"at most {headers.LONGEST} bytes" in page
    assert f"at most {headers.MOST_CHUNK}" in page
    assert json.loads(page.split("```json\n")[1].split("```")[0]) == VECTORS[2]["header"]


def test_the_vectors_are_of_the_facts_that_the_tests_use():
    """And of other keys than any site has."""
    assert all(headers.Header(**one["header"]).has(FACTS) for one in VECTORS)
    assert HEAD not in json.dumps(VECTORS)


@pytest.mark.skipif(not hybrid.supported(), reason="`cryptography` was built without ML-KEM here")
@pytest.mark.parametrize(
    ("seed", "start", "end"),
    [
        (
            "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26",
            "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5",
            "859edb06eff389b27dce59844570216223593d4ba32d9abac8cd049040ef6534",
        ),
        (
            "badfd6dfaac359a5efbb7bcc4b59d538df9a04302e10c8bc1cbf1a0b3a5120ea",
            "0333285fa253661508c9fb444852caa4061636cb060e69943b431400134ae1fb",
            "9f7ed34bcbb48fd4c562a576549f85b528c953926d96ea8a160b8843f1c89c62",
        ),
    ],
)
def test_a_seed_expands_as_the_draft_says(seed, start, end):
    """Test vectors of draft-connolly-cfrg-xwing-kem, appendix C: the first bytes of ML-KEM's half, and X25519's."""
    public = hybrid.HybridPrivateKey(bytes.fromhex(seed)).public_key().public_bytes_raw()
    assert len(public) == 1216
    assert (public[:32].hex(), public[-32:].hex()) == (start, end)
