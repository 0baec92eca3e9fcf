"""Names of what rows are of, looked up by identity: as the store's job has them now, not as old rows say them."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field, model_validator

from freqbench.core.identity import digest

Name = Annotated[str, Field(max_length=4096)]
IDENTIFIED_BY: Mapping[str, str] = {
    **dict.fromkeys(("dataset", "case_id", "patient_id"), "case_key"),
    **{name: f"{name}_id" for name in ("source_model", "target_model")},
    "params": "cell_id",  # of an attack that follows surrogates, which its parameters name
    "class_name": "class_index",
    "clean_number": "target_model_id",
}
"""The columns that hold names, each with the column that identifies what is named, beside the case of the row."""


class IndexCell(BaseModel, strict=True):
    """A cell's part of an index; its cases are `cases`, or those of its dataset."""

    cell_id: str
    dataset: str
    targets: list[str]
    cases: list[str] = []
    params: Annotated[str, Field(max_length=2**16)] | None = None  # with names in them; None: they name nothing


class DatasetNames(BaseModel, strict=True):
    """Names of a dataset's models by id, of its classes, and of its cases and their patients, in the cases' order."""

    models: dict[str, Name]
    classes: list[Name]
    case_ids: list[Name]
    patients: list[Name]
    clean: dict[str, Name] = {}  # what the clean number of each model rests on, by its id


class Index(BaseModel):
    """The keys of all records that a job asks for, and its names, as in `Grid.index`; older jobs have no names."""

    cells: list[IndexCell]
    cases: dict[Name, list[str]] = {}
    names: dict[str, DatasetNames] = {}

    @model_validator(mode="after")
    def _cells_and_names_have_cases(self) -> Self:
        for cell in self.cells:
            if "cases" not in cell.model_fields_set and cell.dataset not in self.cases:
                raise ValueError(f"expected cases of {cell.dataset}, of which cell {cell.cell_id} is, got none")
        for dataset, names in self.names.items():
            if not len(self.cases.get(dataset, ())) == len(names.case_ids) == len(names.patients):
                raise ValueError(f"expected a name and a patient for each case of {dataset}, got other numbers")
        return self


def rename_rows(table: pa.Table, index: Index) -> pa.Table:
    """Returns the rows of a `table` with the names of an index, in columns of IDENTIFIED_BY; those of what it does not
    know stay."""
    if not index.names:
        return table
    names = _names(index)
    of_case = _look_up(table["case_key"], names["dataset"])
    for column, identity in IDENTIFIED_BY.items():
        if column in table.column_names:
            found = _look_up(table[identity], names[column])
            said = table[column].combine_chunks().cast(pa.string())
            if of_dataset := {key: name for key, name in names[column].items() if "/" in key}:
                there = pc.binary_join_element_wise(of_case, table[identity].combine_chunks().cast(pa.string()), "/")
                found = pc.coalesce(_look_up(there, of_dataset), found)
            coded = pc.coalesce(found, said).dictionary_encode()
            table = table.set_column(table.column_names.index(column), column, coded)
    return table


def rename_run(run: dict[str, Any], index: Index) -> dict[str, Any]:
    """Returns a run's facts with the names of an index for its datasets, known by a case, and for its models."""
    names = _names(index)
    known: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, facts in (run.get("datasets") or {}).items():
        # As in `data.case_key_of`.
        keys = (digest([facts.get("recipe") or {}, each]) for each in (facts.get("cases") or {}).values())
        now = next((names["dataset"][key] for key in keys if key in names["dataset"]), None)
        (others if now is None else known)[now or name] = facts
    named = names["source_model"]
    models = {key: {**own, "name": named.get(key, own.get("name"))} for key, own in (run.get("models") or {}).items()}
    return {**run, **({"datasets": others | known} if known else {}), **({"models": models} if models else {})}


def _look_up(ids: pa.Array | pa.ChunkedArray, names: Mapping[str, str]) -> pa.Array:
    """Returns the name of each id, null for an unknown one; ids have few values, which alone are looked up."""
    coded = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
    text = pa.string()
    places = pc.index_in(coded.dictionary.cast(text), value_set=pa.array(list(names), text))
    return pa.array(list(names.values()), text).take(places).take(coded.indices)


def _names(index: Index) -> dict[str, dict[str, str]]:
    """Returns for each column of IDENTIFIED_BY its names by identity; by `DATASET/IDENTITY` where datasets differ."""
    names = {column: dict[str, str]() for column in IDENTIFIED_BY}
    models = names["source_model"]
    names["params"] = {cell.cell_id: cell.params for cell in index.cells if cell.params is not None}
    for dataset, of in index.names.items():
        keys = index.cases[dataset]
        names["dataset"] |= dict.fromkeys(keys, dataset)
        names["case_id"] |= dict(zip(keys, of.case_ids, strict=True))
        names["patient_id"] |= dict(zip(keys, of.patients, strict=True))
        names["class_name"] |= {f"{dataset}/{number}": name for number, name in enumerate(of.classes)}
        names["clean_number"] |= {f"{dataset}/{model_id}": words for model_id, words in of.clean.items()}
        for model_id, name in of.models.items():
            if models.setdefault(model_id, name) != name:
                models[f"{dataset}/{model_id}"] = name
    return names | {"target_model": models}
