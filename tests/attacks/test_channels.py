"""Volumes of several channels: all attacked, or some of them beside others that stay as they are."""

from typing import Any

import numpy as np
import pytest
import torch
from attacks.asked import Asked
from attacks.examples import CLASSES, SmallNet, example, generators, volumes
from tiers import quick
from torch import Tensor

from freqbench.attacks import make
from freqbench.attacks.faa import fourier_bands
from freqbench.core.errors import ParameterError
from freqbench.job.attacks import attack_identity


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
    assert bool(moved.any(0).all() if name == "faa" else moved.all())


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
    assert all(float(sample[i].norm()) > 0.5 for sample in change for i in range(2))


def test_stripes_and_cubes_have_a_sign_in_each_channel() -> None:
    images, labels = torch.full((40, 2, 4, 4, 4), 0.5), torch.zeros(40, 1, 4, 4, 4, dtype=torch.long)
    striped, cubed = Asked(SmallNet(2)), Asked(SmallNet(2))
    make("square", eps=0.1, queries=1)(striped, images, labels)
    make("square", eps=0.1, queries=2)(cubed, images, labels, start=torch.zeros_like(images))
    stripes, change = (striped.volumes[0] - images).sign(), cubed.volumes[1] - images
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert not torch.equal(stripes[:, 0], stripes[:, 1])
    assert torch.equal(change[:, 0] != 0, change[:, 1] != 0)
    signs = change.flatten(2).sum(2).sign()
    assert {tuple(pair) for pair in signs.tolist()} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}


def test_every_channel_has_gates_of_its_own() -> None:
    images, labels = volumes(1, channels=2)
    images, reference = 0.45 + 0.1 * images.double(), 0.45 + 0.1 * images.double().flip(1, 2)
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
    plain = attack_identity(make("pgd", eps=0.1))
    assert attack_identity(make("pgd", eps=0.1, channels=None)) == plain
    assert "channels" not in plain
    spelled = [make("pgd", eps=0.1, channels=channels) for channels in ((2, 0), [0, 2])]
    assert [attack_identity(attack) for attack in spelled] == [{**plain, "channels": (0, 2)}] * 2
    assert make("pgd", eps=0.1, channels=1).channels == (1,)
