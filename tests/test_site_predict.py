"""A net at work on the hospital's own grid."""

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from fedmerge.errors import ConfigError, DataError
from sites import cases, predict, volumes
from sites.config import OPEN, Data, Site

OBLIQUE = np.array([[0, -1.5, 0.2, 7], [1.5, 0.1, 0, -5], [0, 0.2, -2.0, 11], [0, 0, 0, 1.0]])


class Threshold(nn.Module):
    """Background, 1 and 2 by brightness: a net that makes no mistake on the images of `study`."""

    def __init__(self):
        super().__init__()
        self.limits = nn.Parameter(torch.tensor([1.5, 5.0]))

    def forward(self, x):
        """(B, C, *S) -> (B, 3, *S), from the first channel."""
        bright = x[:, :1]
        low, high = self.limits
        return 20 * torch.cat([low - bright, torch.minimum(bright - low, high - bright), bright - high], 1)


def study(shape=(20, 24, 18)):
    """An image whose brightness tells the label."""
    label = np.zeros(shape, np.uint8)
    label[6:12, 8:16, 6:12] = 1
    label[12:16, 8:16, 6:12] = 2
    return (np.array([0, 120, 240])[label]).astype(np.int16), label


@pytest.fixture
def site(tmp_path):
    """Two cases of `study`, oblique and in an odd order of axes."""
    image, label = study()
    for name in "ab":
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            (tmp_path / part).mkdir(exist_ok=True)
            volumes.write(array, OBLIQUE, tmp_path / part / f"{name}.nii.gz")
    return Site("h", "target", Data(tmp_path, "msd", {"x": (1,), "y": (2,)}), OPEN, None, tmp_path, simulation=True)


def test_probabilities_sum_to_one_and_the_net_is_left_as_it_was():
    """Evaluation mode holds inside only; no gradient is kept."""
    net = nn.Sequential(nn.Conv3d(1, 3, 1), nn.Dropout(0.5)).train()
    x = torch.randn(2, 1, 4, 4, 4)
    one, two = predict.segment(net, x), predict.segment(net, x)
    assert net.training
    assert not one.requires_grad
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    torch.testing.assert_close(one.sum(1), torch.ones(2, 4, 4, 4))


def test_scores_are_taken_on_the_original_voxels(site, tmp_path):
    """A net without mistakes scores 1 for every label of every case, and its maps lie like the images."""
    loaded = cases.load(site, cases.find(site.data), patch=(24, 24, 24))
    got = predict.score(Threshold(), loaded, ("x", "y"), keep=tmp_path / "out")
    assert got == [{"case": name, "dice": {"x": 1.0, "y": 1.0}} for name in "ab"]
    kept = nib.load(tmp_path / "out" / "a.nii.gz")
    truth = nib.load(tmp_path / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(kept.dataobj, truth.dataobj)
    np.testing.assert_allclose(kept.affine, truth.affine, atol=1e-5)


def test_what_lies_outside_the_patch_is_missed(site):
    """A crop that holds half of a label costs its other half: 2 * 0.5 / 1.5."""
    (case, _) = cases.load(site, cases.find(site.data), patch=(24, 8, 24))
    half = predict.score(Threshold(), [case], ("x", "y"))[0]["dice"]
    inside = np.zeros(case.truth.shape, bool)
    inside[:, (case.truth.shape[1] - 8) // 2 :][:, :8] = True
    for name, k in (("x", 1), ("y", 2)):
        share = (case.truth[inside] == k).sum() / (case.truth == k).sum()
        assert half[name] == pytest.approx(2 * share / (1 + share))


def test_a_label_in_neither_is_left_out(site):
    """A name without voxels has no Dice."""
    loaded = cases.load(site, cases.find(site.data), patch=(24, 24, 24))
    assert predict.score(Threshold(), loaded[:1], ("x", "y", "z"))[0]["dice"]["z"] is None


@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 1.0)])
def test_a_file_is_segmented_on_its_own_grid(site, tmp_path, spacing_mm):
    """Crop, resampling and reorientation are undone; at a finer spacing at most the borders move."""
    info = {"channels": ["T1"], "patch": [48, 48, 48], "spacing_mm": spacing_mm}
    image = tmp_path / "imagesTr" / "a.nii.gz"
    predict.predict_file(Threshold(), info, [image], tmp_path / "out" / "a_seg.nii.gz")
    found, truth = nib.load(tmp_path / "out" / "a_seg.nii.gz"), nib.load(tmp_path / "labelsTr" / "a.nii.gz")
    assert found.shape == truth.shape
    np.testing.assert_allclose(found.affine, truth.affine, atol=1e-5)
    assert (np.asarray(found.dataobj) == np.asarray(truth.dataobj)).mean() > (0.97 if spacing_mm else 0.9999)


def test_several_channels(site, tmp_path):
    """One file a channel; another number, or channels on other voxels, are refused."""
    image = tmp_path / "imagesTr" / "a.nii.gz"
    info = {"channels": ["T1", "T2"], "patch": [24, 24, 24]}
    predict.predict_file(Threshold(), info, [image, image], tmp_path / "o.nii.gz")
    truth = nib.load(tmp_path / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "o.nii.gz").dataobj, truth.dataobj)
    with pytest.raises(ConfigError, match=r"the model expected 2 images \(T1, T2\), got 3"):
        predict.predict_file(Threshold(), info, [image] * 3, tmp_path / "o.nii.gz")
    other = tmp_path / "other.nii.gz"
    volumes.write(study()[0][1:], OBLIQUE, other)
    with pytest.raises(DataError, match=r"^other.nii.gz expected the shape of a.nii.gz, 20 x 24 x 18, got 19"):
        predict.predict_file(Threshold(), info, [image, other], tmp_path / "o.nii.gz")


def test_an_image_is_not_overwritten_by_its_labels(tmp_path, site):
    """The output has a place of its own."""
    image = tmp_path / "imagesTr" / "a.nii.gz"
    with pytest.raises(DataError, match=r"a.nii.gz is one of the images; choose another place"):
        predict.predict_file(Threshold(), {"channels": ["T1"], "patch": [24, 24, 24]}, [image], image)
