"""The space of a MONAI bundle, from the transforms of its configuration where all of them are known."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, model_validator

from freqbench.core.config import validate
from freqbench.core.input_space import Millimetres
from freqbench.models.adapter import Finite
from freqbench.models.foreign.bundle_config import Config
from freqbench.models.foreign.common import axes_towards

_TRANSFORMS = "preprocessing::transforms"
# Leave intensities and grid as they are.
_NEUTRAL = {"LoadImage", "EnsureChannelFirst", "EnsureType", "AddChannel", "AsChannelFirst", "ToTensor", "ToDevice"}
# In the order in which freqbench applies them: only so do they mean the same.
_ORDER = ("Orientation", "Spacing", "ScaleIntensityRange", "CropForeground")


class _Spacing(BaseModel):
    pixdim: tuple[Millimetres, Millimetres, Millimetres]


class _Range(BaseModel):
    a_min: Finite
    a_max: Finite
    b_min: Finite = 0.0
    b_max: Finite = 1.0

    @model_validator(mode="after")
    def _rises(self) -> "_Range":
        if self.a_min >= self.a_max:
            raise ValueError(f"expected a_min below a_max, got {self.a_min} and {self.a_max}")
        return self


@dataclass(frozen=True, kw_only=True)
class Space:
    """What the transforms make of a volume before the network.

    Attributes:
        axes: of the volume, in the network's order, as in `InputAdapter`.
        spacing: millimetres along the network's axes; None: each file's own.
        window: the native intensities that become the ends of `scale`; what lies outside is clipped.
        scale: what the network is given for them.
        crop_foreground: whether the volume is cut to what lies above the window's floor.
    """

    axes: str
    spacing: tuple[float, float, float] | None
    window: tuple[float, float]
    scale: tuple[float, float]
    crop_foreground: bool


def space_of(config: Config) -> Space | None:
    """The space, or None where a transform is not known, is in another order, or is told something unusual.

    Raises:
        UserError: an expression in a transform that is known, and no trust; or values that make no sense.
        CheckpointError: a reference to nothing.
    """
    steps: dict[str, str] = {}
    for i in range(config.length(_TRANSFORMS)):
        id = f"{_TRANSFORMS}::{i}"
        name = _name(config, id)
        if name in _NEUTRAL or not _touches_image(config, id) or config.find(f"{id}::_disabled_") is True:
            continue
        if name not in _ORDER or name in steps or not _usual(config, id, name):
            return None
        steps[name] = id
    in_order = [name for name in _ORDER if name in steps]
    if list(steps) != in_order or "Orientation" not in steps or "ScaleIntensityRange" not in steps:
        return None
    place = f"{config.file}: {_TRANSFORMS}"
    told = _given(config, steps["ScaleIntensityRange"], ("a_min", "a_max", "b_min", "b_max"))
    intensity = validate(told, _Range, place)
    spacing = None
    if "Spacing" in steps:
        spacing = validate(_given(config, steps["Spacing"], ("pixdim",)), _Spacing, place).pixdim
    return Space(
        axes=axes_towards(str(config.value(f"{steps['Orientation']}::axcodes"))),
        spacing=spacing,
        window=(intensity.a_min, intensity.a_max),
        scale=(intensity.b_min, intensity.b_max),
        crop_foreground="CropForeground" in steps,
    )


def _name(config: Config, id: str) -> str:
    """`Spacing` for `Spacingd`, `SpacingD`, `SpacingDict` and their full names; empty where it is no plain name."""
    found = config.find(id)
    target = found.get("_target_") if isinstance(found, dict) else None
    last = str(target or "").rpartition(".")[2]
    for suffix in ("Dict", "d", "D"):
        if last.endswith(suffix):
            return last.removesuffix(suffix)
    return ""


def _touches_image(config: Config, id: str) -> bool:
    keys = config.value(f"{id}::keys")
    return keys is None or "image" in ([keys] if isinstance(keys, str) else keys)


def _usual(config: Config, id: str, name: str) -> bool:
    """Whether a known transform is told nothing that changes what it does here."""
    given: dict[str, Any] = _given(config, id, ("axcodes", "mode", "clip", "margin", "k_divisible", "select_fn"))
    match name:
        case "Orientation":
            return _is_orientation(given.get("axcodes"))
        case "Spacing":
            mode = given.get("mode", "bilinear")
            return (mode if isinstance(mode, str) else next(iter(mode), None)) == "bilinear"
        case "ScaleIntensityRange":
            return given.get("clip") is True
        case _:
            return not {"margin", "k_divisible", "select_fn"} & set(given)


def _is_orientation(codes: Any) -> bool:
    try:
        axes_towards(str(codes))
    except ValueError:
        return False
    return True


def _given(config: Config, id: str, names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: config.value(f"{id}::{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}
