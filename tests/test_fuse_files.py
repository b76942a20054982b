"""Fusing files: the same numbers as in memory, little memory, and what is refused."""

import json
import threading
from pathlib import Path

import pytest
import small_nets
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedmerge import container, wire
from fedmerge.contribution import Contribution
from fedmerge.errors import ConfigError, Refused
from fedmerge.fusion import blocks, mixing
from fedmerge.fusion.files import fuse_files

SHAPES = {"a.weight": (64, 50, 9), "a.bias": (64,), "b.weight": (300_000,), "scale": ()}


def save_models(folder, T, dtype=torch.float32, same=False):
    """T files of weights and T of Fishers, and what is in them; one tensor is longer than a block."""
    weights, fishers, models, precisions = [], [], [], []
    for t in range(T):
        g = torch.Generator().manual_seed(0 if same else t)
        models.append({name: torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for name, s in SHAPES.items()})
        precisions.append({name: torch.rand(s, generator=g) ** 9 * 10**-t for name, s in SHAPES.items()})
        weights.append(folder / f"w{t}.safetensors")
        fishers.append(folder / f"f{t}.safetensors")
        save_file(models[-1], weights[-1])
        save_file(precisions[-1], fishers[-1])
    return weights, fishers, models, precisions


def contribution(site, seed, ancestor="sha256:0", **changes):
    """A contribution of the small net, with a Fisher of P and of the norms."""
    own = small_nets.weights(seed=seed)
    f = small_nets.fishers(own, seed) | {name: torch.rand(own[name].shape) for name in small_nets.NORMS}
    facts = {"net": {"name": "small"}, "labels": ("organ", "lesion"), "channels": ("T1",), "cases": 3}
    digests = {"ancestor": ancestor, "parent": ancestor, "settings": "sha256:1"}
    made = {"site": site, **facts, **digests, "weights": own, "fisher": f, "fisher_labels": "sampled", **changes}
    return Contribution(**made)


