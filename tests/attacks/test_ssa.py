"""SSA: what the network is shown, what a step makes of it, and the draws; golden arrays hold the released slices."""

from typing import Any

import numpy as np
import pytest
import torch
from attacks.asked import Asked
from attacks.small import Net, volumes
from scipy.fft import dctn, idctn
from torch import Tensor

from freqbench.attacks import make
from freqbench.core.errors import UserError
from freqbench.ops.losses import dice_ce

BOTH = pytest.mark.parametrize("name", ["ssa", "ssa_2d"])
SMALL: dict[str, Any] = {"eps": 0.05, "steps": 1, "num_spectra": 1, "block": 4}


def draws(name: str, images: Tensor, steps: int, spectra: int, block: int = 4) -> dict[str, Tensor]:
    """Given in the layouts of the docstrings, for volumes that blocks tile."""
    generator = torch.Generator().manual_seed(6)
    batch, _, h, w, d = images.shape
    if name == "ssa":
        space = (h, w, d)
        count = (h // block) * (w // block) * (d // block)
        blocked: tuple[int, ...] = (count, block, block, block)
    else:
        space = (d, h, w)
        blocked = (d, (h // block) * (w // block), block, block)
    lead = (steps, spectra, batch, 1)
    return {
        "gauss": torch.randn(*lead, *space, generator=generator, dtype=torch.float64),
        "unif": torch.rand(*lead, *blocked, generator=generator, dtype=torch.float64),
    }


def test_network_sees_noise_and_a_multiplied_spectrum() -> None:
    images, labels = volumes(1, (4, 4, 4), torch.float64)
    start = draws("ssa", images, 1, 1)
    model = Asked().double()
    make("ssa", **(SMALL | {"rho": 0.3}))(model, images, labels, start=start)
    noisy = (images + 0.05 * start["gauss"][0, 0])[0, 0].numpy()
    expected = idctn(dctn(noisy, norm="ortho") * (0.7 + 0.6 * start["unif"][0, 0][0, 0, 0].numpy()), norm="ortho")
    assert np.allclose(model.volumes[0][0, 0].numpy(), expected, atol=1e-12)


@BOTH
def test_a_step_follows_the_sign_of_the_mean_gradient(name: str) -> None:
    """The gradient is the one at the volume that was shown, not led back through the transform."""
    images, labels = volumes(1, (8, 8, 4), torch.float64)
    images = 0.2 + 0.6 * images
    start = draws(name, images, 1, 3)
    model = Asked().double()
    result = make(name, **(SMALL | {"num_spectra": 3}))(model, images, labels, start=start)
    gradients = []
    net = Net().double()
    for volume in list(model.volumes):
        point = volume.clone().requires_grad_()
        gradients.append(torch.autograd.grad(dice_ce(net(point), labels).sum(), point)[0])
    assert torch.allclose(result.adversarial, images + 0.05 * torch.stack(gradients).sum(dim=0).sign(), atol=1e-12)
    assert result.losses.shape == (3, 1)


@BOTH
def test_draws_are_those_of_the_samples_generators_in_order(name: str) -> None:
    """Noise, then factors, of every pass: so that fewer steps begin as more do."""
    images, labels = volumes(1, (8, 8, 4))
    generator = torch.Generator().manual_seed(3)
    given = draws(name, images, 2, 2)
    for i, n in [(i, n) for i in range(2) for n in range(2)]:
        for key, sampler in (("gauss", torch.randn), ("unif", torch.rand)):
            given[key][i, n] = sampler(given[key].shape[2:], generator=generator)
    attack = make(name, **(SMALL | {"steps": 2, "num_spectra": 2}))
    drawn = attack(Net(), images, labels, generator=torch.Generator().manual_seed(3))
    assert torch.equal(attack(Net(), images, labels, start=given).adversarial, drawn.adversarial)


def test_released_takes_ten_spectra_and_needs_cubes() -> None:
    assert make("ssa_2d", variant="released").passes == (100, 100)
    with pytest.raises(UserError, match=r"^ssa_2d: released turns windows: expected equal sides, got 8x8x4: use"):
        make("ssa_2d", variant="released")(Net(), *volumes())


@BOTH
@pytest.mark.parametrize("spoil", ["tensor", "shape", "name"])
def test_a_start_that_is_not_both_draws_is_refused(name: str, spoil: str) -> None:
    images, labels = volumes(1, (8, 8, 4))
    start: Any = draws(name, images, 1, 1)
    if spoil == "tensor":
        start = start["gauss"]
    elif spoil == "shape":
        start["unif"] = start["unif"][:, :, :, :, :1, :1]
    else:
        start["xi"] = start.pop("gauss")
    with pytest.raises(UserError, match=rf"^{name}: expected a start of draws of shapes [^\n]*, got [^\n]*$"):
        make(name, **SMALL)(Net(), images, labels, start=start)
