"""Examines a network on a few windows, mends what it returns where it can, and keeps outcomes. A network of other
people may draw at test time, mix the windows of a batch, or return probabilities: no error, but spoilt numbers."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from freqbench.core.config import Strict
from freqbench.core.errors import UserError, one_line
from freqbench.core.files.kept import Kept
from freqbench.core.types import Outputs
from freqbench.models.entry import Yields
from freqbench.ops.heads import SIGMOID

K = TypeVar("K", bound=Strict)

PROBABILITIES: Yields = "probabilities"
MENDED = {
    PROBABILITIES: "it returns probabilities: their logarithm is taken for logits, so that a softmax gives them back",
    "singly": (
        "its output for a window depends on the other windows of its batch (batch statistics): windows pass one by one"
    ),
}
_SMALLEST = 1e-30
"""Added to a probability before its logarithm: 0 becomes -69, with a finite gradient, and from 1e-22 on float32 rounds
the sum to the probability itself."""
# of the largest logit; half precision rounds otherwise in another batch
_ALIKE = 1e-3
_ALIKE_HALF = 2e-2


class Examination(Strict):
    """Result of an examination."""

    fault: str | None = None  # why the network cannot be attacked; None: it can
    yields: Yields = "logits"  # `probabilities` of outputs in [0, 1] that add up to 1, whose logarithm is a logit
    singly: bool = False  # its output for a window depends on the rest of the batch
    caution: str | None = None  # what makes its rows say little; None: nothing known

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines on what is mended, and the caution."""
        mended = [MENDED["singly"]] if self.singly else []
        mended += [MENDED[PROBABILITIES]] if self.yields == PROBABILITIES else []
        return (*mended, *([self.caution] if self.caution else []))


class UnfitError(Exception):
    """Raised inside an examination by what ends it."""


