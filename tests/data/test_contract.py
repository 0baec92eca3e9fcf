"""A loader of a listed folder is its settings, its splits and what its list states; little else is its own."""

from collections import ChainMap
from collections.abc import Callable
from typing import Any

import pytest

from freqbench.data import DATASETS
from freqbench.data.base import Dataset
from freqbench.data.loaders.folder import ListedFolder

OF_DATASETS = {"classes", "recipe", "refs", "native", "num_channels", "space", "load", "other"}
OF_FOLDERS = {"splits", "stated_labels", "source", "other", "num_channels", "_root", "_usual_intensity"}


def overridden(*bases: type) -> set[str]:
    """The members of base classes that freqbench's own loaders below the last of them define anew."""
    lines = set().union(*(loader.__mro__ for loader in DATASETS.values()))
    loaders = [each for each in lines - {*bases} if issubclass(each, bases[-1])]
    of_bases = ChainMap(*map(vars, bases))
    anew = of_bases.keys() & set().union(*map(vars, loaders))
    return {
        name
        for name in anew
        if not name.startswith("__")
        and (hasattr(of_bases[name], "func") or isinstance(of_bases[name], Callable | property | classmethod))
    }


def test_loaders_override_eight_members_of_a_dataset() -> None:
    assert overridden(Dataset) == OF_DATASETS


def test_loaders_of_listed_folders_override_seven_members() -> None:
    assert overridden(Dataset, ListedFolder) == OF_FOLDERS


def test_a_list_is_asked_once_for_the_classes(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = folder.dataset()
    asked = list[object]()
    stated: Callable[[object], object] = type(dataset).stated_labels
    monkeypatch.setattr(type(dataset), "stated_labels", lambda self: asked.append(self) or stated(self))
    assert len(dataset.classes) > 1
    assert len(asked) == 1
