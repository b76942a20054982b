"""Images from label maps: values, geometry, intensities."""

import nibabel
import numpy as np
import pytest
from made_heads import head, save

from fedmerge.errors import DataError
from sites import contrasts, freesurfer, synthesis
from sites.draws import generator
from sites.freesurfer import INDEX, LABEL_OF, LABELS, STRUCTURES
from sites.phantom import PROFILES
from sites.scanner import smooth

STILL = synthesis.Pose(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), np.zeros((3, 3, 3, 3), np.float32))


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """A made-up head, read from its file."""
    return freesurfer.read(save(tmp_path_factory.mktemp("brain") / "head.nii.gz", 0))


def own_view(brain):
    """The field of view that has the label map's own voxels."""
    size = np.array(brain.structures.shape)
    middle = brain.affine @ [*((size - 1) / 2), 1.0]
    return synthesis.View((middle[:3] - brain.middle_mm).astype(np.float32), tuple(size), brain.affine[0, 0])


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (8, 1), (47, 1), (3, 2), (42, 2), (26, 2), (58, 2), (10, 3), (49, 3), (18, 4), (54, 4), (31, 4), (63, 4),
        (11, 5), (50, 5), (13, 6), (52, 6), (24, 7), (7, 8), (46, 8), (2, 9), (41, 9), (77, 9), (17, 10), (53, 10),
        (4, 11), (43, 11), (5, 11), (44, 11), (14, 11), (15, 11), (72, 11), (12, 12), (51, 12), (28, 13), (60, 13),
        (16, 14), (30, 15), (62, 15), (85, 15), (136, 15), (137, 15), (163, 15), (164, 15), (25, 15), (57, 15),
        (0, 0), (500, 0), (511, 0), (530, 0), (999, 0), (1035, 2), (2001, 2), (3001, 9), (5002, 9), (253, 9),
    ],
)  # fmt: skip
def test_a_value_has_the_papers_class(value, label):
    """The 14 classes, other brain as 15, nothing outside; parcels are cortex or white matter."""
    assert LABEL_OF[INDEX[freesurfer.structure_of(value)]] == label


def test_a_structure_lies_in_one_class():
    """No value is in two rows, and a structure's values are all of one class, or all of none."""
    for table in (freesurfer.CLASSES, STRUCTURES):
        values = [value for row in table.values() for value in row]
        assert len(values) == len(set(values))
    owner = {value: name for name, row in freesurfer.CLASSES.items() for value in row}
    for row in STRUCTURES.values():
        assert len({owner.get(value) for value in row}) <= 1
    assert contrasts.MEANS.keys() == STRUCTURES.keys()


@pytest.mark.parametrize(("name", "axes"), [("a.mgz", "LIA"), ("a.nii", "PSR"), ("a.nii.gz", "RAS")])
def test_a_label_map_may_lie_in_its_file_in_any_way(tmp_path, brain, name, axes):
    """FreeSurfer's own LIA in MGH, or any axes in NIfTI: the brain is the same."""
    got = freesurfer.read(save(tmp_path / name, 0, axes))
    np.testing.assert_array_equal(got.structures, brain.structures)
    np.testing.assert_allclose(got.affine, brain.affine, atol=1e-4)


def test_label_maps_that_cannot_be_used_are_refused(tmp_path):
    """A value that FreeSurfer's table does not have here, no whole numbers, no brain, no file, another format."""
    values, affine = head(0)
    for changed, sentence in (
        (np.where(values == 16, 23, np.where(values == 24, 400, values)), "got the value 23, 400"),
        (values * np.float32(0.5), "values that are not whole numbers"),
        (np.where(values > 499, values, 0), "expected a brain, got neither white matter"),
    ):
        nibabel.Nifti1Image(changed.astype(np.float32), affine).to_filename(tmp_path / "x.nii")
        with pytest.raises(DataError, match=sentence):
            freesurfer.read(tmp_path / "x.nii")
    with pytest.raises(DataError, match=r"none\.mgz is missing"):
        freesurfer.read(tmp_path / "none.mgz")
    (tmp_path / "text.mgz").write_text("no volume")
    with pytest.raises(DataError, match=r"text\.mgz is not an MGH file"):
        freesurfer.read(tmp_path / "text.mgz")


