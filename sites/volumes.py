"""Volumes in and out: NIfTI and MGH on canonical axes (RAS+), and label maps back on the file's own axes.

A label map is always written as NIfTI, also for an image in FreeSurfer's MGH: FreeView and FSLeyes read both, ITK-SNAP
and 3D Slicer without an extension only NIfTI.
"""

# nibabel is typed, but most of its functions are not annotated.
# mypy: disable-error-code="no-untyped-call"

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.freesurfer.mghformat import MGHImage

from fedmerge.errors import DataError

Array = npt.NDArray[Any]
Image: TypeAlias = nib.Nifti1Image | MGHImage
SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
MGH = (".mgz", ".mgh")  # FreeSurfer's, with gzip and without
MGH_HEADER_BYTES, MGH_TYPES = 284, (0, 1, 3, 4)  # of voxels: uint8, int32, float32, int16
SAME_AFFINE_MM = 1e-3
"""Affines that differ by less, at every corner of the volume, are the same: headers store float32."""

NOT_NIFTI = (  # nor MGH
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
    ValueError,
)


@dataclass(frozen=True, eq=False)
class Frame:
    """How a volume lay in its file: what `write_like` needs to lay another array the same way.

    Attributes:
        shape: the file's own shape.
        affine: (4, 4), from the file's own voxel indices to mm.
        orientation: (3, 2), nibabel's axis order and flips from the file to canonical.
        codes: the file's sform and qform codes; of MGH those that say "scanner" in NIfTI.
    """

    shape: tuple[int, ...]
    affine: Array
    orientation: Array
    codes: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume on canonical axes.

    Attributes:
        data: (X, Y, Z); float32 for images, the file's own dtype (or float64) for label maps; X to the right,
            Y to the front, Z up.
        affine: (4, 4), from canonical voxel indices to mm.
        spacing_mm: voxel size along X, Y, Z.
        frame: how the file lay.
    """

    data: Array
    affine: Array
    spacing_mm: tuple[float, float, float]
    frame: Frame


def stem(path: Path) -> str:
    """The file's name without the ending of a volume."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def read(path: Path, *, who: str = "") -> Volume:
    """One 3D volume, as float32 voxels.

    Args:
        path: a file with one of `SUFFIXES`.
        who: the site, for the error.

    Raises:
        DataError: the file is missing, truncated, neither NIfTI nor MGH, not 3D, or holds NaN or infinite voxels.
    """
    (volume,) = read_channels(path, 1, who=who)
    return volume


def read_channels(path: Path, channels: int, *, who: str = "") -> list[Volume]:
    """The channels of one file: a 3D file for one channel, a 4D file (X, Y, Z, channels) for more."""
    name = f"{who}: {path.name}" if who else path.name
    image = _open(path, name)
    if channels == 1 and image.ndim != 3:
        raise DataError(f"{name} expected 3 dimensions, got {image.ndim} with shape {_by(image.shape)}")
    if channels > 1 and image.shape[3:] != (channels,):
        raise DataError(f"{name} expected {channels} channels in a fourth dimension, got {_by(image.shape)}")
    own, affine = _affine(image, name)
    orientation = nib.io_orientation(own)
    data = _voxels(image, name).astype(np.float32, copy=False)
    stack = data[..., None] if channels == 1 else data
    return [_lay(stack[..., c], own, affine, orientation, image) for c in range(channels)]


def read_labels(path: Path, *, who: str = "") -> Volume:
    """One 3D label map; whole numbers keep their dtype, scaled or floating values come as they are.

    Raises:
        DataError: as `read`.
    """
    name = f"{who}: {path.name}" if who else path.name
    image = _open(path, name)
    if image.ndim != 3:
        raise DataError(f"{name} expected 3 dimensions, got {image.ndim} with shape {_by(image.shape)}")
    own, affine = _affine(image, name)
    return _lay(_voxels(image, name), own, affine, nib.io_orientation(own), image)


def same_grid(a: Volume, b: Volume, name_a: str, name_b: str) -> None:
    """Checks that two volumes have the same voxels.

    Raises:
        DataError: the shapes differ, or some corner of the volume lies elsewhere.
    """
    if a.frame.shape[:3] != b.frame.shape[:3]:
        raise DataError(f"{name_b} expected the shape of {name_a}, {_by(a.frame.shape)}, got {_by(b.frame.shape)}")
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(a.frame.shape[:3]) - 1)
    there = (nib.affines.apply_affine(v.frame.affine, corners) for v in (a, b))
    apart = np.abs(np.subtract(*there)).max()
    if apart > SAME_AFFINE_MM:
        raise DataError(f"{name_b} expected the affine of {name_a}, got one that is {apart:.3g} mm away")


