"""Masked sums: what the target reads is the plain sum, what anybody else reads is noise, and it is all or nothing."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from made_masks import EQUAL, NAMES, SHAPES, TARGET, Model, ancestor, form, model, opened, relay, roster, say, send

from fedmerge import container, fisher, whole
from fedmerge.errors import Refused
from fedmerge.fusion import mixing
from fedmerge.privacy import fixed, hello, ledger, masking, message, transcript

UNEQUAL = dict(zip(NAMES, hello.scaled({"east": 90, "north": 61, "south": 33}).values()))


def encoded(made, name, own):
    """A member's summands before any mask."""
    weights = {key: own.weights[key] for key in made.ancestor}
    weight = made.agreed.weights[name]
    parts = fixed.encode(
        weights, own.fisher, made.ancestor, weight=weight, members=len(made.transcript.members), who=name
    )
    return np.concatenate(list(parts))


def plain(began, models, weights):
    """The sums as the equation has them, in float64: numerator, denominator."""
    top, bottom = ({name: torch.zeros(value.shape).double() for name, value in began.items()} for _ in range(2))
    for site, own in models.items():
        normal = fisher.normalise({name: value.double() for name, value in own.fisher.items()})
        for name in began:
            w_f = weights[site] / hello.UNIT * normal[name]
            bottom[name] += w_f
            top[name] += w_f * (own.weights[name].double() - began[name].double())
    return top, bottom


@pytest.fixture(scope="module")
def models():
    """Three sites' models."""
    return {name: model(name, ancestor()) for name in NAMES}


@pytest.fixture
def made(tmp_path):
    """A group of unequal weights."""
    return form(tmp_path, weights=UNEQUAL)


def test_the_masks_cancel_exactly(made, models):
    """What is opened is the sum in Z_2^64 of what was encoded, to the last bit, over slabs and odd lengths."""
    found = opened(made, models)
    total = sum(encoded(made, name, own).astype(object) for name, own in models.items()) % 2**64
    read = [
        value.reshape(-1)
        for part in (found.denominator, found.numerator)
        for value in (part[name] for name in sorted(SHAPES))
    ]
    assert (np.array(total, np.uint64) == (torch.cat(read) * 2.0**40).numpy().astype(np.int64).view(np.uint64)).all()


def test_the_sum_is_the_plain_sum(made, models):
    """Of the group's model within 1e-6 of each tensor's spread; of the numbers within three half units of 2^-40."""
    found = opened(made, models)
    top, bottom = plain(made.ancestor, models, UNEQUAL)
    weights, precision = masking.merged(found, made.ancestor)
    for name, began in made.ancestor.items():
        exact = began.double() + top[name] / bottom[name]
        assert (weights[name].double() - exact).abs().max() < 1e-6 * exact.std()
        torch.testing.assert_close(precision[name].double(), bottom[name], rtol=2e-7, atol=0)
    w = [UNEQUAL[name] / 2**20 for name in NAMES]  # with flat Fishers nothing is rounded before the fixed point
    flat = {name: own._replace(fisher={}) for name, own in models.items()}
    again = form(made.folder / "flat", weights=UNEQUAL)
    numbers = opened(again, flat)
    for name, began in made.ancestor.items():
        exact = sum(a * (flat[site].weights[name].double() - began.double()) for a, site in zip(w, NAMES))
        assert (numbers.numerator[name] - exact).abs().max() <= 1.5 * 2**-40 + 1e-15
        assert (numbers.denominator[name] == sum(w)).all()


def test_the_order_of_the_members_does_not_matter(made, models):
    """Any order, and sums of sums, give the same bytes."""
    parts = [send(made, name, own) for name, own in models.items()]
    sums = {b"".join(masking.add(order)) for order in itertools.permutations(parts)}
    two = made.folder / "two"
    whole.write(two, masking.add(parts[1:]))
    assert sums == {b"".join(masking.add([two, parts[0]]))}
    backwards = say(made.folder, made.agreed)[0][::-1]
    assert transcript.gather(backwards, made.agreed, roster(*NAMES, TARGET)) == made.transcript


def test_t_imm_over_groups_is_that_of_the_plain_version(tmp_path):
    """Two groups of three as two sources: the same fused weights to 1e-6 of each tensor's spread."""
    began, ours, theirs = ancestor(), [], []
    for group in ("g1", "g2"):
        weights = {f"{name}-{group}": w for name, w in UNEQUAL.items()}
        members = {name: model(name, began) for name in weights}
        made = form(tmp_path, weights=weights, group=group)
        ours.append(masking.merged(opened(made, members), began))
        top, bottom = plain(began, members, weights)
        theirs.append(({name: began[name].double() + top[name] / bottom[name] for name in began}, bottom))
    fused = []
    for pairs in (ours, theirs):
        mix = mixing.prepare([pair[0] for pair in pairs], [pair[1] for pair in pairs], list(began), grain="layer")
        fused.append(mixing.fuse(mix, mixing.given(mix, [0.7, 0.3])))
    for name in began:
        assert (fused[0][name].double() - fused[1][name]).abs().max() < 1e-6 * fused[1][name].std()


