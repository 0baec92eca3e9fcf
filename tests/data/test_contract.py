"""A loader of a listed folder is its settings, its splits and what its list states; little else is its own."""

from collections.abc import Callable
from typing import Any

import pytest

from freqbench.data import DATASETS
from freqbench.data.base import Dataset
from freqbench.data.loaders.folder import ListedFolder

OWN = {"splits", "stated_labels", "source", "remarks", "other", "num_channels", "_root", "_usual_intensity"}


def test_loaders_of_listed_folders_override_eight_members() -> None:
    listed = {each for loader in DATASETS.values() if issubclass(loader, ListedFolder) for each in loader.__mro__}
    loaders = {each for each in listed if issubclass(each, ListedFolder)} - {ListedFolder}
    of_bases = {
        name
        for base in (Dataset, ListedFolder)
        for name, value in vars(base).items()
        if not name.startswith("__")
        and (callable(value) or isinstance(value, property | classmethod) or hasattr(value, "func"))
    }
    assert {name for loader in loaders for name in vars(loader)} & of_bases <= OWN


def test_a_list_is_asked_once_for_the_classes(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, asked = folder.dataset(), list[object]()
    stated: Callable[[object], object] = type(dataset).stated_labels
    monkeypatch.setattr(type(dataset), "stated_labels", lambda self: asked.append(self) or stated(self))
    assert len(dataset.classes) > 1
    assert len(asked) == 1
