"""The attack `ball` against closed forms and against certificates: no member of a ball may break its bound."""

from functools import partial
from typing import Any

import pytest
import torch
from tiers import quick
from torch import Tensor, nn

from freqbench.analysis import certificates
from freqbench.attacks import make
from freqbench.attacks.ball import whole_shifts
from freqbench.core.errors import UserError
from freqbench.engine.scoring import score_draw
from freqbench.metrics import nsd
from freqbench.models import SegmentationModel, SlidingWindowModel, prediction
from freqbench.models.defences.base import draw_seed
from freqbench.models.defences.smoothing import Smoothing
from freqbench.ops.changes import CHANGES

SHAPE = (8, 8, 8)
SIGMA = {"voxels": 0.15, "bias_field": 0.6, "gain_offset": 0.05, "dct_bands": 0.5, "fourier_shift": 0.8}
SIGMA["voxel_shift"] = 1.0


class Edges(nn.Module):
    """Class 1 above 0.5 and class 2 above 0.8, on soft edges: every kind of change moves voxels across them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.cat([torch.full_like(x, 0.0), x - 0.5, 2 * x - 1.3], dim=1)


def volume() -> tuple[Tensor, Tensor]:
    """A smooth volume `[1, 1, *SHAPE]` and the labels that the network gives it."""
    coarse = torch.rand(1, 1, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    image = nn.functional.interpolate(coarse, SHAPE, mode="trilinear", align_corners=True)
    return image, Edges()(image).argmax(1, keepdim=True)


def norm(state: Tensor | None) -> float:
    assert state is not None
    return float(state.flatten().norm())


@pytest.mark.parametrize("control", ["none", "random"])
@pytest.mark.parametrize("kind", CHANGES)
def test_parameters_stay_in_the_ball_and_a_null_row_lies_on_its_boundary(kind: str, control: str) -> None:
    image, label = volume()
    radius = 2.5 if kind == "voxel_shift" else 0.2
    attack = make("ball", kind=kind, radius=radius, steps=4, control=control)
    result = attack(Edges().eval(), image, label)
    assert result.state is not None
    assert 0 < norm(result.state) <= radius * (1 + 1e-5)
    if kind == "voxel_shift":
        assert torch.equal(result.state, result.state.round())
    elif control == "random":
        assert norm(result.state) == pytest.approx(radius)
    assert torch.allclose(result.adversarial, CHANGES[kind].apply(image, result.state).clamp(0, 1))


def test_best_change_of_voxels_is_along_the_gradient() -> None:
    """The best point of a ball for a linear score is the gradient's direction times the radius."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(0.2, 1, 512).reshape(1, 1, *SHAPE))

        def forward(self, x: Tensor) -> Tensor:
            score = (self.weight * x).sum(dim=(1, 2, 3, 4), keepdim=True).expand_as(x)
            return torch.cat([-score, score], dim=1)

    image, model = torch.full((1, 1, *SHAPE), 0.5), Linear()
    attack = make("ball", kind="voxels", radius=0.5, steps=20, loss="ce", random_start=False)
    result = attack(model, image, torch.zeros_like(image, dtype=torch.long))
    best = model.weight.detach() * 0.5 / model.weight.norm()
    assert torch.allclose(result.adversarial - image, best, atol=2e-3)


def test_volumes_are_clamped_unless_the_network_clamps_after_its_own_draw() -> None:
    image, label = volume()
    image = image + (1 - image.max())
    attack = make("ball", kind="gain_offset", radius=1.0, control="random")
    smoothed = SegmentationModel(Edges(), SHAPE, defence=Smoothing(kind="gain_offset", sigma=0.1, eot=1)).eval()
    outside = [
        float(attack(model, image, label, generator=torch.Generator().manual_seed(seed)).adversarial.max()) > 1
        for seed in range(6)
        for model in (Edges().eval(), smoothed)
    ]
    assert not any(outside[::2])
    assert any(outside[1::2])


def smoothed(kind: str, samples: int = 1) -> tuple[Smoothing, SegmentationModel]:
    """A defence, and the network behind it."""
    defence = Smoothing(kind=kind, sigma=SIGMA[kind], samples=samples, eot=4)  # type: ignore[arg-type]
    return defence, SegmentationModel(Edges(), SHAPE, defence=defence).eval()


