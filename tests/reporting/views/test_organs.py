"""Organs: drops of classes, joined to their records by key."""

from math import nan

import pandas as pd
import pytest
from reporting import student
from reporting.handmade import classes, row, shown

from freqbench.reporting.views.organs import organs


def test_the_drop_of_each_class_is_its_own() -> None:
    rows = [row("pgd", case=case, dsc=0.5, dsc_clean=0.9) for case in (0, 1)]
    scores = [
        {"background": (0.9, 1.0), "liver": (0.5, 0.9), "spleen": (0.2, 0.8)},
        {"background": (0.9, 1.0), "liver": (0.7, 0.9), "spleen": (nan, nan)},
    ]
    of_classes = classes(*zip(rows, scores, strict=True))
    (section,) = organs(shown(*rows), of_classes)
    assert list(section.table) == ["attack", "threat_model", "liver", "spleen", "hit hardest"]
    assert section.table.to_numpy().tolist() == [
        ["(DSC clean)", "", "90.0", "80.0", ""],
        ["(n clean)", "", "2", "1", ""],
        ["pgd eps=8/255", "linf", "30.0", "60.0", "spleen"],
    ]
    found = section.data.set_index("class_name")
    of_liver = found.loc["liver", ["cases", "patients", "drop", "low", "high"]].tolist()
    assert of_liver == pytest.approx([2, 2, 30, *student.interval(20, 40)])
    assert found.loc["spleen", ["cases", "patients", "drop"]].tolist() == pytest.approx([1, 1, 60])


def test_classes_of_transferred_failed_and_unknown_records_do_not_count() -> None:
    good, other = row("pgd", dsc=0.5, dsc_clean=0.9), row("pgd", source="unetr", target="unet", dsc=0.5, dsc_clean=0.9)
    failed, unknown = row("gn", status="failed", error="no"), row("pgd", case=9)
    kidney = {"background": (1.0, 1.0), "kidney": (0.4, 0.5)}
    worse = {"background": (1.0, 1.0), "kidney": (0.0, 0.5)}
    (section,) = organs(
        shown(good, other, failed), classes((good, kidney), *((each, worse) for each in (other, failed, unknown)))
    )
    assert section.data["drop"].tolist() == pytest.approx([10])


def test_classes_called_as_a_column_or_alike_stay_apart() -> None:
    good = row("pgd", dsc=0.5, dsc_clean=0.9)
    held = classes((good, {"background": (1, 1), "attack": (0.1, 0.2), "vein": (0.1, 0.3)}))
    twin = held[held["class_index"] == 2].assign(class_index=3)
    (section,) = organs(shown(good), pd.concat([held, twin]))
    assert list(section.table) == ["attack", "threat_model", "attack #1", "vein #2", "vein #3", "hit hardest"]


def test_a_store_without_class_records_has_a_sentence_instead() -> None:
    for held in (classes(), pd.DataFrame()):
        (section,) = organs(shown(row("pgd", dsc=0.5, dsc_clean=0.9)), held)
        assert section.table is None
        assert "no class records" in section.text
