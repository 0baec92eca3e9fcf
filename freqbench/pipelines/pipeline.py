"""Defines the two functions of a network's own pipeline, and the affine way from the file's unit to its input."""

import abc
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from freqbench.core.errors import DataError, UserError, one_line
from freqbench.core.types import NativeCase, Outputs, Shape, Spacing

if TYPE_CHECKING:
    from torch import Tensor

    from freqbench.core.code import Code

Bounds = tuple[tuple[float, float], ...]
"""For each channel, the intensities of a network's input that 0 and 1 of the attacked volume are."""
Volume = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]
Facts = Mapping[str, Any]  # plain data
Maps: TypeAlias = "tuple[Tensor, Tensor | None]"  # a label map of the file, and probabilities
SAMPLED = 200_000  # voxels of a channel that a line is fitted to
DEVIATIONS = 5.0  # standard deviations on either side of the mean that a volume of z-scores spans
OFF_LINE = 1e-3  # distance from the line, as a share of the fitted range, from which a voxel does not lie on it
# Share of the voxels between the bounds that may lie off the line: interpolation at the border of a mask leaves it.
MOST_OFF_LINE = 0.02


@dataclass(frozen=True, kw_only=True)
class Line:
    """A channel's way from the file's unit to the network's input: `prepared = slope * raw + offset`."""

    slope: float
    offset: float

    def raw(self, prepared: float) -> float:
        """Returns the intensity in the file's unit of one in the network's input, `prepared`."""
        return (prepared - self.offset) / self.slope


@dataclass(frozen=True, kw_only=True)
class PreparedInput:
    """Input that a pipeline makes of a case, on its own grid and in the network's own axes."""

    data: "Tensor"  # float32 `[C, *grid]`, the network's input
    label: "Tensor"  # uint8 `[1, *grid]`, the case's label map on this grid
    codes: str  # directions in which the axes of the grid increase, as in SPL
    affine: Affine  # voxel to world millimetres (RAS+) of this grid
    bounds: Bounds  # see `Bounds`
    lines: tuple[Line | None, ...]  # for each channel, its way from the file's unit; None: it is not affine
    fixed: "Tensor | None"  # voxels that the pipeline fills itself, whatever the file holds there, bool `[C, *grid]`
    facts: Mapping[str, Any]  # plain data that lead back to the file


