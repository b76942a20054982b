"""The signed roster, and the request that leads to it: every edit, every other key and every step back is refused."""

import json
from dataclasses import fields, replace

import pytest
from consortia import DAY, NOW, approved, asked, found, hospital
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmerge.container import canonical
from fedmerge.errors import Refused
from fedmerge.trust import certificates, keys, request, roster
from server import consortium


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A consortium with one site."""
    folder = tmp_path_factory.mktemp("consortium")
    home = found(folder)
    approved(home, hospital(folder, home, roles=("source", "target")))
    return home


def envelope(server):
    """The signed roster as a table."""
    return json.loads(server.roster.read_bytes())


def opened(server, table, now=NOW):
    """The roster of a table that somebody hands out."""
    return roster.open(json.dumps(table).encode(), consortium.authority(server), now)


def test_a_sealed_roster_opens_to_the_same_record(server):
    """With every field, in any order of the JSON's keys."""
    made = consortium.current(server, NOW)
    assert made.epoch == 2
    assert made.find("north").roles == ("source", "target")
    table = envelope(server)
    assert opened(server, dict(reversed(table.items()))) == made
    assert made.by_node_key(made.find("north").node_key) is made.find("north")
    assert made.find("south") is None


@pytest.mark.parametrize(
    "part", ["consortium", "epoch", "made", "previous", "audit_key", "policy", "roles", "until", "past"]
)
def test_an_edited_roster_is_refused(server, part):
    """Whatever is changed: the number, the date, the policy, a site's role or its end."""
    table = envelope(server)
    body = table["body"]
    if part in ("roles", "until"):
        body["entries"][0][part] = {"roles": ["source"], "until": "2099-01-01T00:00:00Z"}[part]
    else:
        body[part] = {"epoch": 9, "policy": {"policy": {}}, "past": [{}]}.get(part, "other")
    with pytest.raises(Refused, match="changed after it was signed"):
        opened(server, table)


def test_a_roster_signed_by_another_key_is_refused(server, tmp_path):
    """By a key of nobody, by a site with its own certificate, and by another consortium's roster key."""
    table, made, stranger = envelope(server), consortium.current(server, NOW), keys.new_signing()
    body = canonical(table["body"]).encode()
    with pytest.raises(Refused, match="another key signed it"):
        opened(server, {**table, "signature": keys.sign(stranger, "roster", body)})
    own, ca = keys.read_node(server.authority_key), consortium.authority(server)
    site = certificates.site_certificate(own, ca, stranger.public_key(), "south", NOW, NOW + DAY)
    with pytest.raises(Refused, match="made for another purpose"):
        roster.open(roster.seal(made, stranger, site), ca, NOW)
    other = found(tmp_path)
    signer = certificates.read(other.roster_certificate.read_bytes(), "it")
    with pytest.raises(Refused, match="made by another authority"):
        roster.open(roster.seal(made, keys.read_signing(other.roster_key), signer), ca, NOW)


def test_what_is_no_roster_is_refused_with_what_was_expected(server):
    """Another version, a missing part, a part of another kind, nonsense, and too much of it."""
    table, ca = envelope(server), consortium.authority(server)
    for other, sentence in (
        ({**table, "version": 2}, "expected version 1"),
        ({**table, "fedmerge": "join request"}, "expected version 1"),
        ({**table, "certificate": 7}, "'certificate' expected a text"),
        ({**table, "certificate": "nonsense"}, "no certificate in PEM"),
        ({key: table[key] for key in ("body", "signature")}, "expected fedmerge, version, body"),
        ([], "expected fedmerge, version, body"),
    ):
        with pytest.raises(Refused, match=sentence):
            opened(server, other)
    with pytest.raises(Refused, match="the roster"):
        roster.open(b"\x80nonsense", ca, NOW)
    with pytest.raises(Refused, match="expected at most"):
        roster.open(b" " * (roster.LARGEST + 1), ca, NOW)


def test_a_signed_body_that_is_no_roster_is_refused(server):
    """Its own signer made it: still each value must be what its type says."""
    signer = certificates.read(server.roster_certificate.read_bytes(), "it")
    key, good = keys.read_signing(server.roster_key), envelope(server)["body"]
    entry = good["entries"][0]
    for body, sentence in (
        ({**good, "epoch": 0}, "epoch expected 1 or more"),
        ({**good, "epoch": True}, "epoch expected 1 or more"),
        ({**good, "entries": {}}, "expected a list"),
        ({**good, "entries": [entry, entry]}, "two entries of the same name"),
        ({**good, "entries": [{**entry, "roles": ["director"]}]}, "north: roles expected"),
        ({**good, "entries": [{**entry, "node_key": "nonsense"}]}, "north: the node's key"),
        ({**good, "entries": [{**entry, "until": "never"}]}, "north: 'until'"),
        ({**good, "entries": [{**entry, "more": 1}]}, "roster's entry expected"),
        ({**good, "made": 7}, "expected a moment"),
        ({**good, "policy": []}, "policy expected a table"),
    ):
        signature = keys.sign(key, "roster", canonical(body).encode())
        with pytest.raises(Refused, match=sentence):
            opened(server, {**envelope(server), "body": body, "signature": signature})
    assert certificates.consortium(signer) == "tumours"


