"""The coordinator's end of Flower: what starts a SuperLink, and orders to it by Flower's own command.

Orders go over loopback with TLS. Whoever is logged in on the server's machine could give them too: the Control API of
the open distribution knows no accounts. So that machine is the coordinator's alone.
"""

import contextlib
import json
import os
import ssl
import subprocess
import tomllib
from typing import Any

import httpx
import tomli_w

from fedmerge import surroundings
from fedmerge.errors import FedmergeError
from fedmerge.supervisor import Program
from server.home import Home

NAME = "consortium"  # of the connection, in Flower's configuration
ORDER_S = 60.0


class Unanswered(FedmergeError):
    """The SuperLink is not there, or it refused; the sentence has Flower's words."""


def settings(home: Home) -> dict[str, str]:
    """The environment variables of every Flower process of a server's home, without what it inherits."""
    path = surroundings.path_with(inherited=os.environ.get("PATH", os.defpath))
    return surroundings.settings(home.flower) | {"PATH": path, "FEDMERGE_SERVER": str(home.folder)}


def connect(home: Home, port: int) -> None:
    """Tell Flower's command where the SuperLink is."""
    home.flower.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = {"address": f"127.0.0.1:{port}", "root-certificates": str(home.authority)}
    table = {"superlink": {"default": NAME, NAME: there}}
    (home.flower / "config.toml").write_text(tomli_w.dumps(table), encoding="utf-8")


def address(home: Home) -> str | None:
    """Where the SuperLink is or last was, as `127.0.0.1:PORT`; None before the first `server up`."""
    try:
        table = tomllib.loads((home.flower / "config.toml").read_text(encoding="utf-8"))
        return str(table["superlink"][NAME]["address"])
    except (OSError, tomllib.TOMLDecodeError, KeyError):
        return None


def choose_port(home: Home) -> int:
    """The port of the home's file; else the last one where it is free, else any free one."""
    if home.superlink_port:
        return home.superlink_port
    last = int((address(home) or ":0").rpartition(":")[2])
    return last if last and surroundings.is_free("127.0.0.1", last) else surroundings.free_port()


def healthy(home: Home, port: int) -> bool:
    """Whether the SuperLink answers, with the consortium's certificate."""
    with contextlib.suppress(httpx.HTTPError, OSError):
        trusted = ssl.create_default_context(cafile=home.authority)
        answer = httpx.get(f"https://127.0.0.1:{port}/health", verify=trusted, timeout=0.8, trust_env=False)
        return answer.is_success
    return False


def order(home: Home, *words: str, wait_s: float = ORDER_S) -> dict[str, Any]:
    """Give the SuperLink an order by the command `flwr`, and have its answer.

    Args:
        home: of the server.
        *words: of the command, as `("ls",)` or `("stop", "123")`; the connection is the only one that it knows.
        wait_s: how long it may take.

    Raises:
        Unanswered: no SuperLink, no answer in time, or a refusal.
    """
    command = [surroundings.program("flwr"), *words, "--format", "json"]
    where = {**os.environ, **settings(home), "NO_COLOR": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own command, no shell
            command, env=where, cwd=home.flower, capture_output=True, text=True, timeout=wait_s, check=False
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise Unanswered(f"flwr {words[0]}: {type(error).__name__}") from None
    try:
        answer = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        answer = {}
    if done.returncode or not answer.get("success"):
        told = answer.get("error-message") or done.stderr.strip() or done.stdout.strip() or "no answer"
        raise Unanswered(f"flwr {words[0]}: {' '.join(str(told).split())[-300:]}")
    return dict(answer)


def programs(home: Home, port: int) -> list[Program]:
    """SuperLink and superexec: TLS on loopback, registered nodes only, state on disk, apps in their own processes."""
    env, logs, secret = settings(home), home.run / "logs", str(home.superexec_secret)
    superlink = [
        surroundings.program("flower-superlink"), "--host", "127.0.0.1", "--port", str(port),
        "--ssl-ca-certfile", str(home.authority), "--ssl-certfile", str(home.server_certificate),
        "--ssl-keyfile", str(home.server_key), "--enable-supernode-auth", "--database", str(home.flower / "state.db"),
        "--isolation", "process", "--superexec-auth-secret-file", secret, "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    superexec = [
        surroundings.program("flower-superexec"), "--runtime-api-address", f"127.0.0.1:{port}",
        "--root-certificates", str(home.authority), "--superexec-auth-secret-file", secret,
    ]  # fmt: skip
    return [
        Program(
            "superlink", superlink, logs / "superlink.log", env, cwd=home.flower, ready=lambda: healthy(home, port)
        ),
        Program("superexec", superexec, logs / "superexec.log", env, cwd=home.flower, after=("superlink",)),
    ]
