"""Flower's own simulation runtime: `flwr run` on a SuperLink that is started for this run and stopped after it.

    python -m server.flower --app . --out runs/flwr       what `make flwr` calls

The SuperLink gets a port and a Flower home of its own: nobody's other runs are touched, and nothing is left running.
Nothing is installed at run time and nothing is reported home.
"""

import argparse
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import tomli_w

from fedmerge import bundle, campaign, surroundings
from fedmerge.errors import CampaignStopped, ConfigError, FedmergeError

log = logging.getLogger("fedmerge")

START_S = 60.0  # how long a SuperLink may take to come up on a slow machine


def environment(home: Path) -> dict[str, str]:
    """The environment of every Flower process: its own home, no telemetry, no installation at run time."""
    path = surroundings.path_with(inherited=os.environ.get("PATH", ""))
    return os.environ | surroundings.settings(home) | {"PATH": path}


@contextlib.contextmanager
def superlink(home: Path) -> Iterator[str]:
    """A SuperLink in simulation mode while the block runs; yields the name of the connection to it.

    Raises:
        CampaignStopped: it did not come up.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = surroundings.free_port()
    connection = {"superlink": {"default": "fedmerge", "fedmerge": {"address": f"127.0.0.1:{port}", "insecure": True}}}
    (home / "config.toml").write_text(tomli_w.dumps(connection), encoding="utf-8")
    command = [
        "flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess",
        "--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation",
        "--log-file", str(home / "superlink.log"),
    ]  # fmt: skip
    # Its own session, so that everything it started can be stopped with it; its own folder, because Ray puts the
    # working directory first on the path, where a stray `fedmerge/` would shadow the installed one.
    process = subprocess.Popen(  # noqa: S603 - our own command, no shell
        command,
        env=environment(home),
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, home)
        yield "fedmerge"
    finally:
        _stop(process)


def _wait_for(address: str, process: subprocess.Popen[bytes], home: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(address, timeout=1.0).is_success:
                return
        time.sleep(0.2)
    raise CampaignStopped(f"Flower's SuperLink did not start; {home / 'superlink.log'} has its last words")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the SuperLink and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def run(run_config: Mapping[str, Any], nodes: int, home: Path, app: Path | None = None) -> None:
    """Run a campaign through Flower's simulation runtime, one node a site.

    Args:
        run_config: as for the in-process engine.
        nodes: how many sites there are.
        home: the Flower home of this run.
        app: the folder of a Flower app; without one, an app is made of the installed packages.

    Raises:
        CampaignStopped: the run ended without results; the sentence is the server's own where it left one.
    """
    if shutil.which("flwr", path=environment(home)["PATH"]) is None:
        raise ConfigError("the command `flwr` is missing: pip install 'fedmerge[simulation]'")
    out = campaign.folder(str(run_config.get("out", "")))
    (out / "server").mkdir(parents=True, exist_ok=True)
    verdict = out / "server" / "ended.txt"
    verdict.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="fedmerge-app-") as temporary, superlink(home) as connection:
        overrides = Path(temporary) / "run-config.toml"
        overrides.write_text(
            tomli_w.dumps({k: v for k, v in run_config.items() if k in bundle.CONFIG}), encoding="utf-8"
        )
        command = [
            "flwr", "run", str(app or bundle.folder(Path(temporary) / "app")), connection, "--stream",
            "--run-config", str(overrides),
            "--federation-config", f"num-supernodes={nodes} client-resources-num-cpus=1",
        ]  # fmt: skip
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=home
        )
        assert process.stdout is not None  # noqa: S101 - asked for one line above
        with (home / "run.log").open("w", encoding="utf-8") as kept:
            for line in process.stdout:
                kept.write(line)
                if "[fedmerge]" in line:
                    log.info(line.split("[fedmerge]", 1)[1].strip())
        process.wait()
    words = verdict.read_text(encoding="utf-8").strip() if verdict.exists() else ""
    if words != "done":
        raise CampaignStopped(words or f"Flower's run ended without a word from the server; see {home / 'run.log'}")


def main() -> int:
    """Run a campaign, or the built-in one, with the Flower app of a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--app", type=Path, required=True, help="folder of the Flower app")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--campaign", default="", help="campaign file; the built-in campaign if absent")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    out = given.out.absolute()
    try:
        path, _ = campaign.locate(given.campaign, out)
        nodes = len(campaign.residents(campaign.read(path)))
        config = tomllib.loads((given.app / "pyproject.toml").read_text(encoding="utf-8"))
        known = config["tool"]["flwr"]["app"]["config"]
        run(
            {**known, "out": str(out), "campaign": given.campaign and str(path)},
            nodes,
            out / "flwr",
            given.app.absolute(),
        )
    except FedmergeError as error:
        print(f"fedmerge: {error}", file=sys.stderr)
        return 2
    print((out / "results.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
