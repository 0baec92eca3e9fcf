"""Draws a procedural upper abdomen in Hounsfield units, in millimetres of RAS+ coordinates about the centre of the
field of view. A solid is a field of depths, an approximate signed distance that is positive inside."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freqbench.core.types import Shape, Spacing, triple

Field = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
CLASS_NAMES = ("background", "liver", "spleen", "kidneys", "aorta", "gallbladder")
LIVER, SPLEEN, KIDNEYS, AORTA, GALLBLADDER = range(1, 6)
REGIONS = ("whole lesion", "lesion core", "enhancing lesion")
CONTRASTS = ((0.0, -45.0, -25.0), (5.0, -30.0, 110.0), (45.0, 75.0, 60.0), (70.0, 35.0, 50.0))
"""Hounsfield units by which each channel shows the rim, the core and the enhancing part of a lesion."""
AIR = -1000.0
FAT = -100.0
MUSCLE = 58.0
SKIN = 20.0
LUNG = -820.0
BLUR_MM = 2.6  # point spread of the imaging system, and deviation of an annotator's outline from the true surface
OUTLINE_SD_MM = 0.7

# The scan that the noise imitates: its standard deviation, and in cm its voxel and the thickness of its slices.
NOISE_HU = (10.0, 16.0)
SCAN_VOXEL_CM = (0.15, 0.15, 0.2)
SCAN_SLICE_CM = 0.3


def draw(rng: np.random.Generator, shape: Shape, spacing: Spacing) -> tuple[Field, Labels]:
    """Draws a random patient by `rng`: Hounsfield units with blur and noise, and the label map of CLASS_NAMES, both of
    `shape` `[H, W, D]` with voxels of `spacing` millimetres. The label follows a slightly wavering outline, as manual
    annotations do: a perfect score is out of reach."""
    from scipy.ndimage import gaussian_filter  # which takes long to import

    canvas = _pose(rng, shape, spacing)
    cavity = _body(canvas)
    _skeleton(canvas)
    _soft_background(canvas, cavity)
    _organs(canvas, cavity)
    _table(canvas)
    hu = gaussian_filter(canvas.hu, [BLUR_MM / step for step in spacing], mode="nearest")
    hu += np.float32(rng.uniform(*NOISE_HU)) * scanner_noise(rng, shape)
    return hu, canvas.label


def lesions(rng: np.random.Generator, hu: Field, organs: Labels, spacing: Spacing) -> tuple[Field, Labels]:
    """Draws one to three lesions by `rng` into liver and spleen of a volume `hu` `[H, W, D]` with label map `organs`
    and voxels of `spacing` millimetres; returns four channels `[4, H, W, D]` and codes of REGIONS `[H, W, D]`."""
    places = np.argwhere((organs == LIVER) | (organs == SPLEEN))
    grid = np.moveaxis(np.indices(hu.shape, dtype=np.float32), 0, -1) * np.array(spacing, np.float32)
    parts = np.zeros(hu.shape, np.uint8)  # 0: none, 1: rim, 2: core, 3: enhancing
    for _ in range(rng.integers(1, 4)):
        centre = places[rng.integers(len(places))] * np.array(spacing)
        radii = rng.uniform(20, 34, 3)
        for part, share in ((1, 1.0), (2, rng.uniform(0.6, 0.75)), (3, rng.uniform(0.35, 0.45))):
            middle = centre + rng.uniform(-0.15, 0.15, 3) * radii * (part > 1)
            inside = np.square((grid - middle.astype(np.float32)) / np.float32(share * radii)).sum(axis=-1) < 1
            parts = np.where(inside & (organs > 0) & (parts < part), np.uint8(part), parts)
    added = np.array([(0.0, *contrast) for contrast in CONTRASTS], np.float32)
    noise = np.stack([scanner_noise(rng, triple(hu.shape)) for _ in CONTRASTS])
    return hu + added[:, parts] + np.float32(8) * noise, np.array([0, 1, 3, 7], np.uint8)[parts]


@dataclass(frozen=True)
class Canvas:
    """The volume being drawn, in the patient's own coordinates; `hu` and `label` hold the structures drawn so far."""

    rng: np.random.Generator
    spacing: Spacing
    level: Field  # height above the table's frame, which does not turn with the patient, [1, W, 1]
    x: Field  # warped coordinates of each voxel, [H, W, D]
    y: Field
    z: Field
    texture: Field  # correlated noise of unit variance that organs scale
    outline: Field  # millimetres by which the annotated outline lies outside the true one
    hu: Field
    label: Labels

    def paint(self, depth: Field, hu: float | Field, organ: int = 0) -> None:
        """Fills a solid with `hu`, where its `depth` `[H, W, D]` is above 0, and covers what was there before, with the
        class `organ` in the label map too unless it is 0."""
        np.copyto(self.hu, hu, where=depth > 0)
        if organ:
            np.copyto(self.label, np.uint8(organ), where=depth + self.outline > 0)

    def ellipsoid(self, centre: Sequence[float], radii: Sequence[float], turn: float = 0) -> Field:
        """Returns the depth in mm below the surface of an ellipsoid, of `centre` and `radii` in mm, that is turned by
        `turn` radians about z."""
        cos = np.cos(turn)
        sin = np.sin(turn)
        squared = _plane(self.x, self.y, (cos, sin), centre, radii[0])
        squared += _plane(self.x, self.y, (-sin, cos), centre, radii[1])
        squared += np.square((self.z - np.float32(centre[2])) * np.float32(1 / radii[2]))
        return _scaled_depth(squared, min(radii))

    def tube(self, x: float | Field, y: float, radius: float) -> Field:
        """Returns the depth in mm below the surface of a tube along z through `x` and `y`, of a `radius`, all in mm."""
        return np.float32(radius) - np.sqrt(np.square(self.x - np.float32(x)) + np.square(self.y - np.float32(y)))

    def organ(self, centre: Sequence[float], radii: Sequence[float], turn: float) -> Field:
        """Returns the depth of an `ellipsoid` of usual `centre`, `radii` and `turn`, which vary from patient to
        patient."""
        moved = [coordinate + self.rng.normal(0, 4) for coordinate in centre]
        sized = [radius * self.rng.uniform(0.86, 1.14) for radius in radii]
        return self.ellipsoid(moved, sized, turn + self.rng.normal(0, 0.12))


