"""Hellos and transcripts: everybody masks under the same hellos, and a group that could be read is refused."""

import base64
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from made_masks import NAMES, TARGET, agree, ancestor, roster, say, signing

from fedmerge.errors import Refused
from fedmerge.privacy import hello, transcript
from fedmerge.privacy.hello import LIGHTEST, PURPOSE, UNIT
from fedmerge.trust import keys

AGREED = agree(ancestor({"a": (3,)}))
ROSTER = roster(*NAMES, TARGET)


@pytest.fixture
def said(tmp_path):
    """The hellos of three members and of the target."""
    return say(tmp_path, AGREED)[0]


def signed(one, by=None, **changes):
    """A hello with other facts, signed again, by its own name's key or another's."""
    changed = replace(one, **changes)
    return replace(changed, signature=keys.sign(signing(by or changed.name), PURPOSE, changed.signed()))


def text_of(number):
    """A public key as hellos have it, from a little-endian number."""
    return base64.b64encode(number.to_bytes(32, "little")).decode()


def test_the_order_in_which_hellos_come_does_not_matter(said):
    """One transcript, one digest; members are sorted, the target comes last."""
    one, other = (transcript.gather(hellos, AGREED, ROSTER) for hellos in (said, said[::-1]))
    assert one == other
    assert one.digest == other.digest
    assert [h.name for h in one.hellos] == [*NAMES, TARGET]


@pytest.mark.parametrize("key", ["key", "weight", "signature"])
def test_the_digest_is_of_every_hello_with_its_signature(said, key):
    """Another key or weight of anybody, and the digest is another one."""
    one = transcript.gather(said, AGREED, ROSTER)
    changed = {"key": keys.public_text(X25519PrivateKey.generate()), "weight": UNIT - 1, "signature": "AA=="}[key]
    members = (replace(one.members[0], **{key: changed}), *one.members[1:])
    assert transcript.Transcript(members, one.target).digest != one.digest


def test_a_hello_is_read_back_from_its_one_form(said):
    """And from no other."""
    for one in said:
        assert hello.read_hello(one.encode(), "north") == one
    for broken in (
        b"{}",
        b"[]",
        said[0].encode() + b" ",
        said[0].encode().replace(b'"weight":1048576', b'"weight":"1"'),
    ):
        with pytest.raises(Refused, match="north"):
            hello.read_hello(broken, "north")


