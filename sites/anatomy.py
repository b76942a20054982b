"""A made-up head: nested structures given by formulas, bent anew for every patient.

Coordinates are mm in the patient's axes (x right, y front, z up) around the middle of the brain. Each structure is
a signed distance, negative inside; an image is painted from the outside in, where a voxel that a surface cuts gets
its share of both sides.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sites.scanner import smooth

Field = npt.NDArray[np.float32]

LABELS: dict[str, int] = {
    "cortex": 1,
    "white-matter": 2,
    "ventricles": 3,
    "thalamus": 4,
    "caudate": 5,
    "putamen": 6,
    "pallidum": 7,
    "hippocampus": 8,
    "brainstem": 9,
    "cerebellum": 10,
    "oedema": 11,
    "core": 12,
    "enhancing": 13,
}
"""Values of the label maps. The lesion's parts do not overlap: the whole lesion is 11, 12 and 13 together."""

BRIGHTNESS: dict[str, float] = {
    "air": 0.02,
    "fat": 0.88,
    "muscle": 0.42,
    "bone": 0.10,
    "csf": 0.16,
    "cortex": 0.52,
    "white-matter": 0.82,
    "ventricles": 0.14,
    "thalamus": 0.65,
    "caudate": 0.55,
    "putamen": 0.59,
    "pallidum": 0.72,
    "hippocampus": 0.53,
    "brainstem": 0.74,
    "cerebellum": 0.56,
    "arbor-vitae": 0.78,
    "oedema": 0.60,
    "core": 0.28,
    "enhancing": 0.98,
}
"""Relative T1-weighted intensities, the lesion's after a contrast agent."""

BRAIN_MM = (66.0, 82.0, 60.0)
CORTEX_MM = 3.2
SULCUS_DEPTH_MM = 15.0
KNOT_MM = 12.0
"""Distance of the random knots that fold the cortex: sulci are about as far apart."""


@dataclass(frozen=True)
class Blob:
    """An ellipsoid: its structure, centre and radii in mm, and a tilt about the x axis in degrees.

    What lies off the midline has a twin on the other side.
    """

    name: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    tilt: float = 0.0


# From the outside in: what comes later is painted over what came before.
BLOBS = (
    Blob("brainstem", (0, -20, -10), (14, 11, 12)),
    Blob("brainstem", (0, -20, -26), (14, 13, 13)),
    Blob("brainstem", (0, -26, -48), (9, 9, 24), 8),
    Blob("hippocampus", (27, -18, -13), (6.5, 20, 6.5), -22),
    Blob("putamen", (27, 4, 3), (6.5, 18, 11)),
    Blob("pallidum", (19, 1, 2), (4.5, 10, 7)),
    Blob("caudate", (15, 22, 12), (6.5, 12, 10), 20),
    Blob("caudate", (18, 0, 22), (4.5, 18, 5.5), -12),
    Blob("thalamus", (11, -15, 8), (9.5, 15, 9.5), 10),
    Blob("ventricles", (9, 16, 20), (5, 20, 7), 14),
    Blob("ventricles", (11, -10, 24), (5.5, 22, 6), -6),
    Blob("ventricles", (20, -32, 12), (6.5, 16, 8), -35),
    Blob("ventricles", (0, -8, 4), (2.2, 12, 9)),
)


@dataclass(frozen=True, eq=False)
class Patient:
    """The dice of one head.

    Attributes:
        turn: (3, 3), the head's own axes against the scanner's, stretched.
        shift: (3,) mm.
        bend: (3, 6, 6, 6) mm, knots of a smooth displacement.
        folds: knots of the field whose zero surfaces are the sulci.
        ventricles: how much wider the ventricles are than usual.
        brightness: structure -> what is added to its relative intensity.
        lesion: (centre, radius in mm, knots of its border), or None.
    """

    turn: Field
    shift: Field
    bend: Field
    folds: Field
    ventricles: float
    brightness: dict[str, float]
    lesion: tuple[Field, float, Field] | None


