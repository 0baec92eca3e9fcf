"""Offers the cases of a dataset as a sequence that reads each case on access."""

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, overload

from freqbench.api.case import Case
from freqbench.core import config
from freqbench.core.plugins import require_class
from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.job.schema import build_dataset


class Cases(Sequence[Case]):
    """The cases of a dataset, read on access by index; a slice is again a sequence of cases.

    Attributes:
        dataset: their dataset.
    """

    def __init__(self, dataset: Dataset, refs: tuple[CaseRef, ...] | None = None) -> None:
        self.dataset = dataset
        self._refs = dataset.refs() if refs is None else refs

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"<Cases of {self.dataset.name}, {self.dataset.split}: {', '.join(ref.case_id for ref in self._refs)}>"

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> "Cases": ...
    def __getitem__(self, index: int | slice) -> "Case | Cases":
        if isinstance(index, slice):
            return Cases(self.dataset, self._refs[index])
        return Case._of(self.dataset.load(self._refs[index]), self.dataset, self.dataset.class_names)


def load_dataset(loader: str | type[Dataset], **keys: Any) -> Cases:
    """Returns the cases of a dataset as a sequence that reads each case on access.

    Args:
        loader: a name in `freqbench.data.DATASETS` (`phantom`, `decathlon`, `msd`, `nnunet_raw`, ...), or a class.
        keys: keys of the dataset's entry in a job file: `split`, `cases` (how many, or which), and the loader's own,
            such as `root`, `spacing` and `intensity`; `name` is its name in results, by default that of the loader.

    Raises:
        UserError: an unknown loader or key, or data that is missing or damaged.
    """
    keys = {key: fspath(value) if isinstance(value, PathLike) else value for key, value in keys.items()}
    require_class(loader, Dataset)
    if not isinstance(loader, str):
        return Cases(config.validate({"name": loader.loader, **keys}, loader, "load_dataset"))
    return Cases(build_dataset({"name": loader, "loader": loader, **keys}, "load_dataset"))
