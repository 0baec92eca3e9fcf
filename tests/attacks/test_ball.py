"""The attack `ball` against closed forms and against certificates: no member of a ball may break its bound."""

from functools import partial
from typing import Any

import pytest
import torch
from attacks.examples import of_class
from tiers import quick
from torch import Tensor, nn

from freqbench.analysis import certificates
from freqbench.attacks import make
from freqbench.attacks.ball import whole_shifts
from freqbench.core.errors import UserError
from freqbench.engine.scoring import score_draw
from freqbench.models import SegmentationModel, SlidingWindowModel, Wanted, prediction
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


every_control = pytest.mark.parametrize("control", ["none", "random"])


every_kind = pytest.mark.parametrize("kind", CHANGES)


@every_control
@every_kind
def test_parameters_stay_in_ball_and_null_rows_on_its_boundary(kind: str, control: str) -> None:
    image, label = volume()
    radius = 2.5 if kind == "voxel_shift" else 0.2
    result = make("ball", kind=kind, radius=radius, steps=4, control=control)(Edges().eval(), image, label)
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

    image = torch.full((1, 1, *SHAPE), 0.5)
    model = Linear()
    attack = make("ball", kind="voxels", radius=0.5, steps=20, loss="ce", random_start=False)
    result = attack(model, image, of_class(image))
    assert torch.allclose(result.adversarial - image, model.weight.detach() * 0.5 / model.weight.norm(), atol=2e-3)


def test_volumes_are_clamped_unless_the_network_clamps() -> None:
    image, label = volume()
    image = image + (1 - image.max())
    attack = make("ball", kind="gain_offset", radius=1.0, control="random")
    smoothed = SegmentationModel(Edges(), SHAPE, defence=Smoothing(kind="gain_offset", sigma=0.1, eot=1)).eval()
    for model, is_clamped in ((Edges().eval(), True), (smoothed, False)):
        draws = (attack(model, image, label, generator=torch.Generator().manual_seed(seed)) for seed in range(6))
        assert all(float(draw.adversarial.max()) <= 1 for draw in draws) == is_clamped


def smoothed(kind: str, samples: int = 1) -> tuple[Smoothing, SegmentationModel]:
    defence = Smoothing(kind=kind, sigma=SIGMA[kind], samples=samples, eot=4)  # type: ignore[arg-type]
    return defence, SegmentationModel(Edges(), SHAPE, defence=defence).eval()


def scores(defence: Smoothing, volumes: Tensor, label: Tensor, draws: int) -> list[list[float]]:
    """Foreground DSC of each draw of volumes `[B, 1, *SHAPE]`, in rising order: that of `prediction`, in batches."""
    net = Edges().eval()
    key = draw_seed("prediction", "a")
    scored = []
    for draw in range(draws):
        labels = net(defence.apply_draw(volumes, draw_seed("smoothing", key, draw))).max(1, keepdim=True).indices
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
    """DSC: bound at a radius minus what members of a ball of `reach` leave, in sigmas; counts `many`, `samples`."""
    image, label = volume()
    sigma = SIGMA[kind]
    alpha = 1e-6
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
        judged = prediction(model, each, case="a", wanted=Wanted(judge=partial(score_draw, label[0, 0])))
        assert (judged.draws or {})["dsc_foreground"] == pytest.approx(expected)


BALLS = [*((kind, 1.0) for kind in CHANGES), ("voxels", 0.5), ("bias_field", 1.5), ("voxel_shift", 1.5)]
"""Kinds and radii in sigmas."""


@pytest.mark.parametrize(("kind", "ratio"), quick(BALLS, ("voxels", 1.0)))
def test_no_member_of_a_ball_breaks_the_bound(kind: str, ratio: float) -> None:
    assert max(crossings(kind, ratio, ratio, many=(2, 1), samples=(400, 100))) <= 0


