"""A consortium for tests: a server's home, hospitals that join it by its files, and a moment that they all share."""

from contextlib import contextmanager

import doors

from fedmerge.trust import certificates, keys, request
from server import consortium
from sites import joining

NOW = 1_750_000_000.0  # 2025-06-15T15:06:40Z; in the past, so that certificates hold today too
DAY = 86_400


def found(folder, name="tumours", hosts=("127.0.0.1",), now=NOW, **more):
    """A new server's home."""
    return consortium.init(folder / "server", name, hosts, now=now, **more)


def hospital(folder, server, name="north", now=NOW, **more):
    """A hospital that joined with the authority's certificate as a file, from a server that is not up."""
    fingerprint = fingerprint_of(server)
    settings = {"authority": server.authority, "fingerprint": fingerprint, "now": now} | more
    return joining.join(folder / name, "127.0.0.1:9", name, **settings)


def fingerprint_of(server):
    """Of the authority's certificate."""
    return certificates.fingerprint(consortium.authority(server))


def approved(server, joined, now=NOW, **more):
    """The entry of a hospital whose request is approved with the right fingerprint."""
    return consortium.approve(server, joined.home.request.read_bytes(), joined.request.fingerprint, now=now, **more)


def asked(server, site="north", roles=("source",), **changes):
    """(text, request) of a join request with new keys; `changes` replace fields before it is signed."""
    signing, node, sealing = keys.new_signing(), keys.new_node(), keys.new_sealing()
    facts = {
        "consortium": server.name, "authority": fingerprint_of(server), "site": site, "roles": roles,
        "node_key": keys.public_text(node), "signing_key": keys.public_text(signing),
        "sealing_key": keys.public_text(sealing), "made": int(NOW),
    }  # fmt: skip
    made = request.JoinRequest(**(facts | changes))
    return request.to_text(made, signing, node), made


@contextmanager
def open_door(server, body=None, clock=lambda: NOW):
    """`HOST:PORT` of a door that answers with the server's roster, or with `body`."""
    pem = server.folder / "door.pem"
    pem.write_bytes(server.server_certificate.read_bytes() + server.server_key.read_bytes())
    with doors.door(pem, clock, consortium.public_bytes(server) if body is None else body) as address:
        yield address