def _plane(x: Field, y: Field, way: tuple[float, float], centre: Sequence[float], radius: float) -> Field:
    """Returns the squared distance from the centre along one direction in the x-y plane, in radii."""
    start = np.float32((way[0] * centre[0] + way[1] * centre[1]) / radius)
    along = x * np.float32(way[0] / radius) + y * np.float32(way[1] / radius) - start
    return np.square(along, out=along)


def _scaled_depth(squared: Field, radius: float) -> Field:
    """Computes `radius * (1 - sqrt(squared))` in place, as memory costs most."""
    np.sqrt(squared, out=squared)
    squared *= np.float32(-radius)
    squared += np.float32(radius)
    return squared


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], spacing: Spacing, length_mm: float) -> Field:
    from scipy.ndimage import gaussian_filter

    sigma = [length_mm / step for step in spacing]
    noise: Field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=3)
    noise /= noise.std()
    return noise


def scanner_noise(rng: np.random.Generator, shape: Shape) -> Field:
    """Returns noise, drawn by `rng`, of unit variance and of `shape` `[H, W, D]`, with the texture of an abdominal CT
    after the papers' preprocessing.
    At f line pairs per cm in the plane its power is f exp(-(f - 1.36)^2 / (2 * 1.78^2)), which peaks at 2.6: the model
    of Oostveen et al., J. Med. Imaging 11(3):035501, 2024, fitted to the spectrum of a body kernel that they measured
    (to 1.6 % of its peak). Across the plane, the noise is that of slices of 3 mm. A voxel counts as one of the scan,
    whatever the phantom's voxel size: attacks see voxels, not millimetres. Aliasing and interpolation are left out."""
    frequencies = [np.fft.fftfreq(size, step) for size, step in zip(shape, SCAN_VOXEL_CM, strict=True)]
    x, y, z = np.meshgrid(*frequencies, indexing="ij", sparse=True)
    f = np.hypot(x, y)
    power = f * np.exp(-np.square((f - 1.36) / 1.78) / 2) * np.square(np.sinc(SCAN_SLICE_CM * z))
    noise = np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape)) * np.sqrt(power)).real
    return (noise / noise.std()).astype(np.float32)


