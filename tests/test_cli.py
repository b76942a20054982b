"""The command `fedmerge`: its help, its errors, and what needs no campaign."""

import logging
import subprocess
import sys
import time

import click
import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from fedmerge import cli, params, wire
from fedmerge.cli import progress, screen, simulate
from fedmerge.contribution import Contribution
from fedmerge.errors import ConfigError


def command(*words):
    """Run the command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code or 0


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


@pytest.fixture
def models(tmp_path):
    """Two plain files of weights."""
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, value in zip(paths, (1.0, 3.0)):
        save_file({"conv.weight": torch.full((2, 3), value), "conv.bias": torch.full((2,), value)}, path)
    return paths


def leaves(group, before=""):
    """Name -> command, of all commands and those of the groups (`server init`)."""
    found = {}
    for name, command in group.commands.items():
        whole = f"{before}{name}"
        found |= leaves(command, f"{whole} ") if isinstance(command, click.Group) else {whole: command}
    return found


TOP = typer.main.get_command(cli.app).commands
COMMANDS = leaves(typer.main.get_command(cli.app))


def test_help_lists_every_command(capsys):
    """What runs here without a network comes first, in the order in which one needs it."""
    assert command("--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in TOP)
    alone = [name for name in COMMANDS if name in ("simulate", "check", "phantom", "fuse", "inspect", "predict")]
    assert alone == ["simulate", "check", "phantom", "fuse", "inspect", "predict"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is(name):
    """Command, arguments and options have a help text that ends as a sentence does."""
    assert COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        assert parameter.help, f"{name} {parameter.name}"
        assert parameter.help.endswith("."), f"{name} {parameter.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option(name, capsys, monkeypatch):
    """What can be given is what is printed."""
    monkeypatch.setenv("COLUMNS", "200")
    assert command(*name.split(), "--help") == 0
    shown = capsys.readouterr().out
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in shown


def test_help_does_not_wait_for_torch():
    """The command's modules import neither torch, Flower, MONAI nor matplotlib; help takes under a second."""
    code = (
        "import sys, fedmerge.cli as c; "
        "print([m for m in ('torch', 'flwr', 'monai', 'matplotlib', 'nibabel') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
    times = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "fedmerge.cli", "--help"], capture_output=True, check=True)
        times.append(time.monotonic() - began)
    assert min(times) < 1.0


def test_an_error_of_ours_is_one_sentence_and_code_2(tmp_path, capsys):
    """Nothing but the sentence goes to stderr, nothing to stdout."""
    assert command("inspect", tmp_path / "no.safetensors") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"error: {tmp_path / 'no.safetensors'}: there is no such file\n"


@pytest.mark.parametrize("words", [("--debug", "inspect", "no"), ("inspect", "no", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(words, capsys):
    """The code stays 2."""
    assert command(*words) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_is_a_sentence_and_code_1(models, capsys, monkeypatch):
    """A mistake of ours names its kind and says how to see more."""

    def broken(*_, **__):
        raise KeyError("a mistake")

    monkeypatch.setattr(params, "digest", broken)
    assert command("inspect", models[0]) == 1
    shown = capsys.readouterr().err
    assert shown == "error: unexpected KeyError: 'a mistake'; run with --debug for the traceback\n"


def test_version_is_the_packages(capsys):
    """What is installed is what is printed."""
    from importlib.metadata import version

    assert command("--version") == 0
    assert capsys.readouterr().out == f"fedmerge {version('fedmerge')}\n"


def test_fuse_takes_the_mean(models, tmp_path, capsys):
    """1 and 3 give 2; the file says how it was made."""
    out = tmp_path / "m.safetensors"
    assert command("fuse", *models, "--method", "mean", "--out", out) == 0
    merged, info = wire.read_model(out)
    assert all(torch.equal(value, torch.full_like(value, 2.0)) for value in merged.values())
    assert info["method"] == "mean"
    assert info["of"] == ["a.safetensors", "b.safetensors"]
    assert capsys.readouterr().out == f"{out}: 2 tensors merged from 2 files by mean.\n"


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


@pytest.mark.parametrize(
    ("text", "numbers"), [("", []), ("0", [0]), ("2,0, 1", [2, 0, 1]), ("0-3", [0, 1, 2, 3]), ("1,0-2", [1, 0, 2])]
)
def test_seeds_are_numbers_and_ranges(text, numbers):
    """Commas, ranges, and each number once, in order."""
    assert simulate.numbers(text, "--seeds") == numbers


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        *((text, "--seeds expected whole numbers as in 0,1,2 or 0-4") for text in ("x", "-1", "1-", "1.5", "9" * 5000)),
        ("5-2", "--seeds expected a range that begins with its smaller number, got '5-2'"),
        ("0,3-1", "--seeds expected a range that begins with its smaller number, got '3-1'"),
        ("0-999999999", "--seeds expected at most 1000 numbers, got more with '0-999999999'"),
    ],
)
def test_other_seeds_are_refused_with_the_options_name(text, sentence):
    """The sentence says what it looks like; a range that no machine could run is refused at once."""
    with pytest.raises(ConfigError, match=sentence):
        simulate.numbers(text, "--seeds")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["check", "folder"], "folder: Is a directory"),
        (["simulate", "folder", "--out", "run"], "folder: Is a directory"),
        (["simulate", "--out", "file/sub"], "file/sub: Not a directory"),
        (["simulate", "--out", "/proc/nope"], "/proc/nope: No such file or directory"),
        (["simulate", "--out", "run", "--from", "folder"], "--from expected the folder of an earlier run, got folder"),
        (["simulate", "--out", "run", "--seeds", "5-2"], "--seeds expected a range"),
        (["phantom", "/proc/nope"], "/proc/nope: No such file or directory"),
        (["phantom", "file/sub"], "file/sub: Not a directory"),
        (["phantom", "file"], "file is not an empty folder"),
        (["fuse", "a.safetensors", "b.safetensors", "--out", "file/x.safetensors"], "file: File exists"),
        (["fuse", "a.safetensors", "b.safetensors", "--out", "/proc/nope/x"], "/proc/nope: No such file or directory"),
        (["inspect", "folder"], "folder: expected a safetensors file, got a folder"),
        (["predict", "a.safetensors", "b.safetensors", "--out", "file"], "--out expected a folder, got the file file"),
        (["predict", "folder", "b.safetensors", "--out", "run"], "folder: expected a file, got a folder"),
        (["inspect", "x" * 300], "File name too long"),
    ],
)
@pytest.mark.usefixtures("models")
def test_what_the_system_refuses_is_one_sentence_and_code_2(words, sentence, tmp_path, monkeypatch, capsys):
    """A folder in place of a file, a file in place of a folder, a place where nothing can be written: path and why."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert command(*words) == 2
    shown = capsys.readouterr().err
    assert sentence in shown
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert "unexpected" not in shown


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "a"), "a: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (IsADirectoryError(21, "Is a directory", "temporary", None, "wanted"), "wanted: Is a directory"),
        (ConfigError("a sentence"), "a sentence"),
        (OSError("a socket's"), ""),
        (KeyError("x"), ""),
    ],
)
def test_an_error_has_a_sentence_or_is_unexpected(error, told):
    """Ours and the system's have one; of a replaced file it names the place that was wanted."""
    assert screen.sentence(error) == told