CHANGES = {
    "unsigned": (lambda s: [replace(s[0], signature=""), *s[1:]], "east: the hello is not signed"),
    "signed by another": (lambda s: [signed(s[0], "north"), *s[1:]], "east: the signature of the hello does not hold"),
    "signed as something else": (
        lambda s: [replace(s[0], signature=keys.sign(signing("east"), "audit line", s[0].signed())), *s[1:]],
        "east: the signature of the hello does not hold",
    ),
    "changed after signing": (lambda s: [replace(s[0], weight=UNIT - 1), *s[1:]], "signature of the hello does not"),
    "repeated": (lambda s: [*s, s[0]], "east: the hello is repeated"),
    "repeated, a copy": (lambda s: [*s, replace(s[0])], "east: the hello is repeated"),
    "a name twice": (
        lambda s: [*s, signed(s[0], key=keys.public_text(X25519PrivateKey.generate()))],
        "east: two hellos that differ",
    ),
    "a missing member": (lambda s: s[1:], "east: the hello is missing"),
    "a missing target": (lambda s: s[:-1], "harbour: the hello is missing"),
    "a stranger": (lambda s: [*s, signed(s[0], name="west")], "'west' is a stranger"),
    "a changed weight": (
        lambda s: [signed(s[0], weight=UNIT // 2), *s[1:]],
        "east: weight of the hello expected 1048576",
    ),
    "another run": (lambda s: [signed(s[0], run="r0"), *s[1:]], "east: run of the hello expected r1"),
    "another group": (lambda s: [signed(s[0], group="g2"), *s[1:]], "east: group of the hello expected g1"),
    "other tensors": (lambda s: [signed(s[0], schema="sha256:0"), *s[1:]], "east: schema of the hello expected"),
    "a member as target": (lambda s: [signed(s[0], role="target"), *s[1:]], "east: role of the hello expected member"),
    "a key twice": (lambda s: [s[0], signed(s[1], key=s[0].key), *s[2:]], "east and north say hello with the same key"),
    "the target's key": (lambda s: [signed(s[0], key=s[-1].key), *s[1:]], "say hello with the same key"),
    "a key of low order": (lambda s: [signed(s[0], key=text_of(1)), *s[1:]], "east: the key .* of low order"),
    "a key in another form": (lambda s: [signed(s[0], key=text_of(2**255 - 10)), *s[1:]], "east: .* in its one form"),
    "no key": (lambda s: [signed(s[0], key="AA=="), *s[1:]], "east: the exchange key expected 32 bytes"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_hellos_that_were_not_agreed_are_refused(said, change):
    """Each way in which a group could be made to read one of its members, or nobody."""
    make, words = CHANGES[change]
    with pytest.raises(Refused, match=words):
        transcript.gather(make(said), AGREED, ROSTER)


def test_a_site_that_the_roster_does_not_have_is_refused(said):
    """A good signature of nobody counts for nothing."""
    with pytest.raises(Refused, match="south: the hello is not signed by a key of the roster"):
        transcript.gather(said, AGREED, roster("east", "north", TARGET))


@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2]])
def test_a_group_below_three_is_refused(tmp_path, names):
    """Agreed or not: with two, each knows the other by taking itself away."""
    agreed = replace(AGREED, weights=dict.fromkeys(names, UNIT))
    with pytest.raises(Refused, match=f"expected 3 to 64 members, got {len(names)}"):
        transcript.gather(say(tmp_path, agreed)[0], agreed, ROSTER)


def test_a_transcript_that_is_put_together_by_hand_keeps_the_rules(said):
    """Two members, no order, a member as the target, two runs: none of it can exist."""
    east, north, south, target = said
    for members, at in (
        ((east, north), target),
        ((north, east, south), target),
        ((east, north, south), south),
        ((east, north, target), target),
        ((east, north, replace(south, run="r2")), target),
        ((east, north, replace(south, weight=0)), target),
        ((east, north, replace(south, name="s o")), target),
    ):
        with pytest.raises(Refused):
            transcript.Transcript(members, at)
    assert transcript.Transcript((east, north, south), target).of("north") == north
    with pytest.raises(Refused, match="harbour is no member"):
        transcript.Transcript((east, north, south), target).of(TARGET)


def test_the_target_of_a_group_is_no_member_of_it(said):
    """A target would take its own model away."""
    with pytest.raises(Refused, match="cannot be a member"):
        transcript.gather(said, replace(AGREED, target="south"), ROSTER)


@pytest.mark.parametrize(
    ("weights", "fine"),
    [((UNIT, LIGHTEST, LIGHTEST), False), ((2**19, 2**18, 2**18), True), ((2**19, 2**18, 2**18 - 1), False)],
)
def test_nobody_outweighs_the_others_together(tmp_path, weights, fine):
    """One of three at full weight and two at the least would be one model with a little noise; a half is the most."""
    agreed = replace(AGREED, weights=dict(zip(NAMES, weights)))
    hellos = say(tmp_path, agreed)[0]
    if fine:
        assert transcript.gather(hellos, agreed, ROSTER).names == NAMES
        return
    with pytest.raises(Refused, match="more than all other members together"):
        transcript.gather(hellos, agreed, ROSTER)


def test_weights_are_scaled_to_the_largest():
    """In proportion, and never below 2^-10."""
    assert hello.scaled({"a": 100, "b": 50, "c": 0.01}) == {"a": UNIT, "b": UNIT // 2, "c": LIGHTEST}


def test_the_schema_knows_names_shapes_and_starting_weights():
    """Any of them changed is another schema; the order of the names is not."""
    began = ancestor({"a": (2, 3), "b": (1,)})
    assert hello.schema(began) == hello.schema(dict(reversed(began.items())))
    others = [
        {**began, "a": began["a"] + 1},
        {**began, "a": began["a"].reshape(3, 2)},
        {"a": began["a"]},
        {"a": began["a"], "c": began["b"]},
    ]
    assert len({hello.schema(one) for one in [began, *others]}) == 5
