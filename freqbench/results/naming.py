"""Names of what rows are of, looked up by identity: as the store's job has them now, not as old rows say them."""

from collections.abc import Mapping
from typing import Annotated, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(max_length=4096)]

IDENTIFIED_BY: Mapping[str, str] = {
    **dict.fromkeys(("dataset", "case_id", "patient_id"), "case_key"),
    **{name: f"{name}_id" for name in ("source_model", "target_model")},
    "params": "cell_id",  # of an attack that follows surrogates, which its parameters name
    "class_name": "class_index",
}
"""The columns that hold names, each with the column that identifies what is named, beside the case of the row."""


class IndexCell(BaseModel):
    """A cell's part of an index; its cases are `cases`, or those of its dataset."""

    model_config = ConfigDict(strict=True)

    cell_id: str
    dataset: str
    targets: list[str]
    cases: list[str] = []
    params: Annotated[str, Field(max_length=2**16)] | None = None  # with names in them; None: they name nothing


class DatasetNames(BaseModel):
    """Names of a dataset's models by id, of its classes, and of its cases and their patients, in the cases' order."""

    model_config = ConfigDict(strict=True)

    models: dict[str, Name]
    classes: list[Name]
    case_ids: list[Name]
    patients: list[Name]


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


def named(table: pa.Table, index: Index) -> pa.Table:
    """Returns rows with the names of an index, in columns of IDENTIFIED_BY; those of what it does not know stay."""
    if not index.names:
        return table
    names = _names(index)
    dataset = _found(table["case_key"], names["dataset"])
    for column, identity in IDENTIFIED_BY.items():
        if column in table.column_names:
            ids = table[identity].cast(pa.string())
            there = pc.binary_join_element_wise(dataset, ids, "/")  # a job may name a model by the dataset
            found = pc.coalesce(
                _found(there, names[column]), _found(ids, names[column]), table[column].cast(pa.string())
            )
            table = table.set_column(table.column_names.index(column), column, found.dictionary_encode())
    return table


def _found(ids: pa.ChunkedArray, names: Mapping[str, str]) -> pa.ChunkedArray:
    places = pc.index_in(ids.cast(pa.string()), value_set=pa.array(list(names), pa.string()))
    return pc.take(pa.chunked_array([pa.array(list(names.values()), pa.string())]), places)


def _names(index: Index) -> dict[str, dict[str, str]]:
    """Returns for each column of IDENTIFIED_BY its names, by identity, or by dataset and identity."""
    names = {column: dict[str, str]() for column in IDENTIFIED_BY}
    names["params"] = {cell.cell_id: cell.params for cell in index.cells if cell.params is not None}
    for dataset, of in index.names.items():
        keys = index.cases[dataset]
        names["dataset"] |= dict.fromkeys(keys, dataset)
        names["case_id"] |= dict(zip(keys, of.case_ids, strict=True))
        names["patient_id"] |= dict(zip(keys, of.patients, strict=True))
        names["class_name"] |= {f"{dataset}/{number}": name for number, name in enumerate(of.classes)}
        names["source_model"] |= of.models | {f"{dataset}/{model_id}": name for model_id, name in of.models.items()}
    return names | {"target_model": names["source_model"]}
