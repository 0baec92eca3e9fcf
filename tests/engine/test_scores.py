"""Record columns against direct calls of the metrics."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from freqbench import metrics
from freqbench.attacks import make
from freqbench.core.types import Case
from freqbench.data.loaders.anatomy import CLASS_NAMES
from freqbench.data.loaders.phantom import Phantom
from freqbench.engine.attacking import native_budget
from freqbench.engine.scoring import SHAPES, clean_columns, score_overlap, score_prediction, score_shapes, score_volume
from freqbench.metrics import METRICS
from freqbench.models import ModelSpec, attack_windows
from freqbench.ops.classes import Classes, LabelMaps
from freqbench.results import CLASS_RECORDS, RECORDS

CPU = torch.device("cpu")
ROI = (12, 20, 16)
SOURCE = ModelSpec(name="m", roi=ROI, num_classes=2)


@pytest.fixture(scope="module")
def case() -> Case:
    dataset = Phantom(name="p", shape=(24, 20, 16), cases=1)
    return dataset.load(dataset.refs()[0])


@pytest.fixture(scope="module")
def adversarial(case: Case) -> Tensor:
    return (case.image + 0.03 * torch.randn(case.image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


@pytest.fixture(scope="module")
def pred(case: Case) -> Tensor:
    """The truth moved by a voxel, the spleen by four along another axis, and no aorta."""
    label = case.label[0]
    moved = label.roll(1, 0).clone()
    moved[(moved == 4) | (moved == 2)] = 0
    moved[label.roll(4, 1) == 2] = 2
    return moved


def test_volume_columns_are_the_metrics(case: Case, adversarial: Tensor) -> None:
    scores = score_volume(case, adversarial, ("ssim", "psnr", "linf", "l2"), SOURCE, CPU)
    body = metrics.body_mask(case.image)
    change = (adversarial - case.image)[0].double()
    assert scores.values == {
        "ssim": metrics.ssim(case.image, adversarial),
        "ssim_body": metrics.image_scores(case.image, adversarial, body).values["ssim_body"],
        "psnr": metrics.psnr(case.image, adversarial),
        "linf": pytest.approx(float(change.abs().max())),
        "l2": pytest.approx(float(change.norm())),
        "l2_body": pytest.approx(float(change[torch.from_numpy(body)].norm())),
        **metrics.energy_scores(case.image, adversarial).values,
        **metrics.seam_scores(case.image, adversarial, attack_windows((24, 20, 16), ROI)).values,
    }
    assert scores.reasons == {}


def test_a_volume_of_one_window_has_no_seam_and_says_why(case: Case, adversarial: Tensor) -> None:
    scores = score_volume(case, adversarial, (), replace(SOURCE, roi=(96, 96, 96)), CPU)
    assert math.isnan(scores.values["seam_energy"])
    assert scores.reasons == {"seam_energy": "the volume is a single window"}


def test_lpips_columns_are_the_metric(case: Case, adversarial: Tensor) -> None:
    part = replace(case, image=case.image[..., :2], label=case.label[..., :2])
    changed = adversarial[..., :2]
    try:
        distance = metrics.lpips(part.image, changed)
    except metrics.LpipsUnavailable as error:
        pytest.skip(str(error))
    values = score_volume(part, changed, ("lpips",), SOURCE, CPU).values
    assert values["lpips_distance"] == pytest.approx(distance)
    assert values["lpips_similarity"] == pytest.approx(1 - distance)


def test_overlap_columns_are_the_metrics(case: Case, pred: Tensor) -> None:
    label = case.label[0]
    scores = score_overlap(pred, label, 6)
    dice = metrics.dice(pred, label, 6)
    assert (scores.record["dsc"], scores.record["dsc_foreground"]) == (np.nanmean(dice), np.nanmean(dice[1:]))
    in_label = {*label.unique().tolist()}
    in_pred = {*pred.unique().tolist()}
    assert scores.record["missed_classes"] == len(in_label - in_pred) == 1
    assert scores.record["hallucinated_classes"] == len(in_pred - in_label)
    for k, row in enumerate(scores.classes):
        assert row["dsc"] == pytest.approx(dice[k], nan_ok=True)
        assert (row["label_voxels"], row["pred_voxels"]) == (int((label == k).sum()), int((pred == k).sum()))


def test_surface_columns_are_the_metrics(case: Case, pred: Tensor, maps: LabelMaps) -> None:
    label = case.label[0]
    scores = score_shapes(maps, ("hd95",))
    voxels = metrics.hd95(pred, label, 6)
    mm = metrics.hd95(pred, label, 6, spacing=case.spacing)
    medpy = metrics.hd95(pred, label, 6, spacing=case.spacing, convention="medpy")
    diagonal = math.dist((0, 0, 0), [size * step for size, step in zip(label.shape, case.spacing, strict=True)])
    assert scores.record["hd95"] == pytest.approx(np.nanmean(voxels))
    assert scores.record["hd95_mm"] == pytest.approx(np.nanmean(mm[1:]))
    assert scores.record["hd95_medpy_mm"] == pytest.approx(np.nanmean(medpy[1:]))
    assert scores.record["hd95_undefined_classes"] == np.isnan(voxels).sum()
    missed = [k for k in range(1, 6) if (label == k).any() and not (pred == k).any()]
    present = [mm[k] for k in range(1, 6) if (label == k).any() and k not in missed]
    assert (missed, scores.record["hd95_penalised"]) == ([4], pytest.approx(np.mean([*present, diagonal])))
    for k, row in enumerate(scores.classes):
        distances = [row["hd95"], row["hd95_mm"], row["hd95_medpy_mm"]]
        assert distances == pytest.approx([voxels[k], mm[k], medpy[k]], nan_ok=True)


@pytest.fixture(scope="module")
def maps(case: Case, pred: Tensor) -> LabelMaps:
    classes = Classes(names=CLASS_NAMES, tolerances_mm=(5.0, 3.0, 3.0, 2.0, 2.0))
    return LabelMaps(pred=pred, label=case.label[0], classes=classes, spacing=case.spacing)


def test_shape_columns_are_metrics_and_their_foreground_means(maps: LabelMaps) -> None:
    masks = maps.pred, maps.label, 6
    counts = metrics.confusion(*masks)
    expected = {
        "nsd": metrics.nsd(*masks, maps.classes.tolerances_mm, maps.spacing),
        "assd_mm": metrics.assd(*masks, maps.spacing),
        "component_f1": metrics.component_f1(*masks),
        **metrics.volume_errors(counts, maps.spacing),
        **metrics.betti_errors(*masks),
    }
    scores = score_shapes(maps, ("dsc", "nsd", "assd", "volume", "components", "topology"))
    for name, values in expected.items():
        assert scores.record[name] == pytest.approx(np.nanmean(values[1:]))
        assert [row[name] for row in scores.classes] == pytest.approx(values, nan_ok=True)
    assert [row["nsd_tolerance_mm"] for row in scores.classes[1:]] == list(maps.classes.tolerances_mm)
    left_out = {name: value for name, value in scores.record.items() if name not in expected}
    missed = {"assd_undefined_classes": 1}  # of class 4, which the prediction has not, there is no distance
    names = (f"{each}_undefined_classes" for each in ("nsd", "volume", "components", "topology"))
    assert left_out == dict.fromkeys(names, 0) | missed


def test_single_metrics_fill_their_own_columns_alone(maps: LabelMaps) -> None:
    every = score_shapes(maps, tuple(SHAPES))
    for name in SHAPES:
        (alone,) = score_prediction(maps, (name, "psnr"))
        assert set(alone.record) | {f"{each}_clean" for each in alone.record} >= set(METRICS[name].columns)
        assert repr(alone.record) == repr({each: every.record[each] for each in alone.record})


def test_calibration_columns_are_the_metric(maps: LabelMaps) -> None:
    confidence = torch.rand(maps.pred.shape)
    calibrated = metrics.calibration(confidence, maps.pred, maps.label, 6)
    (scores,) = score_prediction(maps, ("calibration",), confidence)
    assert scores.record["ece"] == calibrated.ece
    assert scores.record["ece_foreground"] == pytest.approx(np.nanmean(calibrated.ece_by_class[1:]))
    assert scores.record["wrong_confidence"] == calibrated.wrong_confidence
    assert scores.record["calibration_undefined_classes"] == 1
    assert [row["ece"] for row in scores.classes] == pytest.approx(calibrated.ece_by_class, nan_ok=True)


def test_clean_columns_are_those_that_the_tables_have(case: Case, pred: Tensor, maps: LabelMaps) -> None:
    of_records = {column.name for column in RECORDS}
    of_classes = {column.name for column in CLASS_RECORDS}
    for scores in (score_overlap(pred, case.label[0], 6), score_shapes(maps, ("hd95",))):
        clean = clean_columns(scores)
        assert set(clean.record) == {f"{name}_clean" for name in scores.record} & of_records
        for row, own in zip(clean.classes, scores.classes, strict=True):
            assert set(row) == {f"{name}_clean" for name in own} & of_classes
            assert all(np.array_equal(row[name], own[name.removesuffix("_clean")], equal_nan=True) for name in row)


def test_every_column_of_a_metric_has_a_score(case: Case, adversarial: Tensor, maps: LabelMaps) -> None:
    columns = set().union(*(metric.columns for metric in METRICS.values()))
    volume = score_volume(case, adversarial, tuple(METRICS), SOURCE, CPU, {"lpips": "not here"})
    parts = score_prediction(maps, tuple(METRICS), torch.ones(maps.pred.shape))
    filled = {"voxel_success", *volume.values}
    for part in parts:
        filled |= {*part.record, *clean_columns(part).record}
    assert filled == columns


def test_a_budget_on_intensities_is_told_in_the_data_s_unit(case: Case) -> None:
    """The phantom's window is 425 HU wide."""
    assert native_budget(make("fgsm", eps=8 / 255), case) == pytest.approx(8 / 255 * 425)
    assert native_budget(make("gn", std=0.1), case) == pytest.approx(42.5)
    assert native_budget(make("pgd", eps=0.1, norm="l2"), case) == pytest.approx(42.5)
    assert native_budget(make("random_noise", l2=2), case) is None
