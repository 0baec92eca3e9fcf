"""Lets an attack learn once from the cases of its cell, and keeps the result: `learned/CELL_ID.safetensors`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from freqbench.attacks import Attack
from freqbench.core.errors import UserError, one_line
from freqbench.core.files.kept import Kept
from freqbench.core.identity import window_generator
from freqbench.core.plugins import kind_of
from freqbench.core.types import Case
from freqbench.engine import memory
from freqbench.models import SegmentationModel, SlidingWindowModel
from freqbench.models.defences.detectors import Detector, Watch

LEARNED = "learned"

Load = Callable[[], Case]


def learn(
    attack: Attack, model: SegmentationModel, cases: Sequence[Load], seed: int | None, windows: int, kept: int = 0
) -> Tensor:
    """Lets an attack learn from cases, each read when its turn comes; the result is on the model's device.

    Args:
        attack: the attack.
        model: the network, on the device to compute on.
        cases: what reads each case.
        seed: seed of the draws, the same for all cases; None if the attack draws nothing.
        windows: windows of a volume at once, or fewer if these do not fit.
        kept: windows whose graphs are kept, as in SlidingWindowModel.
    """
    device = next(model.parameters()).device

    def run(windows: int) -> Tensor:
        generator = window_generator(seed or 0, LEARNED, 0)
        learner = _AsPredicted(SlidingWindowModel(model, windows, kept))
        window = model.for_case(cases[0]()).roi if cases else model.roi  # of the first volume, whose axes it may follow
        return attack.learn(learner, _OnDevice(cases, device, learner.turn_to), window, generator)

    learned, _ = memory.fit_memory(run, windows)
    if not isinstance(learned, Tensor):
        raise UserError(f"{attack.name}: expected a tensor from `learn`, got {kind_of(learned)}: return the tensor")
    return learned


def watch(detector: Detector, model: SegmentationModel, cases: Sequence[Load]) -> Watch:
    """Lets a detector see clean cases, each read when its turn comes, and predicted by `model`; UserError if they are
    too few."""
    clean: list[Tensor] = []
    device = next(model.parameters()).device
    for read in cases:
        case = read()
        volume = case.image[None].to(device)
        network = SlidingWindowModel(model.for_case(case))
        with torch.no_grad():
            clean.append(detector.features(volume, network.logits(volume), network))
    return Watch.learn(detector, clean)


def read_unsealed(attack: Attack, num_channels: int, path: str, content: bytes) -> Tensor:
    """Returns the tensor in the `content` of a file of an earlier release, at `path`; raises UserError if the attack
    cannot have learned it of volumes of `num_channels`."""
    try:
        learned: Tensor = load(content)[LEARNED]
        attack.check_learned(learned, num_channels)
    except (SafetensorError, KeyError, UserError) as error:
        expected = f"expected a tensor that {attack.name} learned"
        raise UserError(f"{path}: {expected}, got another file ({one_line(error)}): remove it") from None
    return learned


TENSORS = Kept[Tensor](  # of two workers at a time the first file counts: they are equal on one kind of device
    name="learned tensor",
    depends=("cell", "libraries"),
    most=1 << 30,
    place="{cell}.safetensors",
    pack=lambda learned: (None, {LEARNED: learned.contiguous()}),
    unpack=lambda _, tensors: tensors[LEARNED],
)


@dataclass(frozen=True)
class _OnDevice:
    """Images and labels, read anew at each iteration to hold one case at a time; `tell` gets each case first."""

    cases: Sequence[Load]
    device: torch.device
    tell: Callable[[Case], None]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for read in self.cases:
            case = read()
            self.tell(case)
            yield case.image.to(self.device), case.label.to(self.device)


class _AsPredicted(nn.Module):
    """A model of whole volumes: the model itself if one window holds the volume, else its sliding window."""

    def __init__(self, sliding: SlidingWindowModel) -> None:
        super().__init__()
        self.model = sliding.model
        self.sliding = sliding

    def turn_to(self, case: Case) -> None:
        self.model = self.sliding.model = self.model.for_case(case)

    @property
    def takes_keys(self) -> bool:
        return self.model.takes_keys

    def forward(self, images: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        logits: Tensor = (self.model if len(self.sliding.windows(images)) == 1 else self.sliding)(images, keys)
        return logits