def test_the_largest_numbers_that_pass_do_not_overflow(tmp_path):
    """Three members one unit below the bound: the sum is three times that; one unit more is refused."""
    limit = fixed.reach(3) / 2**40
    began = {"a": torch.zeros(2)}
    made = form(tmp_path, began=began)
    largest = float(np.nextafter(np.float32(limit), np.float32(0)))
    models = {name: Model({"a": torch.tensor([largest, -largest])}, {}) for name in NAMES}
    found = opened(made, models)
    assert found.numerator["a"].tolist() == [3 * largest, -3 * largest]
    for members in range(3, 65):
        assert members * (int(fixed.reach(members)) - 1) < 2**63 <= 2 * members * int(fixed.reach(members))


def test_a_number_that_could_overflow_the_sum_is_refused(made, models):
    """It is named, never clipped; the ledger knows nothing of it, and the site may send another model."""
    own = models["east"]
    far = {**own.weights, "stem.bias": torch.full((4,), -3e6)}
    with pytest.raises(Refused, match=r"east: numerator of 'stem.bias' .*could overflow"):
        masking.mask(far, {}, made.ancestor, made.transcript, "east", made.home("east"))
    assert ledger.read(made.home("east")) == ()
    assert send(made, "east", own).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: Model({**m.weights, "stem.bias": torch.full((4,), torch.nan)}, m.fisher), "finite"),
        (lambda m: Model({**m.weights, "stem.bias": torch.zeros(5)}, m.fisher), "expected shape"),
        (lambda m: Model({k: v for k, v in m.weights.items() if k != "stem.bias"}, m.fisher), "missing"),
        (lambda m: Model(m.weights, {"stem.bias": m.fisher["stem.bias"]}), "missing"),
        (lambda m: Model(m.weights, {k: -v for k, v in m.fisher.items()}), "negative"),
        (lambda m: Model(m.weights, {k: v * 0 for k, v in m.fisher.items()}), "zero"),
    ],
)
def test_a_model_that_cannot_be_encoded_is_refused_before_the_ledger(made, models, change, words):
    """Names, shapes, values that are not finite, a Fisher of some tensors only."""
    own = change(models["east"])
    with pytest.raises(Refused, match=words):
        masking.mask(own.weights, own.fisher, made.ancestor, made.transcript, "east", made.home("east"))
    assert ledger.read(made.home("east")) == ()


def test_other_starting_weights_are_refused(made, models):
    """At the member and at the target: the schema of the hellos has their digest."""
    path = relay(made, models)
    other = {**made.ancestor, "stem.bias": torch.ones(4)}
    own = models["east"]
    with pytest.raises(Refused, match="other starting weights"):
        masking.mask(own.weights, own.fisher, other, made.transcript, "east", made.home("east"))
    with pytest.raises(Refused, match="other starting weights"):
        masking.open_sum(path, made.transcript, made.target_key, other)


def test_nothing_is_opened_without_all_members(made, models):
    """A missing member is named; one that is in twice too; a list of names that lies does not help."""
    parts = {name: send(made, name, own) for name, own in models.items()}
    some = made.folder / "some"
    whole.write(some, masking.add([parts["east"], parts["south"]]))
    with pytest.raises(Refused, match="without north; it is opened as a whole or not"):
        masking.open_sum(some, made.transcript, made.target_key, made.ancestor)
    with pytest.raises(Refused, match="south: a masked message is in the sum twice"):
        masking.add([some, parts["south"]])
    found = message.read(some)
    whole.write(some, message.write(found.shapes, found.transcript, NAMES, [found.words]))
    with pytest.raises(Refused, match="masks did not cancel"):
        masking.open_sum(some, made.transcript, made.target_key, made.ancestor)


def test_an_extra_member_is_refused(made, models):
    """A name that no hello has is in the sum."""
    found = message.read(relay(made, models))
    more = made.folder / "more"
    whole.write(more, message.write(found.shapes, found.transcript, (*NAMES, "west"), [found.words]))
    with pytest.raises(Refused, match="got east, north, south, west"):
        masking.open_sum(more, made.transcript, made.target_key, made.ancestor)


def test_a_message_made_with_other_hellos_is_noise(made, models, tmp_path):
    """One member was shown another weight of its neighbour: the digest tells, and where it lies, the masks do."""
    other = form(tmp_path / "other", weights={**UNEQUAL, "south": UNEQUAL["south"] + 1})
    assert other.transcript.of("east") == made.transcript.of("east")
    parts = [send(other, "east", models["east"]), *(send(made, name, models[name]) for name in ("north", "south"))]
    with pytest.raises(Refused, match="transcript expected"):
        masking.add(parts)
    found, lying = message.read(parts[0]), made.folder / "lying"
    whole.write(lying, message.write(found.shapes, made.transcript.digest, ["east"], [found.words]))
    total = made.folder / "total"
    whole.write(total, masking.add([lying, *parts[1:]]))
    with pytest.raises(Refused, match="masks did not cancel"):
        masking.open_sum(total, made.transcript, made.target_key, made.ancestor)
    with pytest.raises(Refused, match="transcript expected"):
        masking.open_sum(total, other.transcript, other.target_key, made.ancestor)


