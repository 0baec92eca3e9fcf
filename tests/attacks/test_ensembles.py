"""Ensembles: which member attacks which window, what it asks and keeps; SegPGD's and CosPGD's objectives."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attacks.asked import EPS, SEEDS, Asked, in_ball, run, scores, task, told
from attacks.examples import Threshold, generators
from attacks.small import Net, volumes
from torch import Tensor, nn

from freqbench.attacks import APGD, PGD, SEA, Attack, AttackResult, AutoAttack, Square, make
from freqbench.attacks.core.parameters import MEMBERS

CLASSICAL = ("apgd-ce", "apgd-dlr", "square")
SMALL: dict[str, Any] = {"steps": 6, "queries": 20, "members": CLASSICAL}
ALONE: list[tuple[str, dict[str, Any]]] = [
    ("apgd", {"steps": 6, "loss": "ce"}),
    ("apgd", {"steps": 6, "loss": "dlr"}),
    ("square", {"queries": 20, "p_init": 0.8}),
]
COSTS = (8, 8, 22)  # of each member: its own passes and a look at what it brings


@cache
def lowest_alone() -> list[list[float]]:
    """The lowest Dice that each member finds in each window when it is alone."""
    models = [run(name, **parameters)[0] for name, parameters in ALONE]
    return [[min(told(model, i)) for i in range(3)] for model in models]


def left_over(threshold: float) -> list[int]:
    """Forward passes of each window if it is left alone as soon as one member has brought it to the threshold."""
    counts = [0] * 3
    for i in range(3):
        lowest = np.inf
        for lowest_of_member, cost in zip(lowest_alone(), COSTS, strict=True):
            if lowest > threshold:
                counts[i] += cost
                lowest = min(lowest, lowest_of_member[i])
    return counts


def test_ensemble_keeps_the_worst_queried_volume() -> None:
    model, result = run("autoattack", **SMALL, threshold=0.0)
    assert scores(result.adversarial) == [min(told(model, i)) for i in range(3)]
    assert scores(result.adversarial) == np.min(lowest_alone(), axis=0).tolist()


def test_members_query_the_volumes_that_they_query_alone() -> None:
    model, _ = run("autoattack", **SMALL, threshold=0.0)
    assert len(model.volumes) == sum(COSTS)
    own = [asked for k, asked in enumerate(model.volumes) if k not in (7, 15, 36, 37)]
    alone = [asked for name, parameters in ALONE for asked in run(name, **parameters)[0].volumes]
    assert all(torch.equal(*pair) for pair in zip(own, alone, strict=True))


def test_a_warm_start_begins_at_the_worst_volume_so_far() -> None:
    warm, result = run("autoattack", steps=6, members=("apgd-ce", "apgd-dicece", "pgd-ce"), warm_start=True)
    assert all(min(told(warm, i)) > 0 for i in range(3))  # none has fallen: all are in every pass
    for begin in (8, 16):
        before = [told(warm, i)[:begin] for i in range(3)]
        worst = torch.stack([warm.volumes[int(np.argmin(dice))][i] for i, dice in enumerate(before)])
        torch.testing.assert_close(scores(warm.volumes[begin]), [min(dice) for dice in before])
        torch.testing.assert_close(warm.volumes[begin], worst)
    cold, _ = run("autoattack", steps=6, members=("apgd-ce", "apgd-dicece", "pgd-ce"))
    assert not torch.equal(cold.volumes[8], warm.volumes[8])
    assert scores(result.adversarial) == [min(told(warm, i)) for i in range(3)]


def test_later_members_skip_fallen_windows() -> None:
    """At every threshold that parts the windows; the model is asked about as many windows as are left."""
    dices = np.unique(lowest_alone()).tolist()
    seen = set()
    for threshold in dices:
        if left_over(threshold) == [38] * 3 and 38 in seen:
            continue
        model, result = run("autoattack", **SMALL, threshold=threshold)
        sizes = [len(asked) for asked in model.volumes]
        assert (list(result.forwards), sizes) == (left_over(threshold), sorted(sizes, reverse=True))
        assert sum(sizes) == sum(result.forwards)
        seen |= set(result.forwards)
    assert seen == {8, 16, 38}, "not every member was the last somewhere"


def test_a_fallen_window_keeps_its_volume() -> None:
    _, first = run("autoattack", **(SMALL | {"members": ("apgd-ce",)}))
    model, result = run("autoattack", **SMALL, threshold=1.0)
    assert torch.equal(first.adversarial, result.adversarial)
    assert (len(model.volumes), result.forwards, result.backwards) == (8, (8, 8, 8), (6, 6, 6))
    assert result.losses.isfinite().tolist() == [[True] * 3] * 6 + [[False] * 3] * 6


@pytest.mark.parametrize(("threshold", "forwards"), [(1.0, 4), (0.999, 4 + 4 + 5)])
def test_dice_at_the_threshold_has_fallen(threshold: float, forwards: int) -> None:
    _, result = run("autoattack", eps=0.0, steps=2, queries=3, members=CLASSICAL, threshold=threshold)
    assert result.forwards == (forwards,) * 3


def test_default_threshold_is_a_dice_of_zero() -> None:
    """One that is wrong from the start is left to the first member alone; all others are attacked by all members."""
    images, labels = task()
    labels[1] = torch.where(labels[1] == 1, 2, 1)
    result = make("autoattack", eps=0.0, steps=2, queries=3, members=CLASSICAL)(Net(), images, labels)
    assert result.forwards == (13, 4, 13)


def test_generators_advance_for_skipped_windows_too() -> None:
    images, labels = task()
    labels[1] = labels[1].clamp(max=1)
    drawn_from = generators(*SEEDS)
    fresh = generators(*SEEDS)
    attack = make("autoattack", eps=EPS, **SMALL, organs=(2,))
    assert attack(Net(), images, labels, generator=drawn_from).forwards == (38, 8, 38)
    assert not any(torch.equal(g.get_state(), f.get_state()) for g, f in zip(drawn_from, fresh, strict=True))


def test_members_take_the_declared_passes_together() -> None:
    torch.manual_seed(0)  # of other weights nothing may be left before the last member's turn
    attack = AutoAttack(eps=EPS, steps=4, queries=3, members=MEMBERS)
    result = attack(nn.Conv3d(1, 4, 3, padding=1), *task())
    assert (result.num_forwards, result.num_backwards) == attack.passes


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("apgd-mask-ce-balanced", APGD(eps=EPS, loss="mask-ce-balanced")),
        ("apgd-dicece-shrinking", APGD(eps=EPS, loss="dicece", eps_schedule=((2, 0.3), (1.5, 0.3), (1, 0.4)))),
        ("apgd-switch", APGD(eps=EPS, loss="switch", step_rule="cosine")),
        ("apgd-dlr-targeted", APGD(eps=EPS, loss="dlr-targeted", target="least-likely")),
        ("pgd-ce", PGD(eps=EPS, steps=100, step_size="eps/4", loss="ce", keep="best")),
        ("square", Square(eps=EPS, queries=5000, p_init=0.8, keep="best")),
    ],
)
def test_name_of_a_member_gives_optimiser_loss_and_radii(member: str, expected: Attack) -> None:
    assert AutoAttack(eps=EPS, members=(member,)).attacks == (expected,)


def test_default_members_raise_parts_of_the_score() -> None:
    attack = AutoAttack(eps=EPS)
    assert [member.loss_name for member in attack.attacks] == ["switch", "dice", "dicece", "mask-ce-balanced", "dicece"]
    assert [type(member) for member in attack.attacks] == [APGD] * 4 + [Square]
    assert (attack.threshold, attack.scope) == (0.0, "volume")


def test_sea_has_four_runs_of_auto_pgd_with_the_papers_radii() -> None:
    """The loss of SegPGD is the masked cross-entropy at first."""
    runs = SEA(eps=EPS).attacks
    assert SEA(eps=EPS).losses == ("dice", "mask-ce-balanced", "margin", "segpgd")
    assert [attack.loss for attack in runs] == ["dice", "mask-ce-balanced", "margin", "mask-ce"]
    for attack in runs:
        assert attack.stages == tuple(zip((2 * EPS, 1.5 * EPS, EPS), (90, 90, 120), strict=True))
        assert attack.random_start


def test_loss_of_segpgd_turns_to_wrong_voxels_within_each_radius() -> None:
    """Its values before each step are those of the formula, lambda = i / (2 T), T = 3, 3 and 4."""
    images, labels = task()
    model = Asked()
    result = make("sea", eps=EPS, steps=10, losses=("segpgd",))(model, images, labels, generator=generators(*SEEDS))
    looked = [z for k, z in enumerate(model.logits) if k not in (3, 7, 12, 13)]
    lambdas = [0, 1 / 6, 2 / 6, 0, 1 / 6, 2 / 6, 0, 1 / 8, 2 / 8, 3 / 8]
    for loss, share, logits in zip(result.losses, lambdas, looked, strict=True):
        ce = nn.functional.cross_entropy(logits, labels[:, 0], reduction="none")
        expected = torch.where(logits.argmax(1) == labels[:, 0], (1 - share) * ce, share * ce).flatten(1).mean(1)
        assert torch.allclose(loss, expected, atol=1e-6)


@pytest.mark.parametrize("classes", [(1, 2), (2,)])
def test_sea_keeps_the_worst_queried_volume_of_the_ball(classes: tuple[int, ...]) -> None:
    model, result = run("sea", steps=10, organs=classes if classes == (2,) else None)
    inside = in_ball(model)
    assert inside == ([False] * 8 + [True] * 6) * 4
    for i, score in enumerate(scores(result.adversarial, classes)):
        told_inside = [value for value, is_inside in zip(told(model, i, classes), inside, strict=True) if is_inside]
        assert score == min(told_inside) < 1


BOTH = pytest.mark.parametrize("name", ["segpgd", "cospgd"])


def attack(name: str, model: nn.Module, images: Tensor, labels: Tensor, **parameters: Any) -> AttackResult:
    """Without a random start, in a ball that is wide enough."""
    return make(name, **{"eps": 0.5, "step_size": 0.01, "random_start": False} | parameters)(model, images, labels)


def terms(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, cosine to the label and correctness of every voxel of the small network, `[B, N]`, by torch."""
    logits = Net().double()(images).detach()
    one_hot = F.one_hot(labels[:, 0], 3).movedim(-1, 1).double()
    entropy = F.cross_entropy(logits, labels[:, 0], reduction="none")
    cosine = F.cosine_similarity(logits.softmax(1), one_hot, dim=1)
    return entropy.flatten(1), cosine.flatten(1), (logits.argmax(1) == labels[:, 0]).flatten(1)


