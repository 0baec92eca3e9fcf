"""The means are those that one gets by hand, and what is undefined, failed or of a former version does not enter."""

import math
from itertools import product
from typing import Any

import pandas as pd
import pytest
from reporting.handmade import records, row

from freqbench.analysis.tables import attack_table, current, failures, summary, transfer_table

PGD = "pgd eps=8/255"
MOVED = ["displacement_mean_mm", "displacement_max_mm", "jacobian_min"]


def only(frame: pd.DataFrame, attack: str) -> Any:
    (index,) = frame.index[frame["attack"] == attack]
    return frame.loc[index]


def test_scores_are_means_in_points_foreground_first() -> None:
    clean = {"dsc_clean": 0.9, "dsc_foreground_clean": 0.8, "hd95_penalised": 7.0}
    frame = records(
        row(case=0, dsc=0.2, dsc_foreground=0.1, ssim=0.9, lpips_similarity=0.8, linf=4 / 255, hd95=10.0, **clean),
        row(case=1, dsc=0.4, dsc_foreground=0.2, ssim=0.8, lpips_similarity=0.6, linf=8 / 255, hd95=20.0, **clean),
        row(case=2, dsc=0.3, dsc_foreground=math.nan, **clean),
    )
    shown = only(attack_table(summary(frame)), PGD)
    names = ["dsc", "dsc_drop", "dsc_foreground", "dsc_foreground_drop", "ssim", "lpips", "linf_255", "hd95"]
    assert [shown[name] for name in names] == pytest.approx([30, 60, 15, 65, 85, 70, 6, 15])
    assert shown[["hd95_penalised_mm", "cases", "dsc_foreground_cases", "dsc_cases"]].tolist() == [7, 3, 2, 3]
    assert transfer_table(summary(frame))["unet"].tolist() == pytest.approx([80, 15])
    assert transfer_table(summary(frame), "dsc")["unet"].tolist() == pytest.approx([90, 30])


def test_displacements_are_shown_where_attack_moved_anatomy() -> None:
    moved = {"displacement_mean_mm": 1.5, "displacement_max_mm": 3.0, "jacobian_min": 0.5}
    first = row(**moved)
    second = row(case=1, **{**moved, "jacobian_min": 0.7})
    assert only(attack_table(summary(records(first, second))), PGD)[MOVED].tolist() == pytest.approx([1.5, 3, 60])
    assert not {*MOVED} & {*attack_table(summary(records(row())))}


def test_undefined_values_are_left_out_and_counted() -> None:
    frame = records(
        row(case=0, hd95=math.nan, hd95_undefined_classes=3),
        row(case=1, hd95=12.0, hd95_undefined_classes=1),
        row(case=2, hd95=14.0, hd95_undefined_classes=0),
    )
    shown = only(attack_table(summary(frame)), PGD)
    assert (shown["hd95"], shown["hd95_cases"], shown["hd95_undefined"], shown["cases"]) == (13.0, 2, 4, 3)
    assert shown[["ssim", "dsc_foreground_drop", "dsc_drop"]].isna().all()  # what nobody computed


def test_the_drop_is_paired_with_clean_case_by_case() -> None:
    """The attack failed on case 1, whose clean Dice must not enter the drop, though it enters the clean row."""
    frame = records(
        row(case=0, dsc=0.5, dsc_clean=0.9),
        row(case=1, status="failed", error="e"),
        row("gn", case=1, dsc=0.5, dsc_clean=0.7),
    )
    table = attack_table(summary(frame))
    for score in ("dsc_foreground", "dsc"):
        assert only(table, PGD)[f"{score}_drop"] == pytest.approx(40)
        assert only(table, "clean")[score] == pytest.approx(80)


def test_the_clean_row_comes_first_and_counts_each_case_once() -> None:
    frame = records(
        *(row(attack, case=0, dsc=0.1, dsc_clean=0.9, hd95_clean=2.0) for attack in ("pgd", "gn", "vafa")),
        row(case=1, dsc=0.1, dsc_clean=0.6, hd95_clean=math.nan),
    )
    first = attack_table(summary(frame)).iloc[0]
    assert first[["attack", "cases", "hd95", "dsc"]].tolist() == ["clean", 2, 2.0, pytest.approx(75)]


