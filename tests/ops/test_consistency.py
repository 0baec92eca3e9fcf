import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import Tensor

from freqbench.ops.dct import frequency_consistency

SHAPE = (2, 3, 8, 6, 4)


def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def spectrum(x: Tensor) -> np.ndarray:
    return np.asarray(dctn(x.numpy(), axes=(2, 3, 4), norm="ortho"))


def test_released_is_the_ratio_of_sums_over_all_samples_and_paper_the_l1_norm_of_a_sample_on_average() -> None:
    clean, adversarial = maps()
    apart = np.abs(spectrum(clean) - spectrum(adversarial)).sum()
    wanted = {"released": apart / np.abs(spectrum(clean)).sum(), "paper": apart / 2}
    found = {form: float(frequency_consistency(clean, adversarial, form, None)) for form in wanted}
    assert found == pytest.approx(wanted, rel=1e-12)


def test_a_volume_that_blocks_do_not_tile_is_continued_by_reflection() -> None:
    clean, adversarial = maps()
    padded = [np.pad(x.numpy(), [(0, 0), (0, 0), (0, 0), (0, 2), (0, 0)], mode="reflect") for x in (clean, adversarial)]
    tiles = [(padded[0] - padded[1])[:, :, h : h + 4, w : w + 4] for h in (0, 4) for w in (0, 4)]
    wanted = sum(np.abs(dctn(tile, axes=(2, 3, 4), norm="ortho")).sum() for tile in tiles) / 2
    assert float(frequency_consistency(clean, adversarial, "paper", 4)) == pytest.approx(wanted, rel=1e-12)


def test_gradients_flow_through_both_maps() -> None:
    small = tuple(x[:1, :1, :2, :2, :2].requires_grad_() for x in maps())
    assert torch.autograd.gradcheck(lambda a, b: frequency_consistency(a, b, "released", None), small)
