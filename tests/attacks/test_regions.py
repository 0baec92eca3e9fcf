"""Attacks on regions that overlap, on some channels of several, and on labels that do not count in part."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from attacks.asked import Asked
from attacks.examples import CLASSES, SmallNet, every_attack, example, generators, volumes
from tiers import quick
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.targets import target_map
from freqbench.attacks.faa import fourier_bands
from freqbench.core.errors import ParameterError, UserError
from freqbench.core.types import IGNORED
from freqbench.ops.heads import SIGMOID
from freqbench.ops.losses import FEWEST_CLASSES, LOSSES, Scope
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
    labels = labelled(images)
    attack = example(name, eps=EPS)
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
    wrong = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    half = torch.tensor([[-1.0, -1.0], [1.0, -1.0]])
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


class OnlySecond(SmallNet):
    """A network of one channel that is shown the second of two."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, 1:])


@pytest.mark.parametrize(
    "name",
    quick(
        [name for name, attack in CLASSES.items() if not attack.moves_labels],
        *("pgd", "vafa", "sa2_2d", "square", "apgd", "dfb"),
    ),
)
def test_one_channel_of_two_is_attacked_as_if_it_were_alone(name: str) -> None:
    """The network does not read the other channel, which comes back to the bit."""
    images, labels = volumes(3, channels=2)
    both = example(name, channels=(1,))(OnlySecond(), images, labels, generator=generators(1, 2, 3))
    alone = example(name)(SmallNet(), images[:, 1:], labels, generator=generators(1, 2, 3))
    assert torch.equal(both.adversarial[:, :1], images[:, :1])
    assert torch.equal(both.adversarial[:, 1:], alone.adversarial)
    assert torch.equal(both.losses.nan_to_num(-1), alone.losses.nan_to_num(-1))
    assert (both.state is None) == (alone.state is None)
    assert both.state is None or torch.equal(both.state, alone.state)


def test_deformation_refuses_to_leave_channels_in_place() -> None:
    images, labels = volumes(channels=2)
    with pytest.raises(ParameterError, match=r"deformation: channels: expected all 2, got \[1\]: the label moves"):
        example("deformation", channels=(1,))(SmallNet(2), images, labels)
    every, named = (example("deformation", **keys)(SmallNet(2), images, labels) for keys in ({}, {"channels": (0, 1)}))
    assert torch.equal(every.adversarial, named.adversarial)


@pytest.mark.parametrize("name", ["pgd", "difgsm", "dynamic_scaling", "autoattack"])
def test_network_sees_unattacked_channels_in_their_place(name: str) -> None:
    """Two channels that are one stay one where nothing may change: resized with it, and of the same sample."""
    images, labels = volumes(3)
    model = Asked(SmallNet(channels=2))
    changes = {"threshold": 0.26} if name == "autoattack" else {}
    example(name, eps=0.0, channels=(1,), **changes)(model, images.repeat(1, 2, 1, 1, 1), labels)
    assert all(torch.equal(shown[:, 0], shown[:, 1]) for shown in model.volumes)
    changed = [shown for shown in model.volumes if shown.shape[0] < 3 or not torch.equal(shown[:, :1], images)]
    assert bool(changed) == (name != "pgd"), "nothing is resized, no window left out: nothing is tested"


@pytest.mark.parametrize("name", ["pgd", "ssa", "vafa", "sa2_2d", "vafa_opt", "square", "faa", "sea"])
def test_naming_all_channels_equals_naming_none(name: str) -> None:
    images, labels = volumes(channels=2)
    every, named = (example(name, **which)(SmallNet(2), images, labels) for which in ({}, {"channels": (1, 0)}))
    assert torch.equal(every.adversarial, named.adversarial)
    moved = (every.adversarial - images).abs().flatten(2).amax(2) > 0
    assert moved.any(0).all() if name == "faa" else moved.all()


