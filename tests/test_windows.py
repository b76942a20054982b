"""Volumes answered window by window: the same as at once where that makes no difference, and on the file's own grid."""

import itertools

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
from monai.data.utils import dense_patch_slices
from test_site_predict import OBLIQUE, Threshold
from torch import nn

from fedmerge import nets
from fedmerge.errors import ConfigError
from sites import cases, predict, volumes, windows
from sites.config import OPEN, Data, Site


def pointwise(channels=2):
    """A net that looks at one voxel at a time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(channels, 5, 1), nn.LeakyReLU(), nn.Conv3d(5, 4, 1))


class Counting(nn.Module):
    """A net that remembers how many windows came together."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x):
        """(B, C, *S) as the net."""
        self.seen.append(len(x))
        return self.net(x)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_on_a_pointwise_net_windows_are_the_plain_forward_pass(overlap, flips):
    """Where a voxel's answer depends on that voxel alone, neither windows nor mirrors may change it."""
    net, image = pointwise(), torch.randn(2, 11, 9, 14, generator=torch.Generator().manual_seed(0))
    plain = windows.segment(net, image[None])[0]
    swept = windows.sweep(net, image, (6, 8, 4), overlap=overlap, flips=flips)
    torch.testing.assert_close(swept, plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(swept.sum(0), torch.ones(11, 9, 14))


def test_a_window_that_is_the_volume_is_the_plain_forward_pass():
    """Of any net."""
    net = nets.build({"name": "isensee2017", "base_filters": 2, "depth": 2}, in_channels=1, out_channels=3, seed=0)
    image = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = windows.segment(net, image[None])[0]
    torch.testing.assert_close(windows.sweep(net, image, (8, 8, 8)), plain, rtol=0, atol=1e-5)


def test_flips_are_the_mean_over_eight_mirrors():
    """Of logits, by hand, on a net that has a left and a right."""
    torch.manual_seed(0)
    net, image = nn.Conv3d(1, 3, 3, padding=1), torch.randn(1, 6, 6, 6)
    with torch.no_grad():
        mirrors = [axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n)]
        logits = torch.stack([net(image[None].flip(axes)).flip(axes) for axes in mirrors]).mean(0)
    assert len(mirrors) == 8
    found = windows.sweep(net, image, (6, 6, 6), flips=True)
    torch.testing.assert_close(found, logits.softmax(1)[0], rtol=0, atol=1e-5)
    assert not torch.allclose(found, windows.sweep(net, image, (6, 6, 6)), atol=1e-3)


def test_borders_of_windows_weigh_less():
    """A net that answers wildly at its window's border: the middle of the volume hardly feels it."""

    class Rim(nn.Module):
        def forward(self, x):
            rim = torch.ones_like(x)
            rim[..., 1:-1, 1:-1, 1:-1] = 0
            return torch.cat([torch.zeros_like(x), 9 * rim], 1)

    found = windows.sweep(Rim(), torch.zeros(1, 24, 24, 24), (8, 8, 8))[1]
    inner = found[8:-8, 8:-8, 8:-8]
    assert inner.max() < 0.99 < found[0, 0, 0]
    assert inner.mean() < 0.6


@pytest.mark.parametrize(
    ("size", "window", "overlap"),
    [((11, 9, 14), (6, 8, 4), 0.5), ((8, 8, 8), (8, 8, 8), 0.5), ((240, 240, 155), (128, 128, 128), 0.5),
     ((20, 21, 22), (7, 7, 7), 0.3), ((9, 9, 9), (4, 4, 4), 0.9)],
)  # fmt: skip
def test_windows_are_counted_as_monai_lays_them(size, window, overlap):
    """From the batch's size depends how fast the CPU is, so the count has to be right."""
    steps = [w if s == w else max(1, int(w * (1 - overlap))) for s, w in zip(size, window)]
    assert windows.count(size, window, overlap) == len(dense_patch_slices(size, window, steps))


def test_no_window_is_left_alone_on_the_cpu():
    """Batches of one are slow in float32: whatever the number of windows, each has company, if it is its own double."""
    for number in range(2, 400):
        assert number % windows.together(number) != 1, number
    for side in range(4, 15):
        net = Counting(pointwise(1))
        windows.sweep(net, torch.randn(1, side, 4, 4), (4, 4, 4), device="cpu")
        assert min(net.seen) >= 2, side


