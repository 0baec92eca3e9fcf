"""Holds stored scores against MedPy, MONAI, scikit-image and lpips, on saved label maps and volumes (`audit --files`).
Nothing is attacked or predicted: numbers differ by rounding alone. The columns' conventions stand around the libraries:
- Dice is NaN for a class that the label lacks, as are distances for one that either map lacks (MedPy: an error; MONAI:
  infinity), and ASSD of the background. Means leave NaN out; those of `dsc` and `hd95` have the background.
- Voxels that do not count are left out of Dice; for surfaces they are background in both maps, of regions outside each.
- For surfaces a class is cut to the box that holds it in both maps: beyond it there is background, as beyond a volume.
- Millimetres are those of the saved label's affine, which NIfTI keeps in float32.
- SSIM is scikit-image's of axial slices times 255, with its uniform window of 7 x 7 and data range 255: the mean over
  slices and channels, or of its map over the body's voxels (`metrics.body_mask`). PSNR is over all channels at once.
- LPIPS is the package's (AlexNet, `metrics.weights`) by axial slice, padded with its edge below 32 voxels; in the body
  of `spatial=True`."""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from freqbench.core import names
from freqbench.core.documents import object_of
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.measures import MEANS, Tolerance
from freqbench.core.torchvision_import import import_torchvision
from freqbench.core.types import IGNORED, Spacing
from freqbench.data import image_files, nibabel_files
from freqbench.engine import saved_volumes, scoring
from freqbench.metrics import METRICS, body_mask, weights
from freqbench.metrics.image import SSIM_WINDOW
from freqbench.metrics.perceptual import SMALLEST_SLICE
from freqbench.metrics.volumes import require_same_shape
from freqbench.results import KEY, Store
from freqbench.results import volumes as layout
from freqbench.results.store import row_id
from freqbench.results.tolerances import RANK, ROUNDING

Array = npt.NDArray[Any]
Row = Mapping[str, Any]
Source = tuple[str, str]  # column and library
Pair = tuple[Array, Array, Spacing]  # predicted and true label map [H, W, D], millimetres
Classes = Sequence[list[int]]  # labels of each class; IGNORED is of the class that has such voxels in surfaces
MEDPY = "medpy"
MONAI = "monai"
SKIMAGE = "scikit-image"
LPIPS = "lpips"
DIGITS = 8  # of a row's id, enough for `audit --rows`
INCOMPLETE = "label maps: rows of classes are missing or double"
NOT_SAVED = "label maps: those that are scored are not saved"


