"""A site takes its contributions back: what is deleted, what is named, what the audit log says, and what a run does."""

import shutil

import pytest
from commandline import command
from small import campaign
from test_campaign import run

from fedmerge import wire
from fedmerge.errors import ConfigError
from fedmerge.trust import audit, keys
from server import home as homes
from server import record, withdrawal

NOW = "2030-01-02T03:04:05Z"


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A server's home with two runs of the same sources, a chain and side by side, and one of south alone."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "consortium.toml").write_text('name = "coast"\nhosts = ["localhost"]\n')
    keys.keep(folder / "keys/audit.key", keys.new_signing())
    text = campaign(small).read_text()
    files = {"chain": text, "side": text.replace('name = "small"', 'name = "side"\nschedule = "parallel"')}
    start, end = text.index('[[site]]\nname = "north"'), text.index('[[site]]\nname = "south"')
    files["south"] = text[:start] + text[end:]
    for name, plan in files.items():
        path = small / f"{name}.toml"
        path.write_text(plan)
        run(path, folder / "runs" / name / "out", "mean,transfer:south")
        shutil.copy(path, folder / "runs" / name / "campaign.toml")
    return folder


@pytest.fixture
def home(finished, tmp_path):
    """A copy of that home, to change."""
    shutil.copytree(finished, tmp_path / "home")
    return homes.open(tmp_path / "home")


def by_site(home, name):
    """Site -> the path of its contribution in a run."""
    return {wire.read(p).site: p for p in (home.runs / name / "out/server/contributions").iterdir()}


def test_a_look_changes_nothing(home):
    """What would be deleted is found without touching it."""
    before = {p: p.read_bytes() for p in home.folder.rglob("*") if p.is_file()}
    found = withdrawal.look(home.runs, "north")
    assert {one.run for one in found.taken} == {"chain", "side"}
    assert {p: p.read_bytes() for p in home.folder.rglob("*") if p.is_file()} == before


def test_models_that_came_from_a_site_are_found_by_digest_in_a_chain_through_the_next_site_too(home):
    """North's body is in every model of the chain; side by side it is in the merge only; and nowhere in south's run."""
    found = withdrawal.look(home.runs, "north")
    heirs = {(heir.run, heir.kind, heir.what) for heir in found.heirs}
    assert heirs == {
        ("chain", "contribution", "of south, trained from it"),
        ("chain", "merged model", "mean-seed0-chain0-n2"),
        ("chain", "fine-tuned model", "mean-seed0-chain0-n2"),
        ("chain", "fine-tuned model", "transfer-south-seed0-chain0-n2"),
        ("chain", "copy", "of the contribution of north, for the fit beside the data"),
        ("side", "merged model", "mean-seed0-chain0-n2"),
        ("side", "fine-tuned model", "mean-seed0-chain0-n2"),
        ("side", "copy", "of the contribution of north, for the fit beside the data"),
    }
    by_run = {one.run: one.digest for one in found.taken}
    assert all(heir.digests == (by_run[heir.run],) for heir in found.heirs)


def test_fine_tuned_models_that_stayed_at_their_target_are_named_from_the_results(home):
    """The server holds no file of them; the rows say what they were made of."""
    for model in (home.runs / "side/out/models").rglob("*.fine-tuned.safetensors"):
        model.unlink()
    found = withdrawal.look(home.runs, "north")
    kept = [heir for heir in found.heirs if (heir.run, heir.kind) == ("side", "fine-tuned model")]
    assert [(heir.what, heir.where) for heir in kept] == [("mean-seed0-chain0-n2", "harbour")]