def write_like(array: Array, frame: Frame, path: Path) -> None:
    """Writes an array on canonical axes as a NIfTI file on the frame's own axes, grid and affine.

    Args:
        array: (X, Y, Z) on canonical axes.
        frame: of the volume that it belongs to.
        path: .nii or .nii.gz; an existing file is replaced.

    Raises:
        DataError: the array does not fit the frame.
    """
    own = nib.orientations.apply_orientation(array, _inverse(frame.orientation))
    if own.shape != frame.shape[:3]:
        raise DataError(f"{path.name} expected shape {_by(frame.shape)}, got {_by(own.shape)}")
    write(own, frame.affine, path, codes=frame.codes)


def write(array: Array, affine: Array, path: Path, *, codes: tuple[int, int] = (1, 1)) -> None:
    """Writes (X, Y, Z) voxels with their affine as .nii or .nii.gz; the same input gives the same bytes."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{path.name} expected a name that ends with .nii or .nii.gz")
    image = nib.Nifti1Image(np.ascontiguousarray(array), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=codes[0])
    image.set_qform(affine, code=codes[1])
    raw = image.to_bytes()
    # A time of 0 in gzip's header: a file depends on what is in it, not on when it was written.
    path.write_bytes(gzip.compress(raw, compresslevel=1, mtime=0) if path.name.endswith(".gz") else raw)


def _open(path: Path, name: str) -> Image:
    """The file as an image in memory; gzip's checksum is checked, which reading by need would not do."""
    kind = "an MGH" if path.name.endswith(MGH) else "a NIfTI"
    try:
        raw = path.read_bytes()
        if path.name.endswith((".gz", ".mgz")):
            raw = gzip.decompress(raw)
        image = _format(path, raw).from_bytes(raw)
    except FileNotFoundError:
        raise DataError(f"{name} is missing") from None
    except gzip.BadGzipFile as error:
        if raw[:2] == b"\x1f\x8b":
            raise DataError(f"{name} is truncated or damaged: {error}") from None
        raise DataError(f"{name} is not {kind} file: {error}") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{name} is truncated or damaged: {error}") from None
    except NOT_NIFTI as error:
        raise DataError(f"{name} is not {kind} file: {str(error).rstrip('.')}") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from None
    if 0 in image.shape:
        raise DataError(f"{name} expected voxels, got none: its shape is {_by(image.shape)}")
    return image


def _format(path: Path, raw: bytes) -> type[Image]:
    """What the file is, by its ending; NIfTI's two versions tell themselves apart by their first bytes."""
    if path.name.endswith(MGH):
        if len(raw) < MGH_HEADER_BYTES:
            raise EOFError(f"expected a header of {MGH_HEADER_BYTES} bytes, got {len(raw)}")
        version, *sizes, kind = struct.unpack(">6i", raw[:24])
        if version != 1 or min(sizes) < 1 or kind not in MGH_TYPES:  # nibabel lets a KeyError out
            raise ValueError(f"its header has version {version}, dimensions {_by(tuple(sizes))}, type {kind}")
        return MGHImage
    return nib.Nifti2Image if raw[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Image


def _voxels(image: Image, name: str) -> Array:
    try:
        data = np.asanyarray(image.dataobj)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{name} is truncated: {str(error).splitlines()[0]}") from None
    if data.dtype.kind not in "iuf":
        raise DataError(f"{name} expected plain numbers as voxels, got {data.dtype}")
    if data.dtype.kind == "f":
        bad = data.size - int(np.count_nonzero(np.isfinite(data)))
        if bad:
            raise DataError(f"{name} expected finite voxels, got {bad} that are NaN or infinite")
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def _affine(image: Image, name: str) -> tuple[Array, Array]:
    """The file's affine, and the canonical one, both checked."""
    own = np.asarray(image.affine, np.float64)
    if not np.isfinite(own).all() or abs(np.linalg.det(own[:3, :3])) < 1e-9:
        raise DataError(f"{name} expected an affine that can be inverted, got {own[:3].tolist()}")
    orientation = nib.io_orientation(own)
    shape = image.shape[:3]
    return own, own @ nib.orientations.inv_ornt_aff(orientation, shape)


def _lay(data: Array, own: Array, affine: Array, orientation: Array, image: Image) -> Volume:
    codes = (1, 1)
    if not isinstance(image, MGHImage):
        codes = (int(image.header["sform_code"]), int(image.header["qform_code"]))
    frame = Frame(tuple(data.shape), own, orientation, codes if any(codes) else (1, 0))
    laid = np.ascontiguousarray(nib.orientations.apply_orientation(data, orientation))
    x, y, z = (float(v) for v in nib.affines.voxel_sizes(affine))
    return Volume(laid, affine, (x, y, z), frame)


def _inverse(orientation: Array) -> Array:
    """The orientation that undoes one: from canonical axes to the file's own."""
    inverse = np.empty_like(orientation)
    for axis, (to, flip) in enumerate(orientation):
        inverse[int(to)] = (axis, flip)
    return inverse


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
