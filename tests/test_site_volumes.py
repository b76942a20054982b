"""NIfTI and MGH in, NIfTI out."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from fedmerge.errors import DataError
from sites import volumes

OBLIQUE = np.array([[1.9, -0.3, 0.1, 7], [0.4, 2.1, -0.2, -5], [0, 0.3, 3.0, 11], [0, 0, 0, 1.0]])


def nifti(path, data, affine=None):
    """A file as nibabel itself writes it."""
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def voxels():
    """24 different values."""
    return np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SRA"])
def test_canonical_axes_whatever_the_file_says(tmp_path, voxels, axes):
    """The voxel at the right, front, top corner is the last one, and the affine agrees with the file's."""
    to = nib.orientations.axcodes2ornt(axes)
    start = nib.Nifti1Image(voxels, np.diag([1.5, 2, 3, 1]))
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to)
    path = tmp_path / "a.nii.gz"
    nib.save(start.as_reoriented(turn), path)
    volume = volumes.read(path)
    np.testing.assert_array_equal(volume.data, voxels)
    np.testing.assert_allclose(volume.affine, start.affine, atol=1e-6)
    assert volume.spacing_mm == (1.5, 2.0, 3.0)
    assert volume.data.dtype == np.float32


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -2, 3, 1]), OBLIQUE, OBLIQUE[[2, 0, 1, 3]]])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_writing_undoes_reading(tmp_path, voxels, affine, suffix):
    """A label map written like its image has the image's own grid, axes, affine and codes."""
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, 2)
    image.set_qform(affine, 0)
    nib.save(image, tmp_path / f"a{suffix}")
    volume = volumes.read(tmp_path / f"a{suffix}")
    volumes.write_like(volume.data.astype(np.uint8), volume.frame, tmp_path / f"b{suffix}")
    back = nib.load(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(np.asarray(back.dataobj), voxels)
    np.testing.assert_allclose(back.affine, affine, atol=1e-6)
    assert (int(back.header["sform_code"]), int(back.header["qform_code"])) == (2, 0)
    assert back.get_data_dtype() == np.uint8


def test_what_is_written_does_not_depend_on_the_time(tmp_path, voxels):
    """Equal voxels make equal bytes."""
    for name in ("a.nii.gz", "b.nii.gz"):
        volumes.write(voxels, np.eye(4), tmp_path / name)
    first = (tmp_path / "a.nii.gz").read_bytes()
    assert first == (tmp_path / "b.nii.gz").read_bytes()
    assert first[4:8] == b"\0\0\0\0"


def test_scaled_and_big_endian_voxels_are_read_as_they_are_meant(tmp_path, voxels):
    """Slope and intercept are applied; byte order is the file's own affair."""
    image = nib.Nifti1Image(voxels.astype(">i2"), np.eye(4), nib.Nifti1Header(endianness=">"))
    image.header.set_slope_inter(2, -1)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(volumes.read(tmp_path / "a.nii").data, 2.0 * voxels - 1)


def test_nifti2_is_read_too(tmp_path, voxels):
    """The newer header, for large files."""
    nib.save(nib.Nifti2Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volumes.read(tmp_path / "a.nii.gz").data, voxels)


def test_channels_of_a_4d_file_come_apart(tmp_path, voxels):
    """The Decathlon keeps several modalities in one file."""
    nifti(tmp_path / "a.nii.gz", np.stack([voxels, 2 * voxels], -1))
    one, two = volumes.read_channels(tmp_path / "a.nii.gz", 2)
    np.testing.assert_array_equal(two.data, 2 * one.data)
    assert one.frame.shape == (2, 3, 4)


def test_4d_where_3d_is_expected(tmp_path, voxels):
    """A time series is no image."""
    nifti(tmp_path / "a.nii.gz", np.stack([voxels] * 5, -1))
    with pytest.raises(DataError, match=r"^north: a.nii.gz expected 3 dimensions, got 4 with shape 2 x 3 x 4 x 5$"):
        volumes.read(tmp_path / "a.nii.gz", who="north")
    with pytest.raises(DataError, match="expected 3 dimensions, got 4"):
        volumes.read_labels(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="expected 2 channels in a fourth dimension, got 2 x 3 x 4 x 5"):
        volumes.read_channels(tmp_path / "a.nii.gz", 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_voxels(tmp_path, voxels, bad):
    """They are counted, not replaced."""
    data = voxels.astype(np.float32)
    data[0, 0, :2] = bad
    nifti(tmp_path / "a.nii.gz", data)
    with pytest.raises(DataError, match=r"^north: a.nii.gz expected finite voxels, got 2 that are NaN or infinite$"):
        volumes.read(tmp_path / "a.nii.gz", who="north")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.99])
