"""Whose keys are whose: this site's private ones, and the public ones of the sites that it seals to and opens from.

A hospital believes its signed roster alone, whatever a message says. The sites of a simulation make their keys in their
working folders and tell each other the public halves by way of the server.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmerge.errors import ConfigError, FedmergeError, Refused
from fedmerge.trust import keys
from sites import home as homes
from sites import membership
from sites.client import Away
from sites.inbound import Declined
from sites.records import Site

SIGNING, SEALING = "signing.key", "sealing.key"


@dataclass(frozen=True)
class Own:
    """A site's private keys."""

    signing: Ed25519PrivateKey
    opening: keys.Opening


@dataclass(frozen=True)
class Peer:
    """Another site's public keys."""

    signing: Ed25519PublicKey
    sealing: keys.Sealing

    @property
    def fingerprint(self) -> str:
        """Of both, as the other hospital can tell it by telephone."""
        return keys.pair_fingerprint(keys.public_text(self.signing), keys.public_text(self.sealing))


def own(site: Site) -> Own:
    """The site's private keys; a simulated site makes them at the first call.

    Raises:
        Declined: a hospital's home has none.
    """
    folder = _folder(site)
    if site.simulation:
        for name, new in ((SIGNING, keys.new_signing), (SEALING, keys.new_sealing)):
            with suppress(ConfigError):  # there is one already, perhaps since a moment ago
                if not (folder / name).exists():
                    keys.keep(folder / name, new())
    try:
        return Own(keys.read_signing(folder / SIGNING), keys.read_sealing(folder / SEALING))
    except (FedmergeError, OSError):
        raise Declined(f"{site.name}: this site has no keys to seal and open with; see fedmerge site check") from None


def told(site: Site) -> dict[str, Any]:
    """A simulated site's public keys, for its description; nothing of a hospital's, which is on the roster."""
    if not site.simulation:
        return {}
    mine = own(site)
    return {
        "signing": keys.public_text(mine.signing.public_key()),
        "sealing": keys.public_text(mine.opening.public_key()),
    }


def peer(site: Site, name: str, told: Mapping[str, Any], epoch: int = 0) -> Peer:
    """The public keys of a site.

    Args:
        site: who asks.
        name: whose keys.
        told: in a simulation, its `"signing"` and `"sealing"` key as `told` wrote them; else not looked at.
        epoch: of the roster that the server goes by.

    Raises:
        Declined: the site is not on the roster, or its entry is not in force.
        Away: it is not on the one known here, and there is a newer one, which comes within a minute (`sites.watch`).
    """
    try:
        if site.simulation:
            texts = [str(told.get(key, "")) for key in ("signing", "sealing")]
        else:
            texts = _on_the_roster(site, name, epoch)
        return Peer(keys.signing_of(texts[0], name), keys.sealing_of(texts[1], name))
    except (Refused, ConfigError) as error:
        raise Declined(f"{site.name}: {error}") from None


def _on_the_roster(site: Site, name: str, epoch: int) -> list[str]:
    now = time.time()
    roster = membership.last_roster(homes.open(_home(site)), now)
    entry = roster.find(name) if roster else None
    if roster is None or entry is None or not entry.holds(now):
        known = roster.epoch if roster else 0
        if known < epoch:
            raise Away(f"it knows the roster of epoch {known}, and waits for that of epoch {epoch}")
        raise Refused(f"'{name:.80}' is not on the roster of epoch {known} that this site knows: its keys are unknown")
    return [entry.signing_key, entry.sealing_key]


def _home(site: Site) -> Path:
    if site.home is None:
        raise ConfigError("this site has no home")
    return site.home


def _folder(site: Site) -> Path:
    return site.work / "keys" if site.simulation else homes.Paths(_home(site)).private
