"""Figures of single cases from saved volumes: attacks side by side, models side by side, one case in full."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from freqbench.reporting.colors import class_color
from freqbench.reporting.figures.slices import (
    AXIAL,
    PLANES,
    Array,
    Box,
    aspect,
    busiest,
    class_places,
    error_box,
    plane,
    span,
)
from freqbench.reporting.figures.style import PAGE, heading, legend, new_figure, plain, styled
from freqbench.reporting.figures.volumes import Saved

DIVERGING = "PuOr"  # told apart by colour-blind eyes, and in grey by its purple, which is darker than its orange
ERROR = "#e69f00"
OPACITY = 0.65
_HIGHEST = 8.5  # inches: of a page


def attack_figure(saved: Mapping[str, Saved], target: str, classes: Mapping[int, str], title: str) -> Figure:
    """Attacks as columns after the clean volume, what the model predicts below, a box at the largest error.

    All columns show the axial slice in which most voxels of all attacks together are wrong.

    Args:
        saved: one case under each attack, by its label; all with predictions of `target`.
        target: whose predictions.
        classes: names by index.
        title: dataset, model and case.
    """
    first = next(iter(saved.values()))
    index = busiest([each.predictions[target][1] != each.label for each in saved.values()], AXIAL)
    truth = plane(first.label, AXIAL, index)
    columns = [("clean, label", first.clean, first.label)]
    columns += [(label, each.adversarial, each.predictions[target][1]) for label, each in saved.items()]
    with styled():
        figure, axes = _grid(2, len(columns), truth.shape, aspect(first.spacing, AXIAL), 0.1)
        for (upper, lower), (name, image, mask) in zip(axes.T, columns, strict=True):
            seen = plane(mask, AXIAL, index)
            for axis in (upper, lower):
                _grey(axis, plane(image, AXIAL, index), aspect(first.spacing, AXIAL))
                _box(axis, error_box(seen, truth))
            _overlay(lower, seen)
            upper.set_title(heading(name, 14), fontsize=6)
        axes[0, 0].set_ylabel("volume")
        axes[1, 0].set_ylabel(f"label | {plain(target, 16)}")
        figure.suptitle(f"{plain(title, 90)}, axial slice {index}; box: the largest error")
        _classes(figure, [plane(mask, AXIAL, index) for _, _, mask in columns], classes)
    return figure


def model_figure(saved: Mapping[str, Saved], classes: Mapping[int, str], title: str) -> Figure:
    """Models as rows, each attacked by its own gradients: its prediction on the clean volume, the adversarial volume,
    and its prediction there, with a box at the largest error.

    Args:
        saved: one case under one attack by each model, by the model's name, with that model's predictions.
        classes: names by index.
        title: dataset, attack and case.
    """
    first = next(iter(saved.values()))
    index = busiest([each.predictions[model][1] != each.label for model, each in saved.items()], AXIAL)
    ratio, truth = aspect(first.spacing, AXIAL), plane(first.label, AXIAL, index)
    shown = [truth]
    with styled():
        figure, axes = _grid(len(saved), 4, truth.shape, ratio, 0.05)
        for row, (model, each) in zip(axes, saved.items(), strict=True):
            clean, adversarial = plane(each.clean, AXIAL, index), plane(each.adversarial, AXIAL, index)
            before, after = (plane(mask, AXIAL, index) for mask in each.predictions[model])
            shown += [before, after]
            for axis, image, mask in zip(
                row, (clean, clean, adversarial, adversarial), (truth, before, None, after), strict=True
            ):
                _grey(axis, image, ratio)
                if mask is not None:
                    _overlay(axis, mask)
                    _box(axis, error_box(mask, truth))
            row[0].set_ylabel(plain(model, 24))
        for axis, text in zip(
            axes[0], ("label", "prediction, clean", "adversarial", "prediction, adversarial"), strict=True
        ):
            axis.set_title(text)
        figure.suptitle(f"{plain(title, 90)}, axial slice {index}; box: the largest error")
        _classes(figure, shown, classes)
    return figure


def change_figure(saved: Mapping[str, Saved], title: str) -> Figure:
    """The changes of all attacks side by side, in the same slice and on the same scale, which the bar states.

    Args:
        saved: one case under each attack, by its label.
        title: dataset, model and case.
    """
    first = next(iter(saved.values()))
    index = busiest([each.change for each in saved.values()], AXIAL)
    ratio = aspect(first.spacing, AXIAL)
    changes = {label: plane(each.change, AXIAL, index) for label, each in saved.items()}
    most = 255 * span(list(changes.values()))
    across = min(len(changes), 5)
    with styled():
        down = -(-len(changes) // across)
        lines = 1 + max(heading(label, 18).count("\n") for label in changes)
        figure, axes = _grid(down, across, next(iter(changes.values())).shape, ratio, 0.1 + 0.1 * lines)
        for axis in axes.flat[len(changes) :]:
            axis.axis("off")
        for axis, (label, change) in zip(axes.flat[: len(changes)], changes.items(), strict=True):
            image = _frame(axis).imshow(255 * change, cmap=DIVERGING, vmin=-most, vmax=most, aspect=ratio)
            axis.set_title(heading(label, 18), fontsize=6)
        bar = figure.colorbar(image, ax=axes, location="bottom", fraction=0.06, pad=0.03, aspect=50, extend="both")
        bar.set_label("change (1/255)")
        figure.suptitle(f"{plain(title, 90)}, axial slice {index}, one scale: ±{most:.3g}/255")
    return figure


def case_figure(saved: Saved, target: str, classes: Mapping[int, str], title: str) -> Figure:
    """One case in full: clean, adversarial, change, label and both predictions, in three planes.

    Each plane is at the slice in which most predicted voxels changed, or where none did, with most of the change.

    Args:
        saved: the case, with predictions of `target`.
        target: whose predictions.
        classes: names by index.
        title: dataset, model, attack and case.
    """
    before, after = saved.predictions[target]
    weight = before != after
    weight = weight if weight.any() else saved.change
    factor = max(1, round(0.5 / span([saved.change])))
    texts = ("clean", "adversarial", f"change x{factor}", "label", "prediction, clean", "prediction, adversarial")
    shown = []
    with styled():
        heights = [plane(saved.clean, axis, 0).shape[0] * aspect(saved.spacing, axis) for axis in PLANES]
        widths = [plane(saved.clean, axis, 0).shape[1] for axis in PLANES]
        ratios = [height / width for height, width in zip(heights, widths, strict=True)]
        figure = new_figure(PAGE, min(_HIGHEST, sum(ratios) * (PAGE - 0.3) / len(texts) + 0.9))
        axes = figure.subplots(len(PLANES), len(texts), squeeze=False, gridspec_kw={"height_ratios": ratios})
        for row, (axis, name) in zip(axes, PLANES.items(), strict=True):
            index, ratio = busiest([weight], axis), aspect(saved.spacing, axis)
            for column, volume in enumerate((saved.clean, saved.adversarial)):
                _grey(row[column], plane(volume, axis, index), ratio)
            change = factor * plane(saved.change, axis, index)
            _frame(row[2]).imshow(change, cmap=DIVERGING, vmin=-0.5, vmax=0.5, aspect=ratio)
            masks = [plane(mask, axis, index) for mask in (saved.label, before, after)]
            shown += masks
            for cell, mask, image in zip(row[3:], masks, (saved.clean, saved.clean, saved.adversarial), strict=True):
                _grey(cell, plane(image, axis, index), ratio)
                _overlay(cell, mask)
            row[0].set_ylabel(f"{name} {index}")
        for cell, text in zip(axes[0], texts, strict=True):
            cell.set_title(text)
        figure.suptitle(
            f"{plain(title, 100)}; change: purple above 0, orange below, full colour at ±{0.5 / factor:.3g}"
        )
        _classes(figure, shown, classes)
    return figure


def _grid(rows: int, columns: int, shape: tuple[int, ...], ratio: float, gap: float) -> tuple[Figure, np.ndarray]:
    """Axes for slices of that many pixels, `ratio` times as high as wide, with `gap` inches above each row."""
    cell = min((PAGE - 0.3) / columns, 1.9)
    height = rows * (cell * shape[0] * ratio / shape[1] + gap) + 0.85
    figure = new_figure(cell * columns + 0.3, min(_HIGHEST, height))
    return figure, figure.subplots(rows, columns, squeeze=False)


def _frame(axis: Axes) -> Axes:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    return axis


def _grey(axis: Axes, image: Array, ratio: float) -> None:
    _frame(axis).imshow(image, cmap="gray", vmin=0, vmax=1, aspect=ratio)


def _overlay(axis: Axes, mask: Array) -> None:
    """Classes in their colours, outlined and with their numbers for print in grey; the background is left clear."""
    palette = ListedColormap([class_color(index) for index in range(256)])
    shown = np.ma.masked_equal(mask, 0)
    axis.imshow(shown, cmap=palette, vmin=-0.5, vmax=255.5, alpha=OPACITY, aspect=axis.get_aspect())
    for index, row, column in class_places(mask):
        axis.contour(mask == index, levels=[0.5], colors="white", linewidths=0.4)
        number = axis.text(column, row, str(index), ha="center", va="center", fontsize=4.5, color="white")
        number.set_path_effects([withStroke(linewidth=1.0, foreground="black")])


def _box(axis: Axes, box: Box | None) -> None:
    if box is not None:
        left, top, width, height = box
        place = (left - 0.5, top - 0.5)
        axis.add_patch(Rectangle(place, width, height, fill=False, ec="black", lw=1.8))
        axis.add_patch(Rectangle(place, width, height, fill=False, ec=ERROR, lw=0.9))


def _classes(figure: Figure, masks: Sequence[Array], classes: Mapping[int, str]) -> None:
    """A legend of the classes that are to be seen."""
    found = sorted({int(index) for mask in masks for index in np.unique(mask)} - {0})
    handles = [Patch(color=class_color(index), alpha=OPACITY, lw=0) for index in found]
    legend(figure, handles, [f"{index} {plain(classes.get(index, 'not named'))}" for index in found])
