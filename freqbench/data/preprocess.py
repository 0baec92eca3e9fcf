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
from freqbench.data.headers import check_size, spacing_of, spell
from freqbench.data.intensities import scale_warnings
from freqbench.ops.classes import Classes
from freqbench.pipelines import AnySpace, Pipeline
from freqbench.pipelines.pipeline import Line

if TYPE_CHECKING:
    from torch import Tensor

    from freqbench.data.base import Dataset
    from freqbench.ops.file_grid import FileGrid

SQUARE = 1e-4  # cosine between two axes that are at right angles
NEAR_MM = 0.01  # distance between two corners that are one
# Share of a class's volume that may be lost without a word: resampling moves the border of small structures, and a
# crop cuts a few at the edge of the field of view.
MOST_LOST = 0.5
UNNAMED = Classes(names=())  # classes that go by their numbers
# Share of the range. Smaller changes are rounding of the affines, which leaks the border by a voxel and would lift air
# to `low`.
LEAST = 1e-5
Volume = npt.NDArray[np.float32]
Volumes = dict[str, Any]  # MetaTensors [C, H, W, D]: `image`, `label` and, behind an attacked image, `clean`


def prepare(native: NativeCase, space: AnySpace, clean: NativeCase | None = None, classes: Classes = UNNAMED) -> Case:
    """Prepares a case in a space: by a network's own pipeline, or by the method of `Preprocess`.

    `linear`: RAS, spacing (image trilinear, label nearest), `size`, intensity (its bounds from before `size`), crop to
    foreground, `pad_to`.

    `nnunet`: RAS, crop to the box of voxels that are not 0 in some channel, intensity by that box, spacing as in
    `nnunet_resampling`, `size`, `pad_to`; there is no crop to foreground.

    **Differs from nnU-Net**: axes become RAS, and the network's adapter turns them back; intensities are clipped to [0,
    1] before they are resampled (there: normalised, and clipped for CT only), as the adapter normalises.

    Args:
        native: the volume and label map of the file, on its grid and in its unit.
        space: the grid and the intensities to bring them to.
        clean: the case that an attacked volume `native` was made from. Bounds and crop are computed on it, so that the
            two differ by the perturbation alone; `lost` and `off_scale` stay empty.
        classes: the dataset's classes, whose names stand in the lines of `lost`.

    Raises:
        DataError: the scaling finds no contrast, or no foreground is left.
    """
    if isinstance(space, Pipeline):
        return _apply_pipeline(native, space, clean, classes)
    guide = "image" if clean is None else "clean"  # bounds and crop are those of this volume
    volumes = _ras_volumes(native, clean)
    way = LabelWay(volumes["label"], _counts(native, clean))
    if space.is_nnunets:
        volumes = _cropped(volumes, guide, lambda image: image != 0, way)
    elif space.spacing is not None:
        volumes = _respaced(volumes, space.spacing, way)
    ranges = _ranges(volumes[guide], space, native.source)  # before `size`: padding would distort the percentiles
    if not space.is_nnunets:
        volumes = _sized(volumes, space.size, way)
    volumes = _scaled(volumes, ranges)
    if not bool((volumes[guide] > 0).any()):
        raise DataError(f"{native.source}: expected intensities above {ranges[0][0]:g}, got none: widen `intensity`")
    if space.is_nnunets:
        volumes = _sized(_resampled(volumes, space, way), space.size, way)
    elif space.crop_foreground:
        volumes = _cropped(volumes, guide, lambda image: image > 0, way)
    image, label = _padded(volumes, space.pad_to)
    inner = way.inner(image)
    lost = tuple(way.lost_classes(_losses(space), classes))
    source = Path(native.source).name
    warnings = scale_warnings(native, space) if clean is None else ()
    off_scale = tuple(f"{source}: {line}" for line in warnings)
    spacing = triple(map(float, image.pixdim))
    affine = image.affine.numpy().astype(np.float64)
    scaled = image.as_tensor().float().contiguous()
    codes = label.as_tensor().byte().contiguous()
    return Case(
        ref=native.ref,
        image=scaled,
        label=codes,
        spacing=spacing,
        affine=affine,
        native_ranges=ranges,
        original_spacing=native.spacing,
        inner=inner,
        lost=lost,
        off_scale=off_scale,
    )


def _counts(native: NativeCase, clean: NativeCase | None) -> bool:
    """True if the labels that a case loses are counted: it is not attacked, and has some."""
    return clean is None and not bool((native.label == NO_LABEL).all())


