"""The means are those that one gets by hand, and what is undefined, failed or of a former version does not enter."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from freqbench.analysis.tables import attack_table, current, failures, summary, transfer_matrix, transfer_table

Row = Callable[..., dict[str, Any]]
Records = Callable[..., pd.DataFrame]


def only(frame: pd.DataFrame, attack: str) -> Any:
    """The one row of an attack."""
    (index,) = frame.index[frame["attack"] == attack]
    return frame.loc[index]


def test_scores_are_means_over_cases_in_points(row: Row, records: Records) -> None:
    frame = records(
        row(case=0, dsc=0.2, dsc_foreground=0.1, ssim=0.9, lpips_similarity=0.8, linf=4 / 255, hd95=10.0),
        row(case=1, dsc=0.4, dsc_foreground=0.2, ssim=0.8, lpips_similarity=0.6, linf=8 / 255, hd95=20.0),
    )
    found = only(attack_table(frame), "pgd eps=8/255")
    names = ["dsc", "dsc_foreground", "ssim", "lpips", "linf_255", "hd95", "cases"]
    assert [found[name] for name in names] == pytest.approx([30, 15, 85, 70, 6, 15, 2])


def test_undefined_values_are_left_out_and_counted(row: Row, records: Records) -> None:
    frame = records(
        row(case=0, hd95=math.nan, hd95_undefined_classes=3),
        row(case=1, hd95=12.0, hd95_undefined_classes=1),
        row(case=2, hd95=14.0, hd95_undefined_classes=0),
    )
    found = only(attack_table(frame), "pgd eps=8/255")
    assert (found["hd95"], found["hd95_cases"], found["hd95_undefined"], found["cases"]) == (13.0, 2, 4, 3)


def test_what_nobody_computed_is_missing_not_zero(row: Row, records: Records) -> None:
    found = only(attack_table(records(row(dsc=0.5))), "pgd eps=8/255")
    assert found[["hd95", "hd95_undefined", "ssim", "dsc_foreground_drop", "dsc_drop"]].isna().all()


def test_the_drop_is_paired_with_clean_case_by_case(row: Row, records: Records) -> None:
    """The attack failed on case 1, whose clean Dice must not enter the drop, though it enters the clean row."""
    frame = records(
        row(case=0, dsc=0.5, dsc_clean=0.9),
        row(case=1, status="failed", error="e"),
        row("gn", case=1, dsc=0.5, dsc_clean=0.7),
    )
    table = attack_table(frame)
    for score in ("dsc_foreground", "dsc"):
        assert only(table, "pgd eps=8/255")[f"{score}_drop"] == pytest.approx(40)
        assert only(table, "clean")[score] == pytest.approx(80)


def test_the_clean_row_comes_first_and_counts_each_case_once(row: Row, records: Records) -> None:
    frame = records(
        *(row(attack, case=0, dsc=0.1, dsc_clean=0.9, hd95_clean=2.0) for attack in ("pgd", "gn", "vafa")),
        row(case=1, dsc=0.1, dsc_clean=0.6, hd95_clean=math.nan),
    )
    first = attack_table(frame).iloc[0]
    assert (first["attack"], first["cases"], first["hd95"]) == ("clean", 2, 2.0)
    assert first["dsc"] == pytest.approx(75)


def test_rows_are_ordered_by_threat_model_and_budget_never_by_dsc(row: Row, records: Records) -> None:
    frame = records(
        row(budget=8 / 255, dsc=0.1, dsc_clean=0.9),
        row("gn", dsc=0.8),
        row("vafa", dsc=0.5),
        row(budget=4 / 255, dsc=0.3),
    )
    found = attack_table(frame)
    assert found["attack"].tolist() == ["clean", "vafa q_max=20", "gn std=8/255", "pgd eps=4/255", "pgd eps=8/255"]
    assert found["threat_model"].tolist() == ["", "dct-quantization", "gaussian", "linf", "linf"]


def test_only_what_differs_is_said(row: Row, records: Records) -> None:
    frame = records(
        row("vafa", {"steps": 20, "block": [8, 16, 32], "control": "none"}),
        row("vafa", {"steps": 20, "block": [8, 16, 32], "control": "uniform"}),
        row("pgd", {"steps": 10}),
        row("gn", variant="released"),
        row("gn", variant="paper"),
    )
    assert summary(frame)["attack"].tolist() == [
        "vafa q_max=20",
        "vafa q_max=20 control=uniform",
        "gn std=8/255",
        "gn std=8/255 variant=paper",
        "pgd eps=8/255",
    ]


def test_a_parameter_that_some_rows_lack_is_said_by_those_that_have_it(row: Row, records: Records) -> None:
    """Rows of an older version may lack a parameter."""
    both = row("pgd", {"block": 8}), row("pgd", {"block": 8, "steps": 10}, minute=1)
    for frame in (records(*both), records(*both[::-1])):
        assert sorted(summary(frame)["attack"]) == ["pgd eps=8/255", "pgd eps=8/255 steps=10"]


def test_a_model_that_was_renamed_has_its_latest_name(row: Row, records: Records) -> None:
    ids = {"source_model_id": "x", "target_model_id": "x"}
    names = enumerate(("old", "new", "old"))
    frame = records(*(row(source=name, target=name, case=n, minute=n, **ids) for n, name in names))
    assert set(current(frame)["source_model"]) == {"old"}


def test_a_null_row_is_never_called_like_its_attack(row: Row, records: Records) -> None:
    """Not even where it stands alone."""
    (label,) = summary(records(row("vafa", {"control": "uniform"})))["attack"]
    assert label == "vafa q_max=20 control=uniform"


def test_an_attack_without_a_budget_has_its_rows_all_the_same(row: Row, records: Records) -> None:
    frame = records(row(dsc=0.5), *(row("dfb", {"band": band}, dsc=0.1, dsc_clean=0.9) for band in ("low", "high")))
    found = attack_table(frame)
    assert found["attack"].tolist() == ["clean", "pgd eps=8/255", "dfb band=high", "dfb band=low"]
    assert only(found, "dfb band=low")["dsc_drop"] == pytest.approx(80)
    assert summary(frame)["budget"].isna().tolist() == [True, False, True, True]


def test_the_budget_that_is_not_given_is_not_said(row: Row, records: Records) -> None:
    linf = {"threat_model": "linf", "budget_name": "linf", "budget": 8 / 255}
    frame = records(row("random_noise", {"linf": None}), row("random_noise", {"l2": None}, **linf))
    assert sorted(summary(frame)["attack"]) == ["random_noise l2=20", "random_noise linf=8/255"]


def test_a_reconstruction_is_never_called_like_a_described_attack(row: Row, records: Records) -> None:
    """Although it is the attack's only variant, and its default."""
    (label,) = summary(records(row("faa", variant="reconstruction")))["attack"]
    assert label == "faa portion=0.1 variant=reconstruction"


