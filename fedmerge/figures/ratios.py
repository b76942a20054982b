"""Mixing ratios by layer, a line a site."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedmerge import comparison
from fedmerge.comparison import Row
from fedmerge.figures import style
from fedmerge.results import Results


def draw(results: Results) -> Figure:
    """Mixing ratio of each layer, a line a site: the mean over runs, the band from the lowest to the highest.

    With a ratio for each kernel, the band runs from the 5th to the 95th percentile of kernels and runs. Methods
    that give every site the same share have nothing to show beside others. Runs of a method that mixed other sites have
    a panel of their own.
    """
    panels = comparison.fits(results)
    panels = {key: fits for key, fits in panels.items() if not all(map(_is_uniform, fits))} or panels
    if not panels:
        return style.sentence("No method of this run has mixing ratios.")
    longest = max(len(fits[0]["groups"]) for fits in panels.values())
    width = min(max(0.26 * longest + 2.0, 6.0), 16.0)
    figure = Figure(figsize=(width, 2.3 * len(panels) + 1.4), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    several = len({key[1:3] for key in panels}) > 1
    divided = [key[:3] for key in panels]
    colours = comparison.mixed(results)
    same = len({tuple(fits[0]["groups"]) for fits in panels.values()}) == 1
    for i, (ax, ((method, target, cases, sites), fits)) in enumerate(zip(axes, panels.items())):
        title = f"{method}, {target}, {cases} cases" if several else method
        if divided.count((method, target, cases)) > 1:
            title += f" of {' and '.join(sites)} ({len(fits)} run{'s' * (len(fits) > 1)})"
        _draw_ratios(ax, fits, title, width, colours, names=i == len(panels) - 1 or not same)
        ax.set_ylabel("mixing ratio", fontsize=9, color=style.INK)
        if i == 0 or sites != tuple(next(iter(panels.values()))[0]["sites"]):
            ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, fontsize=9, handlelength=3)
    return figure


def _is_uniform(fitted: Row) -> bool:
    share = 1 / len(fitted["sites"])
    return all(np.allclose(values, share, atol=1e-6) for values in fitted["groups"].values())


def _draw_ratios(ax: Axes, fits: Sequence[Row], title: str, width: float, order: Sequence[str], *, names: bool) -> None:
    sites: Sequence[str] = fits[0]["sites"]
    layers = list(fits[0]["groups"])
    x = np.arange(len(layers))
    kernel = fits[0]["grain"] == "kernel"
    ax.axhline(1 / len(sites), color=style.GREY, linewidth=0.8, linestyle=style.DOTS, zorder=0)
    for t, site in enumerate(sites):
        values = [np.concatenate([np.atleast_1d(fit["groups"][layer][t]) for fit in fits]) for layer in layers]
        k = order.index(site)
        colour, dash = (
            style.COLOURS[k % len(style.COLOURS)],
            style.DASHES[(k + k // len(style.COLOURS)) % len(style.DASHES)],
        )
        low, high = (5, 95) if kernel else (0, 100)
        bounds = np.array([np.percentile(v, [low, high]) for v in values]).T
        means = [v.mean() for v in values]
        if len(layers) == 1:
            ax.errorbar(t, means[0], abs(bounds - means[0]), color=colour, marker="o", capsize=4, label=site)
        else:
            ax.fill_between(x, *bounds, color=colour, alpha=0.22, linewidth=0)
            ax.plot(x, means, color=colour, linestyle=dash, linewidth=1.6, marker="o", markersize=3, label=site)
    spread = "band: 5th to 95th percentile of kernels" if kernel else "band: lowest to highest run"
    ax.set_title(f"{title} ({spread})" if kernel or len(fits) > 1 else title, fontsize=9, loc="left", color=style.INK)
    ax.set_ylim(0, 1)
    if len(layers) == 1:
        ax.set_xticks(range(len(sites)), sites)
        ax.set_xlim(-0.6, len(sites) - 0.4)
    else:
        stride = max(1, -(-len(layers) // int((width - 1.5) / 0.16)))
        shown = x[::stride]
        ax.set_xticks(shown, [layers[i] for i in shown] if names else [], rotation=90, fontsize=7)
        ax.set_xlim(-0.6, len(layers) - 0.4)
    style.plain(ax)