def _ras_volumes(native: NativeCase, clean: NativeCase | None) -> Volumes:
    """Returns `image`, `label` and that of the `clean` case, if there is one, along RAS axes."""
    import torch
    from monai import transforms
    from monai.data import MetaTensor

    tensors = {"image": native.image, "label": native.label}
    if clean is not None:
        tensors["clean"] = clean.image
    affine = torch.from_numpy(native.affine)
    volumes = {key: MetaTensor(tensor.contiguous(), affine=affine) for key, tensor in tensors.items()}
    return transforms.Orientationd(tuple(volumes), axcodes="RAS", labels=None)(volumes)


def _cropped(volumes: Volumes, guide: str, is_kept: Callable[[Any], Any], way: "LabelWay") -> Volumes:
    """Returns volumes cropped to the box of the guide's voxels that are kept."""
    from monai import transforms

    keys = tuple(volumes)
    crop = transforms.CropForegroundd(keys, guide, is_kept, start_coord_key=None, end_coord_key=None)
    volumes = crop(volumes)
    way.take("crop", volumes["label"])
    return volumes


def _respaced(volumes: Volumes, spacing: Spacing, way: "LabelWay") -> Volumes:
    """Returns volumes at a spacing in mm: images trilinear, the label map by the nearest voxel."""
    import torch
    from monai import transforms

    image = volumes["image"]
    affine = torch.from_numpy(square_axes(image.affine.numpy(), image.shape[1:], spacing))
    for volume in volumes.values():
        volume.affine = affine
    modes = ["nearest" if key == "label" else "bilinear" for key in volumes]
    volumes = transforms.Spacingd(tuple(volumes), spacing, mode=modes)(volumes)
    way.take("spacing", volumes["label"])
    return volumes


def _ranges(image: Any, space: Preprocess, source: str) -> tuple[tuple[float, float], ...]:
    """Returns each channel's bounds, in the file's unit, that become 0 and 1; refuses bounds without contrast."""
    scaling = parse_intensity(space.intensity)
    ranges = tuple(scaling.range_of(channel) for channel in image.as_tensor())
    for low, high in ranges:
        if not low < high:
            raise DataError(
                f"{source}: expected contrast between the {scaling.kind} bounds {scaling.low:g} and "
                f"{scaling.high:g}, got the intensity {low:g} at both: widen `intensity` or use minmax"
            )
    return ranges


def _sized(volumes: Volumes, size: Shape | None, way: "LabelWay") -> Volumes:
    """Returns volumes padded or cropped about their middle to a size in voxels; None leaves them."""
    from monai import transforms

    if size is not None:
        volumes = transforms.ResizeWithPadOrCropd(tuple(volumes), size)(volumes)
        way.take("size", volumes["label"], pads=True)
    return volumes


def _scaled(volumes: Volumes, ranges: Sequence[tuple[float, float]]) -> Volumes:
    """Returns volumes whose images are scaled to [0, 1] and clipped, each channel by its bounds."""
    from monai import transforms

    scaled = dict(volumes)
    for key in volumes.keys() - {"label"}:
        image = volumes[key].clone()  # it may still be the native case's own memory
        for index, (low, high) in enumerate(ranges):
            scale = transforms.ScaleIntensityRange(a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)
            image[index] = scale(image[index])
        scaled[key] = image
    return scaled


def _padded(volumes: Volumes, pad_to: Shape | None) -> tuple[Any, Any]:
    """Returns image and label map of at least so many voxels a side."""
    from monai import transforms

    keys = ("image", "label")
    if pad_to is not None:
        volumes = transforms.SpatialPadd(keys, pad_to)(volumes)
    image, label = (volumes[key] for key in keys)
    return image, label


def _losses(space: Preprocess) -> dict[str, str]:
    """Returns by step the words on labelled voxels that it loses."""
    kept = "voxels that are not 0" if space.is_nnunets else "intensities above the lower bound"
    return {
        "crop": f"lie outside the crop to {kept}",
        "spacing": f"vanish at the spacing {spell(space.spacing or ())} mm",
        "size": f"lie outside the size {spell(space.size or ())}",
    }


