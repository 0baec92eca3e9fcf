"""Minimal changes, and Auto-PGD in L2, against what their authors' and Foolbox's own code produced, in float64.

almaprox: one volume, every voxel a constraint. The iteration is that of `alma_prox` in jeromerony/adversarial-library,
its two axes of an image made three; the labels are the reference network's own prediction. Its search for the proximity
operator stops at 1e-7.

The others: volumes of a single voxel with 24 channels, each of another class. There a Dice of half the clean one is
lost when the class is, the mean cross-entropy is a classifier's, and the margin is its difference of logits, so that
classifiers' attacks run unchanged: `ddn`, `fmn` and `_apgd` of adv-lib 0.2.8 (unrounded), `DDNAttack`, `LInfFMNAttack`
and `L2FMNAttack` of Foolbox 3.3.4, 60 steps of Euclidean norm 1 at first; Auto-PGD 25 steps from stored noise. The
projection of `L2FMNAttack` divides norms by norms, and so projects nothing: it ran with the radius over the norm. That
of adv-lib scales every change up to its radius; it has no array.
"""

import json
from typing import Any

import numpy as np
import pytest
import torch
from golden.network import Find, reference_network, stored
from torch import Tensor, nn

from freqbench.attacks import make

FILES = ["almaprox_share40_s120", "minimal_norms"]


def test_released_almaprox_follows_the_authors_code(golden: Find, processor: torch.device) -> None:
    """Volumes after 1, 10, 40, 80 and 119 steps, before and after the share is reached, and the result."""
    arrays = np.load(golden(FILES[0]))
    images, labels = (torch.from_numpy(arrays[name]).to(processor) for name in ("images", "labels"))
    model = reference_network(golden, processor).double()
    seen = list[Tensor]()
    model.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach().cpu()))
    attack = make("almaprox", variant="released", organs=(0, 1, 2, 3), **json.loads(str(arrays["params"])))
    result = attack(model, images, labels.long())
    for after, expected in zip(arrays["after"], arrays["iterates"], strict=True):
        assert np.allclose(seen[after].numpy(), expected, rtol=0, atol=2e-6), f"after {after} steps"
    assert np.allclose(result.adversarial.cpu().numpy(), arrays["adversarial"], rtol=0, atol=2e-6)


class OneVoxel(nn.Module):
    """A network of the file's weights on volumes of one voxel; notes what it is asked."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        self.first, self.last = (nn.Linear(*arrays[f"weights{i}"].T.shape).double() for i in (1, 2))
        for number, layer in enumerate((self.first, self.last), 1):
            layer.weight.data = arrays[f"weights{number}"]
            layer.bias.data = arrays[f"bias{number}"]
        self.asked = list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().flatten(1).clone())
        logits: Tensor = self.last(torch.tanh(self.first(x.flatten(1) - 0.5)))
        return voxel(logits)


def voxel(values: Tensor) -> Tensor:
    return values[:, :, None, None, None]


@pytest.fixture
def arrays(golden: Find) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in stored(golden("minimal_norms")).items()}


SMALLEST = [  # attack, its parameters, array, tolerance
    ("ddn", {}, "foolbox_ddn", 1e-12),
    ("ddn", {}, "adv_ddn", 1e-6),  # its norms are float32
    ("fmn", {"norm": "linf"}, "adv_fmn_linf", 1e-12),
    ("fmn", {"norm": "l2"}, "foolbox_fmn_l2", 1e-12),
]


@pytest.mark.parametrize(("name", "given", "array", "tolerance"), SMALLEST, ids=lambda value: str(value))
def test_smallest_changes_are_those_of_other_libraries(
    name: str, given: dict[str, Any], array: str, tolerance: float, arrays: dict[str, Tensor]
) -> None:
    """The size of the change is the state; where nothing was found, as in two samples of the last, it is infinite."""
    attack = make(name, steps=60, step_size=24**-0.5, **given, loss="margin" if name == "fmn" else "ce")
    result = attack(OneVoxel(arrays), voxel(arrays["images"]), voxel(arrays["labels"][:, None]))
    assert torch.allclose(result.adversarial.flatten(1), arrays[array], rtol=0, atol=tolerance)
    change = arrays[array] - arrays["images"]
    sizes = change.abs().amax(1) if given.get("norm") == "linf" else change.square().mean(1).sqrt()
    assert torch.allclose(result.state, torch.where(sizes > 0, sizes, torch.inf), rtol=0, atol=tolerance)
    assert int((sizes == 0).sum()) == (2 if array == "foolbox_fmn_l2" else 0)


def test_foolbox_finds_the_same_smallest_linf_change(arrays: dict[str, Tensor]) -> None:
    """Its volumes differ where two steps have one size, as it keeps the later; the sizes do not."""
    attack = make("fmn", steps=60, step_size=24**-0.5, norm="linf", loss="margin")
    state = attack(OneVoxel(arrays), voxel(arrays["images"]), voxel(arrays["labels"][:, None])).state
    assert torch.allclose(state, (arrays["foolbox_fmn_linf"] - arrays["images"]).abs().amax(1), rtol=0, atol=1e-12)


def test_auto_pgd_in_l2_evaluates_the_volumes_of_adv_lib(arrays: dict[str, Tensor]) -> None:
    """Far from 0 and 1; adv-lib adds 1e-12 to norms, so from the first halving on the best may be the other of two."""
    model = OneVoxel(arrays)
    attack = make("apgd", norm="l2", eps=0.3 * 24**-0.5, steps=26, loss="ce", variant="released")
    attack(model, voxel(arrays["inner"]), voxel(arrays["inner_labels"][:, None]), start=voxel(arrays["noise"]))
    difference = (torch.stack(model.asked)[:26] - arrays["apgd_l2"]).abs().flatten(1).amax(1)
    assert float(difference[:15].max()) < 1e-11
    assert float(difference.max()) < 1e-5
