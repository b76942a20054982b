"""What a hospital knows of its consortium from the last signed roster, and why the network would not let it in.

The front door gives everybody whom it turns away the same answer. Here, at home, the reason can be told: the roster is
public among the members, and signed.
"""

from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmerge.container import parse
from fedmerge.errors import ConfigError, FedmergeError, Refused
from fedmerge.trust import certificates, keys, request, roster
from fedmerge.trust.dates import DAY, day
from fedmerge.trust.request import JoinRequest
from fedmerge.trust.roster import Entry, Roster
from sites import home as homes
from sites import reach
from sites.home import Home

State = Literal[
    "member", "ending", "early", "expired", "revoked", "replaced", "unknown", "other keys", "no roster", "bad"
]
SOON_S = 30 * DAY


@dataclass(frozen=True)
class Standing:
    """How a site stands with its consortium.

    Attributes:
        state: "member", or "ending" (a member, for less than 30 days); every other one means that the network refuses
            the site.
        sentence: the same in words, with dates.
        remedy: what to do; empty where there is nothing to do.
    """

    state: State
    sentence: str
    remedy: str = ""

    @property
    def member(self) -> bool:
        """Whether the network lets the site in."""
        return self.state in ("member", "ending")


def authority(home: Home) -> x509.Certificate:
    """The pinned certificate of authority.

    Raises:
        ConfigError: it is missing, or another one than was pinned.
    """
    try:
        certificate = certificates.read(home.authority.read_bytes(), str(home.authority))
    except FileNotFoundError:
        raise ConfigError(f"there is no certificate {home.authority}; see fedmerge site join") from None
    if not keys.same_fingerprint(home.fingerprint, certificates.fingerprint(certificate)):
        raise ConfigError(f"{home.authority} is not the certificate that was pinned when this site joined")
    return certificate


def last_roster(home: Home, now: float, *, ended: bool = False) -> Roster | None:
    """The last roster that was verified, verified again; None before there was one. `ended`: as in `roster.open`.

    Raises:
        Refused: the file was edited, or put back to an older epoch.
    """
    if not home.roster.exists():
        if home.epoch:
            raise Refused(f"{home.roster} is missing, and the roster of epoch {home.epoch} was seen")
        return None
    found = roster.open(home.roster.read_bytes(), authority(home), now, ended=ended)
    if found.epoch < home.epoch:
        raise Refused(f"{home.roster} is of epoch {found.epoch}, and the roster of epoch {home.epoch} was seen")
    return found


def accept(home: Home, answer: bytes, now: float) -> Roster:
    """Check what the front door answered to `GET /v1/roster`, and keep it.

    Args:
        home: of the site.
        answer: JSON with `authority` (PEM) and `roster` (the signed roster).
        now: seconds since 1970.

    Raises:
        Refused: it is no such answer, another authority's, edited, or older than what was seen before.
    """
    _, signed = parts(answer)
    fresh = roster.open(signed, authority(home), now)
    if fresh.consortium != home.consortium:
        raise Refused(f"the roster expected consortium {home.consortium}, got {fresh.consortium:.80}")
    if fresh.epoch < home.epoch:
        raise Refused(f"the roster of epoch {fresh.epoch} is older than the one seen, of epoch {home.epoch}")
    seen = last_roster(home, now, ended=True) if home.roster.exists() else None
    roster.newer(seen, fresh)
    homes.write(home.roster, signed.decode())
    if fresh.epoch != home.epoch:
        homes.remember(home, epoch=fresh.epoch)
    return fresh


def parts(answer: bytes) -> tuple[bytes, bytes]:
    """(certificate of authority, signed roster) of the front door's answer; a Refused where it is none."""
    if len(answer) > 2 * roster.LARGEST:
        raise Refused(f"the front door's answer expected at most {2 * roster.LARGEST} bytes, got {len(answer)}")
    table = parse(answer, "the front door's answer")
    if (
        not isinstance(table, dict)
        or table.keys() != {"authority", "roster"}
        or not isinstance(table["authority"], str)
    ):
        raise Refused("the front door's answer expected authority and roster, got something else")
    return table["authority"].encode(), roster.to_bytes(table["roster"])


