"""Small cases as hospitals have them on disk: anisotropic voxels, any axes, a brightness that tells the label."""

import json

import nibabel
import numpy as np
import torch
from nibabel import orientations
from torch import nn

SHAPE = (12, 10, 8)
AFFINE = np.array([[1.0, 0, 0.1, -7], [0, 1.5, 0, 4], [-0.1, 0, 2.0, 11], [0, 0, 0, 1]])
BRIGHT = np.array([0, 120, 240])
BRATS_2018 = {"T1": "t1", "T1ce": "t1ce", "T2": "t2", "FLAIR": "flair"}
BRATS_2023 = {"T1": "t1n", "T1ce": "t1c", "T2": "t2w", "FLAIR": "t2f"}


class Brightness(nn.Module):
    """Background, 1 and 2 by a quarter and three quarters of the first channel's range: no mistake on `image`."""

    def forward(self, x):
        """(B, C, *S) -> (B, 3, *S)."""
        bright = x[:, :1]
        low, high = (bright.amin() + share * (bright.amax() - bright.amin()) for share in (0.25, 0.75))
        return 20 * torch.cat([low - bright, torch.minimum(bright - low, high - bright), bright - high], 1)


def label(number):
    """(X, Y, Z): a block of 1 and a block of 2 beside it, at a place of the case's own."""
    values = np.zeros(SHAPE, np.uint8)
    x, y, z = np.random.default_rng(number).integers(1, 4, 3)
    values[x : x + 4, y : y + 4, z : z + 3] = 1
    values[x + 4 : x + 7, y : y + 4, z : z + 3] = 2
    return values


def save(path, array, axes="RAS"):
    """Writes an array that lies as `AFFINE` says, stored along the given axes, in the format of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = nibabel.MGHImage if path.name.endswith((".mgz", ".mgh")) else nibabel.Nifti1Image
    turned = orientations.ornt_transform(nibabel.io_orientation(AFFINE), orientations.axcodes2ornt(axes))
    nibabel.save(kind(array, _rigid(AFFINE)).as_reoriented(turned), path)


def _rigid(affine):
    """MGH stores a rotation and voxel sizes, and no shear."""
    turn, _ = np.linalg.qr(affine[:3, :3])
    turn *= np.sign(np.diag(turn.T @ affine[:3, :3]))
    out = affine.copy()
    out[:3, :3] = turn * np.linalg.norm(affine[:3, :3], axis=0)
    return out


def image(number, contrast=0):
    """(X, Y, Z): each contrast with noise of its own; the first tells the label."""
    noise = np.random.default_rng([number, contrast]).normal(0, 1, SHAPE)
    return (BRIGHT[label(number)] * (1 - 0.2 * contrast) + noise).astype(np.float32)


def values(number, one, two, other=0):
    """The label map with other values in place of 0, 1 and 2."""
    return np.array([other, one, two], np.int16)[label(number)]


def decathlon(folder, ids, axes="LAS", ending=".nii", channels=tuple(BRATS_2018)):
    """NnU-Net's folders, a file a channel."""
    for number, case in enumerate(ids):
        for c in range(len(channels)):
            save(folder / f"imagesTr/{case}_{c:04d}{ending}", image(number, c), axes)
        save(folder / f"labelsTr/{case}{ending}", values(number, 1, 2), axes)
    told = {"channel_names": {str(c): name for c, name in enumerate(channels)}, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(told))


def single(folder, ids, axes="PSR", ending=".mgz"):
    """A folder a case, whose image is called as the scanner called it."""
    for number, case in enumerate(ids):
        save(folder / case / f"{case}_t1_mprage{ending}", image(number), axes)
        save(folder / case / f"label{ending}", values(number, 1, 2), axes)


def brats(folder, ids, words, enhancing, axes="LPS"):
    """The challenge's folders: oedema 2 and the enhancing tumour as the year writes it, around it a necrosis of 1."""
    join = "-" if "t1n" in words.values() else "_"
    for number, case in enumerate(ids):
        name = case.rpartition("/")[2]
        for c, word in enumerate(words.values()):
            save(folder / case / f"{name}{join}{word}.nii.gz", image(number, c), axes)
        drawn = values(number, 2, enhancing)
        drawn[drawn == enhancing] = np.where(np.arange((drawn == enhancing).sum()) % 3, enhancing, 1)
        save(folder / case / f"{name}{join}seg.nii.gz", drawn, axes)


def subjects(folder, ids, axes="LIA", file="norm"):
    """A SUBJECTS_DIR: hippocampus and thalamus of one side each, in white matter."""
    for number, case in enumerate(ids):
        save(folder / case / f"mri/{file}.mgz", image(number), axes)
        save(folder / case / "mri/aseg.mgz", values(number, 17, 49, 2).astype(np.int32), axes)


def bids(folder, ids, axes="PIR", derivative="manual"):
    """Images in the dataset, label maps in a derivative; an id may have a session."""
    for number, case in enumerate(ids):
        place = case.replace("_", "/")
        save(folder / place / f"anat/{case}_T1w.nii.gz", image(number), axes)
        save(folder / "derivatives" / derivative / place / f"anat/{case}_dseg.nii.gz", values(number, 1, 2), axes)
