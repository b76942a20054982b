"""The wire format: pairs that undo each other, golden bytes, and attacks with a verdict each."""

import io
import json
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from made_contributions import contribution
from safetensors import safe_open
from safetensors.torch import load, save, save_file

from fedmerge import container, wire
from fedmerge.errors import Refused

GOLDEN = Path(__file__).parent / "golden"


def take_apart(data):
    """Header and tensor bytes, read without the library."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def put_together(header, tensors):
    """A document of any header, however wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def test_contribution_to_bytes_and_back():
    """from_bytes(to_bytes(c)) == c, and the bytes are the same again."""
    c = contribution()
    data = wire.to_bytes(c)
    assert wire.from_bytes(data) == c
    assert wire.to_bytes(wire.from_bytes(data)) == data


def test_a_withheld_fisher_makes_the_journey():
    """Only weights."""
    c = contribution(fisher={}, fisher_labels="none")
    assert wire.from_bytes(wire.to_bytes(c)) == c


def test_contribution_to_file_and_back(tmp_path):
    """read(write(c)) == c; the tensors are mapped, and writing to them leaves the file as it is."""
    c, path = contribution(), tmp_path / "new folder" / "north.safetensors"
    wire.write(c, path)
    assert path.read_bytes() == wire.to_bytes(c)
    back = wire.read(path)
    assert back == c
    back.weights["stem.bias"].zero_()
    assert wire.read(path) == c
    assert [p.name for p in path.parent.iterdir()] == ["north.safetensors"]


def test_parameters_to_bytes_and_back():
    """Names as they are, scalars and empty sets too."""
    for params in [contribution().weights, {"scale": torch.tensor(2.5)}, {}]:
        back = wire.params_from_bytes(wire.params_to_bytes(params))
        assert back.keys() == params.keys()
        assert all(torch.equal(back[name], value) for name, value in params.items())


def test_models_to_file_and_back(tmp_path):
    """Parameters and info."""
    info = {"net": {"name": "isensee2017"}, "labels": ["organ"], "spacing_mm": [1.0, 1.0, 2.5]}
    wire.write_model(contribution().weights, info, tmp_path / "model")
    params, back = wire.read_model(tmp_path / "model")
    assert back == info
    assert all(torch.equal(params[name], value) for name, value in contribution().weights.items())


def test_a_model_that_somebody_else_wrote_is_read(tmp_path):
    """Plain float32 safetensors: no info."""
    save_file({"w": torch.ones(3)}, tmp_path / "model", metadata={"format": "pt"})
    params, info = wire.read_model(tmp_path / "model")
    assert info == {}
    assert params["w"].tolist() == [1.0, 1.0, 1.0]


def test_golden_bytes():
    """The bytes of a known contribution have not changed since format 1 was fixed."""
    assert wire.to_bytes(contribution()) == (GOLDEN / "contribution-1.safetensors").read_bytes()
    params = {"b": torch.tensor([1.0, -0.5]), "a": torch.tensor(3.0)}
    assert wire.params_to_bytes(params) == (GOLDEN / "params-1.safetensors").read_bytes()


def test_the_golden_contribution_worked_by_hand():
    """Header and one tensor, read with nothing but struct and json."""
    header, tensors = take_apart((GOLDEN / "contribution-1.safetensors").read_bytes())
    assert list(header) == [
        "__metadata__", "fisher/norm.weight", "fisher/stem.bias", "fisher/stem.weight",
        "weights/head.weight", "weights/norm.weight", "weights/stem.bias", "weights/stem.weight",
    ]  # fmt: skip
    facts = json.loads(header["__metadata__"]["fedmerge"])
    assert facts["format"] == "fedmerge-contribution/1"
    assert facts["labels"] == ["organ", "lésion"]
    entry = header["weights/stem.bias"]
    assert (entry["dtype"], entry["shape"]) == ("F32", [2])
    assert struct.unpack("<2f", tensors[slice(*entry["data_offsets"])]) == (0.0, 0.25)


def test_the_safetensors_library_reads_what_we_write():
    """The container is safetensors; and its own bytes for the same tensors are ours."""
    c = contribution()
    data = wire.to_bytes(c)
    read = load(data)
    assert torch.equal(read["fisher/stem.weight"], c.fisher["stem.weight"])
    header, _ = take_apart(data)
    assert save(read, metadata=header["__metadata__"]) == data


