"""`fedmerge report` on what real runs leave: simulations of both tasks, a server's runs, and a target's home."""

import json
import re
import shutil

import agents
import pytest
import small_pictures
from commandline import command
from made_run import write
from small import campaign, hospitals
from test_campaign import run

from fedmerge.pages import viewer
from sites import config, recalled


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny hospitals."""
    return hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def simulated(data, tmp_path_factory):
    """The folder of a small simulation, and its results."""
    out = tmp_path_factory.mktemp("runs") / "small"
    return out, run(campaign(data), out, "none,t-imm")


def carried(page):
    """The test cases that a page carries."""
    text = page.read_text()
    return [
        json.loads(one) for one in re.findall(r'<script type="application/json" id="case-\d+">(.*?)</script>', text)
    ]


def test_the_page_of_a_simulation_has_its_test_cases_with_scores(simulated, capsys):
    """All of them, from the lowest score on, with the predictions of every method, and the word on top."""
    out, found = simulated
    assert command("report", out) == 0
    shown = carried(out / "report.html")
    (last,) = [r for r in found["rows"] if (r["method"], r["stage"]) == ("t-imm", "fine-tuned")]
    scored = {case["case"]: sum(case["dice"].values()) / 2 for case in last["cases"]}
    assert [one["case"] for one in shown] == sorted(scored, key=lambda case: (scored[case], case))
    for one in shown:
        assert set(one["found"]) == {"none", "t-imm"}
        assert one["scores"]["t-imm"]["dice"] == pytest.approx(scored[one["case"]], abs=1e-4)
    assert "it must not leave harbour" in capsys.readouterr().out
    assert "it must not leave harbour" in (out / "report.html").read_text().partition("<nav")[0]


def test_the_timeline_of_a_run_is_in_order_and_tells_who_trained(simulated):
    """Sources train one after the other, the target comes behind them, and every ask was answered."""
    lines = simulated[1]["timeline"]
    begun = {line["site"]: line["begin"] for line in reversed(lines) if line["what"] in ("contribution", "fine-tuning")}
    assert begun["north"] < begun["south"] < begun["harbour"]
    assert all(line["begin"] <= line["end"] and line["failed"] == 0 for line in lines)
    rows = {line["about"] for line in lines if line["what"] == "fine-tuning"}
    assert rows == {"none-seed0-chain0-n2", "t-imm-seed0-chain0-n2"}


def test_a_page_without_images_and_one_of_fewer_cases(simulated, tmp_path):
    """`--no-images` leaves them out and says so; `--cases` takes so many."""
    out, _ = simulated
    assert command("report", out, "--out", tmp_path / "bare.html", "--no-images") == 0
    assert carried(tmp_path / "bare.html") == []
    assert "no images. They were not asked for." in (tmp_path / "bare.html").read_text()
    assert command("report", out, "--out", tmp_path / "two.html", "--cases", 2) == 0
    assert len(carried(tmp_path / "two.html")) == 2


def test_what_is_there_is_kept_unless_it_may_be_replaced(simulated, tmp_path, capsys):
    """A named page is not replaced unasked, a run's own is."""
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert command("report", simulated[0], "--out", page) == 2
    assert page.read_text() == "mine"
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert command("report", simulated[0], "--out", page, "--overwrite", "--no-images") == 0
    assert command("report", tmp_path / "nothing") == 2
    assert command("report", tmp_path) == 2


def test_niivue_draws_where_it_was_built_in_and_is_missed_by_name_where_it_was_not(
    simulated, tmp_path, capsys, monkeypatch
):
    """`auto` takes what is there, `own` never NiiVue; asking for what is missing says how it is built."""
    out, page, file = simulated[0], tmp_path / "page.html", tmp_path / "niivue.js"
    monkeypatch.setattr(viewer, "NIIVUE", file)

    def made(*how):
        assert command("report", out, "--out", page, "--overwrite", *how) == 0
        return page.read_text()

    assert command("report", out, "--out", page, "--viewer", "niivue") == 2
    assert "make viewer" in capsys.readouterr().err
    assert not page.exists()
    without = made()
    file.write_text("let built = 'in';")
    assert "let built = 'in';" in made()
    assert "let built = 'in';" in made("--viewer", "niivue")
    assert made("--viewer", "own").count("<script>") == without.count("<script>") == 1
    assert "Drawn by NiiVue" not in without
    assert "let built" not in made("--no-images")


