"""Tumours in label maps, and what could be taken for one."""

import numpy as np
import pytest
from made_heads import save
from scipy import ndimage

from sites import freesurfer, lesions, synthesis
from sites.draws import generator
from sites.freesurfer import INDEX, LABEL_OF, LABELS

VOXEL_MM = 1.0
STILL = synthesis.Pose(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), np.zeros((3, 3, 3, 3), np.float32))
FLUID = (INDEX["csf"], INDEX["ventricles"])


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """A made-up head, read from its file."""
    return freesurfer.read(save(tmp_path_factory.mktemp("brain") / "head.nii.gz", 1))


def grown(brain, number):
    """(structures with the tumour, without it but pushed, the tumour, its centre in voxels), 1 mm around it."""
    dice = generator("tumour", number)
    lesion = lesions.draw(dice)
    centre = synthesis.seen_at(brain, lesions.seed(brain, dice), STILL)
    view = synthesis.View(centre, (96, 96, 96), VOXEL_MM)
    before = synthesis.pull(brain, STILL, view, (centre, lesion))
    return lesions.grow(before, view.voxel(centre), lesion, VOXEL_MM), before, lesion, view.voxel(centre)


@pytest.fixture(scope="module", params=range(6))
def tumour(request, brain):
    """Six tumours in one brain."""
    return grown(brain, request.param)


def masks(after):
    """The whole, the tumour without its oedema, the core inside the ring."""
    labels = LABEL_OF[after]
    return labels >= LABELS["oedema"], labels >= LABELS["core"], labels == LABELS["core"]


def test_a_tumour_nests(tumour):
    """The core touches core and ring only; whole, tumour and core each have voxels, and fewer towards the inside."""
    _, inner, core = masks(tumour[0])
    enhancing = tumour[0] == INDEX["enhancing"]
    assert enhancing.any()
    assert core.any()
    assert not (ndimage.binary_dilation(core) & ~core & ~enhancing).any()
    np.testing.assert_array_equal(inner, core | enhancing)


def test_a_tumour_lies_in_the_brain(tumour):
    """Nothing of it is outside the brain or in a ventricle; fluid that it takes lies in sulci, so there is little."""
    after, before, *_ = tumour
    whole, inner, _ = masks(after)
    was = LABEL_OF[before]
    assert (was[whole] > 0).all()
    assert not np.isin(before[whole], INDEX["ventricles"]).any()
    assert not np.isin(before[whole & ~inner], FLUID).any()  # oedema is in tissue
    assert (before[whole] == INDEX["csf"]).mean() < 0.35


def test_a_tumour_is_one_piece_of_its_size(tumour):
    """Connected, and no voxel further from the centre than a rough border may come."""
    after, _, lesion, centre = tumour
    whole, *_ = masks(after)
    _, pieces = ndimage.label(whole)
    assert pieces == 1
    away = np.linalg.norm(np.argwhere(whole) - centre, axis=1) * VOXEL_MM
    assert away.max() < 1.6 * lesion.radii_mm.max()
    assert ((lesions.RADII_MM[0] <= lesion.radii_mm) & (lesion.radii_mm <= lesions.RADII_MM[1])).all()
    volume = whole.sum() * VOXEL_MM**3
    assert 0.1 < volume / (4 / 3 * np.pi * np.prod(lesion.radii_mm)) < 1.3


def test_the_rest_of_the_brain_is_left_alone(tumour):
    """Outside the tumour no structure changes, and the volume that was given is not written to."""
    after, before, *_ = tumour
    whole, *_ = masks(after)
    np.testing.assert_array_equal(after[~whole], before[~whole])
    assert not masks(before)[0].any()


def test_tissue_is_pushed_outwards():
    """A point shows what lay up to 35 % nearer to the centre; far away nothing moves; the order along a ray stays."""
    lesion = lesions.draw(generator("push"))
    centre = np.array([5, -3, 8], np.float32)
    away = np.linspace(1, 90, 90, dtype=np.float32)
    where = centre[:, None, None, None] + np.zeros((3, 90, 1, 1), np.float32)
    where[1, :, 0, 0] += away
    lesions.push(where, centre, lesion)
    now = where[1, :, 0, 0] - centre[1]
    np.testing.assert_allclose(now[0], 0.65 * away[0], rtol=0.01)
    assert (now <= away).all()
    assert (np.diff(now) > 0).all()
    np.testing.assert_allclose(now[-1], away[-1], rtol=0.01)
    np.testing.assert_allclose(where[[0, 2]], np.broadcast_to(centre[[0, 2], None, None, None], (2, 90, 1, 1)))


@pytest.mark.parametrize("centre", [(0, 0, 0), (95, 40, 40), (-200, 40, 40), (40, 300, 40)])
def test_a_tumour_at_the_volumes_end_is_cut_off(brain, centre):
    """Or is not there at all; both are no error."""
    view = synthesis.View(np.zeros(3, np.float32), (96, 96, 96), VOXEL_MM)
    before = synthesis.pull(brain, STILL, view)
    after = lesions.grow(before, np.array(centre, np.float32), lesions.draw(generator("end")), VOXEL_MM)
    assert after.shape == before.shape
    if min(centre) < -100 or max(centre) > 200:
        np.testing.assert_array_equal(after, before)


def test_seeds_lie_in_white_matter_or_cortex(brain):
    """Of a hundred draws all, and both are met."""
    to_voxel = np.linalg.inv(brain.affine)
    places = [lesions.seed(brain, generator("seed", k)) for k in range(100)]
    voxels = np.rint([(to_voxel @ [*place, 1.0])[:3] for place in places]).astype(int)
    assert set(brain.structures[tuple(voxels.T)]) == {INDEX["white-matter"], INDEX["cortex"]}


def test_spots_and_vessels_are_small_and_in_white_matter(brain):
    """A few per mille of it, in other shapes every time; their label is the white matter's."""
    view = synthesis.View(np.zeros(3, np.float32), (96, 96, 96), VOXEL_MM)
    before = synthesis.pull(brain, STILL, view)
    shares = {"spot": [], "vessel": []}
    for number in range(4):
        after = lesions.confounders(before, VOXEL_MM, generator("confounders", number))
        changed = after != before
        assert (before[changed] == INDEX["white-matter"]).all()
        assert set(after[changed]) <= {INDEX["spot"], INDEX["vessel"]}
        np.testing.assert_array_equal(LABEL_OF[after], LABEL_OF[before])
        for name, share in shares.items():
            share.append((after == INDEX[name]).sum() / (before == INDEX["white-matter"]).sum())
    assert 0 < np.mean(shares["spot"]) < 0.02
    assert 0 < np.mean(shares["vessel"]) < 0.03
    assert len(set(shares["vessel"])) == 4