def test_a_truncated_file(tmp_path, share):
    """Wherever the file stops, even within gzip's checksum at the end."""
    data = np.random.default_rng(0).integers(0, 1000, (12, 12, 12)).astype(np.int16)
    whole = nifti(tmp_path / "a.nii.gz", data).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"^north: b.nii.gz is (truncated|not a NIfTI file)"):
        volumes.read(tmp_path / "b.nii.gz", who="north")
    (tmp_path / "c.nii.gz").write_bytes(whole[:-3])
    with pytest.raises(DataError, match="truncated"):
        volumes.read(tmp_path / "c.nii.gz")


def test_a_truncated_file_without_compression(tmp_path, voxels):
    """The header promises more voxels than there are."""
    whole = nifti(tmp_path / "a.nii", voxels).read_bytes()
    (tmp_path / "a.nii").write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"a.nii is truncated"):
        volumes.read(tmp_path / "a.nii")


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 400, gzip.compress(b"hello", mtime=0)])
def test_files_that_are_no_images(tmp_path, content):
    """Rubbish is refused in one sentence that names the file."""
    for name in ("a.nii.gz", "a.nii"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"^north: a.nii"):
            volumes.read(tmp_path / name, who="north")


def test_a_missing_file(tmp_path):
    """Named, with its site."""
    with pytest.raises(DataError, match=r"^north: none.nii.gz is missing$"):
        volumes.read(tmp_path / "none.nii.gz", who="north")


def test_an_affine_that_cannot_be_inverted(tmp_path, voxels):
    """Voxels without extent have no place in the world."""
    image = nib.Nifti1Image(voxels, None)
    image.header["sform_code"] = 1
    image.header["srow_x"][:] = 0
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    with pytest.raises(DataError, match=r"a.nii expected an affine that can be inverted"):
        volumes.read(tmp_path / "a.nii")


def test_one_grid_in_two_orders_is_not_the_same_grid(tmp_path):
    """Shape and affine are compared as the files have them; rounding of the header is forgiven."""
    data = np.zeros((4, 5, 6), np.int16)
    moved = np.eye(4)
    moved[0, 3] = 0.5
    nearly = np.eye(4)
    nearly[:3, 3] = 1e-5
    files = {
        "a": nifti(tmp_path / "a.nii", data),
        "moved": nifti(tmp_path / "moved.nii", data, moved),
        "nearly": nifti(tmp_path / "nearly.nii", data, nearly),
        "small": nifti(tmp_path / "small.nii", data[1:]),
    }
    read = {name: volumes.read(path) for name, path in files.items()}
    volumes.same_grid(read["a"], read["nearly"], "a", "nearly")
    with pytest.raises(DataError, match=r"^moved expected the affine of a, got one that is 0.5 mm away$"):
        volumes.same_grid(read["a"], read["moved"], "a", "moved")
    with pytest.raises(DataError, match=r"^small expected the shape of a, 4 x 5 x 6, got 3 x 5 x 6$"):
        volumes.same_grid(read["a"], read["small"], "a", "small")


def test_labels_keep_their_type(tmp_path, voxels):
    """Whole numbers are not turned into floats and back."""
    nifti(tmp_path / "a.nii.gz", voxels.astype(np.uint8))
    assert volumes.read_labels(tmp_path / "a.nii.gz").data.dtype == np.uint8


def mgh(path, data, affine=None):
    """A file as nibabel writes FreeSurfer's format."""
    nib.save(nib.MGHImage(data, np.diag([1.0, 1.5, 2, 1]) if affine is None else affine), path)
    return path