def _pose(rng: np.random.Generator, shape: Shape, spacing: Spacing) -> Canvas:
    """Returns an empty canvas in the coordinates of a patient who is moved, turned, scaled and gently warped."""
    sides = zip(shape, spacing, strict=True)
    axes = [(np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)) * np.float32(step) for n, step in sides]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    level = y
    x = x - np.float32(rng.normal(0, 5))
    y = y - np.float32(rng.normal(2, 3))
    z = z - np.float32(rng.normal(0, 7))
    angle = rng.normal(0, 0.05)
    cos = np.float32(np.cos(angle))
    sin = np.float32(np.sin(angle))
    turned = cos * x + sin * y
    y = cos * y - sin * x
    x = turned
    size = rng.uniform(0.9, 1.06)
    grid = [axis / np.float32(size * rng.uniform(0.96, 1.04)) for axis in (x, y, z)]
    x, y, z = (_warped(axis, grid, rng) for axis in grid)
    texture = _smooth_noise(rng, shape, spacing, 6.0)
    outline = np.float32(OUTLINE_SD_MM) * _smooth_noise(rng, shape, spacing, 9.0)
    hu = np.full(shape, AIR, np.float32)
    label = np.zeros(shape, np.uint8)
    return Canvas(rng, spacing, level, x, y, z, texture, outline, hu, label)


def _warped(axis: Field, grid: Sequence[Field], rng: np.random.Generator) -> Field:
    """Moves coordinates along one axis by up to 7 mm, in waves along all axes of the grid."""
    turns = rng.uniform(0, 2 * np.pi, 3)
    mm = rng.uniform(110, 200, 3)
    waves = [np.sin(a * np.float32(2 * np.pi / n) + np.float32(p)) for a, n, p in zip(grid, mm, turns, strict=True)]
    return axis + np.float32(rng.uniform(-7, 7)) * (waves[0] * waves[1] * waves[2])


def _body(canvas: Canvas) -> Field:
    """Paints skin, fat and the muscle wall with ribs; returns the depth inside the body cavity."""
    rng = canvas.rng
    wide = rng.uniform(132, 146)
    deep = rng.uniform(94, 106)
    fat = rng.uniform(10, 22)
    u = np.square(canvas.x * np.float32(1 / wide))
    v = np.square(canvas.y * np.float32(1 / deep))
    surface = _scaled_depth(u + v - np.float32(0.3) * u * v, deep)  # a rounded rectangle (Fernandez-Guasti's squircle)
    wall = surface - np.float32(fat) * (1 + np.float32(0.35) * np.sin(canvas.y / 60))
    cavity = wall - np.float32(rng.uniform(11, 15))
    canvas.paint(surface, SKIN)
    canvas.paint(surface - 3, FAT + 8 * canvas.texture)
    canvas.paint(wall, MUSCLE + 6 * canvas.texture)
    ribs = (canvas.z + np.float32(0.45) * canvas.y + np.float32(rng.uniform(0, 34))) % 34
    rib = np.minimum(np.minimum(wall - 2, 9 - wall), np.float32(6) - np.abs(ribs - 17))
    canvas.paint(np.minimum(rib, np.abs(canvas.x) - 45), 330.0)
    canvas.paint(cavity, FAT + 10 * canvas.texture)
    return cavity


def _skeleton(canvas: Canvas) -> None:
    """Paints the spine with discs, canal and processes, and the muscles beside it."""
    rng = canvas.rng
    for side in (-1, 1):
        canvas.paint(canvas.ellipsoid((side * 34, -62, 0), (25, 20, 400)), MUSCLE + 8 * canvas.texture)
    canvas.paint(np.minimum(5 - np.abs(canvas.x), np.minimum(canvas.y + 90, -62 - canvas.y)), 260.0)
    canvas.paint(canvas.tube(0, -72, 14), 280.0)
    canvas.paint(canvas.tube(0, -72, 8.5), 25.0)
    spine = canvas.tube(0, -48, 20)
    canvas.paint(spine, 340.0)
    canvas.paint(spine - 4, rng.uniform(150, 210) + 18 * canvas.texture)
    disc = np.float32(4.5) - np.abs((canvas.z + np.float32(rng.uniform(0, 36))) % 36 - 18)
    canvas.paint(np.minimum(spine, disc), 85.0)


