"""Every entry of ATTACKS keeps one contract."""

import gc
import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from attacks import examples
from attacks.examples import CLASSES, EXAMPLES, GRADIENT, SETTINGS, SmallNet, every_attack, example, takes, volumes
from tiers import quick
from torch import Tensor

import freqbench.attacks
from freqbench.attacks import ATTACKS, make
from freqbench.attacks.core import searched
from freqbench.attacks.core.attack import LinfAttack
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.norms import NormAttack
from freqbench.attacks.core.searched import SearchedAttack
from freqbench.core.errors import ThreatModelError, UserError
from freqbench.ops.losses import dice_ce, mean_dice
from freqbench.testing import check_attack

TWO_CLASSES: dict[str, dict[str, Any]] = {
    "square": {"queries": 600, "p_init": 0.05},
    "rays": {"queries": 600, "dice": 0.71},
    "autoattack": {"members": ("apgd-ce", "square")},
}
LINF = [name for name, attack in CLASSES.items() if issubclass(attack, LinfAttack | NormAttack)]
ENSEMBLES = [name for name, attack in ATTACKS.items() if issubclass(attack, Ensemble)]
QUANTISING = ["vafa", "vafa_2d", "vafa_opt", "vafa_opt_2d"]
BOUNDED = [name for name, attack in CLASSES.items() if attack.budget_name]


def test_every_attack_has_an_example_and_its_own_name() -> None:
    assert set(EXAMPLES) == set(ATTACKS)
    expected = {name: name for name in ATTACKS}
    assert {name: attack.name for name, attack in ATTACKS.items()} == expected


def test_attacks_along_a_gradient_share_parameters_and_perturb() -> None:
    """Ensembles have members that do, BASES follow other networks, and a smallest norm has an objective of its own."""
    following = {name for name in ATTACKS if example(name).passes[1] > 0}
    assert set(GRADIENT) ^ following == {"square", "bases", "almaprox", "fmn", "ddn", *ENSEMBLES}
    assert {ATTACKS[name].perturb for name in GRADIENT} == {GradientAttack.perturb, SearchedAttack.perturb}


@pytest.mark.parametrize("name", LINF)
def test_linf_attacks_flip_exactly_the_voxels_within_reach(name: str) -> None:
    """On a threshold model a voxel can be flipped iff |x - 0.5| < eps: any more is a bug, any less a weak attack."""
    images = torch.linspace(0.4, 0.6, 4 * 3 * 4).reshape(1, 1, 4, 3, 4)
    labels = (images > 0.5).long()
    eps = SETTINGS[name]["eps"]
    adversarial = example(name, **TWO_CLASSES.get(name, {}))(examples.Threshold(), images, labels).adversarial
    flipped = (adversarial > 0.5).long() != labels
    reach = (images - 0.5).abs()
    decided = (reach - eps).abs() > 1e-6
    assert torch.equal(flipped[decided], (reach < eps)[decided])


@pytest.mark.parametrize("name", [name for name in BOUNDED if name not in QUANTISING])
def test_zero_budget_changes_nothing(name: str) -> None:
    images, labels = volumes()
    result = example(name, **{make(CLASSES[name], **SETTINGS[name]).budget_name: 0.0})(SmallNet(), images, labels)
    assert torch.equal(result.adversarial, images)


@pytest.mark.parametrize("name", QUANTISING)
def test_smallest_quantisation_step_changes_next_to_nothing(name: str) -> None:
    """A quantisation step cannot be 0, and stretching slices is no matter of the budget."""
    images, labels = volumes()
    result = example(name, q_max=1e-3, q_min=1e-3, renormalize=False)(SmallNet(), images, labels)
    assert torch.allclose(result.adversarial, images, rtol=0, atol=1e-5)


@every_attack
def test_every_attack_keeps_the_contract(name: str) -> None:
    check_attack(make(CLASSES[name], **SETTINGS[name]))


LOOPS = (
    *("pgd", "vafa", "square", "apgd", "ssa", "faa", "rays", "bases", "almaprox", "fmn", "deformation", "sea"),
    "universal",
)
"""An attack of each loop over steps or queries."""


@pytest.mark.parametrize("name", quick(LOOPS, "pgd", "vafa", "square"))
def test_no_tensor_outlives_its_step(name: str) -> None:
    """A small tensor that stays after a step fragments the heap: 400 steps of PGD at 64^3 took 1 GB, 20 a third."""
    alive: list[int] = []

    def count(*_: Any) -> None:
        alive.append(sum(type(each) is Tensor for each in gc.get_objects()))

    model = SmallNet()
    model.register_forward_hook(count)
    attack = example(name, **({"steps": 24} if takes(name, "steps") else {}))
    gc.freeze()  # what was there before is not looked through
    try:
        attack(model, *volumes())
    finally:
        gc.unfreeze()
    half = len(alive) // 2
    assert max(alive[half:]) - max(alive[:half]) < half / 2


def test_a_call_without_a_generator_has_seed_zero() -> None:
    images, labels = volumes()
    default, zero = (example("pgd")(SmallNet(), images, labels, generator=g) for g in (None, examples.generators(0)[0]))
    assert torch.equal(default.adversarial, zero.adversarial)


@pytest.mark.parametrize("name", [*GRADIENT, "walk"])
def test_attacks_raise_the_loss_and_towards_a_target_lower_it(name: str) -> None:
    """From the clean volume; where the start alone changes much, from that of the null row. Where labels move, the hard
    Dice says which volume is kept, and few steps need not raise the loss with it; towards a target the loss does."""
    images, labels = volumes()
    model = SmallNet().eval()
    begin = images
    if name in examples.FREQUENCY:
        begin = example(name, control="uniform" if name in QUANTISING else "random")(model, images, labels).adversarial
    for targeted, sign in ((False, 1), (True, -1)):
        by_dice = CLASSES[name].moves_labels and not targeted
        loss = (lambda *given: -mean_dice(*given)) if by_dice else dice_ce
        result = example(name, targeted=targeted)(model, images, labels)
        assert (sign * (loss(model(result.adversarial), result.labels) - loss(model(begin), labels)) > 0).all()


