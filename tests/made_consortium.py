"""A consortium made by hand for tests: a server's home with its certificates, a roster, and sites that sign calls."""

import base64
import time
from dataclasses import replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedmerge.surroundings import free_port
from fedmerge.trust import certificates, keys, roster
from server import home as homes
from server.guests import KEY, MOMENT, SIGNATURE, pem

DAY = 86_400


class Consortium:
    """A server's home in `folder`, without a site at first."""

    def __init__(self, folder, now=None):
        self.now = now or time.time()
        self.home = homes.Home(folder, "north", ("localhost",), free_port(), free_port())
        for path in (self.home.authority.parent, self.home.keys, self.home.run):
            path.mkdir(parents=True)
        self.authority_key, self.authority = certificates.new_authority("north", self.home.hosts, self.now)
        self.home.authority.write_bytes(self.authority.public_bytes(Encoding.PEM))
        key = keys.new_node()
        made = certificates.server_certificate(
            self.authority_key, self.authority, key.public_key(), self.home.hosts, self.now
        )
        self.home.server_certificate.write_bytes(made.public_bytes(Encoding.PEM))
        self.home.server_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        keys.keep(self.home.audit_key, keys.new_signing())
        self.signer = keys.new_signing()
        self.word = certificates.roster_certificate(
            self.authority_key, self.authority, self.signer.public_key(), self.now
        )
        audit = keys.public_text(keys.read_signing(self.home.audit_key))
        self.roster = roster.Roster("north", 0, int(self.now), "", audit)
        self.publish()

    def publish(self, *entries):
        """A roster of the next epoch with these entries."""
        self.roster = replace(self.roster, epoch=self.roster.epoch + 1, entries=entries)
        self.home.roster.write_bytes(roster.seal(self.roster, self.signer, self.word))

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
