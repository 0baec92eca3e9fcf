"""Cost: means a volume and the drop they buy."""

import pytest
from reporting.handmade import row, shown

from freqbench.reporting.views.cost import cost

SPENT = {"num_forwards": 30, "num_backwards": 20, "peak_memory_bytes": 3 * 2**29, "device": "gpu", "window_batch": 4}


def test_means_a_volume_and_the_drop_per_pass() -> None:
    rows = [row("pgd", case=n, dsc=0.6 - n / 10, dsc_clean=0.8, attack_seconds=2.0 + n, **SPENT) for n in (0, 1)]
    (section,) = cost(shown(*rows))
    (line,) = section.table.to_dict("records")
    assert (line["seconds"], line["forwards"], line["backwards"], line["GiB"]) == (2.5, 30, 20, 1.5)
    assert line["dsc_foreground_drop"] == pytest.approx(25)
    assert line["interval"] == "[-38.5, 88.5]"  # 25 -+ 12.706 x 5
    assert line["drop per 100 passes"] == "50"


def test_what_was_not_measured_or_made_without_a_pass_is_empty() -> None:
    (section,) = cost(shown(row("pgd", dsc=0.6, dsc_clean=0.8)))
    assert section.table[["seconds", "GiB"]].isna().all(axis=None)
    assert "do not hold them: seconds, forwards, backwards, memory." in section.text
    spent = SPENT | {"num_forwards": 0, "num_backwards": 0}
    (section,) = cost(shown(row("gn", dsc=0.6, dsc_clean=0.8, attack_seconds=2.0, **spent)))
    assert section.table["drop per 100 passes"].tolist() == [""]


def test_devices_are_not_averaged_and_volumes_count_once_though_several_models_scored_them() -> None:
    scores = {"dsc": 0.6, "dsc_clean": 0.8}
    rows = [row("pgd", target=target, attack_seconds=2.0, **scores, **SPENT) for target in ("unet", "unetr")]
    rows.append(row("pgd", case=1, attack_seconds=90.0, **scores, **(SPENT | {"device": "cpu"})))
    (section,) = cost(shown(*rows))
    found = section.table[["model", "device", "seconds", "cases"]].to_numpy().tolist()
    assert found == [["unet", "cpu", 90.0, 1], ["unet", "gpu", 2.0, 1]]


def test_the_foreground_leads_and_the_papers_drop_stands_beside_it() -> None:
    foreground = {"dsc_foreground": 0.3, "dsc_foreground_clean": 0.8}
    (section,) = cost(shown(row("pgd", dsc=0.6, dsc_clean=0.8, hd95_penalised=7.0, **foreground, **SPENT)))
    (line,) = section.table.to_dict("records")
    assert (line["dsc_foreground_drop"], line["dsc_drop"], line["hd95_penalised"]) == pytest.approx((50, 20, 7))
    assert line["drop per 100 passes"] == "100"
