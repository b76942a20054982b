"""The audit log: what was written stays as it was written, or is found."""

import json
import multiprocessing
import os
import threading
from dataclasses import asdict, replace

import pytest

from fedmerge.errors import DataError
from fedmerge.trust import audit, keys
from fedmerge.trust.audit import NOTHING, SERVER, Log

KEY = keys.new_signing()
PUBLIC = KEY.public_key()


def a_log(path, count=5, owner="north", key=KEY, clock=lambda: 1_750_000_000.0):
    """A log with some lines."""
    log = Log(path, key, owner, clock=clock)
    for i in range(count):
        log.append("out", "contribution", "train.contribute", i, f"sha256:{i}", SERVER, campaign="brain")
    return log


def lines_of(path):
    """The lines' bytes."""
    return path.read_bytes().splitlines(keepends=True)


def test_every_line_is_read_back_as_it_was_written(tmp_path):
    """All fields, numbers and heads; the file is closed to others."""
    path = tmp_path / "audit.jsonl"
    log = Log(path, KEY, "north", clock=lambda: 1_750_000_000.9)
    assert log.head == NOTHING
    written = [
        log.append("in", "task", "train.contribute", 7, "sha256:ab", SERVER, peer_head="cd", campaign="brain"),
        log.append("refused", "read", reason="unknown operation 'read'\n\u2028ü"),
    ]
    report = audit.verify(path, PUBLIC)
    assert report.sound
    assert list(report.lines) == written
    assert [line.n for line in written] == [1, 2]
    assert written[0].at == "2025-06-15T15:06:40Z"
    assert (written[0].previous, written[1].previous) == (NOTHING, written[0].head)
    assert report.head == log.head == written[1].head
    assert path.stat().st_mode & 0o777 == 0o600
    assert audit.read(path) == report.lines


def test_a_log_goes_on_after_its_writer_is_gone(tmp_path):
    """Another process finds the end by itself, and two writers see each other's lines."""
    path = tmp_path / "audit.jsonl"
    one, two = a_log(path), a_log(path)
    one.append("note", "one")
    two.append("note", "two")
    assert audit.verify(path, PUBLIC).sound
    assert len(audit.read(path)) == 12


def write_many(path, key_bytes, count):
    """What each process of the next test does."""
    key = keys.Ed25519PrivateKey.from_private_bytes(key_bytes)
    log = Log(path, key, "north")
    threads = [threading.Thread(target=log.append, args=("note", "x" * 300)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_and_processes_share_a_log(tmp_path):
    """No line is lost, none is torn, the chain holds."""
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_many, args=(path, KEY.private_bytes_raw(), 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    report = audit.verify(path, PUBLIC)
    assert (report.sound, len(report.lines)) == (True, 60)


EDITS = {
    "size": 99,
    "at": "2024-01-01T00:00:00Z",
    "reason": "none",
    "peer": "north",
    "n": 9,
    "previous": "1" * 64,
    "way": "in",
    "digest": "sha256:0",
    "owner": "south",
    "signature": "AAAA",
}


@pytest.mark.parametrize("field", EDITS)
def test_an_edited_line_is_found(tmp_path, field):
    """Whatever was edited, the line is named, and those before it are good."""
    path = tmp_path / "audit.jsonl"
    a_log(path)
    lines = lines_of(path)
    line = replace(audit.Line(**json.loads(lines[2])), **{field: EDITS[field]})
    path.write_bytes(b"".join([*lines[:2], line.encode() + b"\n", *lines[3:]]))
    report = audit.verify(path, PUBLIC)
    assert (report.bad, report.sound, len(report.lines)) == (3, False, 2)


def test_a_line_signed_anew_by_somebody_else_is_found(tmp_path):
    """Chain and numbers are right, the key is not the owner's."""
    path, other = tmp_path / "audit.jsonl", tmp_path / "other.jsonl"
    a_log(path)
    a_log(other, key=keys.new_signing())
    path.write_bytes(path.read_bytes().replace(lines_of(path)[4], lines_of(other)[4]))
    assert audit.verify(path, PUBLIC).bad == 5
    assert audit.verify(other, PUBLIC).reason == "its signature does not hold"


def test_an_edit_by_the_owner_breaks_the_chain(tmp_path):
    """With the very key: the line after it no longer follows."""
    path = tmp_path / "audit.jsonl"
    a_log(path)
    lines = lines_of(path)
    line = replace(audit.Line(**json.loads(lines[2])), size=99, signature="")
    line = replace(line, signature=keys.sign(KEY, audit.PURPOSE, line.signed()))
    path.write_bytes(b"".join([*lines[:2], line.encode() + b"\n", *lines[3:]]))
    report = audit.verify(path, PUBLIC)
    assert (report.bad, "does not follow" in report.reason) == (4, True)


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines, lines[-1]], 6),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], 5),
        (lambda lines: [*lines[:-1], lines[-1][:-20]], 5),
        (lambda lines: [*lines[:2], b"\n", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"nonsense\n", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"[" * 100_000 + b"\n", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b'{"n":3}\n', *lines[2:]], 3),
        (lambda lines: [*lines[:2], lines[2].replace(b'":', b'": ', 1), *lines[3:]], 3),
        (lambda lines: [*lines[:2], lines[2].replace(b'"size":2', b'"size":true'), *lines[3:]], 3),
        (lambda lines: [*lines[:2], lines[2].replace(b'"way":"out"', b'"way":"off"'), *lines[3:]], 3),
    ],
)
def test_a_line_that_is_missing_moved_doubled_cut_or_none_is_found(tmp_path, change, bad):
    """By its number in the file."""
    path = tmp_path / "audit.jsonl"
    a_log(path)
    path.write_bytes(b"".join(change(lines_of(path))))
    assert audit.verify(path, PUBLIC).bad == bad