NULL_ROWS = [(name, {"control": "uniform"}) for name in ("vafa", "sa2_2d")]


@pytest.mark.parametrize(("name", "changes"), [("dfb", {}), *NULL_ROWS])
def test_attacks_without_a_gradient_change_each_channel_alone(name: str, changes: dict[str, Any]) -> None:
    images, labels = volumes(channels=2)
    images[:, 1] = 0.3 + 0.2 * images[:, 1]
    attack = example(name, **changes)
    both = attack(SmallNet(2), images, labels).adversarial
    each = [attack(SmallNet(), images[:, i : i + 1], labels).adversarial for i in range(2)]
    assert torch.equal(both, torch.cat(each, dim=1))


def test_norm_of_noise_covers_all_channels_together() -> None:
    images, labels = volumes(channels=2)
    change = example("random_noise", linf=None, l2=0.9)(SmallNet(2), images, labels).adversarial - images
    norms = [float(np.linalg.norm(sample.double().numpy().ravel())) for sample in change]
    assert norms == pytest.approx([0.9, 0.9], abs=1e-5)
    assert (change.flatten(2).norm(dim=2) > 0.5).all()


def test_stripes_and_cubes_have_a_sign_in_each_channel() -> None:
    images = torch.full((40, 2, 4, 4, 4), 0.5)
    labels = torch.zeros(40, 1, 4, 4, 4, dtype=torch.long)
    striped = Asked(SmallNet(2))
    cubed = Asked(SmallNet(2))
    make("square", eps=0.1, queries=1)(striped, images, labels)
    make("square", eps=0.1, queries=2)(cubed, images, labels, start=torch.zeros_like(images))
    stripes = (striped.volumes[0] - images).sign()
    change = cubed.volumes[1] - images
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert not torch.equal(stripes[:, 0], stripes[:, 1])
    assert torch.equal(change[:, 0] != 0, change[:, 1] != 0)
    assert change.flatten(2).sum(2).sign().unique(dim=0).tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]


def test_every_channel_has_gates_of_its_own() -> None:
    images, labels = volumes(1, channels=2)
    images = 0.45 + 0.1 * images.double()
    reference = images.flip(1, 2)
    draws = torch.tensor([0.9, 0.8, 0.1, 0.7, 0.2, 0.3, 0.6, 0.4]).expand(1, 1, 8)
    attack = make("faa", bands=4, portion=0.5, steps=1, control="random")
    result = attack(SmallNet(2).double(), images, labels, start=draws, reference=reference)
    assert result.state.tolist() == [[1, 1, 0, 0, 0, 0, 1, 0]]
    bands = fourier_bands(images.shape[2:], 4).numpy()
    spectra = (np.abs(np.fft.rfftn(x[0], axes=(1, 2, 3))) for x in (images, reference, result.adversarial))
    own, other, attacked = spectra
    for i, opened in enumerate(([0, 1], [2])):
        assert np.allclose(attacked[i], np.where(np.isin(bands, opened), other[i], own[i]), atol=1e-9)


def test_channels_have_one_spelling() -> None:
    spelled = [make("pgd", eps=0.1, channels=channels) for channels in ((2, 0), [0, 2])]
    assert [attack.channels for attack in spelled] == [(0, 2)] * 2
    assert make("pgd", eps=0.1, channels=1).channels == (1,)


MOVING = ("difgsm", "dynamic_scaling", "deformation")  # what a network says lies elsewhere before it is mapped back


class Elsewhere(nn.Module):
    """A network that says something else, in some voxels: class 2 where `sign` is 1, class 0 where it is -1."""

    def __init__(self, voxels: Tensor, sign: float) -> None:
        super().__init__()
        self.net = SmallNet()
        self.voxels = voxels
        self.sign = sign

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        other = self.sign * 20 * torch.cat([-x[:, :1], 0 * x[:, :1], x[:, :1]], dim=1)
        return torch.where(self.voxels.expand(len(x), -1, -1, -1, -1), other, logits)


