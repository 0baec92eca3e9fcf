"""Scores of regions that overlap: each region against all else, means over regions, in every metric of label maps."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from freqbench import metrics
from freqbench.core.measures import METRIC_OF, UNDEFINED
from freqbench.engine.scoring import SHAPES, PredictionScores, score_draw, score_prediction, score_shapes
from freqbench.ops.classes import Classes, LabelMaps
from freqbench.ops.regions import alone

SHAPE = (12, 10, 8)
SIDES = (1.0, 2.0, 1.5)


@pytest.fixture(scope="module")
def maps() -> LabelMaps:
    """Three regions; the label has no voxel of the third, the prediction has a few."""
    grid = torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij"))

    def box(low: int, high: int) -> Tensor:
        return ((grid >= low) & (grid < high)).all(dim=0)

    label = box(1, 7) + 2 * box(2, 5)
    pred = box(2, 7) + 2 * box(3, 7) + 4 * box(6, 8)
    classes = Classes(names=("none", "whole", "core", "enhancing"), overlap=True, tolerances_mm=(1.0, 2.0, 1.0))
    return LabelMaps(pred=pred.to(torch.uint8), label=label.to(torch.uint8), classes=classes, spacing=SIDES)


def scored(maps: LabelMaps, *names: str) -> PredictionScores:
    (scores,) = score_prediction(maps, names)
    return scores


def test_each_region_has_the_scores_of_a_binary_map(maps: LabelMaps) -> None:
    overlap = scored(maps, "dsc")
    shapes = score_shapes(maps, tuple(SHAPES))
    for k in range(1, 4):
        pred = alone(maps.pred, k)
        label = alone(maps.label, k)
        surfaces = metrics.surface_scores(pred, label, 2, SIDES)
        nsd = metrics.nsd(pred, label, 2, maps.classes.tolerances_mm[k - 1], SIDES)
        expected = {
            "dsc": metrics.dice(pred, label, 2)[1],
            "hd95_medpy_mm": surfaces["hd95_medpy_mm"][1],
            "nsd": nsd[1],
            "component_f1": metrics.component_f1(pred, label, 2)[1],
        }
        row = {**overlap.classes[k], **shapes.classes[k]}
        assert {name: row[name] for name in expected} == pytest.approx(expected, nan_ok=True)
        assert row["label_voxels"] == (label == 1).sum()


def test_dice_of_regions_is_the_definition(maps: LabelMaps) -> None:
    values = metrics.dice(maps.pred, maps.label, 4, has_regions=True)
    for k in range(1, 4):
        pred, label = ((each >> k - 1) & 1 == 1 for each in (maps.pred, maps.label))
        expected = 2 * (pred & label).sum() / (pred.sum() + label.sum()) if label.any() else math.nan
        assert values[k] == pytest.approx(float(expected), nan_ok=True)


def test_foreground_means_are_means_over_regions(maps: LabelMaps) -> None:
    overlap = scored(maps, "dsc")
    shapes = score_shapes(maps, tuple(SHAPES))
    rows = [{**one, **other} for one, other in zip(overlap.classes, shapes.classes, strict=True)]
    assert overlap.record["dsc_foreground"] == pytest.approx(np.mean([row["dsc"] for row in rows[1:3]]))
    assert overlap.record["dsc"] == pytest.approx(np.mean([row["dsc"] for row in rows[:3]]))
    for name in ("hd95_mm", "nsd", "component_f1", "assd_mm"):
        assert shapes.record[name] == pytest.approx(np.nanmean([row[name] for row in rows[1:]]))


def test_regions_that_a_map_lacks_are_counted(maps: LabelMaps) -> None:
    overlap = scored(maps, "dsc")
    shapes = score_shapes(maps, tuple(SHAPES))
    assert (overlap.record["missed_classes"], overlap.record["hallucinated_classes"]) == (0, 1)
    counts = {name: shapes.record[name] for name in shapes.record if name.endswith("_undefined_classes")}
    assert counts == dict.fromkeys(counts, 1)
    assert counts.keys() == {name for name in UNDEFINED if METRIC_OF[name] in SHAPES}


def test_voxels_that_do_not_count_are_in_no_score(maps: LabelMaps) -> None:
    ignored = maps.label.clone()
    ignored[:6] = 254
    part = LabelMaps(**{**vars(maps), "label": ignored})
    cut = LabelMaps(**{**vars(maps), "label": maps.label[6:], "pred": maps.pred[6:]})
    dice = [scored(each, "dsc").record["dsc_foreground"] for each in (part, cut)]
    assert dice[0] == pytest.approx(dice[1])


def test_calibration_counts_voxels_right_in_all_regions(maps: LabelMaps) -> None:
    right = maps.pred == maps.label
    sure = torch.where(right, 1.0, 0.0)
    assert metrics.calibration(sure, maps.pred, maps.label, 4, has_regions=True).ece == 0
    doubt = metrics.calibration(1 - sure, maps.pred, maps.label, 4, has_regions=True)
    assert doubt.ece == 1
    in_third = (maps.pred & 4) > 0
    assert doubt.wrong_confidence_by_class[3] == (1 - sure)[in_third & ~right].mean()


def test_draws_of_certificates_are_scored_by_region(maps: LabelMaps) -> None:
    drawn = score_draw(maps.label, maps.pred, SIDES, maps.classes.tolerances_mm, has_regions=True)
    (overlap,) = score_prediction(maps, ("dsc",))
    shapes = score_shapes(maps, ("nsd", "volume"))
    expected = {f"dsc_{k}": row["dsc"] for k, row in enumerate(overlap.classes[:3])}
    expected |= {f"nsd_{k}": shapes.classes[k]["nsd"] for k in (1, 2)}
    expected |= {name: overlap.record[name] for name in ("dsc", "dsc_foreground")}
    expected |= {name: shapes.record[name] for name in ("nsd", "volume_error_relative")}
    assert drawn == pytest.approx(expected)
    assert next(iter(drawn)) == "dsc_foreground"