class Graded(nn.Module):
    """Leaves the fewer voxels right, the farther a volume has gone in one direction of the parameters of a kind.

    On such a network the bound is the median of the worst member, but for the number of draws: the share of voxels that
    are right falls evenly from -3 to 3 sigma along the direction.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.sign = nn.Parameter(torch.ones(()))
        generator = torch.Generator().manual_seed(5)
        self.weights = torch.randn(SHAPE, generator=generator)
        wave = torch.cos(2 * torch.pi * (torch.arange(8) + 0.5)[:, None, None] / 8).expand(SHAPE)
        slow = torch.cos(torch.pi * (torch.arange(8) + 0.5)[:, None, None] / 8).expand(SHAPE)
        flat = torch.full(SHAPE, 0.5)
        changes = {"dct_bands": 0.1 * slow, "fourier_shift": 0.3 * wave, "voxel_shift": 0.3 * wave}
        self.image = (flat + changes.get(kind, 0))[None, None]
        self.direction = torch.zeros(1, *CHANGES[kind].layout((1, *SHAPE)))
        if kind.endswith("_shift"):
            self.direction[0, 0] = 1
        else:
            point = self.direction.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.seen(CHANGES[kind].apply(self.image, point)).sum(), point)
            self.direction = slope / slope.norm()
            self.per_unit = float(slope.norm())
        self.thresholds = torch.linspace(-3, 3, 512)[torch.randperm(512, generator=generator)].reshape(SHAPE)

    def seen(self, x: Tensor) -> Tensor:
        """Returns a number of each volume that is linear in the parameters of the kind, `[B]`."""
        if self.kind == "voxels":
            return (x * self.weights).flatten(1).sum(1)
        if self.kind == "dct_bands":
            return (x - x.mean()).flatten(1).square().mean(1).log()
        if self.kind in ("bias_field", "gain_offset"):
            return x.clamp(min=1e-3).log().flatten(1).mean(1)
        return -torch.fft.fft(x.mean((1, 3, 4)), dim=1)[:, 1].angle() * 8 / (2 * torch.pi)

    def forward(self, x: Tensor) -> Tensor:
        gone = self.seen(x) - self.seen(self.image)
        gone = gone if self.kind.endswith("_shift") else gone / self.per_unit
        margin = self.thresholds - (gone / SIGMA[self.kind])[:, None, None, None, None]
        return self.sign * torch.cat([-margin, margin], dim=1)


@pytest.mark.parametrize("kind", quick(tuple(CHANGES), "voxels", "voxel_shift"))
def test_bound_is_near_the_worst_member_and_fails_if_bold(kind: str) -> None:
    """The member lies at one sigma; the bound of a fifth of this radius is too bold. Both have 500 draws."""
    sigma = SIGMA[kind]
    alpha = 1e-6
    network = Graded(kind)
    defence = Smoothing(kind=kind, sigma=sigma, samples=1, eot=1)  # type: ignore[arg-type]
    worst = CHANGES[kind].apply(network.image, sigma * network.direction)
    volumes = torch.cat([CHANGES[kind].apply(network.image, 0 * network.direction), worst])
    key = 3
    right = []
    with torch.no_grad():
        for draw in range(500):
            predicted = network(defence.apply_draw(volumes, draw_seed("smoothing", key, draw))).argmax(1)
            share = predicted.double().flatten(1).mean(1)
            right.append(2 * share / (1 + share))
    clean, attacked = (sorted(of_volume) for of_volume in torch.stack(right, dim=1).tolist())
    honest, bold = (
        certificates.bound(clean, certificates.require(500, kind, radius * sigma, sigma, alpha))
        for radius in (1.0, 0.2)
    )
    assert honest <= certificates.upper(attacked, alpha) < bold
    assert honest > 0.1


def test_competing_candidates_find_the_worst_shift_behind_noise() -> None:
    """One pass each would find the worst of 19 shifts about once in five runs."""

    class Noisy(nn.Module):
        takes_keys = True

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, keys: list[int]) -> Tensor:
            place = x.flatten(1).argmax(1)
            shift = torch.stack([place // 64 - 4, place // 8 % 8 - 4, place % 8 - 4], dim=1)
            distance = (shift - torch.tensor([1, -1, 0])).double().norm(dim=1)
            noise = torch.rand(1, generator=torch.Generator().manual_seed(keys[0]))
            right = torch.arange(512).reshape(1, 1, *SHAPE) < 512 * (0.3 + 0.06 * distance + 0.3 * noise)[0]
            return self.weight * torch.cat([~right, right], dim=1).float()

    image = torch.zeros(1, 1, *SHAPE)
    image[0, 0, 4, 4, 4] = 1
    attack = make("ball", kind="voxel_shift", radius=1.5, steps=30)
    states = [
        attack(Noisy(), image, of_class(image, 1), generator=torch.Generator().manual_seed(seed)).state
        for seed in range(5)
    ]
    assert sum(state is not None and state[0].tolist() == [1, -1, 0] for state in states) >= 4


def test_worst_gain_and_offset_is_one_of_sixteen_directions() -> None:
    """The change leaves the least of all sixteen, after forward passes alone."""
    image, label = volume()
    net = Edges().eval()
    result = make("ball", kind="gain_offset", radius=0.1, steps=16, random_start=False)(net, image, label)
    assert (result.num_forwards, result.num_backwards) == (16 * 1 + 8 * 2 + 4 * 4 + 2 * 8 + 1, 0)
    assert norm(result.state) == pytest.approx(0.1)
    angles = torch.arange(0, 2 * torch.pi, torch.pi / 8)
    circle = 0.1 * torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
    left = [
        score_draw(label[0, 0], net(CHANGES["gain_offset"].apply(image, c[None]).clamp(0, 1)).argmax(1)[0])
        for c in circle
    ]
    least = score_draw(label[0, 0], net(result.adversarial).argmax(1)[0])["dsc_foreground"]
    assert least == min(each["dsc_foreground"] for each in left)


def test_draws_lack_scores_of_classes_that_the_label_lacks() -> None:
    empty = torch.zeros(2, 2, 2, dtype=torch.uint8)
    assert score_draw(empty, empty + 2) == {"dsc": 0.0, "dsc_0": 0.0}
    assert set(score_draw(empty + 1, empty)) == {"dsc_foreground", "dsc", "volume_error_relative", "dsc_1"}
    assert set(score_draw(empty, empty, tolerances=(1, 1))) == {"dsc", "dsc_0"}
    lost = score_draw(empty + 1, empty, tolerances=(1, 1))
    assert (lost["nsd"], lost["nsd_1"], "nsd_2" in lost) == (0.0, 0.0, False)


@pytest.mark.slow
@every_kind
def test_no_member_of_many_breaks_the_bound(kind: str) -> None:
    """200 random and 50 optimised members of each ball."""
    assert max(crossings(kind, 1.0, 1.0, many=(200, 50), samples=(2000, 200))) <= 0


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if kind != "fourier_shift"])
@every_control
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


@pytest.mark.parametrize(("radius", "number", "halved"), [(1.0, 7, 16), (1.5, 19, 37), (2.0, 33, 53)])
def test_whole_shifts_are_all_that_lie_in_the_ball(radius: float, number: int, halved: int) -> None:
    """After a pass on each, halves go on: of 7, 4 on 2 passes each and 2 on 4; of 19, 10 on 1, 5 on 2 and so on."""
    assert len(whole_shifts(radius).unique(dim=0)) == number
    attack = make("ball", kind="voxel_shift", radius=radius, steps=8)
    assert attack.passes == (number * -(-8 // number) + halved + 1, 0), "the last one for the result"


def test_worst_whole_shift_has_the_lowest_dice_of_the_ball() -> None:
    image, label = volume()
    net = Edges().eval()

    def dice_of(by: Tensor) -> float:
        moved = CHANGES["voxel_shift"].apply(image, by[None])
        return score_draw(label[0, 0], net(moved).argmax(1)[0])["dsc_foreground"]

    result = make("ball", kind="voxel_shift", radius=2.0, steps=1)(net, image, label)
    assert result.num_forwards == 33 + 17 + 9 + 5 + 3 + 2 + 1
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
