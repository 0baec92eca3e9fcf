"""What attacks refuse, in one line: images and labels, parameters, what gradient attacks share."""

from typing import Any

import pytest
import torch
from attacks.examples import (
    EXAMPLES,
    GRADIENT,
    LOSS_IS_FREE,
    STOCHASTIC,
    SmallNet,
    Threshold,
    every_attack,
    every_gradient_attack,
    example,
    generators,
    plain,
    volumes,
)

from freqbench.attacks import ATTACKS, make
from freqbench.core.errors import ParameterError, UserError

INTENSITY = [name for name, attack in ATTACKS.items() if attack.threat_model in ("linf", "gaussian")]


# Of every attack


@every_attack
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x, y: (x * 255, y), "expected images in [0, 1]"),
        (lambda x, y: (x - 0.5, y), "rescale intensities in the dataset, not in the attack."),
        (lambda x, y: (x * float("nan"), y), "expected images in [0, 1]"),
        (lambda x, y: (x[0], y[0]), "expected images [B, C, H, W, D], got 1x8x6x4"),
        (lambda x, y: (x[:, :0], y), "expected images [B, C, H, W, D], got 2x0x8x6x4"),
        (lambda x, y: (x, y.expand(-1, 2, -1, -1, -1)), "beside the images, 2x1x8x6x4, got 2x2x8x6x4"),
        (lambda x, y: (x.half(), y), "expected float32 or float64 images"),
        (lambda x, y: (x, y[:1]), "expected labels [B, 1, H, W, D] beside the images, 2x1x8x6x4, got 1x1x8x6x4"),
        (lambda x, y: (x, y.float()), "expected integer labels"),
    ],
)
def test_bad_input_is_one_clear_line(name: str, change: Any, expected: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        example(name)(SmallNet(), *change(*volumes()))
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"{name}: ")


@pytest.mark.parametrize("name", GRADIENT)
def test_labels_beyond_the_models_classes_are_refused(name: str) -> None:
    images, labels = volumes()
    with pytest.raises(UserError, match=r"expected labels in 0\.\.2 for 3 classes of the model, got 0\.\.7"):
        example(name)(SmallNet(), images, torch.where(labels == 2, 7, labels))


@pytest.mark.parametrize("name", INTENSITY)
def test_budget_in_grey_levels_is_refused_with_a_hint(name: str) -> None:
    budget = ATTACKS[name].budget_name
    with pytest.raises(ParameterError, match=f"{name}: {budget}: .*got 8. Did you mean 8/255?"):
        example(name, **{budget: 8})


def test_unknown_names_come_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="Did you mean 'pgd'"):
        make("pdg", eps=0.1)
    with pytest.raises(ParameterError, match="Did you mean 'steps'"):
        make("pgd", eps=0.1, step=3)
    with pytest.raises(ParameterError, match="pgd: eps: required"):
        make("pgd")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"eps": True}, "eps: expected a number"),
        ({"eps": "8/255"}, "eps: expected a number"),
        ({"eps": float("nan")}, "eps: expected a number"),
        ({"eps": -0.1}, "eps: expected a number"),
        ({"eps": 0.1, "steps": 0}, "steps: expected a whole number of at least 1"),
        ({"eps": 0.1, "steps": 2.5}, "steps: expected a whole number"),
        ({"eps": 0.1, "random_start": 1}, "random_start: expected true or false"),
        ({"eps": 0.1, "variant": "mine"}, "variant: expected released or paper, got 'mine'"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], expected: str) -> None:
    with pytest.raises(ParameterError) as caught:
        make("pgd", **parameters)
    assert expected in str(caught.value)


def test_start_of_another_shape_is_refused() -> None:
    images, labels = volumes()
    with pytest.raises(UserError, match="pgd: expected a start of shape"):
        example("pgd")(SmallNet(), images, labels, start=torch.zeros(1, 1, 8, 6, 4))


def test_one_generator_a_sample_or_one_for_all() -> None:
    images, labels = volumes()
    with pytest.raises(UserError, match="expected one generator or 2, one a sample, got 3"):
        example("pgd")(SmallNet(), images, labels, generator=generators(1, 2, 3))


