"""The command `fedmerge`: its help, its errors, and what needs no campaign."""

import resource
import subprocess
import sys

import click
import pytest
import typer
from commandline import command, leaves

from fedmerge import cli, params
from fedmerge.cli import screen, simulate
from fedmerge.errors import ConfigError

TOP = typer.main.get_command(cli.app).commands
COMMANDS = leaves()


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
    """The command's modules import neither torch, Flower, MONAI nor matplotlib; help takes under a processor second."""
    code = (
        "import sys, fedmerge.cli as c; "
        "print([m for m in ('torch', 'flwr', 'monai', 'matplotlib', 'nibabel') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "fedmerge.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
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


def test_only_our_own_warnings_are_shown(capsys):
    """A library's deprecation is none of the user's business; ours is a line."""
    import warnings

    with screen.warnings_as_sentences(debug=False):
        warnings.simplefilter("always")
        warnings.warn("theirs", DeprecationWarning, stacklevel=1)
        warnings.warn_explicit("ours", UserWarning, cli.__file__, 1)
    assert capsys.readouterr().err == "warning: ours\n"
