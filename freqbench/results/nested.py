"""Rows hold their classes in a list: puts them there, takes them out, and names the columns of both, `classes.NAME`."""

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from freqbench.results.schema import CLASSES, COMMIT, ROWS

_CODED_TEXT = pa.dictionary(pa.int32(), pa.string())


def nest(records: pa.Table, classes: pa.Table, counts: Sequence[int]) -> pa.Table:
    """Returns rows of ROWS: each of `records` with the next rows of `classes`, as many as its number in `counts`
    says."""
    lists = ROWS.field(CLASSES).type
    own = lists.value_type
    parts = [classes[each.name].combine_chunks() for each in own]
    offsets = pa.array(np.cumsum([0, *counts]), pa.int32())
    nested = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(parts, fields=list(own)), type=lists)
    return pa.table([*records.columns, nested], schema=ROWS)


def class_rows(rows: pa.Table) -> pa.Table:
    """Returns a row for each class of rows: the class's columns, and those of COMMIT that `rows` has."""
    lists = rows[CLASSES].combine_chunks()
    shared = rows.select([name for name in COMMIT if name in rows.column_names]).take(pc.list_parent_indices(lists))
    own = pa.Table.from_struct_array(lists.flatten())
    return pa.table([*shared.columns, *own.columns], [*shared.column_names, *own.column_names])


def types_of(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Returns the types of a file's columns by name, of classes by `classes.NAME`."""
    types = {field.name: field.type for field in schema}
    if _is_nested(types.get(CLASSES)):
        types |= {f"{CLASSES}.{field.name}": field.type for field in types.pop(CLASSES).value_type}
    return types


def leaves_of(schema: pa.Schema) -> list[str]:
    """Returns the columns of a file as Parquet names them."""
    return [name.replace(f"{CLASSES}.", f"{CLASSES}.list.element.") for name in types_of(schema)]


def coded_schema(columns: Collection[str]) -> pa.Schema:
    """Returns the schema of some columns with texts as codes: a tenth of the memory, and half the reading time."""
    own = [field for field in ROWS.field(CLASSES).type.value_type if f"{CLASSES}.{field.name}" in columns]
    fields = [_code_text(ROWS.field(name)) for name in columns if not name.startswith(f"{CLASSES}.")]
    return pa.schema([*fields, *([pa.field(CLASSES, pa.list_(pa.struct(map(_code_text, own))))] if own else [])])


def coded_texts(table: pa.Table) -> list[pa.DictionaryArray]:
    """Returns the columns of a table that hold texts as codes, those of classes too, in their chunks."""
    parts: list[pa.Array] = []
    for column in table.columns:
        for chunk in column.chunks:
            parts += chunk.flatten().flatten() if _is_nested(chunk.type) else [chunk]
    return [part for part in parts if pa.types.is_dictionary(part.type)]


def _is_nested(kind: pa.DataType | None) -> bool:
    return kind is not None and pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)


def _code_text(field: pa.Field) -> pa.Field:
    return field.with_type(_CODED_TEXT) if pa.types.is_string(field.type) else field
