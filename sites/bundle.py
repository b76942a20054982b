"""The bundles that may run at a site, and the gate in front of them.

A bundle is the server's code in the hospital. It runs only when its digest is on the site's own list, which
`fedmerge site allow` writes. The gate stands where Flower would start the bundle: Flower's SuperExec finds our commands
first on its path, and they start Flower's own ClientApp process with one change: what is not on the list is neither
unpacked nor imported. The SuperExec of `site up` does the same in a fork of its own (`sites.superexec`).
Where Flower has moved the two functions that the gate stands at, nothing runs at all.
"""

import contextlib
import hashlib
import io
import os
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import tomli_w

from fedmerge import bundle
from fedmerge.errors import ConfigError, Refused
from fedmerge.transport import Letter
from sites import client, home, toml
from sites.home import Paths

HASH = "FEDMERGE_BUNDLE"  # the digest of the bundle that runs, for the agent
GATE = "flwr-clientapp"
CLOSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
"""What else a SuperLink could have a site's SuperExec start."""


def allowed(paths: Paths) -> dict[str, str]:
    """The bundles that may run: digest -> what the site noted about it.

    Raises:
        ConfigError: the list cannot be read.
    """
    if not paths.allowed.exists():
        return {}
    table = toml.read(paths.allowed)
    toml.only(table, ("bundles",), paths.allowed.name)
    listed = table.get("bundles", {})
    if not isinstance(listed, dict) or not all(isinstance(note, str) for note in listed.values()):
        raise ConfigError(f"{paths.allowed} expected [bundles] with a note for each digest, got {listed!r:.80}")
    return dict(listed)


def allow(paths: Paths, data: bytes, note: str) -> str:
    """Put a bundle on the list.

    Args:
        paths: the site's home.
        data: the bundle.
        note: where it comes from.

    Returns:
        Its digest.

    Raises:
        Refused: it is no bundle.
    """
    digest = bundle.digest(data)
    _write(paths, {**allowed(paths), digest: note})
    return digest


def forbid(paths: Paths, digest: str) -> None:
    """Take a bundle off the list.

    Raises:
        ConfigError: it is not on the list.
    """
    listed = allowed(paths)
    if digest not in listed:
        raise ConfigError(f"{paths.allowed}: expected one of {', '.join(listed) or 'none'}, got {digest}")
    del listed[digest]
    _write(paths, listed)


def _write(paths: Paths, listed: dict[str, str]) -> None:
    home.write(paths.allowed, tomli_w.dumps({"bundles": listed}))
    paths.allowed.chmod(0o644)  # the node's user reads it, and cannot write it