def test_predictions_or_images_that_are_gone_are_told_and_the_page_is_made(tmp_path):
    """Each leaves its reason on the page."""
    for name, lost, words in (
        ("a", "sites/harbour/predictions", "no prediction was kept"),
        ("b", "data", "cannot be read any more"),
    ):
        out = write(tmp_path / name, cases=2)
        shutil.rmtree(out / lost)
        assert command("report", out) == 0
        page = (out / "report.html").read_text()
        assert words in page
        assert carried(out / "report.html") == []


def test_a_classification_has_pictures_in_place_of_volumes(tmp_path):
    """Synthetic ones, which are nobody's."""
    out = tmp_path / "out"
    run(small_pictures.campaign(tmp_path), out, "none,t-imm")
    assert command("report", out) == 0
    page = (out / "report.html").read_text()
    assert 'id="pictures' in page or "pictures-" in page
    assert "they show no patient" in page
    assert "F1 [95 % interval]" in page
    assert carried(out / "report.html") == []


def home_of(folder, data, work):
    """A site's file as a hospital has it, for a target with this data and working folder."""
    folder.mkdir()
    (folder / "site.toml").write_text(
        f'[site]\nname = "harbour"\nrole = "target"\nwork = "{work}"\n'
        f'[data]\nfolder = "{data / "harbour"}"\nlabels = {{ ball = [1], cube = [2] }}\n'
        "train = 2\nvalidate = 2\ntest = 3\n"
    )
    return folder


def numbers(found):
    """What both sides have to agree on."""
    return [(row["method"], row["stage"], row["target_steps"], row["dice"]) for row in found["rows"]]


def test_the_target_has_a_page_of_its_own_out_of_what_it_kept(simulated, data, tmp_path, capsys):
    """The numbers are those of the server's results; test cases and ratios are there, other sites' are not."""
    out, found = simulated
    home = home_of(tmp_path / "home", data, out / "sites/harbour")
    assert command("report", home) == 0
    site = config.from_file(home / "site.toml")
    ((name, folder),) = recalled.campaigns(site).items()
    assert name == "small"
    own = recalled.results(site, folder)
    assert (numbers(own), own["ratios"]) == (numbers(found), found["ratios"])
    page = (folder / "report.html").read_text()
    assert {one["case"] for one in carried(folder / "report.html")} == {c["case"] for c in found["rows"][0]["cases"]}
    assert "it must not leave harbour" in page
    assert command("report", home, "--campaign", "another") == 2
    assert "expected a campaign 'another', got small" in capsys.readouterr().err


def test_a_row_that_an_older_version_kept_is_named(simulated, data, tmp_path, capsys):
    """It lacks what a page needs, and is not guessed at."""
    work = tmp_path / "work"
    shutil.copytree(simulated[0] / "sites/harbour/results", work / "results")
    first = min((work / "results/small").glob("*.json"))
    first.write_text(json.dumps({"format": "fedmerge-row/1"}))
    assert command("report", home_of(tmp_path / "home", data, work)) == 2
    assert f"{first}: expected a row as this version keeps it" in capsys.readouterr().err


def test_the_coordinators_page_has_no_image(simulated, tmp_path):
    """A deployment's campaign has no tables of hospitals, so there is nothing to look for."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(simulated[0] / "results.json", out)
    bare = re.sub(r"\[site\.data.*?(?=\[\[site|\Z)", "", (simulated[0] / "campaign.toml").read_text(), flags=re.DOTALL)
    (out / "campaign.toml").write_text(bare)
    assert command("report", out) == 0
    assert "Those of harbour are at harbour, and only there." in (out / "report.html").read_text()
    assert carried(out / "report.html") == []


@pytest.mark.slow
def test_between_agents_the_coordinator_has_no_name_of_a_case_and_the_target_its_images(data, tmp_path, monkeypatch):
    """Three processes with homes, keys and policies of their own: the same numbers on the pages of both."""
    monkeypatch.setenv("FEDMERGE_BUNDLE", agents.BUNDLE)
    path, told = agents.plan(data, tmp_path / "plan")
    homes = agents.homes(tmp_path / "homes", data, told)
    out = tmp_path / "out"
    with agents.processes(*homes.values()):
        nodes = [{"agent": str(home.socket)} for home in homes.values()]
        found = run(path, out, "t-imm", node_configs=nodes, names=tuple(homes))
    assert command("report", out) == 0
    home = homes["harbour"].folder
    assert command("report", home) == 0
    site = config.from_file(home / "site.toml")
    (folder,) = recalled.campaigns(site).values()
    own = recalled.results(site, folder)
    assert (numbers(own), own["ratios"]) == (numbers(found), found["ratios"])
    cases = {one["case"] for one in carried(folder / "report.html")}
    assert cases == {case["case"] for row in own["rows"] for case in row["cases"]}
    assert not any(case in (out / "report.html").read_text() for case in cases)
