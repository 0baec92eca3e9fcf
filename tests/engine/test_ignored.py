"""Voxels without a label in every metric of predictions: they are no class, no error, and no share of anything."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data import downloads

import freqbench as fb
from freqbench import training
from freqbench.core.errors import UserError
from freqbench.core.types import IGNORED
from freqbench.engine import scoring
from freqbench.engine.scoring import score_draw, score_prediction
from freqbench.job.training import TrainJob
from freqbench.metrics import certified_scores, confusion, hd95, nsd, voxel_success
from freqbench.ops.classes import Classes, LabelMaps

SPACING = (1.0, 2.0, 1.5)


def maps(gap: bool) -> LabelMaps:
    """Predicted and true maps in a volume of air; with a `gap`, three slices have no label and strange predictions."""
    label = np.zeros((12, 10, 8), np.uint8)
    label[2:6, 2:7, 2:6] = 1
    label[2:5, 7:9, 1:3] = 2
    pred = np.roll(label, 1, axis=1)
    if gap:
        label[9:] = IGNORED
        pred[9:] = np.random.default_rng(8).integers(0, 4, (3, 10, 8))
    return LabelMaps(
        pred=torch.from_numpy(pred),
        label=torch.from_numpy(label),
        classes=Classes(names=("air", *"abc"), tolerances_mm=(1.0, 1.0, 2.0)),
        spacing=SPACING,
    )


@pytest.mark.parametrize("metric", [*sorted(scoring.SHAPES), "calibration"])
def test_foreground_scores_are_those_without_the_gap(metric: str) -> None:
    """Surfaces, components and holes of the labelled part: the gap lies in air, away from every organ."""
    confidence = torch.from_numpy(np.random.default_rng(9).random((12, 10, 8)))

    def scores(gap: bool) -> list[dict[str, float]]:
        of_gap = maps(gap)
        if metric == "calibration" and not gap:
            cut = replace(of_gap, pred=of_gap.pred[:9], label=of_gap.label[:9])
            of_classes = scoring.score_calibration(confidence[:9], cut).classes
        else:
            of_classes = score_prediction(of_gap, [metric], confidence)[0].classes
        return [dict(row) for row in of_classes[1:]]

    for with_gap, without in zip(scores(True), scores(False), strict=True):
        assert with_gap == pytest.approx(without, nan_ok=True)


def test_overlap_counts_the_labelled_part_alone() -> None:
    with_gap = maps(True)
    without = maps(False)
    scores = score_prediction(with_gap, ["dsc"])[0]
    expected = scoring.score_overlap(without.pred[:9], without.label[:9], 4)
    for row, other in zip(scores.classes, expected.classes, strict=True):
        assert row == pytest.approx(other, nan_ok=True)
    assert scores.record == pytest.approx(expected.record)
    assert confusion(with_gap.pred, with_gap.label, 4).sum() == 9 * 10 * 8


def test_an_organ_is_cut_at_the_gap_in_both_maps() -> None:
    """Its surface there is the label's own, so that a right prediction is 0 mm away, however it goes on inside."""
    label = torch.zeros(8, 6, 6, dtype=torch.uint8)
    pred = torch.zeros(8, 6, 6, dtype=torch.uint8)
    label[2:5, 2:4, 2:4] = 1
    pred[2:8, 2:4, 2:4] = 1
    label[5:] = IGNORED
    assert (hd95(pred, label, 2)[1], nsd(pred, label, 2, 0.0)[1]) == (0, 1)


def test_success_draws_and_certificates_leave_the_gap_out() -> None:
    with_gap = maps(True)
    label = with_gap.label
    pred = with_gap.pred
    flipped = pred.clone()
    flipped[:2] = 3
    assert voxel_success(pred, flipped, label) == pytest.approx(2 / 9)
    certified = torch.zeros_like(pred, dtype=torch.bool)
    certified[:3] = certified[9:] = True
    assert certified_scores(pred, certified, label, 4)["certified_share"] == pytest.approx(3 / 9)
    assert certified_scores(pred, certified, label, 4) == pytest.approx(
        certified_scores(pred[:9], certified[:9], label[:9], 4), nan_ok=True
    )
    drawn = score_draw(label, pred)
    part = score_draw(label[:9], pred[:9])
    assert {name: drawn[name] for name in part} == pytest.approx(part)


def test_a_map_of_255_is_refused_as_before() -> None:
    """Masks of 0 and 255 are common, and are no gaps."""
    mask = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).reshape(1, 1, 4)
    with pytest.raises(UserError, match="expected classes 0 to 1, got 0 to 255"):
        confusion(mask, mask, 2)


def test_a_case_without_any_label_has_no_score() -> None:
    label = torch.full((4, 4, 4), IGNORED, dtype=torch.uint8)
    assert all(np.isnan(row["dsc"]) for row in scoring.score_overlap(torch.zeros_like(label), label, 3).classes)


def test_arrays_take_labels_to_ignore() -> None:
    image = np.random.default_rng(1).random((6, 5, 4))
    label = np.zeros((6, 5, 4), np.uint8)
    label[1:3] = 1
    label[3:5] = 9
    case = fb.Case(image, label, ignore=[9])
    assert case.label is not None
    assert (case.label[0].numpy() == np.where(label == 9, IGNORED, label)).all()
    assert (case.ignores, case.highest_label) == (True, 1)
    with pytest.raises(UserError, match="expected classes 0 to 253"):
        fb.Case(image, np.where(label == 9, 255, label), ignore=[7])


def test_training_refuses_voxels_that_do_not_count(tmp_path: Path) -> None:
    downloads.nnunet(tmp_path, ["a", "b", "c"], labels={"air": 0, "left": 1, "ignore": 2})
    job = TrainJob.model_validate(
        {
            "name": "t",
            "dataset": {"name": "raw", "loader": "nnunet_raw", "root": str(tmp_path)},
            "splits": {"train": "training[:1]", "select": "training[1:2]", "test": "training[2:3]"},
            "steps": 9,
            "warmup_steps": 0,
            "models": [{"name": "m", "arch": "unet"}],
        }
    )
    with pytest.raises(UserError, match=r"t: m: expected a label for every voxel, .* got raw with .* \(label 2\)"):
        training.train(job, str(tmp_path / "out"))
