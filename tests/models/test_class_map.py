"""A network whose classes are merged into the dataset's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from models import meshnet_folder
from models.conftest import TINY_ARGS, TINY_ROI, refused

from freqbench.models import ModelEntry, load, resolve

CPU = torch.device("cpu")
MAP = {1: [3, 1], 2: [4]}


def entry(**more: Any) -> ModelEntry:
    content = {"name": "m", "arch": "unet", "checkpoint": "random", "args": TINY_ARGS, "roi": TINY_ROI, **more}
    return ModelEntry(**content)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_probabilities_of_merged_classes_are_added(average: Any) -> None:
    merged = resolve(entry(classes=5, class_map=MAP, inference={"average": average}), num_classes=3)
    plain = load(resolve(entry(), num_classes=5), CPU)
    x = torch.rand(1, 1, *TINY_ROI, generator=torch.Generator().manual_seed(1))
    model, p = load(merged, CPU), plain(x).softmax(dim=1)
    wanted = torch.stack([p[:, 0] + p[:, 2], p[:, 1] + p[:, 3], p[:, 4]], dim=1)
    torch.testing.assert_close(model(x).softmax(dim=1), wanted, rtol=1e-5, atol=1e-6)
    assert (merged.num_classes, merged.num_outputs) == (3, 5)


def test_class_map_is_part_of_the_identity_in_any_spelling() -> None:
    def model_id(**more: Any) -> str:
        return resolve(entry(**more), num_classes=3).model_id

    same = model_id(classes=5, class_map={2: [4], 1: [1, 3], 0: [0, 2]})
    other = model_id(classes=5, class_map={1: [1, 2], 2: [4]})
    assert model_id(classes=5, class_map=MAP) == same != other != model_id()
    assert model_id(classes=3) == model_id()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"classes": 5}, "m: classes: expected the 3 of the dataset, got 5: set classes: 5 and class_map"),
        (
            {"classes": 2},
            "m: classes: expected the 3 of the dataset, got 2: choose the classes that it knows by the dataset's "
            "`labels` (their names) or label_map, such as {1: 0, 2: 1}",
        ),
        (
            {"classes": 2, "class_map": {1: [1]}},
            "m: class_map: expected each class of the dataset, got none for 2: give its classes; if the network has "
            "none for it, take it out of the dataset: label_map: {1: 1, 2: 0}",
        ),
        ({"class_map": MAP}, "m: classes: required beside class_map, as random does not state them"),
        ({"classes": 4, "class_map": MAP}, "m: class_map: 2: expected each class of the network once, but 4 is not in"),
        ({"classes": 5, "class_map": {1: [3], 2: [3]}}, "m: class_map: 2: expected each class of the network once, bu"),
        ({"classes": 5, "class_map": {1: [1]}}, "m: class_map: expected each class of the dataset, got none for 2"),
        ({"classes": 5, "class_map": {1: [0, 1, 2], 2: [3, 4]}}, "m: class_map: expected each class of the dataset, g"),
        ({"classes": 5, "class_map": {**MAP, 3: [2]}}, "m: class_map: expected classes of the dataset, 0 to 2, got 3"),
        ({"classes": 5, "class_map": {**MAP, 0: [0]}}, "m: class_map: expected each class of the network, got none fo"),
        (
            {"arch": "sam_med3d", "args": {"points": 1}, "roi": (128,) * 3, "classes": 5, "class_map": MAP},
            "m: expected no class_map beside args.points, which are of the dataset's classes",
        ),
    ],
)
def test_a_map_that_leaves_a_class_open_is_refused(more: dict[str, Any], text: str) -> None:
    refused(entry(**more), text)


def test_a_folder_states_its_own_classes(tmp_path: Path) -> None:
    folder = meshnet_folder.write(tmp_path / "net")
    mapped = ModelEntry(name="m", arch="meshnet", checkpoint=folder, class_map={1: [1, 2]})
    assert resolve(mapped, num_classes=2).class_map == ((0,), (1, 2))
    refused(
        mapped.model_copy(update={"classes": 4}), f"m: {folder} has 3 output classes, classes wants 4", num_classes=2
    )


def test_an_ensemble_has_its_members_map() -> None:
    with pytest.raises(ValueError, match="expected an ensemble without class_map"):
        ModelEntry(name="both", ensemble=("a", "b"), class_map=MAP)
