"""Parameters that gradient attacks share, and the searches among them: losses, rules, restarts, steps."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from attacks import examples
from attacks.asked import Asked, entropies
from attacks.examples import EXAMPLES, FREQUENCY, GRADIENT, SmallNet, every_gradient_attack, generators, takes, volumes
from torch import Tensor, nn

from freqbench.attacks import AttackResult, apgd, make
from freqbench.attacks.core.objective import Objective
from freqbench.core.errors import ParameterError
from freqbench.job.attacks import attack_identity, attack_params
from freqbench.metrics import dice
from freqbench.ops.heads import SOFTMAX
from freqbench.ops.losses import EVERYTHING, LOSSES, Loss, margin, mean_dice

SETTINGS: dict[str, dict[str, Any]] = {
    **{loss: {"loss": loss} for loss in LOSSES if loss not in ("dlr-targeted", "dicece")},
    "organs": {"organs": (1,)},
    "least-likely": {"target": "least-likely"},
    "organs and target": {"organs": (2, 1), "target": ("swap", 2, 0), "loss": "mask-ce"},
    "best": {"keep": "best"},
    "best, masked": {"keep": "best", "loss": "mask-ce"},
    "restarts": {"restarts": 3},
    "restarts of the best": {"restarts": 2, "keep": "best"},
}
# Attacks with an objective of their own, in the variants that differ; all others raise what `Task` raises.
OBJECTIVES: list[tuple[str, dict[str, Any]]] = [
    ("pgd", {}),
    ("square", {}),
    ("faa", {}),
    ("vafa", {}),
    ("sa2", {"variant": "released-cosine"}),
    ("dynamic_scaling", {}),
    *((name, {"variant": v}) for name in ("segpgd", "cospgd") for v in ("paper", "released", "released-bmvc")),
]
every_objective = pytest.mark.parametrize(("name", "form"), OBJECTIVES, ids=str)


class Wave(nn.Module):
    """Its prediction turns with every step, so that no way leads up for long."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.sin(40 * x), torch.cos(40 * x), -torch.sin(40 * x)], dim=1)


# Each setting on one attack by voxels, and on each attack settings in turn.
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        (name, setting)
        for i, name in enumerate(GRADIENT)
        for j, (setting, changes) in enumerate(SETTINGS.items())
        if ("restarts" not in changes or name in examples.STOCHASTIC)
        and (takes(name, "loss") or changes.keys() != {"loss"})
        if name == "pgd" or (i + j) % 7 == 0
    ],
)
def test_batch_equals_its_samples_and_takes_declared_passes(name: str, setting: str) -> None:
    attack = examples.plain(name, **SETTINGS[setting])
    images, labels = volumes(2)
    images = images.double()
    model = Asked(SmallNet().double())
    batch = attack(model, images, labels, generator=generators(1, 2))
    assert (len(model.volumes), batch.num_backwards) == (batch.num_forwards, attack.passes[1])
    assert (batch.num_forwards, len(batch.losses)) == attack.passes
    alone = attack(model, images[1:], labels[1:], generator=generators(2))
    assert ((batch.adversarial[1:] - alone.adversarial).abs() > 1e-6).double().mean() <= 2e-3


@every_objective
def test_target_rule_equals_attack_towards_labels_that_it_makes(name: str, form: dict[str, str]) -> None:
    images, labels = volumes()
    target = torch.where(labels == 0, 0, 3 - labels)
    rule = examples.plain(name, **form, target=("swap", 1, 2))(SmallNet(), images, labels)
    given = examples.plain(name, **form, targeted=True)(SmallNet(), images, target)
    away = examples.plain(name, **form)(SmallNet(), images, target)
    assert torch.equal(rule.adversarial, given.adversarial)
    assert torch.equal(rule.losses, given.losses)
    assert not torch.equal(rule.adversarial, away.adversarial)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *OBJECTIVES,
        *((name, {**form, "target": ("swap", 1, 0)}) for name, form in OBJECTIVES),
        ("sea", {}),
        ("autoattack", {"members": ("apgd-dlr", "apgd-ce")}),
    ],
    ids=str,
)
def test_labels_of_other_organs_change_nothing(name: str, changes: dict[str, Any]) -> None:
    images, labels = volumes()
    attack = examples.plain(name, organs=(1,), **changes)
    one, other = (attack(SmallNet(), images, y) for y in (labels, torch.where(labels == 1, 1, 2 - labels)))
    assert torch.equal(one.adversarial, other.adversarial)
    assert torch.equal(one.losses, other.losses)