def _apply_pipeline(native: NativeCase, pipeline: Pipeline, clean: NativeCase | None, classes: Classes) -> Case:
    """Prepares a case by a network's pipeline: of its p with bounds l, h, x = (clip(p, l, h) - l) / (h - l)."""
    import torch
    from monai.data import MetaTensor

    made = pipeline.prepare(clean or native)
    if clean is not None:
        made = replace(made, data=pipeline.again(native, made))
    codes = made.codes
    bounds = made.bounds
    data, label = (orient(volume, codes, "RAS").contiguous() for volume in (made.data, made.label))
    fixed = None if made.fixed is None else orient(made.fixed, codes, "RAS").contiguous()
    affine = turned_affine(made.affine, made.data.shape[1:], codes, "RAS")
    low, high = torch.tensor(bounds).T.reshape(2, -1, 1, 1, 1)
    cut = data.clamp(low, high)
    rest = data - cut if fixed is None else torch.where(fixed, data, data - cut)
    beside = Beside(bounds=bounds, rest=rest if bool(rest.any()) else None, fixed=fixed, facts=made.facts)
    on_grid = MetaTensor(label, affine=affine)
    way = LabelWay(_ras_label(native), _counts(native, clean))
    way.take("pipeline", on_grid)
    inner = way.inner(on_grid)
    lost = tuple(way.lost_classes({}, classes))
    image = (cut - low) / (high - low)
    spacing = spacing_of(affine)
    ranges = tuple(map(_native_range, made.lines, bounds))
    return Case(
        ref=native.ref,
        image=image,
        label=label,
        spacing=spacing,
        affine=affine,
        native_ranges=ranges,
        original_spacing=native.spacing,
        inner=inner,
        lost=lost,
        prepared=beside,
    )


def _ras_label(native: NativeCase) -> Any:
    """Returns the label map of a file along RAS axes, a MetaTensor."""
    from monai.data import MetaTensor

    codes = file_codes(native.affine)
    affine = turned_affine(native.affine, native.label.shape[1:], codes, "RAS")
    return MetaTensor(orient(native.label, codes, "RAS"), affine=affine)


def _native_range(line: Line | None, bounds: tuple[float, float]) -> tuple[float, float]:
    """Returns the bounds of a channel in the file's unit; NaN where no line leads back to it."""
    if line is None:
        return math.nan, math.nan
    low, high = bounds
    return line.raw(low), line.raw(high)


class LabelWay:
    """A label map's way through `prepare`: volumes by class, and the grids; without `counts` the grids alone."""

    def __init__(self, label: Any, counts: bool) -> None:
        self._counts = counts
        self._voxels = np.zeros(0, np.int64)  # of the file, by class
        self._volumes: dict[str, npt.NDArray[np.float64]] = {}  # mm3 by class, after each step
        self._grids: list[tuple[npt.NDArray[np.float64], Sequence[int]]] = []
        self.take("file", label)

    def take(self, step: str, label: Any, pads: bool = False) -> None:
        """Takes the label map after a step.

        Args:
            step: `file`, `crop`, `spacing`, `size` or `pipeline`.
            label: MetaTensor `[1, H, W, D]`.
            pads: true if the step may add voxels around the file's, so that its grid does not bound them.
        """
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
        """Returns `Case.inner` of the last grid, that of the MetaTensor `image` `[C, H, W, D]`."""
        to_last = np.linalg.inv(image.affine.numpy())
        low = np.zeros(3, int)
        high = np.array(image.shape[1:])
        for affine, shape in self._grids:
            first = np.rint((to_last @ affine)[:3, 3]).astype(int)
            low = np.maximum(low, first)
            high = np.minimum(high, first + np.array(shape))
        return triple(zip(low.tolist(), high.tolist(), strict=True))

    def lost_classes(self, words: Mapping[str, str], classes: Classes) -> Iterator[str]:
        """Yields a line per class that lost more than MOST_LOST of its volume, by the step that took the most.

        Args:
            words: by step, the end of a line on the voxels that it took.
            classes: the dataset's classes, by which a line calls its own.
        """
        if not self._counts:
            return
        steps = list(self._volumes)
        volumes = np.stack(list(self._volumes.values()))
        if classes.overlap:  # sums of the codes that hold a region
            codes = np.arange(IGNORED)
            holds = np.stack([codes == 0, *((codes >> bit) & 1 == 1 for bit in range(len(classes) - 1))])
            self._voxels = holds @ self._voxels[:IGNORED]
            volumes = volumes[:, :IGNORED] @ holds.T
        before = volumes[0]
        after = volumes[-1]
        for index in np.flatnonzero(after < (1 - MOST_LOST) * before).tolist():
            if 0 < index < NO_LABEL:
                step = steps[1 + int(np.diff(volumes[:, index]).argmin())]
                voxels = self._voxels[index]
                lost = round(voxels * (1 - after[index] / before[index]))
                name = classes.names[index] if index < len(classes) else f"class {index}"
                where = words.get(step, "are gone after the network's own pipeline")
                yield f"{types.LOST}{lost} of {voxels} voxels of `{name}` {where}"


