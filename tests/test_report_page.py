"""The page of a run without a browser: what it says, what its drawings show, and what it carries."""

import re
import statistics

import made_run
import made_up
import pytest
from scipy import stats

from fedmerge import figures, measures, nets, results
from fedmerge.comparison import last_stage
from fedmerge.pages import cases, intervals, layers, markup, net, report, scores, timeline, verdict
from fedmerge.pages.around import Around, Images
from server import plan

PART = ("harbour", 4)


def rows(method, values, seed=0, chain=0):
    """The last row of a method whose cases have these Dice."""
    return {
        "method": method, "seed": seed, "chain": chain, "target": "harbour", "target_cases": 4, "target_steps": 1,
        "stage": "fine-tuned", "status": "ok", "error": None, "dice": sum(values) / len(values), "curve": [],
        "seconds": 1.0, "cases": [{"case": f"c{i}", "dice": {"a": value}} for i, value in enumerate(values)],
    }  # fmt: skip


def told(*made, **more):
    """Results of these rows."""
    return {**made_up.results(("none",), (0,), cases=2), "rows": list(made), "ratios": [], "forgetting": [], **more}


def test_the_interval_of_dice_is_students_over_the_cases():
    """Mean and half width as scipy has them, each case averaged over the runs first."""
    first, second = [0.5, 0.7, 0.6, 0.9], [0.7, 0.7, 0.8, 0.7]
    found = intervals.score({(0, 0): rows("m", first), (1, 0): rows("m", second, 1)})
    means = [(a + b) / 2 for a, b in zip(first, second)]
    low, high = stats.t.interval(0.95, 3, statistics.mean(means), stats.sem(means))
    assert (found.value, found.low, found.high) == pytest.approx((statistics.mean(means), low, high))


