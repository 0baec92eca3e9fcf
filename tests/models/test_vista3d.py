"""VISTA3D: MONAI's network with a dataset's classes, by their names or by points; refusals; a job that attacks it."""

from pathlib import Path
from typing import Any

import monai.networks.nets as nets
import pytest
import torch
from tiny_job import ROI as TINY_ROI
from tiny_job import expanded, small
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.models import ModelEntry, build, load, resolve
from freqbench.models.entry import defence_of
from freqbench.models.networks import vista3d
from freqbench.models.networks.construction import skeleton

from .conftest import prompts, refused

TINY: dict[str, Any] = {"feature_size": 8, "blocks_down": [1, 1]}
ROI = (16, 16, 16)


def network(classes: list[str | int], **args: Any) -> vista3d.VISTA3D:
    net = build("vista3d", len(classes) + 1, ROI, {**TINY, "classes": classes, **args}).eval()
    assert isinstance(net, vista3d.VISTA3D)
    return net.requires_grad_(False)


def images(batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, *ROI, generator=torch.Generator().manual_seed(2))


def test_weights_have_the_names_and_shapes_of_the_bundle() -> None:
    with torch.device("meta"):
        theirs = nets.vista3d132(encoder_embed_dim=48, in_channels=1).state_dict()
    ours = skeleton("vista3d", 4, (128, 128, 128), {}).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


NUMBERS = {
    "liver": 1,
    "left kidney": 14,
    "hepatic tumor": 26,
    "right lung lower lobe": 32,
    "vertebrae L5": 33,
    "vertebrae T12": 38,
    "vertebrae C1": 56,
    "right iliac vena": 61,
    "left rib 12": 74,
    "right rib 1": 75,
    "right hip": 96,
    "right iliopsoas": 107,
    "left common carotid artery": 112,
    "skull": 120,
    "thyroid gland": 126,
    "airway": 132,
}


def test_classes_have_the_numbers_of_the_bundle() -> None:
    assert (network([*NUMBERS]).numbers, len(vista3d.NAMES)) == ([*NUMBERS.values()], 132)


def test_automatic_mode_is_monais_forward_pass() -> None:
    net = network(["spleen", 1, "aorta"])
    logits = net(images(2))
    theirs = nets.VISTA3D.forward(net, images(2), class_vector=torch.tensor([[3], [1], [6]]))
    torch.testing.assert_close(logits[:, 1:], theirs.transpose(0, 1), rtol=1e-5, atol=1e-5)
    assert not logits[:, 0].any()


def test_kidney_is_the_larger_answer_of_its_two_parts() -> None:
    parts = network(["left kidney", "right kidney"])(images())
    whole = network(["kidney", "liver"])(images())
    torch.testing.assert_close(whole[:, 1], parts[:, 1:].amax(dim=1), rtol=1e-5, atol=1e-5)
    assert sum(map(len, vista3d.PARTS.values())) == 2 + 5 + 24 + 35 + 3


@pytest.mark.parametrize(("given", "kind"), [("spleen", 1), ("hepatic tumor", 3), (200, 1)])
def test_points_are_monai_s_positive_clicks_of_the_class(given: str | int, kind: int) -> None:
    """Clicks in tumours are of a kind of their own; 200 is a class that the bundle does not know."""
    net = network([given], points=2)
    number = torch.tensor([net.numbers])
    clicks = torch.tensor([[[3.0, 4.0, 5.0], [3.0, 9.0, 2.0]]])
    theirs = nets.VISTA3D.forward(
        net, images(), point_coords=clicks, point_labels=torch.tensor([[kind, kind]]), prompt_class=number
    )
    logits = net(images(), prompts((1, 3, 4, 5), (1, 3, 9, 2)))
    torch.testing.assert_close(logits[:, 1:], theirs, rtol=1e-5, atol=1e-5)
    other = nets.VISTA3D.forward(
        net, images(), point_coords=clicks, point_labels=torch.tensor([[4 - kind] * 2]), prompt_class=number
    )
    assert not torch.allclose(logits[:, 1:], other)


