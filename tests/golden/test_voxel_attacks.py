"""Attacks on voxels, segpgd, cospgd and ssa_2d against the arrays that the authors' released code produced."""

from typing import Any

import pytest
import torch
from golden.network import Find, Golden, load, reference_network, some_later

from freqbench.attacks import Attack, make

FILES = [
    *("gn_saa_std4", "gn_saa_std8", "fgsm_saa_e8", "fgsm_vafa_e8_targeted", "bim_saa_e4_a001_s20"),
    *("bim_vafa_e4_a001_s5", "pgd_saa_e4_s5", "pgd_saa_e4_s20", "pgd_saa_e8_s5", "pgd_saa_e8_s20"),
    *("pgd_saa_e8_s5_targeted", "pgd_bmvc_e4_s20", "pgd_bmvc_e8_s5", "segpgd_saa_e8_s5", "segpgd_saa_e8_s5_B2"),
    *("segpgd_saa_e8_s5_targeted", "segpgd_bmvc_e8_s5", "cospgd_saa_e8_s5", "cospgd_saa_e8_s5_B2"),
    *("cospgd_saa_e8_s5_targeted", "cospgd_bmvc_e8_s5_targeted", "ssa2d_e16_s3_n10_b16_r05"),
    *("ssa2d_e8_s2_n3_b8_r03", "ssa2d_e8_s2_n1_b8_r05"),
]
LONG = [name for name in FILES if name.endswith("_s20")]
LATER = ["pgd_saa_e8_s5", "pgd_bmvc_e8_s5", "segpgd_saa_e8_s5", "cospgd_saa_e8_s5", "ssa2d_e16_s3_n10_b16_r05"]
"""Longer, or done by a batch or target too."""
NAMES = {
    **{name: name for name in ("eps", "std", "steps", "random_start", "targeted", "rho")},
    "alpha": "step_size",
    "num_spectrum_augs": "num_spectra",
    "block_size": "block",
}


def as_attack(name: str, reference: Golden) -> Attack:
    """The attack that a file's params describe, in our names."""
    params = reference.params
    ours = {own: params[theirs] for theirs, own in NAMES.items() if theirs in params}
    if params["name"] in ("segpgd", "cospgd", "ssa_2d"):
        ours["variant"] = "released-bmvc" if "_bmvc_" in name else "released"
    return make(params["name"], **ours)


def start_of(arrays: dict[str, Any]) -> Any:
    if "gauss" in arrays:
        return {key: torch.from_numpy(arrays[key]) for key in ("gauss", "unif")}
    start = arrays.get("start", arrays.get("xi"))
    return None if start is None else torch.from_numpy(start)


@pytest.mark.parametrize("name", some_later(FILES, integration=LATER, slow=LONG))
def test_attacks_by_voxels_equal_the_released_code(golden: Find, name: str, processor: torch.device) -> None:
    """At most 1e-6 off, but one voxel in ten thousand; losses are one a pass, a scalar a batch where it is coupled."""
    reference = load(golden, name, processor)
    model = reference_network(golden, processor)
    start = start_of(reference.arrays)
    result = as_attack(name, reference)(model, reference.images, reference.labels, start=start)
    difference = (result.adversarial.cpu() - torch.from_numpy(reference.arrays["adversarial"])).abs()
    assert float((difference > 1e-6).double().mean()) <= 1e-4, f"largest difference {float(difference.max()):.3g}"
    expected = torch.from_numpy(reference.arrays["losses"])
    losses = (result.losses.mean(dim=1) if result.losses.ndim == 2 else result.losses).cpu()
    assert not expected.numel() or torch.allclose(losses.double(), expected, rtol=2e-6, atol=2e-6)
