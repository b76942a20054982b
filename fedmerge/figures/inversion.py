"""What a gradient gives away: a patient's image, what was drawn back, and the mean image of others."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from fedmerge.figures import style


def draw(images: Mapping[str, Tensor]) -> Figure:
    """One panel an image, each on its own grey scale: correlation does not see brightness, and neither does the eye.

    Args:
        images: title -> (C, X, Y) or (C, X, Y, Z); the first channel is shown, of a volume its middle slice.
    """
    figure = Figure(figsize=(2.6 * len(images), 2.9), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for ax, (title, image) in zip(axes, images.items()):
        volume = image.dim() == 4
        flat = image[0, ..., image.shape[-1] // 2].numpy().T if volume else image[0].numpy()
        low, high = np.percentile(flat, [1, 99])
        ax.imshow(flat, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower" if volume else "upper")
        ax.set_title(title, fontsize=8, color=style.INK)
        ax.set_axis_off()
    return figure
