"""Prepares raw voxels as the papers' or nnU-Net's pipelines do, by MONAI, and maps perturbations back to the file."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from freqbench.core import types
from freqbench.core.errors import DataError
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess, file_codes, orient, parse_intensity, turned_affine
from freqbench.core.types import IGNORED, NO_LABEL, Beside, Box, Case, FileLabel, NativeCase, Shape, Spacing, triple
from freqbench.data import nnunet_resampling as nnunet
from freqbench.data.headers import check_size, spell
from freqbench.data.intensities import scale_warnings
from freqbench.ops.classes import Classes
from freqbench.pipelines import AnySpace, Pipeline

if TYPE_CHECKING:
    from torch import Tensor

    from freqbench.data.base import Dataset
    from freqbench.ops.file_grid import FileGrid

# Share of a class's volume that may be lost without a word: resampling moves the border of small structures, and a
# crop cuts a few at the edge of the field of view.
# cosines between axes; distance between corners
SQUARE = 1e-4
NEAR_MM = 0.01
MOST_LOST = 0.5
UNNAMED = Classes(names=())  # classes that go by their numbers


def prepare(native: NativeCase, space: AnySpace, clean: NativeCase | None = None, classes: Classes = UNNAMED) -> Case:
    """Prepares a case in a space: by a network's own pipeline, or by the method of `Preprocess`.

    `linear`: RAS, spacing (image trilinear, label nearest), `size`, intensity (its bounds from before `size`), crop to
    foreground, `pad_to`.

    `nnunet`: RAS, crop to the box of voxels that are not 0 in some channel, intensity by that box, spacing as in
    `nnunet_resampling`, `size`, `pad_to`; there is no crop to foreground.

    **Differs from nnU-Net**: axes become RAS, and the network's adapter turns them back; intensities are clipped to [0,
    1] before they are resampled (there: normalised, and clipped for CT only), as the adapter normalises.

    If `native` is an attacked volume, bounds and crop are computed on `clean`, the case that it was made from, so that
    the two differ by the perturbation alone; its `lost` and `off_scale` stay empty. `class_names` are for the lines in
    `lost`. Raises DataError if the scaling finds no contrast, or no foreground is left.
    """
    if isinstance(space, Pipeline):
        return _apply_pipeline(native, space, clean, classes)
    import torch
    from monai import transforms
    from monai.data import MetaTensor

    volumes = {"image": native.image, "label": native.label, **({"clean": clean.image} if clean else {})}
    keys = tuple(volumes)
    images = [key for key in keys if key != "label"]
    as_nnunet = space.is_nnunets
    case: dict[str, Any] = {
        key: MetaTensor(volume.contiguous(), affine=torch.from_numpy(native.affine)) for key, volume in volumes.items()
    }
    case = transforms.Orientationd(keys, axcodes="RAS", labels=None)(case)
    way = LabelWay(case["label"], counts=clean is None and not bool((native.label == NO_LABEL).all()))
    if as_nnunet:
        case = transforms.CropForegroundd(keys, source_key=images[-1], select_fn=lambda image: image != 0)(case)
        way.take("crop", case["label"])
    elif space.spacing is not None:
        affine = square_axes(case["image"].affine.numpy(), case["image"].shape[1:], space.spacing)
        for key in keys:
            case[key].affine = torch.from_numpy(affine)
        modes = ("bilinear", "nearest", "bilinear")[: len(keys)]
        case = transforms.Spacingd(keys, pixdim=space.spacing, mode=modes)(case)
        way.take("spacing", case["label"])
    scaling = parse_intensity(space.intensity)  # before `size`, as padding would distort the volume's percentiles
    ranges = tuple(scaling.range_of(channel) for channel in case[images[-1]].as_tensor())
    for low, high in ranges:
        if not low < high:
            raise DataError(
                f"{native.source}: expected contrast between the {scaling.kind} bounds {scaling.low:g} and "
                f"{scaling.high:g}, got the intensity {low:g} at both: widen `intensity` or use minmax"
            )
    said = [*(scale_warnings(native, space) if clean is None else ())]
    if space.size is not None and not as_nnunet:
        case = transforms.ResizeWithPadOrCropd(keys, space.size)(case)
        way.take("size", case["label"], pads=True)
    for key in images:
        case[key] = case[key].clone()  # it may still be the native case's own memory
        for index, (low, high) in enumerate(ranges):
            scale = transforms.ScaleIntensityRange(a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)
            case[key][index] = scale(case[key][index])
    if not bool((case[images[-1]] > 0).any()):
        raise DataError(f"{native.source}: expected intensities above {ranges[0][0]:g}, got none: widen `intensity`")
    if not as_nnunet and space.crop_foreground:
        case = transforms.CropForegroundd(keys, source_key=images[-1])(case)
        way.take("crop", case["label"])
    keys = ("image", "label")
    if as_nnunet:
        case = {key: _resample(case[key], space, key) for key in keys}
        if space.spacing is not None:
            way.take("spacing", case["label"])
        if space.size is not None:
            case = transforms.ResizeWithPadOrCropd(keys, space.size)(case)
            way.take("size", case["label"], pads=True)
    if space.pad_to is not None:
        case = transforms.SpatialPadd(keys, space.pad_to)(case)
    image = case["image"]
    source = Path(native.source).name
    kept = "voxels that are not 0" if as_nnunet else "intensities above the lower bound"
    losses = {  # of labelled voxels, by step
        "crop": f"lie outside the crop to {kept}",
        "spacing": f"vanish at the spacing {spell(space.spacing or ())} mm",
        "size": f"lie outside the size {spell(space.size or ())}",
    }
    return Case(
        ref=native.ref,
        image=image.as_tensor().to(torch.float32).contiguous(),
        label=case["label"].as_tensor().to(torch.uint8).contiguous(),
        spacing=triple(map(float, image.pixdim)),
        affine=image.affine.numpy().astype(np.float64),
        native_ranges=ranges,
        original_spacing=native.spacing,
        inner=way.inner(image),
        lost=tuple(way.lost_classes(losses, classes)),
        off_scale=tuple(f"{source}: {line}" for line in said),
    )


def _apply_pipeline(native: NativeCase, pipeline: Pipeline, clean: NativeCase | None, classes: Classes) -> Case:
    """Prepares a case by a network's pipeline: of its p with bounds l, h, x = (clip(p, l, h) - l) / (h - l)."""
    import torch
    from monai.data import MetaTensor

    made = pipeline.prepare(clean or native)
    if clean is not None:
        made = replace(made, data=pipeline.again(native, made))
    file = file_codes(native.affine)
    shape = made.data.shape[1:]
    data, label = (orient(volume, made.codes, "RAS").contiguous() for volume in (made.data, made.label))
    fixed = None if made.fixed is None else orient(made.fixed, made.codes, "RAS").contiguous()
    affine = turned_affine(made.affine, shape, made.codes, "RAS")
    low, high = torch.tensor(made.bounds).T.reshape(2, -1, 1, 1, 1)
    cut = data.clamp(low, high)
    rest = data - cut if fixed is None else torch.where(fixed, data, data - cut)
    own = turned_affine(native.affine, native.label.shape[1:], file, "RAS")
    counts = clean is None and not bool((native.label == NO_LABEL).all())
    way = LabelWay(MetaTensor(orient(native.label, file, "RAS"), affine=own), counts)
    way.take("pipeline", MetaTensor(label, affine=affine))
    ends = zip(made.lines, made.bounds, strict=True)
    return Case(
        ref=native.ref,
        image=(cut - low) / (high - low),
        label=label,
        spacing=triple(np.linalg.norm(affine[:3, :3], axis=0).tolist()),
        affine=affine,
        native_ranges=tuple((line.raw(at), line.raw(to)) if line else (math.nan, math.nan) for line, (at, to) in ends),
        original_spacing=native.spacing,
        inner=way.inner(MetaTensor(label, affine=affine)),
        lost=tuple(way.lost_classes({}, classes)),
        prepared=Beside(bounds=made.bounds, rest=rest if bool(rest.any()) else None, fixed=fixed, facts=made.facts),
    )


