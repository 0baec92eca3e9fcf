"""freqbench's sliding window against nnU-Net's predictor and MONAI's inferer, on drawn shapes, patches and overlaps."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.inferers.utils import sliding_window_inference
from pipelines.plans import float32_sums, module
from torch import Tensor, nn

from freqbench.models import Inference, SegmentationModel, predict
from freqbench.models.entry import AXES, NNUNET
from freqbench.models.networks.slices import SLICES, Sliced

SHAPES = st.tuples(*[st.integers(1, 21)] * 3)
PATCHES = st.tuples(*[st.integers(2, 9)] * 3)
# Logits of two classes that are closer are a tie: rounding decides it.
TIE = 1e-4
MOST_TIES = 0.02


def network(dim: int) -> nn.Module:
    """Three classes from convolutions whose borders show where a window was padded and where it begins."""
    conv = (nn.Conv2d, nn.Conv3d)[dim - 2]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = conv(1, 6, 3, padding=1), nn.LeakyReLU(), conv(6, 3, 3, padding=1)
        return nn.Sequential(*layers).eval().requires_grad_(False)


def same(labels: Tensor, logits: Tensor) -> None:
    """Equal labels `[h, w, d]` wherever the two highest logits `[K, h, w, d]` are apart."""
    first, second = logits.topk(2, dim=0).values
    ties = first - second < TIE
    assert ties.float().mean() < MOST_TIES + 1 / ties.numel()
    assert torch.equal(labels[~ties].long(), logits.argmax(dim=0)[~ties])


def drawn(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def by_nnunet(net: nn.Module, volume: Tensor, patch: tuple[int, ...], overlap: float, mirror: list[int]) -> Tensor:
    """Logits of nnU-Net's own predictor, its sums in float32."""
    predictor: Any = module().nnUNetPredictor(
        tile_step_size=1 - overlap, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.network = net
    predictor.allowed_mirroring_axes = mirror or None
    predictor.configuration_manager = SimpleNamespace(patch_size=[*patch])
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=3)
    with float32_sums():
        logits: Tensor = predictor.predict_sliding_window_return_logits(volume[0])
    return logits.float()


@pytest.mark.integration
@settings(max_examples=40)
@given(
    shape=SHAPES, patch=PATCHES, overlap=st.sampled_from([0.25, 0.5, 0.7]), mirror=st.sets(st.sampled_from([0, 1, 2]))
)
@example(shape=(20, 5, 9), patch=(8, 8, 8), overlap=0.5, mirror={0, 2})
def test_windows_of_a_volume_are_those_of_nnunets_predictor(
    shape: tuple[int, int, int], patch: tuple[int, int, int], overlap: float, mirror: set[int]
) -> None:
    net = network(3)
    volume = drawn(shape)
    letters = "".join(AXES[axis] for axis in sorted(mirror))
    inference = Inference(**NNUNET | {"overlap": overlap, "mirror": letters})
    labels = predict(SegmentationModel(net, patch, inference=inference), volume)
    same(labels, by_nnunet(net, volume, patch, overlap, sorted(mirror)))


@pytest.mark.integration
@settings(max_examples=20)
@given(shape=SHAPES, patch=PATCHES, mirror=st.sets(st.sampled_from([0, 1])))
@example(shape=(37, 9, 12), patch=(0, 6, 8), mirror={0, 1})
def test_slices_are_nnunets(shape: tuple[int, int, int], patch: tuple[int, int, int], mirror: set[int]) -> None:
    net = network(2)
    volume = drawn(shape)
    letters = "".join(AXES[1 + axis] for axis in sorted(mirror))
    inference = Inference(**NNUNET | {"overlap": (0.0, 0.5, 0.5), "mirror": letters})
    model = SegmentationModel(Sliced(net, axis=0), (SLICES, *patch[1:]), inference=inference)
    same(predict(model, volume), by_nnunet(net, volume, patch[1:], 0.5, sorted(mirror)))


@pytest.mark.integration
@settings(max_examples=40)
@given(
    shape=SHAPES,
    roi=PATCHES,
    overlap=st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 0.8])] * 3),
    weighting=st.sampled_from(["constant", "gaussian"]),
)
@example(shape=(20, 5, 9), roi=(8, 8, 8), overlap=(0.0, 0.5, 0.8), weighting="gaussian")
def test_windows_of_a_volume_are_those_of_monais_inferer(
    shape: tuple[int, int, int], roi: tuple[int, int, int], overlap: tuple[float, ...], weighting: str
) -> None:
    """Each axis has an overlap of its own."""
    net = network(3)
    volume = drawn(shape)
    model = SegmentationModel(net, roi, inference=Inference(overlap=overlap, weighting=weighting))
    same(predict(model, volume), sliding_window_inference(volume, roi, 3, net, overlap=overlap, mode=weighting)[0])