away_and_towards = pytest.mark.parametrize("targeted", [False, True])


@away_and_towards
def test_segpgd_weighs_right_and_wrong_voxels_by_a_schedule(targeted: bool) -> None:
    """Steps of length 0 show the objective of every step at one place; lambda is 0, 1/8, 1/4, 3/8 of four steps."""
    images, labels = volumes(dtype=torch.float64)
    entropy, _, right = terms(images, labels)
    resists = ~right if targeted else right
    expected = [(torch.where(resists, 1 - s, s) * entropy).mean(1) for s in (0, 1 / 8, 1 / 4, 3 / 8)]
    losses = attack("segpgd", Net().double(), images, labels, steps=4, step_size=0.0, targeted=targeted).losses
    assert torch.allclose(losses, (-1 if targeted else 1) * torch.stack(expected), rtol=1e-12, atol=0)


@away_and_towards
def test_cospgd_weighs_every_voxel_by_its_cosine(targeted: bool) -> None:
    images, labels = volumes(dtype=torch.float64)
    entropy, cosine, _ = terms(images, labels)
    expected = -((1 - cosine) * entropy).mean(1) if targeted else (cosine * entropy).mean(1)
    losses = attack("cospgd", Net().double(), images, labels, steps=1, targeted=targeted).losses
    assert torch.allclose(losses[0], expected, rtol=1e-12, atol=0)


