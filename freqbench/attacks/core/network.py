"""The model as attacks ask it: in evaluation mode, with the channels beside the volumes that are left alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from freqbench.core.identity import digest

View = Callable[[Tensor], Tensor]


class Network:
    """A model and the volumes of one call, of which all channels or some are attacked.

    A model that draws says so by an attribute `takes_keys` that is true; it then gets `keys`, an integer a sample, of
    the sample's own generator and the number of the pass, so that every pass has draws of its own, whatever samples go
    through beside it.

    Args:
        model: `[B, C, H, W, D]` in [0, 1] to logits `[B, K, H, W, D]`.
        images: volumes as found, `[B, C, H, W, D]`.
        channels: the only ones that are attacked; None: all.
        seeds: of each sample's generator.

    Attributes:
        model: as given.
        images: a copy of the volumes.
        channels: as given.
        clean: the channels that are attacked, `[B, c, H, W, D]`; c is C where all are.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, channels: tuple[int, ...] | None, seeds: Sequence[int]
    ) -> None:
        self.model = model
        self._seeds = seeds
        self._num_passes = 0
        self.images = images.detach().clone()
        self.channels = channels
        self.clean = self.attacked(self.images)

    def attacked(self, volumes: Tensor) -> Tensor:
        """The channels that are attacked of whole volumes, `[B, c, H, W, D]`."""
        return volumes if self.channels is None else volumes[:, list(self.channels)]

    def whole(self, x: Tensor) -> Tensor:
        """Attacked channels with all others beside them as found, `[B, C, H, W, D]`; a gradient reaches the former."""
        if self.channels is None:
            return x
        return self.images.index_copy(1, torch.tensor(self.channels, device=x.device), x)

    def logits(self, x: Tensor, view: View | None = None) -> Tensor:
        """What the model says of volumes, given by their attacked channels.

        Args:
            x: `[B, c, H, W, D]`.
            view: what the model is shown of whole volumes, of their shape; None: the volumes.
        """
        whole = self.whole(x)
        shown = whole if view is None else view(whole)
        logits: Tensor = self.model(shown, keys=self._keys()) if _takes_keys(self.model) else self.model(shown)
        self._num_passes += 1
        return logits

    def _keys(self) -> list[int]:
        """Of this pass, one a sample."""
        return [int(digest(["attack", seed, self._num_passes]), 16) >> 1 for seed in self._seeds]

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """The model in evaluation mode; every module's own mode is given back."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _takes_keys(model: nn.Module) -> bool:
    return getattr(model, "takes_keys", False) is True
