"""Landmarks as a file: learnt from training cases alone, read by another site, and let out by the policy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from commandline import command
from made_cases import decathlon, head, site_of, write
from test_site_steps import LANDMARKS

from fedmerge.errors import ConfigError
from sites import cases, foreground, histogram, landmarks, learning, outbound, volumes
from sites.records import OPEN, BiasField


def test_reading_undoes_writing(tmp_path):
    """The same record; the file is JSON that a program elsewhere can read."""
    landmarks.write(LANDMARKS, tmp_path / "l.json")
    assert landmarks.read(tmp_path / "l.json", "north") == LANDMARKS
    table = json.loads((tmp_path / "l.json").read_text())
    assert list(table) == ["format", "percentiles", "foreground", "cases", "channels"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "2"}, "north expected the format 'fedmerge landmarks 1'"),
        ({"percentiles": [1, 99, 50]}, "percentiles expected at least two finite numbers in growing order"),
        ({"percentiles": [1, 50, 199]}, "percentiles expected numbers from 0 to 100"),
        ({"foreground": "skull"}, "foreground expected nonzero or otsu, got 'skull'"),
        ({"cases": 0}, "cases expected a positive whole number, got 0"),
        ({"cases": True}, "cases expected a positive whole number, got True"),
        ({"channels": {}}, "channels expected landmarks of at least one modality"),
        ({"channels": {"T1": [0, 100]}}, "T1 expected 3 landmarks, got 2"),
        ({"channels": {"T1": [0, float("nan"), 100]}}, "T1 expected at least two finite numbers in growing order"),
        ({"channels": {"T1": [0, 60, 50]}}, "T1 expected at least two finite numbers in growing order"),
        ({"channels": {"T1": "0 1 2"}}, "T1 expected at least two finite numbers in growing order"),
    ],
)
def test_a_file_that_is_something_else_is_named(change, sentence):
    """Another site's file is checked as a whole before anything of it is used."""
    with pytest.raises(ConfigError, match=sentence):
        landmarks.from_table({**landmarks.table(LANDMARKS), **change}, "north")


@pytest.fixture
def site(tmp_path):
    """Five cases: two train, one validates, two test."""
    data = replace(decathlon(tmp_path, ["a", "b", "c", "d", "e"]), validate=1, test=2)
    return replace(site_of(data), work=tmp_path / "work")


def test_landmarks_are_those_of_the_training_images(site):
    """By hand: quantiles of the foreground, laid onto 0 to 100, averaged; after N4, where the site asks for it."""
    train = learning.training(site)
    got = learning.landmarks(site, train, "otsu")
    rows = []
    for one in train:
        image = volumes.read(one.images[0]).data
        rows.append(histogram.quantiles(image, foreground.mask(image, "otsu"), histogram.PERCENTILES))
    assert (got.cases, got.foreground, got.channels[0][0]) == (2, "otsu", "MRI")
    np.testing.assert_allclose(got.channels[0][1], histogram.learn(rows))
    n4 = replace(site, data=replace(site.data, bias_field=BiasField(1, (5,))))
    assert learning.landmarks(n4, train, "otsu") != got


def test_a_case_that_validates_or_tests_teaches_nothing(site):
    """Another image there changes no digit; one of a training case does."""
    train = learning.training(site)
    before = learning.landmarks(site, train, "nonzero")
    parts = cases.split(cases.find(site.data), site.data, seed=0)
    for one in (*parts.validate, *parts.test):
        write(one.images[0], head(77)[0] ** 2)
    assert learning.landmarks(site, learning.training(site), "nonzero") == before
    write(train[0].images[0], head(78)[0] ** 2)
    assert learning.landmarks(site, learning.training(site), "nonzero") != before


def test_landmarks_leave_only_where_the_policy_says_so(site):
    """By its own line, and from as many cases as anything else that leaves."""
    train = learning.training(site)
    learning.check_leaving(site, train)
    with pytest.raises(ConfigError, match=r"^north: policy line 'landmarks = false': no landmarks leave$"):
        learning.check_leaving(replace(site, policy=replace(OPEN, landmarks=False)), train)
    with pytest.raises(ConfigError, match=r"^north: policy line 'min_cases = 3': there are 2 cases$"):
        learning.check_leaving(replace(site, policy=replace(OPEN, min_cases=3)), train)


def test_a_model_takes_its_landmarks_along_or_stays(site, tmp_path):
    """Its card has them: where they may not leave, it does not."""
    path = tmp_path / "m.safetensors"
    closed = replace(site, policy=replace(OPEN, landmarks=False))
    assert outbound.model(closed, path) == {"model": path}
    standard = replace(closed, data=replace(site.data, landmarks=LANDMARKS))
    assert outbound.model(standard, path) == {}
    assert outbound.model(replace(standard, policy=OPEN), path) == {"model": path}


SITE = """
[site]
name = "north"
role = "source"
[data]
folder = "."
labels = { front = 1, back = 2 }
train = 3
[policy]
min_cases = 2
"""


def test_a_hospital_learns_landmarks_for_itself(tmp_path, capsys):
    """Into its own work folder with the strictest policy; for others' eyes it needs the line; nothing is replaced."""
    decathlon(tmp_path, ["a", "b", "c"])
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    assert command("landmarks", file, "--foreground", "otsu") == 0
    assert "landmarks of 3 cases of north" in capsys.readouterr().out
    assert landmarks.read(tmp_path / "north-work/landmarks.json", "north").cases == 3
    assert command("landmarks", file) == 2
    assert "exists already: --overwrite replaces it" in capsys.readouterr().err
    assert command("landmarks", file, "--out", tmp_path / "shown.json") == 2
    assert "policy line 'landmarks = false'" in capsys.readouterr().err
    file.write_text(SITE + "landmarks = true\n")
    assert command("landmarks", file, "--out", tmp_path / "shown.json") == 0
    file.write_text(SITE.replace("train = 3", 'train = 3\nlandmarks = "shown.json"'))
    assert command("landmarks", file, "--foreground", "skull") == 2
    assert "--foreground expected nonzero or otsu, got 'skull'" in capsys.readouterr().err
