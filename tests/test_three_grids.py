"""Four modalities on three grids go through check, training and predict, and everything lies where it is."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import three_grids
import torch
from commandline import command
from made_plans import trainings
from three_grids import MODALITIES, VIEWS
from torch import nn

from fedmerge.errors import DataError
from sites import cases, explaining, predict, preflight, steps
from sites.config import OPEN, Data, Site

PATCH = (40, 40, 40)
SPACING = (5.0, 5.0, 5.0)


@pytest.fixture(scope="module", params=three_grids.heads())
def hospital(request, tmp_path_factory):
    """A site of one case, and where its ball is in mm."""
    folder = tmp_path_factory.mktemp("grids")
    centre = three_grids.write_case(folder, "p-visit1", path=three_grids.heads()[request.param])
    data = Data(folder, "folders", {"ball": (1,)}, MODALITIES, grids="resample", spacing_mm=SPACING)
    return Site("north", "source", data, OPEN, None, folder / "work", simulation=True), centre


class Brightest(nn.Module):
    """Finds what is nearly as bright as the brightest of one channel: the ball, wherever the channel has it."""

    def __init__(self, channel):
        super().__init__()
        self.channel, self.share = channel, nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        """(B, C, *S) -> (B, 2, *S)."""
        one = x[:, self.channel : self.channel + 1]
        low, high = one.amin((2, 3, 4), keepdim=True), one.amax((2, 3, 4), keepdim=True)
        above = (one - low) / (high - low) - self.share
        return 50 * torch.cat([-above, above], 1)


def test_check_says_which_modalities_are_resampled_and_what_is_done(hospital):
    """Two of the four lie on other voxels; words for the site's people, no path and no error."""
    site, _ = hospital
    (told,) = preflight.check(replace(site, data=replace(site.data, train=1)), PATCH)
    assert (told.severity, told.file) == ("warning", "")
    assert told.sentence == (
        "north: on other voxels than T1 lies T2 in 1 of 1 cases, FLAIR in 1 of 1 cases;"
        " it is resampled onto those of T1"
    )
    assert explaining.explain(site, PATCH) == [
        "modalities on other voxels than T1 are brought onto its voxels by linear interpolation, a label map by nearest"
        " neighbours; scores are taken and predictions written there",
        "each modality is clipped at its percentiles 1 and 99, then has mean 0 and standard deviation 1",
        "along an axis that becomes coarser voxels are averaged, along one that becomes finer interpolated",
        "voxels of 4 x 4 x 4 mm; resampled to 5 x 5 x 5 mm; the net sees 200 x 200 x 200 mm around the centre",
    ]


def test_without_being_asked_the_site_refuses(hospital):
    """The default stays as it was: the sentence names the two files."""
    site, _ = hospital
    refusing = replace(site, data=replace(site.data, grids="refuse"))
    with pytest.raises(DataError, match=r"^north: T2.nii.gz expected the shape of the image T1.nii.gz, 42 x 50 x 44"):
        cases.load(refusing, cases.find(refusing.data), patch=PATCH)
    errors = [f.sentence for f in preflight.check(refusing, PATCH) if f.severity == "error"]
    assert [s.split(" expected")[0] for s in errors] == ["north: T2.nii.gz", "north: FLAIR.nii.gz"]


def test_the_log_says_how_many_cases_were_resampled(hospital, caplog):
    """Site and number, no case and no path; once, when they are read."""
    site, _ = hospital
    loaded = [cases.load(replace(site, name="east"), cases.find(site.data), patch=PATCH) for _ in range(2)]
    assert loaded[0][0].regridded == 2
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert told == ["east: 1 of 1 cases had files on other voxels than their first image"]


@pytest.mark.parametrize("channel", range(4), ids=MODALITIES)
def test_the_ball_is_found_where_it_is_in_every_modality(hospital, tmp_path, channel):
    """Found in one modality alone, written on T1's own grid: the centre is right to half a voxel of that modality."""
    site, centre = hospital
    folder = site.data.folder / "p-visit1"
    card = {
        "channels": MODALITIES,
        "patch": PATCH,
        "spacing_mm": SPACING,
        "preparation": steps.table(steps.of(site.data)),
    }
    paths = [folder / f"{name}.nii.gz" for name in MODALITIES]
    predict.predict_file(Brightest(channel), card, paths, tmp_path / "found.nii.gz")
    found, first = nibabel.load(tmp_path / "found.nii.gz"), nibabel.load(paths[0])
    assert found.shape == first.shape
    np.testing.assert_allclose(found.affine, first.affine, atol=1e-4)
    where = np.argwhere(np.asarray(found.dataobj) == 1)
    assert len(where) * 64 == pytest.approx(4 / 3 * np.pi * three_grids.RADIUS_MM**3, rel=0.15)
    seen = nibabel.affines.apply_affine(found.affine, where.mean(0))
    voxel = nibabel.affines.voxel_sizes(VIEWS[MODALITIES[channel]][0]).max()
    assert np.linalg.norm(seen - centre) < voxel / 2
    truth = np.asarray(nibabel.load(folder / "label.nii.gz").dataobj) == 1
    both = (np.asarray(found.dataobj) == 1) & truth
    assert 2 * both.sum() / (len(where) + truth.sum()) > 0.9


