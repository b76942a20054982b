"""A hospital's folder: where everything lies, and what it knows of its consortium.

    site.toml               the hospital's own file: [site], [users], [data], [policy]
    consortium.json         whom it joined: address and authority of the server, epoch of the last roster seen
    request.json            the join request
    roster.json             the last roster that was verified
    ca.crt                  the consortium's certificate of authority, which both users read
    allowed.toml            bundles that may run
    private/                the agent's: keys, audit log, work                     (0700)
    node/                   the SuperNode's: its key, Flower's home               (0700)
    socket/agent.sock       where the two meet

`open` reads and checks; nothing here makes or changes a file but `remember`.
"""

import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedmerge.container import parse
from fedmerge.errors import ConfigError, Refused
from sites import toml

VARIABLE = "FEDMERGE_SITE"


@dataclass(frozen=True)
class Paths:
    """Every path of a site's home, whether or not it is there yet."""

    folder: Path

    @property
    def site_file(self) -> Path:
        """The hospital's own file."""
        return self.folder / "site.toml"

    @property
    def consortium_file(self) -> Path:
        """Whom it joined."""
        return self.folder / "consortium.json"

    @property
    def request(self) -> Path:
        """The join request."""
        return self.folder / "request.json"

    @property
    def roster(self) -> Path:
        """The last verified roster, in its signed form."""
        return self.folder / "roster.json"

    @property
    def allowed(self) -> Path:
        """Bundles that may run."""
        return self.folder / "allowed.toml"

    @property
    def private(self) -> Path:
        """The agent's folder."""
        return self.folder / "private"

    @property
    def signing_key(self) -> Path:
        """Ed25519; signs the audit log and the join request."""
        return self.private / "signing.key"

    @property
    def sealing_key(self) -> Path:
        """ML-KEM-768 and X25519, or X25519 alone; others seal messages to its public half."""
        return self.private / "sealing.key"

    @property
    def retired(self) -> Path:
        """Public signing keys of the past, oldest first, one a line: they verify the older lines of the audit log."""
        return self.private / "retired.keys"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.private / "audit.jsonl"

    @property
    def node(self) -> Path:
        """The SuperNode's folder."""
        return self.folder / "node"

    @property
    def node_key(self) -> Path:
        """P-384, in OpenSSH's format; the SuperNode's identity."""
        return self.node / "supernode.key"

    @property
    def authority(self) -> Path:
        """The consortium's certificate of authority, in PEM."""
        return self.folder / "ca.crt"

    @property
    def flower(self) -> Path:
        """Flower's home."""
        return self.node / "flower"

    @property
    def socket_folder(self) -> Path:
        """The folder that agent and SuperNode share."""
        return self.folder / "socket"

    @property
    def socket(self) -> Path:
        """Where the agent answers."""
        return self.socket_folder / "agent.sock"

    @property
    def run(self) -> Path:
        """State and logs of the programs of `site up`."""
        return self.folder / "run"


@dataclass(frozen=True)
class Home(Paths):
    """A site's home that has joined.

    Attributes:
        folder: the home.
        name: the site's.
        consortium: the consortium's name.
        address: `HOST:PORT` of the server's front door.
        fingerprint: of the authority's certificate, as the hospital confirmed it.
        epoch: of the newest roster that was ever seen; 0: none yet.
    """

    name: str
    consortium: str
    address: str
    fingerprint: str
    epoch: int


@dataclass(frozen=True)
class Users:
    """The OS users of a home's processes, from `[users]` in the site's file; None where it names none."""

    agent: str | None = None
    node: str | None = None

    @property
    def separate(self) -> bool:
        """Whether the file names two different users."""
        return self.agent is not None and self.node is not None and self.agent != self.node


def open(folder: Path) -> Home:
    """The home in `folder`.

    Raises:
        ConfigError: there is none, or its `consortium.json` cannot be used.
    """
    path = Paths(folder.absolute()).consortium_file
    try:
        table = parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no site's home: it has no consortium.json; see fedmerge site join") from None
    except Refused as error:
        raise ConfigError(str(error).replace("the header is", "it is")) from None
    kinds = {"name": str, "consortium": str, "address": str, "fingerprint": str, "epoch": int}
    if not isinstance(table, dict) or table.keys() != kinds.keys():
        got = ", ".join(table) if isinstance(table, dict) else type(table).__name__
        raise ConfigError(f"{path} expected {', '.join(kinds)}, got {got}")
    read: dict[str, Any] = {key: toml.take(table, key, kind, str(path)) for key, kind in kinds.items()}
    if read["epoch"] < 0:
        raise ConfigError(f"{path}: 'epoch' expected 0 or more, got {read['epoch']}")
    return Home(folder=folder.absolute(), **read)


def find(given: Path | None) -> Home:
    """The home that a command means: the one given, the one in the environment, or this folder.

    Raises:
        ConfigError: none of them is a home.
    """
    if given is not None:
        return open(given)
    if os.environ.get(VARIABLE):
        return open(Path(os.environ[VARIABLE]))
    if Paths(Path()).consortium_file.exists():
        return open(Path())
    raise ConfigError(f"which site? give --home FOLDER, or set {VARIABLE}")


def remember(home: Home, **changes: Any) -> Home:  # noqa: ANN401 - fields of the record
    """The home with these fields changed, on disk too."""
    changed = replace(home, **changes)
    table = {key: value for key, value in asdict(changed).items() if key != "folder"}
    write(changed.consortium_file, json.dumps(table, indent=2) + "\n")
    return changed


def write(path: Path, text: str) -> None:
    """Replace a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def users(home: Paths) -> Users:
    """The table `[users]` of the site's file.

    Raises:
        ConfigError: the file is missing, or the table has another key than `agent` and `node`.
    """
    table = toml.read(home.site_file).get("users", {})
    where = f"{home.site_file.name}, [users]"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} expected a table, got {table!r:.40}")
    toml.only(table, ("agent", "node"), where)
    return Users(**{key: toml.take(table, key, str, where) for key in table})
