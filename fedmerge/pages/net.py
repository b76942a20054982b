"""Mixing ratios on a drawing of the net: a bar a layer, at its level, divided as the sources' filters are mixed."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from fedmerge import nets
from fedmerge.errors import FedmergeError
from fedmerge.nets.foreign import RESERVED
from fedmerge.pages import colours, layers, markup
from fedmerge.pages.layers import Layer
from fedmerge.results import Results

BAR, STEP, TALL, LEVEL, LEFT, TOP = 20, 27, 62, 106, 14, 22

Shares = dict[str, list[float]]  # layer -> the mean ratio of each site


def of(results: Results) -> tuple[list[Layer], str]:
    """The layers of the campaign's net; none, and why, where it cannot be built here."""
    table = results["campaign"].get("net", {})
    settings = {key: value for key, value in nets.bare(table).items() if key == "name" or key not in RESERVED}
    sites = results.get("sites", [])
    target = next((site for site in sites if site.get("role") == "target"), {"labels": ["label"]})
    if "patch" not in table:
        return [], "these results do not tell the net"
    logits = len(target["labels"]) + (not target.get("regions"))
    try:
        return layers.of(settings, table["patch"], in_channels=1, out_channels=logits), ""
    except (FedmergeError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        return [], f"the net cannot be built here ({error})"


def shares(fits: Sequence[Mapping[str, Any]]) -> Shares:
    """Layer -> each site's mean ratio, over the runs, and over the kernels where each has its own."""
    found: dict[str, list[list[float]]] = {}
    for fit in fits:
        for group, values in fit["groups"].items():
            found.setdefault(group, []).append([float(np.mean(value)) for value in values])
    return {group: [float(v) for v in np.mean(rows, axis=0)] for group, rows in found.items()}


def draw(net: Sequence[Layer], fits: Sequence[Mapping[str, Any]], order: Sequence[str]) -> str:
    """The drawing of one method.

    Args:
        net: its layers in the order of computation.
        fits: the method's entries of `ratios`, at one target, of the same sites.
        order: all sites; a site's place in it is its colour.
    """
    own, sites = shares(fits), fits[0]["sites"]
    deepest = max(layer.level for layer in net)
    right = LEFT + STEP * len(net)
    height = TOP + LEVEL * (deepest + 1)
    xs = {layer.name: LEFT + STEP * i for i, layer in enumerate(net)}
    parts = [*_levels(net, right), *_skips(net, xs), *_path(net, xs)]
    for layer in net:
        parts.append(_bar(layer, _of(layer.name, own), sites, xs[layer.name], order))
    title = f"The net, each layer divided as {fits[0]['method']} mixes the sources: {', '.join(sites)}"
    svg = (
        f'<svg class="net" viewBox="0 0 {right + 92} {height}" style="min-width:{min(right + 92, 760)}px;'
        f'max-width:{right + 192}px" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
    return markup.wide(svg, "mixing ratios on the net", " figure")


def key(sites: Sequence[str], order: Sequence[str]) -> str:
    """Which colour is whose; `order` as for `draw`."""
    marks = "".join(
        f'<li><span class="mark" style="background:{colours.site(order.index(name))}"></span>{escape(name)}</li>'
        for name in sites
    )
    return (
        f'<ul class="key">{marks}<li><span class="mark empty"></span>not merged: it stays the target\'s own</li></ul>'
    )


def table(fits: Sequence[Mapping[str, Any]]) -> str:
    """The same as figures."""
    rows = []
    for group, values in shares(fits).items():
        spread = [np.concatenate([np.atleast_1d(fit["groups"][group][t]) for fit in fits]) for t in range(len(values))]
        rows.append([
            group,
            *(f"{value:.3f}" if np.ptp(every) < 5e-4 else f"{value:.3f} ({every.min():.2f} to {every.max():.2f})"
              for value, every in zip(values, spread)),
        ])  # fmt: skip
    return markup.table(["layer", *fits[0]["sites"]], rows, name="mixing ratios")


def _of(name: str, own: Shares) -> list[float] | None:
    """The ratios of a layer; one ratio for the whole model is that of every layer."""
    if name in own:
        return own[name]
    return own["model"] if list(own) == ["model"] else None


def _bar(layer: Layer, own: Sequence[float] | None, sites: Sequence[str], x: int, order: Sequence[str]) -> str:
    y = TOP + LEVEL * layer.level
    size = "×".join(map(str, layer.size)) or "one vector"
    words = f"{layer.name}: {layer.channels} channels of {size}"
    if own is None:
        inner = f'<rect class="own" x="{x}" y="{y}" width="{BAR}" height="{TALL}" rx="2"/>'
        words += "; not merged"
    else:
        inner, top = "", float(y)
        for name, share in zip(sites, own, strict=True):
            colour, tall = colours.site(order.index(name)), share * TALL
            inner += f'<rect x="{x}" y="{top:.2f}" width="{BAR}" height="{tall:.2f}" fill="{colour}"/>'
            top += tall
        inner += f'<rect class="edge" x="{x}" y="{y}" width="{BAR}" height="{TALL}" rx="2"/>'
        words += "; " + ", ".join(f"{name} {share:.3f}" for name, share in zip(sites, own))
    return f"<g><title>{escape(words)}</title>{inner}</g>"


def _levels(net: Sequence[Layer], right: int) -> list[str]:
    """At the right of each level: the size of what its layers make."""
    sizes: dict[int, Layer] = {}
    for layer in net:
        if layer.size:
            sizes.setdefault(layer.level, layer)
    lines = []
    for level, one in sizes.items():
        y = TOP + LEVEL * level + TALL / 2
        for down, words in ((-3, "×".join(map(str, one.size))), (12, f"{one.channels} channels")):
            lines.append(f'<text class="axis" x="{right + 8}" y="{y + down}">{words}</text>')
    return lines


def _path(net: Sequence[Layer], xs: Mapping[str, int]) -> list[str]:
    """The way from layer to layer."""
    lines = []
    for before, after in pairwise(net):
        x1, x2 = float(xs[before.name] + BAR), float(xs[after.name])
        y1, y2 = (TOP + LEVEL * one.level + TALL / 2 for one in (before, after))
        kind = "way" if before.level == after.level else "way down" if after.level > before.level else "way up"
        if before.level != after.level:
            down = after.level > before.level
            y1, y2 = (y1 + TALL / 2, y2 - TALL / 2) if down else (y1 - TALL / 2, y2 + TALL / 2)
            x1, x2 = x1 - BAR / 2, x2 + BAR / 2
        lines.append(f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    return lines


def _skips(net: Sequence[Layer], xs: Mapping[str, int]) -> list[str]:
    """From the last layer of a level on the way down to the first one on the way back."""
    lines = []
    for level in sorted({layer.level for layer in net}):
        down = [layer for layer in net if layer.level == level and not layer.rising]
        up = [layer for layer in net if layer.level == level and layer.rising]
        if down and up:
            y = TOP + LEVEL * level - 8
            a, b = xs[down[-1].name] + BAR / 2, xs[up[0].name] + BAR / 2
            lines.append(f'<path class="skip" d="M{a} {y + 8} V{y} H{b} V{y + 8}"/>')
    return lines
