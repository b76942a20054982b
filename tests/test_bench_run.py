"""`fedmerge bench` on three small hospitals: a suite runs, goes on where it stopped, and leaves a page."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from small import campaign, hospitals

from fedmerge import cli, results
from fedmerge.pages import markup

SUITE = """
title = "Small & tiny"
stage = "development"
campaign = "small.toml"
methods = ["none", "t-imm"]
target_cases = [2, 4]
seeds = [0, 1]
chains = [0, 1]
reference = "none"
reach = 0.1

[[hypothesis]]
text = "T-IMM is above training from scratch."
better = "t-imm"
than = ["none"]
n = [2, 4]
"""
VOID = {"meta", "br", "img", "input", "link", "hr"}


def bench(*words):
    """Run the command here; its code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *map(str, words)])
    return ended.value.code


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Hospitals, a campaign, a suite."""
    folder = tmp_path_factory.mktemp("bench")
    path = campaign(hospitals(folder, cases=12))
    path.write_text(path.read_text().replace("validate = 2\ntest = 3\n", "validate = 2\ntest = 6\n"))
    (folder / "tiny.toml").write_text(SUITE)
    return folder


@pytest.fixture(scope="module")
def ran(place):
    """The suite, run once."""
    assert bench(place / "tiny.toml", "--out", place / "out") == 0
    return place / "out"


def told(out):
    """bench.json."""
    return json.loads((out / "bench.json").read_text())


def scores(out):
    """What was measured, without times."""
    rows = results.read(out)["rows"]
    return {(r["method"], r["seed"], r["chain"], r["target_cases"], r["stage"]): r["cases"] for r in rows}


def test_every_row_of_the_suite_is_there(ran):
    """Two methods, two sizes, two seeds, two chains; each line has the chains' means and their mean."""
    keys = {key[:4] for key in scores(ran)}
    assert len(keys) == 16
    for line in told(ran)["lines"]:
        own = {
            chain: [
                r["dice"]
                for r in results.read(ran)["rows"]
                if (r["method"], r["chain"], r["target_cases"]) == (line["method"], int(chain), line["target_cases"])
                and r["stage"] == "fine-tuned"
            ]
            for chain in ("0", "1")
        }
        means = {chain: sum(values) / 2 for chain, values in own.items()}
        assert line["dice"]["chains"] == pytest.approx(means)
        assert line["dice"]["mean"] == pytest.approx(sum(means.values()) / 2)
    assert len(told(ran)["comparisons"]) == 2
    assert [one["verdict"] for one in told(ran)["verdicts"]] == ["refuted"]


def test_target_sizes_share_the_sources_work(ran):
    """In each chain the second size trains no source anew; chains train their own."""
    made = {}
    for chain in (0, 1):
        runs = ran / "runs" / "all" / f"chain-{chain}"
        first = {path.name for path in (runs / "n-2" / "server" / "contributions").iterdir()}
        assert {path.name for path in (runs / "n-4" / "server" / "reused").iterdir()} == first
        assert not (runs / "n-4" / "server" / "contributions").exists()
        made[chain] = first
    assert not made[0] & made[1]


def test_a_suite_goes_on_after_half_of_its_results_are_gone(place, ran, capsys):
    """The same command makes them again, with the same numbers, out of what is on the disk."""
    out = place / "half"
    shutil.copytree(ran, out)
    shutil.rmtree(out / "runs" / "all" / "chain-1" / "n-4")
    (out / "runs" / "all" / "chain-0" / "n-2" / "results.json").unlink()
    (out / "bench.html").unlink()
    before = scores(ran)
    for path in (out / "campaigns").iterdir():  # a copy lies elsewhere, the campaign is the same
        assert path.read_text() == (ran / "campaigns" / path.name).read_text()
    assert bench(place / "tiny.toml", "--out", out) == 0
    assert scores(out) == before
    assert "contribution taken from the store" in capsys.readouterr().err
    assert (out / "bench.html").exists()


