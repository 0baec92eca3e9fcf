"""The table of views: each works with the columns that it names, and says so when there is nothing."""

import pytest
from reporting.handmade import classes, coded, row, shown

from freqbench.reporting import render
from freqbench.reporting.views import VIEWS
from freqbench.results import RECORDS

OF_ALL = {
    "nsd": 0.5,
    "source_defence": '{"name": "bit_depth", "bits": 3, "adaptive": true, "undefended": "id"}',
    "target_defence": '{"name": "bit_depth", "bits": 3, "adaptive": true, "undefended": "id"}',
    "certified_radius": 0.1,
}
ALWAYS = {column.name for column in RECORDS if column.mark == "identity"} | {"status", "finished_at"}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_needs_no_other_columns_than_it_names_and_takes_categoricals(name: str) -> None:
    view = VIEWS[name]
    pairs = [(s, t) for s in ("a", "b") for t in ("a", "b")]
    scores = {"dsc": 0.5, "dsc_clean": 0.9, **OF_ALL}
    rows = [row(attack, source=s, target=t, **scores) for attack in ("pgd", "corruption") for s, t in pairs]
    frame = shown(*rows)[[*dict.fromkeys((*ALWAYS, *view.columns, "label", "left_out"))]]
    held = (classes((rows[0], {"background": (1, 1), "liver": (0.1, 0.9)})),) if view.needs_classes else ()
    sections = view.build(frame, *held)
    assert sections[0].table is not None
    assert render.markdown(view.build(coded(frame), *held)) == render.markdown(sections)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_failures_only_is_a_sentence(name: str) -> None:
    view = VIEWS[name]
    frame = shown(row("pgd", status="failed", error="no memory"))
    (section,) = view.build(frame, classes()) if view.needs_classes else view.build(frame)
    assert section.table is None
    assert section.text.endswith(".")