class LabelWay:
    """A label map's way through `prepare`: volumes by class, and the grids; without `counts` the grids alone."""

    def __init__(self, label: Any, counts: bool) -> None:
        self._counts = counts
        self._voxels = np.zeros(0, np.int64)  # of the file, by class
        self._volumes: dict[str, npt.NDArray[np.float64]] = {}  # mm3 by class, after each step
        self._grids: list[tuple[npt.NDArray[np.float64], Sequence[int]]] = []
        self.take("file", label)

    def take(self, step: str, label: Any, pads: bool = False) -> None:
        """Takes the label map after a step: `crop`, `spacing` or `size`, which `pads` as well."""
        affine = label.affine.numpy()
        if step == "spacing":
            self._grids.clear()  # this grid is all that it leaves of them
        if not pads:
            self._grids.append((affine, label.shape[1:]))
        if self._counts:
            counts = label.as_tensor().byte().flatten().bincount(minlength=NO_LABEL + 1).numpy()
            self._voxels = counts if step == "file" else self._voxels
            self._volumes[step] = counts * abs(float(np.linalg.det(affine[:3, :3])))

    def inner(self, image: Any) -> Box:
        """Returns `Case.inner` of the last grid, that of a MetaTensor `[C, H, W, D]`."""
        to_last = np.linalg.inv(image.affine.numpy())
        low, high = np.zeros(3, int), np.array(image.shape[1:])
        for affine, shape in self._grids:
            first = np.rint((to_last @ affine)[:3, 3]).astype(int)
            low, high = np.maximum(low, first), np.minimum(high, first + np.array(shape))
        return triple(zip(low.tolist(), high.tolist(), strict=True))

    def lost_classes(self, words: Mapping[str, str], classes: Classes) -> Iterator[str]:
        """Yields a line per class that lost more than MOST_LOST of its volume, with the worst step by `words`."""
        if not self._counts:
            return
        steps = list(self._volumes)
        volumes = np.stack(list(self._volumes.values()))
        if classes.overlap:  # sums of the codes that hold a region
            codes = np.arange(IGNORED)
            holds = np.stack([codes == 0, *((codes >> bit) & 1 == 1 for bit in range(len(classes) - 1))])
            self._voxels = holds @ self._voxels[:IGNORED]
            volumes = volumes[:, :IGNORED] @ holds.T
        for index in np.flatnonzero(volumes[-1] < (1 - MOST_LOST) * volumes[0]).tolist():
            if 0 < index < NO_LABEL:
                step = steps[1 + int(np.diff(volumes[:, index]).argmin())]
                lost = round(self._voxels[index] * (1 - volumes[-1, index] / volumes[0, index]))
                name = classes.names[index] if index < len(classes) else f"class {index}"
                where = words.get(step, "are gone after the network's own pipeline")
                yield f"{types.LOST}{lost} of {self._voxels[index]} voxels of `{name}` {where}"


