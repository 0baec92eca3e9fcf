"""The case beside a case: what attacks take their reference from."""

from dataclasses import replace

import pytest
from data.conftest import Folder, volume
from tiny import expanded, small

from freqbench.core.errors import DataError
from freqbench.data.loaders.phantom import Phantom


def test_it_is_another_one_and_always_the_same() -> None:
    dataset = Phantom(name="p")
    for ref in dataset.refs():
        assert dataset.other(ref, 3).case_id != ref.case_id
        assert dataset.other(ref, 3) == Phantom(name="q").other(ref, 3)


def test_all_others_are_drawn_by_some_seed_or_case() -> None:
    dataset = Phantom(name="p", split="validation")
    first, *rest = dataset.refs()
    assert {dataset.other(first, seed) for seed in range(100)} == set(rest)
    assert {dataset.other(ref, 0) for ref in dataset.refs()} > {dataset.other(first, 0)}


@pytest.mark.parametrize("cases", [1, 5, ("phantom_2003", "phantom_2000")])
def test_the_cases_that_are_asked_for_have_no_say(cases: int | tuple[str, ...]) -> None:
    few, all_of_them = Phantom(name="p", cases=cases), Phantom(name="p")
    for ref in few.refs():
        assert few.other(ref, 0) == all_of_them.other(ref, 0)


def test_a_case_that_joins_changes_nothing_but_where_it_is_drawn(folder: Folder) -> None:
    first = folder.dataset().refs()[0]
    before = [folder.dataset().other(first, seed).case_id for seed in range(30)]
    folder.write("d", *volume(seed=4))
    folder.listed["validation"].insert(1, {"image": "imagesTr/d.nii.gz", "label": "labelsTr/d.nii.gz"})
    folder.save()
    after = [folder.dataset().other(first, seed).case_id for seed in range(30)]
    assert set(before) == {"b", "c"}
    assert set(after) == {"b", "c", "d"}
    assert all(new in (old, "d") for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(("attack", "differs"), [("faa", True), ("fgsm", False)])
def test_a_case_that_joins_is_in_the_id_of_cells_that_draw_from_it(folder: Folder, attack: str, differs: bool) -> None:
    """As a case's reference may be another from then on, its row must not pass for the same; the order is nothing."""
    cell = expanded(small(attacks=[{"name": attack, **({"eps": 0.1} if attack == "fgsm" else {})}]))[1].cells[0]
    ids = [replace(cell, dataset=folder.dataset()).cell_id]
    folder.listed["validation"].reverse()
    folder.save()
    ids.append(replace(cell, dataset=folder.dataset(cases=1)).cell_id)
    folder.write("d", *volume(seed=4))
    folder.listed["validation"].append({"image": "imagesTr/d.nii.gz", "label": "labelsTr/d.nii.gz"})
    folder.save()
    ids.append(replace(cell, dataset=folder.dataset()).cell_id)
    assert ids[0] == ids[1]
    assert (ids[1] != ids[2]) == differs


def test_a_split_of_one_case_is_refused(folder: Folder) -> None:
    folder.listed["validation"] = folder.listed["validation"][:1]
    folder.save()
    dataset = folder.dataset()
    with pytest.raises(
        DataError, match=r"^small: expected another case beside a in the split 'validation', .* got none"
    ):
        dataset.other(dataset.refs()[0], 0)
