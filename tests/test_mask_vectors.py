"""The vectors of masked sums: ours, and a second implementation written from docs/mask.md alone, byte for byte.

The second one uses neither numpy nor torch nor this library, and of `cryptography` only X25519, Ed25519 and single
blocks of AES.
"""

import base64
import hashlib
import hmac
import json
import math
import struct
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from fedmerge import whole
from fedmerge.privacy import hello, ledger, masking, transcript
from fedmerge.trust import keys

FILE = Path(__file__).parent / "golden" / "mask-v1.json"
V = json.loads(FILE.read_text())
AGREED = {key: V["agreed"][key] for key in ("run", "group", "weights", "target")}


def canonical(value):
    """JSON in its one form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def sha(data):
    """A digest as the page writes it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def f32(x):
    """The nearest number of binary32, ties to even."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def size(shape):
    """How many numbers."""
    return math.prod(shape)


def second_schema():
    """From the section on the schema."""
    digest = hashlib.sha256()
    for name in sorted(V["ancestor"]):
        shape = tuple(V["shapes"][name])
        digest.update(f"{name}\0{shape}\0".encode())
        digest.update(struct.pack(f"<{size(shape)}f", *V["ancestor"][name]))
    ancestor = "sha256:" + digest.hexdigest()
    return sha(canonical({"format": "fedmerge-masked/1", "ancestor": ancestor, "shapes": V["shapes"]}))


def second_hellos():
    """From the section on hellos: the members by name, then the target."""
    said = []
    for name in [*sorted(AGREED["weights"]), AGREED["target"]]:
        target = name == AGREED["target"]
        public = X25519PrivateKey.from_private_bytes(bytes.fromhex(V["ephemeral"][name])).public_key()
        body = {
            "run": AGREED["run"],
            "group": AGREED["group"],
            "name": name,
            "role": "target" if target else "member",
            "key": base64.b64encode(public.public_bytes_raw()).decode(),
            "weight": 0 if target else AGREED["weights"][name],
            "schema": second_schema(),
        }
        signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(V["signing"][name]))
        signature = signing.sign(b"fedmerge mask hello\n" + canonical(body))
        said.append({**body, "signature": base64.b64encode(signature).decode()})
    return said


def second_stream(own, peer, kind, one, other, count):
    """From the section on masks: HKDF with an empty salt, AES block by block over a counter from 0."""
    public = X25519PrivateKey.from_private_bytes(bytes.fromhex(V["ephemeral"][peer])).public_key()
    shared = X25519PrivateKey.from_private_bytes(bytes.fromhex(V["ephemeral"][own])).exchange(
        X25519PublicKey.from_public_bytes(public.public_bytes_raw())
    )
    info = canonical(["fedmerge-masked/1", kind, sha(canonical(second_hellos())), one, other])
    extracted = hmac.new(bytes(32), shared, hashlib.sha256).digest()
    key = hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
    block = Cipher(AES256(key), ECB()).encryptor()  # noqa: S305 - single blocks: this is the counter mode by hand
    data = b"".join(block.update(i.to_bytes(16, "big")) for i in range((count + 1) // 2))
    return struct.unpack(f"<{count}Q", data[: 8 * count])


def second_encoding(member):
    """From the section on what is summed: whole numbers in Z_2^64, denominators by name and then numerators by name."""
    w, words = AGREED["weights"][member] / 2**20, []
    own = V["members"][member]
    for part in ("denominator", "numerator"):
        for name in sorted(V["shapes"]):
            fisher = own["fisher"].get(name)
            mean = f32(float(sum(map(Fraction, fisher)) / len(fisher))) if fisher else 0.0
            for i, theta in enumerate(own["weights"][name]):
                value = w * (min(max(fisher[i] / mean, 1e-3), 1e4) if mean >= 2**-126 else 1.0)
                if part == "numerator":
                    value *= theta - V["ancestor"][name][i]
                words.append(round(value * 2**40) % 2**64)
    return words


def second_document(members, words):
    """From the section on the document."""
    facts = {"format": "fedmerge-masked/1", "members": members, "transcript": sha(canonical(second_hellos()))}
    header, end = {"__metadata__": {"fedmerge": canonical(facts).decode()}}, 0
    for part in ("denominator", "numerator"):
        for name in sorted(V["shapes"]):
            begin, end = end, end + 8 * size(V["shapes"][name])
            header[f"{part}/{name}"] = {"dtype": "U64", "shape": V["shapes"][name], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(words)}Q", *words)


def second_message(member):
    """A member's masked words."""
    words = second_encoding(member)
    for peer in AGREED["weights"]:
        if peer != member:
            small, large = sorted((member, peer))
            sign = 1 if member == small else -1
            mask = second_stream(member, peer, "pair", small, large, len(words))
            words = [(a + sign * b) % 2**64 for a, b in zip(words, mask)]
    mask = second_stream(member, AGREED["target"], "target", member, AGREED["target"], len(words))
    return [(a + b) % 2**64 for a, b in zip(words, mask)]