TURNED = np.array([[-0.6, 0, 1.6, 9], [0, 0, -1.2, -4], [0, -1, 0, 6], [0, 0, 0, 1]])
TURNED[:3, :3] = np.linalg.qr(TURNED[:3, :3])[0] * [1.0, 1.5, 2.0]


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("affine", [np.diag([-1.0, 1.5, 2, 1]), TURNED], ids=["LAS", "oblique"])
def test_an_mgh_file_reads_as_the_same_volume_in_nifti(tmp_path, voxels, name, dtype, affine):
    """Voxels, axes, affine and voxel sizes agree, and labels keep their type."""
    data = voxels.astype(dtype)
    got = volumes.read_labels(mgh(tmp_path / name, data, affine))
    same = volumes.read_labels(nifti(tmp_path / "a.nii", data, affine))
    np.testing.assert_array_equal(got.data, same.data)
    assert got.data.dtype == dtype
    np.testing.assert_allclose(got.affine, same.affine, atol=1e-5)
    np.testing.assert_allclose(got.spacing_mm, same.spacing_mm, atol=1e-5)
    volumes.same_grid(got, same, "a.mgz", "a.nii")
    np.testing.assert_array_equal(volumes.read(tmp_path / name).data, got.data)


def test_a_label_map_of_an_mgh_image_lies_on_its_voxels(tmp_path, voxels):
    """Written as NIfTI with FreeSurfer's own axes and affine, so that both open as one in a viewer."""
    axes = nib.orientations.axcodes2ornt("LIA")
    image = nib.MGHImage(voxels, TURNED)
    to = nib.orientations.ornt_transform(nib.io_orientation(image.affine), axes)
    nib.save(image.as_reoriented(to), tmp_path / "a.mgz")
    volume = volumes.read_labels(tmp_path / "a.mgz")
    volumes.write_like(volume.data, volume.frame, tmp_path / "b.nii.gz")
    there, back = nib.load(tmp_path / "a.mgz"), nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(there.dataobj))
    np.testing.assert_allclose(back.affine, there.affine, atol=1e-5)
    assert "".join(nib.aff2axcodes(back.affine)) == "LIA"
    with pytest.raises(DataError, match=r"^b.mgz expected a name that ends with .nii or .nii.gz$"):
        volumes.write_like(volume.data, volume.frame, tmp_path / "b.mgz")
    assert (int(back.header["sform_code"]), int(back.header["qform_code"])) == (1, 1)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.99])
def test_a_truncated_mgh_file(tmp_path, share):
    """With gzip wherever it stops, without it wherever voxels are missing."""
    data = np.random.default_rng(0).integers(0, 1000, (12, 12, 12)).astype(np.int16)
    for name in ("a.mgz", "a.mgh"):
        whole = mgh(tmp_path / name, data).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=rf"^north: {name} is truncated"):
            volumes.read(tmp_path / name, who="north")


def test_a_damaged_mgh_file(tmp_path):
    """Gzip's checksum is looked at, as with NIfTI."""
    whole = bytearray(mgh(tmp_path / "a.mgz", np.zeros((9, 9, 9), np.int16)).read_bytes())
    whole[-6] ^= 1
    (tmp_path / "a.mgz").write_bytes(whole)
    with pytest.raises(DataError, match=r"^a.mgz is truncated or damaged: CRC check failed"):
        volumes.read(tmp_path / "a.mgz")


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"\0" * 400,
        gzip.compress(b"\0" * 400, mtime=0),
        b"\0\0\0\1" + b"\xff" * 400,
        b"\0\0\0\1" + b"\x7f" * 400,
    ],
)
def test_files_that_are_no_mgh_images(tmp_path, content):
    """A header that makes no sense, or another format under the name, is refused in one sentence."""
    for name in ("a.mgz", "a.mgh"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"^north: {name} is (not an MGH file|truncated or damaged)"):
            volumes.read(tmp_path / name, who="north")


def test_frames_of_an_mgh_file_are_channels(tmp_path, voxels):
    """FreeSurfer's fourth dimension is NIfTI's."""
    mgh(tmp_path / "a.mgz", np.stack([voxels, 2 * voxels], -1))
    one, two = volumes.read_channels(tmp_path / "a.mgz", 2)
    np.testing.assert_array_equal(two.data, 2 * one.data)
    with pytest.raises(DataError, match=r"^a.mgz expected 3 dimensions, got 4"):
        volumes.read(tmp_path / "a.mgz")