def _soft_background(canvas: Canvas, cavity: Field) -> None:
    """Paints lungs, bowel, stomach and vena cava, which a network has to tell from the organs."""
    rng = canvas.rng
    for side in (-1, 1):
        base = canvas.organ((side * 68, -8, 122), (58, 74, 62), 0)
        canvas.paint(np.minimum(base, cavity), LUNG + 25 * canvas.texture)
    loops = 10 * (_smooth_noise(rng, canvas.hu.shape, canvas.spacing, 10.0) - np.float32(rng.uniform(-0.1, 0.3)))
    region = np.minimum(cavity - 4, canvas.y + 22)
    canvas.paint(np.minimum(loops, np.minimum(region, 25 - canvas.z)), rng.uniform(30, 75) + 22 * canvas.texture)
    stomach = np.minimum(canvas.organ((-52, 28, 38), (38, 30, 44), 0.5), cavity)
    canvas.paint(stomach, rng.uniform(70, 100) + 6 * canvas.texture)
    canvas.paint(stomach - 5, rng.uniform(20, 60) + 12 * canvas.texture)
    canvas.paint(np.minimum(stomach - 5, canvas.y - np.float32(rng.uniform(38, 48))), AIR)
    sway = np.float32(rng.normal(0, 4)) * np.sin(canvas.z / 45 + np.float32(rng.uniform(0, 6)))
    canvas.paint(canvas.tube(22 + sway, -22, rng.uniform(10, 13)), rng.normal(140, 18) + 5 * canvas.texture)


def _organs(canvas: Canvas, cavity: Field) -> None:
    """Paints the five labelled classes; later ones cover earlier ones."""
    rng = canvas.rng
    texture = canvas.texture
    lobe = canvas.organ((66, 8, 30), (60, 70, 66), 0.1)
    liver = np.minimum(np.maximum(lobe, canvas.organ((5, 42, 42), (62, 28, 32), -0.15)), cavity)
    liver = np.minimum(liver, canvas.y + 40 + np.float32(0.35) * canvas.x)
    canvas.paint(liver, rng.normal(105, 11) + 7 * texture, LIVER)
    canvas.paint(np.minimum(liver - 8, 12 * (texture - 1.5)), rng.normal(150, 12))
    spleen = np.minimum(canvas.organ((-90, -28, 34), (25, 42, 42), -0.35), cavity)
    canvas.paint(spleen, rng.normal(114, 12) + 5 * texture, SPLEEN)
    cortex = rng.normal(175, 18)
    medulla = rng.normal(125, 15)
    for side in (-1, 1):
        kidney = np.minimum(canvas.organ((side * 62, -40, -36 - 5 * side), (25, 23, 46), -0.5 * side), cavity)
        kidney = np.minimum(kidney, 4 - canvas.ellipsoid((side * 48, -33, -36 - 5 * side), (13, 9, 20)))
        canvas.paint(kidney, cortex + 6 * texture, KIDNEYS)
        canvas.paint(kidney - 8, medulla + 10 * texture)
    gallbladder = canvas.organ((50, 46, -20), (16, 18, 25), 0.3)
    canvas.paint(gallbladder + 2, 70.0)
    canvas.paint(gallbladder, rng.normal(14, 7) + 4 * texture, GALLBLADDER)
    sway = np.float32(rng.normal(0, 5)) * np.sin(canvas.z / 50 + np.float32(rng.uniform(0, 6)))
    aorta = canvas.tube(-13 + sway, -20 + rng.normal(0, 2), rng.uniform(10, 13.5))
    canvas.paint(aorta, rng.normal(172, 20) + 4 * texture, AORTA)


def _table(canvas: Canvas) -> None:
    """Paints the couch: a thin plate in the air behind the patient."""
    plate = np.float32(6) - np.abs(canvas.level - np.float32(canvas.rng.uniform(-119, -112)))
    np.copyto(canvas.hu, np.float32(90), where=(plate > 0) & (canvas.hu == AIR))
