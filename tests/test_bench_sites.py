"""What a suite asks of sites: test cases by name, labels without a meaning, inverted contrast."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import campaign, hospitals

from fedmerge.errors import ConfigError
from sites import cases, config, scanner
from sites.cases import Found
from sites.records import OPEN, Data, Scanner, Site

PATCH = (8, 8, 8)


def found(*ids, patients=None):
    """Cases by name only."""
    return [Found(i, p, (Path(f"{i}.nii"),), Path(f"{i}.nii")) for i, p in zip(ids, patients or [None] * len(ids))]


def data(**how):
    """Settings without files behind them."""
    return Data(Path("harbour"), "msd", {"a": (1,)}, **how)


def names(part):
    """The ids of a part."""
    return [case.id for case in part]


def table(tmp_path, **how):
    """The site harbour of the small campaign, with these keys in its data."""
    path = campaign(hospitals(tmp_path, cases=6))
    lines = "".join(f"{key} = {value}\n" for key, value in how.items())
    text = path.read_text()
    assert "validate = 2\ntest = 3\n" in text
    path.write_text(text.replace("validate = 2\ntest = 3\n", lines))
    return config.from_campaign(path, "harbour", work=tmp_path / "work")


@pytest.mark.parametrize("seed", range(5))
def test_named_cases_are_exactly_the_test_cases(seed):
    """Whatever the seed and the size, they test, and they neither train nor validate."""
    ids = found(*"abcdefghij")
    split = cases.split(ids, data(validate=2, test=("a", "e", "j")), seed=seed)
    assert names(split.test) == ["a", "e", "j"]
    assert names(split.validate) == ["b", "c"]
    assert sorted(names(split.train)) == ["d", "f", "g", "h", "i"]


def test_both_parts_by_name():
    """Validation too; a number beside a list fills up from the others."""
    ids = found(*"abcdef")
    split = cases.split(ids, data(validate=("f",), test=("a",)), seed=0)
    assert (names(split.validate), names(split.test)) == (["f"], ["a"])
    split = cases.split(ids, data(validate=("a",), test=2), seed=0)
    assert (names(split.validate), names(split.test)) == (["a"], ["b", "c"])


def test_other_files_of_a_named_patient_are_left_out():
    """A patient whose one scan tests trains with none of the others."""
    ids = found("a1", "a2", "b1", "c1", patients=["a", "a", "b", "c"])
    split = cases.split(ids, data(test=("a2",)), seed=0)
    assert names(split.test) == ["a2"]
    assert sorted(names(split.train)) == ["b1", "c1"]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"test": ("x",)}, "harbour: 'test' names the case 'x', which is not among the site's cases"),
        ({"validate": ("y",)}, "harbour: 'validate' names the case 'y', which is not among the site's cases"),
        ({"validate": ("a",), "test": ("a",)}, "both 'validate' and 'test' name the case 'a'"),
    ],
)
def test_names_that_cannot_be(how, told):
    """A sentence says which part and which case."""
    with pytest.raises(ConfigError, match=told):
        cases.split(found(*"abc"), data(**how), seed=0)


def test_a_patient_in_two_named_parts():
    """Two scans of one patient cannot both validate and test."""
    ids = found("a1", "a2", "b1", patients=["a", "a", "b"])
    with pytest.raises(ConfigError, match="name a case of the patient 'a'"):
        cases.split(ids, data(validate=("a1",), test=("a2",)), seed=0)


def test_a_campaign_file_lists_test_cases(tmp_path):
    """The list arrives as it was written, and the loaded parts are as it says."""
    site = table(tmp_path, validate=1, test='["harbour_003", "harbour_000"]')
    assert site.data.test == ("harbour_003", "harbour_000")
    split = cases.split(cases.find(site.data), site.data, seed=0)
    assert names(split.test) == ["harbour_000", "harbour_003"]
    assert names(split.validate) == ["harbour_001"]


def test_a_list_that_names_a_case_twice_is_refused(tmp_path):
    """When the file is read."""
    with pytest.raises(ConfigError, match="'test' names the case 'harbour_003' twice"):
        table(tmp_path, test='["harbour_003", "harbour_003"]')


def test_meaningless_labels_are_those_of_another_case(tmp_path):
    """Each case trains with another one's labels, no map is lent twice, scores keep the true ones."""
    folder = hospitals(tmp_path, cases=5) / "north"
    honest = Data(folder, "msd", {"ball": (1,), "cube": (2,)})
    site = Site("north", "source", honest, OPEN, None, tmp_path, simulation=True)
    own = {c.id: c for c in cases.load(site, cases.split(cases.find(honest), honest, seed=0).train, patch=PATCH)}
    bad = replace(honest, meaningless=3)
    lent = cases.split(cases.find(bad), bad, seed=0).train
    loaded = cases.load(replace(site, data=bad), lent, patch=PATCH)
    assert {case.id for case in lent} == {case.lent.id for case in lent}
    for case, chosen in zip(loaded, lent):
        assert chosen.lent.id != case.id
        torch.testing.assert_close(case.label, own[chosen.lent.id].label)
        torch.testing.assert_close(case.image, own[case.id].image)
        np.testing.assert_array_equal(case.truth, own[case.id].truth)
    again = cases.split(cases.find(bad), replace(bad, train=2), seed=1).train
    lender = {case.id: case.lent.id for case in lent}
    assert all(lender[case.id] == case.lent.id for case in again)


def test_labels_cannot_be_lent_by_a_single_case():
    """There is no other one."""
    with pytest.raises(ConfigError, match="at least two cases, got 1"):
        cases.split(found("a"), data(meaningless=0), seed=0)


def test_an_inverted_scanner_turns_intensities_round():
    """Scaled intensities x become 1 - x."""
    image = np.linspace(0, 1, 4**3, dtype=np.float32).reshape(4, 4, 4)
    drawn = scanner.draw("north", "a", image.shape)
    plain = scanner.apply(image, Scanner(), drawn, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(scanner.apply(image, Scanner(invert=True), drawn, (1.0, 1.0, 1.0)), 1 - plain)


def test_what_is_not_set_leaves_digests_as_they_were(tmp_path):
    """Stored contributions of older versions are found; set, the new keys make other contributions."""
    for name in ("image", "label"):
        (tmp_path / name).write_text(name)
    plain = Data(tmp_path, "msd", {"ball": (1,), "cube": (2,)})
    chosen = [Found("a", None, (tmp_path / "image",), tmp_path / "label")]
    digests = [
        cases.digest(chosen, plain, Scanner(gain=2)),
        cases.digest(chosen, plain, Scanner(gain=2, invert=True)),
        cases.digest(chosen, replace(plain, meaningless=0), Scanner(gain=2)),
        cases.digest(chosen, replace(plain, test=("a",)), Scanner(gain=2)),
    ]
    assert len(set(digests)) == 4
    assert digests[0] == "sha256:e1d4fe872eb9b4a9ac69109914bce78c31853d6bb460f0d70d9c05f8cc68c56a"


def test_a_hospitals_own_file_may_not_make_labels_meaningless(tmp_path):
    """It is for simulations."""
    own = tmp_path / "site.toml"
    own.write_text(
        '[site]\nname = "north"\nrole = "source"\n[data]\nfolder = "x"\nlabels = { ball = [1] }\nmeaningless = 1\n'
    )
    with pytest.raises(ConfigError, match="'meaningless' is for simulations only"):
        config.from_file(own)
