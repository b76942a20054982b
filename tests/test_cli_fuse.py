"""`fedmerge fuse` and `fedmerge inspect`: merged files, what they say of themselves, and what is refused."""

import subprocess
import sys

import pytest
import torch
from commandline import command
from safetensors.torch import load_file, save_file

from fedmerge import params, wire
from fedmerge.contribution import Contribution


def contribution(site, seed):
    """A contribution of two layers, a norm and a head."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (4, 1, 3, 3, 3), "norm.weight": (4,), "head.weight": (2, 4, 1, 1, 1)}
    weights = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    fisher = {name: torch.rand(shapes[name], generator=g) + 0.1 for name in ("conv.weight", "norm.weight")}
    return Contribution(
        site=site, net={"name": "made up"}, labels=(f"part of {site}",), channels=("T1",), cases=40,
        ancestor=f"sha256:{'0' * 64}", parent=f"sha256:{'0' * 64}", weights=weights, fisher=fisher,
        fisher_labels="sampled", settings=f"sha256:{'1' * 64}",
    )  # fmt: skip


def test_fuse_takes_the_mean(models, tmp_path, capsys):
    """1 and 3 give 2; the file says how it was made."""
    out = tmp_path / "m.safetensors"
    assert command("fuse", *models, "--method", "mean", "--out", out) == 0
    merged, info = wire.read_model(out)
    assert all(torch.equal(value, torch.full_like(value, 2.0)) for value in merged.values())
    assert info["method"] == "mean"
    assert info["of"] == ["a.safetensors", "b.safetensors"]
    assert capsys.readouterr().out == f"{out}: 2 tensors merged from 2 files by mean.\n"


def test_fuse_warns_of_models_without_a_common_start(tmp_path, capsys):
    """Plain files say nothing of where they began; their weights do. What is merged is merged all the same."""
    start, change, other = (torch.randn(30, 20, generator=torch.Generator().manual_seed(k)) for k in range(3))
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("start", "kin", "stranger", "out")}
    for name, value in (("start", start), ("kin", start + 2 * change), ("stranger", other)):
        save_file({"conv.weight": value, "norm.bias": torch.ones(20)}, paths[name])
    assert command("fuse", paths["start"], paths["kin"], "--out", paths["out"]) == 0
    assert capsys.readouterr().err == ""
    assert command("fuse", paths["start"], paths["stranger"], "--out", paths["out"], "--overwrite") == 0
    assert "stranger.safetensors do not look as if their trainings had begun" in capsys.readouterr().err
    torch.testing.assert_close(load_file(paths["out"])["conv.weight"], (start + other) / 2)


def test_fuse_takes_given_ratios(models, tmp_path):
    """A quarter of 1 and three quarters of 3 are 2.5."""
    out = tmp_path / "m.safetensors"
    assert command("fuse", *models, "--ratios", "1,3", "--out", out) == 0
    assert load_file(out)["conv.bias"].tolist() == [2.5, 2.5]


def test_fuse_weighs_contributions_by_their_fisher(tmp_path, capsys):
    """imm-mode of two contributions is sum F theta / sum F with mean-normalised F; heads stay out, told."""
    made = [contribution("north", 1), contribution("south", 2)]
    paths = [tmp_path / f"{c.site}.safetensors" for c in made]
    for c, path in zip(made, paths):
        wire.write(c, path)
    out = tmp_path / "m.safetensors"
    assert command("fuse", *paths, "--method", "imm-mode", "--out", out) == 0
    name = "conv.weight"
    fisher = [c.fisher[name] / c.fisher[name].mean() for c in made]
    expected = sum(f * c.weights[name] for f, c in zip(fisher, made)) / sum(fisher)
    merged = load_file(out)
    torch.testing.assert_close(merged[name], expected)
    assert "head.weight" not in merged
    assert "left out: head.weight" in capsys.readouterr().out


def test_fuse_takes_fishers_from_files_of_their_own(models, tmp_path):
    """A Fisher that differs by element pulls each element to the model that cares."""
    fishers = [tmp_path / "fa.safetensors", tmp_path / "fb.safetensors"]
    for path, bias in zip(fishers, ([1.0, 3.0], [3.0, 1.0])):
        save_file({"conv.weight": torch.ones(2, 3), "conv.bias": torch.tensor(bias)}, path)
    out = tmp_path / "m.safetensors"
    words = ["--fisher", fishers[0], "--fisher", fishers[1]]
    assert command("fuse", *models, "--method", "imm-mode", *words, "--out", out) == 0
    # (1/4 * 1 + 3/4 * 3, 3/4 * 1 + 1/4 * 3)
    assert load_file(out)["conv.bias"].tolist() == pytest.approx([2.5, 1.5])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a.safetensors", "--out", "m"], "a merge needs two files or more, got 1"),
        (["a.safetensors", "c", "--out", "m"], "there is no such file"),
        (["a.safetensors", "b.safetensors", "--out", "b.safetensors"], "which is being merged"),
        (["a.safetensors", "b.safetensors", "--out", "text"], "exists already: --overwrite replaces it"),
        (["a.safetensors", "text", "--out", "m"], "text"),
        (["a.safetensors", "b.safetensors", "--out", "m", "--ratios", "1"], "expected 2 numbers, one a file, got 1"),
        (["a.safetensors", "b.safetensors", "--out", "m", "--ratios", "1,x"], "expected numbers as in 0.3,0.7"),
        (["a.safetensors", "b.safetensors", "--out", "m", "--ratios", "0,0"], "at least 0, not all 0"),
        (["a.safetensors", "b.safetensors", "--out", "m", "--method", "imm-mode"], "Fisher"),
        (["a.safetensors", "b.safetensors", "--out", "m", "--fisher", "text"], "--fisher belongs to --method imm-mode"),
        (["a.safetensors", "b.safetensors", "--out", ".", "--overwrite"], "--out expected a file, got the folder ."),
        (["a.safetensors", ".", "--out", "m"], ".: expected a safetensors file, got a folder"),
        (["a.safetensors", "b.safetensors", "--out", "text/m"], "text: "),
    ],
)
@pytest.mark.usefixtures("models")
def test_what_cannot_be_fused_is_told_in_a_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    """Code 2, one line, and nothing is written or lost."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("these are no weights")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert command("fuse", *words) == 2
    shown = capsys.readouterr().err
    assert sentence in shown
    assert shown.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_fuse_replaces_a_file_when_told_to(models, tmp_path):
    """--overwrite is needed, and enough."""
    out = tmp_path / "m.safetensors"
    out.write_text("old")
    assert command("fuse", *models, "--out", out, "--overwrite") == 0
    assert set(load_file(out)) == {"conv.weight", "conv.bias"}


