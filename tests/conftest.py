"""Fixtures of several files: one thread, plain models, hospitals; for the fault suite numbers, losses, a consortium."""

import os

import pytest
import torch
from disturbed import Disturbed, simulated
from safetensors.torch import save_file
from small import hospitals

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    torch.set_num_threads(1)


@pytest.fixture
def one_thread():
    """Torch on one thread: the last digits of a conv's gradient depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def models(tmp_path):
    """Two plain files of weights, all 1 and all 3."""
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, value in zip(paths, (1.0, 3.0)):
        save_file({"conv.weight": torch.full((2, 3), value), "conv.bias": torch.full((2,), value)}, path)
    return paths


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The tiny hospitals' folder, with room for campaign files."""
    return hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Rows and ratios of the campaign in a simulation."""
    return simulated(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="session")
def table(request, tmp_path_factory):
    """Takes (what was broken, in which phase, what was lost, seconds until it went on); shown at the end."""
    lines = []
    yield lambda *line: lines.append(line)
    head = ("broken", "phase", "lost", "seconds until it went on")
    text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, ("---",) * 4, *lines))
    path = tmp_path_factory.getbasetemp() / "faults.md"
    path.write_text(text + "\n")
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    terminal.write_line(f"\n\n{text}\n\nalso in {path}")


@pytest.fixture
def consortium(request, tmp_path):
    """Everything is up, and nothing is left when the test is over; its parameter: lines of the plan's [campaign]."""
    made = Disturbed(tmp_path, head=getattr(request, "param", ""))
    try:
        made.up()
        yield made
    finally:
        made.stop()