def tensors(table):
    """Lists of numbers as tensors."""
    return {name: torch.tensor(values).reshape(V["shapes"][name]) for name, values in table.items()}


@pytest.fixture
def group(tmp_path):
    """The transcript by this library, with the keys of the vectors in the members' homes."""
    agreed = hello.Agreed(schema=hello.schema(tensors(V["ancestor"])), **AGREED)
    said, roster = [], {}
    for name, secret in V["ephemeral"].items():
        key = X25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(V["signing"][name]))
        keys.keep(ledger.key_file(tmp_path / name, agreed.run, agreed.group), key)
        said.append(hello.greet(agreed, name, key.public_key(), signing))
        roster[name] = signing.public_key()
    return transcript.gather(said, agreed, roster)


def ours(group, folder, member):
    """A member's document by this library."""
    own = V["members"][member]
    pieces = masking.mask(
        tensors(own["weights"]), tensors(own["fisher"]), tensors(V["ancestor"]), group, member, folder / member
    )
    return b"".join(pieces)


def test_the_transcript_is_that_of_the_vectors(group):
    """Hellos with signatures, schema and digest, by both implementations."""
    assert group.target.schema == second_schema() == V["schema"]
    assert group.encode() == canonical(second_hellos()) == canonical(V["hellos"])
    assert group.digest == V["transcript"]


@pytest.mark.parametrize("member", V["members"])
def test_a_masked_message_is_that_of_the_vectors(group, tmp_path, member):
    """Byte for byte, by both implementations."""
    made = ours(group, tmp_path, member)
    assert made == second_document([member], second_message(member))
    assert made.hex() == V["members"][member]["document"]


def test_the_sum_and_what_is_opened_are_those_of_the_vectors(group, tmp_path):
    """The relay's document, the sums as whole numbers of 2^-40, and the group's model."""
    paths = [tmp_path / f"{member}.masked" for member in V["members"]]
    for path in paths:
        whole.write(path, ours(group, tmp_path, path.stem))
    total = tmp_path / "sum"
    whole.write(total, masking.add(paths))
    words = [sum(column) % 2**64 for column in zip(*map(second_message, V["members"]))]
    assert total.read_bytes() == second_document(sorted(V["members"]), words)
    assert total.read_bytes().hex() == V["sum"]
    ancestor = tensors(V["ancestor"])
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(V["ephemeral"][AGREED["target"]]))
    found = masking.open_sum(total, group, key, ancestor)
    weights, precision = masking.merged(found, ancestor)
    for part, sums in (("numerator", found.numerator), ("denominator", found.denominator)):
        for name, value in sums.items():
            assert (value * 2**40).reshape(-1).tolist() == V["opened"][part][name]
    clear = [sum(column) for column in zip(*map(second_encoding, V["members"]))]
    read = [(word % 2**64 + 2**63) % 2**64 - 2**63 for word in clear]
    flat = [n for part in ("denominator", "numerator") for name in sorted(V["shapes"]) for n in V["opened"][part][name]]
    assert read == flat
    for name in V["shapes"]:
        assert weights[name].reshape(-1).tolist() == V["merged"]["weights"][name]
        assert precision[name].reshape(-1).tolist() == V["merged"]["fisher"][name]
