"""The form of results.json, the comparison of methods, and the page that is written from them."""

import copy
import json
import statistics

import made_up
import pytest

from fedmerge import comparison, leaving, report, results
from fedmerge.bench import gather
from fedmerge.errors import DataError


@pytest.fixture(scope="module")
def ten():
    """Ten methods, three seeds."""
    return made_up.results()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.update(format="other/1"), "results: 'format' expected 'fedmerge-results/1', got 'other/1'"),
        (lambda r: r.pop("traffic"), "results: 'traffic' is missing, expected a list"),
        (lambda r: r["environment"].pop("device"), "environment: 'device' is missing, expected a text"),
        (
            lambda r: r["rows"][3].update(stage="begin"),
            "rows[3]: 'stage' expected one of start, adapted, fine-tuned, got 'begin'",
        ),
        (
            lambda r: r["rows"][0].update(seed=True),
            "rows[0]: 'seed' expected a whole number of at least 0, got True",
        ),
        (
            lambda r: r["rows"][0].update(dice=float("nan")),
            "rows[0]: 'dice' expected a number from 0 to 1 or null, got nan",
        ),
        (
            lambda r: r["rows"][0].update(status="failed"),
            "rows[0]: a failed row says why in 'error', got null",
        ),
        (
            lambda r: r["rows"][0].update(error="late"),
            "rows[0]: 'error' of a row that is ok expected null, got 'late'",
        ),
        (
            lambda r: r["rows"][0]["cases"][2]["dice"].update(anterior=1.5),
            "rows[0].cases[2]: dice of 'anterior' expected a number from 0 to 1 or null, got 1.5",
        ),
        (
            lambda r: r["rows"][1]["curve"].insert(0, [-1, 0.5]),
            "rows[1].curve[0] expected [step, score from 0 to 1 or null], got [-1, 0.5]",
        ),
        (
            lambda r: r["ratios"][0]["groups"].update({"contexts.0.conv1": [0.5]}),
            "ratios[0]: 'contexts.0.conv1' expected 2 values, one a site, got [0.5]",
        ),
        (
            lambda r: r["ratios"][0]["groups"].update({"contexts.0.conv1": [0.5, 0.6]}),
            "ratios[0]: the ratios of 'contexts.0.conv1' expected a sum of 1 over the sites, got 1.1",
        ),
        (
            lambda r: r["ratios"][0].update(grain="kernel"),
            "ratios[0]: the ratios of 'contexts.0.conv1' expected numbers from 0 to 1",
        ),
        (
            lambda r: r["traffic"][0].update(bytes=1.5),
            "traffic[0]: 'bytes' expected a whole number of at least 0, got 1.5",
        ),
        (lambda r: r["forgetting"].append([]), "forgetting[9] expected a table, got []"),
    ],
)
def test_results_of_another_form_are_refused_with_the_place(ten, change, sentence):
    """The sentence names the place, the key, what was expected and what came."""
    wrong = copy.deepcopy(ten)
    change(wrong)
    with pytest.raises(DataError) as error:
        results.validate(wrong)
    assert str(error.value).startswith(sentence)


def test_more_keys_are_welcome(ten):
    """The form is a floor: a program may add what it likes, at any depth."""
    more = copy.deepcopy(ten)
    more["notes"] = ["anything"]
    more["rows"][0]["site"] = {"any": "thing"}
    results.validate(more)


def test_absent_labels_and_steps_without_validation_may_be_null(ten):
    """Null stands for a label that is in neither map, a score or a validation that there was not."""
    some = copy.deepcopy(ten)
    some["rows"][0]["cases"][0]["dice"]["anterior"] = None
    some["rows"][1]["curve"][0] = [0, None]
    some["rows"][0]["dice"] = None
    results.validate(some)
    report.markdown(some)


def test_what_is_written_is_what_is_read(tmp_path, ten):
    """`read` undoes `write`, numbers and the order of layers included; the run's folder holds five files."""
    written = report.write(ten, tmp_path)
    again = report.read(tmp_path)
    assert again == ten
    assert list(again["ratios"][0]["groups"]) == list(ten["ratios"][0]["groups"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)


def test_wrong_results_leave_no_file(tmp_path, ten):
    """What does not have the form is not written at all."""
    with pytest.raises(DataError):
        report.write({**ten, "rows": None}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "sentence"), [(None, "there are no results here"), ("{", "expected JSON")])
def test_a_file_that_is_not_results_is_named(tmp_path, text, sentence):
    """The sentence begins with the path."""
    if text:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=sentence) as error:
        report.read(tmp_path)
    assert str(error.value).startswith(str(tmp_path))


def test_a_line_holds_the_means_over_seeds(ten):
    """Mean and standard deviation of the three seeds' Dice, as the standard library computes them."""
    line = next(line for line in report.table(ten) if line.method == "pooled")
    by_seed = [r["dice"] for r in ten["rows"] if r["method"] == "pooled" and r["stage"] == "fine-tuned"]
    names = report.heading([line])
    cells = dict(zip(names, report.cells(line, names)))
    assert cells["fine-tuned"] == f"{statistics.mean(by_seed):.3f} ± {statistics.stdev(by_seed):.3f}"
    assert cells["adapted"] == "–"
    assert (cells["target steps"], cells["runs"]) == ("100", "3")


