"""How much disk a site needs for a campaign: contributions, checkpoints, what is received, predictions."""

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

FLOAT = 4  # bytes of a parameter on disk
SPARE_BYTES = 2 * 2**30  # that stay free for the hospital, whatever the server sends;
SPARE_SHARE = 0.05  # on a small disk, this much of it


@dataclass(frozen=True)
class Load:
    """What a campaign asks of a site's disk.

    Attributes:
        parameters: of the net.
        sources: sites that contribute.
        chains: independent trainings of the sources.
        rows: adaptations or fine-tunings at the target: methods, seeds and chains multiplied.
    """

    parameters: int
    sources: int
    chains: int = 1
    rows: int = 1


ASSUMED = Load(parameters=30_000_000, sources=3, rows=8)
"""Where no campaign is known yet: a large 3D net, compared by a few methods."""


def needed_bytes(role: str, load: Load, maps_bytes: int = 0) -> int:
    """Bytes that a campaign leaves in the site's work folder, with a copy of each message in transit.

    Args:
        role: `"source"` or `"target"`.
        load: the campaign.
        maps_bytes: of the label maps of the site's test cases, which a target predicts once a row.
    """
    whole = FLOAT * load.parameters
    checkpoint = 4 * whole  # weights, AdamW's two moments, the best weights so far
    if role == "source":  # a chain: where it starts, weights and Fisher, and a copy on its way out, sealed or not
        return load.chains * (whole + 2 * whole + 2 * whole + checkpoint)
    received = whole + load.chains * load.sources * 2 * whole
    # a row: the adapted and the fine-tuned model, a checkpoint, the predictions
    return 2 * received + load.rows * (2 * whole + checkpoint + maps_bytes)


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where the folder is, or will be."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def leave_some(folder: Path, coming: int = 0) -> None:
    """Refuse what would fill the disk of a hospital.

    Args:
        folder: where it would be written.
        coming: bytes.

    Raises:
        OSError: no space is left (`ENOSPC`), but for what stays free.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    disk = shutil.disk_usage(there)
    if disk.free - coming < min(SPARE_BYTES, SPARE_SHARE * disk.total):
        raise OSError(errno.ENOSPC, "the disk is nearly full", str(folder))
