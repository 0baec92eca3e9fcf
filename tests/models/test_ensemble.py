"""The mean of several models' probabilities: closed form, gradient, identity, refusals, a grid."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from draws import seeded
from tiny_job import ARGS, ROI, execute, expanded, rows, small
from torch import Tensor, nn

from freqbench.core.errors import UserError
from freqbench.models import Inference, ModelEntry, ModelSpec, SegmentationModel, load, resolve, resolve_ensemble
from freqbench.models.wrapper import MeanOfProbabilities

SHAPE = (2, 3, 4)
MEMBERS = [
    {"name": "a", "arch": "unet", "checkpoint": "random:1", "args": ARGS, "roi": ROI},
    {"name": "b", "arch": "unet", "checkpoint": "random:2", "args": ARGS, "roi": ROI},
]
BOTH = {"name": "both", "ensemble": ["a", "b"]}
NOISE = {"name": "randomized_smoothing", "sigma": 0.1}


class Linear(nn.Module):
    """Logits of each class: a multiple of the voxel."""

    def __init__(self, *slopes: float) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(slopes, dtype=torch.float64).view(1, -1, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.slopes


def ensemble(*members: nn.Module) -> MeanOfProbabilities:
    return MeanOfProbabilities([SegmentationModel(member, SHAPE) for member in members])


def volume() -> Tensor:
    return torch.rand(2, 1, *SHAPE, generator=seeded(1), dtype=torch.float64)


def test_probabilities_are_the_mean_of_the_members() -> None:
    """Two classes: the probability of the first is a sigmoid of the difference of slopes times the voxel."""
    x = volume()
    share = ensemble(Linear(3, 1), Linear(0, 5), Linear(1, 1))(x).softmax(dim=1)[:, :1]
    expected = (1 / (1 + torch.exp(-2 * x)) + 1 / (1 + torch.exp(5 * x)) + 0.5) / 3
    torch.testing.assert_close(share, expected, rtol=1e-13, atol=0)


def test_the_gradient_stays_where_all_members_are_sure() -> None:
    """Probabilities of exp(-2000) are 0 in floating point; their logarithm has the slope all the same."""
    x = torch.ones(1, 1, *SHAPE, dtype=torch.float64, requires_grad=True)
    logits = ensemble(Linear(0, 2000), Linear(0, 2000))(x)
    logits[:, 0].sum().backward()
    torch.testing.assert_close(logits[:, 0], torch.full((1, *SHAPE), -2000.0, dtype=torch.float64))
    torch.testing.assert_close(x.grad, torch.full_like(x, -2000.0))


def spec(member: dict[str, Any], **changes: Any) -> ModelSpec:
    return resolve(ModelEntry(**{**member, **changes}), num_classes=3)


def of(*members: ModelSpec, **changes: Any) -> ModelSpec:
    names = [member.name for member in members]
    return resolve_ensemble(ModelEntry(**{"name": "both", "ensemble": names, **changes}), members)


def test_identity_depends_on_members_and_not_on_names() -> None:
    a, b = (spec(member) for member in MEMBERS)
    other = spec(MEMBERS[0], checkpoint="random:3")
    assert of(a, b).model_id == of(spec(MEMBERS[0], name="x"), b, name="y").model_id
    assert len({of(a, b).model_id, of(other, b).model_id, a.model_id, b.model_id}) == 4
    assert of(a, b, inference={"overlap": 0.25}).model_id != of(a, b).model_id


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"roi": (16, 16, 32)}, r"expected members of the same roi, got \(16, 16, 16\) of a and .* of b"),
        ({"preprocess": {"spacing": (1, 1, 1)}}, "expected members of the same space, got None of a and .* of b"),
        ({"inference": {"mirror": "H"}}, "expected members of the same inference, got .* of b: state one"),
        ({"defence": NOISE}, "ensemble: expected members without .* got b with randomized_smoothing: put the defence"),
        ({**MEMBERS[0]}, "ensemble: expected each member once, got a twice"),
    ],
)
def test_members_that_do_not_go_together_are_refused(second: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^both: {message}"):
        of(spec(MEMBERS[0]), spec(MEMBERS[1], **second))


def test_ensemble_is_predicted_as_members_or_entry_say() -> None:
    a, b = (spec(member, inference={"mirror": "HWD"}) for member in MEMBERS)
    assert of(a, b).inference.mirror == "HWD"
    assert of(a, spec(MEMBERS[1]), inference={"mirror": "H"}).inference.mirror == "H"
    assert not of(a, b).is_judged, "nothing is expected of members that nobody trained"


def test_an_attack_on_an_ensemble_follows_each_mirror_image_once() -> None:
    settings = {"mirror": "H", "attack_mirrors": True}
    a, b = (spec(member, inference=settings) for member in MEMBERS)
    alone = (replace(each, inference=Inference()) for each in (a, b))
    both, one, other = (load(each, torch.device("cpu")) for each in (of(a, b), *alone))
    crop = torch.rand(1, 1, *both.roi, generator=seeded(0))
    seen = [(net(crop.flip(2)).flip(2), net(crop)) for net in (one, other)]
    means = [torch.stack([net[i].softmax(1) for net in seen]).mean(0).log() for i in range(2)]
    torch.testing.assert_close(both(crop), torch.stack(means).mean(0))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"ensemble": ["a", "c"]}, r"models\[2\]: both: ensemble: unknown model 'c'. .*Known: a, b"),
        ({"ensemble": ["a"]}, r"models\[2\].ensemble: .* at least 2"),
        ({"arch": "unet"}, r"models\[2\]: expected an ensemble without arch: that is its members' own"),
        ({"roi": ROI}, r"models\[2\]: expected an ensemble without roi"),
        ({"checkpoint": "random"}, r"models\[2\]: expected one of checkpoint, .*, got checkpoint and ensemble"),
    ],
)
def test_an_ensemble_that_cannot_be_is_one_line(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        expanded(small(models=[*MEMBERS, {**BOTH, **entry}]))


def test_grid_takes_an_ensemble_before_its_members(tmp_path: Any) -> None:
    summary = execute(small(models=[BOTH, *MEMBERS], metrics=["dsc"]), tmp_path)
    assert (summary.num_new, summary.num_failed) == (9, 0)
    pairs = {(row["source_model"], row["target_model"]) for row in rows(tmp_path).values()}
    assert pairs == {*product(map(repr, ("a", "b", "both")), repeat=2)}
    _, grid = expanded(small(models=[BOTH, *MEMBERS]))
    assert [cell.source.name for cell in grid.cells] == ["both", "a", "b"]