def test_the_difference_to_t_imm_is_paired_by_run(ten):
    """Each seed's difference uses that seed's own T-IMM."""
    last = {(r["method"], r["seed"]): r["dice"] for r in ten["rows"] if r["stage"] == "fine-tuned"}
    line = next(line for line in report.table(ten) if line.method == "none")
    assert line.difference == pytest.approx([last["none", s] - last["t-imm", s] for s in (0, 1, 2)])


def test_wilcoxon_counts_cases_and_not_cases_times_seeds(ten):
    """Three seeds of 50 test cases are 50 differences, each the mean over seeds."""
    rows = [r for r in ten["rows"] if r["method"] == "none" and r["stage"] == "fine-tuned"]
    means = comparison.case_means(rows)
    assert len(means) == 50
    assert means["case_007"] == pytest.approx(statistics.mean(r["cases"][7]["dice"]["anterior"] for r in rows))


def test_a_seed_that_t_imm_did_not_finish_is_left_out_of_the_difference(ten):
    """Only runs that both methods finished are compared."""
    part = copy.deepcopy(ten)
    part["rows"] = [r for r in part["rows"] if not (r["method"] == "t-imm" and r["seed"] == 1)]
    line = next(line for line in report.table(part) if line.method == "mean")
    assert len(line.difference) == 2


def test_failed_methods_stand_in_the_table_with_their_sentence(ten):
    """The line stays, says that no run succeeded, and the sentence is below the table."""
    page = report.markdown(made_up.failing(ten, "pooled", "north: no pooled_labels"))
    assert "| pooled | – | – | – | – |" in page
    assert "| 0 of 1 |" in page
    assert "- pooled at harbour failed: north: no pooled_labels" in page


def test_several_targets_have_lines_of_their_own():
    """With two targets the table names the target; T-IMM of one is never compared with the other's."""
    two = made_up.results(made_up.FOUR, (0,), targets=("harbour", "port"))
    lines = report.table(two)
    assert [(line.target, line.method) for line in lines] == [
        (target, method) for target in ("harbour", "port") for method in made_up.FOUR
    ]
    assert report.heading(lines)[:3] == ["target", "cases", "method"]
    alone = made_up.results(made_up.FOUR, (0,), targets=("harbour",))
    assert report.table(alone)[0].difference == lines[0].difference


def test_one_run_has_no_spread_and_the_page_says_so():
    """No ± is printed where there is a single seed and chain."""
    page = report.markdown(made_up.results(made_up.FOUR, (0,)))
    assert "±" not in page
    assert "One run: there is no spread over seeds to show." in page


def test_the_page_says_where_patients_cannot_be_told_apart(ten):
    """A site that splits by case and not by patient is named below the table; others are not."""
    sites = [{"name": "north", "disjoint_by": "case"}, {"name": "south", "disjoint_by": "patient"}]
    page = report.markdown({**ten, "sites": sites})
    assert "the names of cases tell no patients at north." in page
    assert "tell no patients" not in report.markdown(ten)


def test_a_bar_in_a_name_does_not_break_the_table(ten):
    """The page stays a table whatever labels are called."""
    odd = json.loads(json.dumps(ten).replace("anterior", "a|b"))
    assert "| method | a\\|b | posterior |" in report.markdown(odd)


LEFT = {"method": "t-imm", "chain": 0, "target": "harbour", "target_cases": 4, "stage": "adapted"}


def test_merges_without_a_source_have_a_table(ten):
    """The mean over runs; a run that did not merge a source is none of the runs without it."""
    left = [
        {**LEFT, "seed": 0, "score": 0.70, "without": {"north": 0.60, "south": 0.72}},
        {**LEFT, "seed": 1, "score": 0.74, "without": {"north": 0.60}},
        {**LEFT, "seed": 0, "method": "mean+stitch", "stage": "start", "score": 0.5, "without": {"north": 0.4}},
    ]
    page = report.markdown({**ten, "leave_one_out": left})
    start = page.index("## Merges without one of their sources")
    assert page[start:].splitlines()[2:9] == [
        "| method | stage | without | validation Dice | difference |",
        "| --- | --- | --- | --- | --- |",
        "| t-imm | adapted |  | 0.720 ± 0.028 |  |",
        "|  |  | north | 0.600 ± 0.000 | -0.120 ± 0.028 |",
        "|  |  | south | 0.720 | +0.020 |",
        "| mean+stitch | start |  | 0.500 |  |",
        "|  |  | north | 0.400 | -0.100 |",
    ]
    suite = gather.merged([("clean", {**ten, "leave_one_out": left[:1]}), ("", ten)])
    assert leaving.table(suite)[1][0][:4] == ["t-imm@clean", "adapted", "", "0.700"]
    assert "without one of their sources" not in report.markdown(ten)
    results.validate(ten)  # a file of an older version has neither list


def test_admissions_are_told_below_the_table(ten):
    """A sentence for each row that asked."""
    told = {**LEFT, "seed": 0, "admitted": ["north"], "scores": {}, "sentence": "t-imm+admit admitted north, not south"}
    page = report.markdown({**ten, "admissions": [told]})
    assert "- harbour, 4 cases, seed 0, chain 0: t-imm+admit admitted north, not south" in page