def test_a_loaded_case_has_the_ball_in_all_channels_where_its_label_is(hospital):
    """In the net's patch, and scored on T1's voxels: every channel alone gives Dice above 0.9."""
    site, _ = hospital
    loaded = cases.load(site, cases.find(site.data), patch=PATCH)
    for channel in range(4):
        (scored,) = predict.score(Brightest(channel), loaded, ("ball",))
        assert scored["dice"]["ball"] > 0.9


def test_a_label_map_that_was_drawn_on_another_modality_is_brought_along(hospital, tmp_path):
    """Nearest neighbours, said by check; the same ball to a voxel's edge."""
    site, centre = hospital
    moved = tmp_path / "p-visit1"
    moved.mkdir()
    for name in MODALITIES:
        (moved / f"{name}.nii.gz").symlink_to(site.data.folder / "p-visit1" / f"{name}.nii.gz")
    affine, shape = VIEWS["T2"]
    three_grids.write(moved / "label.nii.gz", three_grids.ball(centre, affine, shape).astype(np.uint8), affine)
    here = replace(site, name="west", data=replace(site.data, folder=tmp_path))
    (told,) = preflight.check(here, PATCH)
    assert "the label map in 1 of 1 cases" in told.sentence
    (case,) = cases.load(here, cases.find(here.data), patch=PATCH)
    (drawn,) = cases.load(site, cases.find(site.data), patch=PATCH)
    assert case.regridded == 3
    both = (case.truth == 1) & (drawn.truth == 1)
    assert 2 * both.sum() / ((case.truth == 1).sum() + (drawn.truth == 1).sum()) > 0.9


CAMPAIGN = '[campaign]\nname = "grids"\nprecision = "float32"\nmethods = ["mean"]\n' + trainings(patch=(16, 16, 16))
SITE = """
[[site]]
name = "{name}"
role = "{role}"
[site.data]
folder = "{name}"
layout = "folders"
modalities = ["T1", "T1ce", "T2", "FLAIR"]
labels = {{ ball = [1] }}
spacing_mm = 10.0
grids = "resample"
crop = "otsu"
bias_field = {{ iterations = [2] }}
cache_gb = 0.1
{more}
"""


def test_a_campaign_goes_from_check_to_predict_without_help(tmp_path, capsys):
    """Landmarks, training, fine-tuning and the label map of a new patient, by the commands and nothing else."""
    for number, name in enumerate(("north", "harbour")):
        for k in range(2 + number):
            three_grids.write_case(tmp_path / name, f"{name}{k}-visit1", seed=10 * number + k)
    three_grids.write_case(tmp_path / "new", "x", seed=99)
    north = SITE.format(name="north", role="source", more='landmarks = "north.json"')
    harbour = SITE.format(name="harbour", role="target", more='test = 1\nlandmarks = "north.json"')
    file = tmp_path / "grids.toml"
    file.write_text(CAMPAIGN + (north + harbour).replace('landmarks = "north.json"', ""))
    assert command("landmarks", file, "--site", "north", "--out", tmp_path / "north.json") == 0
    file.write_text(CAMPAIGN + north + harbour)
    capsys.readouterr()
    assert command("check", file) == 0
    told = capsys.readouterr().out
    assert "north: modalities on other voxels than T1 are brought onto its voxels" in told
    assert "north: N4 corrects the bias field of 4 modalities" in told
    assert "0 errors" in told
    assert command("simulate", file, "--out", tmp_path / "run") == 0
    assert len(list((tmp_path / "run/sites/north/prepared").glob("*.safetensors"))) == 2
    (model,) = (tmp_path / "run").glob("models/harbour/*.fine-tuned.safetensors")
    paths = [tmp_path / "new/x" / f"{name}.nii.gz" for name in MODALITIES]
    assert command("predict", model, *paths, "--out", tmp_path / "maps") == 0
    found, first = nibabel.load(tmp_path / "maps/T1.nii.gz"), nibabel.load(paths[0])
    assert found.shape == first.shape
    np.testing.assert_allclose(found.affine, first.affine, atol=1e-4)
