"""Keeps an attack's effect on a case as one slice, from the data that a worker holds after scoring a unit."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

from freqbench.core.types import Case
from freqbench.job.cells import Unit
from freqbench.ops.planes import AXIAL, aspect, plane, span
from freqbench.ops.voxels import without_ignored
from freqbench.results.glimpses import NO_CHANGE, SIDE, STEPS, Glimpse, KeptSlice, Slice, pack_planes
from freqbench.results.volumes import RegionsOfLabels

Pixels = npt.NDArray[Any]
Row = Mapping[str, Any]
ShownMap = tuple[str, Literal[0, 1], Tensor]  # its caption, the plane that it lies over, as in Slice, and its labels

logger = logging.getLogger(__name__)


def look(
    worst: dict[str, float],
    unit: Unit,
    case: Case,
    adversarial: Tensor,
    predictions: Sequence[tuple[Tensor, Tensor]],
    records: Sequence[Row],
) -> Glimpse | None:
    """Returns the glimpse of a scored unit. None if the source is no target, the dataset must not be shared, the DSC is
    unknown, an earlier case of the cell lost more points, or this fails, which is logged.

    Args:
        worst: percentage points of DSC that the worst case of each cell has lost so far; this one's are noted there.
        unit: the unit, with targets that were scored.
        case: the case as the source sees it.
        adversarial: the attacked volume `[C, H, W, D]` in [0, 1].
        predictions: label maps `[H, W, D]` of each target (clean, attacked).
        records: the row of each target.
    """
    cell = unit.cell
    cell_id = cell.cell_id
    dataset = cell.dataset
    source_id = cell.source.model_id
    ids = [target.model_id for target in unit.targets]
    if source_id not in ids or not dataset.may_be_shared:
        return None
    source = ids.index(source_id)
    drops = [*map(_points_lost, records)]
    drop = drops[source]
    if not drop >= worst.get(cell_id, -math.inf):  # an equal drop may be the same case, retried
        return None
    worst[cell_id] = drop
    try:
        before, after = predictions[source]
        maps = _shown_maps(unit, case, predictions, records, drops, source)
        index = slice_of_loss(case.label[0].numpy(), before.numpy(), after.numpy())
        shown = axial_slice(case, adversarial, index, maps, dataset.classes.of_labels)
        names = {target.name: target.model_id for target in unit.targets}
        kept = KeptSlice.model_construct(**dict(shown), models=names)
    except KeyboardInterrupt:
        raise
    except BaseException:
        logger.warning("%s: no glimpse of it could be drawn", unit.name, exc_info=True)
        return None
    return Glimpse(cell_id=cell_id, case_key=dataset.case_key(unit.ref), drop=drop, shown=kept)


def _points_lost(row: Row) -> float:
    """Returns the percentage points of DSC that an attack took; NaN if it is unknown."""
    before = row["dsc_foreground_clean"]
    after = row["dsc_foreground"]
    return math.nan if before is None or after is None else 100 * (before - after)


def _shown_maps(
    unit: Unit,
    case: Case,
    predictions: Sequence[tuple[Tensor, Tensor]],
    records: Sequence[Row],
    drops: Sequence[float],
    source: int,
) -> list[ShownMap]:
    """Returns the label, both predictions of the source, and that of the other target on its grid that lost most."""
    dataset = unit.cell.dataset
    label, score = ("label", "DSC") if dataset.reference == "label" else ("clean prediction", "agreement")
    show = dataset.classes.shown

    def caption(name: str, dsc: float) -> str:
        return f"{name}, {score} {100 * dsc:.1f}"

    row = records[source]
    before, after = predictions[source]
    maps: list[ShownMap] = [(label, 0, without_ignored(show(case.label))[0])]
    maps.append((caption(f"{row['target_model']}, clean", row["dsc_foreground_clean"]), 0, show(before)))
    maps.append((caption(row["target_model"], row["dsc_foreground"]), 1, show(after)))
    others: list[tuple[float, int]] = []
    for place, drop in enumerate(drops):
        if place != source and predictions[place][1].shape == after.shape and not math.isnan(drop):
            others.append((drop, place))
    if others:
        _, most = max(others)
        row = records[most]
        maps.append((caption(row["target_model"], row["dsc_foreground"]), 1, show(predictions[most][1])))
    return maps


def slice_of_loss(label: Pixels, before: Pixels, after: Pixels) -> int:
    """Returns the axial slice that gained most wrong voxels from the label maps `[H, W, D]` `before` and `after` an
    attack; of several, that with most foreground in the `label`."""
    lost = (after != label).sum(axis=(0, 1)) - (before != label).sum(axis=(0, 1), dtype=float)
    return int(np.argmax(lost + (label > 0).mean(axis=(0, 1)) / 2))


def axial_slice(
    case: Case,
    adversarial: Tensor,
    index: int,
    maps: Sequence[ShownMap],
    regions: RegionsOfLabels | None = None,
) -> Slice:
    """Returns a slice of the channel that changed most, at most SIDE pixels a side.

    Args:
        case: the clean volume `[C, H, W, D]`, its spacing in mm, and the windows of its channels.
        adversarial: the attacked volume `[C, H, W, D]` in [0, 1].
        index: number of the slice.
        maps: label maps `[H, W, D]` on the same grid, after their caption and the plane below, as in Slice.
        regions: the regions that each label of the maps stands for; None: labels are classes.
    """
    image = case.image
    channel = int((adversarial[..., index] - image[..., index]).abs().sum(dim=(1, 2)).argmax())
    both: list[Pixels] = [plane(volume[channel].numpy(), AXIAL, index) for volume in (image, adversarial)]
    clean, attacked = both
    full = span(attacked - clean)
    of = f", channel {channel + 1} of {len(image)}" if len(image) > 1 else ""
    steps = NO_CHANGE + STEPS * ((attacked - clean) / full).clip(-1, 1)
    rows, columns = clean.shape
    height, width = (max(1, round(side * min(1, SIDE / max(rows, columns)))) for side in clean.shape)

    def resize(pixels: Pixels, how: Resampling) -> Pixels:
        return np.asarray(Image.fromarray(pixels.round().astype(np.uint8)).resize((width, height), how))

    planes = [resize(255 * volume.clip(0, 1), Resampling.BICUBIC) for volume in (clean, attacked)]
    labels = (plane(each.numpy(), AXIAL, index) for _, _, each in maps)
    planes += [resize(each, Resampling.NEAREST) for each in (steps, *labels)]
    captions = [f"clean{of}", "adversarial", f"change, ±{255 * full:.3g}/255"]
    captions += [caption for caption, _, _ in maps]
    aspect_ratio = aspect(case.spacing, AXIAL) * rows / height * width / columns
    return Slice(
        captions=captions,
        below=[below for _, below, _ in maps],
        size=(height, width),
        aspect=aspect_ratio,
        full=full,
        planes=pack_planes(np.stack(planes)),
        regions=regions or [],
        window=case.windows[channel],
    )