def draw(dice: np.random.Generator, *, lesions: float) -> Patient:
    """A patient, with a lesion in the share `lesions` of them."""
    angles = np.deg2rad(np.clip(dice.normal(0, (9, 8, 10)), -22, 22))
    stretch = dice.normal(1, 0.05) * dice.normal(1, 0.05, 3)
    side = dice.choice([-1.0, 1.0])
    centre = np.array([side * dice.uniform(20, 40), dice.uniform(-42, 42), dice.uniform(5, 34)], np.float32)
    lesion = (centre, float(dice.uniform(13, 24)), dice.standard_normal((7, 7, 7), dtype=np.float32))
    return Patient(
        turn=(rotation(angles) / stretch[:, None]).astype(np.float32),
        shift=dice.normal(0, (5, 6, 5)).astype(np.float32),
        bend=dice.normal(0, 3.5, (3, 6, 6, 6)).astype(np.float32),
        folds=dice.standard_normal((14, 17, 14), dtype=np.float32),
        ventricles=float(np.exp(dice.normal(0.0, 0.18))),
        brightness={name: float(dice.normal(0, 0.025)) for name in BRIGHTNESS},
        lesion=lesion if dice.uniform() < lesions else None,
    )


def place(patient: Patient, affine: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> Field:
    """(3, X, Y, Z): where each voxel lies in the standard head, in mm."""
    scanner = affine[:3, :3].astype(np.float32)
    turned = patient.turn @ scanner
    origin = patient.turn @ (affine[:3, 3].astype(np.float32) - patient.shift)
    i, j, k = (np.arange(size, dtype=np.float32) for size in shape)
    where = np.empty((3, *shape), np.float32)
    for a in range(3):
        flat = turned[a, 0] * i[:, None, None] + turned[a, 1] * j[:, None] + turned[a, 2] * k
        where[a] = flat + origin[a] + smooth(patient.bend[a], shape)
    if patient.lesion is not None:  # a growing lesion pushes the tissue around it outwards
        centre, radius, _ = patient.lesion
        away = where - centre[:, None, None, None]
        push = 0.35 * np.exp(-np.square(away).sum(0) / np.float32(1.3 * radius) ** 2)
        where -= push * away
    return where


def paint(
    patient: Patient, where: Field, voxel_mm: float, contrast: dict[str, float] | None = None
) -> tuple[Field, npt.NDArray[np.uint8]]:
    """Image and label map of a head.

    Args:
        patient: whose head.
        where: (3, X, Y, Z) mm, from `place`.
        voxel_mm: size of a voxel, over which a surface is blurred.
        contrast: structure -> relative intensity; `BRIGHTNESS` when it is not given.

    Returns:
        image (X, Y, Z) float32, about 0 to 1; labels (X, Y, Z) uint8 as in `LABELS`.
    """
    means = {name: value + patient.brightness[name] for name, value in (contrast or BRIGHTNESS).items()}
    image = np.full(where.shape[1:], means["air"], np.float32)
    labels = np.zeros(where.shape[1:], np.uint8)
    for name, distance in surfaces(patient, where):
        share = np.clip(0.5 - distance / np.float32(voxel_mm), 0, 1)
        image += share * (np.float32(means[name]) - image)
        if name in LABELS:
            labels[distance < 0] = LABELS[name]
        elif name == "csf":
            labels[distance < 0] = 0
    return image, labels


def surfaces(patient: Patient, where: Field) -> list[tuple[str, Field]]:
    """The signed distances (about mm) of all structures, from the outside in."""
    x, y, z = where
    floor = -16 - 0.12 * y - z  # above the skull's base, but for the temporal lobes and the cerebellum
    temporal = _pair(where, (38, 6, -15), (21, 36, 18))
    cerebrum = np.minimum(np.maximum(_ellipsoid(where, (0, 0, 8), BRAIN_MM), floor), temporal)
    small = _pair(where, (19, -48, -33), (28, 27, 19))
    head = np.minimum(_ellipsoid(where, (0, 0, 3), (80, 97, 78)), _ellipsoid(where, (0, 4, -70), (56, 78, 72)))
    skull = np.maximum(_ellipsoid(where, (0, 0, 7), (73, 90, 68)), floor - 8)
    skull = np.minimum(skull, np.minimum(temporal - 8, small - 7))
    fold = _folding(patient, where.shape[1:])
    middle = np.abs(x) + np.maximum(0, 16 - z + 0.004 * y * y)  # the falx parts the hemispheres above the callosum
    fold = np.minimum(fold, middle)
    deep = -cerebrum - SULCUS_DEPTH_MM * np.where(middle < 8, 2.0, 1.0)
    white = np.maximum(cerebrum + CORTEX_MM, np.minimum(CORTEX_MM + 0.8 - fold, -deep))
    sulci = np.maximum(fold - 0.8, deep + 4)
    leaves = small + 4 + 3 * np.sin(0.45 * np.hypot(y + 30, z + 33) + patient.shift[0])
    found = [
        ("fat", head),
        ("muscle", np.maximum(head + 6, z + 12)),
        ("bone", skull),
        ("csf", skull + 4.5),
        ("cortex", cerebrum),
        ("white-matter", white),
        ("csf", np.maximum(sulci, cerebrum)),
        ("cerebellum", small),
        ("arbor-vitae", leaves),
    ]
    for blob in BLOBS:
        wide = patient.ventricles if blob.name == "ventricles" else 1.0
        x0, y0, z0 = blob.radii
        found.append((blob.name, _pair(where, blob.centre, (x0 * wide, y0, z0 * wide), blob.tilt)))
    if patient.lesion is not None:
        found += _lesion(patient, where, np.minimum(cerebrum + 1.5, small))
    return found


def _pair(
    where: Field, centre: tuple[float, float, float], radii: tuple[float, float, float], tilt: float = 0.0
) -> Field:
    """An ellipsoid and its mirror image; one on the midline is its own."""
    one = _ellipsoid(where, centre, radii, tilt)
    if centre[0] == 0:
        return one
    return np.minimum(one, _ellipsoid(where, (-centre[0], centre[1], centre[2]), radii, tilt))


def _lesion(patient: Patient, where: Field, inside: Field) -> list[tuple[str, Field]]:
    """Oedema around an enhancing ring around a core without blood; rough borders, nothing outside the brain."""
    assert patient.lesion is not None  # noqa: S101 - the caller asked
    centre, radius, knots = patient.lesion
    away = where - centre[:, None, None, None]
    rough = smooth(knots, where.shape[1:]) * np.float32(0.16 * radius)
    distance = np.sqrt(np.square(away).sum(0)) - np.float32(radius)
    return [
        ("oedema", np.maximum(distance + 1.5 * rough, inside)),
        ("enhancing", np.maximum(distance + 0.38 * radius + rough, inside)),
        ("core", np.maximum(distance + 0.38 * radius + 4 + rough, inside)),
    ]


def _folding(patient: Patient, shape: tuple[int, ...]) -> Field:
    """Roughly the distance in mm to the nearest zero surface of a random field; such surfaces wind like sulci."""
    return np.abs(smooth(patient.folds, shape)) * np.float32(KNOT_MM)


def _ellipsoid(
    where: Field, centre: tuple[float, float, float], radii: tuple[float, float, float], tilt: float = 0.0
) -> Field:
    """The signed distance to an ellipsoid, to first order around its surface (Quilez)."""
    x, y, z = (where[a] - np.float32(centre[a]) for a in range(3))
    if tilt:
        c, s = np.float32(np.cos(np.deg2rad(tilt))), np.float32(np.sin(np.deg2rad(tilt)))
        y, z = c * y + s * z, c * z - s * y
    squares = [(part / np.float32(r)) ** 2 for part, r in zip((x, y, z), radii, strict=True)]
    near = np.sqrt(squares[0] + squares[1] + squares[2])
    slope = np.sqrt(sum(part / np.float32(r * r) for part, r in zip(squares, radii, strict=True)))
    return np.asarray(near * (near - 1) / np.maximum(slope, np.float32(1e-6)))


def rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turns about x, then y, then z, in radians."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [k for k in range(3) if k != axis]
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    return turn
