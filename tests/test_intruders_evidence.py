"""What shows at a hospital that somebody has tampered: with its policy, its roster, its audit log."""

import json
import os

import agents
import consortia
import pytest
from agents import ask
from small import hospitals

from fedmerge import parts, tasks
from fedmerge.errors import Refused
from fedmerge.trust import audit, keys
from server import consortium
from sites import home as homes
from sites import joining, walls
from sites.home import Users

DESCRIBE = tasks.to_table(tasks.Describe("small", (8, 8, 8), 1, "float32"))


@pytest.fixture
def north(tmp_path):
    """The home of a source."""
    small = hospitals(tmp_path / "hospitals", cases=4)
    return agents.home(tmp_path / "homes", small, "north", agents.plan(small, tmp_path / "plan")[1]["north"])


def test_the_policy_as_it_was_at_each_start_and_change_is_in_the_signed_log(north):
    """Whoever edits the file while the agent runs, or while it does not, leaves a line, or a difference to the last."""
    digests = [parts.digest(north.site_file)]
    with agents.in_thread(north):
        north.site_file.write_text(north.site_file.read_text().replace("weights = true", "weights = false"))
        digests.append(parts.digest(north.site_file))
        ask(north, "query.describe", DESCRIBE)
    assert walls.files(north, Users())[0].result == "ok"
    lines = [line for line in audit.read(north.audit) if line.purpose == walls.POLICY]
    assert [(line.what, line.digest) for line in lines] == [
        ("agent started", f"sha256:{digests[0]}"), ("site.toml changed", f"sha256:{digests[1]}"),
    ]  # fmt: skip
    north.site_file.write_text(north.site_file.read_text().replace("weights = false", "weights = true") + "# x")
    (line,) = walls.files(north, Users())
    assert line.result == "warning"
    assert f"not the one that the agent read last (line {lines[-1].n} of its audit log)" in line.found


@pytest.mark.parametrize("name", ["folder", "site_file", "allowed"])
def test_a_file_that_decides_and_that_others_can_change_is_an_error_of_the_check(north, name):
    """Its mode, and its owner."""
    path = getattr(north, name)
    mode = path.stat().st_mode
    path.chmod(mode | 0o020)
    (line,) = walls.files(north, Users())
    assert (line.check, line.result) == ("policy file", "error")
    assert str(path) in line.found
    path.chmod(mode)
    assert walls.files(north, Users())[0].result == "ok"
    if os.getuid() == 0:
        os.chown(path, 65534, -1)
        (line,) = walls.files(north, Users("root", "daemon"))
        assert line.found.startswith(f"{path} belongs to nobody")


def test_a_roster_that_was_put_back_or_edited_is_found_at_the_hospital(tmp_path):
    """An older one, one with other roles, one with another's key: the console says so, and it is not taken in."""
    now = consortia.NOW
    server = consortia.found(tmp_path)
    old = consortium.public_bytes(server)
    joined = consortia.hospital(tmp_path, server)
    consortia.approved(server, joined)
    home = joined.home
    joining.membership.accept(home, consortium.public_bytes(server), now)
    home = homes.open(home.folder)
    assert joining.explain(home, now).member
    good = home.roster.read_bytes()
    with pytest.raises(Refused, match="is older than the one seen"):
        joining.membership.accept(home, old, now)
    for spoiled in (
        good.replace(b'"source"', b'"target"'), good.replace(b'"epoch": 2', b'"epoch": 3'),
        json.dumps(json.loads(old)["roster"]).encode(),
    ):  # fmt: skip
        assert spoiled != good
        home.roster.write_bytes(spoiled)
        told = joining.explain(home, now)
        assert (told.state, told.member) == ("bad", False)
        with pytest.raises(Refused):
            joining.membership.accept(
                home, json.dumps({**json.loads(old), "roster": json.loads(spoiled)}).encode(), now
            )
    home.roster.unlink()
    assert joining.explain(home, now).state == "bad"


@pytest.mark.parametrize("how", ["edited", "removed", "moved", "cut off", "signed anew"])
def test_a_log_that_was_tampered_with_is_found(tmp_path, how):
    """By the chain and the signature; a tail that is gone, or a whole log written anew, by what the other side saw."""
    mine, theirs = keys.new_signing(), keys.new_signing()
    site = audit.Log(tmp_path / "site.jsonl", mine, "north")
    server = audit.Log(tmp_path / "server.jsonl", theirs, audit.SERVER)
    for i in range(5):
        site.append("out", f"contribution {i}", size=i)
        server.append("in", "contribution", peer="north", peer_head=site.head)
    rows = site.path.read_bytes().splitlines(keepends=True)
    if how == "edited":
        rows[2] = rows[2].replace(b'"size":2', b'"size":1')
    elif how == "removed":
        del rows[2]
    elif how == "moved":
        rows[1], rows[2] = rows[2], rows[1]
    elif how == "cut off":
        del rows[3:]
    site.path.write_bytes(b"".join(rows))
    if how == "signed anew":
        site.path.unlink()
        again = audit.Log(site.path, mine, "north")
        for i in range(5):
            again.append("out", f"contribution {i}", size=9)
    report = audit.verify(site.path, mine.public_key())
    seen = audit.witnessed(site.path, server.path, "north")
    if how in ("cut off", "signed anew"):
        assert report.sound
        assert [line.n for line in seen.missing] == ([4, 5] if how == "cut off" else [1, 2, 3, 4, 5])
    else:
        assert report.bad in (2, 3)
        assert seen.missing or how == "moved"  # every head is still there