def test_what_was_cut_off_at_the_end_is_found_by_the_other_side(tmp_path):
    """The rest is sound in itself, also where the owner goes on writing; but a witnessed head is gone."""
    ours, theirs = tmp_path / "north.jsonl", tmp_path / "server.jsonl"
    log, witness = a_log(ours), Log(theirs, keys.new_signing(), SERVER)
    witness.append("in", "answer", peer="north", peer_head=audit.read(ours)[1].head)
    witness.append("in", "answer", peer="north", peer_head=log.head)
    witness.append("in", "answer", peer="south", peer_head="5" * 64)
    seen = audit.witnessed(ours, theirs, "north")
    assert (seen.heads, seen.missing) == (2, ())
    ours.write_bytes(b"".join(lines_of(ours)[:3]))
    a_log(ours, count=4)
    assert audit.verify(ours, PUBLIC).sound
    seen = audit.witnessed(ours, theirs, "north")
    assert (seen.heads, [line.n for line in seen.missing]) == (2, [2])
    ours.unlink()
    assert len(audit.witnessed(ours, theirs, "north").missing) == 2


def test_a_line_that_was_torn_by_a_crash_goes_and_the_log_goes_on(tmp_path):
    """It was never told to anybody: whoever writes next takes it away."""
    path = tmp_path / "audit.jsonl"
    a_log(path)
    whole = path.read_bytes()
    for torn in (b"", b"{", lines_of(path)[2][:-1]):
        path.write_bytes(whole + torn)
        Log(path, KEY, "north").append("note", "after the crash")
        report = audit.verify(path, PUBLIC)
        assert (report.sound, len(report.lines)) == (True, 6)
    path.write_bytes(b"{torn")
    assert Log(path, KEY, "north").append("note", "first").n == 1


def test_nothing_is_written_behind_what_is_no_line(tmp_path):
    """A log that ends with something else is not gone on with."""
    path = tmp_path / "audit.jsonl"
    for nonsense in (b"nonsense\n", b"x" * 200_000):
        path.write_bytes(nonsense)
        with pytest.raises(DataError, match="does not end with a line of an audit log"):
            Log(path, KEY, "north").append("note", "x")


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    """A line that was written by half is taken back, and the next one follows the last whole one."""
    path = tmp_path / "audit.jsonl"
    log, real, calls = a_log(path), os.pwrite, []
    before = path.read_bytes()

    def full(handle, data, at):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(handle, data[:10], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        log.append("note", "x")
    assert path.read_bytes() == before
    monkeypatch.setattr(os, "pwrite", real)
    assert log.append("note", "x").n == 6
    assert audit.verify(path, PUBLIC).sound


def test_overlong_texts_of_others_are_cut(tmp_path):
    """A line stays a line that the next writer finds, whatever the other side calls itself."""
    path = tmp_path / "audit.jsonl"
    log = Log(path, KEY, "north")
    for _ in range(2):
        line = log.append("refused", "\U0001f600" * 10_000, "\x00" * 10_000, peer="é" * 10_000, reason="x" * 10_000)
        assert len(line.encode()) < audit.TAIL
    assert line.reason.endswith("…")
    assert Log(path, KEY, "north").append("note", "x").n == 3
    assert audit.verify(path, PUBLIC).sound


def test_a_key_that_was_replaced_signs_no_more(tmp_path):
    """Old lines by the old key, new lines by the new key; never the other way round."""
    path, fresh = tmp_path / "audit.jsonl", keys.new_signing()
    a_log(path, count=2)
    a_log(path, count=2, key=fresh)
    assert audit.verify(path, PUBLIC, fresh.public_key()).sound
    assert audit.verify(path, fresh.public_key()).bad == 1
    assert audit.verify(path, PUBLIC).bad == 3
    a_log(path, count=1)
    assert audit.verify(path, PUBLIC, fresh.public_key()).bad == 5


def test_an_unknown_way_is_the_writers_mistake(tmp_path):
    """Nothing is written."""
    with pytest.raises(ValueError, match="way expected one of in, out, refused, note"):
        Log(tmp_path / "audit.jsonl", KEY, "north").append("sent", "x")
    assert not (tmp_path / "audit.jsonl").exists()


def test_the_page_on_trust_has_the_keys_of_the_formats():
    """Lines, rosters, entries and requests as the page lists them, and the two private purposes."""
    from pathlib import Path

    from fedmerge.trust import certificates, request, roster

    text = (Path(__file__).parent.parent / "docs/trust.md").read_text()
    line = audit.Line(1, *[""] * 5, 0, *[""] * 7)
    for record in (asdict(line), roster.Roster.__dataclass_fields__, request.JoinRequest.__dataclass_fields__):
        for name in record:
            assert f"| `{name}` |" in text, name
    for name in (*roster.Entry.__dataclass_fields__, *roster.Past.__dataclass_fields__):
        assert f"`{name}`" in text
    for purpose in (certificates.ROSTER, certificates.SITE):
        assert purpose.dotted_string in text
    for purpose in (audit.PURPOSE, roster.PURPOSE, request.PURPOSE):
        assert f"| `{purpose}` |" in text
