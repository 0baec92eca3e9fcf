"""Every gradient attack through what they share: losses, organs, target rules, restarts, the best iterate."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attacks.test_contract import EXAMPLES, SmallNet, Threshold, generators, volumes
from torch import Tensor, nn

from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.frequency import FrequencyAttack
from freqbench.attacks.gradient import GradientAttack, LinfGradientAttack
from freqbench.errors import ParameterError, UserError
from freqbench.grid import attack_identity, attack_params
from freqbench.ops.losses import LOSSES

GRADIENT = [name for name, attack in ATTACKS.items() if issubclass(attack, GradientAttack)]
LINF = [name for name in GRADIENT if issubclass(ATTACKS[name], LinfGradientAttack)]
FREQUENCY = [name for name in GRADIENT if issubclass(ATTACKS[name], FrequencyAttack)]
STOCHASTIC = [name for name in GRADIENT if make(name, **EXAMPLES[name]).is_stochastic]
every_gradient_attack = pytest.mark.parametrize("name", GRADIENT)

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
CASES = [
    (name, setting)
    for name in GRADIENT
    for setting, changes in SETTINGS.items()
    if "restarts" not in changes or name in STOCHASTIC
]
RULES = ["least-likely", "next-class", ("swap", 1, 2), ("erase", 1)]


def plain(name: str, **changes: Any) -> Attack:
    """The attack without a distance in its objective: what it raises is the loss alone."""
    return make(name, **(EXAMPLES[name] | ({"ssim_weight": 0.0} if name in FREQUENCY else {}) | changes))


class FourClasses(SmallNet):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.last = nn.Conv3d(6, 4, 1)


def unattacked(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Where an attack begins: at the clean volumes, or, as the start alone changes much, at the null row's."""
    if name not in FREQUENCY:
        return images
    return plain(name, control="uniform" if name == "vafa" else "random")(model, images, labels).adversarial


def ce(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(images), labels[:, 0], reduction="none").flatten(1).mean(1)


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_batch_equals_singles_and_passes_are_those_promised(name: str, setting: str) -> None:
    attack = plain(name, **SETTINGS[setting])
    (images, labels), model, calls = volumes(2), SmallNet(), []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    batch = attack(model, images, labels, generator=generators(1, 2))
    assert (len(calls), batch.num_backwards) == (batch.num_forwards, attack.passes[1])
    assert (batch.num_forwards, len(batch.losses)) == attack.passes
    hook.remove()
    singles = [attack(model, images[i : i + 1], labels[i : i + 1], generator=generators(i + 1)) for i in range(2)]
    moved = (batch.adversarial - torch.cat([single.adversarial for single in singles])).abs() > 1e-6
    assert float(moved.double().mean()) <= 2e-3


@every_gradient_attack
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_moves_towards_its_target(name: str, rule: Any) -> None:
    images, labels = volumes()
    model = SmallNet().eval()
    target = {
        "least-likely": model(images).argmin(1, keepdim=True),
        "next-class": (labels + 1) % 3,
        ("swap", 1, 2): torch.where(labels == 0, 0, 3 - labels),
        ("erase", 1): torch.where(labels == 1, 0, labels),
    }[rule]
    begin = unattacked(name, model, images, labels)
    adversarial = plain(name, target=rule, loss="ce")(model, images, labels).adversarial
    assert bool((ce(model, adversarial, target) < ce(model, begin, target)).all())


@every_gradient_attack
def test_dlr_targeted_brings_the_target_before_the_truth(name: str) -> None:
    """By the paper's formula."""
    images, labels = volumes()
    model = FourClasses().eval()

    def paper(x: Tensor) -> Tensor:
        with torch.no_grad():
            z = model(x)
        down = z.sort(dim=1, descending=True).values
        gap = (z.gather(1, labels) - z.gather(1, (labels + 1) % 4))[:, 0]
        return (-gap / (down[:, 0] - (down[:, 2] + down[:, 3]) / 2)).flatten(1).mean(1)

    result = plain(name, target="next-class", loss="dlr-targeted")(model, images, labels)
    assert bool((paper(result.adversarial) > paper(unattacked(name, model, images, labels))).all())


@every_gradient_attack
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "dlr-targeted"])
def test_labels_of_other_structures_have_no_say(name: str, loss: str) -> None:
    images, labels = volumes()
    attack = plain(name, organs=(1,), loss=loss)
    one, other = (attack(SmallNet(), images, y) for y in (labels, torch.where(labels == 1, 1, 2 - labels)))
    assert torch.equal(one.adversarial, other.adversarial)
    assert torch.equal(one.losses, other.losses)


@pytest.mark.parametrize("name", LINF)
def test_voxels_of_other_structures_stay(name: str) -> None:
    """On a model that looks at each voxel alone."""
    images, _ = volumes()
    labels = (images > 0.5).long()
    quiet = {} if name in ("fgsm", "bim") else {"random_start": False}
    moved = plain(name, organs=(1,), **quiet)(Threshold(), images, labels).adversarial != images
    assert torch.equal(moved, labels == 1)


