"""Sealed files that were changed, moved, replayed or redirected: one and the same refusal, and nothing on the disk."""

import os
from dataclasses import replace

import pytest
from sealed import CHUNK, FACTS, KINDS, Parties, refused, sealed_bytes

from fedmerge.container import canonical
from fedmerge.privacy import header as headers
from fedmerge.privacy import seal
from fedmerge.privacy.header import FIRST, SIGNATURE, TAG
from fedmerge.trust import keys

PLAIN = bytes(range(3 * CHUNK + 5))


@pytest.fixture(scope="module", params=KINDS)
def parties(request):
    """A sender, a receiver of either kind of key, and strangers."""
    return Parties.of(request.param)


def test_a_flipped_bit_anywhere_is_refused(parties, tmp_path):
    """In every third byte of the file, each time another bit, and in the last byte."""
    data = bytearray(sealed_bytes(parties, PLAIN))
    for place in [*range(0, len(data), 3), len(data) - 1]:
        data[place] ^= 1 << place % 8
        refused(parties, tmp_path, bytes(data))
        data[place] ^= 1 << place % 8
    parties.open(tmp_path, bytes(data))


PIECES = {  # what is left of pieces a, b, c and d, the last one shorter
    "swapped": "bacd", "rotated": "dabc", "dropped first": "bcd", "dropped middle": "acd", "dropped last": "abc",
    "duplicated": "abbcd", "duplicated for another": "abbd", "duplicated last": "abcdd", "none": "",
}  # fmt: skip


@pytest.mark.parametrize("resigned", [False, True], ids=["as it was signed", "signed again by the sender"])
@pytest.mark.parametrize("order", PIECES.values(), ids=PIECES)
def test_chunks_in_another_order_are_refused(parties, order, resigned, tmp_path):
    """By the signature, and where that holds by the chunks themselves."""
    start, pieces, end = parties.apart(sealed_bytes(parties, PLAIN))
    moved = b"".join(pieces["abcd".index(name)] for name in order)
    refused(parties, tmp_path, parties.signed_again(start, moved) if resigned else start + moved + end)


TAILS = {
    "its last byte is missing": lambda data: data[:-1],
    "its signature is missing": lambda data: data[:-SIGNATURE],
    "its last chunk and signature are missing": lambda data: data[: -SIGNATURE - TAG - 5],
    "it ends in its header": lambda data: data[:40],
    "it ends in its sealed key": lambda data: data[: len(FIRST) + 4 + 500],
    "nothing of it is there": lambda data: b"",
    "a byte comes after its end": lambda data: data + b"\0",
    "its signature comes twice": lambda data: data + data[-SIGNATURE:],
    "it comes twice": lambda data: data + data,
    "it is something else": lambda data: os.urandom(len(data)),
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_another_length_is_refused(parties, tail, tmp_path):
    """Cut off, or longer."""
    refused(parties, tmp_path, tail(sealed_bytes(parties, PLAIN)))


EDITS = {
    **dict.fromkeys(("run", "round", "sender", "receiver", "format", "suite"), "other"),
    "schema": headers.schema_of("other"), "audit_head": "1" * 64, "size": len(PLAIN) - 1, "chunk": CHUNK + 1,
}  # fmt: skip


@pytest.mark.parametrize("resigned", [False, True], ids=["as it was signed", "signed again by the sender"])
@pytest.mark.parametrize("name", EDITS)
def test_an_edited_header_is_refused(parties, name, resigned, tmp_path):
    """Also by a receiver who expects what the edit says, and where the sender's own key signed the edit."""
    start, pieces, end = parties.apart(sealed_bytes(parties, PLAIN))
    old = parties.header(len(PLAIN))
    table = vars(old) | {name: EDITS[name]}
    encoded = canonical(table).encode()
    start = FIRST + len(encoded).to_bytes(4, "big") + encoded + start[len(FIRST) + 4 + len(old.encode()) :]
    data = parties.signed_again(start, b"".join(pieces)) if resigned else start + b"".join(pieces) + end
    refused(parties, tmp_path, data)
    if name in vars(FACTS):
        refused(parties, tmp_path, data, facts=replace(FACTS, **{name: EDITS[name]}))


@pytest.mark.parametrize("name", ["run", "round", "sender", "receiver", "schema"])
def test_a_sealed_file_is_good_for_what_was_agreed_only(parties, name, tmp_path):
    """Replayed to another run, in a later round, as another's, to another, as something else."""
    refused(parties, tmp_path, sealed_bytes(parties, PLAIN), facts=replace(FACTS, **{name: EDITS[name]}))


def test_headers_in_another_form_are_refused(parties, tmp_path):
    """A space, a key given twice, one more, one less, a number for a text, no object; each signed by the sender."""
    start, pieces, _ = parties.apart(sealed_bytes(parties, PLAIN))
    table = vars(parties.header(len(PLAIN)))
    raw = canonical(table)
    forms = [
        raw.replace(",", ", ", 1), raw[:-1] + ',"size":1}', canonical(table | {"more": 1}), "[]", "", "{" * 99,
        canonical({k: v for k, v in table.items() if k != "chunk"}), canonical(table | {"run": 7}),
        canonical(table | {"size": -1}), canonical(table | {"chunk": 0}), canonical(table | {"size": 2.0}),
        canonical(table | {"run": "\ud800"}), " " * (headers.LONGEST + 1),
    ]  # fmt: skip
    rest = start[len(FIRST) + 4 + len(raw) :]
    for form in forms:
        encoded = form.encode()
        begin = FIRST + len(encoded).to_bytes(4, "big") + encoded + rest
        refused(parties, tmp_path, parties.signed_again(begin, b"".join(pieces)))


def test_another_sender_is_refused(parties, tmp_path):
    """A stranger who names the sender, and the sender where somebody else is expected."""
    stranger = keys.new_signing()
    refused(parties, tmp_path, sealed_bytes(replace(parties, signing=stranger), PLAIN), sender=parties.signing)
    refused(parties, tmp_path, sealed_bytes(parties, PLAIN), sender=stranger)


@pytest.mark.parametrize("kind", KINDS)
def test_another_receiver_is_refused(parties, kind, tmp_path):
    """With another key of the same kind and of the other kind."""
    refused(parties, tmp_path, sealed_bytes(parties, PLAIN), receiver=KINDS[kind]())


def test_a_stolen_key_of_another_file_is_refused(parties, tmp_path):
    """The sealed key of one file in front of the chunks of another, signed by the sender."""
    first, second = (parties.apart(sealed_bytes(parties, PLAIN)) for _ in range(2))
    refused(parties, tmp_path, parties.signed_again(first[0], b"".join(second[1])))


def test_a_refusal_leaves_the_older_file_as_it_was(parties, tmp_path):
    """What was opened before stays."""
    (tmp_path / "out").write_bytes(b"older")
    start, pieces, _ = parties.apart(sealed_bytes(parties, PLAIN))
    refused(parties, tmp_path, parties.signed_again(start, b"".join(reversed(pieces))), there={"out": b"older"})


def test_carriers_check_without_any_private_key(parties, tmp_path):
    """The relay sees the signature, the header and the length, and refuses with the same sentence."""
    path = tmp_path / "sealed"
    path.write_bytes(sealed_bytes(parties, PLAIN))
    assert seal.check(path, FACTS, parties.signing.public_key()) == parties.header(len(PLAIN))
    for facts, sender in ((replace(FACTS, run="other"), parties.signing), (FACTS, keys.new_signing())):
        with pytest.raises(seal.SealError, match=r"^the sealed file could not be opened$"):
            seal.check(path, facts, sender.public_key())
