"""Tumours that grow in a brain of structures, and what could be taken for one: small spots and vessels.

A tumour is an ellipsoid with rough borders: oedema, inside it an enhancing ring, inside that a core without blood.
It pushes the tissue around it outwards and stays in the brain: oedema keeps out of sulci and ventricles, while the
tumour itself fills the sulci that it has swallowed. All lengths are mm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from sites.freesurfer import INDEX, LABEL_OF, LABELS, Brain
from sites.scanner import smooth

Field = npt.NDArray[np.float32]
Structures = npt.NDArray[np.uint8]

RADII_MM = (12.0, 26.0)
SEEDS = ("white-matter", "cortex")
PUSH = 0.35
"""Share of its distance that tissue at the centre has moved; a Gaussian of the distance beyond."""

SULCUS_MM = 5.0
"""Fluid up to so wide between tissue is a sulcus that a tumour fills."""

GREY_COSTS = 0.2
"""Oedema spreads along white matter: grey matter ends it that share of the radius earlier."""

KNOT_MM = {"border": 9.0, "spot": 8.0, "vessel": 17.0}
"""Distance of the random knots of each field: about the size of what it makes."""

SPOT_ABOVE = 2.3
VESSEL_MM = 0.8


@dataclass(frozen=True, eq=False)
class Lesion:
    """The dice of one tumour.

    Attributes:
        radii_mm: (3,) half axes of the whole.
        turn: (3, 3) the ellipsoid's axes.
        inner: share of the radius that is tumour; the rest is oedema.
        rim_mm: how thick the enhancing ring is.
        rough: how far the border strays, as a share of the radius.
        knots: (k, k, k) of the border.
    """

    radii_mm: Field
    turn: Field
    inner: float
    rim_mm: float
    rough: float
    knots: Field

    @property
    def radius_mm(self) -> float:
        """The radius of a ball of the ellipsoid's size."""
        return float(np.prod(self.radii_mm) ** (1 / 3))


def draw(dice: np.random.Generator) -> Lesion:
    """A tumour of a size in `RADII_MM` along each of its axes."""
    size = dice.uniform(*RADII_MM)
    radii = np.clip(size * np.exp(dice.normal(0, 0.15, 3)), *RADII_MM)
    turn, _ = np.linalg.qr(dice.normal(size=(3, 3)))
    across = 2 * int(np.ceil(_reach(float(radii.max())) / KNOT_MM["border"])) + 1
    return Lesion(
        radii_mm=radii.astype(np.float32),
        turn=turn.astype(np.float32),
        inner=float(dice.uniform(0.55, 0.78)),
        rim_mm=float(dice.uniform(2.5, 4.5)),
        rough=float(dice.uniform(0.10, 0.18)),
        knots=dice.standard_normal((across, across, across), dtype=np.float32),
    )


def seed(brain: Brain, dice: np.random.Generator) -> npt.NDArray[np.float64]:
    """(3,) mm: a place in the brain's white matter or cortex, from which a tumour grows."""
    tissue = np.flatnonzero(np.isin(brain.structures, [INDEX[name] for name in SEEDS]))
    voxel = np.unravel_index(dice.choice(tissue), brain.structures.shape)
    place: npt.NDArray[np.float64] = brain.affine @ [*voxel, 1.0]
    return place[:3]


def push(where: Field, centre: Field, lesion: Lesion) -> None:
    """Moves tissue away from the centre, in place: each point looks nearer to the centre for what it shows.

    Args:
        where: (3, X, Y, Z) mm, in the axes of `centre`.
        centre: (3,) mm.
        lesion: which.
    """
    away = where - centre[:, None, None, None]
    width = np.float32(1.3 * lesion.radius_mm) ** 2
    away *= np.float32(PUSH) * np.exp(-np.square(away).sum(0) / width)
    where -= away