@BOTH
def test_wrong_voxels_keep_moving_to_the_edge_of_the_ball(name: str) -> None:
    """A cosine that were differentiated too would hold voxels where their label is unlikely, but not impossible."""
    model = Threshold(20)
    images = torch.linspace(0.25, 0.75, 64, dtype=torch.float64).reshape(1, 1, 4, 4, 4)
    labels = (images > 0.5).long()
    labels.flatten()[::2] ^= 1
    moved = attack(name, model, images, labels, steps=20, eps=0.2, step_size=0.02).adversarial - images
    assert (moved * (1 - 2 * labels) >= 0.2 - 0.02 - 1e-9).all()


@BOTH
@pytest.mark.parametrize("variant", ["released", "released-bmvc"])
def test_released_copies_couple_a_batch_and_the_paper_does_not(name: str, variant: str) -> None:
    images, labels = volumes(dtype=torch.float64)
    labels[1, ..., :3] = Net().double()(images[1:]).argmax(dim=1)[..., :3]  # mostly right, beside a sample that is not
    for form, couples in (("paper", False), (variant, True)):
        assert make(name, eps=0.5, variant=form).couples_batch == couples
        options: dict[str, Any] = {"steps": 6, "variant": form, "step_size": 0.05}
        batch = attack(name, Net().double(), images, labels, **options)
        alone = [attack(name, Net().double(), images[i : i + 1], labels[i : i + 1], **options) for i in range(2)]
        is_equal = torch.allclose(batch.adversarial, torch.cat([each.adversarial for each in alone]), atol=1e-9)
        assert is_equal != couples
        assert batch.losses.shape == ((6,) if couples else (6, 2))
