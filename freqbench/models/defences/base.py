"""Defines what every defence is: a mapping in a job file, and a change of the window that the network sees."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from freqbench.core.config import Strict
from freqbench.core.identity import digest

if TYPE_CHECKING:
    from torch import Tensor

Back = Callable[["Tensor"], "Tensor"]

FIXED = 0
"""The key of draws that are the same wherever nobody gives another."""


class Defence(Strict):
    """A change of windows in [0, 1] before a network sees them.

    Class attributes of a defence:
        is_random: whether it draws; one that does not gives the same for the same window.
        is_smooth: whether autograd's gradient through it is the true one and all that an attacker needs.
        revision: raised by hand when a change alters results, so that old rows are computed anew.
    """

    is_random: ClassVar[bool] = False
    is_smooth: ClassVar[bool] = False
    revision: ClassVar[int] = 1

    name: str

    def filtered(self, images: "Tensor") -> "Tensor":
        """What the network sees in place of windows `[B, C, h, w, d]`, as it stands, for one that draws nothing."""
        raise NotImplementedError

    def seen(self, images: "Tensor", seeds: Sequence[int], adaptive: bool) -> tuple["Tensor", Back]:
        """What the network sees of windows `[B, C, h, w, d]` in [0, 1], and how its logits come back onto their grid.

        Args:
            seeds: of the draws of each window.
            adaptive: the gradient is one that serves an attacker: the identity in place of that of `filtered`, where
                this one is not smooth (Athalye et al., ICML 2018, arXiv:1802.00420: BPDA).
        """
        if adaptive and not self.is_smooth:
            return self.filtered(images.detach()) + (images - images.detach()), unchanged
        return self.filtered(images), unchanged

    @property
    def draws(self) -> int:
        """Network passes of one window whenever an adaptive attacker asks: `eot` of a random defence."""
        return int(getattr(self, "eot", 1))

    @property
    def predictions(self) -> int:
        """Sliding windows that a volume's prediction takes."""
        return 1

    def identity(self) -> Mapping[str, Any]:
        """Name, revision and the parameters that differ from their default, for digests."""
        return {"revision": self.revision, **self.model_dump(exclude_defaults=True), "name": self.name}


def draw_seed(*parts: int | str) -> int:
    """A seed that depends on these parts and nothing else."""
    return int(digest(["defence", *parts]), 16) >> 1


def unchanged(logits: "Tensor") -> "Tensor":
    """Logits that stand on the grid of the windows already."""
    return logits