def test_only_the_key_of_the_hello_opens(made, models, tmp_path):
    """Another one is refused; the relay, which has none, reads nothing that decodes."""
    path = relay(made, models)
    stranger = form(tmp_path / "s", run="r2").target_key
    with pytest.raises(Refused, match="the key is not that of harbour's hello"):
        masking.open_sum(path, made.transcript, stranger, made.ancestor)
    low, high = fixed.bounds(tuple(UNEQUAL.values()))
    words = message.read(path).words[:70001]
    assert ((words >= low) & (words <= high)).mean() < 0.01


def test_masking_and_opening_need_little_memory_beside_the_model(tmp_path):
    """A message of 32 MB is made, added and read in a few slabs of half a megabyte; what is opened is another 32 MB."""
    made = form(tmp_path, began={"a": torch.zeros(2**21)})
    own = Model({"a": torch.linspace(-1, 1, 2**21)}, {})
    peaks = []
    for work in (
        lambda: [send(made, name, own) for name in NAMES],
        lambda: whole.write(tmp_path / "sum", masking.add(sorted(tmp_path.glob("*.masked")))),
        lambda: masking.open_sum(tmp_path / "sum", made.transcript, made.target_key, made.ancestor),
    ):
        tracemalloc.start()
        work()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 8 * 2**20


def test_a_stream_is_the_same_from_wherever_it_is_read():
    """Any piece, from odd and even places, is that piece of the whole."""
    everything = masking.stream(bytes(range(32)), 0, 1000)
    for start, count in ((0, 1), (1, 1), (1, 2), (7, 100), (998, 2), (999, 1), (500, 0)):
        assert (masking.stream(bytes(range(32)), start, count) == everything[start : start + count]).all()
    assert len(masking.stream(bytes(32), 1, fixed.SLAB)) == fixed.SLAB
    with pytest.raises(ValueError, match="at most 65536"):
        masking.stream(bytes(32), 0, fixed.SLAB + 1)


def test_a_message_that_breaks_off_leaves_what_was_there(tmp_path):
    """Pieces are written beside the file, which takes its place when all are there."""

    def pieces():
        yield b"new"
        raise Refused("no more")

    path = tmp_path / "message"
    whole.write(path, iter([b"o", b"ld"]))
    with pytest.raises(Refused, match="no more"):
        whole.write(path, pieces())
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("message", b"old")]


MESSAGES = {
    "another format": lambda f, e: ({**f, "format": "fedmerge-masked/2"}, e),
    "one key more": lambda f, e: ({**f, "note": ""}, e),
    "no members": lambda f, e: ({**f, "members": []}, e),
    "unsorted": lambda f, e: ({**f, "members": ["south", "east"]}, e),
    "twice": lambda f, e: ({**f, "members": ["east", "east"]}, e),
    "no names": lambda f, e: ({**f, "members": [1]}, e),
    "no digest": lambda f, e: ({**f, "transcript": "sha256:0"}, e),
    "signed numbers": lambda f, e: (f, {name: ("I64", shape) for name, (_, shape) in e.items()}),
    "another order": lambda f, e: (f, dict(reversed(e.items()))),
    "half of it": lambda f, e: (f, dict(list(e.items())[:1])),
    "nothing": lambda f, e: (f, {}),
}


@pytest.mark.parametrize("change", MESSAGES)
def test_a_document_that_breaks_the_format_is_refused(change, tmp_path):
    """Whatever is wrong with the header is told before a number is read; the untouched one passes."""
    facts = {"format": hello.FORMAT, "members": ["east"], "transcript": "sha256:" + "0" * 64}
    entries = {f"{part}/{name}": ("U64", (2,)) for part in fixed.PARTS for name in "ab"}
    path = tmp_path / "message"
    for broken in (False, True):
        table, tensors = MESSAGES[change](facts, entries) if broken else (facts, entries)
        head = container.encode(tensors, {"fedmerge": container.canonical(table)})
        path.write_bytes(head + bytes(16 * len(tensors)))
        if broken:
            with pytest.raises(Refused):
                message.read(path)
        else:
            assert message.read(path).words.shape == (8,)


def test_equal_weights_and_no_fisher_are_the_mean_of_the_models(tmp_path):
    """A worked number: differences of 1, 2 and 6 quarters of a unit have the mean 3 quarters."""
    began = {"a": torch.ones(1, 2)}
    made = form(tmp_path, began=began, weights=EQUAL)
    models = {name: Model({"a": began["a"] + step / 4}, {}) for name, step in zip(NAMES, (1, 2, 6))}
    weights, precision = masking.merged(opened(made, models), began)
    assert weights["a"].tolist() == [[1.75, 1.75]]
    assert precision["a"].tolist() == [[3.0, 3.0]]


def test_a_sum_with_numbers_that_no_net_holds_is_refused(made):
    """Numbers are checked where they become weights."""
    sums = masking.Opened({"a": torch.tensor([1e31]).double()}, {"a": torch.ones(1).double()})
    with pytest.raises(Refused, match="the group's 'a'"):
        masking.merged(sums, {"a": torch.zeros(1)})
