"""What a filter leaves of a finished perturbation, on every attack."""

from typing import Any

import numpy as np
import pytest
import torch
from attacks.examples import SmallNet, example, generators, volumes
from scipy.fft import dctn, idctn

from freqbench.attacks import make
from freqbench.job.grid import attack_identity

LOW = ("low", 3)


@pytest.mark.parametrize(
    ("name", "kept", "rows"),
    [
        ("pgd", LOW, (0, 3)),
        ("vafa", ("high", 2), (2, None)),
        ("gn", ("band", 1, 4), (1, 4)),
        ("autoattack", LOW, (0, 3)),
    ],
)
def test_leaves_that_part_of_the_perturbation_alone(name: str, kept: Any, rows: tuple[int, int | None]) -> None:
    """Over the whole window, by scipy; and clamped. State, losses and passes are those of the attack itself."""
    images, labels = volumes()
    whole, filtered = (
        example(name, filter=value)(SmallNet(), images, labels, generator=generators(1, 2)) for value in (None, kept)
    )
    spectrum = dctn((whole.adversarial - images).double().numpy(), axes=(2, 3, 4))
    mask = np.zeros(spectrum.shape)
    mask[..., slice(*rows), slice(*rows), slice(*rows)] = 1
    expected = images + torch.from_numpy(idctn(spectrum * mask, axes=(2, 3, 4)))
    assert torch.allclose(filtered.adversarial.double(), expected.clamp(0, 1), rtol=0, atol=1e-6)
    assert torch.allclose(filtered.losses, whole.losses, rtol=0, atol=0, equal_nan=True)
    assert (filtered.num_forwards, filtered.num_backwards) == (whole.num_forwards, whole.num_backwards)


def test_the_bound_is_checked_before_the_filter() -> None:
    """A corner of the ball, cut down to its lowest frequencies, leaves the ball, and that is not the attack's fault."""
    images = torch.full((1, 1, 8, 8, 8), 0.5)
    labels = torch.zeros(images.shape, dtype=torch.long)
    labels[..., :4] = 1
    attack = make("fgsm", eps=0.1, filter=("low", 2))
    model = torch.nn.Module()
    model.forward = lambda x: torch.cat([0.5 - x, x - 0.5], dim=1)
    result = attack(model, images, labels)
    assert 0.1 + 1e-3 < float((result.adversarial - images).abs().max()) < 0.2


def test_no_filter_changes_no_identity() -> None:
    assert attack_identity(make("pgd", eps=0.1)) == {"name": "pgd", "revision": 1, "eps": 0.1}
    written = make("pgd", eps=0.1, filter=list(LOW))
    assert attack_identity(written)["filter"] == LOW
    assert hash(written) == hash(make("pgd", eps=0.1, filter=LOW))
