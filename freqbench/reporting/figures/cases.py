"""Draws single cases from saved volumes, their axes turned to right, anterior and superior, or from a glimpse."""

import io
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import nibabel
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from freqbench.analysis.groups import join_files
from freqbench.core.documents import object_of
from freqbench.core.errors import DataError, UserError
from freqbench.core.files import storage
from freqbench.core.names import require_inside
from freqbench.core.types import IGNORED, Spacing, Window
from freqbench.data import image_files, nibabel_files
from freqbench.ops import planes
from freqbench.ops.planes import AXIAL, PLANES, SIDES, Array, Box, aspect, busiest, error_box, plane
from freqbench.reporting.colors import class_color, class_colors
from freqbench.reporting.figure_data import Material
from freqbench.reporting.figures import curves
from freqbench.reporting.figures.style import PAGE, heading, legend, new_figure, plain
from freqbench.results import glimpses, volumes

NO_VOLUMES = "no volumes are saved: run the job with save_adversarial: nifti"
NO_PREDICTIONS = "its volumes have no predictions on the source's grid beside them"
MOST_COLUMNS = 6
MOST_CHANGES = 15
DIVERGING = "PuOr"  # told apart by colour-blind eyes, and in grey by its purple, which is darker than its orange
ERROR = "#e69f00"
OPACITY = 0.65
_HIGHEST = 8.5  # inches: of a page

Rows = Sequence[Mapping[Hashable, Any]]
T = TypeVar("T", bound=np.generic)
Voxels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Regions = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class CaseVolumes:
    """One case under one attack, `[H, W, D]` along right, anterior and superior: intensities in [0, 1] (of several
    channels the one that changed most), classes, each target's predictions on the clean and on the adversarial volume,
    millimetres per voxel, the numbers of the regions of each label, where regions overlap, and the intensities of the
    file that became 0 and 1, None if unknown."""

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
        steps = " x ".join(f"{step:.3g}" for step in self.spacing)
        return f"voxels of {steps} mm, {planes.window_words(self.window)}"

    def name(self, text: str) -> str:
        """Adds to a name that the change is visible, if it is."""
        return "\n".join(filter(None, (text, planes.visible_words(planes.span([self.change])))))


