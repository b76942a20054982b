"""Patches of whole volumes: where they lie, what they hold, and tiles that hold every voxel once."""

from collections import Counter

import numpy as np
import pytest
import torch
from made_cases import decathlon, site_of, write
from torch import nn

from fedmerge import fisher, likelihood
from fedmerge.errors import ConfigError, DataError
from sites import cases, patches, preprocess, private
from sites.loading import Case

WINDOW = (4, 6, 8)


def volume(size=(10, 13, 8), window=WINDOW, name="a"):
    """A volume whose image tells each voxel's place, with a large label 1 and a single voxel of label 2."""
    places = np.arange(np.prod(size)).reshape(size)
    label = np.zeros(size, np.uint8)
    label[1:6, 2:9, 1:7] = 1
    label[-1, -1, 0] = 2
    grid = preprocess.Grid(size, (1, 1, 1), size, (1, 1, 1))
    image = torch.from_numpy(places.astype(np.float32))[None]
    return Case(name, image, torch.from_numpy(label)[None], label, grid, None, patch=window)


def start_of(image, size=(10, 13, 8)):
    """Where a patch of `volume` begins."""
    return tuple(int(n) for n in np.unravel_index(int(image.min()), size))


def test_batches_are_a_function_of_seed_and_step():
    """Asked twice, in any order, a step has the same patches; other steps and seeds have others."""
    some = [volume(name=name) for name in "abc"]
    one, two = cases.batches(some, 2, 5), cases.batches(some, 2, 5)
    forward = [one(step) for step in range(6)]
    for step in reversed(range(6)):
        for a, b in zip(forward[step], two(step), strict=True):
            assert torch.equal(a, b)
    starts = {start_of(image) for images, _ in forward for image in images}
    assert len(starts) > 6
    assert not torch.equal(cases.batches(some, 2, 6)(0)[0], forward[0][0])


def test_a_batch_holds_patches_of_the_nets_size_inside_the_volume():
    """Images and labels move together, the label as whole numbers of 64 bits; no voxel is from outside."""
    case = volume()
    images, labels = cases.batches([case], 3, 0)(4)
    assert images.shape == (3, 1, *WINDOW)
    assert labels.shape == (3, 1, *WINDOW)
    assert labels.dtype == torch.int64
    for image, label in zip(images, labels, strict=True):
        places = image.long().ravel()
        assert torch.equal(case.label.ravel()[places].long(), label.ravel())


def test_an_epoch_deals_every_case_once_as_ever():
    """The order of the cases is that of cases seen at once: drawing a patch moves no other dice."""
    some = [volume(name=str(k)) for k in range(5)]
    for k, case in enumerate(some):
        case.image[:] = k
    small = [Case(str(k), torch.full((1, 2, 2, 2), k), torch.zeros(1, 2, 2, 2), None, None, None) for k in range(5)]
    large, plain = cases.batches(some, 2, 3), cases.batches(small, 2, 3)
    for step in range(9):
        assert large(step)[0][:, 0, 0, 0, 0].tolist() == plain(step)[0][:, 0, 0, 0, 0].tolist()


def test_labels_come_up_alike_however_small_they_are():
    """With a share of 1, half of the patches lie around the label of a single voxel, clipped to the volume."""
    case, dice = volume(), np.random.default_rng(0)
    starts = [patches.draw(case, dice, 1.0) for _ in range(400)]
    assert 160 < sum(start == (6, 7, 0) for start in starts) < 240
    shown = [patches.cut(case, start)[1] for start in starts]
    assert all(label.any() for label in shown)


def test_the_rest_lies_anywhere():
    """With a share of 0 every place is as likely as another: chi squared below its 99.99 % quantile."""
    case, dice = volume(), np.random.default_rng(1)
    counts = Counter(patches.draw(case, dice, 0.0) for _ in range(5600))
    assert len(counts) == 7 * 8 * 1
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 102


def test_a_volume_without_labels_has_patches_too():
    """Nothing to lie around: then they lie anywhere."""
    case = volume()
    case.label.zero_()
    assert case.voxels == ()
    assert len({patches.draw(case, np.random.default_rng(k), 1.0) for k in range(50)}) > 10


