"""Windows: the tiling that is attacked, and sliding-window prediction of whole volumes."""

from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from freqbench.models.wrapper import SegmentationModel
from freqbench.types import Shape

OVERLAP = 0.5

Window = tuple[slice, slice, slice]


def attack_windows(shape: Shape, roi: Shape) -> tuple[Window, ...]:
    """The windows that tile a volume for attack: side by side, in raster order.

    The last window on an axis is shifted back inside, so that it overlaps its neighbour: what is written later
    overwrites. On an axis shorter than the ROI the window is the axis.

    Args:
        shape: voxels of the volume.
        roi: voxels of a window.

    >>> attack_windows((10, 4, 4), (4, 4, 8))[-1]
    (slice(6, 10, None), slice(0, 4, None), slice(0, 4, None))
    """
    return _windows(shape, roi, 0.0)


def sliding_windows(shape: Shape, roi: Shape) -> tuple[Window, ...]:
    """The windows that `predict` runs: as `attack_windows`, but each half over its neighbour.

    >>> [h.start for h, _, _ in sliding_windows((10, 4, 4), (4, 4, 8))]
    [0, 2, 4, 6]
    """
    return _windows(shape, roi, OVERLAP)


@lru_cache(maxsize=1024)  # a plan asks for each unit, and a grid has few shapes
def _windows(shape: Shape, roi: Shape, overlap: float) -> tuple[Window, ...]:
    axes = []
    for size, wanted in zip(shape, roi, strict=True):
        length = min(size, wanted)
        step = max(1, int(length * (1 - overlap)))
        starts = [min(start, size - length) for start in range(0, size - length + step, step)]
        axes.append([slice(start, start + length) for start in starts])
    return tuple(product(*axes))


def predict(model: SegmentationModel, image: Tensor, window_batch: int = 12) -> Tensor:
    """The predicted label map of a volume: argmax over MONAI's sliding window (half overlap, equal weights).

    Logits are stitched on the device of `image`, windows run on that of the model: an image on the CPU bounds what the
    accelerator holds to one batch of windows.

    Args:
        model: in eval mode.
        image: `[1, H, W, D]` or `[1, 1, H, W, D]` in [0, 1].
        window_batch: windows a forward pass.

    Returns:
        uint8 `[H, W, D]` on the device of `image`.

    Raises:
        ValueError: more than one volume.
    """
    from monai.inferers.utils import sliding_window_inference

    volume = image[None] if image.dim() == 4 else image
    if volume.dim() != 5 or volume.shape[:2] != (1, 1):
        raise ValueError(f"expected one volume [1, H, W, D] or [1, 1, H, W, D], got {tuple(image.shape)}")
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits: Tensor = sliding_window_inference(
            volume,
            model.roi,
            window_batch,
            model,
            overlap=OVERLAP,
            mode="constant",
            sw_device=device,
            device=volume.device,
        )
    # Outside inference mode, as a mask may become the labels of a further attack.
    return logits.argmax(dim=1)[0].to(torch.uint8)