@dataclass
class Agreement:
    """Stored numbers of a column held against those of a library."""

    tolerance: Tolerance
    rows: int = 0
    largest: float = 0.0  # difference; infinite where only one of the two is NaN
    of_row: str = ""  # id of the row with the largest difference
    beyond: int = 0  # rows whose difference is beyond the tolerance

    def add(self, stored: float, found: float, of_row: str) -> None:
        """Compares one number."""
        self.rows += 1
        self.beyond += not self.tolerance.allows(stored, found)
        is_same = np.array_equal(stored, found, equal_nan=True)
        if not is_same and (by := np.nan_to_num(abs(stored - found), nan=np.inf)) > self.largest:
            self.largest = float(by)
            self.of_row = of_row


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Agreement of some of the rows with saved volumes, by table, column and library."""

    agreements: dict[tuple[str, str, str], Agreement]
    left_out: Counter[str]  # number of rows by what could not be compared, and why
    rows: int
    saved: int  # rows to choose from


def compare(store: Store, count: int) -> Comparison:
    """Compares `count` rows, the same each time, spread over datasets, models, attacks and cells."""
    root = storage.join(store.root, layout.VOLUMES)
    folders = layout.whole(root)
    columns = (*KEY, "status", "dataset", "source_model", "attack")
    if not (rows := [row for row in store.rows(columns) if row[3] == "ok" and row[:2] in folders]):
        advice = "run the job again with `save_adversarial: nifti`, which computes these rows anew and saves both"
        raise UserError(f"{root}: expected saved volumes and label maps of rows, found none: {advice}")
    # In a cell by a digest: an order of cases and targets would be in step with the choice.
    rows.sort(key=lambda row: (*map(str, row[4:]), row[0], row_id(*row[:3])))
    number = min(count, len(rows))
    keys = [rows[place * len(rows) // number][:3] for place in range(number)]
    comparison = Comparison(agreements={}, left_out=Counter(), rows=number, saved=len(rows))
    for row, classes in store.found(keys, as_written=True).values():  # files are named as rows were
        place = storage.join(root, folders[row["cell_id"], row["case_key"]])
        names.require_inside(store.root, place)
        _compare_row(row, classes, place, comparison)
    return comparison


def _compare_row(row: Row, classes: Sequence[Row], place: str, comparison: Comparison) -> None:
    of_row = row_id(*(row[part] for part in KEY))
    metrics = {*(row["metrics"] or "").split(",")}

    def add(table: str, source: Source, stored: float | None, found: float) -> None:
        if stored is not None:
            tolerance = RANK if source[1] == MONAI and source[0].startswith("hd95") else ROUNDING
            comparison.agreements.setdefault((table, *source), Agreement(tolerance)).add(stored, found, of_row)

    images = {name for name in ("ssim", "psnr", LPIPS) if row[METRICS[name].columns[0]] is not None}
    for metric, reason in scoring.unavailable([*images]).items():
        comparison.left_out[f"{metric}: {reason}"] += 1
        images.remove(metric)
    if images:
        files = (storage.join(place, name) for name in (layout.CLEAN, layout.ADVERSARIAL))
        clean, adversarial = (saved_volumes.read_volume(file).numpy() for file in files)
        for source, value in image_scores(clean, adversarial, images).items():
            add("records", source, row[source[0]], value)
    if not metrics & {"dsc", "hd95", "assd"}:
        return
    is_complete = sorted(each["class_index"] for each in classes) == [*range(len(classes))]
    if isinstance(pairs := _pairs(row, place) if is_complete else INCOMPLETE, str):
        comparison.left_out[pairs] += 1
        return
    of_classes = _classes(place, len(classes))
    for suffix, pair in pairs.items():
        for (name, library), values in label_scores(*pair, of_classes, metrics).items():
            column = name + suffix
            for each in classes:
                add("class_records", (column, library), each.get(column), float(values[each["class_index"]]))
            for mean, first in ((name, first) for name, (of, first) in MEANS.items() if of == column):
                defined = values[first:]
                found = np.nanmean(defined) if np.isfinite(defined).any() else np.nan
                add("records", (mean, library), row.get(mean), float(found))


def _classes(place: str, number: int) -> Classes:
    """Returns the labels of each class in saved maps: of a region all that lie in it."""
    path = storage.join(place, layout.FACTS)
    if regions := layout.regions_of(object_of(storage.read_bytes(path), path), path):
        return [[0], *([label for label, held in enumerate(regions) if k in held] for k in range(1, number))]
    return [[0, IGNORED], *([k] for k in range(1, number))]


def _pairs(row: Row, place: str) -> dict[str, Pair] | str:
    """Reads the label maps of the attacked volume and of the clean one (`_clean`); a reason if they are not saved."""
    files = storage.list_files(place, layout.SUFFIX)
    if (scored := layout.scored_maps(row["target_model"])) in files:
        path = storage.join(place, scored)
        spacing = nibabel_files.read_header(storage.fetch(path), multichannel=True).spacing
        label, clean, moved, attacked = saved_volumes.read_volume(path).numpy()
        return {"": (attacked, moved, spacing), "_clean": (clean, label, spacing)}
    maps = layout.predictions(files).get(row["target_model"], {})
    is_own = row["reference"] == "label" or row["target_model_id"] == row["source_model_id"]
    if len(maps) < 2 or row["scored_on"] == "file" or not is_own:
        return NOT_SAVED
    of_attacked = layout.MOVED_LABEL if layout.MOVED_LABEL in files else layout.LABEL
    pairs: dict[str, Pair] = {}
    for suffix, kind, of_kind in (("", layout.ON_ADVERSARIAL, of_attacked), ("_clean", layout.ON_CLEAN, layout.LABEL)):
        paths = (storage.fetch(storage.join(place, name)) for name in (maps[kind], of_kind))
        pred, label = map(nibabel_files.read_header, paths)
        if pred.shape != label.shape or not np.allclose(pred.affine, label.affine):
            return NOT_SAVED
        pairs[suffix] = image_files.read_integers(pred), image_files.read_integers(label), label.spacing
    return pairs


def label_scores(
    pred: Array, label: Array, spacing: Spacing, classes: Classes, metrics: Collection[str]
) -> dict[Source, Array]:
    """Scores a predicted against a true label map `[H, W, D]` by MedPy and MONAI, in those `metrics` of `dsc`, `hd95`
    and `assd`: float64 `[K]`, one per class, by column and library. `spacing` is in millimetres."""
    from medpy.metric import binary
    from monai.metrics import compute_dice, compute_hausdorff_distance

    def monai(measure: Callable[..., Tensor], **options: Any) -> Callable[..., float]:
        return lambda *masks: float(measure(*(torch.from_numpy(mask)[None, None] for mask in masks), **options))

    percentile: dict[str, Any] = {"include_background": True, "percentile": 95}
    measures: dict[str, dict[Source, Callable[..., float]]] = {
        "dsc": {("dsc", MEDPY): binary.dc, ("dsc", MONAI): monai(compute_dice)},
        "hd95": {
            ("hd95", MONAI): monai(compute_hausdorff_distance, **percentile),
            ("hd95_mm", MONAI): monai(compute_hausdorff_distance, **percentile, spacing=spacing),
            ("hd95_medpy_mm", MEDPY): lambda *masks: binary.hd95(*masks, voxelspacing=spacing),
        },
        "assd": {("assd_mm", MEDPY): lambda *masks: binary.assd(*masks, voxelspacing=spacing)},
    }
    wanted = {source: measure for name, each in measures.items() if name in metrics for source, measure in each.items()}
    scores = {source: np.full(len(classes), np.nan) for source in wanted}
    counts = (label != IGNORED) | (len(classes) > IGNORED)
    for number, labels in enumerate(classes):
        masks = [np.isin(each, labels) & counts for each in (pred, label)]
        surfaces = _cut([mask | ~counts for mask in masks] if IGNORED in labels else masks)
        for source, measure in wanted.items():
            of_class = masks if source[0] == "dsc" else surfaces
            needed = of_class[1:] if source[0] == "dsc" else of_class
            if all(mask.any() for mask in needed) and (number or source[0] != "assd_mm"):
                scores[source][number] = measure(*of_class)
    return scores


def _cut(masks: Sequence[Array]) -> list[Array]:
    from scipy.ndimage import find_objects

    boxes = find_objects((masks[0] | masks[1]).astype(np.uint8))
    return [np.ascontiguousarray(mask[boxes[0]]) if boxes else mask for mask in masks]


def image_scores(clean: Array, adversarial: Array, metrics: Collection[str]) -> dict[Source, float]:
    """Compares volumes `[C, H, W, D]` in [0, 1] by `ssim`, `psnr`, `lpips` of libraries, without slices they cannot."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    scores: dict[Source, float] = {}
    require_same_shape(clean.shape, adversarial.shape)
    body = np.tile(np.moveaxis(body_mask(clean), -1, 0), (len(clean), 1, 1))  # [C * D, H, W], and so are the next two
    pair = [np.moveaxis(volume, -1, 1).reshape(body.shape) for volume in (clean, adversarial)]
    if "psnr" in metrics:
        with np.errstate(divide="ignore"):  # of equal volumes
            scores["psnr", SKIMAGE] = float(peak_signal_noise_ratio(255 * clean, 255 * adversarial, data_range=255))
    if "ssim" in metrics and min(body.shape[1:]) >= SSIM_WINDOW:
        slices = [structural_similarity(*(255 * each), data_range=255, full=True) for each in np.stack(pair, axis=1)]
        scores["ssim", SKIMAGE] = float(np.mean([mean for mean, _ in slices]))
        if body.any():
            scores["ssim_body", SKIMAGE] = float(np.stack([each for _, each in slices])[body].mean(dtype=np.float64))
    if LPIPS in metrics:
        distances, maps = _perceptual(*pair)
        scores["lpips_distance", LPIPS] = float(distances.mean())
        scores["lpips_similarity", LPIPS] = 1 - float(distances.mean())
        if body.any():
            scores["lpips_body", LPIPS] = float(maps[body].mean(dtype=np.float64))
    return scores