def test_a_folder_that_holds_something_needs_resume(tmp_path):
    """A new or empty folder is fine; anything in it is not, unless the run is continued."""
    simulate.refuse_another_run(tmp_path / "new", resume=False)
    simulate.refuse_another_run(tmp_path, resume=False)
    (tmp_path / "results.json").touch()
    simulate.refuse_another_run(tmp_path, resume=True)
    with pytest.raises(ConfigError, match="--resume continues the run that it holds"):
        simulate.refuse_another_run(tmp_path, resume=False)
    with pytest.raises(ConfigError, match="expected a folder"):
        simulate.refuse_another_run(tmp_path / "results.json", resume=True)


def record(who, what, done, total):
    """A record of progress as sites and server log it."""
    facts = {"who": who, "what": what, "done": done, "total": total}
    return logging.makeLogRecord({"name": progress.LOGGER, "levelno": logging.INFO, **facts})


def test_a_line_a_task_now_and_then():
    """A step a second for twelve seconds: a line at 5 s, at 10 s, and when it ends; a fast task, one line."""
    lines, now = [], [0.0]
    handler = progress.Lines(lines.append, clock=lambda: now[0])
    for step in range(1, 13):
        handler.emit(record("north", "training", step, 12))
        now[0] += 1.0
    handler.emit(record("south", "reading", 1, 1))
    handler.emit(record("south", "reading", 1, 1))
    assert lines == ["north: training 6/12", "north: training 11/12", "north: training 12/12", "south: reading 1/1"]


def test_finished_bars_make_room():
    """After ten tasks, only the last few are still shown; a task that begins anew has one bar."""
    from rich.progress import Progress

    bars = Progress(disable=True)
    handler = progress.Bars(bars)
    for task in range(10):
        for done in (1, 2):
            handler.emit(record("north", f"task {task}", done, 2))
    assert [task.description for task in bars.tasks] == [f"task {i}" for i in (6, 7, 8, 9)]
    handler.emit(record("north", "task 9", 1, 2))
    assert [(t.description, t.completed) for t in bars.tasks][-1] == ("task 9", 1)
    assert len(bars.tasks) == 4


def test_records_are_shown_on_stderr_while_the_block_runs(capsys):
    """Progress and words go to stderr; afterwards the loggers are as they were."""
    logger = logging.getLogger("fedmerge")
    before = (logger.level, list(logger.handlers))
    with progress.shown():
        facts = {"who": "north", "what": "training", "done": 3, "total": 3}
        logging.getLogger(progress.LOGGER).info("north: training 3/3", extra=facts)
        logger.info("harbour: 4 cases")
        logger.error("told by the command itself")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "north: training 3/3\nharbour: 4 cases\n"
    assert (logger.level, list(logger.handlers)) == before


def test_only_our_own_warnings_are_shown(capsys):
    """A library's deprecation is none of the user's business; ours is a line."""
    import warnings

    with screen.warnings_as_sentences(debug=False):
        warnings.simplefilter("always")
        warnings.warn("theirs", DeprecationWarning, stacklevel=1)
        warnings.warn_explicit("ours", UserWarning, cli.__file__, 1)
    assert capsys.readouterr().err == "warning: ours\n"