def test_equal_contributions_have_equal_bytes():
    """The order of the dictionaries and the layout of the tensors in memory leave no trace."""
    c = contribution()
    weights = dict(reversed(c.weights.items()))
    weights["head.weight"] = weights["head.weight"].t().contiguous().t()
    assert wire.to_bytes(contribution(weights=weights, net=dict(reversed(c.net.items())))) == wire.to_bytes(c)


def test_subnormal_numbers_become_zero_on_both_ways():
    """Written by us or by others; the smallest normal number stays."""
    tiny = torch.finfo(torch.float32).tiny
    ours = wire.params_from_bytes(wire.params_to_bytes({"w": torch.tensor([1e-40, -1e-40, tiny, 1.0])}))["w"]
    theirs = save({"w": torch.tensor([1e-40, -1e-40, tiny, 1.0])}, {"fedmerge": '{"format":"fedmerge-params/1"}'})
    for value in (ours, wire.params_from_bytes(theirs)["w"]):
        assert torch.equal(value, torch.tensor([0.0, 0.0, tiny, 1.0]))


def test_what_was_read_is_its_own_memory():
    """Bytes that change afterwards change nothing."""
    data = bytearray(wire.to_bytes(contribution()))
    c = wire.from_bytes(data)
    data[:] = bytes(len(data))
    assert c == contribution()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": {"a": torch.ones(2, dtype=torch.float64)}, "fisher": {}, "fisher_labels": "none"}, "float32"),
        ({"weights": {"a": torch.tensor([torch.nan])}, "fisher": {}, "fisher_labels": "none"}, "expected finite"),
        ({"fisher": {"stem.bias": torch.tensor([1.0, -1.0])}}, "expected no negative"),
        ({"fisher": {"roof.bias": torch.ones(1)}}, "belongs to no weight"),
        ({"weights": {}, "fisher": {}, "fisher_labels": "none"}, "expected weights, got none"),
        ({"fisher_labels": "guessed"}, "fisher_labels expected one of"),
        ({"fisher_labels": "none"}, "'none' with 3 Fisher tensors"),
        ({"site": "no\nrth"}, "site expected printable text"),
        ({"net": {"dropout": float("nan")}}, "cannot be written as JSON"),
        ({"net": {"layer": torch.nn.ReLU}}, "cannot be written as JSON"),
    ],
)
def test_what_could_not_be_read_is_not_written(changes, sentence):
    """The writer keeps the reader's rules."""
    with pytest.raises(Refused, match=sentence):
        wire.to_bytes(contribution(**changes))


GOOD = wire.to_bytes(contribution())
HEADER, TENSORS = take_apart(GOOD)


def header_with(name, **facts):
    """The good document, but for some facts of one tensor."""
    return put_together({**HEADER, name: {**HEADER[name], **facts}}, TENSORS)


def facts_with(**changes):
    """The good document, but for some facts of the metadata; None takes one out."""
    facts = {**json.loads(HEADER["__metadata__"]["fedmerge"]), **changes}
    text = json.dumps({key: value for key, value in facts.items() if value is not None})
    return put_together({**HEADER, "__metadata__": {"fedmerge": text}}, TENSORS)


def with_number(name, number):
    """The good document with one number put at the beginning of a tensor."""
    begin = HEADER[name]["data_offsets"][0]
    return put_together(HEADER, TENSORS[:begin] + struct.pack("<f", number) + TENSORS[begin + 4 :])


def renamed(old, new):
    """The good document with another name for a tensor."""
    return put_together({new if key == old else key: value for key, value in HEADER.items()}, TENSORS)


def twice(name):
    """A header that gives a tensor two times: one parser takes the first, another the last."""
    text = json.dumps(HEADER)
    return put_together((text[:-1] + f', "{name}": ' + json.dumps(HEADER[name]) + "}").encode(), TENSORS)


def as_npz():
    """The weights as numpy would save them."""
    file = io.BytesIO()
    np.savez(file, **{name: value.numpy() for name, value in contribution().weights.items()})
    return file.getvalue()


def as_torch():
    """The weights as torch would save them."""
    file = io.BytesIO()
    torch.save(contribution().weights, file)
    return file.getvalue()


STEM = HEADER["weights/stem.weight"]["data_offsets"]
FISHER_END = HEADER["fisher/stem.weight"]["data_offsets"][1]  # the Fisher comes first
META = json.dumps(HEADER["__metadata__"])

