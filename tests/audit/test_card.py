"""A machine's measurement is a file of a schema, a line of a table, and rows that are held against stored ones."""

import json
from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from freqbench.audit.card import MEASURED, REFERENCE, ROWS_OF, Measurement, line_of, measure, reference, table_of

CARDS = [REFERENCE, *sorted((Path(__file__).parents[2] / "reports/speed/cards").glob("*.json"))]
CPU = reference()


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_stored_card_is_of_the_schema_and_fills_a_line(path: Path) -> None:
    card = Measurement.model_validate_json(path.read_text("utf-8"))
    heads = table_of([card]).splitlines()[0]
    line = line_of(card)
    assert line.count("|") == heads.count("|")
    assert line.startswith(f"| {card.device} |")


def test_the_reference_has_each_attack_and_row() -> None:
    assert (CPU.kind, CPU.steps.keys(), CPU.rows.keys()) == ("cpu", MEASURED.keys(), {*ROWS_OF})


@pytest.mark.parametrize(
    "change", [{"bare_ms": 0}, {"steps": {"pgd": {"ratio": "1"}}}, {"kind": "tpu"}, {"version": 2}, {"more": 1}]
)
def test_a_card_of_another_schema_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Measurement.model_validate_json(json.dumps({**json.loads(REFERENCE.read_text("utf-8")), **change}))


def test_rows_beyond_a_tolerance_are_named_and_others_are_not() -> None:
    """The tolerance of Dice is 0.01 at least, and not 0.2."""
    by = dict(zip(CPU.rows, (0.2, 1e-4, 0, 0), strict=True))
    rows = {name: {**row, "dsc": row["dsc"] + by[name]} for name, row in CPU.rows.items()}
    moved = CPU.model_copy(update={"rows": rows, "device": "other", "measured": date(2026, 1, 2)})
    assert moved.differences(CPU) == {next(iter(CPU.rows)): ["dsc"]}
    assert line_of(moved).endswith("| 3 of 4 (dsc) | 2026-01-02 |")
    assert CPU.differences(CPU) == {}


@pytest.mark.workshop
def test_rows_of_this_machine_are_the_stored_ones() -> None:
    said = list[str]()
    card = measure(said.append, budget_s=0, roi=(32, 32, 32))
    assert [line.partition(":")[0] for line in said] == [*MEASURED]
    assert card.differences(CPU) == {}
    assert Measurement.model_validate_json(card.model_dump_json()) == card