def test_seeds_are_averaged_and_counted(row: Row, records: Records) -> None:
    frame = records(*(row(case=case, seed=seed, dsc=0.1 * seed) for case in range(2) for seed in range(3)))
    found = only(attack_table(frame), "pgd eps=8/255")
    assert (found["cases"], found["seeds"]) == (2, 3)
    assert found["dsc"] == pytest.approx(10)


def test_an_attack_that_failed_on_all_cases_keeps_its_row(row: Row, records: Records) -> None:
    found = only(attack_table(records(row(status="failed", error="e"), row("gn", dsc=0.1))), "pgd eps=8/255")
    assert (found["cases"], found["failed"]) == (0, 1)
    assert math.isnan(found["dsc"])


def test_failures_come_with_their_number_and_first_reason(row: Row, records: Records) -> None:
    frame = records(
        row(case=0, status="failed", error="first"),
        row(case=1, status="failed", error="second", minute=1),
        row(case=2),
    )
    (found,) = failures(frame).to_dict("records")
    assert (found["attack"], found["failed"], found["first_reason"]) == ("pgd eps=8/255", 2, "first")


def test_of_two_versions_of_a_case_only_the_latest_counts(row: Row, records: Records) -> None:
    old, new = row(dsc=0.1, cell_id="old"), row(dsc=0.3, cell_id="new", minute=5)
    assert current(records(new, old))["cell_id"].tolist() == ["new"]
    assert only(attack_table(records(new, old)), "pgd eps=8/255")["dsc"] == pytest.approx(30)


