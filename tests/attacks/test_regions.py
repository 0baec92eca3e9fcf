"""Attacks on a network of regions that overlap: every one runs or refuses by name, and lowers what it should."""

import pytest
import torch
from attacks.examples import every_attack, example, generators, volumes
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.targets import target_map
from freqbench.core.errors import ParameterError, UserError
from freqbench.ops.heads import SIGMOID
from freqbench.ops.regions import inside

REFUSED = {"almaprox": "regions", "autoattack": "dlr"}
EPS = 0.2


class Regions(nn.Module):
    """Two regions: voxels above 0.3, and those above 0.6, which lie inside the first."""

    outputs = "sigmoid"

    def __init__(self, slope: float = 8.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True)
        return self.slope * torch.cat([mean - 0.3, mean - 0.6], dim=1)


def labelled(images: Tensor) -> Tensor:
    """The codes that the network itself predicts."""
    return ((images > 0.3) + 2 * (images > 0.6)).long()


@every_attack
def test_every_attack_runs_on_regions_or_refuses_them_by_name(name: str) -> None:
    images, _ = volumes()
    attack = example(name)
    options = {"generator": generators(1, 2)} if attack.is_stochastic else {}
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            attack(Regions(), images, labelled(images), **options)
        return
    result = attack(Regions(), images, labelled(images), **options)
    assert result.adversarial.shape == images.shape
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1


@pytest.mark.parametrize("name", ["pgd", "apgd", "segpgd", "cospgd", "mifgsm", "square", "rays"])
def test_attacks_lower_the_dice_of_regions(name: str) -> None:
    images, _ = volumes()
    labels, attack = labelled(images), example(name, eps=EPS)
    options = {"generator": generators(1, 2)} if attack.is_stochastic else {}
    adversarial = attack(Regions(), images, labels, **options).adversarial
    before, after = (SIGMOID.mean_dice(Regions()(each), labels, None, None) for each in (images, adversarial))
    assert (before == 1).all()
    assert (after < 0.9).all()


def test_organs_are_regions() -> None:
    """Voxels outside the second region do not count, and its output alone is pushed."""
    images = torch.tensor([0.5, 0.7]).reshape(1, 1, 1, 1, 2).repeat(1, 1, 4, 4, 4)
    labels = labelled(images)
    change = (
        make("pgd", eps=EPS, steps=4, random_start=False, organs=(2,))(Regions(), images, labels).adversarial - images
    )
    in_second = inside(labels, 2)[:, 1:]
    assert not change[~in_second].any()
    assert (change[in_second] < 0).all()


@pytest.mark.parametrize(
    ("rule", "expected"), [(("erase", 2), [0, 1, 1]), (("swap", 1, 2), [0, 2, 3]), ("least-likely", [3, 2, 0])]
)
def test_targets_of_regions(rule: str | tuple[str | int, ...], expected: list[int]) -> None:
    images = torch.tensor([0.1, 0.5, 0.8]).reshape(1, 1, 1, 1, 3)
    assert target_map(rule, labelled(images), Regions()(images), "sigmoid").flatten().tolist() == expected


def test_a_target_is_approached() -> None:
    images, _ = volumes(1)
    attack = make("pgd", eps=0.5, steps=50, random_start=False, target=("erase", 2))
    logits = Regions()(attack(Regions(), images, labelled(images)).adversarial)
    first, second = (labelled(images) & code for code in (1, 2))
    assert ((logits[:, 1:] > 0) & (second > 0)).sum() < (second > 0).sum() / 2
    assert ((logits[:, :1] > 0) == (first > 0)).float().mean() > 0.9


def test_reached_samples_have_every_region_wrong_everywhere() -> None:
    objective = Objective.of(torch.tensor([[1, 1]]).reshape(1, 1, 1, 1, 2), head=SIGMOID)
    wrong, half = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([[-1.0, -1.0], [1.0, -1.0]])
    assert [bool(objective.is_reached(each.reshape(1, 2, 1, 1, 2))) for each in (wrong, half)] == [True, False]


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"loss": "dlr"}, "loss: expected a loss that regions have, ce, dice"),
        ({"target": "next-class"}, "target: expected a rule for regions, got next-class"),
        ({"organs": (0, 1)}, "organs: expected regions, from 1 on, got 0"),
    ],
)
def test_parameters_without_a_form_for_regions_are_refused(parameters: dict[str, object], line: str) -> None:
    images, _ = volumes(1)
    with pytest.raises(ParameterError, match=line):
        make("pgd", eps=EPS, steps=1, **parameters)(Regions(), images, labelled(images))


def test_labels_of_more_regions_than_the_network_has_are_refused() -> None:
    images, _ = volumes(1)
    with pytest.raises(UserError, match=r"expected codes of 2 regions of the model \(at most 7\), got 4..4"):
        make("pgd", eps=EPS, steps=1)(Regions(), images, torch.full_like(images, 4, dtype=torch.long))
