"""Parameters that gradient attacks share: losses, organs, target rules, restarts, the best iterate."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attacks import examples
from attacks.examples import EXAMPLES, FREQUENCY, GRADIENT, SmallNet, every_gradient_attack, generators, takes, volumes
from torch import Tensor, nn

from freqbench.attacks import make
from freqbench.job.attacks import attack_identity, attack_params
from freqbench.metrics import dice
from freqbench.ops.losses import LOSSES

SETTINGS: dict[str, dict[str, Any]] = {
    **{loss: {"loss": loss} for loss in LOSSES if loss not in ("dlr-targeted", "dicece")},
    "organs": {"organs": (1,)}, "least-likely": {"target": "least-likely"},
    "organs and target": {"organs": (2, 1), "target": ("swap", 2, 0), "loss": "mask-ce"}, "best": {"keep": "best"},
    "best, masked": {"keep": "best", "loss": "mask-ce"}, "restarts": {"restarts": 3},
    "restarts of the best": {"restarts": 2, "keep": "best"},
}  # fmt: skip
# Each setting on one attack by voxels, and on each attack settings in turn.
CASES = [
    (name, setting)
    for i, name in enumerate(GRADIENT)
    for j, (setting, changes) in enumerate(SETTINGS.items())
    if ("restarts" not in changes or name in examples.STOCHASTIC)
    and (takes(name, "loss") or changes.keys() != {"loss"})
    if name == "pgd" or (i + j) % 7 == 0
]
# Attacks with an objective of their own, in the variants that differ; all others raise what `Task` raises.
OBJECTIVES: list[tuple[str, dict[str, Any]]] = [
    ("pgd", {}), ("square", {}), ("faa", {}), ("vafa", {}), ("sa2", {"variant": "released-cosine"}),
    ("dynamic_scaling", {}),
    *((name, {"variant": v}) for name in ("segpgd", "cospgd") for v in ("paper", "released", "released-bmvc")),
]  # fmt: skip
every_objective = pytest.mark.parametrize(("name", "form"), OBJECTIVES, ids=str)


class Wave(nn.Module):
    """Its prediction turns with every step, so that no way leads up for long."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.sin(40 * x), torch.cos(40 * x), -torch.sin(40 * x)], dim=1)


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_batch_equals_its_samples_and_takes_declared_passes(name: str, setting: str) -> None:
    attack = examples.plain(name, **SETTINGS[setting])
    (images, labels), model, calls = volumes(2), SmallNet().double(), []
    images, hook = images.double(), model.register_forward_hook(lambda *_: calls.append(1))
    batch = attack(model, images, labels, generator=generators(1, 2))
    assert (len(calls), batch.num_backwards) == (batch.num_forwards, attack.passes[1])
    assert (batch.num_forwards, len(batch.losses)) == attack.passes
    hook.remove()
    alone = attack(model, images[1:], labels[1:], generator=generators(2))
    assert float(((batch.adversarial[1:] - alone.adversarial).abs() > 1e-6).double().mean()) <= 2e-3


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
    [*OBJECTIVES, *((name, {**form, "target": ("swap", 1, 0)}) for name, form in OBJECTIVES), ("sea", {}),
     ("autoattack", {"members": ("apgd-dlr", "apgd-ce")})],
    ids=str,
)  # fmt: skip
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
    assert bool(result.adversarial.isfinite().all())


@pytest.mark.parametrize(
    ("name", "changes", "passes"),
    [("bim", {"loss": "ce"}, 1), ("bim", {"loss": "mask-ce"}, 1), ("segpgd", {}, 1),
     ("cospgd", {"variant": "released"}, 1), ("ssa", {"loss": "ce", "num_spectra": 2, "block": 4, "eps": 0.2}, 3)],
)  # fmt: skip
def test_keep_best_returns_the_best_of_all_volumes(name: str, changes: dict[str, Any], passes: int) -> None:
    """Steps overshoot; the cross-entropy of every iterate, the first pass of a step, decides: SSA adds others."""
    images, labels = volumes()
    model, seen = Wave(), []
    model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].detach(), output.detach())))
    quiet = {"random_start": False} if takes(name, "random_start") else {}
    wide = {"step_size": 0.05} if takes(name, "step_size") else {}
    attack = make(name, **({"eps": 0.1, "steps": 6, "keep": "best"} | quiet | wide | changes))
    best = attack(model, images, labels).adversarial
    assert len(seen) == 6 * passes + 1
    iterates = seen[::passes]
    losses = torch.stack([F.cross_entropy(y, labels[:, 0], reduction="none").flatten(1).mean(1) for _, y in iterates])
    assert bool((losses.argmax(0) < 6).any()), "the last is the best everywhere: nothing is tested"
    for i, k in enumerate(losses.argmax(0).tolist()):
        assert torch.equal(best[i], iterates[k][0][i])


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
    model, looks = SmallNet().eval(), list[tuple[Tensor, Tensor]]()
    model.register_forward_hook(lambda _, inputs, output: looks.append((inputs[0].detach(), output.detach())))
    attack = examples.plain(name, restarts=4, loss="ce", **changes)
    result = attack(model, images, labels, generator=generators(1, 2))
    assert len(looks) == attack.passes[0]
    ends, classes = looks[len(looks) // 4 - 1 :: len(looks) // 4], list(changes.get("organs", (1, 2)))
    for i in range(2):
        dices = [np.nanmean(dice(logits[i].argmax(0), labels[i, 0], 3)[classes]) for _, logits in ends]
        # To rounding: vafa_opt renders in the end what its table makes.
        torch.testing.assert_close(result.adversarial[i], ends[int(np.argmin(dices))][0][i], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", FREQUENCY)
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


@pytest.mark.parametrize("name", FREQUENCY)
def test_a_null_row_ignores_parameters_of_gradients(name: str) -> None:
    changes: dict[str, Any] = {"loss": "ce", "organs": (1,), "target": "least-likely", "keep": "best", "restarts": 3}
    null = make(name, control="uniform", **changes)
    assert null == make(name, control="uniform")
    assert null.passes == (0, 0)
