"""Measures LPIPS, the learned perceptual distance, of volumes slice by slice.

R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The unreasonable effectiveness of deep features as a perceptual
metric", CVPR 2018, arXiv:1801.03924.
"""

import math
import warnings
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.core.torchvision_import import import_torchvision
from freqbench.metrics import weights
from freqbench.metrics.image import NO_BODY, body_mask
from freqbench.metrics.volumes import Scores, Volume, pair_of
from freqbench.ops.voxels import Mask

SMALLEST_SLICE = 32  # AlexNet's strides reduce smaller slices to nothing
SLICES_AT_ONCE = 16


def lpips(clean: Volume, adversarial: Volume) -> float:
    """Returns the LPIPS distance (AlexNet, version 0.1), mean over axial slices; 0 for equal volumes.

    For each slice, scaled to [-1, 1] and repeated to three channels: the features of AlexNet's five convolution layers,
    normalised over channels; their squared differences, with the learned weight of each channel; mean over places, sum
    over layers. Several channels are averaged. The similarity of the papers' tables is 1 - distance. Volumes are `[H,
    W, D]`, D across axial slices, or `[C, H, W, D]`, in [0, 1]; computed on the device of `clean`.

    Differs from the papers' code: slices smaller than 32 voxels, which AlexNet cannot take, are padded with their edge
    values on the high side.

    Raises:
        LpipsUnavailable: the network's weights are not on this machine and cannot be fetched.
        UserError: shapes differ.
    """
    return _distances(clean, adversarial, None)[0]


def lpips_scores(clean: Volume, adversarial: Volume, body: Mask | None = None) -> Scores:
    """Returns `lpips_similarity`, `lpips_distance`, `lpips_body` in one pass; raises as `lpips`.

    `lpips_body` is a distance: each layer's map of weighted squared differences, resized bilinearly to the slice's size
    (as with `spatial=True` in the `lpips` package), summed over layers and averaged over the body's voxels of all
    slices. Several channels are averaged; NaN with a reason if there is no body. `body` is `body_mask(clean)`.
    """
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
    network = alexnet(str(clean.device))
    total = in_body = torch.zeros((), dtype=torch.float64, device=clean.device)
    for start in range(0, depth, SLICES_AT_ONCE):
        part = slice(start, start + SLICES_AT_ONCE)
        pair = [_as_images(volume[..., part].to(clean.device)) for volume in (clean, adversarial)]
        maps = _difference_maps(network, *pair)
        total = total + sum(layer.double().mean(dim=(1, 2, 3)).sum() for layer in maps)
        if body is None:
            continue
        size = list(pair[0].shape[-2:])
        everywhere = sum(F.interpolate(layer, size=size, mode="bilinear", align_corners=False) for layer in maps)
        mask = body[..., part].to(clean.device).movedim(-1, 0)
        in_body = in_body + (torch.as_tensor(everywhere)[:, 0, :height, :width].double() * mask).sum()
    voxels = 0 if body is None else int(body.sum())
    return float(total) / depth, float(in_body) / voxels if voxels else math.nan


def _as_images(slices: Tensor) -> Tensor:
    """Converts `[H, W, N]` in [0, 1] to `[N, 3, max(H, 32), max(W, 32)]` in [-1, 1]."""
    images = 2 * slices.float().movedim(-1, 0)[:, None] - 1
    short = [max(SMALLEST_SLICE - size, 0) for size in images.shape[-2:]]
    if any(short):
        images = F.pad(images, (0, short[1], 0, short[0]), mode="replicate")
    return images.expand(-1, 3, -1, -1)


def _difference_maps(network: Any, clean: Tensor, adversarial: Tensor) -> list[Tensor]:
    """Returns one map `[N, 1, h, w]` per layer: LPIPS's own forward pass, before it averages."""
    # Reduced precision of the attacks' convolutions must not reach the metric.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        features = [network.net(network.scaling_layer(images)) for images in (clean, adversarial)]
    maps = []
    for first, second, weigh in zip(*features, network.lins, strict=True):
        unit = [f / (f.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for f in (first, second)]
        maps.append(weigh((unit[0] - unit[1]).square()))
    return maps


@lru_cache(maxsize=2)
def alexnet(device: str) -> Any:
    """Returns the `lpips` package's network on a device, with the trunk's real weights; prints nothing."""
    trunk = weights.trunk()
    import_torchvision()
    # The package draws a random trunk, which is replaced below: the caller's random state stays unchanged.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of an argument that the package still passes
        import lpips as package

        network = package.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    places = {key.split(".", 1)[1]: key for key in network.net.state_dict()}  # "0.weight" -> "slice1.0.weight"
    named = {places[name.removeprefix("features.")]: tensor for name, tensor in trunk.items()}
    network.net.load_state_dict(named)
    return network.to(device).eval().requires_grad_(False)