def _resampled(volumes: Volumes, space: Preprocess, way: LabelWay) -> Volumes:
    """Returns image and label map at a spacing, as nnU-Net resamples them."""
    import torch
    from monai.data import MetaTensor

    resampled = {}
    for key, resample in (("image", nnunet.resample_image), ("label", nnunet.resample_label)):
        resampled[key] = volumes[key]
        if space.spacing is not None:
            affine = volumes[key].affine.numpy()
            old = volumes[key].shape[1:]
            spacing = spacing_of(affine)
            shape = nnunet.resampled_shape(old, spacing, space.spacing)
            voxels = resample(volumes[key].as_tensor(), shape, nnunet.coarse_axis(spacing, space.spacing))
            of_shape = torch.from_numpy(nnunet.resampled_affine(affine, old, shape))
            resampled[key] = MetaTensor(voxels, affine=of_shape)
    if space.spacing is not None:
        way.take("spacing", resampled["label"])
    return resampled


def square_axes(affine: npt.NDArray[np.float64], shape: Sequence[int], sides: Spacing) -> npt.NDArray[np.float64]:
    """Returns the affine from which a grid of other sides begins at the volume's corner.

    MONAI's `Spacing` needs axes at right angles to the last digit, which NIfTI's float32 loses: those that are to
    SQUARE are made so.

    Args:
        affine: of the volume, `[4, 4]`.
        shape: of the volume, in voxels.
        sides: of the other grid's voxels, in mm.
    """
    from monai.data.utils import compute_shape_offset, zoom_affine

    def corner(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the first corner, in mm, of the grid of other sides that an affine leads to."""
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
    """Returns the shape that `prepare` makes of a grid along RAS axes before a crop.

    Args:
        shape: of the grid, in voxels.
        spacing: of the grid, in mm.
        space: the space that `prepare` is given.
        codes: the file's axes, such as `LPS`, which a pipeline may heed.
    """
    if isinstance(space, Pipeline):
        return space.shape_of(shape, spacing, codes)
    sizes: Sequence[int] = shape
    if space.size is not None:
        sizes = space.size
    elif space.spacing is not None and space.is_nnunets:
        sizes = nnunet.resampled_shape(shape, spacing, space.spacing)
    elif space.spacing is not None:
        sizes = [int(np.round((n - 1) * mm / to + 1)) for n, mm, to in zip(shape, spacing, space.spacing, strict=True)]
    return triple(map(max, sizes, space.pad_to or (1, 1, 1)))


def check_room(source: Path | str, grid: tuple[Shape, Spacing], space: AnySpace, num_channels: int, codes: str) -> None:
    """Refuses, before anything is read, a space in which a volume of this grid fits no memory or is one voxel.

    Args:
        source: begins the error.
        grid: the volume's shape, in voxels, and spacing, in mm.
        space: the space that `prepare` is given.
        num_channels: of the volume.
        codes: the file's axes, such as `LPS`.
    """
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
    """Returns the way of predictions back to a case's file: the pipeline's own, else `file_grid`.

    Args:
        file: the label map of the file, with its grid.
        case: the case that `space` made of it.
        space: of the predictions.
        labels_alone: true if predictions are labels without scores, which the nearest voxel gives.
    """
    if isinstance(space, Pipeline) and case.prepared is not None:
        return partial(space.restore, case.prepared.facts)
    if isinstance(space, Pipeline):
        raise TypeError(f"expected a case of {space.toolchain}'s pipeline, got one that it did not prepare")
    return file_grid(file, case, space, labels_alone)


def file_grid(file: FileLabel, case: Case, space: Preprocess, labels_alone: bool) -> "FileGrid":
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


def attacked_native(native: NativeCase, case: Case, adversarial: "Tensor", space: AnySpace) -> NativeCase:
    """Returns the file's volume with the perturbation carried back to its grid and unit.

    The perturbation `(adversarial - case.image) * (high - low)` of each channel is interpolated trilinearly at the
    native voxels, 0 outside the case's grid, and added. If a native intensity was clipped, the perturbation is added to
    the bound, so that `prepare` finds it again. A voxel stays as it is if its perturbation is 0, leads further out, or
    leads in by less than LEAST of the range. `prepare(result, preprocess, clean=native)` brings the result into any
    space. A pipeline that does not clip keeps what lies beyond its bounds: there the perturbation is added to the
    intensity itself. The `voxels_to_keep` of a pipeline stay; where it names none, zeros beside voxels that it fixes.

    Args:
        native: the clean volume of the file.
        case: the same prepared in `space`.
        adversarial: the attacked volume `[C, H, W, D]` on the grid of `case`, in [0, 1].
        space: the space of `case`.

    Raises:
        DataError: a pipeline's way from the file's unit is not affine.
    """
    import torch

    if adversarial.shape != case.image.shape:
        raise ValueError(f"expected the case's shape {tuple(case.image.shape)}, got {tuple(adversarial.shape)}")
    to_case = np.linalg.inv(case.affine) @ native.affine
    attacked = native.image.to(torch.float32, copy=True)
    pipeline = space if isinstance(space, Pipeline) else None
    beside = case.prepared
    places = (beside.facts if beside else {}).get("channels", range(len(attacked)))  # that a pipeline joined
    kept = pipeline.voxels_to_keep(native, beside.facts) if pipeline and beside else None
    for channel, (low, high) in enumerate(case.native_ranges):
        if math.isnan(low):
            raise DataError(
                f"{case.ref.case_id}: expected intensities in channel {channel} that the network's pipeline maps by a "
                "line, so that a change leads back to the file, got another map: leave out targets of other spaces, "
                "save_adversarial and export"
            )
        place = places[channel]
        clean = native.image[place].numpy()
        delta = (adversarial[channel] - case.image[channel]).mul_(high - low).numpy()
        if pipeline and beside and not _clips(pipeline, beside, channel):
            low = min(low, float(clean.min()))
            high = max(high, float(clean.max()))
        moved = _perturb(clean, delta, to_case, low, high)
        stays = kept
        if kept is None and beside and beside.fixed is not None:
            stays = (clean == 0) & _is_near(beside.fixed[channel], to_case, clean.shape)
        if stays is not None:
            np.copyto(moved, clean, where=stays)
        attacked[place] = torch.from_numpy(moved)
    return replace(native, image=attacked)


def _is_near(fixed: "Tensor", to_case: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Returns the file's voxels `[H, W, D]` beside one that a pipeline fixes, where another intensity than 0 would grow
    the mask that it takes from the zeros."""
    share = _interpolated(fixed.numpy().astype(np.float32), to_case, shape, "nearest")
    return share > 0


def _interpolated(volume: Volume, to_volume: npt.NDArray[np.float64], shape: tuple[int, ...], mode: str) -> Volume:
    """Returns a volume at the voxels of another grid, which `to_volume` maps to its own, trilinearly."""
    from scipy.ndimage import affine_transform

    at: Volume = affine_transform(volume, to_volume[:3, :3], to_volume[:3, 3], shape, np.float32, order=1, mode=mode)
    return at


def _clips(pipeline: Pipeline, prepared: Beside, channel: int) -> bool:
    """True if a pipeline clips a channel; where it does not say, if none of its movable voxels lies beyond bounds."""
    if (known := pipeline.clips(channel)) is not None:
        return known
    if prepared.rest is None:
        return True
    rest = prepared.rest[channel]
    return not bool((rest if prepared.fixed is None else rest[~prepared.fixed[channel]]).any())


def resampling_error(native: NativeCase, attacked: NativeCase, adversarial: "Tensor", space: AnySpace) -> float:
    """Returns the root mean square between an attacked volume and the same prepared again from the file.

    Args:
        native: the clean volume of the file.
        attacked: that of the file with the perturbation, as `attacked_native` returns it.
        adversarial: the attacked volume `[C, H, W, D]` in `space`, in [0, 1].
        space: the space of the attack.
    """
    return float((prepare(attacked, space, clean=native).image - adversarial).square_().double().mean().sqrt())


def _perturb(image: Volume, delta: Volume, to_delta: npt.NDArray[np.float64], low: float, high: float) -> Volume:
    """Returns one channel `[H, W, D]` with the perturbation; `to_delta` maps its voxels to the perturbation's grid."""
    change = _interpolated(delta, to_delta, image.shape, "grid-constant")
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
        self._others: dict[str, Tensor] = {}

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