def labelled_with_slab() -> tuple[Tensor, Tensor, Tensor]:
    """Volumes, labels of which a slab is ignored, and the slab."""
    images, labels = volumes()
    voxels = torch.zeros(1, 1, *labels.shape[2:], dtype=torch.bool)
    voxels[:, :, 5:] = True
    return images, torch.where(voxels, IGNORED, labels), voxels


@pytest.mark.parametrize(
    "name", quick([name for name in CLASSES if name not in MOVING], "pgd", "vafa", "square", "faa")
)
def test_logits_in_voxels_without_a_label_change_no_attack(name: str) -> None:
    images, labels, voxels = labelled_with_slab()
    attack = example(name)

    def attacked(sign: float) -> Tensor:
        model = Elsewhere(voxels, sign).eval()
        cases = list(zip(images.flip(3), labels, strict=True))
        learned = partial(attack.learn, model, cases, tuple(images.shape[2:]), torch.Generator().manual_seed(3))
        needs = attack.supplied(
            reference=images.square,
            learned=learned,
            surrogates=lambda: [Elsewhere(voxels, sign).eval() for _ in range(2)],
        )
        return attack(model, images, labels, generator=generators(1, 2), **needs).adversarial

    torch.testing.assert_close(attacked(1.0), attacked(-1.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MOVING)
def test_attacks_that_move_volumes_take_labels_with_gaps(name: str) -> None:
    images, labels, _ = labelled_with_slab()
    assert not torch.equal(example(name)(SmallNet(), images, labels, generator=generators(1, 2)).adversarial, images)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "dlr-targeted"])
@pytest.mark.parametrize("organs", [None, (0, 2)])
def test_loss_and_success_are_those_of_the_labelled_part(loss: str, organs: tuple[int, ...] | None) -> None:
    assert FEWEST_CLASSES.get(loss, 0) <= 3
    images, labels, _ = labelled_with_slab()
    logits = SmallNet()(images.double().float()).detach()
    whole = Objective.of(labels.long())
    part = Objective.of(labels[:, :, :5].long())
    for objective in (whole, part):
        objective.aim(loss, organs, None)
    assert part.counted is None
    for of in (Objective.raised, Objective.success):
        torch.testing.assert_close(of(whole, logits), of(part, logits[:, :, :5]), rtol=1e-5, atol=1e-6)


def test_a_sample_is_reached_by_its_labelled_voxels_alone() -> None:
    labels = torch.full((2, 1, 2, 2, 2), IGNORED)
    labels[:, :, 0] = 1
    logits = torch.zeros(2, 3, 2, 2, 2)
    # the first is wrong where it counts
    logits[:, 0, 1] = 9.0
    logits[0, 2, 0] = 9.0
    logits[1, 1, 0] = 9.0
    assert Objective.of(labels).is_reached(logits).tolist() == [True, False]


@pytest.mark.parametrize("settings", [{}, {"target": "next-class"}, {"organs": (0,)}, {"target": ("erase", 1)}])
def test_no_gradient_comes_from_voxels_without_a_label(settings: dict[str, Any]) -> None:

    class Voxelwise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([-x, (x - 0.5).square(), x], dim=1)

    images, labels, voxels = labelled_with_slab()
    changed = make("bim", eps=0.1, steps=3, **settings)(Voxelwise(), images, labels).adversarial != images
    assert not changed[voxels.expand_as(changed)].any()
    assert changed.any()


def test_a_network_with_a_class_255_is_refused() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.expand(-1, IGNORED + 1, -1, -1, -1)

    images, labels, _ = labelled_with_slab()
    with pytest.raises(UserError, match=f"expected at most {IGNORED} classes of a model beside voxels that do not"):
        make("fgsm", eps=0.1)(Many(), images, labels)


def test_labels_without_gaps_have_no_mask() -> None:
    assert Objective.of(volumes()[1].long()).scope == Scope()
