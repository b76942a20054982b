"""Keys on disk, fingerprints on the telephone, signatures for one purpose only."""

import base64
import os
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmerge.errors import ConfigError, Refused
from fedmerge.trust import dates, hybrid, keys

MAKERS = {
    "signing": (keys.new_signing, keys.keep, keys.read_signing),
    "sealing": (keys.new_sealing, keys.keep, keys.read_sealing),
    "sealing, X25519 alone": (X25519PrivateKey.generate, keys.keep, keys.read_sealing),
    "node": (keys.new_node, keys.keep_node, keys.read_node),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_kept_key_is_read_back_and_closed_to_others(kind, tmp_path):
    """The same public half; the file is 0600 and its new folder 0700, whatever the umask."""
    make, keep, read = MAKERS[kind]
    key, path = make(), tmp_path / "new/own.key"
    old = os.umask(0)
    try:
        keep(path, key)
    finally:
        os.umask(old)
    assert keys.public_text(read(path)) == keys.public_text(key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["own.key"]


def test_a_key_is_never_overwritten(tmp_path):
    """The second one is refused, and the first one is as it was."""
    path = tmp_path / "own.key"
    keys.keep(path, keys.new_signing())
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        keys.keep(path, keys.new_signing())
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_key_that_others_may_read_is_not_used(tmp_path):
    """The sentence has the command that mends it."""
    path = tmp_path / "own.key"
    keys.keep(path, keys.new_signing())
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"0640: chmod 600"):
        keys.read_signing(path)


def test_a_file_that_is_no_such_key_is_named(tmp_path):
    """Nothing there, nonsense, and a key of another kind."""
    path = tmp_path / "own.key"
    with pytest.raises(ConfigError, match="there is no key"):
        keys.read_signing(path)
    keys.keep_bytes(path, b"nonsense")
    with pytest.raises(ConfigError, match="no private key that can be read"):
        keys.read_signing(path)
    keys.keep(tmp_path / "other.key", keys.new_sealing())
    keys.keep(tmp_path / "older.key", X25519PrivateKey.generate())
    for read in (keys.read_signing, keys.read_node):
        with pytest.raises(ConfigError, match="got HybridPrivateKey" if hybrid.supported() else "got X25519"):
            read(tmp_path / "other.key")
        with pytest.raises(ConfigError, match="got X25519"):
            read(tmp_path / "older.key")
    keys.keep(tmp_path / "third.key", keys.new_signing())
    with pytest.raises(ConfigError, match="expected a hybrid or an X25519 key, got Ed25519"):
        keys.read_sealing(tmp_path / "third.key")


def test_openssh_reads_a_nodes_key(tmp_path):
    """What ssh-keygen makes of the private file is the line that we write."""
    key, path = keys.new_node(), tmp_path / "node.key"
    keys.keep_node(path, key)
    try:
        shown = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("there is no ssh-keygen on this machine")
    assert shown.split()[:2] == keys.public_text(key).split()


def test_public_lines_are_read_back_in_one_form_only():
    """Every kind; another length, another alphabet, a comment behind or another curve is refused."""
    signing, sealing, node = keys.new_signing(), keys.new_sealing(), keys.new_node()
    older = X25519PrivateKey.generate()
    pairs = (signing, keys.signing_of), (sealing, keys.sealing_of), (older, keys.sealing_of), (node, keys.node_of)
    for key, of in pairs:
        line = keys.public_text(key)
        assert keys.public_text(of(line, "north")) == line
        for other in (line[:-4], line + " comment", line + "\n", "", "AAAA", "ecdsa-sha2-nistp256 AAAA"):
            with pytest.raises(Refused, match="north: the"):
                of(other, "north")


HYBRID = pytest.mark.skipif(not hybrid.supported(), reason="`cryptography` was built without ML-KEM here")


@HYBRID
def test_new_sealing_keys_are_hybrid_and_their_line_tells_the_kind():
    """1216 bytes against 32; a line of the right length that is no key of ML-KEM is refused."""
    hybrids, older = keys.new_sealing(), X25519PrivateKey.generate()
    assert isinstance(keys.sealing_of(keys.public_text(hybrids), "north"), keys.HybridPublicKey)
    assert isinstance(keys.sealing_of(keys.public_text(older), "north"), keys.X25519PublicKey)
    assert [len(base64.b64decode(keys.public_text(key))) for key in (hybrids, older)] == [hybrid.PUBLIC, 32]
    with pytest.raises(Refused, match="north: the sealing key expected a key of ML-KEM-768"):
        keys.sealing_of(base64.b64encode(b"\xff" * hybrid.PUBLIC).decode(), "north")


@HYBRID
def test_a_hybrid_key_that_is_cut_or_edited_is_no_key(tmp_path):
    """And no text that shows the object shows its seed."""
    key, path = keys.new_sealing(), tmp_path / "own.key"
    keys.keep(path, key)
    text = path.read_text()
    assert repr(key.seed) not in repr(key)
    assert base64.b64encode(key.seed).decode() in text
    begin, seed, end, _ = text.split("\n")
    for other in (
        text[:-1],
        text + "x",
        text.replace("BEGIN", "BEGUN"),
        f"{begin}\n{seed[4:]}\n{end}\n",
        f"{begin}\n{end}\n",
    ):
        path.write_text(other)
        with pytest.raises(ConfigError, match="no private key that can be read"):
            keys.read_sealing(path)


def test_fingerprints_are_of_the_vector_and_compare_as_people_say_them():
    """SHA-256 of nothing in base32; case, dashes, spaces and prefix do not count, a wrong or missing letter does."""
    shown = keys.fingerprint(b"")
    assert shown == "SHA256:4OYM-IQUY-7QOB-JGX3-6TEJ-S35Z-EQT2-4QPE-MSNZ-GTFE-SWMR-W6CS-XBKQ"
    for said in (shown.lower(), shown.replace("-", " "), shown.removeprefix("SHA256:").replace("-", "")):
        assert keys.same_fingerprint(shown, said)
    assert not keys.same_fingerprint(shown, shown[:-1])
    assert not keys.same_fingerprint(shown, shown[:-1] + ("A" if shown[-1] != "A" else "B"))
    assert not keys.same_fingerprint("", "")


@pytest.mark.parametrize("make", [keys.new_signing, keys.new_node])
def test_a_signature_holds_for_its_key_purpose_and_body_only(make):
    """Anything else is refused, without a reason."""
    key = make()
    made = keys.sign(key, "roster", b"body")
    keys.verify(key.public_key(), "roster", b"body", made)
    for public, purpose, body, signature in (
        (make().public_key(), "roster", b"body", made),
        (key.public_key(), "audit line", b"body", made),
        (key.public_key(), "roster", b"bodies", made),
        (key.public_key(), "roster", b"body", made[:-4]),
        (key.public_key(), "roster", b"body", "nonsense"),
    ):
        with pytest.raises(Refused, match="the signature does not hold"):
            keys.verify(public, purpose, body, signature)


def test_moments_are_written_and_read_in_one_form_only():
    """To the second, in UTC; every other form is refused."""
    assert dates.text(1_800_000_000.9) == "2027-01-15T08:00:00Z"
    assert dates.seconds("2027-01-15T08:00:00Z", "it") == 1_800_000_000
    others = ("2027-01-15T08:00:00", "2027-01-15 08:00:00Z", "2027-1-15T08:00:00Z", "2027-02-30T08:00:00Z", "", 7, None)
    for other in others:
        with pytest.raises(Refused, match="it: expected a moment"):
            dates.seconds(other, "it")