@pytest.mark.slow
def test_a_killed_bench_leaves_nobody_behind_and_goes_on(place, ran):
    """Its processes end with it; the same command then has the numbers of an undisturbed run."""
    out = place / "killed"
    command = [sys.executable, "-m", "fedmerge.cli", "bench", str(place / "tiny.toml"), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 120
    while not list(out.glob("runs/all/chain-*/n-2/server/contributions/*")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while _members(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _members(process.pid)
    assert bench(place / "tiny.toml", "--out", out) == 0
    assert scores(out) == scores(ran)


def _members(session):
    """The living processes of a session."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


class _Page(HTMLParser):
    """What a page refers to, its ids, and whether its elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.refers, self.ids, self.open, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.refers += [named[key] for key in ("src", "href", "xlink:href", "action", "data") if key in named]
        self.ids += [named["id"]] if "id" in named else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_from_elsewhere(ran):
    """No script, no address; what is referred to is within the page, ids are single, elements are closed."""
    text = (ran / "bench.html").read_text()
    parsed = _Page()
    parsed.feed(text)
    assert not parsed.open
    assert len(parsed.ids) == len(set(parsed.ids))
    for name in parsed.refers:
        assert name.startswith("data:image/") or name.removeprefix("#") in parsed.ids, name
    for name in re.findall(r"url\(([^)]*)\)", text):
        assert name.removeprefix("#") in parsed.ids
    assert not re.search(r"https?:|<script|@import|<link", text)


def test_the_page_tells_what_the_numbers_are(ran):
    """Title, verdict, each method's figures, figures of each size, and that development is no evidence."""
    text = (ran / "bench.html").read_text()
    parsed = _Page()
    parsed.feed(text)
    words = " ".join(" ".join(parsed.words).split())
    assert "Small & tiny" in words
    assert "refuted T-IMM is above training from scratch." in words
    assert "It is no evidence." in words
    for line in told(ran)["lines"]:
        assert f"{line['dice']['mean']:.3f} ± {line['dice']['sd']:.3f}" in words
    for title in ("Learning curves", "Differences, test case by test case", "Mixing ratios by layer"):
        for n in (2, 4):
            assert f"{title}, {n} training cases" in words
    assert text.count("<svg") >= 7
    assert text.count("data:image/png") >= 9  # three cases: the annotation and two methods
    assert "annotated" in words
    assert "Dice minus that of none, same test case" in words
    assert "var(--ink)" in text
    assert not re.search(r"(fill|stroke): #(222222|767676|d9d9d9|0072b2)", text)


def test_names_keep_their_hyphens_and_numbers_get_a_minus():
    """In cells."""
    assert markup.minus("-0.031 ± 0.002") == "\u22120.031 ± 0.002"
    assert markup.minus("t-imm, n = 4: right -0.5") == "t-imm, n = 4: right \u22120.5"
    assert markup.minus("t-imm@five-2") == "t-imm@five-2"
    assert markup.minus("0.1 [-0.2, 0.3]") == "0.1 [\u22120.2, 0.3]"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "there is no suite 'nowhere'; there are classification, hippocampus"),
        (["tiny.toml", "--methods", "none,magic"], "tiny: method 'magic' is unknown; the known ones are none"),
        (["large.toml"], "expected 40 cases to train"),
        (["final.toml", "--methods", "none"], "final is evidence: its methods are those of its file"),
        (["tiny.toml", "--out", "."], "is not the folder of a bench"),
        (["tiny.toml", "--data", "missing"], "--data expected a folder, got missing"),
    ],
)
def test_what_cannot_run_is_told_before_anything_is_trained(place, monkeypatch, capsys, words, told):
    """With one sentence, and no results."""
    monkeypatch.chdir(place)
    (place / "large.toml").write_text(SUITE.replace("[2, 4]\ns", "[2, 40]\ns"))
    (place / "final.toml").write_text(SUITE.replace('"development"', '"evidence"'))
    out = [] if "--out" in words else ["--out", place / "refused" / words[0]]
    assert bench(*words, *out) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not list(place.glob("refused/*/runs"))


def test_evidence_is_not_run_again_with_another_text(place, capsys):
    """Its file says what was expected before; a folder holds one text only."""
    out = place / "decided"
    out.mkdir()
    (place / "final.toml").write_text(SUITE.replace('"development"', '"evidence"'))
    (out / "suite.toml").write_text(SUITE.replace('"development"', '"evidence"').replace("0.1", "0.2"))
    assert bench(place / "final.toml", "--out", out) == 2
    assert "evidence is run once" in " ".join(capsys.readouterr().err.split())
