"""The ages of the schema, and the named functions that lead a table from each age to the next.

Files carry the number `SCHEMA_VERSION`, which is raised when a column is renamed, goes, or changes its unit or meaning:
an older freqbench refuses such files in one line. A column that is added makes a new age of the same number, told by
the columns that a file has, so that older releases go on reading what they know. A column that is new in
`freqbench.results.schema` gets an age here and a store of the age before it in `tests/results/ages/`. Names of threat
models that were made more exact are read as those of today, whatever the age.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

Migration = Callable[[pa.Table, pa.Schema], pa.Table]


@dataclass(frozen=True, kw_only=True)
class Age:
    """What the schema was like for a time.

    Attributes:
        name: SCHEMA_VERSION, a point, and a number that grows.
        meaning: what came with it.
        added: by table, the columns that came with it.
        migrate: by table, from a table of the age before to one of this: pure; of the columns that came it adds those
            that the given schema asks for.
    """

    name: str
    meaning: str
    added: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    migrate: Mapping[str, Migration] = field(default_factory=dict)


def energy_by_band(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """1.0 to 1.1: where in frequency the change lies was not measured: null."""
    return _with_nulls(table, schema, ENERGY)


def resampling_error(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """1.1 to 1.2: source and target shared one space, for which null is what is written still."""
    return _with_nulls(table, schema, RESAMPLING)


def seam_energy(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """1.2 to 1.3: seams between windows were not looked for: null."""
    return _with_nulls(table, schema, SEAM)


def defences(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """1.3 to 1.4: no model had a defence before it, for which null is what is written still; nothing was certified."""
    return _with_nulls(table, schema, DEFENCES)


def methods(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """1.4 to 1.5: how a network was trained was not stored: null, so that each is a method of its own."""
    return _with_nulls(table, schema, METHODS)


def _with_nulls(table: pa.Table, schema: pa.Schema, names: Collection[str]) -> pa.Table:
    """A table with those of the named columns that it lacks and the schema has."""
    for column in schema:
        if column.name in names and column.name not in table.column_names:
            table = table.append_column(column, pa.nulls(len(table), column.type))
    return table


ENERGY = ("energy_low", "energy_middle", "energy_high")
RESAMPLING = ("resampling_error",)
SEAM = ("seam_energy",)
DEFENCES = (
    "source_defence",
    "target_defence",
    "certified_radius",
    "certified_share",
    "certified_share_clean",
    "certified_dice",
    "certified_dice_clean",
    "certified_dice_bound",
    "certified_dice_bound_clean",
)
METHODS = ("target_method",)

AGES: tuple[Age, ...] = (
    Age(name="1.0", meaning="the first"),
    Age(
        name="1.1",
        meaning="energy of the change by band",
        added={"records": ENERGY},
        migrate={"records": energy_by_band},
    ),
    Age(
        name="1.2",
        meaning="models with a space of their own",
        added={"records": RESAMPLING},
        migrate={"records": resampling_error},
    ),
    Age(name="1.3", meaning="seams between windows", added={"records": SEAM}, migrate={"records": seam_energy}),
    Age(
        name="1.4",
        meaning="models with a defence, and what it certifies",
        added={"records": DEFENCES},
        migrate={"records": defences},
    ),
    Age(
        name="1.5",
        meaning="networks that are replicates of one training",
        added={"records": METHODS},
        migrate={"records": methods},
    ),
)


def age_of(kind: str, columns: Collection[str]) -> int:
    """The place in AGES of a file, by the columns that it has: the last age whose columns are all there.

    Args:
        kind: `records` or `class_records`.
        columns: that the file has.
    """
    place = 0
    for number, age in enumerate(AGES):
        if not set(age.added.get(kind, ())) <= set(columns):
            break
        place = number
    return place


def migrated(kind: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of any age with what later ages added, as far as `schema` asks for it.

    Args:
        kind: `records` or `class_records`.
        table: some columns of a file.
        schema: of the wanted columns.
    """
    for age in AGES:
        if kind in age.migrate:
            table = age.migrate[kind](table, schema)
    return _with_threat_models(table) if kind == "records" else table


def looked_at(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that are read where some are asked for: of a threat model those with it that say which it is."""
    besides = _SAY_WHICH if "threat_model" in columns else ()
    return tuple(dict.fromkeys((*columns, *besides)))


def _with_threat_models(table: pa.Table) -> pa.Table:
    """Names of today where rows have those of before November 2026, when one name stood for two sets of volumes.

    VAFA's code stretches slices, its paper does not; SA2's code leaves DC alone, its paper does not.
    """
    if not {"threat_model", *_SAY_WHICH} <= {*table.column_names}:
        return table
    for old, new, attacks, is_new in _RENAMED:
        renamed = pc.and_(_where(table["threat_model"], old.__eq__), _where(table["attack"], attacks.__contains__))
        if not pc.any(renamed).as_py():
            continue
        renamed = pc.and_(renamed, _where(table["params"], partial(_says, is_new=is_new)))
        place, own = table.schema.get_field_index("threat_model"), table["threat_model"]
        names = pc.if_else(renamed, new, own.cast(pa.string()))
        table = table.set_column(place, table.schema.field(place), names.cast(own.type))
    return table


def _where(column: pa.ChunkedArray, test: Callable[[str], bool]) -> pa.Array:
    """Whether a test holds of the texts of a column, each distinct one looked at once; not where there is none."""
    texts = column.unify_dictionaries().combine_chunks()
    if not pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_encode()
    holds = pa.array([text is not None and test(text) for text in texts.dictionary.to_pylist()], pa.bool_())
    return pc.fill_null(holds.take(texts.indices), False)


def _says(text: str, is_new: Callable[[Mapping[str, Any]], bool]) -> bool:
    """Whether a test holds of the parameters of a row; not where they are no JSON, which `verify` says."""
    try:
        params = json.loads(text)
    except ValueError:
        return False
    return isinstance(params, dict) and is_new(params)


def _stretches(params: Mapping[str, Any]) -> bool:
    given = params.get("renormalize")
    return params.get("variant") != "paper" if given is None else bool(given)


def _is_paper(params: Mapping[str, Any]) -> bool:
    return params.get("variant") == "paper"


_SAY_WHICH = ("attack", "params")
_RENAMED = (
    ("dct-quantization", "dct-quantization-stretched", ("vafa", "vafa_2d"), _stretches),
    ("dct-scaling", "dct-scaling-with-dc", ("sa2", "sa2_2d"), _is_paper),
)
