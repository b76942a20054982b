"""A colour for each label, by its name: a structure looks the same in every campaign, at every site, in every viewer.

    >>> of(["hippocampus", "lesion", "scar"])
    {'hippocampus': (220, 216, 20), 'lesion': (213, 94, 0), 'scar': (204, 121, 167)}

Structures that FreeSurfer segments have FreeSurfer's own colours, which those who look at brains know by heart. Every
other name chooses among the seven colours of Okabe & Ito ("Color Universal Design", 2008), which people of any colour
vision tell apart, and among further ones where those are taken. Names choose in the alphabet's order, and the others of
a table matter to a name's colour only where two want the same one.
"""

import colorsys
import hashlib
import math
import re
from collections.abc import Iterable, Iterator

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255

OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip

# FreeSurferColorLUT.txt of FreeSurfer 7, left hemisphere
FREESURFER: dict[str, Colour] = {
    "white-matter": (245, 245, 245),
    "cortex": (205, 62, 78),
    "lateral-ventricle": (120, 18, 134),
    "inferior-lateral-ventricle": (196, 58, 250),
    "cerebellum-white-matter": (220, 248, 164),
    "cerebellum-cortex": (230, 148, 34),
    "thalamus": (0, 118, 14),
    "caudate": (122, 186, 220),
    "putamen": (236, 13, 176),
    "pallidum": (12, 48, 255),
    "third-ventricle": (204, 182, 142),
    "fourth-ventricle": (42, 204, 164),
    "brainstem": (119, 159, 176),
    "hippocampus": (220, 216, 20),
    "amygdala": (103, 255, 255),
    "csf": (60, 60, 60),
    "accumbens": (255, 165, 0),
    "ventral-dc": (165, 42, 42),
}
# parts of tumours, and of the hippocampus, with their other spellings
PARTS: dict[str, Colour] = {
    "necrosis": OKABE_ITO[4], "necrotic-core": OKABE_ITO[4],
    "oedema": OKABE_ITO[3], "edema": OKABE_ITO[3],
    "enhancing": OKABE_ITO[5], "enhancing-tumour": OKABE_ITO[5], "enhancing-tumor": OKABE_ITO[5],
    "anterior": OKABE_ITO[0], "posterior": OKABE_ITO[1],
}  # fmt: skip
KNOWN = {**FREESURFER, **PARTS}

FAR = 20.0  # least CIE 1976 distance of two colours that are taken for different ones
TRIES = 64


def of(names: Iterable[str]) -> dict[str, Colour]:
    """The colour of each label of one table; no two are the same, whatever the order in which the names come."""
    wanted = list(names)
    taken: dict[str, Colour] = {}
    for name in sorted(set(wanted), key=lambda name: (plain(name) not in KNOWN, name)):
        known = KNOWN.get(plain(name))
        taken[name] = known if known is not None and known not in taken.values() else _choose(name, taken.values())
    return {name: taken[name] for name in wanted}


def plain(name: str) -> str:
    """A label's name as `KNOWN` has it: small letters, a dash for whatever is no letter or number."""
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")


def distance(first: Colour, second: Colour) -> float:
    """How different two colours look: Euclidean in CIE L*a*b* (1976); 100 is black against white."""
    return math.dist(_lab(first), _lab(second))


def _choose(name: str, taken: Iterable[Colour]) -> Colour:
    """The first of the name's colours that is far enough from those taken; nearer ones where there are very many."""
    there, far = list(taken), FAR
    while True:
        for colour in _wishes(plain(name)):
            if all(distance(colour, other) >= far for other in there):
                return colour
        far *= 0.7


def _wishes(name: str) -> Iterator[Colour]:
    """A name's colours in the order in which it wants them."""
    yield from sorted(OKABE_ITO, key=lambda colour: _drawn(f"{name} {colour}"))
    for k in range(TRIES):
        hue, light, full = (_drawn(f"{name} {k} {what}") for what in ("hue", "light", "full"))
        red, green, blue = colorsys.hls_to_rgb(hue, 0.3 + 0.45 * light, 0.5 + 0.5 * full)
        yield round(255 * red), round(255 * green), round(255 * blue)


def _drawn(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _lab(colour: Colour) -> tuple[float, float, float]:
    """SRGB to CIE L*a*b* under D65 (IEC 61966-2-1; CIE 15)."""
    r, g, b = (c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in colour)
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
    fx, fy, fz = (v ** (1 / 3) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