def scores(defence: Smoothing, volumes: Tensor, label: Tensor, draws: int) -> list[list[float]]:
    """Foreground DSC of each draw of volumes `[B, 1, *SHAPE]`, in rising order: that of `prediction`, in batches."""
    net, key, scored = Edges().eval(), draw_seed("prediction", "a"), []
    for draw in range(draws):
        labels = net(defence.changed(volumes, draw_seed("smoothing", key, draw))).max(1, keepdim=True).indices
        pairs = [((labels == k).flatten(1), (label == k).flatten(1)) for k in (1, 2)]
        dice = [2 * (a & b).sum(1) / (a.sum(1) + b.sum(1)).double() for a, b in pairs]
        scored.append((dice[0] + dice[1]) / 2)
    return [sorted(of_volume) for of_volume in torch.stack(scored, dim=1).tolist()]


def members(kind: str, reach: float, model: SegmentationModel, random: int, optimised: int) -> Tensor:
    """Random and optimised members of a ball of `reach` sigmas, `[B, 1, *SHAPE]`."""
    batches = []
    for number, options in ((random, {"control": "random"}), (optimised, {"steps": 8})):
        if number:
            attack = make("ball", kind=kind, radius=reach * SIGMA[kind], **options)
            image, label = (each.expand(number, -1, -1, -1, -1) for each in volume())
            generator = torch.Generator().manual_seed(number)
            batches.append(attack(SlidingWindowModel(model), image, label, generator=generator).adversarial)
    return torch.cat(batches)


def crossings(kind: str, bound: float, reach: float, many: tuple[int, int], samples: tuple[int, int]) -> list[float]:
    """Certified bound at a radius minus what members of a ball leave at most, of the DSC; both radii are in sigmas.

    `many` are the numbers of random and optimised members, `samples` the draws of clean and attacked volumes.
    """
    image, label = volume()
    sigma, alpha = SIGMA[kind], 1e-6
    defence, model = smoothed(kind)
    (clean,) = scores(defence, image, label, samples[0])
    least = certificates.bound(clean, certificates.require(len(clean), kind, bound * sigma, sigma, alpha))
    assert least > 0.05  # it says something
    attacked = scores(defence, members(kind, reach, model, *many), label, samples[1])
    return [least - certificates.upper(of_member, alpha) for of_member in attacked]


@pytest.mark.parametrize("kind", ["voxels", "gain_offset"])
def test_a_prediction_has_the_draws_that_bounds_are_held_against(kind: str) -> None:
    image, label = volume()
    defence, model = smoothed(kind, samples=9)
    batch = torch.cat([image, members(kind, 1.0, model, 1, 1)])
    for each, expected in zip(batch, scores(defence, batch, label, 9), strict=True):
        judged = prediction(model, each, case="a", judge=partial(score_draw, label[0, 0]))
        assert (judged.draws or {})["dsc_foreground"] == pytest.approx(expected)


BALLS = [*((kind, 1.0) for kind in CHANGES), ("voxels", 0.5), ("bias_field", 1.5), ("voxel_shift", 1.5)]
"""Kinds and radii in sigmas."""


@pytest.mark.parametrize(("kind", "ratio"), quick(BALLS, ("voxels", 1.0)))
def test_no_member_of_a_ball_breaks_the_bound(kind: str, ratio: float) -> None:
    assert max(crossings(kind, ratio, ratio, many=(2, 1), samples=(400, 100))) <= 0


def test_draws_lack_scores_of_classes_that_the_label_lacks() -> None:
    empty = torch.zeros(2, 2, 2, dtype=torch.uint8)
    assert score_draw(empty, empty + 2) == {"dsc": 0.0, "dsc_0": 0.0}
    assert set(score_draw(empty + 1, empty)) == {"dsc_foreground", "dsc", "volume_error_relative", "dsc_1"}
    assert set(score_draw(empty, empty, tolerances=(1, 1))) == {"dsc", "dsc_0"}
    lost = score_draw(empty + 1, empty, tolerances=(1, 1))
    assert (lost["nsd"], lost["nsd_1"], "nsd_2" in lost) == (0.0, 0.0, False)


