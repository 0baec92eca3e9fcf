"""Draws an attack's effect on a case as one small picture, from the data that a worker holds after scoring a unit."""

import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling
from torch import Tensor

from freqbench.core.types import Case, Reference
from freqbench.job.cells import Unit
from freqbench.ops.colors import class_colors
from freqbench.ops.planes import AXIAL, aspect, plane, span
from freqbench.ops.voxels import without_ignored
from freqbench.results.glimpses import MAX_BYTES, Glimpse

PANEL, COLUMNS, GAP, CAPTION, FONT = 160, 3, 4, 20, 13  # pixels, except COLUMNS, a number
PAPER, INK = (22, 25, 31), (232, 235, 240)
OPACITY = 0.6
BELOW, UNCHANGED, ABOVE = (np.array(color) for color in ((230, 97, 1), (247, 247, 247), (94, 60, 153)))  # as in figures
PALETTE = np.array([list(bytes.fromhex(color[1:])) for color in class_colors()])  # of all classes, [256, 3]
QUALITIES = (80, 50, 20, 5)

Pixels = npt.NDArray[Any]
Row = Mapping[str, Any]
Size = tuple[int, int]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A panel of a glimpse: a label map `[H, W, D]` over the volume `[C, H, W, D]` of its prediction."""

    name: str
    dsc: float  # of the foreground, 0 to 1
    labels: Tensor
    volume: Tensor


class Glimpser:
    """Draws a preview whenever a case loses more DSC than every earlier case of its cell; one per worker."""

    def __init__(self) -> None:
        self._worst: dict[str, float] = {}

    def look(
        self,
        unit: Unit,
        case: Case,
        adversarial: Tensor,
        predictions: Sequence[tuple[Tensor, Tensor]],
        records: Sequence[Row],
    ) -> Glimpse | None:
        """Returns the glimpse of a scored unit.

        It is None if the source is not among the targets, the dataset must not be shared, the foreground DSC is
        unknown, an earlier case lost more, or drawing fails, which is logged.

        Args:
            adversarial: the attacked volume, `[C, H, W, D]` in [0, 1].
            predictions: for each target, the label maps `[H, W, D]` of the clean and of the attacked volume.
            records: for each target, its row of RECORDS.
        """
        cell = unit.cell
        source = next(
            (place for place, target in enumerate(unit.targets) if target.model_id == cell.source.model_id), None
        )
        if source is None or not cell.dataset.may_be_shared:
            return None
        drop = _drop(records[source])
        if not drop >= self._worst.get(cell.cell_id, -math.inf):  # an equal drop may be the same case, retried
            return None
        self._worst[cell.cell_id] = drop
        try:
            before, after = predictions[source]
            index = slice_of_loss(case.label[0].numpy(), before.numpy(), after.numpy())
            panels = [_on_attacked(records[source], after, adversarial)]
            alike = [place for place, (_, labels) in enumerate(predictions) if labels.shape == after.shape]
            others = [(_drop(records[place]), place) for place in alike if place != source]
            others = [(lost, place) for lost, place in others if not math.isnan(lost)]
            if others:
                _, most = max(others)
                panels.append(_on_attacked(records[most], predictions[most][1], adversarial))
            else:
                name, dsc = f"{records[source]['target_model']}, clean", records[source]["dsc_foreground_clean"]
                panels.append(Prediction(name=name, dsc=dsc, labels=before, volume=case.image))
            image = draw(case, adversarial, index, panels, cell.dataset.reference)
        except Exception:  # only the picture is lost, no row
            logger.warning("%s: no glimpse of it could be drawn", unit.name, exc_info=True)
            return None
        return Glimpse(cell_id=cell.cell_id, case_key=cell.dataset.case_key(unit.ref), drop=drop, image=image)


def slice_of_loss(label: Pixels, before: Pixels, after: Pixels) -> int:
    """Returns the axial slice of label maps `[H, W, D]` that gained most wrong voxels; ties: most foreground."""
    lost = (after != label).sum(axis=(0, 1)) - (before != label).sum(axis=(0, 1), dtype=float)
    return int(np.argmax(lost + (label > 0).mean(axis=(0, 1)) / 2))


def draw(
    case: Case, adversarial: Tensor, index: int, predictions: Sequence[Prediction], reference: Reference = "label"
) -> bytes:
    """Draws an axial slice as WebP of at most MAX_BYTES: clean and attacked volume, change, label and predictions.

    The channel that changed most is shown. Full colour in the change is the magnitude in its caption, in 1/255 of the
    intensity scale: orange below 0, purple above.

    Args:
        adversarial: `[C, H, W, D]` in [0, 1], on the case's grid like everything else.
        index: the slice's number along the last axis.
        reference: of the dataset; `prediction`: the case's label is a clean prediction, and scores are agreement.
    """
    label, score = ("label", "DSC") if reference == "label" else ("clean prediction", "agreement")
    channel = int((adversarial[..., index] - case.image[..., index]).abs().sum(dim=(1, 2)).argmax())

    def seen(volume: Tensor) -> Pixels:
        return plane(volume.numpy(), AXIAL, index)

    change: Pixels = seen(adversarial[channel]) - seen(case.image[channel])
    full = span([change])
    height, width = change.shape[0] * aspect(case.spacing, AXIAL), change.shape[1]  # in widths of a voxel
    scale = PANEL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    clean, attacked = (_grey(seen(volume[channel]), size) for volume in (case.image, adversarial))
    panels = [
        ("clean", "", clean),
        ("adversarial", "", attacked),
        ("change", f", ±{255 * full:.3g}/255", _signed(_resized(change / full, size, Resampling.NEAREST))),
        (label, "", _overlaid(clean, seen(without_ignored(case.label)[0]), size)),
    ]
    for each in predictions:
        below = _grey(seen(each.volume[channel]), size)
        panels.append((each.name, f", {score} {100 * each.dsc:.1f}", _overlaid(below, seen(each.labels), size)))
    return _encoded(_sheet(panels, size[1]))


def _drop(row: Row) -> float:
    """Returns the points of foreground DSC that a row lost; NaN if unknown."""
    before, after = row["dsc_foreground_clean"], row["dsc_foreground"]
    return math.nan if before is None or after is None else 100 * (before - after)


def _on_attacked(row: Row, labels: Tensor, adversarial: Tensor) -> Prediction:
    return Prediction(name=row["target_model"], dsc=row["dsc_foreground"], labels=labels, volume=adversarial)


def _resized(slice: Pixels, size: Size, how: Resampling) -> Pixels:
    return np.asarray(Image.fromarray(slice).resize(size, how))


def _grey(slice: Pixels, size: Size) -> Pixels:
    """Returns intensities in [0, 1] as a panel, `[height, width, 3]`."""
    levels = (255 * slice.clip(0, 1)).round().astype(np.uint8)
    return np.repeat(_resized(levels, size, Resampling.BICUBIC)[..., None], 3, axis=-1)


def _signed(change: Pixels) -> Pixels:
    """Returns changes as a panel of colours, which saturate at -1 and 1."""
    share = np.abs(change).clip(0, 1)[..., None]
    panel: Pixels = UNCHANGED * (1 - share) + np.where(change[..., None] < 0, BELOW, ABOVE) * share
    return panel.astype(np.uint8)


def _overlaid(panel: Pixels, labels: Pixels, size: Size) -> Pixels:
    """Returns a panel under the colours of its classes; the background stays clear."""
    classes = _resized(labels.astype(np.uint8), size, Resampling.NEAREST)
    share = np.where(classes > 0, OPACITY, 0)[..., None]
    blended: Pixels = panel * (1 - share) + PALETTE[classes] * share
    return blended.astype(np.uint8)


def _sheet(panels: Sequence[tuple[str, str, Pixels]], height: int) -> Image.Image:
    """Arranges panels row by row, each below its name (cut if too long) and the rest of its caption."""
    step_x, step_y = PANEL + GAP, CAPTION + height + GAP
    sheet = Image.new("RGB", (COLUMNS * step_x - GAP, -(-len(panels) // COLUMNS) * step_y - GAP), PAPER)
    drawn, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for place, (name, rest, pixels) in enumerate(panels):
        left, top = place % COLUMNS * step_x, place // COLUMNS * step_y
        while name and drawn.textlength(name + rest, font) > PANEL:
            name = name[:-1]
        drawn.text((left + PANEL / 2, top + CAPTION / 2), name + rest, INK, font, anchor="mm")
        sheet.paste(Image.fromarray(pixels), (left + (PANEL - pixels.shape[1]) // 2, top + CAPTION))
    return sheet


def _encoded(sheet: Image.Image) -> bytes:
    """Encodes a sheet as WebP, in the best of QUALITIES that is small enough."""
    for quality in QUALITIES:
        stream = io.BytesIO()
        sheet.save(stream, "WEBP", quality=quality, method=0)
        if stream.tell() <= MAX_BYTES:
            return stream.getvalue()
    raise ValueError(f"expected a picture of at most {MAX_BYTES} bytes, got {stream.tell()} at the lowest quality")
