"""Draws single cases from saved volumes, their axes turned to right, anterior and superior, or from a glimpse."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import nibabel
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from PIL import Image

from freqbench.analysis.groups import join_files
from freqbench.core.documents import object_of
from freqbench.core.errors import DataError, UserError
from freqbench.core.files import storage
from freqbench.core.names import require_inside
from freqbench.core.types import Spacing, Window
from freqbench.data import image_files, nibabel_files
from freqbench.ops import planes
from freqbench.ops.planes import AXIAL, PLANES, SIDES, Array, aspect, busiest, plane
from freqbench.ops.voxels import without_ignored
from freqbench.reporting.colors import class_color, class_colors
from freqbench.reporting.figure_data import Material
from freqbench.reporting.figures.style import PAGE, legend, new_figure, plain
from freqbench.results import glimpses, volumes

DIVERGING = "PuOr"  # told apart by colour-blind eyes, and in grey by its purple, which is darker than its orange
OPACITY = 0.65
_HIGHEST = 8.5  # inches: of a page
T = TypeVar("T", bound=np.generic)
Voxels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Regions = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class CaseVolumes:
    """One case under one attack, `[H, W, D]` along right, anterior and superior: intensities in [0, 1] (of channels the
    one that changed most), classes, targets' predictions on the clean and the adversarial volume, mm per voxel, regions
    of each label where they overlap, and the file's intensities that became 0 and 1, None if unknown."""

    clean: Voxels
    adversarial: Voxels
    label: Mask
    predictions: Mapping[str, tuple[Mask, Mask]]
    spacing: Spacing
    regions: Regions = ()
    window: Window | None = None

    @property
    def change(self) -> Voxels:
        """The adversarial volume minus the clean one."""
        return self.adversarial - self.clean

    @property
    def scale(self) -> str:
        """Words for the size of a voxel and for what is black and white."""
        return f"voxels of {' x '.join(f'{step:.3g}' for step in self.spacing)} mm, {planes.window_words(self.window)}"