def test_a_head_that_lies_still_is_pulled_as_it_is(brain):
    """No turn, no bend, the map's own voxels: nothing changes, and there is air around it."""
    view = own_view(brain)
    np.testing.assert_array_equal(synthesis.pull(brain, STILL, view), brain.structures)
    x, y, z = view.shape
    wide = synthesis.pull(brain, STILL, synthesis.View(view.centre, (x + 8, y, z), view.spacing_mm))
    np.testing.assert_array_equal(wide[4:-4], brain.structures)
    assert not wide[:4].any()


def test_a_turned_head_is_where_its_pose_says(brain):
    """The middle of the caudates comes to lie where `seen_at` puts it, up to the bending."""
    pose = synthesis.draw(generator("pose", 1), (190, 220, 190))
    caudate = np.argwhere(brain.structures == INDEX["caudate"]).mean(0)
    there = synthesis.seen_at(brain, (brain.affine @ [*caudate, 1.0])[:3], pose)
    view = synthesis.View(np.zeros(3, np.float32), (95, 110, 95), 2.0)
    pulled = np.argwhere(synthesis.pull(brain, pose, view) == INDEX["caudate"]).mean(0)
    assert np.linalg.norm(pulled - view.voxel(there)) * 2.0 < 2 * synthesis.BEND_MM


@pytest.mark.parametrize("number", range(3))
def test_a_bent_head_keeps_its_structures(brain, number):
    """Each class keeps its volume, but for the scaling: within 15 % where it is large, within half where it is not."""
    pose = synthesis.draw(generator("pose", number), (210, 240, 210))
    view = synthesis.View(np.zeros(3, np.float32), (105, 120, 105), 2.0)
    pulled = synthesis.pull(brain, pose, view)
    scaled = np.linalg.det(pose.turn)
    before = np.bincount(LABEL_OF[brain.structures].ravel(), minlength=19)[1:]
    after = np.bincount(LABEL_OF[pulled].ravel(), minlength=19)[1:] * scaled
    for was, now in zip(before, after, strict=True):
        if was:
            assert abs(now / was - 1) < (0.15 if was > 2000 else 0.5)
    assert not before[after == 0].any()


def test_bending_does_not_fold():
    """No volume element turns inside out, and tissue moves by about 3 mm."""
    moved = []
    for number in range(10):
        bend = synthesis.draw(generator("fold", number), (96, 96, 96)).bend
        field = np.stack([smooth(knots, (48, 48, 48)) for knots in bend])
        slope = np.stack([np.stack(np.gradient(part, 2.0)) for part in field])
        size = np.linalg.det(np.moveaxis(slope, (0, 1), (-2, -1)) + np.eye(3))
        assert size.min() > 0.1
        moved.append(np.linalg.norm(field, axis=0).mean())
    assert 2 < np.mean(moved) < 4


def test_no_value_is_new(brain):
    """Neither pulling nor halving invents a structure or a label."""
    pose = synthesis.draw(generator("pose", 5), (96, 96, 96))
    view = synthesis.View(np.zeros(3, np.float32), (48, 48, 48), 2.0)
    pulled = synthesis.pull(brain, pose, view.finer)
    assert set(np.unique(pulled)) <= set(np.unique(brain.structures))
    assert set(np.unique(synthesis.halve_labels(pulled))) <= set(np.unique(LABEL_OF[pulled]))


def test_a_halved_volume_lies_where_its_affine_says(brain):
    """Structures of the finer grid keep their middle, in mm, to a tenth of a voxel."""
    view = synthesis.View(np.array([3, -5, 7], np.float32), (70, 84, 66), 2.0)
    halved = synthesis.halve_labels(synthesis.pull(brain, STILL, view.finer))
    for name in ("ventricles", "cerebellum-cortex", "putamen"):
        was = np.argwhere(LABEL_OF[brain.structures] == LABELS[name]).mean(0)
        now = np.argwhere(halved == LABELS[name]).mean(0)
        there, here = (matrix @ [*middle, 1.0] for matrix, middle in ((brain.affine, was), (view.affine, now)))
        np.testing.assert_allclose(here[:3], there[:3] - brain.middle_mm, atol=0.2)