def entry(**args: Any) -> ModelEntry:
    return ModelEntry(name="m", arch="vista3d", checkpoint="random", args=TINY | args, roi=ROI)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"classes": ["livre", "spleen"]}, "unknown class 'livre'. Did you mean 'liver'?"),
    "untrained": ({"classes": ["rectum", "liver"]}, "unknown class 'rectum'"),
    "number": ({"classes": [18, 1]}, "expected a class's name or its number in 1..511, of 1..132 none of 16, 18, 129,"),
    "none": ({"classes": [0, 1]}, "expected a class's name or its number in 1..511"),
    "few": ({"classes": ["liver"]}, "expected classes to name each of the 2 foreground classes of the dataset once"),
    "twice": ({"classes": ["liver", 1]}, "expected classes to name each of the 2 foreground classes of the dataset on"),
    "points": ({"points": -1}, "expected points of at least 0, got -1: 0 asks by the classes alone"),
    "seed": ({"point_seed": "a"}, "expected point_seed of a whole number, got 'a'"),
    "stage": ({"blocks_down": [1, 0]}, "expected blocks_down of whole numbers from 1, got [1, 0]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_is_one_clear_line(case: str) -> None:
    args, text = REFUSED[case]
    refused(entry(**args), f"vista3d: VISTA3D refuses its args: {text}")


def test_defence_that_moves_window_is_refused_beside_points() -> None:
    def moving(points: int) -> ModelEntry:
        return entry(points=points).model_copy(update={"defence": defence_of({"name": "random_resize_pad"})})

    with pytest.raises(UserError, match=r"expected no random_resize_pad beside args\.points"):
        resolve(moving(1), 3)
    assert resolve(moving(0), 3).defence


@pytest.mark.integration
def test_a_checkpoint_of_the_bundle_serves_both_modes(tmp_path: Path) -> None:
    weights = network(["liver", "spleen"]).state_dict()
    torch.save({"model": weights}, tmp_path / "model.pt")
    scorer = entry(classes=["liver", "spleen"], points=1).model_copy(update={"checkpoint": str(tmp_path / "model.pt")})
    for args in (scorer.args, {**scorer.args, "points": 0}):
        model = load(resolve(scorer.model_copy(update={"args": args}), 3), torch.device("cpu"))
        assert all(torch.equal(model.net.state_dict()[name], value) for name, value in weights.items())


def test_prompts_are_part_of_a_model_s_identity() -> None:
    specs = [resolve(entry(**args), 3) for args in ({}, {"points": 1}, {"points": 2}, {"points": 1, "point_seed": 1})]
    assert len({spec.model_id for spec in specs}) == 4
    assert [spec.is_prompted for spec in specs] == [False, True, True, True]


@pytest.mark.integration
def test_an_ensemble_of_prompted_members_is_refused() -> None:
    prompted = {"name": "p", "arch": "vista3d", "checkpoint": "random", "args": {**TINY, "points": 1}, "roi": TINY_ROI}
    plain = small()["models"][0]
    with pytest.raises(UserError, match=r"expected members without prompts, got p with args\.points: take networks wi"):
        expanded(small(models=[prompted, plain, {"name": "both", "ensemble": ["p", plain["name"]]}]))


def prompted_job() -> dict[str, Any]:
    """PGD by a network that sees points and by one that does not, each scored on both."""
    args = {**TINY, "classes": ["spleen", "liver", "aorta", "stomach", 200], "points": 2}
    model = {"name": "p", "arch": "vista3d", "checkpoint": "random", "args": args, "roi": TINY_ROI}
    attacks = [{"name": "pgd", "eps": "8/255", "steps": 1, "scope": "volume"}]
    dataset = {"name": "phantom", "shape": [20, 16, 16], "cases": 1}
    return small(models=[model, small()["models"][0]], attacks=attacks, datasets=[dataset], metrics=["dsc"])


@pytest.mark.integration
def test_a_run_tells_that_its_points_come_from_labels() -> None:
    warnings = expanded(prompted_job())[1].warnings
    assert [text.partition(":")[0] for text in warnings if "sees points from the labels" in text] == ["p"]


def test_organs_do_not_move_away_from_points() -> None:
    moving = {"name": "deformation", "max_mm": 1.0, "steps": 1}
    with pytest.raises(UserError, match=r"deformation: expected networks without args\.points, got p with them"):
        expanded(prompted_job() | {"attacks": [moving]})
