"""Clean predictions on random volumes against MONAI's inferer, but for ties by rounding, whose share is bounded."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn

from freqbench.core.types import Shape
from freqbench.models import Inference, InputAdapter, SegmentationModel, predict

ROI: Shape = (8, 6, 4)
SIGNED = product(permutations("HWD"), product(("", "-"), repeat=3))
AXES = ["".join(map(str.__add__, signs, order)) for order, signs in SIGNED]


MOST_TIES = 0.002


def network(channels: int) -> nn.Module:
    """Three classes from convolutions whose borders show where a window was padded and where it begins."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = nn.Conv3d(channels, 6, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(6, 3, 3, padding=1)
        return nn.Sequential(*layers).double().eval().requires_grad_(False)


def agreement(labels: Tensor, logits: Tensor, tie: float) -> None:
    """Asserts equal labels `[h, w, d]` where the two highest of the logits `[K, h, w, d]` are apart."""
    first, second = logits.float().topk(2, dim=0).values
    ties = first - second <= tie
    assert ties.float().mean() <= MOST_TIES
    assert torch.equal(labels.long()[~ties], logits.argmax(0)[~ties])


def drawn_adapter(rng: np.random.Generator, channels: int) -> InputAdapter:
    """Axes, scale, means and deviations of which 0 is anywhere in the network's range."""
    low = float(rng.uniform(-400, 100))
    mean = rng.uniform(-200, 200, channels)
    std = rng.uniform(20, 150, channels)
    return InputAdapter(
        axes=str(rng.choice(AXES)),
        scale=(low, low + float(rng.uniform(50, 600))),
        mean=tuple(mean) if channels > 1 else float(mean[0]),
        std=tuple(std) if channels > 1 else float(std[0]),
    )


@pytest.mark.parametrize("seed", range(16))
def test_a_prediction_is_that_of_monais_inferer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 3))
    net = network(channels)
    adapter = drawn_adapter(rng, channels)
    padding = ["reflect", "replicate", 0.0, float(rng.normal())][seed % 4]
    # Reflection reaches no further than the volume.
    shape = tuple(int(rng.integers(side // 2 + 1 if padding == "reflect" else 1, 3 * side)) for side in ROI)
    overlap = float(rng.choice([0.0, 0.25, 0.5, 0.7]))
    weighting = str(rng.choice(["constant", "gaussian"]))
    settings = Inference(overlap=overlap, weighting=weighting, padding=padding)
    volume = torch.from_numpy(rng.random((1, channels, *shape)))
    labelled = predict(SegmentationModel(net, ROI, adapter=adapter, inference=settings), volume)

    order = ["HWD".index(letter) for letter in adapter.axes.replace("-", "")]
    turned = [2 + "HWD".index(axes) for axes in "HWD" if f"-{axes}" in adapter.axes]
    mean, std = (np.reshape(value, (1, -1, 1, 1, 1)) for value in (adapter.mean, adapter.std))
    low, high = adapter.scale
    seen = torch.from_numpy(((low + (high - low) * volume.numpy()) - mean) / std).flip(turned)
    seen = seen.permute(0, 1, *(2 + axis for axis in order))
    named = {"padding_mode": padding} if isinstance(padding, str) else {"padding_mode": "constant", "cval": padding}
    logits = sliding_window_inference(
        seen,
        [ROI[axis] for axis in order],
        3,
        lambda windows: 1 * net(windows),
        overlap=settings.overlap,
        mode=settings.weighting,
        sigma_scale=0.125,
        **named,
    )
    agreement(labelled, logits.permute(0, 1, *(2 + order.index(axis) for axis in range(3))).flip(turned)[0], 1e-9)
