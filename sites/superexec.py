"""Flower's SuperExec at a site, which begins the process of each message as a copy of itself.

    python -P -m sites.superexec --runtime-api-address ...        as `flower-superexec`

Flower starts a new program for every message, which imports all of Flower first: more than a second of a processor.
Here it is imported once, and each message is handled by a fork, which ends with it. The gate stands in the fork as it
stands in the program (`sites.bundle`); whatever else Flower would have started is started as a program, and finds its
door closed. Where a version of Flower starts its programs elsewhere, it starts them as ever: the gate is on its path.

A fork holds what this process holds in memory, the secret that it shares with the SuperNode among it. The bundle's user
can read the file of that secret all the same.
"""

import ctypes
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from sites import bundle

EXECUTOR = "flwr.supercore.superexec.executor.subprocess_executor"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
DUMPABLE = 4  # prctl's PR_SET_DUMPABLE


def begin(command: Sequence[str], **options: Any) -> object:  # noqa: ANN401 - as Popen
    """In the place of `subprocess.Popen`, where Flower starts a program and never looks after it.

    Args:
        command: the program and its arguments.
        **options: as those of `subprocess.Popen`.
    """
    _bury()
    if command[0] != bundle.GATE or options:
        return subprocess.Popen(command, **options)  # noqa: S603 - Flower's own command, no shell
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _handle(list(command[1:]))
    return child


def _handle(arguments: list[str]) -> None:
    """Handle one message, and end; never returns."""
    code = 1
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(DUMPABLE, 1, 0, 0, 0)  # a process that is not may not look at its own /proc
        import_module("flwr.supercore.exit.exit_handler").registered_exit_handlers.clear()  # the SuperExec's
        random.seed()
        code = bundle.main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _bury() -> None:
    """Take note of forks that have ended, so that the kernel can forget them."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def main() -> None:
    """Run the SuperExec of the command line."""
    executor: Any = import_module(EXECUTOR)
    if hasattr(executor, "subprocess"):
        bundle.flowers()  # what a fork needs
        executor.subprocess = SimpleNamespace(Popen=begin, DEVNULL=subprocess.DEVNULL)
    from flwr.supercore.cli.flower_superexec import flower_superexec

    flower_superexec()


if __name__ == "__main__":
    main()