def test_no_roster_goes_back(server):
    """An older epoch, other content of the same epoch and another consortium are refused; the same one again is not."""
    seen = consortium.current(server, NOW)
    assert roster.newer(None, seen) is seen
    assert roster.newer(seen, seen) is seen
    later = replace(seen, epoch=3)
    assert roster.newer(seen, later) is later
    with pytest.raises(Refused, match="epoch 2 is older than the one seen, of epoch 3"):
        roster.newer(later, seen)
    with pytest.raises(Refused, match="two rosters of epoch 2"):
        roster.newer(seen, replace(seen, made=seen.made + 1))
    with pytest.raises(Refused, match="expected consortium tumours, got hearts"):
        roster.newer(seen, replace(later, consortium="hearts"))


def test_an_entry_holds_from_its_first_to_before_its_last_second(server):
    """Both ends."""
    entry = consortium.current(server, NOW).find("north")
    assert (entry.since, entry.until) == (NOW, NOW + 365 * DAY)
    moments = (entry.since - 1, entry.since, entry.until - 1, entry.until)
    assert [entry.holds(moment) for moment in moments] == [False, True, True, False]


def test_a_request_is_read_back_and_its_fingerprint_is_of_every_field(server):
    """Nothing in it can change without another fingerprint."""
    text, made = asked(server, roles=("target", "source"))
    assert request.from_text(text) == made
    others = {"roles": ("source",), "made": made.made + 1}
    for field in fields(made):
        other = replace(made, **{field.name: others.get(field.name, "other")})
        assert other.fingerprint != made.fingerprint


def test_a_roster_holds_either_kind_of_sealing_key(tmp_path):
    """A site that joined with X25519 alone stays as it is, beside one with a new key."""
    home, older = found(tmp_path), keys.public_text(X25519PrivateKey.generate())
    made = [asked(home, site="older", sealing_key=older), asked(home, site="newer")]
    for text, one in made:
        consortium.approve(home, text.encode(), one.fingerprint, now=NOW)
    for _, one in made:
        assert consortium.current(home, NOW).find(one.site).sealing_key == one.sealing_key


@pytest.mark.parametrize("field", ["site", "node_key", "signing_key", "sealing_key", "authority"])
def test_a_request_that_was_edited_proves_nothing(server, field):
    """Another name, or somebody else's key in the place of one's own."""
    table, (_, other) = json.loads(asked(server)[0]), asked(server, site="south")
    table["body"][field] = getattr(other, field) if field != "authority" else "SHA256:other"
    with pytest.raises(Refused, match="proof that it has the private"):
        request.from_text(json.dumps(table))


def test_a_request_needs_both_private_keys(server):
    """Who signs with its own signing key only, and shows another's node key, is found; and the other way round."""
    (_, made), (_, other) = asked(server), asked(server, site="south")
    signing, node = keys.new_signing(), keys.new_node()
    stolen = replace(made, signing_key=keys.public_text(signing), node_key=other.node_key)
    with pytest.raises(Refused, match="private node key"):
        request.from_text(request.to_text(stolen, signing, node))
    stolen = replace(made, signing_key=other.signing_key, node_key=keys.public_text(node))
    with pytest.raises(Refused, match="private signing key"):
        request.from_text(request.to_text(stolen, signing, node))


def test_what_is_no_request_is_refused_with_what_was_expected(server):
    """Another version, other keys, roles that are none, a value of another kind, too much of it."""
    table = json.loads(asked(server)[0])
    body = table["body"]
    for other, sentence in (
        ({**table, "version": "1"}, "expected version 1"),
        ({**table, "more": 1}, "expected fedmerge, version, body and proofs"),
        ({**table, "proofs": {}}, "proofs expected"),
        ({**table, "body": {**body, "more": 1}}, "body expected"),
        ({**table, "body": {**body, "site": 7}}, "'site' expected a text"),
        ({**table, "body": {**body, "roles": []}}, "roles expected"),
        ({**table, "body": {**body, "roles": ["source", "source"]}}, "roles expected"),
        ({**table, "body": {**body, "roles": ["director"]}}, "roles expected"),
        ({**table, "body": {**body, "roles": [["source"]]}}, "roles expected"),
        ({**table, "body": {**body, "made": "now"}}, "expected a moment"),
        ([], "expected fedmerge, version, body and proofs"),
    ):
        with pytest.raises(Refused, match=sentence):
            request.from_text(json.dumps(other))
    with pytest.raises(Refused, match="expected at most"):
        request.from_text("x" * (request.LARGEST + 1))