@every_gradient_attack
def test_a_window_without_the_organs_has_no_gradient(name: str) -> None:
    """Beside a window that has them."""
    images, labels = volumes()
    labels[1] = labels[1].clamp(max=1)
    result = plain(name, organs=(2,), loss="ce")(SmallNet(), images, labels)
    assert torch.equal(result.losses[:, 1], torch.zeros(len(result.losses)))
    assert bool(result.adversarial.isfinite().all())


@every_gradient_attack
@pytest.mark.parametrize("towards", [{}, {"target": "next-class"}], ids=["away", "towards"])
def test_the_best_is_at_least_as_strong_as_the_last(name: str, towards: dict[str, Any]) -> None:
    images, labels = volumes()
    model = SmallNet().eval()
    last, best = (
        plain(name, keep=keep, loss="ce", **towards)(model, images, labels).adversarial for keep in ("last", "best")
    )
    sign, wanted = (-1, (labels + 1) % 3) if towards else (1, labels)
    assert bool((sign * (ce(model, best, wanted) - ce(model, last, wanted)) >= -1e-6).all())


@pytest.mark.parametrize("loss", ["ce", "mask-ce"])
def test_the_best_is_the_best_of_all_iterates(loss: str) -> None:
    """BIM with steps that overshoot: every volume that the model saw is weighed by its cross-entropy, the last too."""
    images, labels = volumes()
    model, seen = SmallNet().eval(), []
    model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].detach(), output.detach())))
    best = make("bim", eps=0.2, steps=6, step_size=0.2, keep="best", loss=loss)(model, images, labels).adversarial
    assert len(seen) == 7
    losses = torch.stack(
        [F.cross_entropy(output, labels[:, 0], reduction="none").flatten(1).mean(1) for _, output in seen]
    )
    assert bool((losses.argmax(0) < 6).any()), "the last is the best everywhere: nothing is tested"
    for i, k in enumerate(losses.argmax(0).tolist()):
        assert torch.equal(best[i], seen[k][0][i])


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("keep", ["last", "best"])
def test_more_restarts_are_never_weaker(name: str, keep: str) -> None:
    images, labels = volumes()
    model = SmallNet().eval()
    few, more = (
        plain(name, restarts=restarts, keep=keep, loss="ce")(model, images, labels, generator=generators(1, 2))
        for restarts in (1, 4)
    )
    assert bool((ce(model, more.adversarial, labels) >= ce(model, few.adversarial, labels) - 1e-6).all())
    assert not torch.equal(few.adversarial, more.adversarial)


@pytest.mark.parametrize("name", FREQUENCY)
def test_the_state_is_that_of_the_best_volumes(name: str) -> None:
    """Rendered by the null row that takes a start, it makes the same volumes."""
    images, labels = volumes()
    result = plain(name, keep="best", steps=1)(SmallNet(), images, labels)
    null = plain(name, control="random", steps=1)(SmallNet(), images, labels, start=result.state)
    assert torch.allclose(null.adversarial, result.adversarial, atol=1e-6)


@every_gradient_attack
def test_what_equals_its_default_changes_no_identity(name: str) -> None:
    attack = make(name, **EXAMPLES[name])
    own = {field: getattr(attack, field) for field in ("loss", "organs", "target", "restarts", "keep", "scope")}
    assert attack_identity(make(name, **EXAMPLES[name], **own)) == attack_identity(attack)
    assert not own.keys() & attack_identity(attack).keys()
    assert attack_identity(make(name, **EXAMPLES[name], organs=[2, 1, 2])) == attack_identity(
        make(name, **EXAMPLES[name], organs=(1, 2))
    )


@every_gradient_attack
def test_every_rule_is_one_value_that_json_and_a_hash_can_hold(name: str) -> None:
    given = make(name, **EXAMPLES[name], target={"swap": {2: 1}}, organs=[1])
    assert given == make(name, **EXAMPLES[name], target=("swap", 1, 2), organs=(1,))
    assert hash(given) == hash(make(name, **EXAMPLES[name], target=("swap", 1, 2), organs=(1,)))
    assert '"target": ["swap", 1, 2]' in attack_params(given)


@pytest.mark.parametrize("name", FREQUENCY)
def test_a_null_row_takes_no_notice(name: str) -> None:
    changes: dict[str, Any] = {"loss": "ce", "organs": (1,), "target": "least-likely", "keep": "best", "restarts": 3}
    null = make(name, control="uniform", **changes)
    assert null == make(name, control="uniform")
    assert null.passes == (0, 0)