def windows(channels: int, roi: Sequence[int]) -> Tensor:
    """Returns two windows `[2, channels, *roi]` in [0, 1]: noise, and darker noise around a bright box."""
    images = torch.rand(2, channels, *roi, generator=torch.Generator().manual_seed(5))
    images[1] *= 0.25
    h, w, d = (slice(side // 4, side - side // 4) for side in roi)
    images[1, :, h, w, d] += 0.5
    return images


@torch.no_grad()
def examine(net: nn.Module, inputs: Tensor, num_classes: int, head: Outputs = "softmax") -> Examination:
    """Examines a bare network in evaluation mode by four passes of one of the two `windows`, five if it seems to return
    probabilities.

    Args:
        net: the bare network.
        inputs: the two `windows` as the network takes them, on its device.
        num_classes: outputs that it should have, of exclusive classes with the background's.
        head: `sigmoid`: probabilities are of regions, and need not add up to 1.
    """
    try:
        buffers = [buffer.clone() for buffer in net.buffers()]
        one = inputs[:1]
        first = _logits(net, one, num_classes)
        if not first.isfinite().all():
            raise UnfitError(
                "expected finite logits, got NaN or infinities: check its weights and the input that it expects"
            )
        again = _logits(net, one, num_classes)
        if any(not torch.equal(*pair) for pair in zip(buffers, net.buffers(), strict=True)):
            raise UnfitError(
                "expected parameters and buffers as they were after a pass, got others: save it in evaluation mode"
            )
        if not _are_alike(first, again):
            raise UnfitError(
                "expected equal logits of one window in two passes, got others: it draws at test time (dropout, or a "
                "module in training mode): switch the draws off, or save it in evaluation mode"
            )
        try:
            both = _logits(net, inputs, num_classes)
            singly = not _are_alike(both[:1], first)
        except UnfitError:  # a graph for a batch of one
            singly = True
        other = _logits(net, inputs[1:], num_classes) if singly else both[1:]
        if torch.equal(first, other):
            return Examination(singly=singly, caution="its output does not depend on the volume")
        # Also of an input far out of its range, which logits would follow.
        outputs = first, other, _logits(net, 20 * one - 10, num_classes)
        if all(float(values.min()) >= 0 and float(values.max()) <= 1 + 1e-6 for values in outputs):
            if all(bool(((values == 0) | (values == 1)).all()) for values in (first, other)):
                raise UnfitError(
                    "expected logits, got 0 and 1 alone, as labels have no gradient: return the logits before"
                )
            sums = torch.cat([first, other]).float().sum(dim=1)
            slack = 0.01 if first.dtype in (torch.float16, torch.bfloat16) else 1e-3
            if head == "softmax" and (sums - 1).abs().max() > slack:
                raise UnfitError(
                    "expected logits, got numbers in [0, 1] that do not add up to 1 over classes, as sigmoids of "
                    "classes that overlap: return the logits before, and set outputs: sigmoid for a dataset of regions"
                )
            return Examination(yields="probabilities", singly=singly)
        return Examination(singly=singly)
    except UnfitError as fault:
        return Examination(fault=str(fault))


def _logits(net: nn.Module, inputs: Tensor, num_classes: int) -> Tensor:
    """Returns the logits of a pass; raises UnfitError for an error, another type or another shape."""
    size = "x".join(map(str, inputs.shape[1:]))
    given = inputs.clone()
    try:
        logits = net(given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a third-party network may raise anything
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise UserError(f"two windows of {size} do not fit into memory: take a smaller roi") from error
        raise UnfitError(f"a window of {size} does not pass through it: {one_line(error)}") from error
    shape = (len(inputs), num_classes, *inputs.shape[2:])
    if not isinstance(logits, Tensor):
        raise UnfitError(f"expected a tensor of logits, got {type(logits).__name__}: return one tensor")
    if tuple(logits.shape) != shape:
        raise UnfitError(
            f"expected logits of shape {shape}, got {tuple(logits.shape)}: check classes, channels and window"
        )
    if not torch.equal(given, inputs):
        raise UnfitError("expected a network that leaves its input as it is, got one that writes into it: copy it")
    return logits


def _are_alike(one: Tensor, other: Tensor) -> bool:
    share = _ALIKE_HALF if one.dtype in (torch.float16, torch.bfloat16) else _ALIKE
    return bool((one - other).abs().max() <= share * other.abs().max())


class LogitsOfProbabilities(nn.Module):
    r"""Returns logits of a network that returns probabilities p, in float32 at least. Of exclusive classes
    :math:`\log(p + 10^{-30})`, of regions :math:`\log p - \log (1 - p)`."""

    def __init__(self, net: nn.Module, head: Outputs) -> None:
        super().__init__()
        self.net = net
        self._head = head

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, windows `[B, C, h, w, d]`, to logits `[B, K, h, w, d]`."""
        probabilities: Tensor = self.net(images)
        exact = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
        return (exact + _SMALLEST).log() if self._head == "softmax" else SIGMOID.logits_of(exact)


class OneByOne(nn.Module):
    """Passes the windows of a batch through a network one by one, as it mixes them otherwise."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, windows `[B, C, h, w, d]`, to logits `[B, K, h, w, d]`."""
        return torch.cat([self.net(image) for image in torch.split(images, 1)])


def mend(net: nn.Module, yields: Yields, singly: bool, head: Outputs = "softmax") -> nn.Module:
    """Returns a network that returns logits, each window's by itself; the same `net` if it does already. `yields` is
    what it returns now, `singly` if its output depends on the batch, `head` the way in which outputs are classes."""
    net = OneByOne(net) if singly else net
    return LogitsOfProbabilities(net, head) if yields == PROBABILITIES else net


def outcomes(name: str, kind: type[K], *depends: str) -> Kept[K]:
    """Returns the keeper of the outcomes of a check of networks, in the node's cache, under its `name`; outcomes are of
    the class `kind`, and depend on the facts named `depends`."""
    return Kept(
        name=name,
        depends=(*depends, "limits", "code", "libraries"),
        place="networks/{key}.json",
        pack=lambda outcome: (outcome.model_dump(), {}),
        unpack=lambda facts, _: kind.model_validate(facts),
    )


EXAMINATIONS = outcomes("network's examination", Examination, "model")
