"""Defines the base of all defences: a mapping in a job file that changes the window before the network sees it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from freqbench.core.code import provenance
from freqbench.core.config import Strict
from freqbench.core.identity import digest

if TYPE_CHECKING:
    from torch import Tensor

Back = Callable[["Tensor"], "Tensor"]

FIXED = 0  # key of the random draws if the caller gives none


class Defence(Strict):
    """A change of windows in [0, 1] before a network sees them.

    Class attributes of a defence:
        is_random: True if it draws random numbers; otherwise the same window always gives the same result.
        is_smooth: True if autograd's gradient through it is the true one and all that an attacker needs.
        votes: True if it predicts a volume by a vote over many predictions.
        revision: raised by hand when a change alters results, so that old rows are computed anew.
    """

    is_random: ClassVar[bool] = False
    is_smooth: ClassVar[bool] = False
    votes: ClassVar[bool] = False
    revision: ClassVar[int] = 1

    name: str

    def transform(self, images: "Tensor") -> "Tensor":
        """Returns what the network sees of images, windows `[B, C, h, w, d]` in [0, 1]: others of the same shape. For a
        defence without random draws."""
        raise NotImplementedError

    def defend(self, images: "Tensor", seeds: Sequence[int], adaptive: bool) -> tuple["Tensor", Back]:
        """Returns the windows `[B, C, h, w, d]` that the network sees, and the map of its logits back to their grid.

        Args:
            images: windows `[B, C, h, w, d]` in [0, 1].
            seeds: one seed per window, for its draws.
            adaptive: True replaces the gradient of a `transform` that is not smooth by the identity (BPDA; Athalye et
                al., ICML 2018, arXiv:1802.00420), which serves an attacker.
        """
        if adaptive and not self.is_smooth:
            return self.transform(images.detach()) + (images - images.detach()), keep_logits
        return self.transform(images), keep_logits

    @property
    def draws(self) -> int:
        """Network passes per window for each gradient of an adaptive attacker: `eot` of a random defence."""
        return int(getattr(self, "eot", 1))

    @property
    def predictions(self) -> int:
        """Sliding windows over the whole volume that one prediction takes."""
        return 1

    def identity(self) -> Mapping[str, Any]:
        """Returns name, revision and the parameters that differ from their default, for digests."""
        stated = {"revision": self.revision, **self.model_dump(exclude_defaults=True), "name": self.name}
        return stated | provenance(type(self))


def draw_seed(*parts: int | str) -> int:
    """Returns a seed that depends on these parts and nothing else."""
    return int(digest(["defence", *parts]), 16) >> 1


def keep_logits(logits: "Tensor") -> "Tensor":
    """Returns logits that lie on the grid of the windows already."""
    return logits
