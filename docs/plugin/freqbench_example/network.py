"""A network of two convolutions, as an example."""

from torch import Tensor, nn


class TwoLayers(nn.Module):
    """Two convolutions: one channel in, `num_classes` logits out.

    Args:
        num_classes: classes, the background among them.
        width: channels between the two.
    """

    def __init__(self, num_classes: int = 2, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(1, width, 3, padding=1), nn.ReLU(), nn.Conv3d(width, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[B, K, H, W, D]` of images `[B, 1, H, W, D]`."""
        logits: Tensor = self.body(images)
        return logits