def test_the_surface_score_of_a_draw_is_the_metric_in_millimetres() -> None:
    label, pred = torch.zeros(2, 12, 12, 12, dtype=torch.uint8)
    label[2:8, 2:8, 2:8], pred[2:10, 2:8, 2:8] = 1, 1
    scores = [score_draw(label, pred, (side, 1.0, 1.0), (2.5,))["nsd"] for side in (1.0, 3.0)]
    assert scores == [nsd(pred, label, 2, 2.5, (side, 1, 1))[1] for side in (1.0, 3.0)]
    assert 1 == scores[0] > scores[1]


@pytest.mark.integration
def test_a_member_of_a_larger_ball_breaks_the_bound() -> None:
    """The test above can fail."""
    assert max(crossings("voxels", 0.2, 4.0, many=(0, 1), samples=(400, 100))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_no_member_of_many_breaks_the_bound(kind: str) -> None:
    """200 random and 50 optimised members of each ball."""
    assert max(crossings(kind, 1.0, 1.0, many=(200, 50), samples=(2000, 200))) <= 0


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if kind != "fourier_shift"])
@pytest.mark.parametrize("control", ["none", "random"])
def test_the_ball_of_radius_0_has_the_clean_volume_alone(kind: str, control: str) -> None:
    """Certificates take their clean draws from there. Of even sides, `fourier_shift` takes the Nyquist frequency."""
    image, label = volume()
    result = make("ball", kind=kind, radius=0, control=control, steps=2)(Edges().eval(), image, label)
    assert norm(result.state) == 0
    assert torch.allclose(result.adversarial, image, atol=1e-5)


@pytest.mark.parametrize("kind", ["fourier_shift", "voxel_shift"])
def test_shifts_of_some_channels_are_refused(kind: str) -> None:
    make("ball", kind=kind, radius=1.0).check_channels(2)
    with pytest.raises(UserError, match=r"^ball: channels: expected none, got \[0\]: a shift moves [^\n]*$"):
        make("ball", kind=kind, radius=1.0, channels=0).check_channels(2)


@pytest.mark.parametrize(("radius", "number"), [(1.0, 7), (1.5, 19), (2.0, 33)])
def test_whole_shifts_are_all_that_lie_in_the_ball(radius: float, number: int) -> None:
    assert len(whole_shifts(radius).unique(dim=0)) == number
    attack = make("ball", kind="voxel_shift", radius=radius, steps=20)
    assert attack.passes == (min(21, number), 0)


def test_worst_whole_shift_has_the_lowest_dice_of_the_ball() -> None:
    image, label = volume()
    net = Edges().eval()

    def dice_of(by: Tensor) -> float:
        moved = CHANGES["voxel_shift"].apply(image, by[None])
        return score_draw(label[0, 0], net(moved).argmax(1)[0])["dsc_foreground"]

    result = make("ball", kind="voxel_shift", radius=2.0, steps=32)(net, image, label)
    assert result.num_forwards == 33
    assert result.state is not None
    scores = sorted(dice_of(by) for by in whole_shifts(2.0))
    assert dice_of(result.state[0]) == scores[0] < scores[2], "two are the worst"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": "last"}, r"^ball: keep: expected best, got last: [^\n]*$"),
        ({"radius": 33.0}, r"^ball: radius: expected 0, or 1 to 32 voxels for voxel_shift, got 33$"),
        ({"radius": 0.9}, r"^ball: radius: expected 0, or 1 to 32 voxels for voxel_shift, got 0.9$"),
    ],
)
def test_whole_shifts_refuse_wrong_parameters_and_starts(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("ball", **{"kind": "voxel_shift", "radius": 2.0, **given})
    image, label = volume()
    with pytest.raises(UserError, match=r"^ball: expected no start for voxel_shift, [^\n]*$"):
        make("ball", kind="voxel_shift", radius=2.0)(Edges().eval(), image, label, start=torch.zeros(1, 3))


def test_gain_of_several_channels_has_no_certificate() -> None:
    for kind in ("voxels", "bias_field", "dct_bands"):
        make("ball", kind=kind, radius=1.0).check_channels(2)
    with pytest.raises(UserError, match=r"^gain_offset: expected volumes of 1 channel, got 2: its bound [^\n]*$"):
        make("ball", kind="gain_offset", radius=1.0).check_channels(2)
