"""Detection: whose volumes a row tells from which others, by whom they were made."""

import json
from typing import Any

import pytest
from reporting.handmade import data_lines, records, row, shown

from freqbench.reporting.views import VIEWS
from freqbench.reporting.views.detection import applies, detection

TOLD = {
    "unet": None,
    "watched": {"name": "band_energy", "adaptive": True, "undefended": "id_unet"},
    "other": {"name": "band_energy", "adaptive": True, "undefended": "id_other"},
}
CLEAN = (1.0, 2.0, 3.0, 4.0)


def on(source: str, target: str, suspicion: tuple[float, ...], dsc: float = 0.5, **values: Any) -> list[dict[str, Any]]:
    told = {f"{r}_defence": TOLD[n] and json.dumps(TOLD[n]) for r, n in (("source", source), ("target", target))}
    pairs = enumerate(zip(suspicion, CLEAN, strict=True))
    return [
        row(
            **{"source": source, "target": target, "case": case, "dsc": dsc, "dsc_clean": 0.9, **told, **values},
            added_metrics=json.dumps({"suspicion": of, "suspicion_clean": clean}) if TOLD[target] else None,
        )
        for case, (of, clean) in pairs
    ]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    null = {"attack": "random_noise", "threat_model": "linf", "budget_name": "linf", "budget": 8 / 255}
    made = [
        *on("unet", "unet", CLEAN, 0.2),
        *on("unet", "watched", (5.0, 6.0, 7.0, 8.0), 0.2),
        *on("watched", "watched", CLEAN, 0.6),
        *on("other", "watched", (9.0,) * 4, 0.1),
    ]
    made += [
        *on("unet", "watched", (7.5,) * 4, **null),
        *on("unet", "watched", (0.0,) * 4, **null | {"budget": 0.5}),
    ]
    return made


def test_row_has_an_attack_that_knows_beside_one_that_does_not(rows: list[dict[str, Any]]) -> None:
    """All attacked are above all clean; a quarter above their null rows; who knows is as suspicious as clean ones."""
    (section,) = detection(shown(*rows))
    (line,) = data_lines(section)
    assert (line["target_model"], line["defence"]) == ("watched", "band_energy")
    assert (line["unaware_dsc"], line["aware_dsc"]) == pytest.approx((20, 60))
    assert (line["unaware_clean"], line["aware_clean"]) == (100, 50)
    assert (line["unaware_null"], line["aware_null"]) == (25, 0)
    assert line["unaware_clean_low"] == pytest.approx(100 * 0.025**0.25)
    assert "watched: band_energy" in section.text


def test_view_is_shown_unasked_where_a_network_had_a_detector(rows: list[dict[str, Any]]) -> None:
    assert applies(records(*rows))
    assert not applies(records(*on("unet", "unet", CLEAN)))
    (section,) = VIEWS["detection"].build(shown(*on("unet", "unet", CLEAN)))
    assert section.text.startswith("No network stood beside a detector")