@dataclass(frozen=True, kw_only=True)
class Pipeline(abc.ABC):
    """A network's own way from a file to its input, and from its logits to a label map of the file."""

    kind: ClassVar[str]
    toolchain: ClassVar[str]  # name of the package that runs it
    drawing: ClassVar[str] = "each region's sigmoid above one half"  # rule by which overlapping regions become labels

    release: str  # version of the toolchain that runs it; another one may move numbers
    bounds: Bounds | None = None  # those that the job states; None: by the pipeline's own rule

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # without what was made of them here

    @property
    @abc.abstractmethod
    def described(self) -> Mapping[str, Any]:
        """The words that it consists of, as plain data."""

    @property
    def code(self) -> "Code | None":
        """Identity of the code of others in it, as it is now; None: it has none."""
        return None

    def identity(self) -> dict[str, Any]:
        """Returns all that changes what it makes of a file, code of others as it is now."""
        stated = {} if self.bounds is None else {"bounds": self.bounds}
        return {"pipeline": self.kind, self.toolchain: self.release, **self.described, **stated}

    @abc.abstractmethod
    def prepare(self, native: NativeCase) -> PreparedInput:
        """Prepares the volume of a file, `native`, as the toolchain does; raises DataError for one that it refuses."""

    @abc.abstractmethod
    def again(self, attacked: NativeCase, clean: PreparedInput) -> "Tensor":
        """Prepares an attacked volume as `prepare` does; returns it on the clean one's grid, `[C, *grid]`."""

    def voxels_to_keep(self, native: NativeCase, facts: Mapping[str, Any]) -> npt.NDArray[np.bool_] | None:
        """Returns the voxels of a file, `native`, `[H, W, D]`, a change of which would move its crop or mask; None: not
        known. `facts` are those of its `PreparedInput`."""
        return None

    def clips(self, channel: int) -> bool | None:
        """True if it clips a channel at its bounds; None: not known."""
        return None

    @abc.abstractmethod
    def restore(self, facts: Facts, logits: "Tensor", head: Outputs, is_merged: bool, with_probabilities: bool) -> Maps:
        """Restores logits to the file's grid as the toolchain does: labels, uint8 `[h, w, d]`, and probabilities
        `[K, h, w, d]` if wanted.

        Args:
            facts: those of the file's `PreparedInput`.
            logits: `[K, *grid]`, in the network's axes.
            head: `sigmoid`: each output is a region's.
            is_merged: True: they are of the dataset's classes, not of the network's own.
            with_probabilities: True: probabilities are wanted.
        """

    def restoring(self, head: Outputs, is_merged: bool) -> str:
        """Returns in words what makes labels of logits on the file's grid; `head` and `is_merged` are those of
        `restore`."""
        of_regions = self.drawing if not is_merged else "each region's sigmoid above one half"
        return f"{self.toolchain} {self.release}: {of_regions if head == 'sigmoid' else 'the largest class'}"

    @abc.abstractmethod
    def shape_of(self, shape: Shape, spacing: Spacing, codes: str) -> Shape:
        """Returns the most voxels along RAS axes that it makes of a file of a shape and spacing (mm) along RAS axes;
        `codes` are of the file's own axes."""

    @abc.abstractmethod
    def codes_of(self, codes: str) -> str:
        """Returns the directions of the network's axes for a file whose axes lie towards `codes`."""

    @property
    @abc.abstractmethod
    def own_rule(self) -> str:
        """Words on the bounds that it has unless a job states some."""

    @property
    def rule(self) -> str:
        """Sentence on its bounds, for `plan`."""
        stated = ", ".join(f"[{low:g}, {high:g}]" for low, high in self.bounds or ())
        return f"a volume spans {f'the stated bounds {stated}' if stated else self.own_rule} of the network's input"


@contextmanager
def running(what: str, kind: type[UserError] = DataError) -> Iterator[None]:
    """Runs a toolchain: its thread counts stay inside, and its errors become one of the class `kind`, whose line begins
    with `what`."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise kind(f"{what}: {one_line(error)}") from error
    finally:
        torch.set_num_threads(threads)


_OUTPUT = RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps prints and warnings of imports and parsers inside; of one thread at a time, as both are the process's."""
    with _OUTPUT, redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def line_of(raw: Volume, prepared: Volume) -> Line | None:
    """Fits the line from raw to prepared intensities of a grid, without ends and 0; None unless nearly all fit."""
    x, y = (voxels.ravel()[:: max(1, raw.size // SAMPLED)].astype(np.float64) for voxels in (raw, prepared))
    within = (y > y.min()) & (y < y.max()) & (y != 0)
    if within.sum() > 1:
        x = x[within]
        y = y[within]
    for _ in range(2):  # the second time without the voxels off the line
        if len(x) < 2 or x.min() == x.max():
            return None
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())
        line = Line(slope=slope, offset=float(y.mean() - slope * x.mean()))
        off = np.abs(line.slope * x + line.offset - y) > OFF_LINE * (y.max() - y.min())
        if off.mean() > MOST_OFF_LINE:
            return None
        x = x[~off]
        y = y[~off]
    return line if line.slope > 0 else None


def own_bounds(source: str, data: "Tensor", stated: Sequence[tuple[float, float] | None]) -> Bounds:
    """Returns the bounds of each channel of a prepared volume, `data` `[C, *grid]`: stated, or its own ends; refuses
    one without contrast. `source` is the file, for messages."""
    bounds = []
    for index, (channel, ends) in enumerate(zip(data, stated, strict=True)):
        low, high = ends or tuple(map(float, channel.aminmax()))
        if not low < high:
            got = f"got {low:g} in all voxels: check the file, or state bounds of the model"
            raise DataError(f"{source}: expected contrast in channel {index} of the prepared volume, {got}")
        bounds.append((low, high))
    return tuple(bounds)