def test_what_the_net_sees_at_once_is_left_as_it_is():
    """A volume of the patch's size, and a case around the centre: the image itself, whatever the dice."""
    case = volume(size=(10, 13, 8), window=(10, 13, 8))
    image, label = patches.see(case, np.random.default_rng(0))
    assert image.data_ptr() == case.image.data_ptr()
    assert image.shape == case.image.shape
    assert torch.equal(label, case.label.long())


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 6, 8), (8, 12, 16), (9, 13, 17), (11, 7, 31)])
def test_tiles_hold_every_voxel_once(size):
    """Each has the net's size; the voxels that count for them make up the volume."""
    grid = preprocess.Grid(size, (1, 1, 1), size, (1, 1, 1))
    places = torch.arange(int(np.prod(size)), dtype=torch.float32).reshape(1, *size)
    tiles = patches.pieces(Case("a", places, places.to(torch.uint8), None, grid, None, patch=WINDOW))
    assert len(tiles) == np.prod([-(-n // w) for n, w in zip(size, WINDOW)])
    seen = [tile.image[0][tile.own or ()].ravel() for tile in tiles]
    assert all(tile.image.shape == (1, *WINDOW) for tile in tiles)
    assert torch.cat(seen).sort().values.tolist() == places.ravel().tolist()


def pointwise():
    """A net that looks at one voxel at a time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 1), nn.Tanh(), nn.Conv3d(4, 3, 1)).double()


def test_the_fisher_of_a_case_in_tiles_is_that_of_the_case():
    """On a pointwise net it makes no difference where the tiles lie: each voxel of the case counts once."""
    net, some = pointwise(), [volume(), volume(size=(5, 7, 9))]
    for case in some:
        case.image.div_(1000)
    names = [name for name, _ in net.named_parameters()]
    tiled = fisher.diagonal(net, map(patches.pieces, some), names, labels="observed")
    whole = fisher.diagonal(net, [(case.image, case.label) for case in some], names, labels="observed")
    for name in names:
        torch.testing.assert_close(tiled[name], whole[name], rtol=1e-5, atol=0)


@pytest.mark.parametrize("labels", ["observed", "sampled"])
def test_the_fisher_of_tiles_is_the_square_of_the_sum_of_their_gradients(labels):
    """A plain loop: gradients of the tiles' own voxels are added up over the case, then squared, then averaged."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1)).double()
    some = [volume(), volume(size=(6, 7, 9), name="b")]
    for case in some:
        case.image.div_(1000)
    names = [name for name, _ in net.named_parameters()]
    draws = torch.Generator().manual_seed(3)
    found = fisher.diagonal(net, map(patches.pieces, some), names, labels=labels, generator=draws)
    draws, want = torch.Generator().manual_seed(3), [torch.zeros_like(p) for p in net.parameters()]
    for case in some:
        total, tiles = [torch.zeros_like(p) for p in net.parameters()], patches.pieces(case)
        for start in range(0, len(tiles), 2):
            pair = tiles[start : start + 2]
            uniform = torch.rand((len(pair), *WINDOW), generator=draws).double()
            for tile, numbers in zip(pair, uniform):
                logits = net(tile.image[None].double())
                truth = tile.label.long()[0] if labels == "observed" else likelihood.sample(logits, numbers[None])[0]
                log_p = logits.log_softmax(1)[0].gather(0, truth[None])[0]
                for t, g in zip(total, torch.autograd.grad(log_p[tile.own].sum(), list(net.parameters()))):
                    t += g
        for w, t in zip(want, total):
            w += t.square() / len(some)
    for name, value in zip(names, want):
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=0)


def test_vmap_takes_no_tiles():
    """It says so, with the number."""
    with pytest.raises(DataError, match="vmap expected cases in one piece, got one in 9"):
        fisher.diagonal(pointwise(), [patches.pieces(volume())], ["0.weight"], method="vmap")


def test_a_turned_patch_keeps_its_corners_where_the_volume_goes_on():
    """A constant volume stays constant in the middle, and at its border only what is outside becomes 0."""
    case = volume(size=(30, 30, 30), window=(8, 8, 8))
    case.image.fill_(2.0)
    image, _ = patches.turned(case, (11, 11, 11), angles=[0.4, 0.3, 0.2], size=0.8)
    torch.testing.assert_close(image, torch.full((1, 8, 8, 8), 2.0), rtol=0, atol=1e-4)
    image, _ = patches.turned(case, (0, 0, 0), angles=[0.4, 0.3, 0.2], size=0.8)
    assert (image == 0).any()
    assert (image > 1.99).any()


def test_turned_by_nothing_a_patch_is_the_patch():
    """The box that is cut for it, and its centre, are right wherever the patch lies."""
    case = volume(size=(20, 17, 15), window=(4, 6, 8))
    for start in [(0, 0, 0), (5, 3, 2), (16, 11, 7)]:
        image, label = patches.turned(case, start, angles=[0.0, 0.0, 0.0])
        want, truth = patches.cut(case, start)
        torch.testing.assert_close(image, want, rtol=0, atol=0.1)  # places up to 5,100: a tenth of a voxel's step
        assert torch.equal(label, truth)


def test_a_step_with_changes_is_a_function_of_seed_and_step_as_well():
    """The same twice, another in the next step, and not what it would be without."""
    some = [volume(size=(16, 16, 16), window=(8, 8, 8))]
    some[0].image.sub_(2048).div_(1000)
    one, two = (cases.batches(some, 2, 1, changes=["all"]) for _ in range(2))
    plain = cases.batches(some, 2, 1)
    steps = [one(step) for step in range(5)]
    assert all(torch.equal(a, b) for step, pair in enumerate(steps) for a, b in zip(pair, two(step)))
    assert any(not torch.equal(pair[0], plain(step)[0]) for step, pair in enumerate(steps))


def test_a_patient_is_seen_by_dice_that_know_no_other_patient():
    """With others behind it or not, a patient's patches of a step are the same; each case gives one."""
    first, other = [volume(), volume(size=(8, 9, 10), name="b")], [volume(name="c")]
    seen = [private.seen(groups, 7, 0.33, ("flip",), 3, 0) for groups in ([first], [first, other])]
    assert [image.shape for image, _ in seen[0]] == [(1, *WINDOW)] * 2
    for (a, b), (c, d) in zip(*seen, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_a_whole_case_is_the_volume_and_at_least_the_patch(tmp_path):
    """At the file's own spacing every voxel, padded where the patch is larger; resampled, all of its millimetres."""
    data = decathlon(tmp_path, ["a"])
    (case,) = cases.load(site_of(data), cases.find(data), patch=(8, 8, 16), field="whole")
    assert case.image.shape == (1, 10, 12, 16)
    assert case.label.dtype == torch.uint8
    np.testing.assert_array_equal(case.label[0, :, :, 4:12].numpy(), case.truth)
    assert not case.label[..., :4].any()
    grid = preprocess.Grid((10, 12, 8), (1.0, 1.0, 2.5), (4, 4, 4), (0.8, 1.5, 2.5))
    assert grid.whole().patch == (13, 8, 8)


def test_whole_and_centre_are_the_same_where_the_patch_is_the_volume(tmp_path):
    """To the last digit."""
    data = decathlon(tmp_path, ["a"])
    whole, centre = (
        cases.load(site_of(data), cases.find(data), patch=(10, 12, 8), field=field)[0] for field in ("whole", "centre")
    )
    assert torch.equal(whole.image, centre.image)
    assert torch.equal(whole.label.long(), centre.label)
    with pytest.raises(ConfigError, match=r"north: 'field' of volumes expected centre or whole, .* got half"):
        cases.load(site_of(data), cases.find(data), patch=(10, 12, 8), field="half")


def test_probabilities_of_a_whole_volume_go_back_voxel_by_voxel(tmp_path):
    """One-hot labels of the padded volume are the file's own label map again."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (9, 11, 7)).astype(np.uint8)
    write(tmp_path / "x.nii.gz", label)
    grid = preprocess.Grid(label.shape, (1, 1, 1), (8, 16, 8), (1, 1, 1)).whole()
    assert grid.patch == (9, 16, 8)
    seen = preprocess.crop_labels(label, grid, 2)
    one_hot = torch.from_numpy(np.stack([seen == k for k in range(3)]).astype(np.float32))
    np.testing.assert_array_equal(preprocess.restore(one_hot, grid), label)
