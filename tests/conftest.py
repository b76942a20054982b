"""Fixtures of the fault suite, which is several files: the undisturbed numbers, the table of losses, a consortium."""

import pytest
from disturbed import Disturbed, simulated


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