def test_halved_labels_are_the_most_frequent_ones():
    """Five against three wins; a tie goes to a label, and to the tumour."""
    white, cortex, air, oedema = (INDEX[name] for name in ("white-matter", "cortex", "air", "oedema"))
    for voxels, label in (
        ([white] * 5 + [cortex] * 3, LABELS["white-matter"]),
        ([cortex] * 3 + [white] * 2 + [air] * 3, LABELS["cortex"]),
        ([air] * 4 + [white] * 4, LABELS["white-matter"]),
        ([air] * 5 + [white] * 3, 0),
        ([white] * 4 + [oedema] * 4, LABELS["oedema"]),
    ):
        assert synthesis.halve_labels(np.array(voxels, np.uint8).reshape(2, 2, 2)).item() == label


def test_a_voxel_that_a_border_cuts_has_its_share_of_both_sides():
    """Half of one side and half of the other is the mean; (2X, 2Y, 2Z) becomes (X, Y, Z)."""
    fine = np.zeros((4, 2, 2), np.float32)
    fine[1:] = 0.8
    np.testing.assert_allclose(synthesis.halve(fine).ravel(), [0.4, 0.8])


@pytest.mark.parametrize("contrast", contrasts.CONTRASTS)
def test_structures_are_as_bright_as_asked(brain, contrast):
    """Within each large structure, away from its border, the mean is the one that was drawn."""
    view = synthesis.View(np.zeros(3, np.float32), (60, 60, 60), 2.0)
    pulled = synthesis.pull(brain, STILL, view.finer)
    means = contrasts.means(contrast, generator("means"))
    seen = synthesis.paint(pulled, means, 0.2, generator("paint"))
    blocks = pulled.reshape(60, 2, 60, 2, 60, 2)
    pure = (blocks == blocks[:, :1, :, :1, :, :1]).all((1, 3, 5))
    same = pulled[::2, ::2, ::2]
    for name in ("white-matter", "cortex", "csf", "thalamus", "cerebellum-cortex"):
        inside = pure & (same == INDEX[name])
        for axis in range(3):
            for shift in (-1, 1):
                inside &= np.roll(same, shift, axis) == INDEX[name]
        assert inside.sum() > 30
        assert abs(seen[inside].mean() - means[INDEX[name]]) < 0.02


def test_the_means_are_the_tables_up_to_the_jitter():
    """Over many images the mean is the table's and the deviation the jitter's; a gamma bends the whole table."""
    drawn = np.stack([contrasts.means("T2", generator("many", k)) for k in range(400)])
    table = np.array([row[1] for row in contrasts.MEANS.values()])
    lit = table > 0.12  # darker ones are cut off at zero
    np.testing.assert_allclose(drawn.mean(0)[lit], table[lit], atol=0.006)
    np.testing.assert_allclose(drawn.std(0)[lit], contrasts.JITTER, atol=0.006)
    bent = contrasts.means("T2", generator("many", 0), gamma=1.35)
    np.testing.assert_allclose(bent, drawn[0] ** 1.35, rtol=1e-5)


def test_the_contrasts_are_those_of_mri(brain):
    """T1: fluid, cortex, white matter from dark to bright; T2 the other way round; FLAIR's fluid is dark."""
    view = synthesis.View(np.zeros(3, np.float32), (48, 48, 48), 2.0)
    pulled = synthesis.pull(brain, STILL, view.finer)
    labels = synthesis.halve_labels(pulled)
    mean = {}
    for contrast in ("T1", "T2", "FLAIR"):
        image = synthesis.image(pulled, contrast, PROFILES["north"], 2.0, generator("image", contrast))
        assert image.shape == (48, 48, 48)
        mean[contrast] = {n: image[labels == LABELS[n]].mean() for n in ("csf", "cortex", "white-matter")}
    assert mean["T1"]["csf"] < mean["T1"]["cortex"] < mean["T1"]["white-matter"]
    assert mean["T2"]["csf"] > mean["T2"]["cortex"] > mean["T2"]["white-matter"]
    assert mean["FLAIR"]["csf"] < mean["FLAIR"]["white-matter"] < mean["FLAIR"]["cortex"]
