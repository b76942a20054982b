"""A disk that is full, at a site or at the server: told in clear words, and the campaign goes on when there is room."""

import os
import re
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
from deployed import until
from disturbed import EVERY, PATIENCE_S, Disturbed

from fedmerge import whole

SIZE = "24m"


@contextmanager
def disk(folder):
    """A small disk of its own at a folder while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True)
    if os.getuid() or made.returncode:
        pytest.skip(f"only root can mount a small disk: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def consortium(tmp_path):
    """Everything is up; the first source's work and the server's runs are on small disks of their own."""
    with ExitStack() as stack:
        made = Disturbed(tmp_path)
        stack.enter_context(disk(made.sites["north"].private / "work"))
        stack.enter_context(disk(made.server.runs))
        stack.callback(made.stop)
        made.up()
        yield made


def fill(folder):
    """Write until nothing more goes onto the disk; the file."""
    path = folder / "ballast"
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def test_a_write_that_finds_no_room_leaves_nothing_behind(tmp_path):
    """On a real disk that has half the room: what is tried again and again does not fill it by itself."""
    with disk(tmp_path / "small") as folder:
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                whole.write(folder / "x", bytes(32 * 2**20))
            assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_the_disk_of_a_site_is_full(consortium, undisturbed, table):
    """Its training stops at the checkpoint that finds no room, and goes on from the one before."""
    consortium.submit()
    until(lambda: consortium.steps("north", "training")[-1:] > [120], PATIENCE_S, consortium)
    ballast = fill(consortium.sites["north"].private / "work")
    until(lambda: "its disk is full" in consortium.status(), PATIENCE_S, consortium)
    until(lambda: re.search("north is not there since .*: its disk is full", consortium.log()), PATIENCE_S, consortium)
    before, began = len(consortium.steps("north", "training")), time.monotonic()
    last = consortium.steps("north", "training")[-1]
    ballast.unlink()
    until(lambda: "north answers again" in consortium.log(), PATIENCE_S, consortium)
    seconds = round(time.monotonic() - began)
    assert consortium.finished() == undisturbed
    after = consortium.steps("north", "training")[before:]
    assert after[0] > EVERY, "the checkpoint before was lost"
    table("disk full at a site", "training", f"{max(0, last - after[0])} steps since the checkpoint", seconds)


@pytest.mark.slow
def test_the_disk_of_the_server_is_full(consortium, undisturbed, table):
    """The server's part ends without a word, `status` says why, and the runner begins it again when there is room."""
    consortium.submit()
    until(lambda: consortium.steps("north", "training")[-1:] > [120], PATIENCE_S, consortium)
    ballast = fill(consortium.server.runs)
    until(lambda: not consortium.workers("server"), PATIENCE_S, consortium)
    assert re.search(r"the disk of .*runs is full: \d+ B are free", consortium.status())
    time.sleep(20.0)
    assert not consortium.run("small").over
    before, began = len(consortium.steps("north", "training")), time.monotonic()
    ballast.unlink()
    until(lambda: consortium.workers("server"), PATIENCE_S, consortium)
    seconds = round(time.monotonic() - began)
    assert consortium.finished() == undisturbed
    assert len(consortium.steps("north", "training")) == before, "the source trained twice"
    table("disk full at the server", "training", "nothing", seconds)