def test_a_difference_is_paired_case_by_case():
    """A constant gain over cases that differ widely has an interval of no width."""
    theirs = [0.1, 0.5, 0.9, 0.3]
    ours = [value + 0.05 for value in theirs]
    found = intervals.difference({(0, 0): rows("a", ours)}, {(0, 0): rows("b", theirs)})
    assert (found.low, found.value, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert found.sure


def test_only_runs_that_both_have_are_compared():
    """Another seed of one method says nothing about the difference."""
    ours = {(0, 0): rows("a", [0.5, 0.6]), (1, 0): rows("a", [0.9, 0.9], 1)}
    found = intervals.difference(ours, {(0, 0): rows("b", [0.4, 0.5])})
    assert found.value == pytest.approx(0.1)
    assert intervals.difference({(1, 0): ours[1, 0]}, {(0, 0): ours[0, 0]}) is None


def test_a_single_case_has_no_interval():
    """Nor has a set whose single cases stay at home."""
    assert intervals.score({(0, 0): rows("m", [0.5])}).text() == "0.500"
    hidden = {**rows("m", [0.5]), "cases": [{"case": "all", "f1": {"a": 0.5}, "accuracy": 0.5}], "f1": 0.5}
    del hidden["dice"]
    assert intervals.score({(0, 0): hidden}).text() == "0.500"


def test_the_interval_of_f1_is_a_bootstrap_over_whole_images():
    """It lies around F1, is the same at every call, and grows narrower with the number of images."""

    def of(number):
        truth = ["cyst", "ring"] * (number // 2)
        said = ["cyst" if k % 10 == 0 else name for k, name in enumerate(truth)]
        said = ["ring" if k % 7 == 1 else name for k, name in enumerate(said)]
        row = {**rows("m", [0.5]), "f1": None, "accuracy": 0.8}
        del row["dice"]
        row["cases"] = [{"case": str(k), "truth": t, "prediction": p} for k, (t, p) in enumerate(zip(truth, said))]
        row["f1"] = measures.F1.value(row["cases"])
        return row, intervals.score({(0, 0): row})

    row, wide = of(20)
    narrow = of(200)[1]
    assert wide == intervals.score({(0, 0): row})
    assert wide.low < wide.value < wide.high
    assert 0 < narrow.high - narrow.low < wide.high - wide.low


def test_the_verdict_says_above_only_where_the_interval_does():
    """A gain in every case is above; one that comes and goes is not to be told from nothing."""
    base = [0.5, 0.6, 0.7, 0.5, 0.6, 0.7]
    clear = [value + 0.1 for value in base]
    noisy = [value + d for value, d in zip(base, (0.1, -0.1, 0.12, -0.09, 0.02, -0.03))]
    for ours, words in ((clear, "0.100 above training from scratch"), (noisy, "not to be told from training")):
        first, second, third = verdict.sentences(told(rows("none", base), rows("t-imm", ours)), PART)
        assert words in first
        assert "no single source was run" in first
        assert third.startswith("Be careful: ")
    assert "no other method can be told from it" in second


def test_the_verdict_is_about_the_method_that_was_planned_and_not_about_the_highest():
    """The best single source is called flattered, and so is an order by test scores."""
    base = [0.5, 0.6, 0.7, 0.5]
    made = [rows(m, [v + d for v in base]) for m, d in
            (("none", 0), ("transfer:a", 0.2), ("transfer:b", 0.1), ("t-imm", 0.05), ("pooled", 0.3))]  # fmt: skip
    first, second, _ = verdict.sentences(told(*made), PART)
    assert "t-imm reached" in first
    assert "0.150 below the best of 2 single sources, a" in first
    assert "picked by the same test cases" in first
    assert "pooled aside, transfer:a is the highest of 4 methods" in second
    assert "after the test flatters" in second


@pytest.mark.parametrize(
    ("methods", "wanted", "chosen"),
    [
        (("none", "mean", "t-imm", "auto"), "mean", "auto"),
        (("none", "mean", "t-imm"), "mean", "t-imm"),
        (("none", "mean", "ties"), "ties", "ties"),
        (("none", "transfer:a", "pooled", "mean"), "", "mean"),
        (("none", "transfer:a"), "", "none"),
    ],
)
def test_the_subject_of_the_verdict_is_known_before_any_score(methods, wanted, chosen):
    """Names alone decide."""
    assert verdict.subject(methods, wanted) == chosen


def test_the_verdict_names_what_to_be_careful_of():
    """Few cases, who was left out, who failed, and patients that cannot be told apart."""
    made = told(
        rows("none", [0.5, 0.6]), rows("t-imm", [0.6, 0.7]),
        {**rows("mean", [0.5]), "status": "failed", "error": "no", "dice": None, "cases": []},
        left_out=[{"site": "north", "chain": None, "reason": "late"}],
        sites=[{"name": "south", "disjoint_by": "case"}],
    )  # fmt: skip
    third = verdict.sentences(made, PART)[2]
    for words in ("2 test cases are few", "north did not take part", "mean failed", "different ones at south"):
        assert words in third


def test_without_scores_the_verdict_says_why():
    """A policy that keeps them is not a failure."""
    kept = {**rows("none", [0.5]), "dice": None, "cases": []}
    assert verdict.sentences(told(kept), PART) == [
        "No method has a test score at harbour: its policy keeps scores at home."
    ]
    failed = {**kept, "status": "failed", "error": "no"}
    assert verdict.sentences(told(failed), PART)[0].endswith("all of them failed.")


def test_the_table_keeps_the_campaigns_order_and_shows_each_interval():
    """A line a method, with its bar; nothing is sorted by score."""
    made = made_up.results(made_up.TEN, (0, 1))
    text = scores.table(made, PART)
    assert re.findall(r'<tr><td class="text">([^<]+)</td>', text) == list(made_up.TEN)
    assert text.count("<svg") == len(made_up.TEN)
    own = last_stage(row for row in made["rows"] if row["method"] == "pooled")
    assert intervals.score(own).text() in text


def measured(method, dice, hd95):
    """A row with HD95 beside Dice."""
    row = rows(method, dice)
    row["cases"] = [{**case, "hd95": {"a": mm}} for case, mm in zip(row["cases"], hd95)]
    return row | measures.DICE.numbers(row["cases"])


def test_what_was_measured_beside_dice_has_its_own_column_with_intervals():
    """HD95 in mm with one digit, by Student's t over the cases that have one; Dice and its column are as without."""
    dice, hd95 = [0.5, 0.7, 0.6, 0.9], [3.0, 5.0, None, 4.0]
    made = told(measured("none", dice, hd95), rows("t-imm", dice))
    text = scores.table(made, PART)
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", text)
    low, high = stats.t.interval(0.95, 2, 4.0, stats.sem([3.0, 5.0, 4.0]))
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in text.split("<tr>")[2:]]
    assert all(len(line) == len(heads) for line in cells)
    column = heads.index("HD95 (mm) [95 % interval]")
    assert [line[column] for line in cells] == [f"4.0 [{low:.1f}, {high:.1f}]", "–"]
    assert [line[1] for line in cells] == [intervals.score({(0, 0): rows("m", dice)}).text()] * 2
    assert "Of HD95 (mm) a lower number is the better one." in scores.legend(made)
    assert not any("HD95" in sentence for sentence in scores.legend(told(rows("none", dice))))


def test_differences_of_a_distance_count_the_cases_that_are_nearer():
    """The figure of HD95 says in how many cases a method's distance is smaller; that of Dice is as before."""
    made = told(measured("none", [0.5, 0.6, 0.7], [2.0, 9.0, 4.0]), measured("t-imm", [0.6, 0.5, 0.7], [3.0, 5.0, 8.0]))
    for key, counted in (("hd95", "2 of 3"), ("", "1 of 3")):
        (axes,) = figures.paired(made, key=key).axes
        assert counted in [text.get_text() for text in axes.texts]
    page = report.html(made, Around())
    assert "The same of HD95 (mm)" in page
    assert "HD95" not in report.html(told(rows("none", [0.5]), rows("t-imm", [0.6])), Around())


def test_pauses_in_which_no_site_works_are_cut():
    """A night between two hours takes the width of a gap, and the hours keep their proportion."""
    lines = [made_run.line("a", "x", "", 0, 3600, 1, 1), made_run.line("b", "x", "", 90_000, 97_200, 1, 1)]
    first, second = timeline.stretch(lines)
    assert (first.end - first.begin) * first.scale * 2 == pytest.approx((second.end - second.begin) * second.scale)
    assert timeline.place([first, second], 90_000) - timeline.place([first, second], 3600) == timeline.GAP
    assert timeline.place([first, second], 97_200) == pytest.approx(timeline.WIDTH - timeline.RIGHT)


def test_the_timeline_has_a_bar_for_each_line_and_says_what_moved():
    """Bytes and durations stand in its title, for each site in its own lane."""
    made = {"timeline": made_run.timeline(3, ("none", "t-imm")), "sites": []}
    text = timeline.draw(made)
    assert text.count("<rect") == 5
    assert "site0: training and sending (chain 0), 1 h; 2.0 MB to it, 4.0 MB from it" in text
    assert "pause of 13 h 53 min" in text
    assert "recorded no times" in timeline.draw({})


@pytest.mark.parametrize(
    ("settings", "patch", "deepest"),
    [
        ({"name": "isensee2017", "depth": 4, "base_filters": 2}, (16, 16, 16), 3),
        ({"name": "isensee2017", "depth": 3, "base_filters": 2, "dims": 2}, (16, 24), 2),
        ({"name": "unet"}, (32, 32, 32), 3),
        ({"name": "segresnet"}, (32, 32, 32), 3),
        ({"name": "dynunet"}, (32, 32, 32), 3),
        ({"name": "resnet", "dims": 2}, (32, 32), 2),
    ],
    ids=str,
)
def test_the_drawing_of_a_net_has_every_layer_at_its_level(settings, patch, deepest):
    """Of every net that can be built: all convs and linear layers once, each level halves the patch."""
    made = nets.on_meta(settings, in_channels=1, out_channels=3)
    found = layers.of(settings, patch, in_channels=1, out_channels=3)
    wanted = {name for name, module in made.named_modules() if isinstance(module, nets.DRAWN)}
    assert {layer.name for layer in found} == wanted
    assert len(found) == len(wanted)
    assert max(layer.level for layer in found) == deepest
    assert all(layer.size == tuple(side >> layer.level for side in patch) for layer in found if layer.size)


def test_a_campaign_s_own_net_is_drawn_whatever_its_table_says_beside_the_net():
    """Keys of the plan, all that there are, build no net and stand in no drawing's way."""
    table = {**dict.fromkeys(plan.NET, None), "name": "isensee2017", "depth": 2, "patch": [8, 8, 8]}
    found, why = net.of({"campaign": {"net": table}, "sites": []})
    assert why == ""
    assert found[0].name == "stem"


def test_each_layer_is_divided_as_its_sources_are_mixed():
    """The heights of a bar's parts are the mean ratios over the runs; heads are not merged."""
    small = {"name": "isensee2017", "depth": 2, "base_filters": 2}
    drawn = layers.of(small, (8, 8, 8), in_channels=1, out_channels=2)
    names = [layer.name for layer in drawn if not layer.name.startswith("heads")]
    fits = [
        {"method": "t-imm", "sites": ["a", "b"], "grain": "layer", "groups": {n: [s, 1 - s] for n in names}}
        for s in (0.2, 0.4)
    ]
    text = net.draw(drawn, fits, ["a", "b"])
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill', text)]
    assert heights == pytest.approx([0.3 * net.TALL, 0.7 * net.TALL] * len(names))
    assert text.count("not merged") == len(drawn) - len(names)


ODD = "</script><b>&"


@pytest.fixture(scope="module")
def made():
    """Results of a made-up run with names that are markup."""
    labels, ids = [f"core{ODD}", "rim"], [f"c0{ODD}", "c1"]
    site = {"name": f"harbour{ODD}", "role": "target", "data": {"folder": "data"}}
    campaign = {"campaign": {"name": ODD, "method": "t-imm", "trust": "server"}, "net": made_run.NET, "site": [site]}
    found = made_run.made(campaign, ids, labels, 2, ("none", f"transfer:{ODD}", "t-imm"))
    results.validate(found)
    return found


def test_what_comes_from_files_is_escaped_wherever_it_stands(made):
    """No text of the results is markup, in the page or in the data of its script."""
    packed = cases.Packed((cases.pack(made_run.example(), 1) | {"case": "x</script><b>"},), 1, ())
    images = Images("harbour", False, "of a <b>run", packed, ("m",), ("</script><b>",))
    text = report.html(made, Around(images, heads=("<b>head",), made="now <b>"))
    assert "<b>" not in text
    assert text.count("</script>") == text.count("<script")


def test_the_page_says_on_top_what_it_contains(made):
    """Whose images it has, or that it has none and why; whether cases have their own names."""
    packed = cases.Packed((cases.pack(made_run.example(), 1),), 1, ())
    own = Images("harbour", False, "of a run", packed, ("m",), ("a",))
    notices = {
        "patients' images: it must not leave harbour": Around(own),
        "synthetic: they show no patient": Around(Images("harbour", True, "of a run", packed, ("m",), ("a",))),
        "figures and no images. They stayed at harbour.": Around(None, "they stayed at harbour"),
    }
    for words, around in notices.items():
        head = report.html(made, around).partition("<nav")[0]
        assert words.replace("'", "&#x27;") in head.replace("'", "&#x27;")
    assert "names that their files have" in report.html(made, Around())
    deployed = {**made, "campaign": {**made["campaign"], "site": [{"name": "harbour", "role": "target"}]}}
    assert "Cases have pseudonyms." in report.html(deployed, Around())


def test_the_page_loads_nothing_and_runs_its_own_script_alone(made):
    """There is no address in it, and its policy names the digest of the one script that may run."""
    text = report.html(made, Around())
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", text)
    assert "http" not in text.replace("http-equiv", "")
    assert "script-src 'none'" in text
    page = markup.document("t", ["<p>x</p>"], scripts=("let a = 1;", "let b = a;"))
    assert len(re.findall(r"script-src.*'sha256-[^']+='.*'sha256-[^']+='", page)) == 1
    assert page.count("<script>") == 2


def test_results_of_older_versions_have_a_page():
    """Without times, sites, privacy and all else that came later."""
    text = report.html(made_up.results(), Around(None, "there are none"))
    for words in ("recorded no times", "do not tell the net", "Forgetting", "Be careful"):
        assert words in text


def test_where_nothing_is_known_of_privacy_nothing_is_said():
    """A target does not know how the sources trained; a server that lists none knows that none had noise."""
    silent, told = made_up.results(), {**made_up.results(), "privacy": []}
    assert "differential privacy" not in report.html(silent, Around())
    assert "No source trained with differential privacy" in report.html(told, Around())
