"""The coordinator's folder: where everything lies, and what the consortium is called.

    consortium.toml         name, hosts, ports
    policy-template.toml    what the consortium proposes to its hospitals
    roster.json             the signed roster; rosters/EPOCH.json its history
    requests/               the join requests that were approved
    keys/  certs/           (keys 0600)
    flower/                 Flower's home, and the SuperLink's state
    runs/NAME/              the campaigns
    audit.jsonl             the audit log
    run/                    state and logs of the programs of `server up`

`open` reads and checks; nothing here makes or changes a file.
"""

import ipaddress
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge.errors import ConfigError

VARIABLE = "FEDMERGE_SERVER"
PORT = 8443
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Paths:
    """Every path of a server's home, whether or not it is there yet."""

    folder: Path

    @property
    def consortium_file(self) -> Path:
        """Name, hosts, ports."""
        return self.folder / "consortium.toml"

    @property
    def policy_template(self) -> Path:
        """What the consortium proposes to its hospitals; travels in the roster."""
        return self.folder / "policy-template.toml"

    @property
    def roster(self) -> Path:
        """The current roster, in its signed form."""
        return self.folder / "roster.json"

    @property
    def rosters(self) -> Path:
        """The history: one signed roster an epoch."""
        return self.folder / "rosters"

    @property
    def requests(self) -> Path:
        """The join requests that were approved."""
        return self.folder / "requests"

    @property
    def keys(self) -> Path:
        """The folder of every private key."""
        return self.folder / "keys"

    @property
    def authority_key(self) -> Path:
        """Certifies the server, the roster's key and the sites."""
        return self.keys / "ca.key"

    @property
    def server_key(self) -> Path:
        """The front door's and the SuperLink's, for TLS."""
        return self.keys / "server.key"

    @property
    def roster_key(self) -> Path:
        """Ed25519; signs the roster."""
        return self.keys / "roster.key"

    @property
    def audit_key(self) -> Path:
        """Ed25519; signs the audit log."""
        return self.keys / "audit.key"

    @property
    def superexec_secret(self) -> Path:
        """What SuperLink and superexec share."""
        return self.keys / "superexec.secret"

    @property
    def authority(self) -> Path:
        """The certificate of authority, in PEM; public."""
        return self.folder / "certs" / "ca.crt"

    @property
    def server_certificate(self) -> Path:
        """The certificate of front door and SuperLink, in PEM."""
        return self.folder / "certs" / "server.crt"

    @property
    def roster_certificate(self) -> Path:
        """The authority's word for the roster's key, in PEM."""
        return self.folder / "certs" / "roster.crt"

    @property
    def flower(self) -> Path:
        """Flower's home."""
        return self.folder / "flower"

    @property
    def nodes(self) -> Path:
        """Which of Flower's nodes is which site."""
        return self.flower / "nodes.json"

    @property
    def runs(self) -> Path:
        """The campaigns."""
        return self.folder / "runs"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.folder / "audit.jsonl"

    @property
    def run(self) -> Path:
        """State and logs of the programs of `server up`."""
        return self.folder / "run"


@dataclass(frozen=True)
class Home(Paths):
    """A server's home.

    Attributes:
        folder: the home.
        name: the consortium's.
        hosts: names and addresses under which the front door is reached; they are in its certificate.
        port: of the front door.
        superlink_port: of the SuperLink on loopback; 0: any free one.
    """

    name: str
    hosts: tuple[str, ...]
    port: int
    superlink_port: int


def open(folder: Path) -> Home:
    """The home in `folder`.

    Raises:
        ConfigError: there is none, or its `consortium.toml` cannot be used.
    """
    path = Paths(folder.absolute()).consortium_file
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} is no server's home: it has no consortium.toml; see fedmerge server init"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    known = ("name", "hosts", "port", "superlink_port")
    for key in table:
        if key not in known:
            raise ConfigError(f"{path}: unknown key '{key}'; known keys are {', '.join(known)}")
    hosts = table.get("hosts")
    if not isinstance(hosts, list):
        raise ConfigError(f"{path}: 'hosts' expected a list of names, got {hosts!r:.60}")
    return Home(
        folder=folder.absolute(),
        name=check_name(table.get("name"), str(path)),
        hosts=tuple(check_host(host, str(path)) for host in hosts),
        port=check_port(table.get("port", PORT), f"{path}: 'port'", least=1),
        superlink_port=check_port(table.get("superlink_port", 0), f"{path}: 'superlink_port'"),
    )


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
    raise ConfigError(f"which server? give --server FOLDER, or set {VARIABLE}")


def check_name(name: Any, where: str) -> str:  # noqa: ANN401 - whatever a file holds
    """A consortium's or a site's name, which may become a folder's; a ConfigError where it is none."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name is up to 64 letters, digits, dots and dashes, got {name!r:.80}")
    return name


def check_host(host: Any, where: str) -> str:  # noqa: ANN401 - whatever a file holds
    """A DNS name in lower case, or an IP address; a ConfigError where it is neither."""
    if isinstance(host, str):
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
            last = r"[a-z0-9-]*[a-z][a-z0-9-]*"  # all digits would be an address
            if re.fullmatch(rf"({label}\.)*{label}", host.lower()) and re.fullmatch(last, host.lower().split(".")[-1]):
                return host.lower()
    raise ConfigError(f"{where}: a host is a DNS name or an IP address, got {host!r:.80}")


def check_port(port: Any, where: str, least: int = 0) -> int:  # noqa: ANN401 - whatever a file holds
    """A TCP port; a ConfigError where it is none."""
    if isinstance(port, bool) or not isinstance(port, int) or not least <= port < 2**16:
        raise ConfigError(f"{where} expected a port from {least} to 65535, got {port!r}")
    return port