def test_rows_go_by_threat_model_and_budget_never_by_dsc() -> None:
    frame = records(
        row(budget=8 / 255, dsc=0.1, dsc_clean=0.9),
        row("gn", dsc=0.8),
        row("vafa", dsc=0.5),
        row(budget=4 / 255, dsc=0.3),
        row("dfb", {"band": "low"}, dsc=0.1, dsc_clean=0.9),
    )
    table = attack_table(summary(frame))
    assert table["attack"].tolist() == ["clean", "vafa q_max=20", "gn std=8/255", "pgd eps=4/255", PGD, "dfb band=low"]
    assert table["threat_model"].tolist() == ["", "dct-quantization", "gaussian", "linf", "linf", "none"]
    assert only(table, "dfb band=low")["dsc_drop"] == pytest.approx(80)


def test_models_have_latest_names_and_equal_names_differ() -> None:
    ids = {"source_model_id": "x", "target_model_id": "x"}
    names = enumerate(("old", "new", "old"))
    frame = records(*(row(source=name, target=name, case=n, minute=n, **ids) for n, name in names))
    assert set(current(frame)["source_model"]) == {"old"}
    twins = [{"source_model_id": key, "target_model_id": key} for key in ("aaaaaaaa", "bbbbbbbb")]
    frame = records(*(row(dsc=0.1, **pair) for pair in twins))
    assert set(current(frame)["source_model"]) == {"unet#aaaaaa", "unet#bbbbbb"}


def test_seeds_are_averaged_and_latest_versions_count() -> None:
    rows = [row(case=case, seed=seed, dsc=0.1 * seed) for case, seed in product(range(2), range(3))]
    rows.append(row(dsc=0.9, cell_id="old", minute=-5))
    shown = only(attack_table(summary(records(*rows))), PGD)
    assert (shown["cases"], shown["seeds"], shown["dsc"]) == (2, 3, pytest.approx(10))


def test_failures_keep_their_row_number_and_first_reason() -> None:
    frame = records(
        row(case=0, status="failed", error="first"),
        row(case=1, status="failed", error="second", minute=1),
        row("gn", dsc=0.1),
    )
    (failure,) = failures(frame).to_dict("records")
    assert (failure["attack"], failure["failed"], failure["first_reason"]) == (PGD, 2, "first")
    shown = only(attack_table(summary(frame)), PGD)
    assert (shown["cases"], shown["failed"], math.isnan(shown["dsc"])) == (0, 2, True)


@pytest.fixture
def pairs() -> pd.DataFrame:
    """Two models attacking each other; unet -> unetr is missing for gn."""
    clean = {"unet": 0.9, "unetr": 0.8}
    left = {("unet", "unet"): 0.1, ("unet", "unetr"): 0.6, ("unetr", "unet"): 0.7, ("unetr", "unetr"): 0.2}
    rows = [row(source=s, target=t, dsc=dsc, dsc_clean=clean[t]) for (s, t), dsc in left.items()]
    return records(*rows, row("gn", source="unet", target="unet", dsc=0.85, dsc_clean=0.9))


def test_transfer_table_has_sources_by_targets(pairs: pd.DataFrame) -> None:
    table = transfer_table(summary(pairs))
    keys = [["clean", ""], ["gn std=8/255", "unet"], [PGD, "unet"], [PGD, "unetr"]]
    assert table[["attack", "source_model"]].to_numpy().tolist() == keys
    assert table["unet"].tolist() == pytest.approx([90, 85, 10, 70])
    assert table["unetr"].tolist() == pytest.approx([80, math.nan, 60, 20], nan_ok=True)


def test_the_attack_table_of_a_target_has_all_sources(pairs: pd.DataFrame) -> None:
    table = attack_table(summary(pairs), target="unetr")
    keys = [["unet", "clean"], ["unet", PGD], ["unetr", "clean"], ["unetr", PGD]]
    assert table[["source_model", "attack"]].to_numpy().tolist() == keys
    assert table["dsc"].tolist() == pytest.approx([80, 60, 80, 20])
