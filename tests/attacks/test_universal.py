"""The universal perturbation: what is learned, and what it does to cases that it was not learned from."""

from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, Threshold
from attacks.small import Net
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.attacks.universal import Universal
from freqbench.core.errors import ThreatModelError, UserError
from freqbench.core.types import Shape
from freqbench.ops.losses import dice_ce

EPS = 8 / 255
WINDOW: Shape = (8, 6, 4)
Cases = list[tuple[Tensor, Tensor]]


def universal(**parameters: Any) -> Universal:
    return make("universal", **{"eps": EPS, **parameters})


def cases(count: int, shape: Shape = WINDOW, seed: int = 0, channels: int = 1) -> Cases:
    """Noise, and what the small network predicts on it: it is right everywhere."""
    images = torch.rand(count, channels, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        labels = Net()(images[:, :1]).argmax(1, keepdim=True)
    return list(zip(images, labels, strict=True))


def test_a_tile_is_repeated_from_the_first_voxel_on_and_clamped() -> None:
    tile = EPS * torch.randn(1, 4, 3, 2).clamp(-1, 1)
    images = torch.stack([image for image, _ in cases(2, (9, 7, 5))]).round(decimals=1)
    result = universal(tile=(4, 3, 2))(SmallNet(), images, torch.zeros_like(images).long(), learned=tile)
    expected = np.clip(images.numpy() + np.tile(tile[0].numpy(), (3, 3, 3))[:9, :7, :5], 0, 1)
    assert (images == 1).any()
    assert (images == 0).any()
    assert np.array_equal(result.adversarial.numpy(), expected)
    assert (result.num_forwards, result.num_backwards) == (0, 0)


def test_every_step_follows_the_sum_of_all_cases_and_repetitions() -> None:
    """The first step from no change, by central differences of the summed loss; in the second the tile has moved."""
    given = [(image.double(), label) for image, label in (*cases(2, (6, 4, 4)), *cases(1, (4, 5, 3), seed=3))]
    model = Net().double().eval()

    def loss(tile: np.ndarray[Any, Any]) -> float:
        total = 0.0
        for image, label in given:
            h, w, d = image.shape[1:]
            moved = np.clip(image[0].numpy() + np.tile(tile, (2, 2, 2))[:h, :w, :d], 0, 1)
            with torch.no_grad():
                total += float(dice_ce(model(torch.from_numpy(moved)[None, None]), label[None]))
        return total

    tile = np.zeros((4, 3, 2))
    for steps in (1, 2):
        slopes = np.zeros_like(tile)
        for place in np.ndindex(tile.shape):
            there = np.zeros_like(tile)
            there[place] = 1e-6
            slopes[place] = loss(tile + there) - loss(tile - there)
        tile = np.clip(tile + EPS / 4 * np.sign(slopes), -EPS, EPS)
        learned = universal(tile=(4, 3, 2), steps=steps).learn(model, given, WINDOW)
        assert np.allclose(learned[0].numpy(), tile, atol=1e-9)


def test_unseen_case_loses_all_voxels_within_reach() -> None:
    """The organ lies in one place in all cases, each voxel up to 2 eps from the threshold."""

    def drawn(count: int, seed: int) -> Cases:
        margins = 2 * EPS * torch.rand(count, 1, *WINDOW, generator=torch.Generator().manual_seed(seed))
        labels = torch.zeros(margins.shape, dtype=torch.long)
        labels[:, :, :5] = 1
        return list(zip(0.5 + torch.where(labels > 0, margins, -margins), labels, strict=True))

    flipped = dict[str, Tensor]()
    images, labels = (torch.stack(each) for each in zip(*drawn(20, seed=1), strict=True))
    for control in ("none", "random"):
        attack = universal(control=control)
        tile = attack.learn(Threshold(), drawn(6, seed=0), WINDOW, torch.Generator().manual_seed(3))
        flipped[control] = (attack(Threshold(), images, labels, learned=tile).adversarial > 0.5).long() != labels
    margins = (images - 0.5).abs()
    decided = (margins - EPS).abs() > 1e-6
    assert torch.equal(flipped["none"][decided], (margins < EPS)[decided])
    assert (flipped["random"].sum() / flipped["none"].sum()) == pytest.approx(0.5, abs=0.06)


def test_null_row_has_signs_of_the_seed_at_eps_without_a_pass() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("asked")

    null = universal(control="random")
    tiles = [
        null.learn(Silent(), given, WINDOW, torch.Generator().manual_seed(seed))
        for given, seed in ((cases(1), 0), (cases(2, seed=5), 0), (cases(1), 1))
    ]
    assert torch.equal(tiles[0], tiles[1])
    assert not torch.equal(tiles[0], tiles[2])
    assert torch.equal(tiles[0].abs(), torch.full_like(tiles[0], EPS))
    assert 0.3 < (tiles[0] > 0).double().mean() < 0.7
    assert null.learning_passes == (0, 0)


def test_one_channel_alone_is_learned_and_changed() -> None:
    given = cases(2, channels=2)
    attack = universal(channels=1, steps=2)
    model = SmallNet(channels=2).eval()
    tile = attack.learn(model, given, WINDOW)
    images = given[0][0][None]
    labels = given[0][1][None]
    change = attack(model, images, labels, learned=tile).adversarial - images
    assert tile.shape == (1, *WINDOW)
    assert not change[:, 0].any()
    assert change[:, 1].any()


def test_loss_towards_a_target_falls() -> None:
    given = [(image, torch.ones_like(label)) for image, label in cases(3)]
    model = Net().eval()
    tile = universal(targeted=True).learn(model, given, WINDOW)
    for image, label in given:
        with torch.no_grad():
            before, after = (dice_ce(model((image + each).clamp(0, 1)[None]), label[None]) for each in (0 * tile, tile))
        assert float(after) < float(before)


def test_random_defence_draws_anew_in_each_step_and_case() -> None:
    class Keyed(Net):
        takes_keys = True

        def __init__(self) -> None:
            super().__init__()
            self.keys = list[int]()

        def forward(self, x: Tensor, keys: Any = None) -> Tensor:
            self.keys += keys
            return super().forward(x)

    first = Keyed()
    second = Keyed()
    for model in (first, second):
        universal(steps=3).learn(model, cases(2), WINDOW)
    assert len(set(first.keys)) == 6
    assert first.keys == second.keys


def test_a_tile_outside_the_ball_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqbench.attacks.universal._with_tile", lambda clean, tile: (clean + 2 * tile).clamp(0, 1))
    images = torch.full((1, 1, *WINDOW), 0.5)
    with pytest.raises(ThreatModelError, match=r"universal: linf bound exceeded by 0\.0314"):
        universal()(Net(), images, images.long(), learned=torch.full((1, *WINDOW), EPS))


@pytest.mark.parametrize(
    ("learned", "expected"),
    [
        (None, "expected what it learned, got none: give learned=attack.learn"),
        (torch.zeros(2, 4, 4, 4), r"expected a learned tile \[1, h, w, d\], got 2x4x4x4: learn it again"),
        (torch.zeros(4, 4, 4), r"expected a learned tile \[1, h, w, d\], got 4x4x4"),
        (torch.zeros(1, 0, 4, 4), r"expected a learned tile \[1, h, w, d\], got 1x0x4x4"),
        (torch.full((1, 4, 4, 4), 0.1), "expected a learned tile within eps = 0.0313725, got 0.1: learn it again"),
        (torch.full((1, 4, 4, 4), torch.nan), "expected a learned tile within eps = 0.0313725, got nan"),
    ],
)
def test_a_tile_that_cannot_be_learned_is_refused_in_one_line(learned: Tensor | None, expected: str) -> None:
    images = torch.full((1, 1, *WINDOW), 0.5)
    with pytest.raises(UserError, match=rf"^universal: {expected}[^\n]*$"):
        universal()(Threshold(), images, images.long(), learned=learned)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "expected cases to learn from, got none: give one or more"),
        ([(255 * image, label) for image, label in cases(1)], r"expected images in \[0, 1\], got"),
        ([(image, label[:, :1]) for image, label in cases(1)], r"expected labels \[B, 1, H, W, D\] beside the images"),
        ([(image, label + 7) for image, label in cases(1)], "expected labels in 0..2 for 3 classes of the model"),
    ],
)
def test_wrong_cases_to_learn_from_are_refused_in_one_line(given: Cases, expected: str) -> None:
    with pytest.raises(UserError, match=rf"^universal: {expected}[^\n]*$"):
        universal().learn(Net(), given, WINDOW)
