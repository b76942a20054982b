"""The processes of several devices: what they are handed, how they fail, and that none outlives whoever started it."""

import ast
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from fedmerge import devices, workers
from fedmerge.devices import Hardware
from fedmerge.errors import DeviceError
from fedmerge.link import apart, together

CPU, TWO = torch.device("cpu"), Hardware("cpu", devices=2)

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")


def test_what_was_taken_apart_is_put_together():
    """Types, shapes, layouts, what is shared and what wants a gradient; a function keeps hold of its net's own."""
    net = nn.Conv3d(2, 3, 1)
    net.bias.requires_grad_(False)
    own = dict(net.named_parameters())
    last = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    things = {
        "numbers": [torch.tensor(True), torch.arange(5), torch.randn(0, 3), torch.randn(3, dtype=torch.float64)],
        "half": torch.randn(3, 5).bfloat16().t(),
        "last": last,
        "net": net,
        "through": lambda x: own["weight"].sum() * x,
        "words": ("a", None, 1.5),
    }
    got = together(apart(things, CPU))
    for one, two in zip([*things["numbers"], things["half"]], [*got["numbers"], got["half"]], strict=True):
        assert (one.dtype, one.shape) == (two.dtype, two.shape)
        assert torch.equal(one, two)
    assert torch.equal(got["last"], last)
    assert got["last"].stride() == last.stride()
    assert got["words"] == things["words"]
    assert [(n, p.requires_grad) for n, p in got["net"].named_parameters()] == [("weight", True), ("bias", False)]
    got["through"](2.0).backward()
    assert torch.equal(got["net"].weight.grad, torch.full((3, 2, 1, 1, 1), 2.0))
    assert net.weight.grad is None


def pid(_device):
    """A worker that tells its process."""
    return os.getpid


def waiting(_device):
    """A worker that takes its time."""
    return time.sleep


def gone(number):
    """Whether a process has ended, within a time that a busy machine may take."""
    try:
        psutil.Process(number).wait(30)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_workers_end_with_their_block():
    """They are there within it, also for an inner block that says the same; an error ends them too."""
    seen = []
    with pytest.raises(ZeroDivisionError):
        looked_at(seen)
    (number, folder) = seen
    assert not psutil.pid_exists(number)
    assert not folder.exists()
    assert workers.here(CPU) is None


def looked_at(seen):
    """A block that ends with an error; its worker's process and folder."""
    with devices.using(TWO):
        crew = workers.here(CPU)
        with devices.using(Hardware("cpu", devices=2, recompute="always")):
            assert workers.here(CPU) is crew
        with devices.using(Hardware("cpu")):
            assert workers.here(CPU) is None
        crew.hold(None, pid)
        crew.ask(1)
        seen += [crew.answer(1), crew._folder]
        assert psutil.pid_exists(seen[0])
        assert seen[1].stat().st_mode & 0o077 == 0
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (signal.SIGKILL, "its process is gone, killed by signal 9"),
        (signal.SIGSTOP, "expected an answer within 1 s, got none"),
    ],
)
def test_a_worker_that_fails_is_named_and_replaced(monkeypatch, how, sentence):
    """Killed, or hanging for ever: an error with the device, nothing left, and the next training has a new one."""
    monkeypatch.setattr(workers, "PATIENCE_S", 60.0)
    with devices.using(TWO):
        crew = workers.here(CPU)
        crew.hold(None, pid)
        crew.ask(1)
        number = crew.answer(1)
        crew.hold(None, waiting)
        crew.ask(1, 1000)
        os.kill(number, how)
        monkeypatch.setattr(workers, "PATIENCE_S", 1.0)
        with pytest.raises(DeviceError, match=rf"^device 2 of 2 \(cpu\):? {sentence}"):
            crew.answer(1)
        assert gone(number)
        with pytest.raises(DeviceError, match=r"device 2 of 2 \(cpu\): the block for which it was there is over"):
            crew.ask(1, 0)
        if how == signal.SIGKILL:
            monkeypatch.setattr(workers, "PATIENCE_S", 60.0)
            again = workers.here(CPU)
            again.hold(None, pid)
            again.ask(1)
            assert again.answer(1) != number


def test_what_a_worker_cannot_do_is_told(monkeypatch):
    """A worker that does not start leaves nothing behind either."""
    monkeypatch.setattr(workers.surroundings, "module", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with (
        devices.using(TWO),
        pytest.raises(DeviceError, match=r"device 2 of 2 \(cpu\): its process is gone, ended with code 3"),
    ):
        workers.here(CPU)


SCRIPT = """
import signal
import time
from pathlib import Path
import torch
from fedmerge import devices, workers
from fedmerge.devices import Hardware
from test_workers import pid, waiting

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
with devices.using(Hardware("cpu", devices=2)):
    crew = workers.here(torch.device("cpu"))
    crew.hold(None, pid)
    crew.ask(1)
    number = crew.answer(1)
    crew.hold(None, waiting)
    crew.ask(1, 3)
    print(number, crew._folder, flush=True)
    crew.answer(1)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_training(how):
    """Ctrl-C in a terminal reaches the training alone, which ends its workers; should it be killed, they end alone."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), str(here)])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path}, process_group=0,
    )  # fmt: skip
    number, folder = process.stdout.readline().split()
    os.killpg(process.pid, how)
    _, said = process.communicate(timeout=60)
    assert gone(int(number))
    if how == signal.SIGINT:
        assert "KeyboardInterrupt" in said
        assert not Path(folder).exists()


def test_answers_come_in_the_order_of_the_questions():
    """However many there are, and whoever is faster."""
    with devices.using(TWO):
        crew = workers.here(CPU)
        crew.hold(None, lambda _device: partial(pow, 2))
        assert list(crew.in_turn(partial(pow, 3), ((k,) for k in range(5)))) == [1, 2, 9, 8, 81]
        assert list(crew.in_turn(partial(pow, 3), ())) == []


def test_nothing_else_is_ever_unpickled():
    """What other parties send is read by modules that know no pickle: these three alone do, and read their own pipe."""
    root, names = Path(__file__).parent.parent, set()
    for path in (p for package in ("fedmerge", "sites", "server") for p in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"pickle", "cloudpickle"} & {name.split(".")[0] for name in found}:
                names.add(path.relative_to(root).as_posix())
    assert names == {"fedmerge/link.py", "fedmerge/worker.py", "fedmerge/workers.py"}
