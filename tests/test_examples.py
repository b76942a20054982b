"""The examples run as they stand."""

import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--loopback"]], ids=["namespaces", "loopback"])
def test_a_consortium_on_one_machine_has_the_numbers_of_a_simulation(tmp_path, options):
    """A server and three hospitals, from nothing to the table of results, by the commands of the runbooks."""
    command = [EXAMPLES / "consortium.sh", "--keep", tmp_path / "work", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("the same to the last digit: 7 rows")
    assert "all of them are there" in done.stdout
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "work")], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_what_the_coordinator_submits_holds_nothing_of_a_hospital():
    """The plan of the example is one for hospitals elsewhere, and each file of a hospital fits its place in it."""
    from server import plan
    from sites import config, wording

    read = plan.read(EXAMPLES / "consortium/campaign.toml", deployed=True)
    for member in read.members:
        site = config.from_file(EXAMPLES / f"consortium/{member.name}.toml")
        assert (site.name, site.role) == (member.name, member.role)
        assert wording.obstacles(site) == {}
        assert site.policy.campaigns == (read.name,)
