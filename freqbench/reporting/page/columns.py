"""Frames as columns of JSON: texts as codes, numbers with few digits, what is missing as null."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from freqbench.metrics import METRICS

DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Score:
    """A column of numbers as the page shows it.

    Attributes:
        name: in the page's data, as in `freqbench.analysis.tables.SUMMARY` where it is there.
        source: the column of `RECORDS` it is made of.
        heading: what stands above it.
        unit: of the values shown.
        direction: whether a higher or a lower value means that less was lost or changed; empty: neither.
        meaning: one line.
        scale: shown = scale x stored.
        digits: after the point.
        is_shown: without being asked for.
    """

    name: str
    source: str
    heading: str
    unit: str
    direction: str
    meaning: str
    scale: float = 1.0
    digits: int = 1
    is_shown: bool = False


def _score(
    name: str,
    source: str,
    heading: str,
    unit: str,
    direction: str,
    meaning: str,
    scale: float = 1.0,
    digits: int = 1,
    shown: bool = False,
) -> Score:
    return Score(
        name=name,
        source=source,
        heading=heading,
        unit=unit,
        direction=direction,
        meaning=meaning,
        scale=scale,
        digits=digits,
        is_shown=shown,
    )


_DSC = "Dice of the prediction, mean over defined classes"
_LOST = "lost against the clean volume"
_HD = "95 % Hausdorff distance"
_SAME = "the same inside the body, without the air around the patient"
SCORES: tuple[Score, ...] = (
    _score(
        *("dsc_foreground", "dsc_foreground", "DSC foreground", "x100", "higher", f"{_DSC} without background"),
        *(100, 1, True),
    ),
    _score("dsc_foreground_drop", "dsc_foreground", "drop", "points", "lower", f"DSC foreground {_LOST}", 100, 1, True),
    _score(
        *("hd95_penalised_mm", "hd95_penalised", "HD95 penalised mm", "mm", "lower"),
        *(f"{_HD}, foreground classes, a missed class counts the volume's diagonal", 1, 1, True),
    ),
    _score("dsc", "dsc", "DSC", "x100", "higher", f"{_DSC} with background (published convention)", 100, 1, True),
    _score("dsc_drop", "dsc", "DSC drop", "points", "lower", f"DSC {_LOST}", 100, 1),
    _score("hd95", "hd95", "HD95", "voxels", "lower", f"{_HD}, MONAI, classes with background", 1, 1, True),
    _score("hd95_undefined", "hd95_undefined_classes", "undef", "classes", "lower", "left out of HD95", 1, 0, True),
    _score("hd95_mm", "hd95_mm", "HD95 mm", "mm", "lower", f"{_HD}, MONAI, foreground classes"),
    _score("hd95_medpy_mm", "hd95_medpy_mm", "HD95 medpy", "mm", "lower", f"{_HD}, medpy, foreground classes"),
    _score("ssim", "ssim", "SSIM", "x100", "higher", "structural similarity of the two volumes", 100, 1, True),
    _score("ssim_body", "ssim_body", "SSIM body", "x100", "higher", _SAME, 100, 1, True),
    _score("lpips", "lpips_similarity", "LPIPS", "x100", "higher", "1 - LPIPS distance (AlexNet)", 100, 1, True),
    _score("lpips_body", "lpips_body", "LPIPS body", "x100", "higher", _SAME, 100, 1, True),
    _score("psnr", "psnr", "PSNR", "dB", "higher", "peak signal-to-noise ratio"),
    _score("linf_255", "linf", "L-inf", "1/255", "lower", "largest change of a voxel", 255, 1, True),
    _score("l2", "l2", "L2", "intensity 0..1", "lower", "Euclidean norm of the change", 1, 2),
    _score("l2_body", "l2_body", "L2 body", "intensity 0..1", "lower", _SAME, 1, 2, True),
    _score("voxel_success", "voxel_success", "flipped", "%", "lower", "voxels whose predicted class changed", 100, 2),
    _score("energy_low", "energy_low", "energy low", "DCT", "lower", "mean coefficient of the change, low band", 1, 4),
    _score("energy_middle", "energy_middle", "energy mid", "DCT", "lower", "the same in the middle band", 1, 4),
    _score("energy_high", "energy_high", "energy high", "DCT", "lower", "the same in the high band", 1, 4),
    _score("seam_energy", "seam_energy", "seam", "ratio", "lower", "jumps across borders of windows; 1: none", 1, 2),
    _score("forwards", "num_forwards", "forwards", "passes", "", "forward passes of the source model", 1, 0),
    _score("backwards", "num_backwards", "backwards", "passes", "", "backward passes of the source model", 1, 0),
    _score("attack_seconds", "attack_seconds", "seconds", "s", "", "time to make the volume"),
)

_METRIC_OF = {column: name for name, metric in METRICS.items() for column in metric.columns}


def described() -> list[dict[str, Any]]:
    """The scores as the page's data has them; `metric`: what a job asks for to get it, empty where it always is."""
    return [
        {
            "name": score.name,
            "source": score.source,
            "heading": score.heading,
            "unit": score.unit,
            "direction": score.direction,
            "meaning": score.meaning,
            "digits": score.digits,
            "shown": score.is_shown,
            "metric": _METRIC_OF.get(score.source, ""),
        }
        for score in SCORES
    ]


def shown_scores(records: pd.DataFrame) -> dict[str, pd.Series]:
    """Every score of every record, in the unit shown; NaN where it is missing."""
    found = {score.name: records[score.source].astype(float) * score.scale for score in SCORES}
    for name in ("dsc_foreground", "dsc"):
        found[f"{name}_drop"] = (records[f"{name}_clean"].astype(float) - records[name].astype(float)) * 100
    found["lpips_body"] = 100 - found["lpips_body"]
    return found


def numbers(values: Any, digits: int = DIGITS) -> list[float | int | None]:
    """Numbers with so many significant digits, whole ones without a point, missing ones None.

    >>> numbers([0.123456, 98765.4, 3.0, float("nan"), float("inf")])
    [0.1235, 98770, 3, None, None]
    """
    array = np.asarray(pd.to_numeric(pd.Series(values), errors="coerce").astype(float))
    is_known = np.isfinite(array)
    magnitude = np.floor(np.log10(np.abs(array), where=is_known & (array != 0), out=np.zeros_like(array)))
    factor = 10.0 ** (digits - 1 - magnitude)
    rounded = np.where(is_known, array, 0.0)
    rounded = np.round(rounded * factor) / factor
    return [_plain(value, digits) if known else None for value, known in zip(rounded.tolist(), is_known, strict=True)]


def _plain(value: float, digits: int) -> float | int:
    return int(value) if value.is_integer() else float(f"{value:.{digits}g}")


def texts(values: pd.Series) -> dict[str, Any]:
    """Texts as codes into the distinct ones, in order of appearance; -1 where there is none."""
    codes, distinct = pd.factorize(values.astype(object))
    return {"values": [str(value) for value in distinct], "codes": codes.tolist()}


def frame_of(
    rows: int, texts_by_name: Mapping[str, pd.Series], numbers_by_name: Mapping[str, Any], digits: int = DIGITS
) -> dict[str, Any]:
    """A frame as the page's data has it: `{"rows": n, "texts": {name: codes}, "numbers": {name: values}}`."""
    return {
        "rows": rows,
        "texts": {name: texts(values) for name, values in texts_by_name.items()},
        "numbers": {name: numbers(values, digits) for name, values in numbers_by_name.items()},
    }
