"""Defences side by side, and bounds: which rows are whose attacker's, certified at least, attacked at most."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reporting.handmade import data_lines, row, shown, t_interval

from freqbench.analysis import certificates
from freqbench.reporting import render
from freqbench.reporting.render import Section
from freqbench.reporting.views.defences import certified_sections, defences, shown_columns

MODELS = {
    "unet": None,
    "bits": {"name": "bit_depth", "bits": 3, "adaptive": True, "undefended": "id_unet"},
    "naive": {"name": "bit_depth", "bits": 3, "adaptive": False, "undefended": "id_unet"},
    "blurred": {"name": "gaussian_smoothing", "sigma": 1.0, "adaptive": True, "undefended": "id_unet"},
    "other": None,
}


def on(source: str, target: str, *scores: float, **values: Any) -> list[dict[str, Any]]:
    told = {f"{r}_defence": MODELS[n] and json.dumps(MODELS[n]) for r, n in (("source", source), ("target", target))}
    return [
        row("pgd", source=source, target=target, case=case, dsc=score, dsc_clean=0.9, **told, **values)
        for case, score in enumerate(scores)
    ]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    scores = {
        ("unet", "unet"): (0.3, 0.5),
        **dict.fromkeys((("unet", "bits"), ("unet", "naive")), (0.5, 0.7)),
        **dict.fromkeys((("bits", "bits"), ("bits", "naive")), (0.3, 0.4)),
        **dict.fromkeys((("naive", "bits"), ("naive", "naive")), (0.8, 0.6)),
        **dict.fromkeys((("bits", "unet"), ("blurred", "bits"), ("other", "bits"), ("other", "other")), (0.1, 0.1)),
    }
    return [*chain.from_iterable(on(*pair, *values) for pair, values in scores.items())]


def table(frame: pd.DataFrame) -> tuple[dict[str, dict[str, Any]], str]:
    (section,) = defences(frame)
    lines = data_lines(section)
    assert len({line["model"] for line in lines}) == len(lines)
    return {line["model"]: line for line in lines}, section.text


def test_the_attackers_of_one_defence_stand_in_one_row(rows: Any) -> None:
    """Means of two cases; attacks on other models, and on other defences, are nobody's here."""
    by_model, text = table(shown(*rows))
    assert set(by_model) == {"unet", "bits"}
    assert "bits: bit_depth bits=3." in text
    assert (by_model["unet"]["adaptive"], pd.isna(by_model["unet"]["naive"])) == (pytest.approx(40), True)
    bits = by_model["bits"]
    assert (bits["transferred"], bits["naive"], bits["adaptive"]) == pytest.approx((60, 70, 35))
    assert (bits["adaptive_low"], bits["adaptive_high"]) == pytest.approx(t_interval(30, 40), nan_ok=True)
    assert (bits["adaptive_cases"], bits["naive_cases"]) == (2, 2)  # an entry that predicts alike counts once
    assert bits["dsc_foreground_clean"] == pytest.approx(90)


def test_the_hidden_part_is_paired_by_case(rows: Any) -> None:
    """80 - 30 and 60 - 40, the naive attack's third case being left out."""
    by_model, _ = table(shown(*rows, *on("naive", "bits", 0.8, 0.6, 0.0)[2:]))
    bits = by_model["bits"]
    assert (bits["hidden"], bits["hidden_low"], bits["hidden_high"]) == pytest.approx(
        (35, *t_interval(20, 50)), nan_ok=True
    )
    assert (bits["naive_cases"], bits["adaptive_cases"]) == (3, 2)


def test_a_naive_entry_alone_is_still_shown() -> None:
    by_model, _ = table(shown(*on("naive", "naive", 0.8)))
    assert by_model["naive"]["naive"] == pytest.approx(80)
    assert pd.isna(by_model["naive"]["adaptive"])
    _, text = table(shown(*on("naive", "bits", 0.8), *on("bits", "bits", 0.5, 0.6)))
    assert "One or two patients are too few for an interval" in text  # of the naive attacker


def test_two_strengths_of_one_defence_are_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "coarse", {**(MODELS["bits"] or {}), "bits": 1})
    by_model, _ = table(shown(*on("bits", "bits", 0.5), *on("coarse", "coarse", 0.7)))
    assert (by_model["bits"]["adaptive"], by_model["coarse"]["adaptive"]) == pytest.approx((50, 70))


def test_attacks_that_no_defended_model_had_are_left_out() -> None:
    """The network without a defence may have many more."""
    more = [row(attack, dsc=0.3, dsc_clean=0.9) for attack in ("pgd", "corruption")]
    (section,) = defences(shown(*on("bits", "bits", 0.4), *more))
    assert list(section.table["model"]) == ["unet", "bits"]


def test_certificates_are_means_over_cases() -> None:
    columns = {"certified_radius": 0.1, "l2": 4.0, "certified_share_clean": 0.9, "certified_dice_clean": 0.8}
    values = columns | {"certified_dice": 0.5, "certified_dice_bound": 0.25, "certified_dice_bound_clean": 0.5}
    made = [
        row("pgd", source="unet", target="s", case=case, dsc=0.6, dsc_clean=0.9, certified_share=share, **values)
        for case, share in enumerate((0.2, 0.4))
    ]
    (section,) = certified_sections(shown(*made, row("pgd", dsc=0.5, dsc_clean=0.9)))
    (line,) = section.table.to_dict("records")
    assert (line["model"], line["made on"], line["cases"], line["radius"], line["l2"]) == ("s", "unet", 2, "0.1", 4.0)
    assert (line["share\nclean"], line["share\nattacked"]) == pytest.approx((90, 30))
    assert (line["bound\nclean"], line["bound\nattacked"], line["dsc"]) == pytest.approx((50, 25, 60))


REPORT = Path(__file__).parents[3] / "reports" / "bounds"
FILES = sorted(REPORT.glob("*.csv"))
ROW = {"dataset": "d", "target_model": "m", "threat_model": "l2", "kind": "voxels", "sigma": 1.0, "radius": 1.0}
ROW |= {"score": "dsc_foreground", "clean": 0.9, "attacked": 0.8, "draws": 100}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_report_shows_its_files(path: Path) -> None:
    table = render.markdown([Section("", shown_columns(certificates.means(pd.read_csv(path))))])
    text = (REPORT / "README.md").read_text("utf-8")
    assert [line for line in table.splitlines() if line.startswith("|") and line not in text] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_bound_of_the_report_lies_above_its_attack(path: Path) -> None:
    stored = pd.read_csv(path)
    higher = stored[~stored["score"].isin(certificates.LOWER)]
    assert (higher["certified"] <= higher["attacked_high"]).all()
    assert (higher["certified"] <= higher["clean"]).all()


def test_a_mean_lacks_its_bound_where_one_case_does() -> None:
    rows = pd.DataFrame([ROW | {"case_id": str(i), "certified": value} for i, value in enumerate((0.7, None))])
    assert certificates.means(rows)["certified"].isna().all()


def test_attack_that_leaves_more_than_no_change_counts_as_none() -> None:
    rows = pd.DataFrame([ROW | {"case_id": "0", "certified": 0.7, "clean": 0.75}])
    assert certificates.means(rows)["attacked"].tolist() == [75]
