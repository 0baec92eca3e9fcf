"""Lists the scores that summaries and the page show, with their units, headings and meaning."""

from typing import NamedTuple

import pandas as pd


class Score(NamedTuple):
    """Column of numbers as shown: `scale` x `source` of RECORDS, with `digits` after the point. `direction`: `higher`
    or `lower` means less was lost or changed (empty: neither); `shown`: unasked; the name is of `tables.SUMMARY`."""

    name: str
    source: str
    heading: str
    unit: str
    direction: str
    meaning: str
    scale: float = 1.0
    digits: int = 1
    shown: bool = False


FOREGROUND = "foreground DSC, mean over organs in the label"  # of a case, where a page says one number
_WITH_BACKGROUND = "DSC with background (published convention), mean over classes in the label"
_LOST = "lost against the clean volume"
_HD = "95 % Hausdorff distance"
_PENALISED = f"{_HD}, foreground classes, a missed class counts the volume's diagonal"
_MEAN = "mean over foreground classes"
_SHARE = f"magnitude over the true volume, {_MEAN}"
_SAME = "the same inside the body, without the air around the patient"
_MOVED = "of a voxel, by attacks that move the anatomy"
_SMALLEST = "size of the smallest change that made the volume fall"
_JACOBIAN = "least determinant of the displacement's Jacobian; 100: no change of volume"
SCORES: tuple[Score, ...] = (
    Score("dsc_foreground", "dsc_foreground", "foreground DSC", "x100", "higher", FOREGROUND, 100, 1, True),
    Score("dsc_foreground_drop", "dsc_foreground", "drop", "points", "lower", f"foreground DSC {_LOST}", 100, 1, True),
    Score("hd95_penalised_mm", "hd95_penalised", "HD95 penalised mm", "mm", "lower", _PENALISED, 1, 1, True),
    Score("dsc", "dsc", "DSC", "x100", "higher", _WITH_BACKGROUND, 100, 1, True),
    Score("dsc_drop", "dsc", "DSC drop", "points", "lower", f"DSC {_LOST}", 100, 1),
    Score("hd95", "hd95", "HD95", "voxels", "lower", f"{_HD}, MONAI, classes with background", 1, 1, True),
    Score("hd95_undefined", "hd95_undefined_classes", "undef", "classes", "lower", "left out of HD95", 1, 0, True),
    Score("hd95_mm", "hd95_mm", "HD95 mm", "mm", "lower", f"{_HD}, MONAI, foreground classes"),
    Score("hd95_medpy_mm", "hd95_medpy_mm", "HD95 medpy", "mm", "lower", f"{_HD}, medpy, foreground classes"),
    Score("nsd", "nsd", "NSD", "x100", "higher", f"normalised surface Dice at the organ's tolerance, {_MEAN}", 100),
    Score("assd_mm", "assd_mm", "ASSD mm", "mm", "lower", f"average symmetric surface distance, {_MEAN}", 1, 2),
    Score("volume_error_ml", "volume_error_ml", "volume error", "ml", "", f"predicted minus true, {_MEAN}", 1, 2),
    Score("volume_error_relative", "volume_error_relative", "volume error %", "%", "lower", _SHARE, 100),
    Score("component_f1", "component_f1", "component F1", "x100", "higher", f"of components (IoU > 1/2), {_MEAN}", 100),
    Score("betti0_error", "betti0_error", "components", "count", "lower", f"too many or too few, {_MEAN}"),
    Score("betti1_error", "betti1_error", "tunnels", "count", "lower", f"too many or too few, {_MEAN}"),
    Score("betti2_error", "betti2_error", "cavities", "count", "lower", f"too many or too few, {_MEAN}"),
    Score("dsc_brats", "dsc_brats", "DSC BraTS", "x100", "higher", f"Dice, an empty region counts, {_MEAN}", 100),
    Score("hd95_brats_mm", "hd95_brats_mm", "HD95 BraTS mm", "mm", "lower", f"{_HD}, an empty region counts, {_MEAN}"),
    Score("lesion_dice", "lesion_dice", "lesion DSC", "x100", "higher", f"lesion-wise Dice (BraTS), {_MEAN}", 100),
    Score("lesion_hd95_mm", "lesion_hd95_mm", "lesion HD95 mm", "mm", "lower", f"lesion-wise {_HD} (BraTS), {_MEAN}"),
    Score("lesions_missed", "lesions_missed", "lesions missed", "count", "lower", f"nothing predicted near, {_MEAN}"),
    Score("lesions_false", "lesions_false", "lesions false", "count", "lower", f"predicted, no lesion near, {_MEAN}"),
    Score("ece", "ece", "ECE", "x100", "lower", "expected calibration error, all voxels", 100, 2),
    Score("ece_foreground", "ece_foreground", "ECE foreground", "x100", "lower", f"the same by class, {_MEAN}", 100),
    Score("wrong_confidence", "wrong_confidence", "wrong confidence", "x100", "lower", "mean on wrong voxels", 100),
    Score("ssim", "ssim", "SSIM", "x100", "higher", "structural similarity of the two volumes", 100, 1, True),
    Score("ssim_body", "ssim_body", "SSIM body", "x100", "higher", _SAME, 100, 1, True),
    Score("lpips", "lpips_similarity", "1-LPIPS x100", "x100", "higher", "1 - LPIPS distance (AlexNet)", 100, 1, True),
    Score("lpips_body", "lpips_body", "1-LPIPS x100 body", "x100", "higher", _SAME, 100, 1, True),
    Score("psnr", "psnr", "PSNR", "dB", "higher", "peak signal-to-noise ratio"),
    Score("linf_255", "linf", "L-inf", "1/255", "lower", "largest change of a voxel", 255, 1, True),
    Score("smallest_linf_255", "smallest_linf", "smallest L-inf", "1/255", "higher", _SMALLEST, 255, 2, True),
    Score("smallest_l2_255", "smallest_l2", "smallest rms", "1/255", "higher", _SMALLEST, 255, 2, True),
    Score("l2", "l2", "L2", "intensity 0..1", "lower", "Euclidean norm of the change", 1, 2),
    Score("l2_body", "l2_body", "L2 body", "intensity 0..1", "lower", _SAME, 1, 2, True),
    Score("displacement_mean_mm", "displacement_mean_mm", "mean displacement mm", "mm", "lower", _MOVED, 1, 2),
    Score("displacement_max_mm", "displacement_max_mm", "largest displacement mm", "mm", "lower", _MOVED, 1, 2),
    Score("jacobian_min", "jacobian_min", "least Jacobian %", "%", "higher", _JACOBIAN, 100),
    Score("voxel_success", "voxel_success", "flipped", "%", "lower", "voxels whose predicted class changed", 100, 2),
    Score("energy_low", "energy_low", "energy low", "DCT", "lower", "mean coefficient of the change, low band", 1, 4),
    Score("energy_middle", "energy_middle", "energy mid", "DCT", "lower", "the same in the middle band", 1, 4),
    Score("energy_high", "energy_high", "energy high", "DCT", "lower", "the same in the high band", 1, 4),
    Score("seam_energy", "seam_energy", "seam", "ratio", "lower", "jumps across borders of windows; 1: none", 1, 2),
    Score("forwards", "num_forwards", "forwards", "passes", "", "forward passes of the source model", 1, 0),
    Score("backwards", "num_backwards", "backwards", "passes", "", "backward passes of the source model", 1, 0),
    Score("attack_seconds", "attack_seconds", "seconds", "s", "", "time to make the volume"),
)


def shown_scores(records: pd.DataFrame) -> dict[str, pd.Series]:
    """Converts every score of every one of `records`, with all columns of SCORES, to the unit shown; NaN where it is
    missing."""
    scores = {score.name: records[score.source].astype(float) * score.scale for score in SCORES}
    for name in ("dsc_foreground", "dsc"):
        scores[f"{name}_drop"] = (records[f"{name}_clean"].astype(float) - records[name].astype(float)) * 100
    scores["lpips_body"] = 100 - scores["lpips_body"]
    return scores