@torch.inference_mode()
def _perceptual(clean: Array, adversarial: Array) -> tuple[Array, Array]:
    """Returns the package's distance and its map of each slice, `[N]` and `[N, H, W]`, for slices `[N, H, W]`."""
    network = perceptual_network()
    spatial = copy.copy(network)
    spatial.spatial = True
    height, width = clean.shape[1:]
    short = [(0, max(SMALLEST_SLICE - size, 0)) for size in (height, width)]
    distances = []
    maps = []
    for pair in zip(clean, adversarial, strict=True):
        images = [torch.from_numpy(np.pad(each, short, mode="edge")).expand(1, 3, -1, -1) for each in pair]
        distances.append(float(network(*images, normalize=True)))
        maps.append(spatial(*images, normalize=True)[0, 0, :height, :width].numpy())
    return np.array(distances), np.stack(maps)


@cache
def perceptual_network() -> Any:
    """Returns the network of the package lpips on the CPU, its random trunk replaced by the real one; prints nothing.
    Raises LpipsUnavailable: the trunk's weights are not on this machine and cannot be fetched."""
    trunk = weights.trunk()
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of an argument that the package still passes
        import lpips

        network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    network.net.load_state_dict({key: trunk[f"features.{key.partition('.')[2]}"] for key in network.net.state_dict()})
    return network.eval().requires_grad_(False)


