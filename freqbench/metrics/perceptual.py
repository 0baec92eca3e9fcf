"""Measures LPIPS, the learned perceptual distance, of volumes slice by slice.
R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The unreasonable effectiveness of deep features as a
perceptual metric", CVPR 2018, arXiv:1801.03924."""

import math
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import distribution

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.metrics import weights
from freqbench.metrics.image import NO_BODY, body_mask
from freqbench.metrics.volumes import Scores, Volume, pair_of
from freqbench.ops.voxels import Mask

LEARNED = "lpips/weights/v0.1/alex.pth"  # of the package lpips: the weight of each channel
# the package's scaling of the three channels
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
STEPS = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))  # stride and padding of AlexNet's convolutions
POOLED = (1, 2)  # those after a pooling
SMALLEST_SLICE = 32  # AlexNet's strides reduce smaller slices to nothing
SLICES_AT_ONCE = 16


def lpips(clean: Volume, adversarial: Volume) -> float:
    """Returns the LPIPS distance (AlexNet, version 0.1), mean over axial slices; 0 for equal volumes. For each slice,
    scaled to [-1, 1] and repeated to three channels: the features of AlexNet's five convolution layers, normalised over
    channels; their squared differences, with the learned weight of each channel; mean over places, sum over layers.
    Several channels are averaged. The papers' similarity is 1 - distance. `clean` and `adversarial` are `[H, W, D]`, D
    across axial slices, or `[C, H, W, D]`, in [0, 1]; the device is that of `clean`. Slices smaller than 32 voxels,
    which AlexNet cannot take, are padded with their edge values on the high side. Raises LpipsUnavailable if the
    weights are not here and cannot be fetched; UserError if shapes differ."""
    return _distances(clean, adversarial, None)[0]


def lpips_scores(clean: Volume, adversarial: Volume, body: Mask | None = None) -> Scores:
    """Returns `lpips_similarity`, `lpips_distance`, `lpips_body` of `clean` and `adversarial` in one pass; raises as
    `lpips`. `lpips_body` is a distance: each layer's map of weighted squared differences, resized bilinearly to the
    slice's size (as with `spatial=True` in the `lpips` package), summed over layers and averaged over the body's voxels
    of all slices. Several channels are averaged; NaN with a reason if there is no body. `body` is `body_mask(clean)`,
    made here if None."""
    inside = torch.as_tensor(body_mask(clean) if body is None else body)
    distance, within = _distances(clean, adversarial, inside)
    values = {"lpips_similarity": 1 - distance, "lpips_distance": distance, "lpips_body": within}
    return Scores(values=values, reasons={} if inside.any() else {"lpips_body": NO_BODY})


def prepare_lpips() -> None:
    """Ensures that the network's weights are on this machine, fetching them if needed; raises LpipsUnavailable."""
    weights.trunk()


def _distances(clean: Volume, adversarial: Volume, body: Tensor | None) -> tuple[float, float]:
    """Returns means over channels: over slices, and over the body's voxels (NaN without a body)."""
    pairs = zip(*pair_of(clean, adversarial), strict=True)
    distances, within = zip(*(_distances_of_channel(*pair, body) for pair in pairs), strict=True)
    return sum(distances) / len(distances), sum(within) / len(within)


@torch.inference_mode()
def _distances_of_channel(clean: Tensor, adversarial: Tensor, body: Tensor | None) -> tuple[float, float]:
    height, width, depth = clean.shape
    device = clean.device
    network = alexnet(str(device))
    total = in_body = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, depth, SLICES_AT_ONCE):
        part = slice(start, start + SLICES_AT_ONCE)
        pair = [_make_images(volume[..., part].to(device)) for volume in (clean, adversarial)]
        maps = _difference_maps(network, *pair)
        total = total + sum(layer.double().mean(dim=(1, 2, 3)).sum() for layer in maps)
        if body is None:
            continue
        size = list(pair[0].shape[-2:])
        everywhere = sum(F.interpolate(layer, size=size, mode="bilinear", align_corners=False) for layer in maps)
        mask = body[..., part].to(device).movedim(-1, 0)
        in_body = in_body + (torch.as_tensor(everywhere)[:, 0, :height, :width].double() * mask).sum()
    voxels = 0 if body is None else int(body.sum())
    return float(total) / depth, float(in_body) / voxels if voxels else math.nan


def _make_images(slices: Tensor) -> Tensor:
    """Converts `[H, W, N]` in [0, 1] to `[N, 3, max(H, 32), max(W, 32)]` in [-1, 1]."""
    images = 2 * slices.float().movedim(-1, 0)[:, None] - 1
    short = [max(SMALLEST_SLICE - size, 0) for size in images.shape[-2:]]
    if any(short):
        images = F.pad(images, (0, short[1], 0, short[0]), mode="replicate")
    return images.expand(-1, 3, -1, -1)


def _difference_maps(network: weights.Weights, clean: Tensor, adversarial: Tensor) -> list[Tensor]:
    """Returns one map `[N, 1, h, w]` per layer: LPIPS's own forward pass, before it averages."""
    # Reduced precision of the attacks' convolutions must not reach the metric.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        features = [list(_features(network, images)) for images in (clean, adversarial)]
    maps = []
    for layer, pair in enumerate(zip(*features, strict=True)):
        first, second = (f / (f.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for f in pair)
        maps.append(F.conv2d((first - second).square(), network[f"lin{layer}.model.1.weight"]))
    return maps


def _features(network: weights.Weights, images: Tensor) -> Iterator[Tensor]:
    """Yields what leaves each convolution of AlexNet, `[N, C, h, w]`, of images `[N, 3, H, W]` in [-1, 1]."""
    shift, scale = (images.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
    x = (images - shift) / scale
    for number, (layer, (stride, padding)) in enumerate(zip(weights.LAYERS, STEPS, strict=True)):
        x = F.max_pool2d(x, kernel_size=3, stride=2) if number in POOLED else x
        kernel, bias = (network[f"features.{layer}.{part}"] for part in ("weight", "bias"))
        x = F.conv2d(x, kernel, bias, stride, padding).relu()
        yield x


@lru_cache(maxsize=2)
def alexnet(device: str) -> weights.Weights:
    """Returns the weights of the trunk and, as in the package, of the layers' channels, on a device."""
    learned = torch.load(str(distribution("lpips").locate_file(LEARNED)), map_location="cpu", weights_only=True)
    return {name: tensor.to(device) for name, tensor in (weights.trunk() | learned).items()}
