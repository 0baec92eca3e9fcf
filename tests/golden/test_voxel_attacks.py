"""gn, fgsm, bim and pgd against the arrays that the authors' released code produced."""

import pytest
import torch
from golden.network import Find, Golden, load, reference_network

from freqbench.attacks import Attack, make

FILES = [
    "gn_saa_std4",
    "gn_saa_std8",
    "fgsm_saa_e8",
    "fgsm_vafa_e8_targeted",
    "bim_saa_e4_a001_s20",
    "bim_vafa_e4_a001_s5",
    "pgd_saa_e4_s5",
    "pgd_saa_e4_s20",
    "pgd_saa_e8_s5",
    "pgd_saa_e8_s20",
    "pgd_saa_e8_s5_targeted",
    "pgd_bmvc_e4_s20",
    "pgd_bmvc_e8_s5",
]


def as_attack(reference: Golden) -> Attack:
    """The attack that a file's params describe, in our names."""
    params = reference.params
    names = {
        "eps": "eps",
        "std": "std",
        "steps": "steps",
        "alpha": "step_size",
        "random_start": "random_start",
        "targeted": "targeted",
    }
    return make(params["name"], **{ours: params[theirs] for theirs, ours in names.items() if theirs in params})


@pytest.mark.parametrize("name", FILES)
def test_equals_the_released_code(golden: Find, name: str) -> None:
    """float32, at most 1e-6, at most one voxel in ten thousand one step away (a sign of a vanishing gradient)."""
    reference = load(golden, name)
    start = reference.arrays.get("start", reference.arrays.get("xi"))
    result = as_attack(reference)(
        reference_network(golden),
        reference.images,
        reference.labels,
        start=None if start is None else torch.from_numpy(start),
    )
    difference = (result.adversarial - torch.from_numpy(reference.arrays["adversarial"])).abs()
    print(f"\n{name}: largest difference {float(difference.max()):.2g}")
    assert float((difference > 1e-6).double().mean()) <= 1e-4, f"largest difference {float(difference.max()):.3g}"
    if reference.arrays["losses"].size:  # gn has none
        expected = torch.from_numpy(reference.arrays["losses"])
        assert torch.allclose(result.losses.mean(dim=1).double(), expected, rtol=2e-6, atol=2e-6)