def test_two_models_of_one_name_are_told_apart(row: Row, records: Records) -> None:
    ids = [{"source_model_id": key, "target_model_id": key} for key in ("aaaaaaaa", "bbbbbbbb")]
    frame = records(*(row(dsc=0.1 * number, **pair) for number, pair in enumerate(ids)))
    assert attack_table(frame)["source_model"].tolist() == ["unet#aaaaaa", "unet#bbbbbb"]


# Transfer


@pytest.fixture
def pairs(row: Row, records: Records) -> pd.DataFrame:
    """Two models attacking each other; unet -> unetr is missing for gn."""
    clean = {"unet": 0.9, "unetr": 0.8}
    left = {("unet", "unet"): 0.1, ("unet", "unetr"): 0.6, ("unetr", "unet"): 0.7, ("unetr", "unetr"): 0.2}
    rows = [row(source=s, target=t, dsc=dsc, dsc_clean=clean[t]) for (s, t), dsc in left.items()]
    return records(*rows, row("gn", source="unet", target="unet", dsc=0.85, dsc_clean=0.9))


def test_the_matrix_has_sources_in_rows_and_targets_in_columns(pairs: pd.DataFrame) -> None:
    found = transfer_matrix(pairs, "pgd eps=8/255")
    assert found.index.tolist() == ["clean", "unet", "unetr"]
    assert found.columns.tolist() == ["unet", "unetr"]
    assert found.to_numpy() == pytest.approx(np.array([[90, 80], [10, 60], [70, 20]]))


def test_the_drop_matrix_is_in_points_against_the_target_on_clean(pairs: pd.DataFrame) -> None:
    found = transfer_matrix(pairs, "pgd eps=8/255", drop=True)
    assert found.to_numpy() == pytest.approx(np.array([[80, 20], [20, 60]]))


def test_the_matrix_of_an_unknown_attack_names_the_known(pairs: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"no attack 'pgd' among gn std=8/255, pgd eps=8/255"):
        transfer_matrix(pairs, "pgd")


def test_the_transfer_table_stacks_the_matrices(pairs: pd.DataFrame) -> None:
    found = transfer_table(pairs)
    assert found[["attack", "source_model"]].to_numpy().tolist() == [
        ["clean", ""],
        ["gn std=8/255", "unet"],
        ["pgd eps=8/255", "unet"],
        ["pgd eps=8/255", "unetr"],
    ]
    assert found["unetr"].tolist() == pytest.approx([80, math.nan, 60, 20], nan_ok=True)


def test_the_attack_table_of_a_target_has_all_sources(pairs: pd.DataFrame) -> None:
    found = attack_table(pairs, target="unetr")
    assert found[["source_model", "attack"]].to_numpy().tolist() == [
        ["unet", "clean"],
        ["unet", "pgd eps=8/255"],
        ["unetr", "clean"],
        ["unetr", "pgd eps=8/255"],
    ]
    assert found["dsc"].tolist() == pytest.approx([80, 60, 80, 20])


def test_the_foreground_leads_and_the_papers_columns_follow(row: Row, records: Records) -> None:
    scores = {"dsc": 0.5, "dsc_clean": 0.9, "dsc_foreground": 0.3, "dsc_foreground_clean": 0.8, "hd95_penalised": 7.0}
    frame = records(row(**scores), row(case=1, **scores | {"dsc_foreground": math.nan}))
    table = attack_table(frame)
    found = only(table, "pgd eps=8/255")
    shown = [name for name in table if name in ("dsc_foreground", "hd95_penalised_mm", "dsc", "hd95")]
    assert shown == ["dsc_foreground", "hd95_penalised_mm", "dsc", "hd95"]
    assert found[["dsc_foreground", "dsc_foreground_drop", "dsc", "dsc_drop"]].tolist() == pytest.approx(
        [30, 50, 50, 40]
    )
    assert found[["hd95_penalised_mm", "dsc_foreground_cases", "dsc_cases"]].tolist() == [7, 1, 2]
    assert transfer_table(frame)["unet"].tolist() == pytest.approx([80, 30])
    assert transfer_table(frame, "dsc")["unet"].tolist() == pytest.approx([90, 50])


@pytest.mark.parametrize("make", [transfer_table, lambda frame: transfer_matrix(frame, "pgd eps=8/255")])
def test_transfer_is_within_one_dataset(row: Row, records: Records, make: Callable[..., pd.DataFrame]) -> None:
    with pytest.raises(ValueError, match="records of one dataset"):
        make(records(row(), row(dataset="other")))