def refresh_roster(home: Home, now: float, *, timeout_s: float = 10) -> Roster:
    """Ask the front door for the roster, check it and keep it.

    Args:
        home: of the site.
        now: seconds since 1970.
        timeout_s: for each step of the connection.

    Raises:
        Unreachable: the front door did not answer.
        Refused: what it answered is not to be believed.
    """
    authority(home)  # another certificate than the pinned one is not used
    found = reach.knock(home.address, home.authority, timeout_s=timeout_s)
    if found.status != 200:
        raise reach.Unreachable(f"{home.address} gives no roster (status {found.status})", "is the server up?")
    return accept(home, found.body, now)


def explain(home: Home, now: float) -> Standing:
    """How this site stands, from the last signed roster, its own keys and its certificate's dates; asks nobody.

    Args:
        home: of the site.
        now: seconds since 1970.
    """
    try:
        known = last_roster(home, now)
    except FedmergeError as error:
        return Standing("bad", str(error), "fedmerge site join again fetches the current roster")
    try:
        own = request.from_text(home.request.read_bytes())
    except (OSError, FedmergeError):
        return Standing("bad", f"{home.request} cannot be read", "fedmerge site join again writes the request anew")
    if known is None:
        sentence = "no roster has been seen yet: the server has not been reached"
        return Standing("no roster", sentence, "send request.json to the coordinator; is the server up?")
    entry, told = known.find(home.name), f"the roster of epoch {known.epoch}"
    if entry is None:
        return _gone(own, known, told)
    if (entry.node_key, entry.signing_key) != (own.node_key, own.signing_key):
        sentence = f"{told} has other keys of {home.name} than this folder"
        return Standing("other keys", sentence, _again("approve it with --replace"))
    return _dated(entry, now, told, authority(home))


def _gone(own: JoinRequest, known: Roster, told: str) -> Standing:
    """A site that has no entry: it left, or never came."""
    left = known.left(own.site)
    if left is None:
        return Standing("unknown", f"{own.site} is not on {told}", _again("approve it"))
    sentence = f"{own.site} was {left.why} on {day(left.ended)}, says {told}"
    if own.signing_key != left.signing_key:
        return Standing("revoked", f"{sentence}; its new keys are not approved", _again("approve it"))
    remedy = "ask the coordinator why; to come back: fedmerge site join ... --new-keys, and a new approval"
    return Standing("revoked", sentence, remedy)


def _dated(entry: Entry, now: float, told: str, ca: x509.Certificate) -> Standing:
    """A site with an entry of its own keys: its dates decide."""
    renewed = "ask the coordinator to approve request.json again: that renews it"
    if now < entry.since:
        sentence = f"{entry.name} is on {told} from {day(entry.since)} on, and it is {day(now)} here"
        return Standing("early", sentence, "is this machine's clock right?")
    if now >= entry.until:
        return Standing("expired", f"{entry.name} was on {told} until {day(entry.until)}", renewed)
    try:
        made = certificates.read(entry.certificate.encode(), f"the certificate of {entry.name}")
        certificates.check(made, ca, certificates.SITE, now, f"the certificate of {entry.name}")
        public = made.public_key()
    except Refused as error:
        return Standing("expired", str(error), renewed)
    if not isinstance(public, Ed25519PublicKey) or keys.public_text(public) != entry.signing_key:
        return Standing("bad", f"the certificate of {entry.name} is over another key", renewed)
    roles = " and ".join(entry.roles)
    sentence = f"{entry.name} is on {told} as {roles} until {day(entry.until)}"
    return Standing("ending", sentence, renewed) if entry.until - now < SOON_S else Standing("member", sentence)


def _again(what: str) -> str:
    return f"send request.json to the coordinator, who has to {what}"
