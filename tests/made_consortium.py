"""A consortium made by hand for tests: a server's home with its certificates, a roster, and sites that sign calls."""

import base64
import time
from dataclasses import replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedmerge.surroundings import free_port
from fedmerge.trust import certificates, keys, roster
from server import consortium
from server.guests import KEY, MOMENT, SIGNATURE, pem

DAY = 86_400


class Consortium:
    """A server's home in `folder`, without a site at first."""

    def __init__(self, folder):
        self.now = time.time()
        self.home = consortium.init(folder, "north", ["localhost"], port=free_port(), now=self.now)
        self.authority = consortium.authority(self.home)
        self.authority_key = keys.read_node(self.home.authority_key)
        self.signer = keys.read_signing(self.home.roster_key)
        self.word = certificates.read(self.home.roster_certificate.read_bytes(), "the word")
        self.roster = consortium.current(self.home, self.now)

    def publish(self, *entries):
        """A roster of the next epoch with these entries."""
        self.roster = replace(self.roster, epoch=self.roster.epoch + 1, entries=entries)
        self.home.roster.write_bytes(roster.seal(self.roster, self.signer, self.word))

    def with_roles(self, entry, *roles):
        """The entry in other roles."""
        return replace(entry, roles=roles)

    def entry(self, name, key, since=None, until=None):
        """An entry for a site whose node has `key`."""
        signing = keys.new_signing()
        since, until = int(since or self.now - DAY), int(until or self.now + DAY)
        made = certificates.site_certificate(
            self.authority_key, self.authority, signing.public_key(), name, since, until
        )
        return roster.Entry(
            name, ("source",), keys.public_text(key), keys.public_text(signing),
            keys.public_text(keys.new_sealing()), certificates.text(made), since, until,
        )  # fmt: skip


def signed(key, moment=None, shown=None):
    """The headers by which a node with `key` says who it is; `shown`: another key that it pretends to have."""
    text = datetime.fromtimestamp(moment or time.time(), UTC).isoformat()
    return {
        KEY: base64.b64encode(pem((shown or key).public_key())).decode(),
        MOMENT: text,
        SIGNATURE: base64.b64encode(key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))).decode(),
        "content-type": "application/x-protobuf",
    }
