"""A suite of classification, from its file to its page: F1 wherever a suite of segmentation has Dice."""

import json
import re

import numpy as np
import pytest
from scipy import stats
from small_pictures import CLASSES, campaign
from test_bench_run import bench, told

from fedmerge import measures, results
from fedmerge.bench import gather, samples, summary, verdicts
from fedmerge.bench.suite import Hypothesis

SUITE = """
title = "Small pictures"
stage = "development"
campaign = "pictures.toml"
methods = ["none", "t-imm", "auto"]
target_cases = [3, 6]
seeds = [0]
chains = [0, 1]
reference = "none"
reach = 0.1

[[hypothesis]]
text = "T-IMM is above training from scratch."
better = "t-imm"
than = ["none"]
n = [3, 6]

[[hypothesis]]
text = "T-IMM is no guess."
at_least = "t-imm"
value = 0.0
n = [3, 6]
"""
CHAINS = (0, 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A campaign of pictures, and a suite of it."""
    folder = tmp_path_factory.mktemp("pictures")
    campaign(folder)
    (folder / "tiny.toml").write_text(SUITE)
    return folder


@pytest.fixture(scope="module")
def ran(place):
    """The suite, run once."""
    assert bench(place / "tiny.toml", "--out", place / "out") == 0
    return place / "out"


def rows(out, method, cases, stage="fine-tuned"):
    """Chain -> its row; there is one seed."""
    found = results.read(out)["rows"]
    return {r["chain"]: r for r in found if (r["method"], r["target_cases"], r["stage"]) == (method, cases, stage)}


def test_the_lines_are_what_the_rows_amount_to(ran):
    """F1 and accuracy by a plain loop over the answers of each run; area and forgetting by the rows' own numbers."""
    found = told(ran)
    assert found["measure"] == "f1"
    assert len(found["lines"]) == 6
    for line in found["lines"]:
        assert not {"dice", "score", "more"} & line.keys()
        last = rows(ran, line["method"], line["target_cases"])
        for chain, row in last.items():
            f1 = []
            for name in sorted({one[key] for one in row["cases"] for key in ("truth", "prediction")}):
                hits = sum(one["truth"] == one["prediction"] == name for one in row["cases"])
                f1.append(2 * hits / sum((one["truth"] == name) + (one["prediction"] == name) for one in row["cases"]))
            right = [one["truth"] == one["prediction"] for one in row["cases"]]
            assert line["f1"]["chains"][str(chain)] == pytest.approx(sum(f1) / len(f1))
            assert line["accuracy"]["chains"][str(chain)] == pytest.approx(sum(right) / len(right))
        assert line["f1"]["mean"] == pytest.approx(sum(row["f1"] for row in last.values()) / len(CHAINS))
        start = rows(ran, line["method"], line["target_cases"], "start")
        assert line["start"]["chains"] == {str(chain): row["f1"] for chain, row in start.items()}
        steps = [min((step for step, f1 in row["curve"] if f1 >= 0.1), default=None) for row in last.values()]
        assert line["reaching"] == sum(step is not None for step in steps)


def test_forgetting_is_the_f1_that_the_sources_lose(ran):
    """The source's own body less the merged one, over both sources."""
    entries = results.read(ran)["forgetting"]
    (line,) = (one for one in told(ran)["lines"] if (one["method"], one["target_cases"]) == ("t-imm", 3))
    for chain in CHAINS:
        own = {e["task"]: e["f1"] for e in entries if e["weights"] == e["task"] and e["chain"] == chain}
        after = {
            e["task"]: e["f1"] for e in entries if (e["weights"], e["chain"], e["target_cases"]) == ("t-imm", chain, 3)
        }
        assert own.keys() == after.keys() == {"north", "south"}
        assert line["forgetting"]["chains"][str(chain)] == pytest.approx(sum(own[t] - after[t] for t in own) / 2)


def test_methods_are_compared_by_right_answers_case_by_case(ran):
    """Each case averaged over the runs, by hand; the difference is that of F1."""
    for one in told(ran)["comparisons"]:
        ours, theirs = (rows(ran, one[key], one["target_cases"]) for key in ("first", "second"))
        shares = [
            [
                sum(row["cases"][i]["truth"] == row["cases"][i]["prediction"] for row in side.values()) / len(CHAINS)
                for i in range(6)
            ]
            for side in (ours, theirs)
        ]
        differences = [a - b for a, b in zip(*shares)]
        assert one["cases"] == 6
        assert (one["wins"], one["losses"]) == (sum(d > 0 for d in differences), sum(d < 0 for d in differences))
        assert one["case_difference"] == pytest.approx(sum(differences) / 6)
        want = {str(c): ours[c]["f1"] - theirs[c]["f1"] for c in CHAINS}
        assert one["difference"]["chains"] == pytest.approx(want)
        assert one["p"] == (pytest.approx(stats.wilcoxon(differences).pvalue) if any(differences) else None)


def test_the_page_says_f1_and_never_dice(ran):
    """Heads, axes, legend, tests; the same figures as for label maps, and pictures in place of slices."""
    text = (ran / "bench.html").read_text()
    words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    assert "dice" not in text.lower()
    for said in (
        "method final F1 accuracy start adapted area steps forgetting",
        "curve of validation F1",
        "share of right answers minus that of none, same test case",
        "Wilcoxon's signed-rank test over the test cases (share of right answers, each averaged over the runs)",
        "the F1 that the sources' own tasks lose",
        "the mean F1 of the stage",
        "share of right answers is above 0",
        "macro",
    ):
        assert said in words
    assert re.search(r"<text[^>]*>validation F1</text>", text)
    assert text.count("<svg") == 7  # curves, differences and ratios of two sizes, and the pictures
    for line in told(ran)["lines"]:
        assert f"{line['f1']['mean']:.3f} ± {line['f1']['sd']:.3f} {line['accuracy']['mean']:.3f} ±" in words


def test_pictures_of_each_class_stand_with_what_they_were_taken_for(ran):
    """The first test case of each class; the line says what the kept answer says."""
    text = (ran / "bench.html").read_text()
    section = text[text.index("<h2>Pictures</h2>") :]
    section = section[: section.index("</section>")]
    lines = re.findall(r"<text[^>]*>([^<]*)</text>", section)
    assert section.count("<image") == len(CLASSES["harbour"])
    run = ran / "runs/all/chain-0/n-3"
    chosen = {one["method"]: one["chosen"] for one in results.read(run)["choices"]}
    for method in ("none", "t-imm", "auto"):
        row = rows(ran, method, 3)[0]
        label = chosen.get(method, method).replace(":", "-")
        for name in CLASSES["harbour"]:
            case = min(one["case"] for one in row["cases"] if one["truth"] == name)
            kept = run / f"sites/harbour/predictions/{label}-seed0-chain0-n3/{case}.json"
            answer = json.loads(kept.read_text())
            best = answer["prediction"]
            assert samples.said(method, (best, answer["probabilities"][best]), name) in lines


def test_verdicts_are_computed(ran):
    """Six cases and weak nets decide little; an F1 of at least 0 always holds."""
    better, least = told(ran)["verdicts"]
    assert better["verdict"] in ("refuted", "not tested")
    assert least["verdict"] == "confirmed"
    assert all(re.fullmatch(r"0\.\d{3}|1\.000", finding["numbers"]) for finding in least["findings"])


def answers(right):
    """Cases of two classes; every place of `right` is whether it was told right."""
    other = {"a": "b", "b": "a"}
    truth = ["a"] * 20 + ["b"] * 4
    return [
        {"case": f"{name}/{i:02d}", "truth": name, "prediction": name if well else other[name]}
        for i, (name, well) in enumerate(zip(truth, right, strict=True))
    ]


def test_an_f1_that_rises_while_answers_get_worse_confirms_nothing():
    """The mean over classes may gain by a small class what p, over all cases, says is lost."""
    sides = {"mean": [True] * 13 + [False] * 7 + [True] * 4, "none": [True] * 20 + [False] * 4}
    made = [
        {
            "method": method, "seed": 0, "chain": chain, "target": "harbour", "target_cases": 4, "target_steps": 9,
            "stage": "fine-tuned", "status": "ok", "error": None, "cases": answers(right), "curve": [], "seconds": 1.0,
            **measures.F1.numbers(answers(right)),
        }
        for method, right in sides.items()
        for chain in range(3)
    ]  # fmt: skip
    found = {"measure": "f1", "rows": made, "forgetting": [], "traffic": [], "ratios": [], "environment": {}}
    one = Hypothesis("As expected.", "better", "mean", ("none",), (4,), p=0.5)
    compared = summary.compare(found, [("mean", "none")])
    (got,) = verdicts.judge([one], {"": ["north"]}, summary.lines(found, None), compared, measures.F1)
    assert compared[0].difference.mean > 0.1
    assert compared[0].case_difference == pytest.approx(-3 / 24)
    assert compared[0].turned.case_difference == pytest.approx(3 / 24)
    assert compared[0].p_holm < 0.5
    assert got.verdict == "refuted"
    assert "share of right answers -0.125" in got.findings[0].numbers


def test_cases_that_stay_at_home_have_no_picture():
    """A site whose policy keeps single cases sends one record for all."""
    row = {"seed": 0, "chain": 0, "stage": "start", "status": "ok"}
    assert samples.choose([{**row, "cases": [{"case": "all", "f1": {"a": 1.0}, "accuracy": 1.0}]}]) == []
    assert samples.choose([{**row, "cases": answers([True] * 24)}]) == ["a/00", "b/20"]


def test_colours_and_many_classes_are_drawn():
    """Two rows of panels; an answer whose probability was not kept stands without it."""
    image = np.random.default_rng(0).uniform(0, 255, (3, 4, 6)).astype(np.float32)
    figure = samples.draw([samples.Sample(f"c{i}", image, f"c{i}", {"mean": ("c0", None)}) for i in range(7)])
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 7
    assert {ax.images[0].get_array().shape for ax in drawn} == {(4, 6, 3)}
    assert [ax.get_xlabel() for ax in drawn[:2]] == ["\u2713 mean: c0", "\u2717 mean: c0"]


def test_a_suite_is_of_one_task(place, capsys):
    """An arm of another task is named, before anything is trained."""
    (place / "mixed.toml").write_text(
        SUITE + '[[arm]]\nname = "pictures"\n[[arm]]\nname = "volumes"\n[arm.changes.campaign]\ntask = "segmentation"\n'
    )
    assert bench(place / "mixed.toml", "--out", place / "mixed") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "mixed, arm volumes: a suite is of one task" in said
    assert "expected classification as in the arm pictures, got segmentation" in said
    assert not (place / "mixed" / "runs").exists()


def test_a_file_of_a_suite_of_segmentation_says_dice():
    """Its lines keep the key that they had before files named their measure."""
    line = summary.Line(
        "harbour", 4, "none", 1, 0, summary.Measure(0.5, None, {0: 0.5}), {}, *[summary.Measure(None, None, {})] * 3,
        None, 0, *[summary.Measure(None, None, {})] * 2, (),
    )  # fmt: skip
    assert gather._told(line, measures.DICE)["dice"] == {"mean": 0.5, "sd": None, "chains": {0: 0.5}}