@pytest.mark.parametrize(
    ("perturbed", "message"),
    [
        (lambda x: (x + 0.2).clamp(0, 1), "fgsm: linf bound exceeded by 0.16"),
        (lambda x: x + 0.02, r"fgsm: volumes left \[0, 1\]"),
    ],
)
def test_a_volume_outside_the_ball_raises(
    perturbed: Callable[[Tensor], Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CLASSES["fgsm"], "perturb", lambda self, task: perturbed(task.clean))
    with pytest.raises(ThreatModelError, match=message):
        example("fgsm")(SmallNet(), *volumes())


@pytest.mark.parametrize(
    ("perturbed", "message"),
    [
        (lambda x: None, "a tensor of volumes from the attack, got NoneType: "),
        (lambda x: x.numpy(), "a tensor of volumes from the attack, got ndarray: "),
        (lambda x: (x, x), "a tensor of volumes from the attack, got tuple: "),
        (lambda x: x[:1], "volumes of the clean ones' shape from the attack, 2x1x8x6x4, got 1x1x8x6x4: "),
        (lambda x: x[0], "volumes of the clean ones' shape from the attack, 2x1x8x6x4, got 1x8x6x4: "),
        (lambda x: x[..., :0], "volumes of the clean ones' shape from the attack, 2x1x8x6x4, got 2x1x8x6x0: "),
        (lambda x: x.double(), "volumes of the clean ones' dtype from the attack, torch.float32, got torch.float64: "),
        (lambda x: x > 0.5, "volumes of the clean ones' dtype from the attack, torch.float32, got torch.bool: "),
        (lambda x: x.to("meta"), "volumes of the clean ones' device from the attack, cpu, got meta: "),
        (lambda x: x / 0, "finite volumes from the attack, got 384 of 384 voxels that are NaN or infinite: "),
        (
            lambda x: x.index_fill(3, torch.tensor(0), math.nan),
            "finite volumes from the attack, got 64 of 384 voxels that are NaN or infinite: ",
        ),
    ],
)
def test_a_result_unlike_the_clean_volumes_says_in_what(
    perturbed: Callable[[Tensor], object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CLASSES["fgsm"], "perturb", lambda self, task: perturbed(task.clean))
    with pytest.raises(UserError, match=f"^fgsm: expected {re.escape(message)}[a-z]"):
        example("fgsm")(SmallNet(), *volumes())


FILES = sorted(Path(freqbench.attacks.__file__).parent.rglob("*.py"))


@every_attack
def test_an_attack_holds_its_parameters_and_nothing_else(name: str) -> None:
    attack = example(name)
    attack = getattr(attack, "_attack", attack)
    assert set(vars(attack)) == {field.name for field in fields(attack)}


def test_other_rooms_read_declarations_not_classes_of_attacks() -> None:
    """Code outside asks no `isinstance(attack, ...)`, so that an attack of another package is treated alike."""
    room = FILES[0].parent
    asking = re.compile(r"(isinstance|issubclass)\([\w.]*attack, [A-Z]\w+\)")
    files = [path for path in room.parent.rglob("*.py") if not path.is_relative_to(room)]
    asked = [(path.name, line.group()) for path in files for line in asking.finditer(path.read_text())]
    assert len(asked) <= 4, asked


SEARCHED = [name for name in GRADIENT if issubclass(ATTACKS[name], SearchedAttack)]


def corners_of(attack: SearchedAttack, images: Tensor) -> list[Tensor]:
    attack = cast(SearchedAttack, attack.on_grid((1.0, 1.0, 1.0)))
    space = attack.space(images)
    return [space.render(corner) for corner in attack.corners(images, space)]


def test_revision_is_former_where_no_corner_is_kept() -> None:
    kinds = [("best", "dice"), ("last", "auto"), ("last", "dice")]
    assert [make("sa2_opt", keep=keep, loss=loss).revision for keep, loss in kinds] == [3, 3, 2]


@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_leaves_no_more_than_any_of_its_corners(name: str) -> None:
    """Corners lie in the set, are as many as the passes count, and are looked at in every run."""
    images, labels = volumes()
    model = SmallNet().eval()
    attack = example(name, steps=1)
    made = corners_of(attack, images)
    assert len(made) == attack.num_corners
    result = attack(model, images, labels)
    kept = mean_dice(model(result.adversarial), result.labels)
    for corner in made:
        assert (kept <= mean_dice(model(corner), labels) + 1e-6).all() or attack.moves_labels
    assert result.num_forwards == attack.passes[0]


def test_every_second_run_starts_at_the_best_corner(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = list[Tensor]()
    monkeypatch.setattr(searched, "search", lambda task, space, start, *_: starts.append(start) or start)
    images, labels = volumes()
    model = SmallNet().eval()
    attack = example("bias_field", restarts=4)
    attack(model, images, labels)
    fields = [*attack.corners(images, attack.space(images))]
    left = torch.stack([mean_dice(model(attack.space(images).render(field)), labels) for field in fields])
    best = torch.stack(fields)[left.argmin(dim=0), torch.arange(len(images))]
    assert torch.equal(starts[1], best)
    assert torch.equal(starts[3], best)
    assert not torch.equal(starts[0], starts[2])
