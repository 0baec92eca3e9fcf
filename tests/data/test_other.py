"""The case beside a case: what attacks take their reference from."""

from dataclasses import replace

import pytest
from data.conftest import Folder
from data.downloads import volume
from tiny import expanded, small

from freqbench.core.errors import DataError
from freqbench.data.loaders.phantom import Phantom


def test_it_is_another_one_and_always_the_same_whatever_cases_are_asked_for() -> None:
    dataset = Phantom(name="p")
    for ref in dataset.refs():
        other = dataset.other(ref, 3)
        assert other.case_id != ref.case_id
        for cases in (1, ("phantom_2003", "phantom_2000")):
            assert Phantom(name="q", cases=cases).other(ref, 3) == other


def test_all_others_are_drawn_by_some_seed_or_case() -> None:
    dataset = Phantom(name="p", split="validation")
    first, *rest = dataset.refs()
    assert {dataset.other(first, seed) for seed in range(100)} == set(rest)
    assert {dataset.other(ref, 0) for ref in dataset.refs()} > {dataset.other(first, 0)}


def _join(folder: Folder) -> None:
    folder.write("d", *volume(seed=4))
    lines = folder.listed["validation"]
    folder.list(validation=[lines[0], {"image": "imagesTr/d.nii.gz", "label": "labelsTr/d.nii.gz"}, *lines[1:]])


def test_a_case_that_joins_changes_nothing_but_where_it_is_drawn(folder: Folder) -> None:
    dataset = folder.dataset()
    first, split = dataset.refs()[0], dataset.whole_split()
    before = [dataset.other(first, seed, split).case_id for seed in range(30)]
    _join(folder)
    split = dataset.whole_split()
    after = [dataset.other(first, seed, split).case_id for seed in range(30)]
    assert set(before) == {"b", "c"}
    assert set(after) == {"b", "c", "d"}
    assert all(new in (old, "d") for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(("attack", "differs"), [({"name": "faa"}, True), ({"name": "fgsm", "eps": 0.1}, False)])
def test_a_case_that_joins_is_in_the_id_of_cells_that_draw_from_it(
    folder: Folder, attack: dict[str, object], differs: bool
) -> None:
    """As a case's reference may be another from then on, its row must not pass for the same; the order is nothing."""
    cell = expanded(small(attacks=[attack]))[1].cells[0]
    ids = [replace(cell, dataset=folder.dataset()).cell_id]
    folder.list(validation=folder.listed["validation"][::-1])
    ids.append(replace(cell, dataset=folder.dataset(cases=1)).cell_id)
    _join(folder)
    ids.append(replace(cell, dataset=folder.dataset()).cell_id)
    assert ids[0] == ids[1]
    assert (ids[1] != ids[2]) == differs


def test_a_split_of_one_case_is_refused(folder: Folder) -> None:
    folder.list(validation=folder.listed["validation"][:1])
    dataset = folder.dataset()
    text = r"^small: expected another case beside a in the split 'validation', .* got none"
    with pytest.raises(DataError, match=text):
        dataset.other(dataset.refs()[0], 0)
