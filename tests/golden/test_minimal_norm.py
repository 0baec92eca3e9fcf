"""almaprox against arrays that its authors' own iteration produced (float64, one volume, every voxel a constraint).

The iteration is that of `alma_prox` in jeromerony/adversarial-library, its two axes of an image made three; the labels
are the reference network's own prediction. Its search for the proximity operator stops at 1e-7.
"""

import json

import numpy as np
import torch
from golden.network import Find, reference_network
from torch import Tensor

from freqbench.attacks import make

FILES = ["almaprox_share40_s120"]


def test_released_almaprox_follows_the_authors_code(golden: Find, processor: torch.device) -> None:
    """Volumes after 1, 10, 40, 80 and 119 steps, before and after the share is reached, and the result."""
    arrays = np.load(golden(FILES[0]))
    images, labels = (torch.from_numpy(arrays[name]).to(processor) for name in ("images", "labels"))
    model, seen = reference_network(golden, processor).double(), list[Tensor]()
    model.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach().cpu()))
    attack = make("almaprox", variant="released", organs=(0, 1, 2, 3), **json.loads(str(arrays["params"])))
    result = attack(model, images, labels.long())
    for after, expected in zip(arrays["after"], arrays["iterates"], strict=True):
        assert np.allclose(seen[after].numpy(), expected, rtol=0, atol=2e-6), f"after {after} steps"
    assert np.allclose(result.adversarial.cpu().numpy(), arrays["adversarial"], rtol=0, atol=2e-6)