def certain():
    """A net that makes no mistake on the images of `site`."""
    net = Threshold()
    net.limits.data = torch.tensor([1.2, 4.0])
    return net


@pytest.fixture
def site(tmp_path):
    """Two cases with something far from the middle, oblique and of different sizes."""
    for name, shape in (("a", (30, 26, 22)), ("b", (21, 40, 17))):
        label = np.zeros(shape, np.uint8)
        label[1:9, 2:12, 2:8] = 1
        label[-9:-1, -12:-2, -7:-2] = 2
        image = np.array([0, 120, 240])[label].astype(np.int16)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            (tmp_path / part).mkdir(exist_ok=True)
            volumes.write(array, OBLIQUE, tmp_path / part / f"{name}.nii.gz")
    return Site("h", "target", Data(tmp_path, "msd", {"x": (1,), "y": (2,)}), OPEN, None, tmp_path, simulation=True)


def test_scores_are_those_of_the_whole_volume(site, tmp_path):
    """A net without mistakes scores 1 off the centre, where the patch around it finds nothing; maps lie like images."""
    found = cases.find(site.data)
    whole = cases.load(site, found, patch=(8, 8, 8), field="whole")
    told = predict.score(certain(), whole, ("x", "y"), measures=("dice", "hd95", "lesion-dice"), keep=tmp_path / "out")
    perfect = {"dice": {"x": 1.0, "y": 1.0}, "hd95": {"x": 0.0, "y": 0.0}, "lesion-dice": {"x": 1.0, "y": 1.0}}
    assert told == [{"case": name, **perfect} for name in "ab"]
    centre = predict.score(certain(), cases.load(site, found, patch=(8, 8, 8)), ("x", "y"))
    assert [one["dice"] for one in centre] == [{"x": 0.0, "y": 0.0}] * 2
    for name in "ab":
        kept, truth = (nib.load(tmp_path / part / f"{name}.nii.gz") for part in ("out", "labelsTr"))
        np.testing.assert_array_equal(kept.dataobj, truth.dataobj)
        np.testing.assert_allclose(kept.affine, truth.affine, atol=1e-5)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 1.0)])
def test_a_file_is_segmented_whole(site, tmp_path, spacing_mm, flips):
    """With what the model's file says of it, on the image's own grid; resampled, at most borders move."""
    info = {"channels": ["T1"], "patch": [16, 16, 16], "field": "whole", "overlap": 0.25, "spacing_mm": spacing_mm}
    image = tmp_path / "imagesTr" / "b.nii.gz"
    predict.predict_file(certain(), info, [image], tmp_path / "o.nii.gz", flips=flips)
    found, truth = nib.load(tmp_path / "o.nii.gz"), nib.load(tmp_path / "labelsTr" / "b.nii.gz")
    assert found.shape == truth.shape
    np.testing.assert_allclose(found.affine, truth.affine, atol=1e-5)
    assert (np.asarray(found.dataobj) == np.asarray(truth.dataobj)).mean() > (0.97 if spacing_mm else 0.9999)


def test_pictures_are_not_mirrored(tmp_path):
    """A class is asked of a picture as it lies."""
    with pytest.raises(ConfigError, match="flips are for volumes"):
        predict.classify_file(pointwise(), {"channels": ["grey"]}, [tmp_path / "x.png"], tmp_path, flips=True)


@pytest.mark.slow
def test_a_brain_of_four_channels_stays_within_its_memory():
    """240 x 240 x 155 voxels, 4 channels, 4 labels, windows of 128: image, logits, weights and a batch, below 4 GB."""
    process, image = psutil.Process(), torch.randn(4, 240, 240, 155)
    net = nets.build({"name": "isensee2017", "base_filters": 2, "depth": 3}, in_channels=4, out_channels=4, seed=0)
    before = process.memory_info().rss
    peak = []

    def watch(module, inputs, outputs):
        peak.append(process.memory_info().rss)

    net.register_forward_hook(watch)
    found = windows.sweep(net, image, (128, 128, 128), overlap=0.25, device="cpu", precision="float32")
    assert found.shape == (4, 240, 240, 155)
    assert max(peak) - before < 4e9