@every_gradient_attack
def test_a_window_without_the_organs_has_no_gradient(name: str) -> None:
    images, labels = volumes()
    labels[1] = labels[1].clamp(max=1)
    result = examples.plain(name, organs=(2,), loss="ce")(SmallNet(), images, labels)
    assert torch.equal(result.losses[:, 1], torch.zeros(len(result.losses)))
    assert result.adversarial.isfinite().all()


@pytest.mark.parametrize(
    ("name", "changes", "passes"),
    [
        ("bim", {"loss": "ce"}, 1),
        ("bim", {"loss": "mask-ce"}, 1),
        ("segpgd", {}, 1),
        ("cospgd", {"variant": "released"}, 1),
        ("ssa", {"loss": "ce", "num_spectra": 2, "block": 4, "eps": 0.2}, 3),
    ],
)
def test_keep_best_returns_the_best_of_all_volumes(name: str, changes: dict[str, Any], passes: int) -> None:
    """Steps overshoot; the cross-entropy of every iterate, the first pass of a step, decides: SSA adds others."""
    images, labels = volumes()
    model = Asked(Wave())
    quiet = {"random_start": False} if takes(name, "random_start") else {}
    wide = {"step_size": 0.05} if takes(name, "step_size") else {}
    attack = make(name, **({"eps": 0.1, "steps": 6, "keep": "best"} | quiet | wide | changes))
    best = attack(model, images, labels).adversarial
    assert len(model.volumes) == 6 * passes + 1
    losses = entropies(model, labels)[::passes]
    assert (losses.argmax(0) < 6).any(), "the last is the best everywhere: nothing is tested"
    for i, k in enumerate(losses.argmax(0).tolist()):
        assert torch.equal(best[i], model.volumes[k * passes][i])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pgd", {"keep": "best"}),
        ("pgd", {"organs": (2,)}),  # by their own Dice, not by that of all organs
        ("segpgd", {}),
        ("square", {}),
        ("ssa", {}),
        ("sa2", {"keep": "best"}),
        ("vafa_opt", {}),
        ("faa", {"keep": "last"}),
    ],
    ids=str,
)
def test_restarts_keep_each_samples_run_of_the_lowest_dice(name: str, changes: dict[str, Any]) -> None:
    """Each run ends with a look at its volumes; the Dice decides for each window, not the loss."""
    images, labels = volumes()
    model = Asked(SmallNet())
    attack = examples.plain(name, restarts=4, loss="ce", **changes)
    result = attack(model, images, labels, generator=generators(1, 2))
    looks = len(model.volumes)
    ends = slice(looks // 4 - 1, None, looks // 4)
    assert looks == attack.passes[0]
    classes = list(changes.get("organs", (1, 2)))
    for i in range(2):
        dices = [np.nanmean(dice(logits[i].argmax(0), labels[i, 0], 3)[classes]) for logits in model.logits[ends]]
        # To rounding: vafa_opt renders in the end what its table makes.
        torch.testing.assert_close(
            result.adversarial[i], model.volumes[ends][int(np.argmin(dices))][i], rtol=0, atol=2e-6
        )


every_frequency_attack = pytest.mark.parametrize("name", FREQUENCY)


@every_frequency_attack
def test_the_state_is_that_of_the_best_volumes(name: str) -> None:
    images, labels = volumes()
    result = examples.plain(name, keep="best", steps=1)(SmallNet(), images, labels)
    null = examples.plain(name, control="random", steps=1)(SmallNet(), images, labels, start=result.state)
    assert torch.allclose(null.adversarial, result.adversarial, atol=1e-6)


@every_gradient_attack
def test_one_attack_has_one_identity_that_json_and_hash_can_hold(name: str) -> None:
    attack = make(name, **EXAMPLES[name])
    shared = ("loss", "organs", "target", "restarts", "keep", "scope")
    own = {field: getattr(attack, field) for field in shared if takes(name, field)}
    assert attack_identity(make(name, **EXAMPLES[name], **own)) == attack_identity(attack)
    assert not own.keys() & attack_identity(attack).keys()
    given = make(name, **EXAMPLES[name], target={"swap": {2: 1}}, organs=[2, 1, 2])
    assert given == make(name, **EXAMPLES[name], target=("swap", 1, 2), organs=(1, 2))
    assert hash(given) == hash(make(name, **EXAMPLES[name], target=("swap", 1, 2), organs=(1, 2)))
    assert '"target": ["swap", 1, 2]' in attack_params(given)


@every_frequency_attack
def test_a_null_row_ignores_parameters_of_gradients(name: str) -> None:
    changes: dict[str, Any] = {"loss": "ce", "organs": (1,), "target": "least-likely", "keep": "best", "restarts": 3}
    null = make(name, control="uniform", **changes)
    assert null == make(name, control="uniform")
    assert null.passes == (0, 0)


EPS = 0.25


class Linear(nn.Module):
    """Three classes whose logits are linear in each voxel, with slopes of the voxel's own."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.slopes, self.offsets = (torch.randn(1, 3, 6, 5, 4, generator=generator).double() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.offsets + 4 * self.slopes * (x - 0.5)


IMAGES = torch.full((1, 1, 6, 5, 4), 0.5, dtype=torch.float64)
LABELS = Linear().offsets.argmax(1, keepdim=True)


def attacked(loss: str, steps: int = 20, model: nn.Module | None = None, **changes: Any) -> AttackResult:
    settings = {"eps": EPS, "random_start": False, "step_rule": "cosine"} | changes
    return make("apgd", **settings, steps=steps, loss=loss)(model or Linear(), IMAGES, LABELS)


@pytest.fixture
def legs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, range, int]]:
    """Loss, steps and length of each part of a search."""
    parts: list[tuple[str, range, int]] = []
    glide = apgd.glide

    def noted(task: Any, space: Any, points: Any, steps: range, of: int, loss: Any) -> Any:
        parts.append((loss.__name__, steps, of))
        return glide(task, space, points, steps, of, loss)

    monkeypatch.setattr(apgd, "glide", noted)
    return parts


class Waves(Linear):
    """Logits that rise and fall several times within reach, so that steps of another length end elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.offsets + self.slopes * (20 * x).sin()


def test_steps_shrink_along_cosine_with_momentum_of_auto_pgd() -> None:
    model = Waves()
    x = IMAGES.clone()
    steps = 6
    previous = x
    for i in range(steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), LABELS[:, 0]), x)
        size = EPS * (0.05 + 1.95 * (1 + math.cos(math.pi * i / steps)) / 2)
        ahead = (x.detach() + size * gradient.sign()).clamp(0.5 - EPS, 0.5 + EPS)
        if i:
            ahead = (x + 0.75 * (ahead - x) + 0.25 * (x - previous)).clamp(0.5 - EPS, 0.5 + EPS)
        previous = x.detach()
        x = ahead.detach()
    assert torch.allclose(attacked("ce", steps, model, keep="last").adversarial, x, rtol=0, atol=1e-12)


