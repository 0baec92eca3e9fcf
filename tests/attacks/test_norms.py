"""Attacks in the L2 ball: size, steps, starts, windows that share a ball."""

from typing import Any

import pytest
import torch
from attacks.asked import Asked
from attacks.examples import EXAMPLES, SmallNet, example, generators, of_class, volumes
from attacks.small import Net
from torch import Tensor

from freqbench.attacks import make
from freqbench.attacks.core.strongest import limits_of, strongest_forms
from freqbench.core.errors import ThreatModelError
from freqbench.core.types import IGNORED, Shape
from freqbench.models import JointModel, SegmentationModel, assemble, attack_windows
from freqbench.testing import check_attack

EPS = 0.03
L2 = ("pgd", "bim", "segpgd", "cospgd", "apgd", "square", "universal")


def l2(name: str, **changes: Any) -> Any:
    return example(name, norm="l2", **{("std" if name == "gn" else "eps"): EPS} | changes)


def sizes(change: Tensor) -> Tensor:
    return change.double().square().flatten(1).mean(1).sqrt()


@pytest.mark.parametrize("name", [*L2, "gn"])
def test_l2_attacks_keep_the_contract_and_reach_their_radius(name: str) -> None:
    few = {"queries": 9} if name == "square" else {}
    attack = make(name, **EXAMPLES[name] | {"norm": "l2", ("std" if name == "gn" else "eps"): EPS} | few)
    check_attack(attack)
    assert attack.threat_model == "l2"
    images, labels = volumes()
    reached = sizes(l2(name)(SmallNet(), images, labels).adversarial - images)
    assert (reached <= EPS + 1e-7).all()
    assert (reached > 0.8 * EPS).all()
    nothing = l2(name, **{"std" if name == "gn" else "eps": 0.0})(SmallNet(), images, labels)
    assert torch.equal(nothing.adversarial, images)


def test_pgd_steps_along_gradient_of_root_mean_square_of_one() -> None:
    """Far inside ball and box one step is all there is; the gradient is that of the loss, taken here."""
    images, labels = volumes()
    images = (0.3 + 0.4 * images.double()).requires_grad_()
    model = SmallNet().double().eval()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(images), labels[:, 0]), images)
    size = gradient.square().mean(dim=(1, 2, 3, 4), keepdim=True).sqrt()
    attack = make("pgd", norm="l2", eps=0.1, steps=1, step_size=0.02, random_start=False, loss="ce")
    moved = attack(model, images.detach(), labels).adversarial
    assert torch.allclose(moved, images + 0.02 * gradient / size, atol=1e-9)


def test_starts_are_normal_noise_of_the_radius() -> None:
    """Kurtosis of normals is 3; Auto-PGD's draw is the same in both variants, and is not stretched."""
    images = torch.full((1, 1, 16, 16, 16), 0.5)
    for name, more in (("pgd", {}), ("apgd", {}), ("apgd", {"variant": "paper"})):
        attack = make(name, norm="l2", eps=EPS, steps=1, **more)
        model = Asked(SmallNet())
        attack(model, images, of_class(images), generator=generators(1))
        change = (model.volumes[0] - images).double().flatten()
        assert change.square().mean().sqrt() == pytest.approx(EPS, rel=1e-5)
        assert (change / EPS).pow(4).mean() == pytest.approx(3, abs=0.3)


ROI: Shape = (8, 8, 4)


@pytest.mark.parametrize("name", ["pgd", "apgd", "square"])
@pytest.mark.parametrize("shape", [(16, 8, 4), (13, 8, 4)])
def test_joint_windows_share_one_ball_of_the_volume(name: str, shape: Shape) -> None:
    """The first window, which alone counts, gets what the other leaves; overlaps are counted once."""
    image = torch.rand(1, *shape) * 0.6 + 0.2
    windows = attack_windows(shape, ROI)
    model = JointModel(SegmentationModel(Net(), ROI).eval(), windows)
    label = torch.zeros(1, 1, *shape, dtype=torch.long)
    label[:, :, 5:] = IGNORED
    parts = torch.stack([image[:, h, w, d] for h, w, d in windows])
    attack = make(name, norm="l2", eps=EPS, scope="joint", **{"queries": 60} if name == "square" else {"steps": 5})
    made = attack(model, parts, label, generator=generators(*range(len(windows)))).adversarial
    whole = assemble(made, windows)[0] - image
    assert sizes(whole[None]) <= EPS + 1e-7
    assert sizes(whole[None]) > 0.9 * EPS
    if name != "square":
        assert sizes(whole[None, :, :8]) > 1.2 * EPS
    seen = model.seen
    assert seen.sum() == image.numel()
    assert torch.equal(made[~seen], parts[~seen])