def show_comparison(comparison: Comparison, out: str, console: Console) -> bool:
    """Prints the largest difference of each column, and what is left out; True if all is compared and within bounds."""
    title = f"{out}: largest differences of {comparison.rows} of {comparison.saved} saved rows from other libraries"
    table = Table(title=title)
    for text in ("column", "reference", "rows", "differs by", "allowed"):
        table.add_column(text, no_wrap=True, justify="left" if text in ("column", "reference") else "right")
    table.add_column("verdict")
    ordered = sorted(comparison.agreements.items(), key=lambda item: item[0][0] != "records")
    for (kind, column, library), each in ordered:
        name = column if kind == "records" else f"class: {column}"
        verdict = f"{each.beyond} wrong, row {each.of_row[:DIGITS]}" if each.beyond else "ok"
        table.add_row(name, library, str(each.rows), f"{each.largest:.2g}", str(each.tolerance), verdict)
    console.print(table)
    used = sorted({library for _, _, library in comparison.agreements})
    lines = [f"{count} rows without their {text}" for text, count in comparison.left_out.items()]
    lines += [f"by {', '.join(f'{library} {version(library)}' for library in used)}"] if used else []
    console.print("\n".join(lines), soft_wrap=True)
    is_whole = bool(comparison.agreements) and not comparison.left_out
    return is_whole and not any(each.beyond for each in comparison.agreements.values())
