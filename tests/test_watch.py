"""The watch over the roster: how a site stands is said when it changes, and not again and again."""

import logging
import time

import pytest
from made_consortium import Consortium

from fedmerge.trust import certificates
from server import consortium
from sites import joining, reach, watch


@pytest.fixture
def made(tmp_path):
    """A consortium."""
    return Consortium(tmp_path / "server")


@pytest.fixture
def joined(made, tmp_path):
    """A hospital that has written its request while the server was down."""
    pinned = certificates.fingerprint(made.authority)
    return joining.join(
        tmp_path / "north", f"localhost:{made.home.port}", "north", authority=made.home.authority,
        fingerprint=pinned, now=time.time(),
    )  # fmt: skip


def test_each_thing_is_said_once(made, joined, monkeypatch, caplog):
    """A server that is down, a site that waits, a member, one that was revoked."""
    caplog.set_level(logging.INFO, logger="fedmerge.roster")
    look = watch.Watch().look

    def said():
        caplog.clear()
        for _ in range(3):
            look(joined.home.folder, time.time())
        return [record.getMessage() for record in caplog.records]

    (down,) = said()
    assert "could not be reached" in down

    def knock(*_, **__):
        return reach.Knock(200, consortium.public_bytes(made.home), 0.01, 0.0, 0.5)

    monkeypatch.setattr(reach, "knock", knock)
    (waiting,) = said()
    assert waiting == "north is not on the roster of epoch 1"
    consortium.approve(made.home, joined.home.request.read_text(), joined.request.fingerprint, now=time.time())
    (member,) = said()
    assert member.startswith("north is on the roster of epoch 2 as source until ")
    assert said() == []
    consortium.revoke(made.home, "north", time.time())
    (gone,) = said()
    assert gone.startswith("north was revoked on ")