def attacks(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Iterator[Figure | str]:
    """Draws attacks as columns after the clean volume, the model's predictions below, a box at the largest error.

    All columns show the axial slice in which most voxels of all attacks together are wrong.
    """
    saved = _saved_rows(material, rows)
    highest = saved.groupby("family", observed=True)["budget"].transform("max")
    case, attack_rows = _one_case(saved[(saved["budget"] == highest) | saved["budget"].isna()], material)
    target = _target(model)

    def draw(some: Rows) -> Figure:
        by_label = _read(material, some, target)
        first = next(iter(by_label.values()))
        index = busiest([each.predictions[target][1] != each.label for each in by_label.values()], AXIAL)
        ratio, truth = aspect(first.spacing, AXIAL), plane(first.label, AXIAL, index)
        columns = [("clean, label", first.clean, first.label)]
        columns += [
            (each.name(heading(label, 14)), each.adversarial, each.predictions[target][1])
            for label, each in by_label.items()
        ]
        figure, axes = _grid(2 * len(columns), len(columns), truth.shape, ratio, 0.1)
        for (upper, lower), (name, image, mask) in zip(axes.T, columns, strict=True):
            seen = plane(mask, AXIAL, index)
            _show(upper, plane(image, AXIAL, index), ratio, box=error_box(seen, truth))
            _show(lower, plane(image, AXIAL, index), ratio, seen, error_box(seen, truth), first.regions)
            upper.set_title(name, fontsize=6)
        axes[0, 0].set_ylabel("volume")
        axes[1, 0].set_ylabel(f"label | {plain(target, 16)}")
        _title(figure, f"{dataset}: {model}, case {case}", index, by_label.values(), "box: the largest error")
        masks = [plane(mask, AXIAL, index) for _, _, mask in columns]
        _classes(figure, masks, _class_names(material, some), first.regions)
        return figure

    return _figures(attack_rows, MOST_COLUMNS, draw)


def changes(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Iterator[Figure | str]:
    """Draws the changes of all attacks side by side, in the same slice and on one scale, which the bar states."""
    case, attack_rows = _one_case(_saved_rows(material, rows), material)

    def draw(some: Rows) -> Figure:
        by_label = _read(material, some)
        index = busiest([each.change for each in by_label.values()], AXIAL)
        ratio = aspect(next(iter(by_label.values())).spacing, AXIAL)
        seen = [plane(each.change, AXIAL, index) for each in by_label.values()]
        most = 255 * planes.span(seen)
        across = min(len(seen), 5)
        titles = [each.name(heading(label, 18)) for label, each in by_label.items()]
        lines = 1 + max(title.count("\n") for title in titles)
        figure, axes = _grid(len(seen), across, seen[0].shape, ratio, 0.1 + 0.1 * lines)
        for axis, title, change in zip(axes.flat[: len(seen)], titles, seen, strict=True):
            image = _frame(axis).imshow(255 * change, cmap=DIVERGING, vmin=-most, vmax=most, aspect=ratio)
            axis.set_title(title, fontsize=6)
        bar = figure.colorbar(image, ax=axes, location="bottom", fraction=0.06, pad=0.03, aspect=50, extend="both")
        bar.set_label("change (1/255)")
        one_scale = f"one scale: ±{most:.3g}/255"
        _title(figure, f"{dataset}: {model}, case {case}", index, by_label.values(), one_scale)
        return figure

    return _figures(attack_rows, MOST_CHANGES, draw)


def spectrum(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Iterator[Figure | str]:
    """Draws radial spectra of the changes."""
    case, attack_rows = _one_case(_saved_rows(material, rows), material)

    def draw(some: Rows) -> Figure:
        spectra = {}
        for row in some:  # one volume at a time
            (saved,) = _read(material, [row]).values()
            spectra[row["label"]] = planes.radial_spectrum(saved.change)
        return curves.spectrum_figure(spectra, f"{dataset}: {model}, case {case}", material.styles)

    return _figures(attack_rows, curves.MOST_LINES, draw)


def full(material: Material, rows: pd.DataFrame, dataset: str, model: str) -> Iterator[Figure | str]:
    """Draws the case of the largest drop by `draw_case`."""
    ordered = _saved_rows(material, rows).sort_values("drop", ascending=False, kind="stable")

    def draw(some: Rows) -> Figure:
        (row,), target = some, _target(model)
        (saved,) = _read(material, some, target).values()
        title = f"{dataset}: {row['label']} on {model}, case {row['case_id']}"
        return draw_case(saved, target, title, _class_names(material, some))

    return _figures(ordered.head(1).to_dict("records"), 1, draw)


def _figures(rows: Rows, most: int, draw: Callable[[Rows], Figure]) -> Iterator[Figure | str]:
    """Draws at most `most` of the rows in a figure; yields the reason where volumes are not saved or not readable."""
    if not rows:
        yield NO_VOLUMES
    for some in curves.chunks(rows, most):
        try:
            yield draw(some)
        except (UserError, OSError) as error:
            yield str(error)


def draw_case(saved: CaseVolumes, target: str, title: str, names: Mapping[int, str]) -> Figure:
    """Draws one case: clean, adversarial, change, label and both predictions of a target, in three planes.

    A label that is the clean prediction, as where there are no label maps, is not shown twice. Each plane shows the
    slice in which most predicted voxels changed or, if none did, most of the change.
    `names` are the class names of the legend, by class number.
    """
    before, after = saved.predictions[target]
    weight = before != after if (before != after).any() else saved.change
    factor = max(1, round(0.5 / planes.span([saved.change])))
    maps = {"label": (saved.label, saved.clean), "prediction, clean": (before, saved.clean)}
    maps["prediction, adversarial"] = after, saved.adversarial
    if np.array_equal(saved.label, before):
        del maps["label"]
    texts = ("clean", saved.name("adversarial"), f"change x{factor}", *maps)
    shapes = [(plane(saved.clean, axis, 0).shape, aspect(saved.spacing, axis)) for axis in PLANES]
    ratios = [shape[0] * ratio / shape[1] for shape, ratio in shapes]
    figure = new_figure(PAGE, min(_HIGHEST, sum(ratios) * (PAGE - 0.3) / len(texts) + 1.25))
    axes = figure.subplots(len(PLANES), len(texts), squeeze=False, gridspec_kw={"height_ratios": ratios})
    legend_masks = []
    for cells, (axis, name) in zip(axes, PLANES.items(), strict=True):
        index, ratio = busiest([weight], axis), aspect(saved.spacing, axis)
        for cell, volume in zip(cells[:2], (saved.clean, saved.adversarial), strict=True):
            _show(cell, plane(volume, axis, index), ratio, across=axis)
        change = factor * plane(saved.change, axis, index)
        _frame(cells[2], axis).imshow(change, cmap=DIVERGING, vmin=-0.5, vmax=0.5, aspect=ratio)
        for cell, (mask, image) in zip(cells[3:], maps.values(), strict=True):
            legend_masks.append(plane(mask, axis, index))
            _show(cell, plane(image, axis, index), ratio, legend_masks[-1], regions=saved.regions, across=axis)
        cells[0].set_ylabel(f"{name} {index}")
    for cell, text in zip(axes[0], texts, strict=True):
        cell.set_title(text)
    colours = f"change: purple above 0, orange below, full colour at ±{0.5 / factor:.3g}"
    figure.suptitle(f"{plain(title, 100)}\n{saved.scale}\n{colours}")
    _classes(figure, legend_masks, names, saved.regions)
    return figure


def glimpse(path: str, names: Mapping[str, str]) -> Image.Image | None:
    """Draws a glimpse's panels as the page does: volumes, change, label and predictions; None if there is none.

    `names` are those of models, by id.
    """
    seen = glimpses.read(path, names)
    if seen is None:
        return None
    sheet, middle, steps = seen.unpack(), glimpses.NO_CHANGE, glimpses.STEPS
    figure, axes = _grid(len(sheet), 3, seen.size, seen.aspect, 0.1)
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


def robust(material: Material, rows: pd.DataFrame, dataset: str) -> Iterator[Figure | str]:
    """Draws two models under one attack on one case, the saved case in which their drops are furthest apart.

    By model, attacked by its own gradients: its prediction on the clean volume, the adversarial volume, and its
    prediction there, with a box at the largest error.
    """
    saved = _saved_rows(material, rows[rows["is_white_box"]]).sort_values("drop", kind="stable")
    groups = saved.astype({"label": str, "case_id": str}).groupby(["label", "case_id"])
    gaps = groups["drop"].agg(lambda drops: drops.iloc[-1] - drops.iloc[0])[groups["source_model"].nunique() > 1]
    if gaps.dropna().empty:
        yield NO_VOLUMES if saved.empty else "no case was attacked on two models in the same way"
        return
    label, case = gaps.index[int(np.argmax(gaps.fillna(-1)))]

    def draw(both: Rows) -> Figure:
        by_model: dict[str, CaseVolumes] = {}
        for row in both:
            model = _target(row["source_model"])
            by_model[model] = _read(material, [row], model)[label]
        if len({each.label.shape for each in by_model.values()}) > 1:
            raise UserError("the two models see volumes on different grids")
        if len(by_model) < 2:
            raise UserError(NO_PREDICTIONS)
        first = next(iter(by_model.values()))
        index = busiest([each.predictions[model][1] != each.label for model, each in by_model.items()], AXIAL)
        ratio, truth = aspect(first.spacing, AXIAL), plane(first.label, AXIAL, index)
        legend_masks = [truth]
        figure, axes = _grid(4 * len(by_model), 4, truth.shape, ratio, 0.05)
        for cells, (model, each) in zip(axes, by_model.items(), strict=True):
            clean, adversarial = plane(each.clean, AXIAL, index), plane(each.adversarial, AXIAL, index)
            before, after = (plane(mask, AXIAL, index) for mask in each.predictions[model])
            legend_masks += [before, after]
            images = zip((clean, clean, adversarial, adversarial), (truth, before, None, after), strict=True)
            for axis, (image, mask) in zip(cells, images, strict=True):
                _show(axis, image, ratio, mask, None if mask is None else error_box(mask, truth), first.regions)
            cells[0].set_ylabel(each.name(plain(model, 24)))
        texts = ("label", "prediction, clean", "adversarial", "prediction, adversarial")
        for axis, text in zip(axes[0], texts, strict=True):
            axis.set_title(text)
        _title(figure, f"{dataset}: {label}, case {case}", index, by_model.values(), "box: the largest error")
        _classes(figure, legend_masks, _class_names(material, both), first.regions)
        return figure

    yield from _figures(groups.get_group((label, case)).iloc[[-1, 0]].to_dict("records"), 2, draw)


def read_volumes(root: str, folder: str) -> CaseVolumes:
    """Reads the volumes of one folder; leaves out predictions on another grid than the source's.

    Raises a UserError where files are damaged or missing, do not lie on one grid, or links lead elsewhere.
    """
    require_inside(root.rpartition("/")[0] or ".", folder)
    clean, affine = _channels(storage.join(folder, volumes.CLEAN))
    adversarial, _ = _channels(storage.join(folder, volumes.ADVERSARIAL))
    label = _class_map(storage.join(folder, volumes.LABEL))
    if not (clean.shape == adversarial.shape and clean.shape[1:] == label.shape):
        raise DataError(
            f"{folder}: expected clean, adversarial and label on one grid, got {clean.shape[1:]}, "
            f"{adversarial.shape[1:]} and {label.shape}: run the cell again"
        )
    predictions = {}
    kinds = (volumes.ON_CLEAN, volumes.ON_ADVERSARIAL)
    for target, files in sorted(volumes.predictions(storage.list_files(folder, volumes.SUFFIX)).items()):
        if len(files) == 2:
            before, after = (_class_map(storage.join(folder, files[kind])) for kind in kinds)
            if before.shape == label.shape:
                predictions[target] = before, after
    place = storage.join(folder, volumes.FACTS)
    facts = object_of(storage.read_bytes(place), place)
    stated = volumes.volume_facts(facts, place)
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
    """Turns the axes of volumes `[C, H, W, D]` and maps `[H, W, D]`; `affine` maps voxels to world millimetres, and
    `windows` are those of the channels, if they are known."""
    most = int(np.abs(adversarial - clean).sum(axis=(1, 2, 3), dtype=float).argmax())
    turn = nibabel.io_orientation(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]

    def turn_to_ras(volume: npt.NDArray[T]) -> npt.NDArray[T]:
        return np.ascontiguousarray(nibabel.apply_orientation(volume, turn))

    return CaseVolumes(
        clean=turn_to_ras(clean[most]),
        adversarial=turn_to_ras(adversarial[most]),
        label=turn_to_ras(label),
        predictions={name: (turn_to_ras(before), turn_to_ras(after)) for name, (before, after) in predictions.items()},
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
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
    classes = image_files.read_integers(nibabel_files.read_header(storage.fetch(path))).astype(np.uint8)
    classes[classes == IGNORED] = 0
    return classes


def _saved_rows(material: Material, rows: pd.DataFrame) -> pd.DataFrame:
    """Selects the rows whose volumes are saved and adds their folder as `file`; keeps the first of several seeds."""
    saved = join_files(rows, material.folders).sort_values("seed", kind="stable")
    return saved.drop_duplicates(["label", "case_key", "source_model"])


def _one_case(rows: pd.DataFrame, material: Material) -> tuple[str, Rows]:
    """Picks the case with the most attacks, then the largest mean drop; returns its name and one row per attack."""
    if rows.empty:
        return "", []
    cases = rows.groupby("case_key", observed=True)["drop"].agg(["size", "mean"])
    chosen = cases.sort_values(["size", "mean"], kind="stable").index[-1]
    attack_rows = rows[rows["case_key"] == chosen].to_dict("records")
    return str(attack_rows[0]["case_id"]), sorted(attack_rows, key=lambda row: material.places["label"][row["label"]])


def _read(material: Material, rows: Rows, target: str | None = None) -> dict[str, CaseVolumes]:
    """Reads the volumes of one case by attack; UserError or OSError where that fails, or lacks the target."""
    by_label = {str(row["label"]): read_volumes(str(material.root), row["file"]) for row in rows}
    if target is not None and any(target not in each.predictions for each in by_label.values()):
        raise UserError(NO_PREDICTIONS)
    return by_label


def _target(model: str) -> str:
    """Name of a model in file names: tables add digits of its id to names that several models have."""
    return model.partition("#")[0]


def _grid(count: int, columns: int, shape: tuple[int, ...], ratio: float, gap: float) -> tuple[Figure, np.ndarray]:
    """Makes axes for slices of `shape` pixels, each `ratio` times as high as wide, with `gap` inches above each row."""
    rows, cell = -(-count // columns), min((PAGE - 0.3) / columns, 1.9)
    height = rows * (cell * shape[0] * ratio / shape[1] + gap) + 0.95
    figure = new_figure(cell * columns + 0.3, min(_HIGHEST, height))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, axes


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
    axis: Axes,
    image: Array,
    ratio: float,
    mask: Array | None = None,
    box: Box | None = None,
    regions: Regions = (),
    across: int = AXIAL,
) -> None:
    """Draws a slice, its classes in their colours, outlined and numbered for print in grey, and a box.

    Where regions overlap, colour and number are of the one in front, and the outlines of all regions are drawn.
    """
    _frame(axis, across).imshow(image, cmap="gray", vmin=0, vmax=1, aspect=ratio)
    if mask is not None:
        look: dict[str, Any] = {"cmap": ListedColormap(class_colors()), "vmin": -0.5, "vmax": 255.5, "alpha": OPACITY}
        fronts = np.array([[0, *_regions_of(regions, label)][-1] for label in range(256)])
        axis.imshow(np.ma.masked_equal(fronts[mask], 0), aspect=axis.get_aspect(), **look)  # the background stays clear
        for index, row, column in planes.class_places(mask):
            axis.contour(mask == index, levels=[0.5], colors="white", linewidths=0.4)
            number = axis.text(column, row, str(fronts[index]), ha="center", va="center", fontsize=4.5, color="white")
            number.set_path_effects([withStroke(linewidth=1.0, foreground="black")])
    if box is not None:
        left, top, width, height = box
        for color, line in (("black", 1.8), (ERROR, 0.9)):
            axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec=color, lw=line))


def _regions_of(regions: Regions, label: int) -> Sequence[int]:
    """Returns the regions of a label, the last in front; of other labels their own class."""
    return regions[label] if label < len(regions) else (label,)


def _title(figure: Figure, of: str, index: int, seen: Iterable[CaseVolumes], words: str) -> None:
    scales = " or ".join(dict.fromkeys(each.scale for each in seen))  # attacks may have changed several channels most
    figure.suptitle(f"{plain(of, 90)}, axial slice {index}\n{scales}; {words}")


def _class_names(material: Material, rows: Rows) -> dict[int, str]:
    classes = material.classes[material.classes["cell_id"].isin([row["cell_id"] for row in rows])]
    named = classes[["class_index", "class_name"]].drop_duplicates("class_index")
    return {int(index): str(name) for index, name in named.itertuples(index=False, name=None)}


def _classes(figure: Figure, masks: Sequence[Array], names: Mapping[int, str], regions: Regions) -> None:
    labels = {int(label) for mask in masks for label in np.unique(mask)} - {0}
    indices = sorted({index for label in labels for index in _regions_of(regions, label)})
    handles = [Patch(color=class_color(index), alpha=OPACITY, lw=0) for index in indices]
    legend(figure, handles, [f"{index} {plain(names.get(index, 'not named'))}" for index in indices])
