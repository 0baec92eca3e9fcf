"""A store in short: white-box scores with null rows beside them, one transfer matrix, what failed."""

import pytest
from reporting.handmade import row, shown

from freqbench.reporting.render import Section, terminal
from freqbench.reporting.views.overview import overview

MODELS = ("unet", "unetr")


def cells(section: Section, first: str) -> dict[str, list[object]]:
    """The cells of each row by what stands in its first column."""
    assert section.table is not None
    return {row[first]: [row[name] for name in section.table.columns[1:]] for row in section.table.to_dict("records")}


def vafa(control: str, **values: object) -> dict[str, object]:
    return row("vafa", {"control": control}, dsc_clean=0.9, **values)


def test_a_null_row_stands_beside_its_attack_and_the_one_that_leaves_least_counts() -> None:
    scores = {("none", "unet"): 0.3, ("none", "unetr"): 0.4, ("uniform", "unet"): 0.85, ("random", "unet"): 0.8}
    rows = [vafa(control, source=model, target=model, dsc=dsc) for (control, model), dsc in scores.items()]
    rows += [row(source="unet", case=case, dsc=0.5 + case / 10, dsc_clean=0.9 - case / 10) for case in range(2)]
    (section,) = overview(shown(*rows))
    assert cells(section, "attack") == {
        "clean": ["85.0", "90.0"],
        "vafa q_max=20": ["30.0 (80.0)", "40.0"],
        "pgd eps=8/255": ["55.0", ""],
    }
    assert "2 cases of 2 patients" in section.text


def test_a_null_row_without_its_attack_has_a_row_of_its_own() -> None:
    (section,) = overview(shown(vafa("uniform", dsc=0.8)))
    assert cells(section, "attack")["vafa q_max=20 control=uniform"] == ["80.0"]
    assert "null row" not in section.text
    assert "mean over 1 case of 1 patient." in section.text


def test_the_matrix_is_of_the_attack_that_takes_most_from_other_models() -> None:
    """PGD takes most white-box, and a null row most of all from others, which is no transfer."""
    pairs = [(source, target) for source in MODELS for target in MODELS]
    own = {("pgd", ""): 0.1, ("vafa", "none"): 0.4, ("vafa", "uniform"): 0.6}
    other = {("pgd", ""): 0.8, ("vafa", "none"): 0.7, ("vafa", "uniform"): 0.2}
    rows = [
        row(
            name,
            {"control": control} if control else {},
            source=s,
            target=t,
            dsc=(own if s == t else other)[name, control],
            dsc_clean=0.9,
        )
        for name, control in own
        for s, t in pairs
    ]
    _, matrix = overview(shown(*rows))
    assert matrix.title == "phantom: transfer of vafa q_max=20, which transfers most"
    found = {name: pytest.approx(values) for name, values in cells(matrix, "source_model").items()}
    assert found == {"clean": [90.0, 90.0], "unet": [40.0, 70.0], "unetr": [70.0, 40.0]}
    assert "40.0*" in terminal([matrix])


def test_failures_are_lines_and_the_others_are_counted() -> None:
    failed = {"status": "failed", "error": "no\nmemory " + "x" * 200, "dsc": None}
    rows = [row(source="unet", target="unetr", budget=i / 255, **failed) for i in range(1, 8)]
    _, section = overview(shown(row(dsc=0.5, dsc_clean=0.9), *rows))
    assert section.text.startswith("pgd eps=1/255 on unet to unetr, phantom: 1 failed: no memory xxx")
    assert section.text.count("failed: ") == 5
    assert section.text.endswith("In all 7 records failed; 2 more rows of attacks are in the report.")
    assert max(map(len, section.text.splitlines())) < 160


def test_rows_of_a_reduced_precision_alone_are_said_to_be_left_out() -> None:
    (section,) = overview(shown(row(dsc=0.5, precision="bf16")))
    assert section.text == "Not in the tables: 1 of a reduced precision; the report says why."


def test_a_model_called_as_a_column_stays_a_model() -> None:
    rows = [row(source="attack", target=target, dsc=0.5, dsc_clean=0.9) for target in ("attack", "source_model")]
    white, matrix = overview(shown(*rows))
    assert cells(white, "attack")["clean"] == ["90.0"]
    assert matrix.table is not None
    assert list(matrix.table.columns) == ["source_model", "attack (model)", "source_model (model)"]


def test_the_quick_start_ends_within_thirty_lines_of_a_hundred_columns() -> None:
    """Three models, eleven attacks, two of them null rows; what the run says beside takes ten lines at most."""
    models = ("unet", "unet-vaft", "unetr")
    rows = [
        row("vafa", {"control": control}, budget=float(budget), source=s, target=t, dsc=0.5, dsc_clean=0.9)
        for budget in range(1, 10)
        for control in (("none", "uniform") if budget < 3 else ("none",))
        for s in models
        for t in models
    ]
    lines = terminal(overview(shown(*rows)), width=100).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
