"""Certificates that end: what is said before they do, and new ones for the server and the roster's key.

The hospitals have pinned the authority. So certificates that it makes anew, for the same keys, are good without a word
to them. The authority itself cannot be renewed: another certificate would be another authority.
"""

from dataclasses import dataclass
from pathlib import Path

from fedmerge import whole
from fedmerge.errors import ConfigError
from fedmerge.trust import audit, certificates, keys, roster
from fedmerge.trust.dates import DAY, day
from server import rosters
from server.home import Home

SOON_S = 60 * DAY  # before the end from which on it is said


@dataclass(frozen=True)
class Renewed:
    """What came of a renewal: up to when server's and roster's certificate are valid, and the epoch of the roster."""

    until: float
    epoch: int


def warnings(home: Home, now: float) -> list[str]:
    """A sentence with its remedy for each certificate that ends within 60 days, or has ended.

    Args:
        home: of the server.
        now: seconds since 1970.
    """
    again = "fedmerge server renew, then start `server up` again"
    anew = "found a new consortium, which every hospital joins"
    told = []
    for who, path, remedy in (
        ("the server's certificate", home.server_certificate, again),
        ("the certificate of the roster's key", home.roster_certificate, again),
        ("the authority's certificate", home.authority, anew),
    ):
        until = _end(path)
        if now > until - SOON_S:
            when = f"ends on {day(until)}" if now < until else f"has ended on {day(until)}"
            if path != home.authority and until >= _end(home.authority):
                continue  # no new one could last longer; the authority's own line says what to do
            told.append(f"{who} {when}: {remedy}")
    return told


def renew(home: Home, now: float) -> Renewed:
    """Make new certificates of the server's and the roster's key, and a roster that carries the latter.

    Args:
        home: of the server; door and SuperLink read the new certificate when they are started again.
        now: seconds since 1970.

    Raises:
        ConfigError: new ones would not last longer: the authority itself ends.
        Refused: the roster was edited, or the authority has ended.
    """
    ca, own = rosters.authority(home), keys.read_node(home.authority_key)
    if min(_end(home.server_certificate), _end(home.roster_certificate)) >= (last := _end(home.authority)):
        raise ConfigError(
            f"the certificates last as long as the authority, until {day(last)}, and no new ones can last longer; "
            "before that day, found a new consortium, which every hospital joins"
        )
    with rosters.alone(home):
        before = roster.open(home.roster.read_bytes(), ca, now, ended=True)
        server, signer = keys.read_node(home.server_key).public_key(), keys.read_signing(home.roster_key).public_key()
        made = certificates.server_certificate(own, ca, server, home.hosts, now)
        whole.write(home.server_certificate, certificates.text(made))
        whole.write(home.roster_certificate, certificates.text(certificates.roster_certificate(own, ca, signer, now)))
        until = certificates.dates_of(made)[1]
        fresh = rosters.write(home, before, before.entries, before.past, now, "certificates renewed")
        log = audit.Log(home.audit, keys.read_signing(home.audit_key), audit.SERVER, clock=lambda: now)
        log.append("note", "certificates renewed", reason=f"of the server and the roster's key, until {day(until)}")
    return Renewed(until, fresh.epoch)


def _end(path: Path) -> float:
    return certificates.dates_of(certificates.read(path.read_bytes(), str(path)))[1]