def test_square_redistributes_its_change_between_two_cubes() -> None:
    """Every query has the whole radius, and leaves what lies outside two cubes in proportion."""
    images = torch.full((1, 1, 10, 10, 10), 0.5)
    model = Asked(SmallNet())
    labels = torch.randint(0, 3, images.shape)
    make("square", norm="l2", eps=EPS, queries=60, p_init=0.3)(model, images, labels, generator=generators(2))
    changes = [(volume - images).double() for volume in model.volumes[:60]]
    assert all(float(sizes(change)) == pytest.approx(EPS, rel=1e-5) for change in changes)
    first = changes[0][0, 0]
    # Bumps of two voxels a side; their four distances to a centre at the second voxel are two heights.
    assert len(first.abs().mul(1e6).round().unique()) == 2
    assert 0 < (first > 0).double().mean() < 1
    best = changes[0]
    changed = (changes[1] - best).abs() > 1e-9
    ratio = (changes[1] / best)[~changed | (changes[1] != 0)]
    assert ((changes[1] / best).round(decimals=4) == ratio.round(decimals=4).mode().values).sum() > 400
    assert (changes[1] == 0).sum() > 0


def test_noise_of_an_l2_norm_has_it_after_the_clamp() -> None:
    images, labels = volumes()
    images = images.round()  # half of the noise would leave the range
    plain, scaled = (example("gn", std=EPS, norm=norm)(SmallNet(), images, labels).adversarial for norm in (None, "l2"))
    assert (sizes(plain - images) < 0.9 * EPS).all()
    assert sizes(scaled - images).tolist() == pytest.approx([EPS, EPS], rel=1e-5)
    assert make("gn", std=EPS).threat_model == "gaussian"


def test_universal_tile_keeps_its_l2_norm_where_it_is_cut() -> None:
    """The whole change of the tile is in its first voxels, which the volume shows twice."""
    tile = torch.zeros(1, 4, 4, 4)
    tile[:, :2] = EPS * 2**0.5
    images = torch.full((1, 1, 6, 4, 4), 0.5)
    result = make("universal", norm="l2", eps=EPS)(SmallNet(), images, of_class(images), learned=tile)
    assert sizes(result.adversarial - images) == pytest.approx(EPS, rel=1e-5)


def test_a_volume_outside_the_l2_ball_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = make("pgd", norm="l2", eps=EPS)
    monkeypatch.setattr(type(attack), "perturb", lambda self, task: (task.clean + 1.1 * EPS).clamp(0, 1))
    with pytest.raises(ThreatModelError, match=r"pgd: l2 bound exceeded by 0\.00"):
        attack(SmallNet(), *volumes())


def test_strongest_form_in_l2_keeps_the_ball() -> None:
    """A window's ball and the volume's are two sets; the plain norm of `random_noise` and `ball` is a third."""
    for scope, form in (("window", "window"), ("volume", "joint"), ("joint", "joint")):
        forms = strongest_forms(make("pgd", norm="l2", eps=EPS, scope=scope))
        assert {(each.name, each.norm, each.eps, each.scope) for each in forms} == {("apgd", "l2", EPS, form)}
    window, volume, joint = (make("pgd", norm="l2", eps=EPS, scope=scope) for scope in ("window", "volume", "joint"))
    assert limits_of(window) != limits_of(volume) == limits_of(joint)
    assert limits_of(window) != limits_of(make("ball", kind="voxels", radius=EPS)) != limits_of(volume)