@pytest.mark.parametrize("T", [2, 5])
@pytest.mark.parametrize("rule", ["mean", "mode"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_files_are_fused_as_models_in_memory_are(tmp_path, T, rule, dtype):
    """`mixing.fuse` of grain model gives the same to rounding."""
    weights, fishers, models, precisions = save_models(tmp_path, T, dtype)
    out, ratios = tmp_path / "out.safetensors", [1.0 + t for t in range(T)]
    report = fuse_files(weights, out, rule=rule, ratios=ratios, fishers=fishers if rule == "mode" else None)
    mix = mixing.prepare(models, precisions if rule == "mode" else None, list(SHAPES), rule=rule, grain="model")
    expected = mixing.fuse(mix, mixing.given(mix, ratios))
    got = load_file(out)
    assert set(report.fused) == set(SHAPES) == set(got)
    assert report.ratios == pytest.approx([r / sum(ratios) for r in ratios])
    for name in SHAPES:
        assert got[name].dtype == dtype
        # the Fishers here are float32, and their means are not taken in the same way
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-6 if rule == "mode" else 5e-7)


@pytest.mark.parametrize("rule", ["mean", "mode"])
def test_a_single_ratio_returns_that_file_bit_for_bit(tmp_path, rule):
    """And the others need not be read."""
    weights, fishers, models, _ = save_models(tmp_path, 3)
    fuse_files(weights, tmp_path / "out", rule=rule, ratios=[0, 1, 0], fishers=fishers if rule == "mode" else None)
    got = load_file(tmp_path / "out")
    assert all(torch.equal(got[name], models[1][name]) for name in SHAPES)


@pytest.mark.parametrize("rule", ["mean", "mode"])
def test_equal_files_return_themselves(tmp_path, rule):
    """Bit for bit."""
    weights, fishers, models, _ = save_models(tmp_path, 3, same=True)
    extra = fishers if rule == "mode" else None
    fuse_files(weights, tmp_path / "out", rule=rule, ratios=[0.2, 0.5, 0.3], fishers=extra)
    got = load_file(tmp_path / "out")
    assert all(torch.equal(got[name], models[0][name]) for name in SHAPES)


@pytest.mark.parametrize("rule", ["mean", "mode"])
def test_the_order_of_the_files_changes_nothing(tmp_path, rule):
    """4 float32 ulp of the largest operand."""
    weights, fishers, models, _ = save_models(tmp_path, 5)
    there, back = (fishers, fishers[::-1]) if rule == "mode" else (None, None)
    fuse_files(weights, tmp_path / "one", rule=rule, ratios=[1, 2, 3, 4, 5], fishers=there)
    fuse_files(weights[::-1], tmp_path / "two", rule=rule, ratios=[5, 4, 3, 2, 1], fishers=back)
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    for name in SHAPES:
        largest = torch.stack([model[name] for model in models]).abs().amax(0)
        ulp = torch.nextafter(largest, torch.tensor(torch.inf)) - largest
        assert ((one[name] - two[name]).abs() <= 4 * ulp).all()


def test_of_contributions_what_has_no_fisher_stays_out(tmp_path):
    """Heads belong to their tasks; body and norms are fused under either rule."""
    paths = [tmp_path / "north", tmp_path / "south"]
    made = [contribution("north", 0), contribution("south", 1)]
    for c, path in zip(made, paths):
        wire.write(c, path)
    names = [*small_nets.FUSABLE, *small_nets.NORMS]
    for rule in ("mean", "mode"):
        report = fuse_files(paths, tmp_path / "out", rule=rule, metadata={"method": "imm-mode"})
        assert sorted(report.fused) == sorted(names)
        assert set(report.left) == set(small_nets.HEADS)
        assert "no Fisher" in report.left["head.bias"]
        got, info = wire.read_model(tmp_path / "out")
        assert info == {"method": "imm-mode"}
        fishers = [c.fisher for c in made] if rule == "mode" else None
        mix = mixing.prepare([c.weights for c in made], fishers, names, rule=rule, grain="model")
        for name, value in mixing.fuse(mix, mixing.uniform(mix)).items():
            torch.testing.assert_close(got[name], value, rtol=0, atol=5e-7)


@pytest.mark.parametrize("turned", [False, True])
def test_the_mean_of_a_plain_model_and_a_contribution_needs_no_fisher(tmp_path, turned):
    """Body and norms are halved, in either order; the contribution's heads stay out, since it says which they are."""
    own, c = small_nets.weights(seed=3), contribution("north", 0)
    save_file(own, tmp_path / "plain")
    wire.write(c, tmp_path / "north")
    paths = [tmp_path / "plain", tmp_path / "north"]
    report = fuse_files(paths[::-1] if turned else paths, tmp_path / "out")
    assert set(report.fused) == {*small_nets.FUSABLE, *small_nets.NORMS}
    assert set(report.left) == set(small_nets.HEADS)
    for name, value in load_file(tmp_path / "out").items():
        torch.testing.assert_close(value, (own[name] + c.weights[name]) / 2)
    with pytest.raises(Refused, match=r"no tensor can be fused with rule mode: it has no Fisher in .*plain"):
        fuse_files(paths, tmp_path / "none", rule="mode")


def test_under_the_mean_a_withheld_fisher_takes_nothing_away(tmp_path):
    """A contribution with a Fisher still says which tensors are heads; the one without is asked for none."""
    wire.write(contribution("north", 0), tmp_path / "north")
    wire.write(contribution("south", 1, fisher={}, fisher_labels="none"), tmp_path / "south")
    report = fuse_files([tmp_path / "north", tmp_path / "south"], tmp_path / "out")
    assert set(report.fused) == {*small_nets.FUSABLE, *small_nets.NORMS}


def test_contributions_without_a_common_ancestor_are_refused(tmp_path):
    """The sentence names both files."""
    wire.write(contribution("north", 0), tmp_path / "north")
    wire.write(contribution("south", 1, ancestor="sha256:9"), tmp_path / "south")
    with pytest.raises(Refused, match=r"north and .*south share no ancestor: sha256:0 and sha256:9"):
        fuse_files([tmp_path / "north", tmp_path / "south"], tmp_path / "out", rule="mode")
    assert not (tmp_path / "out").exists()


def test_what_the_files_do_not_share_is_reported_and_left_out(tmp_path):
    """Missing names, other shapes and dtypes, differing counters, batch statistics; equal counters are copied."""
    shared = {"w": torch.ones(3), "count": torch.tensor([7]), "bn.running_mean": torch.ones(3)}
    save_file({**shared, "x": torch.ones(2), "stem": torch.ones(3, 1), "n": torch.tensor([1]), "h": torch.ones(2)},
              tmp_path / "a")  # fmt: skip
    save_file({**shared, "y": torch.ones(2), "stem": torch.ones(3, 2), "n": torch.tensor([2]),
               "h": torch.ones(2, dtype=torch.float16)}, tmp_path / "b")  # fmt: skip
    report = fuse_files([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert (report.fused, report.copied) == (("w",), ("count",))
    assert set(report.left) == {"x", "y", "stem", "n", "h", "bn.running_mean"}
    assert "F32 (3, 1)" in report.left["stem"]
    assert load_file(tmp_path / "out")["count"].item() == 7


def test_tensors_of_several_widths_stay_readable(tmp_path):
    """Three booleans, named first, do not push the floats off their alignment."""
    tensors = {"a": torch.tensor([True, False, True]), "b": torch.ones(2), "c": torch.ones(2).double()}
    tensors["d"] = torch.ones(1).half()
    for name in "xy":
        save_file(tensors, tmp_path / name)
    fuse_files([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    got = load_file(tmp_path / "out")
    assert all(torch.equal(got[name], value) for name, value in tensors.items())
    header = container.read_header(tmp_path / "out")
    assert all(entry.start % container.SIZES[entry.dtype] == 0 for entry in header.entries.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_averaged_in_float32(tmp_path, dtype):
    """The result is the float32 mean, rounded once."""
    a, b = torch.randn(1000).to(dtype), torch.randn(1000).to(dtype)
    save_file({"w": a}, tmp_path / "a")
    save_file({"w": b}, tmp_path / "b")
    fuse_files([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out")["w"], ((a.float() + b.float()) / 2).to(dtype))


@pytest.mark.parametrize("scale", [1e-38, 1e36])
def test_fishers_at_the_ends_of_float32_are_normalised_all_the_same(tmp_path, scale):
    """Their mean is beyond what float32 can divide by or add up."""
    weights, _, models, _ = save_models(tmp_path, 2)
    fishers = [{"b.weight": (torch.rand(300_000, generator=torch.Generator().manual_seed(t)) + 0.5) * scale}
               for t in range(2)]  # fmt: skip
    paths = [tmp_path / f"g{t}" for t in range(2)]
    for f, path in zip(fishers, paths):
        save_file(f, path)
    fuse_files(weights, tmp_path / "out", rule="mode", fishers=paths)
    mix = mixing.prepare(models, fishers, ["b.weight"], grain="model")
    expected = mixing.fuse(mix, mixing.uniform(mix))["b.weight"]
    torch.testing.assert_close(load_file(tmp_path / "out")["b.weight"], expected, rtol=0, atol=1e-6)


def spoilt(tmp_path, name=None, index=0, weight=None, fisher=None, zero=False):
    """Two models with their Fishers; the second has a number put in, or Fishers of zero."""
    weights, fishers, models, precisions = save_models(tmp_path, 2)
    if weight is not None:
        models[1][name].flatten()[index] = weight
    if fisher is not None:
        precisions[1][name].flatten()[index] = fisher
    for key in SHAPES if zero is True else ([name] if zero else []):
        precisions[1][key].zero_()
    save_file(models[1], weights[1])
    save_file(precisions[1], fishers[1])
    return weights, fishers


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ({"name": "b.weight", "index": 299_999, "weight": torch.nan}, r"w1\S* 'b.weight' expected finite"),
        ({"name": "a.bias", "weight": torch.inf}, r"w1\S* 'a.bias' expected finite"),
        ({"name": "b.weight", "index": 270_000, "fisher": -1e-8}, r"f1|w1.*fisher\['b.weight'\] expected no negative"),
        ({"name": "a.bias", "fisher": torch.nan}, r"w1\S* fisher\['a.bias'\] expected finite"),
        ({"zero": True}, r"w1\S* the whole Fisher is zero"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*all zero")
def test_bad_numbers_are_refused_and_nothing_is_left_behind(tmp_path, what, sentence):
    """The sentence names file and tensor; the output does not appear, and no temporary file stays."""
    weights, fishers = spoilt(tmp_path, **what)
    before = set(tmp_path.iterdir())
    with pytest.raises(Refused, match=sentence):
        fuse_files(weights, tmp_path / "out", rule="mode", fishers=fishers)
    assert set(tmp_path.iterdir()) == before


def test_one_tensor_without_a_fisher_value_counts_as_flat(tmp_path):
    """A warning names file and tensor, and the other models keep their Fishers."""
    weights, fishers = spoilt(tmp_path, name="a.bias", zero="one")
    with pytest.warns(UserWarning, match=r"w1\S* fisher\['a.bias'\] is all zero"):
        fuse_files(weights, tmp_path / "out", rule="mode", fishers=fishers)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"rule": "median"}, ConfigError, "rule expected one of mean, mode"),
        ({"ratios": [1.0]}, ConfigError, "ratios expected 2 numbers, one a file, got 1"),
        ({"ratios": [0.0, 0.0]}, ConfigError, "not all zero"),
        ({"rule": "mode"}, Refused, "no tensor can be fused with rule mode: it has no Fisher in"),
        ({"rule": "mode", "fishers": []}, ConfigError, "expected 2 Fisher files"),
        ({"rule": "mean", "fishers": ["f0", "f1"]}, ConfigError, "rule mean uses no Fisher: .* got 2"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path, change, error, sentence):
    """Before anything is written."""
    weights = save_models(tmp_path, 2)[0]
    with pytest.raises(error, match=sentence):
        fuse_files(weights, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path):
    """A pickle, for instance; the sentence names the file."""
    weights = save_models(tmp_path, 1)[0]
    torch.save({"w": torch.ones(3)}, tmp_path / "model.pt")
    with pytest.raises(Refused, match=r"model\.pt: the header expected at most"):
        fuse_files([*weights, tmp_path / "model.pt"], tmp_path / "out")
    with pytest.raises(Refused, match=r"nowhere: the file cannot be read"):
        fuse_files([*weights, tmp_path / "nowhere"], tmp_path / "out")


def test_an_input_may_be_the_output(tmp_path):
    """The file is replaced when the new one is whole."""
    weights, _, models, _ = save_models(tmp_path, 2)
    fuse_files(weights, weights[0], rule="mean")
    expected = (models[0]["a.bias"] + models[1]["a.bias"]) / 2
    torch.testing.assert_close(load_file(weights[0])["a.bias"], expected)
    with safe_open(weights[0], "pt") as file:
        assert json.loads(file.metadata()["fedmerge"]) == {"format": "fedmerge-model/1"}


def test_a_header_that_does_not_end_on_a_word_is_read(tmp_path):
    """Tensors that are not aligned in the file are copied first."""
    entries = '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    entries += " " * ((3 - len(entries)) % 8)
    for name, values in (("a", [1.0, 2.0]), ("b", [3.0, 4.0])):
        data = len(entries).to_bytes(8, "little") + entries.encode() + torch.tensor(values).numpy().tobytes()
        (tmp_path / name).write_bytes(data)
    fuse_files([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert load_file(tmp_path / "out")["w"].tolist() == [2.0, 3.0]


def test_threads_are_put_back_and_progress_is_told(tmp_path):
    """Torch's number of threads is the same afterwards, after an error too."""
    weights = save_models(tmp_path, 2)[0]
    before, seen = torch.get_num_threads(), []
    fuse_files(weights, tmp_path / "out", progress=seen.append)
    assert torch.get_num_threads() == before
    assert seen == [1, 2, 3, 4]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
def test_anonymous_memory_stays_below_the_bound(tmp_path):
    """Less than one output model above the baseline, where (2 T + 2) of the largest tensor more are allowed."""
    T, size = 3, 3_000_000
    for t in range(T):
        save_file({f"l{i}": torch.rand(size) for i in range(4)}, tmp_path / f"w{t}")
    paths = [tmp_path / f"w{t}" for t in range(T)]
    fuse_files(paths, tmp_path / "out", rule="mode", fishers=paths)  # whatever torch sets up once
    peak, stop = [anonymous()], threading.Event()

    def watch():
        while not stop.wait(0.001):
            peak.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    fuse_files(paths, tmp_path / "out", rule="mode", fishers=paths)
    stop.set()
    watcher.join()
    assert len(peak) > 5
    assert max(peak) - peak[0] < 4 * 4 * size
    assert max(peak) - peak[0] < 6 * blocks.BLOCK * 4  # what it really takes: a few blocks


def anonymous():
    """Anonymous memory of this process in bytes."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("RssAnon"))
    return 1024 * int(line.split()[1])