# What gradient attacks share

REFUSED = [
    ({"loss": "dlrr"}, "loss: unknown loss 'dlrr'. Did you mean 'dlr'?"),
    ({"loss": 3}, "loss: unknown loss '3'."),
    ({"loss": "dlr-targeted"}, "loss: expected a target rule beside dlr-targeted"),
    ({"loss": "mask-ce", "targeted": True}, "loss: expected a loss without a mask beside targeted"),
    ({"organs": 1}, "organs: expected a list of classes"),
    ({"organs": ()}, "organs: expected a list of classes"),
    ({"organs": ("liver",)}, "organs: expected a list of classes"),
    ({"organs": (-1,)}, "organs: expected a list of classes"),
    ({"organs": (2,), "target": ("erase", 1)}, "organs: expected one of those to erase, [1], got [2]: these"),
    ({"organs": (0, 3), "target": ("swap", 1, 2)}, "organs: expected one of those to swap, [1, 2], got [0, 3]: these"),
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


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [(name, *case) for name in GRADIENT for case in REFUSED if name in LOSS_IS_FREE or "loss" not in case[0]],
    ids=str,
)
def test_what_cannot_be_is_one_line(name: str, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ParameterError, match=r"^[^\n]*$") as caught:
        make(name, **EXAMPLES[name], **changes)
    assert str(caught.value).startswith(f"{name}: {expected}")


@pytest.mark.parametrize("name", [name for name in GRADIENT if name not in LOSS_IS_FREE])
def test_an_attack_with_an_objective_of_its_own_takes_no_loss(name: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{name}: loss: unknown parameter 'loss'"):
        example(name, loss="ce")


@pytest.mark.parametrize(
    ("name", "changes"), [("fgsm", {}), ("bim", {}), ("pgd", {"random_start": False}), ("vafa", {}), ("mifgsm", {})]
)
def test_restarts_without_a_draw_are_refused(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=rf"^{name}: restarts: expected 1, got 2: without a random draw"):
        make(name, **EXAMPLES[name], **changes, restarts=2)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_restarts_beside_a_start_are_refused(name: str) -> None:
    images, labels = volumes()
    with pytest.raises(UserError, match=f"^{name}: expected no start with restarts = 2"):
        plain(name, restarts=2)(SmallNet(), images, labels, start=torch.zeros_like(images))


@pytest.mark.parametrize("name", LOSS_IS_FREE)
def test_too_few_classes_for_a_loss_are_one_line(name: str) -> None:
    too_few(name, "loss: expected at least 3 classes for dlr, got 2: use ce", loss="dlr")


@every_gradient_attack
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"organs": (2,)}, "organs: expected classes in 0..1, got 2"),
        ({"target": ("erase", 5)}, "target: expected classes in 0..1, got 5"),
    ],
    ids=str,
)
def test_too_few_classes_are_one_line(name: str, changes: dict[str, Any], expected: str) -> None:
    too_few(name, expected, **changes)


def too_few(name: str, expected: str, **changes: Any) -> None:
    images, _ = volumes()
    with pytest.raises(ParameterError, match=r"^[^\n]*$") as caught:
        plain(name, **changes)(Threshold(), images, (images > 0.5).long())
    assert str(caught.value) == f"{name}: {expected}"


@pytest.mark.parametrize("step", ["eps/0", "eps/-4", "eps", "4", "eps/4 ", "EPS/4", 1.5, None])
def test_a_step_that_is_none_is_one_line(step: Any) -> None:
    expected = r"^pgd: step_size: expected a number in \[0, 1\] or a fraction like 2/255, or eps/4 for a quarter of eps"
    with pytest.raises(ParameterError, match=expected):
        make("pgd", eps=0.1, step_size=step)


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if "volume" not in attack.scopes])
def test_only_a_perturbation_of_voxels_is_made_for_a_whole_volume(name: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{name}: scope: expected window, got 'volume': only a perturbation"):
        example(name, scope="volume")