# What is done to the bytes, and what the reader has to say to it.
ATTACKS = {
    "nothing at all": (b"", "expected a safetensors file, got 0 bytes"),
    "seven bytes": (GOOD[:7], "expected a safetensors file, got 7 bytes"),
    "cut within the header": (GOOD[:100], "the header announces .* bytes, got 92"),
    "cut within the tensors": (GOOD[:-3], "the header describes .* bytes, got"),
    "cut by a whole tensor": (GOOD[: STEM[0] - STEM[1]], "the header describes .* bytes, got"),
    "trailing bytes": (GOOD + b"\0\0\0\0", "the header describes .* bytes, got"),
    "header longer than the file": (struct.pack("<Q", len(GOOD)) + GOOD[8:], "the header announces"),
    "header of 2^63 bytes": (struct.pack("<Q", 2**63) + GOOD[8:], "the header expected at most 8388608 bytes"),
    "header of 9 MiB": (put_together(b" " * (9 * 2**20), b""), "the header expected at most 8388608 bytes"),
    "header of no bytes": (put_together(b"", b""), "not the JSON expected"),
    "header that is a list": (put_together(b"[]", b""), "expected a JSON object, got list"),
    "header that is not JSON": (put_together(b"{'a': 1}", b""), "not the JSON expected"),
    "header that is not UTF-8": (put_together(b'{"\xff": 1}', b""), "not the JSON expected"),
    "header with text after it": (put_together(json.dumps(HEADER).encode() + b"{}", TENSORS), "not the JSON expected"),
    "header nested without end": (put_together(b'{"a":' * 100_000, b""), "nested too deep"),
    "header with NaN": (put_together(b'{"a": NaN}', b""), "NaN is not a number"),
    "a number of a million digits": (put_together(b'{"a": ' + b"9" * 10**6 + b"}", b""), "not the JSON expected"),
    "a tensor given twice": (twice("weights/stem.bias"), "a key is given twice"),
    "metadata given twice": (
        put_together((json.dumps(HEADER)[:-1] + f', "__metadata__": {META}}}').encode(), TENSORS),
        "a key is given twice",
    ),
    "a fact given twice": (
        put_together({**HEADER, "__metadata__": {"fedmerge": '{"site":"north","site":"south"}'}}, TENSORS),
        "a key is given twice",
    ),
    "dtype float64": (header_with("weights/stem.bias", dtype="F64", shape=[1]), "expected dtype F32, got F64"),
    "dtype float16": (header_with("weights/stem.bias", dtype="F16", shape=[4]), "expected dtype F32, got F16"),
    "dtype int32": (header_with("weights/stem.bias", dtype="I32"), "expected dtype F32, got I32"),
    "dtype unknown": (header_with("weights/stem.bias", dtype="O"), "expected a known dtype, got 'O'"),
    "dtype that is a list": (header_with("weights/stem.bias", dtype=["F32"]), "expected a known dtype"),
    "shape larger than its bytes": (header_with("weights/stem.bias", shape=[3]), "expected 12 bytes, got 8"),
    "shape with a negative size": (header_with("weights/stem.bias", shape=[-1, -2]), "expected a shape"),
    "shape with a fraction": (header_with("weights/stem.bias", shape=[2.0]), "expected a shape"),
    "shape with a truth": (header_with("weights/stem.bias", shape=[True, 2]), "expected a shape"),
    "shape with a size of 2^62": (header_with("weights/stem.bias", shape=[2**62, 4]), "expected a shape"),
    "shape whose product wraps around": (header_with("weights/stem.bias", shape=[2**33, 2**31]), "bytes, got 8"),
    "shape of no elements": (header_with("weights/stem.bias", shape=[0], data_offsets=[0, 0]), "expected a shape"),
    "shape of nine dimensions": (header_with("weights/stem.bias", shape=[1] * 8 + [2]), "at most 8 sizes"),
    "offsets that overlap": (
        header_with("weights/stem.bias", data_offsets=HEADER["weights/norm.weight"]["data_offsets"]),
        "overlaps the tensor before it",
    ),
    "offsets with a gap": (
        put_together({name: facts for name, facts in HEADER.items() if name != "weights/stem.bias"}, TENSORS),
        "leaves a gap before it",
    ),
    "offsets beyond the file": (header_with("weights/stem.weight", data_offsets=[STEM[0] + 800, STEM[1] + 800]), "gap"),
    "offsets backwards": (header_with("weights/stem.bias", data_offsets=[16, 8]), "expected 8 bytes, got -8"),
    "offsets of which there are three": (header_with("weights/stem.bias", data_offsets=[0, 4, 8]), "two data_offsets"),
    "offsets that are missing": (
        put_together({**HEADER, "weights/stem.bias": {"dtype": "F32", "shape": [2]}}, TENSORS),
        "expected dtype, shape and data_offsets",
    ),
    "a tensor with more facts": (header_with("weights/stem.bias", code="1"), "expected dtype, shape and data_offsets"),
    "an unknown part": (renamed("weights/stem.bias", "buffers/stem.bias"), "expected a name under weights/ or fisher/"),
    "a name without a part": (renamed("weights/stem.bias", "stem.bias"), "expected a name under weights/ or fisher/"),
    "a part without a name": (renamed("weights/stem.bias", "weights/"), "expected a name under weights/ or fisher/"),
    "a Fisher of no weight": (renamed("fisher/stem.bias", "fisher/roof.bias"), "belongs to no weight"),
    "a Fisher of another shape": (header_with("fisher/stem.bias", shape=[1, 2]), "expected shape .2,., got .1, 2."),
    "a name with a terminal's escape": (renamed("weights/stem.bias", "weights/\x1b[2J"), "ASCII characters"),
    "a name of 300 characters": (renamed("weights/stem.bias", "weights/" + "a" * 300), "at most 256 ASCII"),
    "a weight that is NaN": (with_number("weights/stem.bias", float("nan")), "'weights/stem.bias' expected finite"),
    "a weight that is infinite": (with_number("weights/head.weight", float("inf")), "head.weight' expected finite"),
    "a Fisher that is NaN": (with_number("fisher/stem.bias", float("nan")), "'fisher/stem.bias' expected finite"),
    "a Fisher that is negative": (with_number("fisher/stem.bias", -1e-9), "fisher.'stem.bias'. expected no negative"),
    "a Fisher of 1e38": (with_number("fisher/stem.bias", 1e38), "'fisher/stem.bias' expected numbers up to 1e.30"),
    "a weight of -1e31": (with_number("weights/stem.bias", -1e31), "'weights/stem.bias' expected numbers up to 1e.30"),
    "a Fisher of zeros": (
        put_together(HEADER, bytes(FISHER_END) + TENSORS[FISHER_END:]),
        "the whole Fisher is zero",
    ),
    "no metadata": (put_together({k: v for k, v in HEADER.items() if k != "__metadata__"}, TENSORS), "the one key"),
    "metadata of two keys": (
        put_together({**HEADER, "__metadata__": {**HEADER["__metadata__"], "x": "y"}}, TENSORS), "the one key",
    ),
    "metadata that is no string": (put_together({**HEADER, "__metadata__": {"fedmerge": 1}}, TENSORS), "strings by"),
    "format of another document": (facts_with(format="fedmerge-params/1"), "format expected 'fedmerge-contribution/1'"),
    "format of the future": (facts_with(format="fedmerge-contribution/2"), "got 'fedmerge-contribution/2'"),
    "a fact that is missing": (facts_with(parent=None), "the metadata's 'parent' is missing"),
    "a fact that is unknown": (facts_with(pickle="gASV"), "the metadata's 'pickle' is unknown"),
    "a site without a name": (facts_with(site=""), "site expected a name"),
    "a site with a line break": (facts_with(site="north\nsouth"), "site expected printable text"),
    "a site that is a number": (facts_with(site=7), "site expected printable text"),
    "a name of 10 thousand characters": (facts_with(settings="a" * 10_000), "settings expected printable text"),
    "cases below one": (facts_with(cases=0), "cases expected a whole number from 1, got 0"),
    "cases that are a truth": (facts_with(cases=True), "cases expected a whole number from 1, got True"),
    "labels that are text": (facts_with(labels="organ"), "labels expected a list of names"),
    "a label given twice": (facts_with(labels=["organ", "organ"]), "labels expected each name once"),
    "net settings that are a list": (facts_with(net=[1]), "net expected settings by name"),
    "a pickle": (pickle.dumps(contribution().weights), "the header expected at most"),
    "torch.save": (as_torch(), "the header expected at most"),
    "npz": (as_npz(), "the header expected at most"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused(attack):
    """Each with its sentence, which begins with the site."""
    data, sentence = ATTACKS[attack]
    with pytest.raises(Refused, match=f"^north: (?s:.*){sentence}"):
        wire.from_bytes(data, site="north")


def test_too_many_bytes_are_refused_before_they_are_looked_at():
    """The limit holds for rubbish too."""
    with pytest.raises(Refused, match="north: expected at most 100 bytes, got 101"):
        wire.from_bytes(bytes(101), max_bytes=100, site="north")
    wire.from_bytes(GOOD, max_bytes=len(GOOD))


def test_every_truncation_is_refused():
    """No prefix of a document is a document."""
    for length in range(len(GOOD)):
        with pytest.raises(Refused):
            wire.from_bytes(GOOD[:length])


def test_damaged_bytes_are_read_or_refused_and_nothing_else():
    """Three thousand documents with up to four bytes changed: a contribution, or `Refused`; no other error."""
    dice = random.Random(0)
    read = 0
    for _ in range(3000):
        data = bytearray(GOOD)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            wire.from_bytes(bytes(data))
            read += 1
        except Refused:
            pass
    assert 0 < read < 3000


def test_messages_keep_the_same_rules():
    """Parameters of a message: another document, NaN and truncation are refused."""
    good = wire.params_to_bytes(contribution().weights)
    with pytest.raises(Refused, match="format expected 'fedmerge-params/1', got 'fedmerge-contribution/1'"):
        wire.params_from_bytes(GOOD)
    with pytest.raises(Refused, match="harbour: the header describes"):
        wire.params_from_bytes(good[:-1], site="harbour")
    with pytest.raises(Refused, match="harbour: 'a' expected finite values, got 1"):
        wire.params_from_bytes(save({"a": torch.tensor([torch.nan])}, {"fedmerge": '{"format":"fedmerge-params/1"}'}),
                               site="harbour")  # fmt: skip


def test_bad_files_are_refused_with_their_path(tmp_path):
    """Empty, missing, a folder, somebody else's dtype."""
    (tmp_path / "empty").write_bytes(b"")
    save_file({"w": torch.ones(3).double()}, tmp_path / "double")
    for name, sentence in [("empty", "cannot be read"), ("missing", "cannot be read"), (".", "cannot be read"),
                           ("double", "'w' expected dtype F32, got F64")]:  # fmt: skip
        with pytest.raises(Refused, match=sentence):
            wire.read_model(tmp_path / name)


def test_a_file_is_refused_by_its_sender_and_a_header_by_the_readers_own_limit(tmp_path):
    """Where a site's name is given it stands in the place of the path; a header may be held to fewer bytes."""
    path = tmp_path / "c"
    path.write_bytes(GOOD[:-3])
    with pytest.raises(Refused, match=r"^north: the header describes"):
        wire.read(path, site="north")
    with pytest.raises(Refused, match=r"^north: the header expected at most 64 bytes, got \d{3,}"):
        container.read_header(path, who="north", most=64)


def test_a_file_that_is_replaced_is_seen_whole(tmp_path):
    """What was mapped from the old file stays as it was."""
    path = tmp_path / "c"
    wire.write(contribution(), path)
    old = wire.read(path)
    wire.write(contribution(cases=9, weights={n: w + 1 for n, w in contribution().weights.items()}), path)
    assert old == contribution()
    assert wire.read(path).cases == 9


def test_the_header_alone_can_be_read(tmp_path):
    """Names, dtypes and shapes, without a tensor; as `safe_open` sees them."""
    wire.write(contribution(), tmp_path / "c")
    header = container.read_header(tmp_path / "c")
    with safe_open(tmp_path / "c", "pt") as file:
        assert set(file.keys()) == set(header.entries)
        assert file.metadata() == header.metadata


def test_what_a_contribution_says_of_itself_is_read_without_its_numbers(tmp_path):
    """The facts of the header; a file with numbers that are none is told by `read` alone."""
    c, path = contribution(), tmp_path / "c.safetensors"
    path.write_bytes(wire.to_bytes(c)[:-4] + struct.pack("<f", float("nan")))
    found = wire.facts(path, site="north")
    assert (found["cases"], found["fisher_labels"], found["site"]) == (c.cases, c.fisher_labels, c.site)
    with pytest.raises(Refused, match="north"):
        wire.read(path, site="north")
    path.write_bytes(wire.params_to_bytes(c.weights))
    with pytest.raises(Refused, match="north: format expected 'fedmerge-contribution/1'"):
        wire.facts(path, site="north")
