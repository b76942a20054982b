"""Cases a second: our prepared cases against MONAI's CacheDataset on the same transforms.

Four modalities of 96 x 96 x 80 voxels and a label map, NIfTI with gzip: canonical axes, clip at percentiles 1 and 99,
mean 0 and deviation 1, spacing of 2 mm, a patch of 48 x 48 x 48. Three times, as a hospital meets them: the first
process makes the cases (and keeps them on the disk), the next process reads them there, and an epoch of training asks
for batches of two. CacheDataset lives in one process, so that the first two stand against its making, and the third
against its epoch through MONAI's DataLoader. Processor time of one thread, both in turn; the ratio is ours over
theirs, of the median rounds.

    python -m benchmarks.preprocess

prints cases a second of both, and exits with 1 past a bound.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from monai import transforms
from monai.data import CacheDataset, DataLoader

from fedmerge import devices
from sites import cases, loading, volumes
from sites.draws import generator
from sites.prepared import Memory
from sites.records import OPEN, Data, Site

COUNT, BATCH, ROUNDS = 6, 2, 3
SHAPE, AFFINE = (96, 96, 80), np.diag([1.2, 1.2, 1.6, 1.0])
PATCH, SPACING = (48, 48, 48), (2.0, 2.0, 2.0)
MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
CASES = {"first process": (1.0,), "next process": (1.0,), "an epoch": (1.0,)}  # bound of the ratio of times


def write(folder: Path) -> None:
    """Heads of smooth noise, in the layout `folders`."""
    dice = generator("benchmark of preprocessing")
    ball = sum(a**2 for a in np.ogrid[tuple(slice(-1, 1, n * 1j) for n in SHAPE)]) < 0.7
    for k in range(COUNT):
        home = folder / f"p{k}-visit1"
        home.mkdir()
        for name in MODALITIES:
            image = (dice.gamma(4, 100, SHAPE) * ball).astype(np.int16)
            volumes.write(image, AFFINE, home / f"{name}.nii.gz")
        label = np.zeros(SHAPE, np.uint8)
        label[40:56, 40:56, 30:50], label[56:64, 40:56, 30:50] = 1, 2
        volumes.write(label, AFFINE, home / "label.nii.gz")


def theirs() -> transforms.Compose:
    """MONAI's transforms for the same."""
    return transforms.Compose(
        [
            transforms.LoadImaged(("image", "label")),
            transforms.EnsureChannelFirstd(("image", "label")),
            transforms.Orientationd(("image", "label"), axcodes="RAS", labels=None),
            transforms.ClipIntensityPercentilesd("image", 1, 99, channel_wise=True),
            transforms.NormalizeIntensityd("image", channel_wise=True),
            transforms.Spacingd(("image", "label"), SPACING, mode=("bilinear", "nearest")),
            transforms.ResizeWithPadOrCropd(("image", "label"), PATCH),
        ]
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, and what came out."""
    start = time.process_time()
    out = work()
    return time.process_time() - start, out


def main() -> int:
    """Print the lines; 1 if a bound is exceeded."""
    warnings.filterwarnings("ignore")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as temporary, devices.threads(1):
        folder = Path(temporary) / "cases"
        folder.mkdir()
        write(folder)
        data = Data(folder, "folders", {"a": (1,), "b": (2,)}, MODALITIES, spacing_mm=SPACING, cache_gb=10.0)
        found = cases.find(data)
        files = [{"image": [str(p) for p in one.images], "label": str(one.label)} for one in found]
        for turn in range(ROUNDS + 1):
            site = Site("north", "source", data, OPEN, None, Path(temporary) / f"work{turn}", simulation=True)

            def ours(site: Site = site) -> list[cases.Loaded]:
                return cases.load(site, found, patch=PATCH)

            loading._MEMORY = Memory(2 << 30)
            first, made = timed(ours)
            making, dataset = timed(lambda: CacheDataset(files, theirs(), num_workers=1, progress=False))
            loading._MEMORY = Memory(2 << 30)
            following, _ = timed(ours)
            batch, loader = cases.batches(made, BATCH, turn), DataLoader(dataset, batch_size=BATCH, shuffle=True)
            epoch, _ = timed(lambda batch=batch: [batch(step) for step in range(COUNT // BATCH)])
            batches, _ = timed(lambda loader=loader: list(loader))
            for name, pair in zip(CASES, ((first, making), (following, making), (epoch, batches)), strict=True):
                seconds[name].append(pair)
    alike = np.corrcoef(made[0].image.ravel(), torch.as_tensor(dataset[0]["image"]).ravel())[0, 1]
    print(f"one case of both ways: correlation {alike:.3f} (ours averages to coarser voxels, theirs interpolates)")
    failed = 0
    for name, rounds in seconds.items():
        mine, reference = (median(times) for times in zip(*rounds[1:]))  # the first round warms up
        ratio, (bound,) = mine / reference, CASES[name]
        failed |= ratio > bound
        print(
            f"{name}: {COUNT / mine:.1f} cases a second, CacheDataset {COUNT / reference:.1f}, "
            f"ratio of times {ratio:.3f} (bound {bound:g}) {'ok' if ratio <= bound else 'TOO SLOW'}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
