"""vafa and sa2 against the arrays that the authors' released code produced (README of shared/golden, section 4)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from golden.network import Find, Golden, load, reference_network
from torch import Tensor

from freqbench.attacks import AttackResult, make
from freqbench.attacks.frequency import FrequencyAttack
from freqbench.ops.blocks import merge, split

# The largest difference of `adversarial` in the released code's own round-off experiment, where it is stated; None: the
# file is chaotic and only teacher-forced. saa3dcosine_r04_b16_s5 is left out: its cosine term is in no paper's attack.
FREE_RUN: dict[str, float | None] = {
    "vafa3d_q20_s5_b32_ssim": 4e-7,
    "vafa3d_q20_s10_b8_ssim": None,
    "vafa3d_q20_s3_b8_ssim": 4e-4,
    "vafa3d_q30_s5_b16_nossim": 4e-7,
    "vafa3d_q10_s20_b8_ssim": 1e-3,
    "vafa3d_q20_s5_b16_ssim_B2": 4e-7,
    "vafa3d_q20_s1_b8_ssim": 4e-7,
    "vafa3d_q20_s5_b8_ssim_targeted": 4e-7,
    "vafa3d_q20_s3_b8_ssim_noncubic": 3e-7,
    "vafa3d_saacopy_q20_s5_b16_ssim": 4e-7,
    "vafa3d_bmvccopy_q30_s5_b32_ssim": 1e-5,
    "vafa3d_bmvccopy_q20_s5_b16_nonorm_ssim": 6e-4,
    "saa3d_r04_b16_s10_ld02_ls075": 3e-3,
    "saa3d_r02_b32_s20_ld001_ls1": None,
    "saa3d_r02_b32_s3_ld001_ls1": 2e-5,
    "saa3d_r02_b8_s5_ld001_ls1": 2e-4,
    "saa3d_r04_b16_s5_low": 2e-7,
    "saa3d_r04_b16_s5_middle": 2e-7,
    "saa3d_r04_b16_s5_high": 2e-7,
    "saa3d_r04_b16_s5_nossim": 2e-7,
    "saa3d_r04_b16_s5_B2": 2e-7,
    "saa3d_r04_b16_s5_targeted": 2e-7,
    "saa3d_r03_b8_s3_noncubic": 2e-7,
}
# The sign of one entry, 8e-11 of the largest gradient, hangs on the float32 of the released SSIM and moves others: with
# that SSIM the run is the released one, with one in float64 (pytorch-msssim's as ours) it ends 8e-5 and 2e-3 away.
FLOAT32_SSIM = ("saa3d_r04_b16_s5_B2", "saa3d_r04_b16_s5_targeted")
SINGLE = [name for name in FREE_RUN if not name.endswith("_B2")]
STEADY = [name for name, bound in FREE_RUN.items() if bound is not None]
FILES = list(FREE_RUN)


def as_attack(name: str, reference: Golden) -> FrequencyAttack:
    """The attack that a file's params describe, in our names."""
    params = reference.params
    ssim = params["use_ssim_loss"]
    ours: dict[str, Any] = {
        "steps": params["steps"],
        "block": tuple(params["block_size"]),
        "targeted": params["targeted"],
    }
    if params["name"] == "vafa":
        ours |= {"q_max": params["q_max"], "q_min": params["q_min"], "ssim_weight": float(ssim)}
        ours |= {"renormalize": params.get("vafa_norm"), "variant": "released-saa" if "saacopy" in name else "released"}
        attack = make("vafa", **ours)
    else:
        ours |= {"rho": params["rho"], "dice_weight": params["lambda_dice"], "band": params["freq_band"]}
        attack = make("sa2", **ours, ssim_weight=params["lambda_ssim"] if ssim else 0.0)
    assert isinstance(attack, FrequencyAttack)
    return attack


def start_of(reference: Golden) -> Tensor | None:
    start = reference.arrays.get("perturbation_init")
    return None if start is None else torch.from_numpy(start)


def final_state(reference: Golden, block: tuple[int, int, int]) -> Tensor:
    """In blocked layout; the BMVC copy returns its table merged."""
    arrays = reference.arrays
    state = torch.from_numpy(arrays["q_tables"] if "q_tables" in arrays else arrays["perturbation"])
    return split(state, block) if state.ndim == 5 else state


@dataclass
class Forced:
    """A run whose updates follow the stored signs, and how many of its own signs equal them."""

    result: AttackResult
    equal_signs: float