REFUSED = [
    ({"loss": "dlrr"}, "loss: unknown loss 'dlrr'. Did you mean 'dlr'?"),
    ({"loss": 3}, "loss: unknown loss '3'."),
    ({"loss": "dlr-targeted"}, "loss: expected a target rule beside dlr-targeted"),
    ({"loss": "mask-ce", "targeted": True}, "loss: expected a loss without a mask beside targeted"),
    ({"organs": 1}, "organs: expected a list of classes"),
    ({"organs": ()}, "organs: expected a list of classes"),
    ({"organs": ("liver",)}, "organs: expected a list of classes"),
    ({"organs": (-1,)}, "organs: expected a list of classes"),
    ({"organs": (1,), "targeted": True}, "targeted: expected false beside organs, got true"),
    ({"target": "next"}, "target: expected least-likely, next-class"),
    ({"target": ("swap", 1)}, "target: expected least-likely, next-class"),
    ({"target": ("swap", 1, 1)}, "target: expected least-likely, next-class"),
    ({"target": ("erase", 0)}, "target: expected least-likely, next-class"),
    ({"target": {"swap": 1}}, "target: expected least-likely, next-class"),
    ({"target": {"swap": {1: 2}, "erase": 1}}, "target: expected least-likely, next-class"),
    ({"target": 4}, "target: expected least-likely, next-class"),
    ({"target": "next-class", "targeted": True}, "targeted: expected false beside a target rule, got true"),
    ({"keep": "first"}, "keep: expected last or best, got 'first'"),
    ({"scope": "case"}, "scope: expected window or volume, got 'case'"),
    ({"restarts": 0}, "restarts: expected a whole number of at least 1, got 0"),
]


@every_gradient_attack
@pytest.mark.parametrize(("changes", "expected"), REFUSED, ids=str)
def test_what_cannot_be_is_one_line(name: str, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ParameterError, match=r"^[^\n]*$") as caught:
        make(name, **EXAMPLES[name], **changes)
    assert str(caught.value).startswith(f"{name}: {expected}")


@pytest.mark.parametrize(
    ("name", "changes"), [("fgsm", {}), ("bim", {}), ("pgd", {"random_start": False}), ("vafa", {})]
)
def test_restarts_without_a_draw_are_refused(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=rf"^{name}: restarts: expected 1, got 2: without a random draw"):
        make(name, **EXAMPLES[name], **changes, restarts=2)


@pytest.mark.parametrize("name", FREQUENCY)
@pytest.mark.parametrize("control", ["none", "uniform"])
def test_only_a_perturbation_of_voxels_is_made_for_a_whole_volume(name: str, control: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{name}: scope: expected window, got 'volume': only a perturbation"):
        make(name, **EXAMPLES[name], control=control, scope="volume")


@pytest.mark.parametrize("name", LINF)
def test_a_volume_s_attack_has_an_identity_of_its_own(name: str) -> None:
    window, volume = (make(name, **EXAMPLES[name], scope=scope) for scope in ("window", "volume"))
    assert attack_identity(window) == attack_identity(make(name, **EXAMPLES[name]))
    assert attack_identity(volume) == {**attack_identity(window), "scope": "volume"}
    assert (window.attacks_volume, volume.attacks_volume) == (False, True)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_restarts_beside_a_start_are_refused(name: str) -> None:
    images, labels = volumes()
    with pytest.raises(UserError, match=f"^{name}: expected no start with restarts = 2"):
        plain(name, restarts=2)(SmallNet(), images, labels, start=torch.zeros_like(images))


@every_gradient_attack
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss": "dlr"}, "loss: expected at least 3 classes for dlr, got 2: use ce"),
        ({"organs": (2,)}, "organs: expected classes in 0..1, got 2"),
        ({"target": ("erase", 5)}, "target: expected classes in 0..1, got 5"),
    ],
    ids=str,
)
def test_too_few_classes_are_one_line(name: str, changes: dict[str, Any], expected: str) -> None:
    images, _ = volumes()
    with pytest.raises(ParameterError, match=r"^[^\n]*$") as caught:
        plain(name, **changes)(Threshold(), images, (images > 0.5).long())
    assert str(caught.value) == f"{name}: {expected}"


@pytest.mark.parametrize("name", ["bim", "pgd"])
def test_a_step_of_a_quarter_eps_is_that_and_has_an_identity_of_its_own(name: str) -> None:
    images, labels = volumes()
    word, number = (make(name, eps=0.1, steps=3, step_size=step) for step in ("eps/4", 0.025))
    assert torch.equal(word(SmallNet(), images, labels).adversarial, number(SmallNet(), images, labels).adversarial)
    assert attack_identity(word)["step_size"] == "eps/4"


@pytest.mark.parametrize("step", ["eps/0", "eps/-4", "eps", "4", "eps/4 ", "EPS/4", 1.5, None])
def test_a_step_that_is_none_is_one_line(step: Any) -> None:
    expected = r"^pgd: step_size: expected a number in \[0, 1\] or a fraction like 2/255, or eps/4 for a quarter of eps"
    with pytest.raises(ParameterError, match=expected):
        make("pgd", eps=0.1, step_size=step)