def grow(structures: Structures, centre: Field, lesion: Lesion, voxel_mm: float) -> Structures:
    """The structures with the tumour in them.

    Args:
        structures: (X, Y, Z) indices of `freesurfer.STRUCTURES`, on cubes of `voxel_mm`.
        centre: (3,) in voxels of this volume.
        lesion: which.
        voxel_mm: side of a voxel.

    Returns:
        a copy; unchanged where the centre lies so that nothing can grow.
    """
    half = int(np.ceil(_reach(float(lesion.radii_mm.max())) / voxel_mm))
    middle = [round(float(c)) for c in centre]
    box = tuple(slice(max(0, m - half), max(0, m + half + 1)) for m in middle)
    grown = structures.copy()
    inside = structures[box]
    if not inside.size:
        return grown
    from_centre = [
        (np.arange(size, dtype=np.float32) + part.start - c) * np.float32(voxel_mm)
        for size, part, c in zip(inside.shape, box, centre, strict=True)
    ]
    of_box = tuple(slice(p.start - m + half, p.start - m + half + s) for p, m, s in zip(box, middle, inside.shape))
    rough = smooth(lesion.knots, (2 * half + 1,) * 3)[of_box]
    depth = _from_border(from_centre, lesion) + np.float32(lesion.rough) * rough

    tissue, fillable = _open_to_growth(inside, voxel_mm)
    white = np.isin(inside, [INDEX[name] for name in ("white-matter", "white-matter-lesion", "spot", "vessel")])
    oedema = tissue & (depth + np.where(white, 0, np.float32(GREY_COSTS)) < 1)
    tumour = _one_piece(fillable & (depth < lesion.inner), depth)
    within = ndimage.distance_transform_edt(tumour).astype(np.float32) * np.float32(voxel_mm)
    rim = min(lesion.rim_mm, 0.5 * float(within.max(initial=0)))  # a small tumour has a core, too
    out = grown[box]
    out[_one_piece(oedema | tumour, depth)] = INDEX["oedema"]
    out[tumour] = INDEX["enhancing"]
    out[within > rim * np.clip(1 + 0.3 * rough, 0.6, 1.4)] = INDEX["core"]
    return grown


def confounders(structures: Structures, voxel_mm: float, dice: np.random.Generator) -> Structures:
    """The structures with small bright spots in the white matter, and vessels that run through it.

    A spot is where a random field is high; a vessel is where two random fields are zero, which is a winding line.
    """
    fields = []
    for kind in ("spot", "vessel", "vessel"):
        count = [max(4, round(size * voxel_mm / KNOT_MM[kind]) + 1) for size in structures.shape]
        fields.append(smooth(dice.standard_normal(count, dtype=np.float32), structures.shape))
    spot, one, two = fields
    white = structures == INDEX["white-matter"]
    changed = structures.copy()
    changed[white & (spot > SPOT_ABOVE)] = INDEX["spot"]
    changed[white & (np.hypot(one, two) * np.float32(0.7 * KNOT_MM["vessel"]) < VESSEL_MM)] = INDEX["vessel"]
    return changed


def _from_border(from_centre: Sequence[Field], lesion: Lesion) -> Field:
    """0 in the middle, 1 on the ellipsoid's surface: (X,), (Y,), (Z,) mm from the centre -> (X, Y, Z)."""
    x, y, z = np.ix_(*from_centre)
    axes = [(t[0] * x + t[1] * y + t[2] * z) / r for t, r in zip(lesion.turn, lesion.radii_mm, strict=True)]
    return np.asarray(np.sqrt(np.square(axes).sum(0)))


def _reach(radius_mm: float) -> float:
    """How far from its centre a tumour's rough border may come."""
    return 1.6 * radius_mm


def _open_to_growth(structures: Structures, voxel_mm: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where the brain's tissue is, and tissue with the sulci in it; neither holds ventricles."""
    labels = LABEL_OF[structures]
    outside = (labels == 0) | (labels == LABELS["csf"])
    ventricles = labels == LABELS["ventricles"]
    reach = max(1, round(SULCUS_MM / 2 / voxel_mm))
    padded = np.pad(~outside, reach, mode="edge")  # at the volume's end the closing must not eat the brain
    cut = tuple(slice(reach, -reach) for _ in range(3))
    filled = ndimage.binary_closing(padded, iterations=reach)[cut] & (labels > 0)
    return ~outside & ~ventricles, filled & ~ventricles


def _one_piece(mask: npt.NDArray[np.bool_], depth: Field) -> npt.NDArray[np.bool_]:
    """The piece of the mask that reaches deepest into the ellipsoid."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    deepest = int(np.argmin(np.where(mask, depth, np.inf)))
    return np.asarray(pieces == pieces.ravel()[deepest])