def test_inspect_shows_a_contribution(tmp_path, capsys):
    """Facts, digest, shapes and the Fisher's least, mean and greatest value; a head has none."""
    made = contribution("north", 1)
    wire.write(made, tmp_path / "c.safetensors")
    assert command("inspect", tmp_path / "c.safetensors") == 0
    shown = capsys.readouterr().out
    for text in (
        "fedmerge-contribution/1",
        "part of north",
        "sampled",
        params.digest(made.weights),
        "4 x 1 x 3 x 3 x 3",
    ):
        assert text in shown
    f = made.fisher["conv.weight"].double()
    row = next(line for line in shown.splitlines() if line.strip().startswith("conv.weight"))
    assert row.split()[-3:] == [f"{value.item():.3g}" for value in (f.min(), f.mean(), f.max())]
    head = next(line for line in shown.splitlines() if line.strip().startswith("head.weight"))
    assert head.split()[-1] == "F32"


def test_inspect_shows_any_safetensors(tmp_path, capsys):
    """Other programs' files, half precision and metadata included; no digest where it would not be float32's."""
    path = tmp_path / "theirs.safetensors"
    save_file({"[odd] name": torch.zeros((), dtype=torch.bfloat16)}, path, metadata={"made": "elsewhere"})
    assert command("inspect", path) == 0
    shown = capsys.readouterr().out
    for text in ("[odd] name", "scalar", "BF16", "elsewhere"):
        assert text in shown
    assert "digest" not in shown


def test_inspect_of_a_file_that_is_something_else_is_a_sentence(tmp_path, capsys):
    """No traceback of the safetensors library."""
    (tmp_path / "x").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    assert command("inspect", tmp_path / "x") == 2
    assert "not a safetensors file" in capsys.readouterr().err


def test_tables_are_not_cut_in_a_pipe(tmp_path):
    """A long name is printed whole where nobody looks at a terminal."""
    name = "layer." * 60 + "weight"
    save_file({name: torch.zeros(2)}, tmp_path / "long.safetensors")
    done = subprocess.run(
        [sys.executable, "-m", "fedmerge.cli", "inspect", "long.safetensors"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert name in done.stdout
