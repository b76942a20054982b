"""What will be done to a site's cases, in words."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_cases import decathlon, site_of
from test_site_steps import LANDMARKS

from sites import explaining, findings
from sites.records import BiasField, Data

DATA = Data(Path(), "msd", {"a": (1,)})
NAMES = ("T1", "T2", "FLAIR")


def told(*, names=NAMES, voxels=(9_000_000,) * 40, **settings):
    """The sentences of these settings."""
    return explaining.sentences(replace(DATA, **settings), names, voxels)


def test_every_step_that_is_asked_for_has_its_sentence_and_no_other():
    """The plain site has two; each key adds its own, in the order in which things are done."""
    plain = told()
    assert plain == [
        "all modalities and the label map have to lie on the voxels of T1: others are an error",
        "each modality is clipped at its percentiles 1 and 99, then has mean 0 and standard deviation 1",
    ]
    assert told(names=("T1",)) == plain[1:]
    everything = told(
        crop="otsu", bias_field=BiasField(), landmarks=LANDMARKS, spacing_mm=(1.0, 1.0, 1.0), cache_gb=50.0
    )
    begin = [
        "all modal",
        "each case is cut",
        "N4 corr",
        "histograms are laid",
        "each modality",
        "along an axis",
        "up to 50",
    ]
    assert [sentence[: len(words)] for sentence, words in zip(everything, begin, strict=True)] == begin
    assert everything[3].endswith("of T1, T2, which were learnt from 12 cases")


def test_n4_that_takes_long_is_said_beforehand_with_what_to_do():
    """From the number of voxels; what is kept is made once."""
    (slow,) = [s for s in told(bias_field=BiasField()) if s.startswith("N4")]
    assert slow.endswith(
        "of 3 modalities, on every 4th voxel: up to 43 min of one core for 40 cases, in every process that reads them:"
        " `cache_gb` would keep the results"
    )
    (once,) = [s for s in told(bias_field=BiasField(), cache_gb=1.0) if s.startswith("N4")]
    assert once.endswith("for 40 cases, once")
    (fast,) = [s for s in told(bias_field=BiasField(2, (5,)), names=("T1",), voxels=(50_000,)) if s.startswith("N4")]
    assert (
        fast == "N4 corrects the bias field of one modality, on every second voxel: up to 1 s of one core for 1 cases"
    )


def test_cases_that_cannot_be_read_are_not_explained(tmp_path):
    """The preflight says what is wrong; there is no second error."""
    site = site_of(decathlon(tmp_path, ["a"]))
    assert len(explaining.explain(site, (8, 8, 4))) == 2
    path = tmp_path / "imagesTr/a.nii.gz"
    for rest in (path.read_bytes()[:40], b"no image", b""):
        path.write_bytes(rest)
        assert explaining.explain(site, (8, 8, 4)) == []


@pytest.mark.parametrize(("cache_gb", "words"), [(0.0, "contributions and checkpoints"), (5000.0, "prepared cases")])
def test_the_disk_has_to_have_room_for_what_is_kept(tmp_path, cache_gb, words):
    """Prepared cases are counted with what a campaign needs."""
    site = replace(site_of(replace(DATA, folder=tmp_path, cache_gb=cache_gb)), work=tmp_path)
    line = findings.disk(site, None)
    assert words in line.found
    assert (float(line.found.split("; ")[1].split(" GB")[0]) > 5000) == (cache_gb > 0)