def test_contributions_are_deleted_and_everything_is_in_the_audit_log(home):
    """North's files are gone from both runs, south's stay; a line for each deletion and each model; the log holds."""
    south = {name: by_site(home, name)["south"] for name in ("chain", "side", "south")}
    found = withdrawal.look(home.runs, "north")
    withdrawal.withdraw(found, home.runs, NOW, record.of(home))
    assert withdrawal.look(home.runs, "north").taken == []
    assert all(path.exists() for path in south.values())
    assert not any("north" in by_site(home, name) for name in south)
    report = audit.verify(home.audit, keys.read_signing(home.audit_key).public_key())
    assert report.sound
    assert [line.what for line in report.lines].count("contribution withdrawn") == 2
    assert [line.what for line in report.lines].count("came from a withdrawn contribution") == len(found.heirs)
    assert {line.digest for line in report.lines} == {one.digest for one in found.taken}
    assert all((line.way, line.peer) == ("note", "north") for line in report.lines)


def test_a_run_that_is_resumed_goes_on_without_the_site(home, small):
    """Nothing asks for it again: the run's merge is south's alone, and its results say since when."""
    withdrawal.withdraw(withdrawal.look(home.runs, "north"), home.runs, NOW, record.of(home))
    results = run(small / "chain.toml", home.runs / "chain/out", "mean,transfer:south")
    assert [(one["site"], one["reason"]) for one in results["left_out"]] == [
        ("north", f"left out by the coordinator on {NOW}, withdrawn")
    ]
    assert all(list(row["contributions"]) == ["south"] for row in results["rows"])
    alone = run(small / "south.toml", home.runs / "south/out", "mean,transfer:south")
    assert [row["dice"] for row in results["rows"]] == [row["dice"] for row in alone["rows"]]


def test_a_withdrawal_reaches_what_other_runs_have_reused(home, small):
    """A second place of a contribution in the store of a later run goes as well."""
    out = home.runs / "again/out"
    run(small / "side.toml", out, "mean", reuse=str(home.runs / "side/out"))
    assert list((out / "server/reused").iterdir())
    found = withdrawal.look(home.runs, "north")
    assert {one.run for one in found.taken} == {"chain", "side", "again"}
    withdrawal.withdraw(found, home.runs, NOW, record.of(home))
    assert [wire.read(path).site for path in (out / "server/reused").iterdir()] == ["south"]


def test_a_run_that_is_under_way_has_to_be_stopped_first(home):
    """Nothing is deleted under a campaign's feet."""
    (home.runs / "side/run.json").write_text('{"state": "running"}')
    with pytest.raises(ConfigError, match="the run side uses contributions of north: stop it first"):
        withdrawal.withdraw(withdrawal.look(home.runs, "north"), home.runs, NOW, record.of(home))
    assert "north" in by_site(home, "chain")


def test_the_command_lists_deletes_and_says_so(home, capsys):
    """`--dry-run` deletes nothing; then the table of models; then there is nothing left to withdraw."""
    assert command("withdraw", "north", "--server", home.folder, "--dry-run") == 0
    assert "2 contributions to delete" in capsys.readouterr().out
    assert command("withdraw", "north", "--server", home.folder) == 0
    told = capsys.readouterr().out
    assert "2 contributions deleted; what came from them (8) stays where it is, and is in the audit log." in told
    assert "transfer-south-seed0-chain0-n2" in told
    assert command("withdraw", "north", "--server", home.folder) == 2
    assert "no run of coast has a contribution of north" in capsys.readouterr().err


def test_the_word_on_held_weights_is_a_command_by_the_runs_name_or_folder(home, capsys):
    """`leave-out` writes the word and an audit line; nothing held to release, and a run that is not there, say so."""
    assert command("server", "leave-out", "chain", "north", "--server", home.folder) == 0
    assert audit.read(home.audit)[-1].reason == "by the coordinator, in the run chain"
    assert command("server", "release", home.runs / "side/out", "north") == 2
    assert "no weights of north are held; held are none" in capsys.readouterr().err
    assert command("server", "release", "nowhere", "north", "--server", home.folder) == 2
    assert "there is no run nowhere; the server has chain, side, south" in capsys.readouterr().err
