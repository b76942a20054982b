"""The Flower app as a bundle: made of the installed `sites` and `server`, and known by what it holds.

A bundle is a zip file, and two machines may compress the same files to different bytes. Its digest is therefore taken
over the names and contents of its files, so that a hospital finds the bundle of its own version of fedmerge in what
another machine made.
"""

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import tomli_w

from fedmerge.errors import ConfigError, Refused

CONFIG: dict[str, Any] = {
    "campaign": "",
    "out": "",
    "methods": "",
    "seeds": "",
    "chains": "",
    "target-cases": 0,
    "reuse": "",
    "data": "",
    "resume": True,
    "workers": 0,
}
"""The keys of a run config and their defaults; Flower takes no others."""

INCLUDE = ("sites/**/*.py", "server/**/*.py")
MAX_BYTES = 64 * 2**20  # of all files together
UNREADABLE = (NotImplementedError, RuntimeError)  # zipfile's words for an unknown compression, and for a password
MANIFEST = ".info/"  # Flower's own list of the files


def folder(path: Path) -> Path:
    """Make a Flower app out of the installed `sites` and `server` in an empty folder.

    Returns:
        The folder.
    """
    for package in ("sites", "server"):
        found = importlib.util.find_spec(package)
        assert found is not None and found.origin is not None  # noqa: S101, PT018 - they are installed with this module
        source = Path(found.origin).parent
        shutil.copytree(source, path / package, ignore=shutil.ignore_patterns("__pycache__"))
    app = {
        "publisher": "fedmerge",
        "fab-include": list(INCLUDE),
        "components": {"serverapp": "server.app:app", "clientapp": "sites.app:app"},
        "config": dict(CONFIG),
    }
    project = {"name": "fedmerge-app", "version": "0.1.0", "description": "fedmerge", "license": "Apache-2.0"}
    table = {"project": project, "tool": {"flwr": {"app": app}}}
    (path / "pyproject.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    return path


def build() -> bytes:
    """The bundle of the installed version, as `flwr build` makes it.

    Raises:
        ConfigError: `flwr build` failed.
    """
    with tempfile.TemporaryDirectory(prefix="fedmerge-bundle-") as name:
        work = Path(name)
        app = folder(work / "app")
        environment = os.environ | {"FLWR_HOME": str(work / "home"), "FLWR_TELEMETRY_ENABLED": "0"}
        environment["FLWR_DISABLE_UPDATE_CHECK"] = "1"
        command = [str(Path(sys.executable).with_name("flwr")), "build", "--app", str(app)]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own command, no shell
        made = list(work.glob("*.fab"))
        if done.returncode or len(made) != 1:
            raise ConfigError(f"flwr build made no bundle: {(done.stdout + done.stderr).strip()[-300:]}")
        return made[0].read_bytes()


def digest(data: bytes) -> str:
    """What a bundle is known by: `sha256:` and the hex digest over the names and contents of its files.

    Args:
        data: the bundle, a zip file.

    Raises:
        Refused: it is no zip file, a name is given twice or leads out of its folder, or it is larger than it may be.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            infos = sorted(bundle.infolist(), key=lambda info: info.filename)
            _check(infos)
            whole = hashlib.sha256()
            for info in infos:
                if not info.filename.startswith(MANIFEST):
                    content = hashlib.sha256(bundle.read(info)).hexdigest()
                    whole.update(f"{content}  {info.filename}\n".encode())
    except (zipfile.BadZipFile, OSError, EOFError, *UNREADABLE) as error:
        raise Refused(f"the bundle expected a zip file, got something else: {error}") from None
    return f"sha256:{whole.hexdigest()}"


def _check(infos: list[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in infos]
    for name in names:
        parts = name.split("/")
        if names.count(name) > 1 or "\\" in name or not name.isprintable() or {"..", ""} & set(parts[:-1] or parts):
            raise Refused(f"the bundle expected plain names, each once, got {name!r:.80}")
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES:
        raise Refused(f"the bundle expected at most {MAX_BYTES} bytes of files, got {total}")
