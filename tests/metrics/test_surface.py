"""HD95, NSD and ASSD against hand-counted distances, MONAI, medpy and the stored golden values."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from freqbench.core.errors import UserError
from freqbench.metrics import assd, hd95, hd95_penalised, nsd, surface, surface_scores, undefined_classes

CASES = ("normal", "label_absent3", "pred_absent3", "both_absent3", "border_thin")
SPACING = (0.8, 0.8, 2.5)


def blobs(seed: int, shape: tuple[int, int, int] = (26, 22, 18), num_classes: int = 4) -> np.ndarray[Any, Any]:
    """Smooth random objects that touch the border, and now and then a class that is nowhere."""
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.normal(size=shape), 2.5) for _ in range(num_classes)])
    fields[0] += 0.03
    return fields.argmax(axis=0).astype(np.uint8)


def noisy(label: np.ndarray[Any, Any], seed: int, share: float, num_classes: int = 4) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    wrong = rng.random(label.shape) < share
    return np.where(wrong, (label + rng.integers(1, num_classes, label.shape)) % num_classes, label).astype(np.uint8)


def by_monai(function: str, pred: Any, label: Any, num_classes: int, **options: Any) -> np.ndarray[Any, Any]:
    import torch
    from monai import metrics

    hot = [
        torch.nn.functional.one_hot(torch.as_tensor(x).long(), num_classes).movedim(-1, 0)[None] for x in (pred, label)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances = getattr(metrics, function)(*hot, **options)
    return distances[0].double().numpy()


def monai_hd95(pred: Any, label: Any, num_classes: int, spacing: Any) -> np.ndarray[Any, Any]:
    options = {"include_background": True, "percentile": 95, "spacing": spacing}
    return by_monai("compute_hausdorff_distance", pred, label, num_classes, **options)


def medpy_hd95(pred: Any, label: Any, num_classes: int, spacing: Any) -> np.ndarray[Any, Any]:
    from medpy.metric.binary import hd95 as reference

    masks = [(pred == k, label == k) for k in range(num_classes)]
    return np.array([reference(p, t, voxelspacing=spacing) if p.any() and t.any() else math.nan for p, t in masks])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("unit", "spacing"), [("vox", None), ("mm", SPACING)])
def test_both_conventions_are_the_stored_ones(arrays: Path, case: str, unit: str, spacing: Any) -> None:
    values = json.loads((arrays / "models" / "metrics_values.json").read_text())["values"]
    with np.load(arrays / "models" / "metrics.npz") as stored_masks:
        masks = stored_masks[f"{case}__pred"], stored_masks[f"{case}__label"]
    expected = [float(v) for v in values[case][f"monai_hd95_{unit}_directed0_bg1"]]
    np.testing.assert_allclose(hd95(*masks, 4, spacing), expected, rtol=2e-6)  # MONAI interpolates in float32
    stored = [values[case][f"medpy_hd95_{unit}_class{k}"] for k in range(4)]
    expected = [math.nan if str(v).startswith("EXC") else float(v) for v in stored]
    np.testing.assert_allclose(hd95(*masks, 4, spacing, convention="medpy"), expected, rtol=1e-12)


@settings(max_examples=10)
@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.0, 0.02, 0.3]),
    spacing=st.sampled_from([None, (1.0, 1.0, 1.0), (0.7, 1.9, 3.3)]),
)
def test_random_masks_agree_with_monai_and_medpy(seed: int, share: float, spacing: Any) -> None:
    label = blobs(seed)
    pred = noisy(np.roll(label, (1, -2, 0), (0, 1, 2)), seed, share)
    expected = monai_hd95(pred, label, 4, spacing)
    np.testing.assert_allclose(hd95(pred, label, 4, spacing), expected, rtol=5e-5)  # the rank, too, is in float32
    medpy = hd95(pred, label, 4, spacing, convention="medpy")
    np.testing.assert_allclose(medpy, medpy_hd95(pred, label, 4, spacing), rtol=1e-12)
    missing = np.array([not (label == number).any() for number in range(1, 4)])
    tolerances = [1.0, 1.95, 3.0]
    expected = by_monai("compute_surface_dice", pred, label, 4, class_thresholds=tolerances, spacing=spacing)
    shares = nsd(pred, label, 4, tolerances, spacing)
    np.testing.assert_allclose(shares, [math.nan, *np.where(missing, math.nan, expected)], rtol=1e-6)
    expected = by_monai("compute_average_surface_distance", pred, label, 4, symmetric=True, spacing=spacing)
    expected = np.where(np.isfinite(expected), expected, math.nan)  # MONAI: infinite where one of the two is empty
    np.testing.assert_allclose(assd(pred, label, 4, spacing), [math.nan, *expected], rtol=5e-6)


@pytest.fixture(scope="module")
def searched() -> tuple[Any, Any, dict[Any, Any]]:
    """A prediction, its label, and by spacing MONAI's and medpy's HD95, and NSD and ASSD as they are searched here."""
    label = blobs(3, shape=(40, 36, 30))
    pred = noisy(np.roll(label, 2, 0), 4, 0.05)

    def references(*task: Any) -> Any:
        return monai_hd95(*task), medpy_hd95(*task), nsd(*task[:3], 2.0, task[3]), assd(*task)

    return pred, label, {each: references(pred, label, 4, each) for each in ((1.0, 1.0, 1.0), (0.7, 1.9, 3.3))}


@pytest.mark.parametrize("voxels", [0, 10**9], ids=["tree", "transform"])
def test_every_way_of_searching_gives_the_same(monkeypatch: pytest.MonkeyPatch, searched: Any, voxels: int) -> None:
    pred, label, references = searched
    monkeypatch.setattr(surface, "VOXELS_A_QUERY", voxels)
    for spacing, (monai, medpy, shares, means) in references.items():
        np.testing.assert_allclose(hd95(pred, label, 4, spacing), monai, rtol=5e-6)
        np.testing.assert_allclose(hd95(pred, label, 4, spacing, convention="medpy"), medpy, rtol=1e-12)
        np.testing.assert_array_equal(nsd(pred, label, 4, 2.0, spacing), shares)
        np.testing.assert_allclose(assd(pred, label, 4, spacing), means, rtol=1e-12)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (1.5, 1.5, 2.0)])
def test_one_pass_gives_what_single_calls_give(spacing: tuple[float, float, float]) -> None:
    label = blobs(11)
    pred = noisy(np.roll(label, 1, 1), 12, 0.03)
    scores = surface_scores(pred, label, 4, spacing)
    np.testing.assert_allclose(scores["hd95"], hd95(pred, label, 4))
    np.testing.assert_allclose(scores["hd95_mm"], hd95(pred, label, 4, spacing), rtol=1e-12)
    np.testing.assert_allclose(scores["hd95_medpy_mm"], hd95(pred, label, 4, spacing, convention="medpy"), rtol=1e-12)


def test_single_voxels_are_near_up_to_the_tolerance_to_rounding() -> None:
    """Voxels 7 and 12 of 0.8 mm are 4 mm apart, as a difference of products 1e-15 more; two pairs ask a tree."""
    pred, label = np.zeros((2, 14, 41, 41), int)
    for corner in (0, 40):
        pred[7, corner, corner] = 1
        label[12, corner, corner] = 1
    assert assd(pred, label, 2, (0.8, 1, 1))[1] == pytest.approx(4.0)
    assert [nsd(pred, label, 2, limit, (0.8, 1, 1))[1] for limit in (4.0, 3.99, 0.0)] == [1, 0, 0]
    assert (nsd(label, label, 2, 0.0)[1], assd(label, label, 2)[1]) == (1, 0)


def test_two_plates_by_hand() -> None:
    """One plate of 3 x 3 voxels, and the same with one voxel that stands 2 above its centre."""
    label = np.zeros((5, 5, 6), int)
    label[1:4, 1:4, 1] = 1
    pred = label.copy()
    pred[2, 2, 3] = 1
    assert assd(pred, label, 2, (1, 1, 2.5))[1] == pytest.approx(5 / 19)
    assert [nsd(pred, label, 2, limit, (1, 1, 2.5))[1] for limit in (5.0, 4.9)] == pytest.approx([1, 18 / 19])


@pytest.mark.parametrize(
    ("in_pred", "in_label", "share"), [(0, 0, math.nan), (1, 0, math.nan), (0, 1, 0.0)], ids=["both", "label", "pred"]
)
def test_empty_mask_has_no_distance_and_a_missed_class_nsd_0(in_pred: int, in_label: int, share: float) -> None:
    pred, label = np.zeros((2, 6, 6, 6), int)
    pred[1, 1, 1] = in_pred
    label[2, 2, 2] = in_label
    assert nsd(pred, label, 2, 3.0)[1] == pytest.approx(share, nan_ok=True)
    assert math.isnan(assd(pred, label, 2)[1])
    assert math.isnan(hd95(pred, label, 2)[1])


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, (1.0,), (1.0, 1.0, 1.0, 1.0)])
def test_tolerance_is_one_number_or_one_of_each_foreground_class(tolerance: Any) -> None:
    with pytest.raises(UserError, match="expected a tolerance of at least 0, or 3 of them"):
        nsd(np.ones((3, 3, 3), int), np.ones((3, 3, 3), int), 4, tolerance)


def test_missed_class_costs_diagonal_and_absent_one_nothing() -> None:
    distances = np.array([1.0, 4.0, math.nan, math.nan])
    present = np.array([True, True, True, False])
    assert hd95_penalised(distances, present, (3, 4, 12), (1.0, 1.0, 1.0)) == pytest.approx((4.0 + 13.0) / 2)
    assert undefined_classes(distances) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing": (1.0, 1.0)}, "spacing of three positive numbers"),
        ({"spacing": (1.0, 1.0, 0.0)}, "spacing of three positive numbers"),
        ({"convention": "max"}, "expected convention 'monai' or 'medpy'"),
        ({"num_classes": 1}, "expected classes 0 to 0"),
        ({"num_classes": 300}, "expected 1 to 256 classes"),
        ({"label": np.zeros((3, 3, 4), int)}, "expected two volumes of one shape"),
        ({"label": np.zeros((3, 3, 3))}, "expected an integer label map"),
        ({"label": np.zeros((2, 3, 3, 3), int)}, "expected one volume"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"pred": np.ones((3, 3, 3), int), "label": np.ones((3, 3, 3), int), "num_classes": 2}
    with pytest.raises(UserError, match=message):
        hd95(**good | arguments)
