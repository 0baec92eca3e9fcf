"""Every attack on a device of its own: it does there what it does on the CPU, and nothing in its steps waits for it."""

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from attacks.examples import SmallNet, example, generators, takes, volumes
from tools.gpu.card import Card, WaitError
from torch import Tensor, nn

from freqbench.attacks import ATTACKS, AttackResult, LearnedAttack
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.models import SegmentationModel, build
from freqbench.ops.losses import LOSSES

CPU = torch.device("cpu")
DEVICES = ("stand-in", "cuda")
TOLERANCE = {"meta": 0.0, "cuda": 1e-6}  # of a voxel in float64; the stand-in computes what the CPU does
FEW = {"steps": 3, "queries": 5}
SMALLER = {"sea": {"steps": 4, "losses": ("dice", "segpgd")}, "autoattack": {"members": ("apgd-ce", "square")}}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "pgd": [*({"loss": loss} for loss in LOSSES if not loss.startswith("dlr-")), {"organs": (1, 2)},
        {"target": "least-likely", "keep": "best"}, {"target": ("swap", 0, 1)},
        {"restarts": 2, "keep": "best", "organs": (1,)}, {"channels": (0,)}],
    "apgd": [{"eps_schedule": ((2, 0.5), (1, 0.5)), "steps": 6}],
    "difgsm": [{"keep": "best"}],
    "vafa": [{"keep": "best"}],
    "vafa_opt": [{"ssim_min": 0.1}],
    "sa2": [{"organs": (1,), "loss": "ce"}],
    "almaprox": [{"organs": (1,)}],
}  # fmt: skip
VARIANTS = list[tuple[str, dict[str, Any]]]()
for name, attack in ATTACKS.items():
    VARIANTS += [(name, {"variant": variant}) for variant in attack.variants]
TURNING = ("ssa_2d", {"variant": "released"})  # it takes cubes alone, and does no more on a device than its other form
CASES = [
    *((name, {}) for name in ATTACKS),
    *((name, options) for name in OPTIONS for options in OPTIONS[name]),
    *(case for case in VARIANTS if case[1]["variant"] != example(case[0]).variant and case != TURNING),
]


def made(name: str, **options: Any) -> Any:
    """An attack of few steps, all that a step does among them."""
    few = {key: value for key, value in FEW.items() if takes(name, key)} | SMALLER.get(name, {})
    return example(name, **{**few, **options})


class Guarded(nn.Module):
    """A network that has nothing wait for the device but in its first pass, of the checks, and after its last one."""

    def __init__(self, net: nn.Module, passes: int) -> None:
        super().__init__()
        self.net = net
        self._passes = passes
        self._asked = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """A surrogate made like it asks nothing of the device."""
        return copy.deepcopy(self.net, memo)

    def forward(self, x: Tensor) -> Tensor:
        self._asked += 1
        if self._asked == 2:
            refuse_waits(x.device, True)
        logits: Tensor = self.net(x)
        if self._asked == self._passes:
            refuse_waits(x.device, False)
        return logits


def refuse_waits(device: torch.device, refused: bool) -> None:
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error" if refused else "default")
    else:
        Card.refuses_waits = refused and device.type != "cpu"


def attacked(attack: Any, model: nn.Module, device: torch.device, **kind: Any) -> AttackResult:
    """The volumes of the contract's check, unless `kind` says otherwise."""
    images, labels = volumes()
    return attack(model, images.to(device, **kind), labels.to(device), generator=generators(1, 2))


def where(case: tuple[str, dict[str, Any]], device: str) -> Any:
    """A case on a device; of the stand-in's the attacks with their defaults are quick tests."""
    name, options = case
    marks = [pytest.mark.gpu] if device == "cuda" else [pytest.mark.integration] if options else []
    return pytest.param(name, options, device, id=" ".join(map(str, (name, *options.values(), device))), marks=marks)


SPARSE = "sinogram"  # the stand-in has no sparse matrices
EVERYWHERE = [where(*each) for each in product(CASES, DEVICES) if (each[0][0], each[1]) != (SPARSE, "stand-in")]


@pytest.mark.parametrize(("name", "options", "device"), EVERYWHERE, indirect=["device"])
def test_attack_does_what_it_does_on_cpu_without_wait(name: str, options: dict[str, Any], device: torch.device) -> None:
    """Computed in float64, where devices differ by less than what decides a sign. Between the members of an ensemble
    the host asks which samples are left; members are attacks of their own here. Who learns is handed case after case.
    """
    attack = made(name, **options)
    net = SmallNet().double()
    here = attacked(attack, net, CPU, dtype=torch.float64)
    waits = issubclass(ATTACKS[name], Ensemble | LearnedAttack)
    there = net.to(device) if waits else Guarded(net.to(device), attack.passes[0])
    result = attacked(attack, there, device, dtype=torch.float64)
    assert result.adversarial.device.type == device.type
    assert (result.forwards, result.backwards) == (here.forwards, here.backwards)
    for one, other in ((result.adversarial, here.adversarial), (result.losses, here.losses)):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=TOLERANCE[device.type], equal_nan=True)


@pytest.mark.parametrize("wait", [float, Tensor.nonzero, Tensor.cpu, lambda x: x[x > 0], lambda x: x + x.new_tensor(1)])
def test_a_wait_in_a_step_is_noticed(wait: Callable[[Tensor], object], device: torch.device) -> None:
    """On a GPU torch says so, on the stand-in we do."""

    class Waits(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            wait(x.detach().sum().reshape(1))
            return super().forward(x)

    attack = made("pgd")
    with pytest.raises((RuntimeError, WaitError), match=r"synchroniz|makes the host wait"):
        attacked(attack, Guarded(Waits().to(device), attack.passes[0]), device)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["pgd", "apgd", "vafa", "sa2", "ssa"])
def test_two_runs_are_equal_to_the_bit(name: str, device: torch.device) -> None:
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
    model = SegmentationModel(build("unet", 3, (8, 6, 4), args, seed=0), (8, 6, 4)).to(device)
    one, other = (attacked(made(name), model, device).adversarial.cpu() for _ in range(2))
    assert torch.equal(one, other)