def test_a_switch_changes_the_loss_halfway(legs: list[tuple[str, range, int]]) -> None:
    attacked("switch", 5)
    assert legs == [("margin_and_dice", range(3), 5), ("dice_linear", range(3, 5), 5)]


def test_auto_is_another_name_of_horizon() -> None:
    assert torch.equal(attacked("auto").adversarial, attacked("horizon").adversarial)


@pytest.mark.parametrize(("loss", "compared"), [("auto", 1), ("dice", 7)])
def test_rankless_losses_are_computed_at_the_end(loss: str, compared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hard Dice ranks the volumes of losses that change."""
    calls = []
    own = Objective.compared
    monkeypatch.setattr(Objective, "compared", lambda self, *given: calls.append(loss) or own(self, *given))
    attacked(loss, 6)
    assert len(calls) == compared


def objectives(*logits: Tensor, labels: Tensor, steps: int = 20) -> list[Tensor]:
    """Gradients of the loss `auto` with respect to the logits of one step after another."""
    auto = apgd.Auto(SOFTMAX, steps)
    gradients = []
    for given in logits:
        point = given.clone().requires_grad_()
        gradients.extend(torch.autograd.grad(auto(point, labels, EVERYTHING).sum(), point))
    return gradients


def two_classes(margins: list[float]) -> Tensor:
    """Logits of voxels with these margins, if the first half has label 0 and the second label 1."""
    m = torch.tensor(margins, dtype=torch.float64)
    first, second = m.chunk(2)
    return torch.stack([torch.cat([-first, second]), torch.cat([first, -second])]).div(2).reshape(1, 2, -1, 1, 1)


HALVES = torch.tensor([0, 0, 0, 1, 1, 1]).reshape(1, 1, -1, 1, 1)


def test_auto_raises_the_margin_where_all_voxels_may_fall() -> None:
    before, after, last = (two_classes([-9, -5, m, -9, -6, m]) for m in (-8, -5, -2))
    weak = two_classes([-9, -5, -7.9, -9, -6, -7.9])
    for given, got in zip((after, last), objectives(before, after, last, labels=HALVES)[1:], strict=True):
        assert torch.equal(got, gradient_of(margin, given))
    assert not torch.equal(objectives(before, weak, labels=HALVES)[1], gradient_of(margin, weak))
    assert not torch.equal(objectives(before, after, labels=HALVES, steps=2)[1], gradient_of(margin, after))


def gradient_of(loss: Loss, logits: Tensor) -> Tensor:
    point = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(point, HALVES, EVERYTHING).sum(), point)
    return slope


def test_first_step_weighs_the_foreground_and_each_flips_cost() -> None:
    """A third on each voxel of label 1, and the cost of its flip on every voxel."""
    (got,) = objectives(two_classes([-9.0, 1.0, -0.5, -8.0, -1.0, 6.0]), labels=HALVES)
    # as below
    dice = 2 * 2 / 6
    total = 6
    weights = [dice / total] * 3 + [(2 - dice) / total + 1 / 3] * 3
    sides = [1, 1, 1, -1, -1, -1]
    assert got[0, 1, :, 0, 0].tolist() == pytest.approx([w * side for w, side in zip(weights, sides, strict=True)])


@pytest.mark.parametrize("steps", [20, 60])
def test_auto_weighs_a_flip_by_cost_and_by_steps_left(steps: int) -> None:
    """Background that is right (numbers 0 and 2) changes most and does not count: the others change by 0.3."""
    margins = [-9.0, 1.0, -0.5, -8.0, -1.0, 6.0]
    changes = [2.0, 0.3, 1.0, 0.3, 0.3, 0.3]
    before = two_classes([m - change for m, change in zip(margins, changes, strict=True)])
    *_, got = objectives(before, two_classes(margins), labels=HALVES, steps=steps)
    # Label 1: 3 voxels, 3 are predicted (numbers 1, 3 and 4), 2 of them rightly.
    dice = 2 * 2 / 6
    total = 6
    costs = [dice / total] * 3 + [(2 - dice) / total] * 3
    lengths = [0.05 + 1.95 * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)]
    unit = 20 / steps
    r = 0.3 / 2
    spread = r * math.sqrt(unit * (steps - 1))
    reach = r * unit * sum(lengths[1:]) / lengths[0]
    for m, cost, side, slope in zip(margins, costs, [1, 1, 1, -1, -1, -1], got[0, 1, :, 0, 0], strict=True):
        share = 4 / (1 + math.exp(m / spread)) / (1 + math.exp(-(m + reach) / spread))
        assert float(slope) == pytest.approx(side * share * cost, rel=1e-9)


def test_auto_is_a_switch_towards_a_target(legs: list[tuple[str, range, int]]) -> None:
    attacked("auto", 4, targeted=True)
    attacked("auto", 4, target="next-class")
    assert legs == [("margin_and_dice", range(2), 4), ("dice_linear", range(2, 4), 4)] * 2


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_auto_takes_no_more_than_few_steps(steps: int) -> None:
    assert attacked("auto", steps).num_backwards == steps


losses_that_change = pytest.mark.parametrize("loss", ["switch", "auto"])


@losses_that_change
def test_losses_that_change_keep_the_volume_of_the_lowest_dice(loss: str) -> None:
    with torch.no_grad():
        best, last = (float(mean_dice(Linear()(attacked(loss, keep=k).adversarial), LABELS)) for k in ("best", "last"))
        clean = float(mean_dice(Linear()(IMAGES), LABELS))
    assert best <= last < clean


@losses_that_change
def test_losses_that_change_need_the_cosine(loss: str) -> None:
    with pytest.raises(ParameterError, match="step_rule: expected cosine beside the loss"):
        attacked(loss, step_rule="halving")
