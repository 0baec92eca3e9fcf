"""segpgd, cospgd and ssa_2d against the arrays that the authors' released code produced."""

from typing import Any

import pytest
import torch
from golden.network import Find, Golden, load, reference_network

from freqbench.attacks import AttackResult, make

FILES = [
    "segpgd_saa_e8_s5",
    "segpgd_saa_e8_s5_B2",
    "segpgd_saa_e8_s5_targeted",
    "segpgd_bmvc_e8_s5",
    "cospgd_saa_e8_s5",
    "cospgd_saa_e8_s5_B2",
    "cospgd_saa_e8_s5_targeted",
    "cospgd_bmvc_e8_s5_targeted",
    "ssa2d_e16_s3_n10_b16_r05",
    "ssa2d_e8_s2_n3_b8_r03",
    "ssa2d_e8_s2_n1_b8_r05",
]


def run(golden: Find, name: str, reference: Golden) -> AttackResult:
    """The attack that a file's params describe, in our names, from its draws."""
    params, arrays = reference.params, reference.arrays
    ours: dict[str, Any] = {name: params[name] for name in ("eps", "steps", "targeted")}
    start: Any
    if params["name"] == "ssa_2d":
        ours |= {"rho": params["rho"], "num_spectra": params["num_spectrum_augs"], "block": params["block_size"]}
        start = {key: torch.from_numpy(arrays[key]) for key in ("gauss", "unif")}
    else:
        ours |= {"step_size": params["alpha"], "random_start": params["random_start"]}
        start = torch.from_numpy(arrays["start"])
    variant = "released-bmvc" if "_bmvc_" in name else "released"
    attack = make(params["name"], variant=variant, **ours)
    return attack(reference_network(golden), reference.images, reference.labels, start=start)


@pytest.mark.parametrize("name", FILES)
def test_equals_the_released_code(golden: Find, name: str) -> None:
    """float32, at most 1e-6, at most one voxel in ten thousand one step away (a sign of a vanishing gradient).

    Losses are one a pass, with the sign of what is raised: a scalar a batch where it is coupled.
    """
    reference = load(golden, name)
    result = run(golden, name, reference)
    difference = (result.adversarial - torch.from_numpy(reference.arrays["adversarial"])).abs()
    print(f"\n{name}: largest difference {float(difference.max()):.2g}")
    assert float((difference > 1e-6).double().mean()) <= 1e-4, f"largest difference {float(difference.max()):.3g}"
    losses = result.losses[:, 0] if result.losses.ndim == 2 else result.losses
    assert torch.allclose(losses.double(), torch.from_numpy(reference.arrays["losses"]), rtol=2e-6, atol=2e-6)