def commands(folder: Path) -> Path:
    """Write the commands that stand first on the path of the site's SuperExec: the gate, and closed doors.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    python = shlex.quote(sys.executable)
    for name in (GATE, *CLOSED):
        word = "" if name == GATE else f" {name}"
        script = folder / name
        # -P: the working folder is not searched for modules
        script.write_text(f'#!/bin/sh\nexec {python} -P -m sites.bundle{word} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return folder


def gate(paths: Paths, runtime: Any) -> None:  # noqa: ANN401 - Flower's module
    """Stand in front of Flower's functions that unpack and load a bundle.

    A bundle that is not on the list is not unpacked, and in place of its ClientApp stands one that refuses.

    Args:
        paths: the site's home.
        runtime: the module `flwr.supernode.runtime.run_clientapp`.

    Raises:
        ConfigError: Flower has moved them.
    """
    used = getattr(getattr(runtime, "run_clientapp", None), "__code__", None)
    for name in ("install_from_fab", "get_load_client_app_fn", "get_project_dir"):
        if used is None or name not in used.co_names or not callable(getattr(runtime, name, None)):
            raise ConfigError("this version of Flower unpacks and loads bundles elsewhere: no bundle runs here")
    unpack: Callable[..., Any] = runtime.install_from_fab
    loader: Callable[..., Any] = runtime.get_load_client_app_fn
    let_in: dict[str, Path] = {}
    kept_out: dict[str, str] = {}

    def checked_unpack(content: bytes, *rest: Any, **options: Any) -> Any:  # noqa: ANN401 - as Flower's function
        digest = bundle.digest(content)
        if digest not in allowed(paths):
            tell(paths, digest)
            kept_out[hashlib.sha256(content).hexdigest()] = digest
            return None
        folder: Path = unpack(content, *rest, **options)
        if not unchanged(folder, content):  # an earlier one was here, and has been changed since
            shutil.rmtree(folder)
            unpack(content, *rest, **options)
        os.environ[HASH] = digest
        let_in[hashlib.sha256(content).hexdigest()] = folder
        return folder

    def checked_loader(*rest: Any, **options: Any) -> Callable[[str, str, str], Any]:  # noqa: ANN401
        load = loader(*rest, **options)

        def checked_load(name: str, version: str, flowers_hash: str) -> Any:  # noqa: ANN401 - a ClientApp
            if flowers_hash in kept_out:
                return refusing(kept_out[flowers_hash])
            # another folder, or an older bundle that lies about under the name of an allowed one
            if runtime.get_project_dir(name, version, flowers_hash) != let_in.get(flowers_hash):
                raise Refused("the bundle to be loaded is not the one that was checked")
            return load(name, version, flowers_hash)

        return checked_load

    runtime.install_from_fab, runtime.get_load_client_app_fn = checked_unpack, checked_loader


def refusing(digest: str) -> Callable[..., Any]:
    """What stands in a refused bundle's place: it answers each message with a sentence for the coordinator.

    An exception would do as well, but Flower sends it to the server as Python prints it.
    """
    from flwr.app import Error, Message

    reason = (
        f"the bundle {digest} is not on this site's list; install the same version of fedmerge on both sides, "
        "or send the hospital the bundle, which `fedmerge site allow` lets in"
    )

    def answer(message: Message, context: Any) -> Message:  # noqa: ANN401 - as Flower calls a ClientApp
        print(f"fedmerge: {reason}", file=sys.stderr)
        return Message(Error(code=2, reason=reason), reply_to=message)

    return answer


def unchanged(folder: Path, content: bytes) -> bool:
    """Whether a folder holds a bundle's files as they are in the bundle, and no other program."""
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        files = {name: zipped.read(name) for name in zipped.namelist() if not name.startswith(bundle.MANIFEST)}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    if not there <= files.keys():
        return False
    return all((folder / name).is_file() and (folder / name).read_bytes() == data for name, data in files.items())


def tell(paths: Paths, digest: str) -> None:
    """Let the agent write into the audit log that a bundle was refused; without an agent, there is nobody to tell."""
    with contextlib.suppress(client.Away, client.Failed, Refused):
        client.call(paths.socket, "bundle", Letter({}), bundle=digest, patience_s=0.0)


@contextlib.contextmanager
def left_out(name: str) -> Iterator[None]:
    """Import nothing of a module while the block runs: whatever is taken from it there is None.

    Flower's package of commands imports the SuperNode with its database beside the ClientApp, which has no use for it,
    and a process begins for every message.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = stand_in = ModuleType(name)
    stand_in.__dict__["__getattr__"] = lambda _: None
    try:
        yield
    finally:
        del sys.modules[name]


def flowers() -> tuple[Callable[[], None], Any]:
    """Flower's command for a ClientApp, and the module that the gate stands in front of."""
    with left_out("flwr.supernode.cli.flower_supernode"):  # a third of the time that the imports take
        from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
    from flwr.supernode.runtime import run_clientapp

    return flwr_clientapp, run_clientapp


def main(arguments: list[str]) -> int:
    """The commands that Flower's SuperExec starts: `flwr-clientapp` behind the gate, all others closed."""
    if arguments and arguments[0] in CLOSED:
        print(f"fedmerge: a site runs no {arguments[0]}", file=sys.stderr)
        return 2
    paths = Paths(Path(os.environ[home.VARIABLE]))
    command, run_clientapp = flowers()
    gate(paths, run_clientapp)
    sys.argv = [GATE, *arguments]
    command()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
