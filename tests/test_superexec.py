"""A site's SuperExec: each message is a fork of it, behind the gate, and whatever else is a program as ever."""

import importlib
import os
import subprocess
import sys

from sites import bundle, superexec
from sites.home import Paths

BEGINS = """
import os, sys
from sites import bundle, superexec
bundle.flowers()
child = superexec.begin(sys.argv[1:])
if isinstance(child, int):
    _, status = os.waitpid(child, 0)
    print("a fork", os.waitstatus_to_exitcode(status))
else:
    print("a program", child.wait())
superexec.begin(["true"]).wait()
superexec.begin(["true"]).wait()
print("goes on")
"""


def begun(paths, *command):
    """What is printed where a SuperExec begins a command."""
    folder = bundle.commands(paths.folder / "bin")
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "FEDMERGE_SITE": str(paths.folder)}
    done = subprocess.run(
        [sys.executable, "-c", BEGINS, *command], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_message_is_handled_by_a_fork_that_ends_with_it(tmp_path):
    """Flower's command runs in the child and ends there with its own code; the parent begins the next one."""
    told = begun(Paths(tmp_path), bundle.GATE, "--help")
    assert "Run a Flower ClientApp" in told
    assert "a fork 0" in told
    assert told.count("goes on") == 1
    assert "a fork 2" in begun(Paths(tmp_path), bundle.GATE, "--no-such-option")


def test_a_task_of_another_kind_is_a_program_whose_door_is_closed(tmp_path):
    """What is no ClientApp is found on the path, where our commands stand first."""
    told = begun(Paths(tmp_path), "flwr-serverapp", "--token", "x")
    assert "a site runs no flwr-serverapp" in told
    assert "a program 2" in told


def test_flowers_executor_starts_its_programs_by_the_name_that_is_replaced():
    """The module has `subprocess` as a global, and takes nothing from it but what stands in its place."""
    executor = importlib.import_module(superexec.EXECUTOR)
    assert executor.subprocess is subprocess
    names = executor.SubprocessExecutor.launch.__code__.co_names
    assert {"Popen", "DEVNULL"} == {name for name in names if hasattr(subprocess, name)}


def test_what_the_clientapp_has_no_use_for_is_left_out_and_there_again_afterwards():
    """The SuperNode with its database is not imported with the command, and can be later."""
    code = (
        "import sys; from sites import bundle; bundle.flowers(); print('sqlalchemy' in sys.modules);"
        "from flwr.supernode.cli.flower_supernode import flower_supernode; print(callable(flower_supernode))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "True"], done.stderr