def teacher_forced(name: str, reference: Golden, network: torch.nn.Module, patch: pytest.MonkeyPatch) -> Forced:
    """float32; the stored sign is that of the descended objective, ours of the raised one."""
    attack = as_attack(name, reference)
    stored: Iterator[np.ndarray] = iter(reference.arrays["grad_sign"])
    shares: list[float] = []
    step = type(attack).step

    def forced_step(self: FrequencyAttack, state: Tensor, direction: Tensor) -> Tensor:
        theirs = -merge(torch.from_numpy(next(stored)), state.shape[2:]).to(direction)
        shares.append(float((direction == theirs).double().mean()))
        return step(self, state, theirs)

    patch.setattr(type(attack), "step", forced_step)
    result = attack(network, reference.images, reference.labels, start=start_of(reference))
    assert next(stored, None) is None
    return Forced(result, min(shares))


@pytest.mark.parametrize("name", SINGLE)
def test_teacher_forced_run_is_the_released_one(golden: Find, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Volume to 2e-6, state exactly, losses to 2e-6, signs on 99.8 % of the entries of every step."""
    reference = load(golden, name)
    run = teacher_forced(name, reference, reference_network(golden), monkeypatch)
    state = run.result.state
    assert state is not None
    difference = float((run.result.adversarial - torch.from_numpy(reference.arrays["adversarial"])).abs().max())
    losses = -run.result.losses.double().mean(dim=1)
    expected = torch.from_numpy(reference.arrays["losses"])
    off = float(((losses - expected).abs() / expected.abs().clamp(min=1)).max())
    print(f"\nforced {name}: volume {difference:.2g} signs {run.equal_signs:.5f} losses {off:.2g}")
    assert difference <= 2e-6
    assert torch.equal(state, final_state(reference, tuple(state.shape[3:])))  # type: ignore[arg-type]
    assert off <= 2e-6
    assert run.equal_signs >= 0.998


def released_distance(self: FrequencyAttack, clean: Tensor, block: object) -> Callable[[Tensor], Tensor]:
    """pytorch-msssim over the whole window in float32, axes in the released order."""
    package = pytest.importorskip("pytorch_msssim")
    first = clean.float().permute(0, 1, 4, 2, 3)

    def distance(images: Tensor) -> Tensor:
        second = images.float().permute(0, 1, 4, 2, 3)
        similarity: Tensor = package.ssim(
            first, second, data_range=1, size_average=False, win_size=3, nonnegative_ssim=True
        )
        return (1 - similarity).to(images)

    return distance


@pytest.mark.parametrize("name", STEADY)
def test_free_run_in_float64_is_the_released_one(golden: Find, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To three times what round-off alone does to the released code, at least 2e-6."""
    reference = load(golden, name)
    attack, start = as_attack(name, reference), start_of(reference)
    if name in FLOAT32_SSIM:
        monkeypatch.setattr(type(attack), "distance", released_distance)
    # VAFA scales the image it is given, float32, to 0..255 and rounds there: 2e-8 that its chaotic files notice.
    images = (255 * reference.images).double() / 255 if attack.name == "vafa" else reference.images.double()
    result = attack(
        reference_network(golden).double(),
        images,
        reference.labels,
        start=None if start is None else start.double(),
    )
    assert result.state is not None
    difference = float((result.adversarial - torch.from_numpy(reference.arrays["adversarial"])).abs().max())
    state = final_state(reference, tuple(result.state.shape[3:]))  # type: ignore[arg-type]
    moved = float(((result.state - state).abs() > 1e-6).double().mean())
    bound = FREE_RUN[name]
    print(f"\nfree {name}: volume {difference:.2g} (released {bound:.2g}) state {moved:.2g}")
    assert bound is not None
    assert difference <= max(2e-6, 3 * bound)


@pytest.mark.parametrize("name", ["vafa3d_q20_s3_b8_ssim", "saa3d_r04_b16_s10_ld02_ls075"])
def test_first_gradient_is_the_released_one(golden: Find, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32, to 1e-4 of the largest entry."""
    from freqbench.attacks.task import Task

    reference = load(golden, name)
    attack, first = as_attack(name, reference), []
    gradient_and = Task.gradient_and

    def keep(self: Task, x: Tensor, objective: Any) -> Any:
        gradient, besides = gradient_and(self, x, objective)
        first.append(gradient.clone())
        return gradient, besides

    monkeypatch.setattr(Task, "gradient_and", keep)
    attack(reference_network(golden), reference.images, reference.labels, start=start_of(reference))
    expected = merge(torch.from_numpy(reference.arrays["grad_0"]), first[0].shape[2:])
    assert float((-first[0] - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
