"""Landmarks of histogram standardisation, learnt from a site's training cases alone."""

from collections.abc import Sequence
from dataclasses import replace

from fedmerge.errors import ConfigError
from sites import brain, cases, foreground, histogram, intensities, loading, prepared, regrid, steps
from sites.cases import Found
from sites.histogram import Floats
from sites.progress import report
from sites.records import Landmarks, Site


def training(site: Site, seed: int = 0) -> tuple[Found, ...]:
    """The training cases that a seed draws; never one that validates or tests.

    Raises:
        ConfigError: there is none.
    """
    chosen = cases.select(cases.find(site.data), site.data.cases)
    train = cases.split(chosen, site.data, seed=seed).train
    if not train:
        raise ConfigError(f"{site.name}: landmarks expected at least one training case, got none")
    return train


def check_leaving(site: Site, train: Sequence[Found]) -> None:
    """Whether landmarks of these cases may be shown to others.

    Raises:
        ConfigError: the policy's `landmarks` or `min_cases` forbids it.
    """
    policy = site.policy
    if not policy.landmarks:
        raise ConfigError(f"{site.name}: policy line 'landmarks = false': no landmarks leave")
    if len(train) < policy.min_cases:
        raise ConfigError(f"{site.name}: policy line 'min_cases = {policy.min_cases}': there are {len(train)} cases")


def landmarks(site: Site, train: Sequence[Found], kind: str) -> Landmarks:
    """The landmarks of training images, as they are after the steps that come before standardisation.

    Args:
        site: whose steps and scanner hold; landmarks that it has already are not applied.
        train: its training cases.
        kind: the voxels that percentiles are taken of (`foreground.mask`).

    Raises:
        ConfigError: every image of a modality is the same everywhere.
        DataError: a file cannot be used.
    """
    data = replace(site.data, landmarks=None)
    names = cases.modalities(data)
    done = steps.of(data)

    def quantiles(one: Found) -> list[Floats]:
        images, _ = regrid.read(one.images, len(names), data.grids, site.name)
        seen = [loading.shifted(image, site, one.id, c) for c, image in enumerate(images)]
        mask, _ = brain.of(one, images[0], data, site.name)
        box = foreground.box(seen, data.crop, mask)
        return [intensities.quantiles(channel, done, images[0].spacing_mm, kind, box) for channel in seen]

    rows = []
    for count, row in enumerate(prepared.in_order(quantiles, train, data.workers), start=1):
        rows.append(row)
        report(site.name, "learning landmarks", count, len(train))
    try:
        learnt = [tuple(histogram.learn(channel).tolist()) for channel in zip(*rows, strict=True)]
    except ConfigError as error:
        raise ConfigError(f"{site.name}: {error}") from None
    return Landmarks(histogram.PERCENTILES, kind, len(train), tuple(zip(names, learnt, strict=True)))
