"""Refusals of attacks, in one line: images, labels and parameters, each check once and for attacks that differ."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attacks.examples import CLASSES, EXAMPLES, SETTINGS, SmallNet, Threshold, example, generators, plain, volumes
from torch import Tensor

from freqbench.attacks import ATTACKS, make
from freqbench.core.errors import ParameterError, UserError

nan = float("nan")
inf = float("inf")


# What gradient attacks share, and with an attack of a minimal norm some of it
SHARED: list[tuple[dict[str, Any], str]] = [
    ({"loss": "dlrr"}, "loss: unknown loss 'dlrr'. Did you mean 'dlr'?"),
    ({"loss": 3}, "loss: unknown loss '3'."),
    ({"loss": "dlr-targeted"}, "loss: expected a target rule beside dlr-targeted"),
    ({"loss": "mask-ce", "targeted": True}, "loss: expected a loss without a mask beside targeted"),
    *(({"organs": organs}, "organs: expected a list of classes") for organs in (1, (), ("liver",), (-1,))),
    ({"organs": (2,), "target": ("erase", 1)}, "organs: expected classes to erase, [1], got [2]: these"),
    ({"organs": (0, 3), "target": ("swap", 1, 2)}, "organs: expected classes to swap, [1, 2], got [0, 3]: these"),
    ({"organs": (1,), "targeted": True}, "targeted: expected false beside organs, got true"),
    *(
        ({"target": target}, "target: expected least-likely, next-class")
        for target in ("next", ("swap", 1), ("swap", 1, 1), ("erase", 0), {"swap": 1}, {"swap": {1: 2}, "erase": 1}, 4)
    ),
    ({"target": "next-class", "targeted": True}, "targeted: expected false beside a target rule, got true"),
    ({"keep": "first"}, "keep: expected last or best, got 'first'"),
    ({"scope": "case"}, "scope: expected window, volume or joint, got 'case'"),
    ({"restarts": 0}, "restarts: expected a whole number of at least 1, got 0"),
]
OF_ALMAPROX = [case for case in SHARED if not case[0].keys() & {"loss", "keep", "restarts"}]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        # attack, changes of its example, what the message begins with
        # Numbers, in Python as in a job file
        ("pgd", {"eps": 8}, "eps: expected a number in [0, 1] or a fraction like 8/255, got 8. Did you mean 8/255?"),
        ("pgd", {"eps": True}, "eps: expected a number"),
        ("pgd", {"eps": nan}, "eps: expected a number"),
        ("pgd", {"eps": -0.1}, "eps: expected a number"),
        ("pgd", {"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ("pgd", {"steps": 2.5}, "steps: expected a whole number of at least 1, got 2.5"),
        ("pgd", {"random_start": 1}, "random_start: expected true or false, got 1"),
        *(
            (
                "pgd",
                {"step_size": step},
                "step_size: expected a number in [0, 1] or a fraction like 2/255, or eps/4 for",
            )
            for step in ("eps/0", "eps/-4", "eps", "eps/4 ", "EPS/4", 1.5, None)
        ),
        ("almaprox", {"step_size": "eps/4"}, "step_size: expected a number in [0, 1]"),
        ("pgd", {"loss": None}, "loss: unknown loss 'None'"),
        ("vafa", {"ssim_weight": -1}, "ssim_weight: expected a number of at least 0, got -1"),
        ("vafa", {"q_max": "20"}, "q_max: expected a number above 0 on the DCT scale of 0..255 intensities, got '20'"),
        ("vafa_opt", {"q_min": 0.0}, "q_min: expected a number above 0"),
        ("sa2", {"rho": 1.0}, "rho: expected a number of at least 0 and below 1, got 1.0"),
        ("sa2_opt", {"ssim_min": 1.1}, "ssim_min: expected a number above 0 and at most 1, got 1.1"),
        ("ssa", {"num_spectra": 0}, "num_spectra: expected a whole number of at least 1, got 0"),
        ("dynamic_scaling", {"max_scale": 0.9}, "max_scale: expected a number of at least 1, got 0.9"),
        ("tifgsm", {"kernel_size": 4}, "kernel_size: expected an odd whole number of at least 1, got 4"),
        ("tifgsm", {"sigma": 0.0}, "sigma: expected a number above 0, got 0.0"),
        ("random_noise", {"linf": None, "l2": inf}, "l2: expected a number of at least 0, got inf"),
        ("corruption", {"severity": 6}, "severity: expected a number from 1 to 5 (0: nothing), got 6"),
        ("kspace", {"eps_k": 1.5}, "eps_k: expected a number in [0, 1], got 1.5"),
        ("bias_field", {"control_points": 3}, "control_points: expected a whole number of at least 4, got 3"),
        ("bias_field", {"log_amplitude": -1}, "log_amplitude: expected a number in [0, 3], got -1"),
        ("sinogram", {"angles": 0}, "angles: expected a whole number of at least 1, got 0"),
        ("intensity_curve", {"deviation": 8}, "deviation: expected a number in [0, 1] or a fraction like 8/255, got 8"),
        # Words and lists
        ("pgd", {"variant": "mine"}, "variant: expected released or paper, got 'mine'"),
        ("vafa", {"variant": "released-bmvc"}, "variant: expected released or released-saa or paper"),
        ("sea", {"variant": "released"}, "variant: expected paper, got 'released'"),
        ("vafa", {"control": ["none"]}, "control: expected none, uniform or random, got ['none']"),
        ("faa", {"control": "uniform"}, "control: expected none or random, got 'uniform'"),
        ("sa2", {"band": "top"}, "band: expected all, low, middle or high, got 'top'"),
        ("dfb", {"band": "all"}, "band: expected low, middle or high, got 'all'"),
        ("kspace", {"region": "center"}, "region: expected all, centre or periphery, got 'center'"),
        ("kspace", {"encoding": 2}, "encoding: expected 2d or 3d, got 2"),
        *(
            ("vafa", {"block": block}, f"block: expected a whole number of at least 1, or three of them, got {block}")
            for block in (0, 8.5, (8, 8), (8, 8, 0), True)
        ),
        (
            "vafa_2d",
            {"block": (8, 8, 1)},
            "block: expected a whole number of at least 1, or two of them, got (8, 8, 1)",
        ),
        ("corruption", {"kind": "blurr"}, "kind: unknown kind 'blurr'. Did you mean 'blur'? Known: bias_field, blur"),
        *(
            ("pgd", {"channels": channels}, "channels: expected a channel or some of them, each once")
            for channels in ((), (-1,), (1, 1), ("t1",), (True,), 1.5, "0")
        ),
        *(
            (
                "apgd",
                {"eps_schedule": schedule},
                "eps_schedule: expected pairs of a factor of eps, at least 1 and at last",
            )
            for schedule in (((2, 0.5), (1, 0.4)), ((0.5, 0.5), (1, 0.5)), ((2, 0.5), (1.5, 0.5)), (2, 0.3), (), "sea")
        ),
        ("apgd", {"steps": 20, "eps_schedule": ((2, 0.01), (1, 0.99))}, "eps_schedule: expected at least one step for"),
        # What does not go together
        ("vafa", {"q_max": 3}, "q_max: expected at least q_min = 5, got 3"),
        ("random_noise", {"linf": None}, "linf: expected exactly one of linf and l2, got none"),
        ("random_noise", {"l2": 1.0}, "linf: expected exactly one of linf and l2, got both"),
        *(
            (
                name,
                {"scope": "window"},
                "scope: expected volume, got 'window': windows made one by one would not fit toge",
            )
            for name in ("corruption", "deformation", "universal")
        ),
        ("deformation", {"max_mm": -1}, "max_mm: expected a number of at least 0, got -1"),
        ("deformation", {"min_jacobian": 0}, "min_jacobian: expected a number in (0, 1), got 0"),
        ("deformation", {"knot_mm": 0.0}, "knot_mm: expected a number above 0, got 0.0"),
        (
            "deformation",
            {"spacing": (1, 1)},
            "spacing: expected three numbers above 0 (in a job file a list of lists, [[1, 1, 3]]), got (1, 1)",
        ),
        ("universal", {"learn_cases": 0}, "learn_cases: expected a whole number of at least 1, got 0"),
        ("universal", {"learn_split": 3}, "learn_split: expected a split's name, got 3"),
        ("universal", {"tile": (8, 8)}, "tile: expected a whole number of at least 1, or three of them, got (8, 8)"),
        ("universal", {"loss": "mask-ce"}, "loss: unknown loss 'mask-ce'"),
        ("rays", {"dice": 50}, "dice: expected a number in [0, 1], got 50"),
        ("rays", {"queries": 0}, "queries: expected a whole number of at least 1, got 0"),
        ("rays", {"organs": (1, -1)}, "organs: expected a list of classes"),
        ("rays", {"targeted": True}, "targeted: expected false, got true: the Dice against the truth judges"),
        ("fmn", {"targeted": True}, "targeted: expected false, got true: the Dice against the truth judges"),
        ("bases", {"queries": 0}, "queries: expected a whole number of at least 1, got 0"),
        ("bases", {"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ("bases", {"weight_step": 1}, "weight_step: expected a number above 0 and below 1, got 1"),
        ("bases", {"step_size": "eps/0"}, "step_size: expected a number in [0, 1] or a fraction like 2/255, or eps/4"),
        ("bases", {"control": "random"}, "control: expected none or uniform, got 'random'"),
        *(
            (
                name,
                {"restarts": 2, **changes},
                "restarts: expected 1, got 2: without a random draw every run is the same",
            )
            for name, changes in (("pgd", {"random_start": False}), ("difgsm", {"probability": 0.0}))
        ),
        *((name, {"restarts": 2}, "restarts: expected 1, got 2: without a") for name in ("bases", "fgsm", "vafa")),
        ("bases", {"surrogates": "unetr"}, "surrogates: expected names of models, each once (in a job file a list of"),
        ("bases", {"surrogates": ("a", "a")}, "surrogates: expected names of models, each once"),
        # Parameters that an attack does not have
        ("rays", {"loss": "ce"}, "loss: unknown parameter 'loss'"),
        ("vafa_2d", {"ssim_weight": 1.0}, "ssim_weight: unknown parameter 'ssim_weight'"),
        ("segpgd", {"loss": "ce"}, "loss: unknown parameter 'loss'"),
        ("pgd", {"step": 3}, "step: unknown parameter 'step'. Did you mean 'steps'?"),
        ("bim", {"random_start": False}, "random_start: unknown parameter"),
        ("ddn", {"norm": "linf"}, "norm: unknown parameter"),
        # Norms, smallest changes and aims
        ("pgd", {"norm": "l1"}, "norm: expected linf or l2, got 'l1'"),
        ("gn", {"norm": "linf"}, "norm: expected l2, got 'linf'"),
        ("fmn", {"loss": "ce"}, "loss: expected dice_linear or margin, got 'ce'"),
        ("ddn", {"targeted": True}, "targeted: expected false"),
        ("square", {"aim": "foreground", "scope": "joint"}, "aim: expected window with scope joint"),
        # Ensembles
        ("autoattack", {"threshold": 50}, "threshold: expected a number in [0, 1], got 50"),
        *(
            ("autoattack", {"members": members}, "members: expected names such as apgd-dice-shrinking, pgd-ce, square,")
            for members in ((), "square", ("square", "square"))
        ),
        ("autoattack", {"members": ("sqare",)}, "members: unknown member 'sqare'. Did you mean 'square'?"),
        (
            "autoattack",
            {"steps": 3, "members": ("apgd-ce-shrinking",)},
            "steps: expected at least 4, so that every radius has one, got 3",
        ),
        ("autoattack", {"restarts": 2, "warm_start": True}, "warm_start: expected false with restarts = 2, got true: "),
        ("sea", {"steps": 3}, "steps: expected at least 4, so that every radius has one, got 3"),
        ("sea", {"losses": ("jss",)}, "losses: unknown loss 'jss'. Did you mean 'js'?"),
        ("sea", {"targeted": True}, "targeted: expected false, got true: the Dice against the truth judges"),
        ("autoattack", {"loss": "ce"}, "loss: unknown parameter 'loss'"),
        ("autoattack", {"organs": 1}, "organs: expected a list of classes"),
        *(("pgd", *case) for case in SHARED),
        *(("vafa", *case) for case in SHARED[::4]),
        *(("almaprox", *case) for case in OF_ALMAPROX[::3]),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_in_one_line(name: str, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ParameterError, match=r"^[^\n]*$") as caught:
        make(name, **(EXAMPLES[name] | changes))
    assert str(caught.value).startswith(f"{name}: {expected}")


def test_unknown_and_missing_names_come_with_a_suggestion() -> None:
    for name, given, message in (("pdg", {"eps": 0.1}, "Did you mean 'pgd'"), ("pgd", {}, "pgd: eps: required, but")):
        with pytest.raises(UserError, match=message):
            make(name, **given)


@pytest.mark.parametrize(
    ("name", "given", "likely"),
    [
        ("random_noise", {"eps": 0.1}, "linf"),
        ("vafa", {"eps": 0.1}, "q_max"),  # steps is spelled alike
        ("pgd", {"l2": 3}, "eps"),
        ("sa2", {"std": 0.1}, "rho"),
        ("pgd", {"step": 3}, "steps"),
    ],
)
def test_the_budget_of_another_attack_points_to_the_attacks_own(name: str, given: dict[str, Any], likely: str) -> None:
    with pytest.raises(ParameterError, match=rf"unknown parameter '{next(iter(given))}'\. Did you mean '{likely}'\?"):
        make(name, **given)


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if "volume" not in attack.scopes])
def test_an_attack_of_windows_refuses_a_whole_volume(name: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{name}: scope: expected window, got 'volume': this attack perturbs"):
        example(name, scope="volume")


def start(x: Tensor, y: Tensor) -> dict[str, Any]:
    return {"start": torch.zeros(1, 1, 8, 6, 4)}


@pytest.mark.parametrize(
    ("name", "parameters", "change", "expected"),
    [
        ("pgd", {}, lambda x, y: {"images": x * 255}, "expected images in [0, 1]"),
        ("vafa", {}, lambda x, y: {"images": x - 0.5}, "rescale intensities in the dataset, not in the attack."),
        ("sa2", {}, lambda x, y: {"images": x * nan}, "expected images in [0, 1]"),
        ("gn", {}, lambda x, y: {"images": x[0]}, "expected images [B, C, H, W, D], got 1x8x6x4"),
        ("walk", {}, lambda x, y: {"images": x[:, :0]}, "expected images [B, C, H, W, D], got 2x0x8x6x4"),
        ("sea", {}, lambda x, y: {"images": x.half()}, "expected float32 or float64 images"),
        ("dfb", {}, lambda x, y: {"labels": torch.cat([y, y], dim=1)}, "beside the images, 2x1x8x6x4, got 2x2x8x6x4"),
        ("corruption", {}, lambda x, y: {"labels": y[:1]}, "expected labels [B, 1, H, W, D] beside the images, 2x1x8x"),
        ("square", {}, lambda x, y: {"labels": y.float()}, "expected integer labels"),
        ("fgsm", {}, lambda x, y: {"labels": 2 * y}, "expected labels in 0..2 for 3 classes of the model, got 0..4"),
        ("pgd", {}, start, "expected a start of shape (2, 1, 8, 6, 4), got (1, 1, 8, 6, 4)"),
        ("difgsm", {}, start, "expected a start of shape (2, 5, 5), got"),
        ("pgd", {"restarts": 2}, start, "expected no start with restarts = 2"),
        ("sea", {}, start, "expected no start: its members draw, each in a way of its own"),
        ("fmn", {}, start, "expected no start"),
        ("pgd", {}, lambda x, y: {"generator": generators(1, 2, 3)}, "expected one generator or 2, one a sample, got "),
        ("pgd", {}, lambda x, y: {"reference": x}, "expected no reference, got one: this attack has no use for it"),
        ("fgsm", {}, lambda x, y: {"learned": x[0]}, "expected nothing learned, got a tensor"),
        ("bases", {}, lambda x, y: {}, "expected surrogates, got none: give networks, surrogates=[...]"),
        ("pgd", {}, lambda x, y: {"surrogates": [SmallNet()]}, "expected no surrogates, got some: this attack has no "),
        *(
            (name, {"channels": (0, 1)}, lambda x, y: {}, "channels: expected channels in 0..0, got 1")
            for name in ("gn", "sea")
        ),
        ("faa", {}, lambda x, y: {}, "expected a reference, got none: give volumes of another case"),
        ("faa", {}, lambda x, y: {"reference": x[:1]}, "expected a reference of the images' shape 2x1x8x6x4, got 1x1x"),
        ("faa", {}, lambda x, y: {"reference": 2 * x + 1}, "expected a reference in [0, 1], got [1."),
    ],
)
def test_wrong_call_is_refused(
    name: str, parameters: dict[str, Any], change: Callable[[Tensor, Tensor], dict[str, Any]], expected: str
) -> None:
    images, labels = volumes()
    attack = make(CLASSES[name], **SETTINGS[name], **parameters)
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        attack(SmallNet(), **({"images": images, "labels": labels} | change(images, labels)))
    assert str(caught.value).startswith(f"{name}: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("pgd", {"loss": "dlr"}, "loss: expected at least 3 classes for dlr, got 2: use ce"),
        *(
            (name, {"organs": (2,)}, "organs: expected classes in 0..1, got 2")
            for name in ("vafa", "almaprox", "sea", "rays")
        ),
        ("pgd", {"target": ("erase", 5)}, "target: expected classes in 0..1, got 5"),
        ("sea", {"losses": ("dice", "dlr")}, "losses: expected at least 3 classes for dlr, got 2: leave it out"),
        (
            "autoattack",
            {"members": ("apgd-ce", "apgd-dlr")},
            "members: expected at least 3 classes for apgd-dlr, got 2: leave it out",
        ),
    ],
    ids=str,
)
def test_too_few_classes_are_refused_in_one_line(name: str, changes: dict[str, Any], expected: str) -> None:
    """Said before a model is loaded, and by the call."""
    images, _ = volumes()
    attack = plain(name, **changes)
    for ask in (lambda: attack.check_classes(2), lambda: attack(Threshold(), images, (images > 0.5).long())):
        with pytest.raises(ParameterError) as caught:
            ask()
        assert str(caught.value) == f"{name}: {expected}"
