"""What other packages add: entry points, known by the name of their group and by their own.

Only packages that are installed where the program runs can add anything: whoever sends a task may name a plug-in, and
cannot bring one. Nothing of a package is imported before its name is asked for. `Plugin.stamp` tells one version of its
code from another, so two sites can say whether they have the same.
"""

import hashlib
import importlib.util
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from fedmerge.errors import ConfigError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # what a method's or a net's name may be: no option, site or path in it


@dataclass(frozen=True)
class Plugin:
    """One entry point of an installed package.

    Attributes:
        kind: what it is, for sentences: `"net"` or `"method"`.
        name: as campaigns write it.
        package: the distribution's name and version, as in `"demo-nets 1.0"`.
        entry: where the code is, as in `"demo_nets.blocks:build"`.
    """

    kind: str
    name: str
    package: str
    entry: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of the package {self.package} ({self.entry})"

    @property
    def stamp(self) -> str:
        """Package, version, and a digest of its Python files: `"demo-nets 1.0 sha256:0123456789abcdef"`.

        Raises:
            ConfigError: its files are not found.
        """
        try:
            return f"{self.package} sha256:{_digest(self.entry.partition(':')[0].partition('.')[0])}"
        except (ImportError, OSError, ValueError) as error:
            raise ConfigError(f"{self}: its files are not found: {error}") from None

    def load(self) -> Any:  # noqa: ANN401 - whatever the package has there
        """What the entry point names, imported.

        Raises:
            ConfigError: the package cannot be imported, or has no such name.
        """
        try:
            return EntryPoint(self.name, self.entry, "").load()
        except Exception as error:  # a foreign module may raise anything at all
            raise ConfigError(f"{self} cannot be imported: {type(error).__name__}: {error}") from error


def find(group: str, name: str, taken: Collection[str]) -> Plugin | None:
    """The plug-in of a name; None where no installed package has one.

    Args:
        group: such as `"fedmerge.nets"`.
        name: as asked for.
        taken: the names that fedmerge itself has in that group.

    Raises:
        ConfigError: a package takes one of those names, two packages have the same, or it is no name.
    """
    found = _declared(group, tuple(sys.path)).get(name, ())
    if not found:
        return None
    if name in taken:
        raise ConfigError(f"{found[0]} has the name of one that is built in: remove the package, or name it otherwise")
    if len(found) > 1:
        raise ConfigError(f"{found[0]} has the same name as the {found[1]}: one of the packages has to go")
    if not NAME.fullmatch(name):
        raise ConfigError(f"{found[0]}: a name expected small letters, digits, - and _, got {name!r:.80}")
    return found[0]


def names(group: str) -> tuple[str, ...]:
    """The names that installed packages have in a group, sorted."""
    return tuple(sorted(_declared(group, tuple(sys.path))))


@cache
def _declared(group: str, path: tuple[str, ...]) -> dict[str, tuple[Plugin, ...]]:
    """Name -> the plug-ins of that name; `path` is where packages are looked for."""
    found: dict[str, tuple[Plugin, ...]] = {}
    kind = group.rpartition(".")[2].removesuffix("s")
    for entry in entry_points(group=group):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
        found[entry.name] = (*found.get(entry.name, ()), Plugin(kind, entry.name, package, entry.value))
    return found


@cache
def _digest(module: str) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over a top-level module's Python files, which are not imported.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(f"there is no module '{module}'")
    total = hashlib.sha256()
    if spec.submodule_search_locations:
        folders = map(Path, spec.submodule_search_locations)
        files = [(path.relative_to(folder), path) for folder in folders for path in folder.rglob("*.py")]
    else:
        files = [(Path(spec.origin or "").relative_to(Path(spec.origin or "").parent), Path(spec.origin or ""))]
    for name, path in sorted(files):
        total.update(f"{name.as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]