def _resample(volume: Any, preprocess: Preprocess, key: str) -> Any:
    import torch
    from monai.data import MetaTensor

    if preprocess.spacing is None:
        return volume
    affine = volume.affine.numpy()
    old = volume.shape[1:]
    spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    shape = nnunet.resampled_shape(old, spacing, preprocess.spacing)
    resample = nnunet.resample_label if key == "label" else nnunet.resample_image
    voxels = resample(volume.as_tensor(), shape, nnunet.coarse_axis(spacing, preprocess.spacing))
    return MetaTensor(voxels, affine=torch.from_numpy(nnunet.resampled_affine(affine, old, shape)))


def square_axes(affine: npt.NDArray[np.float64], shape: Sequence[int], sides: Spacing) -> npt.NDArray[np.float64]:
    """Returns the affine from which a grid of other sides begins at the volume's corner. MONAI's `Spacing` needs axes
    at right angles to the last digit, which NIfTI's float32 loses: those that are to SQUARE are made so."""
    from monai.data.utils import compute_shape_offset, zoom_affine

    def corner(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(compute_shape_offset(shape, affine, zoom_affine(affine, sides, diagonal=False))[1])

    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > SQUARE:
        return affine
    left, _, right = np.linalg.svd(axes)  # their product is the nearest rotation (Schonemann, Psychometrika 1966)
    nearest = affine.copy()
    nearest[:3, :3] = left @ right * lengths
    return nearest if np.abs(corner(nearest) - corner(affine)).max() > NEAR_MM else affine


def prepared_shape(shape: Shape, spacing: Spacing, space: AnySpace, codes: str = "RAS") -> Shape:
    """Returns the shape that `prepare` makes of a grid along RAS axes before a crop; `codes` are those of the file."""
    if isinstance(space, Pipeline):
        return space.shape_of(shape, spacing, codes)
    sizes: Sequence[int] = shape
    if space.size is not None:
        sizes = space.size
    elif space.spacing is not None and space.is_nnunets:
        sizes = nnunet.resampled_shape(shape, spacing, space.spacing)
    elif space.spacing is not None:
        sizes = [int(np.round((n - 1) * mm / to + 1)) for n, mm, to in zip(shape, spacing, space.spacing, strict=True)]
    return triple(max(size, least) for size, least in zip(sizes, space.pad_to or (1, 1, 1), strict=True))


def check_room(
    source: Path | str, grid: tuple[Shape, Spacing], space: AnySpace, num_channels: int = 1, codes: str = "RAS"
) -> None:
    """Refuses, before anything is read, a space in which a volume of this grid fits no memory or is one voxel."""
    sides = spell(grid[1])
    channels = (num_channels,) if num_channels > 1 else ()
    spaces: list[AnySpace] = [space]
    if isinstance(space, Preprocess):
        resampled = prepared_shape(*grid, space.model_copy(update={"size": None, "pad_to": None}))
        if space.spacing and max(grid[0]) > 1 >= max(resampled):
            got = f"got {spell(space.spacing)} mm: its voxels are {sides} mm now"
            raise DataError(f"{source}: expected a `spacing` that leaves more than one voxel, {got}")
        spaces.insert(0, space.model_copy(update={"size": None}))
    for each in spaces:
        shape = (*channels, *prepared_shape(*grid, each, codes))
        check_size(source, shape, f"a resampled volume (its voxels are {sides} mm now)")


def way_to_file(
    file: FileLabel, case: Case, space: AnySpace, labels_alone: bool = False
) -> "FileGrid | Callable[..., tuple[Tensor, Tensor | None]]":
    """Returns the way of predictions back to a case's file: the pipeline's own, else `file_grid`."""
    if isinstance(space, Pipeline) and case.prepared is not None:
        return partial(space.restore, case.prepared.facts)
    if isinstance(space, Pipeline):
        raise TypeError(f"expected a case of {space.toolchain}'s pipeline, got one that it did not prepare")
    return file_grid(file, case, space, labels_alone)


def file_grid(file: FileLabel, case: Case, space: Preprocess, labels_alone: bool = False) -> "FileGrid":
    """Returns the grid of a case's file, for predictions on the grid of the case that `space` made; scores are linear,
    by nnU-Net in planes, `labels_alone` nearest. Raises DataError if the file's axes are sheared."""
    from freqbench.ops.file_grid import FileGrid

    to_grid = np.linalg.inv(case.affine) @ file.affine
    nearest = [labels_alone] * 3
    if space.is_nnunets and space.spacing is not None:
        order = np.abs(to_grid[:3, :3]).argmax(axis=1)
        coarse = nnunet.coarse_axis(case.spacing, [file.spacing[axis] for axis in order])
        nearest = [labels_alone or axis == coarse for axis in range(3)]
    whole = triple((0, size) for size in case.image.shape[1:])
    try:
        return FileGrid.of(triple(file.label.shape[1:]), to_grid, case.inner or whole, nearest)
    except ValueError as error:
        raise DataError(f"{case.ref.case_id}: {error}: score it with {types.ScoredOn.GRID.key}") from None


Volume = npt.NDArray[np.float32]

# Share of the range. Smaller changes are rounding of the affines, which leaks the border by a voxel and would lift air
# to `low`.
LEAST = 1e-5


def attacked_native(native: NativeCase, case: Case, adversarial: "Tensor", space: AnySpace) -> NativeCase:
    """Returns the file's volume with the perturbation carried back to its grid and unit. `adversarial` is `[C, H, W,
    D]` on the grid of `case`, in [0, 1]. The perturbation `(adversarial - case.image) * (high - low)` of each channel
    is interpolated trilinearly at the native voxels, 0 outside the case's grid, and added. If a native intensity was
    clipped, the perturbation is added to the bound, so that `prepare` finds it again. A voxel stays as it is if its
    perturbation is 0, leads further out, or leads in by less than LEAST of the range. `prepare(result, preprocess,
    clean=native)` brings the result into any space. A pipeline that does not clip keeps what lies beyond its bounds:
    there the perturbation is added to the intensity itself. The `voxels_to_keep` of the pipeline `space` stay; where it
    names none, zeros beside voxels that it fixes, as another intensity there would grow the mask that it takes from
    them. Raises DataError for a pipeline whose way from the file's unit is not affine."""
    import torch
    from scipy.ndimage import affine_transform

    if adversarial.shape != case.image.shape:
        raise ValueError(f"expected the case's shape {tuple(case.image.shape)}, got {tuple(adversarial.shape)}")
    to_case = np.linalg.inv(case.affine) @ native.affine
    attacked = native.image.to(torch.float32, copy=True)
    pipeline = space if isinstance(space, Pipeline) else None
    beside = case.prepared
    places = (beside.facts if beside else {}).get("channels", range(len(attacked)))  # that a pipeline joined
    kept = pipeline.voxels_to_keep(native, beside.facts) if pipeline and beside else None
    for channel, (low, high) in enumerate(case.native_ranges):
        place = places[channel]
        if math.isnan(low):
            raise DataError(
                f"{case.ref.case_id}: expected intensities in channel {channel} that the network's pipeline maps by a "
                "line, so that a change leads back to the file, got another map: leave out targets of other spaces, "
                "save_adversarial and export"
            )
        width = high - low
        if pipeline and beside and not _clips(pipeline, beside, channel):
            low, high = min(low, float(native.image[place].min())), max(high, float(native.image[place].max()))
        delta = (adversarial[channel] - case.image[channel]).mul_(width).numpy()
        clean = native.image[place].numpy()
        moved = _perturb(clean, delta, to_case, low, high)
        if kept is None and beside and beside.fixed is not None:
            # The share of fixed voxels around: where there is one, another intensity would grow the mask.
            fixed = beside.fixed[channel].numpy().astype(np.float32)
            at = (to_case[:3, :3], to_case[:3, 3])
            share: Volume = affine_transform(fixed, *at, clean.shape, np.float32, order=1, mode="nearest")
            np.copyto(moved, clean, where=(clean == 0) & (share > 0))
        elif kept is not None:
            np.copyto(moved, clean, where=kept)
        attacked[place] = torch.from_numpy(moved)
    return replace(native, image=attacked)


def _clips(pipeline: Pipeline, prepared: Beside, channel: int) -> bool:
    """True if a pipeline clips a channel; where it does not say, if none of its movable voxels lies beyond bounds."""
    if (known := pipeline.clips(channel)) is not None:
        return known
    if prepared.rest is None:
        return True
    rest = prepared.rest[channel]
    return not bool((rest if prepared.fixed is None else rest[~prepared.fixed[channel]]).any())


def resampling_error(native: NativeCase, attacked: NativeCase, adversarial: "Tensor", space: AnySpace) -> float:
    """Returns the root mean square, in [0, 1], between the attacked volume and the same prepared again from the
    file."""
    return float((prepare(attacked, space, clean=native).image - adversarial).square_().double().mean().sqrt())


def _perturb(image: Volume, delta: Volume, to_delta: npt.NDArray[np.float64], low: float, high: float) -> Volume:
    """Returns one channel `[H, W, D]` with the perturbation; `to_delta` maps its voxels to the perturbation's grid."""
    from scipy.ndimage import affine_transform

    change: Volume = affine_transform(
        delta, to_delta[:3, :3], to_delta[:3, 3], image.shape, np.float32, order=1, mode="grid-constant"
    )
    moved = np.clip(image, np.float32(low), np.float32(high))
    moved += change
    least = LEAST * (high - low)
    stays = (change == 0) | ((image > high) & (change > -least)) | ((image < low) & (change < least))
    np.copyto(moved, image, where=stays)
    return moved


class Spaces:
    """An attacked volume in its own space (None: the dataset's) and in others, by way of the file's grid and unit."""

    def __init__(self, dataset: "Dataset", case: Case, adversarial: "Tensor", own: AnySpace | None) -> None:
        self._dataset = dataset
        self._case = case
        self._adversarial = adversarial
        self._own = own or dataset.space
        self._others = dict[str, "Tensor"]()

    @cached_property
    def _file_volumes(self) -> tuple[NativeCase, NativeCase, float]:
        """The file's volume, the attacked one, and the resampling error."""
        clean = self._dataset.native(self._case.ref)
        attacked = attacked_native(clean, self._case, self._adversarial, self._own)
        return clean, attacked, resampling_error(clean, attacked, self._adversarial, self._own)

    def volume(self, space: AnySpace | None) -> tuple["Tensor", float | None]:
        """Returns the volume in a target's space, and the resampling error: None if the two spaces are one."""
        space = space or self._dataset.space
        if space.identity() == self._own.identity():  # however each is written
            return self._adversarial, None
        clean, attacked, error = self._file_volumes
        if (key := digest(space.identity())) not in self._others:
            self._others[key] = prepare(attacked, space, clean=clean).image
        return self._others[key], error

    @property
    def file_error(self) -> float | None:
        """The resampling error of a pipeline with another grid than the file; None: of no such one, or of no line."""
        case = self._case
        is_line = not any(math.isnan(low) for low, _ in self._case.native_ranges)
        is_same = np.allclose(sorted(case.spacing), sorted(case.original_spacing), rtol=1e-3)
        return None if not isinstance(self._own, Pipeline) or is_same or not is_line else self._file_volumes[2]