def full(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Figure | str:
    """Draws the case of the largest drop among `rows`, which are white-box, of one `dataset` and one source `model`
    (its name in tables), by `draw_case`, or returns a reason. `material` has the volumes and the names of classes."""
    saved = join_files(rows, material.folders).sort_values(["drop", "seed"], ascending=[False, True], kind="stable")
    if saved.empty:
        return "no volumes are saved: run the job with save_adversarial: nifti"
    row = saved.iloc[0]
    target = model.partition("#")[0]  # tables add digits of its id to a name that several models have
    classes = material.classes[material.classes["cell_id"] == row["cell_id"]].drop_duplicates("class_index")
    try:
        volumes_of = read_volumes(str(material.root), row["file"])
        if target not in volumes_of.predictions:
            raise UserError("its volumes have no predictions on the source's grid beside them")
        names = dict(zip(classes["class_index"], classes["class_name"].astype(str), strict=True))
        return draw_case(volumes_of, target, f"{dataset}: {row['label']} on {model}, case {row['case_id']}", names)
    except (UserError, OSError) as error:
        return str(error)


def draw_case(saved: CaseVolumes, target: str, title: str, names: Mapping[int, str]) -> Figure:
    """Draws one case of `saved` volumes below a `title`: clean, adversarial, change, label (unless it is the clean
    prediction) and both predictions of a `target` (its name in files), in three planes, each at the slice in which most
    predicted voxels changed or, if none did, most of the change. `names` are the class names of the legend, by class
    number."""
    before, after = saved.predictions[target]
    clean = saved.clean
    change = saved.change
    is_changed = before != after
    weight = is_changed if is_changed.any() else change
    largest = planes.span(change)
    factor = max(1, round(0.5 / largest))
    maps = _maps(saved, before, after)
    adversarial = "\n".join(filter(None, ("adversarial", planes.visible_words(largest))))
    texts = ("clean", adversarial, f"change x{factor}", *maps)
    ratios = {axis: aspect(saved.spacing, axis) for axis in PLANES}
    figure, axes = _sheet(clean, ratios, len(texts))
    legend_masks = []
    for cells, (axis, name) in zip(axes, PLANES.items(), strict=True):
        index = busiest(weight, axis)
        ratio = ratios[axis]
        for cell, volume in zip(cells[:2], (clean, saved.adversarial), strict=True):
            _show(cell, plane(volume, axis, index), ratio, across=axis)
        enlarged = factor * plane(change, axis, index)
        _frame(cells[2], axis).imshow(enlarged, cmap=DIVERGING, vmin=-0.5, vmax=0.5, aspect=ratio)
        for cell, (mask, image) in zip(cells[3:], maps.values(), strict=True):
            classes = plane(mask, axis, index)
            legend_masks.append(classes)
            _show(cell, plane(image, axis, index), ratio, classes, regions=saved.regions, across=axis)
        cells[0].set_ylabel(f"{name} {index}")
    for cell, text in zip(axes[0], texts, strict=True):
        cell.set_title(text)
    colours = f"change: purple above 0, orange below, full colour at ±{0.5 / factor:.3g}"
    figure.suptitle(f"{plain(title, 100)}\n{saved.scale}\n{colours}")
    _classes(figure, legend_masks, names, saved.regions)
    return figure


def _maps(saved: CaseVolumes, before: Mask, after: Mask) -> dict[str, tuple[Mask, Voxels]]:
    """Returns the maps that `draw_case` shows by their headings, each with the volume below it."""
    clean = saved.clean
    maps = {"prediction, clean": (before, clean), "prediction, adversarial": (after, saved.adversarial)}
    return maps if np.array_equal(saved.label, before) else {"label": (saved.label, clean), **maps}


def _sheet(clean: Voxels, ratios: Mapping[int, float], across: int) -> tuple[Figure, npt.NDArray[np.object_]]:
    """Makes a page of axes, a row for each plane and `across` in it; `ratios` are the aspects of the planes' pixels."""
    heights = []
    for axis, ratio in ratios.items():
        rows, columns = plane(clean, axis, 0).shape
        heights.append(rows * ratio / columns)
    figure = new_figure(PAGE, min(_HIGHEST, sum(heights) * (PAGE - 0.3) / across + 1.25))
    axes = figure.subplots(len(PLANES), across, squeeze=False, gridspec_kw={"height_ratios": heights})
    return figure, axes


def glimpse(path: str, names: Mapping[str, str]) -> Image.Image | None:
    """Draws the panels of the glimpse in the file `path` as the page does: volumes, change, label, predictions; `names`
    of models by id. None where the file is no glimpse."""
    if (seen := glimpses.read(path, names)) is None:
        return None
    sheet = seen.unpack()
    middle = glimpses.NO_CHANGE
    steps = glimpses.STEPS
    down = -(-len(sheet) // 3)
    high = 1.9 * seen.size[0] * seen.aspect / seen.size[1]
    figure = new_figure(6.0, min(_HIGHEST, down * (high + 0.1) + 0.95))
    axes = figure.subplots(down, 3, squeeze=False)
    for axis in axes.flat[len(sheet) :]:
        axis.axis("off")
    bases = (sheet[place] / 255 for place in (0, 1, 2, *seen.below))
    masks = (None, None, None, *sheet[3:])
    for axis, caption, base, mask in zip(axes.flat[: len(sheet)], seen.captions, bases, masks, strict=True):
        _show(axis, base, seen.aspect, mask, regions=seen.regions)
        axis.set_title(plain(caption, 40), fontsize=6)
    figure.suptitle(seen.words)
    axes.flat[2].imshow(sheet[2], DIVERGING, vmin=middle - steps, vmax=middle + steps, aspect=seen.aspect)
    stream = io.BytesIO()
    figure.savefig(stream)
    return Image.open(stream).convert("RGB")


def read_volumes(root: str, folder: str) -> CaseVolumes:
    """Reads the volumes of a `folder` below `root`, which is `OUT/volumes`, without predictions off the grid.
    UserError: damaged, missing, of two grids, linked."""
    require_inside(root.rpartition("/")[0] or ".", folder)
    clean, affine = _channels(storage.join(folder, volumes.CLEAN))
    adversarial, _ = _channels(storage.join(folder, volumes.ADVERSARIAL))
    label = _class_map(storage.join(folder, volumes.LABEL))
    if not (clean.shape == adversarial.shape and clean.shape[1:] == label.shape):
        got = f"got {clean.shape[1:]}, {adversarial.shape[1:]} and {label.shape}: run the cell again"
        raise DataError(f"{folder}: expected clean, adversarial and label on one grid, {got}")
    predictions = {}
    kinds = (volumes.ON_CLEAN, volumes.ON_ADVERSARIAL)
    for target, files in sorted(volumes.predictions(storage.list_files(folder, volumes.SUFFIX)).items()):
        if len(files) == 2:
            before, after = (_class_map(storage.join(folder, files[kind])) for kind in kinds)
            if before.shape == label.shape:
                predictions[target] = before, after
    place = storage.join(folder, volumes.FACTS)
    stated = volumes.volume_facts(object_of(storage.read_bytes(place), place), place)
    return turn_volumes(clean, adversarial, label, predictions, affine, stated.regions, stated.native_ranges)


def turn_volumes(
    clean: Voxels,
    adversarial: Voxels,
    label: Mask,
    predictions: Mapping[str, tuple[Mask, Mask]],
    affine: npt.NDArray[np.float64],
    regions: Regions = (),
    windows: Sequence[Window | None] = (),
) -> CaseVolumes:
    """Turns the axes of a case to right, anterior and superior.

    Args:
        clean: `[C, H, W, D]` in [0, 1]; of its channels the one that changed most is kept.
        adversarial: like `clean`.
        label: classes, `[H, W, D]`.
        predictions: by target, of the clean and of the adversarial volume, like `label`.
        affine: `[4, 4]`, maps voxels to world millimetres.
        regions: of each label, where they overlap.
        windows: by channel, the file's intensities that became 0 and 1, if they are known.
    """
    most = int(np.abs(adversarial - clean).sum(axis=(1, 2, 3), dtype=float).argmax())
    turn = nibabel.io_orientation(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]

    def turn_to_ras(volume: npt.NDArray[T]) -> npt.NDArray[T]:
        return np.ascontiguousarray(nibabel.apply_orientation(volume, turn))

    turned = {name: (turn_to_ras(before), turn_to_ras(after)) for name, (before, after) in predictions.items()}
    right, anterior, superior = map(float, spacing)
    return CaseVolumes(
        clean=turn_to_ras(clean[most]),
        adversarial=turn_to_ras(adversarial[most]),
        label=turn_to_ras(label),
        predictions=turned,
        spacing=(right, anterior, superior),
        regions=regions,
        window=windows[most] if most < len(windows) else None,
    )


def _channels(path: str) -> tuple[Voxels, npt.NDArray[np.float64]]:
    """Reads the voxels `[C, H, W, D]` of a file, and its affine."""
    header = nibabel_files.read_header(storage.fetch(path), multichannel=True)
    voxels = nibabel_files.read_packed(storage.read_bytes(path), path)
    return (np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None]), header.affine


def _class_map(path: str) -> Mask:
    """Reads a label map; voxels that do not count are drawn as background."""
    import torch

    classes = image_files.read_integers(nibabel_files.read_header(storage.fetch(path))).astype(np.uint8)
    return without_ignored(torch.from_numpy(classes)).numpy()


def _frame(axis: Axes, across: int = AXIAL) -> Axes:
    """Bares axes for a slice across an axis of the volume, and marks the patient's sides at its edges."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"))
    for side, (x, y, ha, va) in zip(SIDES[across], places, strict=True):
        mark = axis.text(x, y, side, ha=ha, va=va, transform=axis.transAxes, fontsize=4.5, color="white")
        mark.set_path_effects([withStroke(linewidth=1.0, foreground="black")])
    return axis


def _show(
    axis: Axes, image: Array, ratio: float, mask: Array | None = None, regions: Regions = (), across: int = AXIAL
) -> None:
    """Draws a slice with classes in colour, outlined and numbered; of regions that overlap, the one in front."""
    _frame(axis, across).imshow(image, cmap="gray", vmin=0, vmax=1, aspect=ratio)
    if mask is not None:
        look: dict[str, Any] = {"cmap": ListedColormap(class_colors()), "vmin": -0.5, "vmax": 255.5, "alpha": OPACITY}
        fronts = np.array([[0, *_regions_of(regions, label)][-1] for label in range(256)])
        axis.imshow(np.ma.masked_equal(fronts[mask], 0), aspect=axis.get_aspect(), **look)  # the background stays clear
        for index, row, column in planes.class_places(mask):
            axis.contour(mask == index, levels=[0.5], colors="white", linewidths=0.4)
            number = axis.text(column, row, str(fronts[index]), ha="center", va="center", fontsize=4.5, color="white")
            number.set_path_effects([withStroke(linewidth=1.0, foreground="black")])


def _regions_of(regions: Regions, label: int) -> Sequence[int]:
    """Returns the regions of a label, the last in front; of other labels their own class."""
    return regions[label] if label < len(regions) else (label,)


def _classes(figure: Figure, masks: Sequence[Array], names: Mapping[int, str], regions: Regions) -> None:
    labels = set[int]().union(*(np.unique(mask).tolist() for mask in masks)) - {0}
    shown = set[int]().union(*(_regions_of(regions, label) for label in labels))
    indices = sorted(shown)
    handles = [Patch(color=class_color(index), alpha=OPACITY, lw=0) for index in indices]
    legend(figure, handles, [f"{index} {plain(names.get(index, 'not named'))}" for index in indices])
