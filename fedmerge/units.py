"""Units for systemd, in place of our own supervisor: what runs under which user, and what it cannot reach.

`text` writes one unit. Every program sees the machine read-only but for its own folders, can gain no rights, and starts
again two seconds after it ended, for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HARDENING = """\
NoNewPrivileges=yes
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
UMask=0077
ProtectSystem=strict
ProtectHome={home}
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateTmp=yes
RemoveIPC=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
"""
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))


@dataclass(frozen=True)
class Service:
    """One unit.

    Attributes:
        name: of the unit, without `.service`.
        description: one line.
        argv: the command, with an absolute path.
        user: the OS user that it runs under.
        group: None: that user's own.
        env: variables.
        cwd: its working folder.
        before: a command that root runs each time before the start.
        after: names of the units that it wants first.
        writable: folders that it may write.
        hidden: folders that it cannot see.
        network: whether it may open sockets other than unix sockets.
        loopback_only: whether it reaches this machine only.
        devices: whether it may use the machine's devices, a GPU say.
        low_port: whether it listens below port 1024.
    """

    name: str
    description: str
    argv: tuple[str, ...]
    user: str
    group: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    writable: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    network: bool = True
    loopback_only: bool = False
    devices: bool = False
    low_port: bool = False


def text(service: Service) -> str:
    """The unit's file."""
    others = [f"{name}.service" for name in service.after]
    first = ["network-online.target"] * service.network + others
    lines = [f"# /etc/systemd/system/{service.name}.service", "[Unit]", f"Description={service.description}"]
    if first:
        lines += [f"Wants={' '.join(first)}", f"After={' '.join(first)}"]
    lines += ["StartLimitIntervalSec=0", "", "[Service]", "Type=exec", f"User={service.user}"]
    if service.group is not None:
        lines.append(f"Group={service.group}")
    lines += [f"Environment={quoted(f'{name}={value}')}" for name, value in sorted(service.env.items())]
    if service.cwd is not None:
        lines.append(f"WorkingDirectory={quoted(str(service.cwd))}")
    if service.before:
        lines.append(f"ExecStartPre=+{command(service.before)}")
    lines += [f"ExecStart={command(service.argv)}", "Restart=always", "RestartSec=2", "TimeoutStopSec=90"]
    lines += [f"ReadWritePaths={quoted(str(path))}" for path in service.writable]
    lines += [f"InaccessiblePaths=-{quoted(str(path))}" for path in service.hidden]
    families = "AF_UNIX AF_INET AF_INET6" if service.network else "AF_UNIX"
    lines.append(f"RestrictAddressFamilies={families}")
    if not service.network:
        lines.append("PrivateNetwork=yes")
    if service.loopback_only:
        lines += ["IPAddressDeny=any", "IPAddressAllow=localhost"]
    if not service.devices:
        lines.append("PrivateDevices=yes")
    below = any(path.is_relative_to(home) for path in (Path(service.argv[0]), *service.writable) for home in HOMES)
    capabilities = "CAP_NET_BIND_SERVICE" if service.low_port else ""
    hardening = HARDENING.format(home="read-only" if below else "yes", capabilities=capabilities)
    return "\n".join(lines) + f"\n{hardening}\n[Install]\nWantedBy=multi-user.target\n"


def command(argv: tuple[str, ...]) -> str:
    """A command line as systemd reads it."""
    return " ".join(quoted(word).replace("$", "$$") for word in argv)


def quoted(word: str) -> str:
    """A word as systemd reads it: percent signs doubled, in quotes where it needs them."""
    word = word.replace("%", "%%")
    if word and not set(word) & set(" \t\"'\\;"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
