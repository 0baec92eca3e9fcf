"""Attacks one case, without files, processes or a grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.attacks import Attack
from freqbench.core.errors import UserError
from freqbench.core.identity import window_generator
from freqbench.core.types import Case, triple
from freqbench.models import SegmentationModel, SlidingWindowModel, attack_windows

INTENSITY_BUDGETS = ("linf", "gaussian")
TOLD = (
    *("num_windows", "num_forwards", "num_backwards"),
    *("displacement_mean_mm", "displacement_max_mm", "jacobian_min", "caution"),
)
"""Of AttackedVolume, and columns of RECORDS."""


@dataclass(frozen=True, kw_only=True)
class AttackedVolume:
    """An adversarial volume, what it took and how far it was moved; numbers are None where the volume was made
    elsewhere, those of the displacement where nothing was moved too."""

    adversarial: Tensor  # float32 [C, H, W, D] in [0, 1], on the CPU
    num_windows: int | None  # that were attacked, or by which a volume attacked as one was predicted
    num_forwards: int | None  # passes of the network over all windows; each draw of a random defence is one
    num_backwards: int | None
    displacement_mean_mm: float | None = None
    displacement_max_mm: float | None = None
    jacobian_min: float | None = None
    caution: str | None = None  # why the volume says little of the model; None: nothing is known against it
    losses: tuple[Tensor, ...] = ()  # as of an AttackResult, of each call of the attack in turn
    label: Tensor | None = None  # uint8 [1, H, W, D], the case's as the volume shows it; None: where the case has it

    @property
    def told(self) -> dict[str, Any]:
        """The columns of TOLD."""
        return {name: getattr(self, name) for name in TOLD}

    def shown(self, case: Case) -> Case:
        """The case with the label that a prediction of the volume is held against."""
        return case if self.label is None else replace(case, label=self.label)


def attack_case(
    attack: Attack,
    model: SegmentationModel,
    case: Case,
    seed: int | None,
    window_batch: int,
    reference: Case | None = None,
    learned: Tensor | None = None,
    surrogates: Sequence[SegmentationModel] = (),
) -> AttackedVolume:
    """Attack a volume window by window, or as one through the model's sliding window (`scope: volume`).

    Every window starts from the clean volume and has a generator of its own (from the seed, the case's content and the
    window's number), so the result does not depend on `window_batch` beyond rounding, for attacks that do not couple
    the samples of a batch. Where the last windows overlap their neighbours, the later one overwrites. A volume that is
    attacked as one has the generator of its first window; where it is a single window, the two are the same.

    The model is on the device to compute on, `seed` is None where the attack draws nothing. `reference`, `learned` and
    `surrogates` are what the attack needs: another case, which is stretched to the volume's shape, what it learned, and
    models on the same device. Passes are those of `model` alone. Where one of the models takes prompts, those of the
    case's label, windows are attacked one by one, unless the attack couples them.
    """
    attack = attack.on_grid(case.spacing)
    model, *surrogates = (each.for_case(case) for each in (model, *surrogates))
    if not attack.couples_batch and any(each.takes_prompts for each in (model, *surrogates)):
        window_batch = 1
    device = next(model.parameters()).device
    image, label = case.image.to(device), case.label.to(device)
    shape = triple(image.shape[1:])
    windows = attack_windows(shape, model.roi)
    generators = partial(window_generator, seed or 0, case.ref.fingerprint)
    if attack.attacks_volume and len(windows) > 1:
        whole, *others = (SlidingWindowModel(each, window_batch) for each in (model, *surrogates))
        result = attack(whole, image[None], label[None], generator=generators(0), learned=learned, surrogates=others)
        return AttackedVolume(
            adversarial=result.adversarial[0].cpu(),
            num_windows=len(whole.windows(image[None])),
            num_forwards=whole.num_forwards,
            num_backwards=whole.num_backwards,
            caution=caution_of(model.name, [result.gradients], learned),
            losses=(result.losses.cpu(),),
            label=result.labels[0].cpu() if attack.moves_labels else None,
            **attack.displacement(image[None], result.state),
        )
    other = None
    if reference is not None:
        other = F.interpolate(reference.image[None].to(device), size=shape, mode="trilinear", align_corners=True)[0]
    adversarial, moved = image.clone(), label.clone()
    num_forwards = num_backwards = 0
    losses: list[Tensor] = []
    gradients: list[Tensor] = []
    displacement: Mapping[str, float] = {}
    for first in range(0, len(windows), window_batch):
        batch = windows[first : first + window_batch]
        result = attack(
            model.on(batch),
            _cut(image, batch),
            _cut(label, batch),
            generator=[generators(first + i) for i in range(len(batch))],
            reference=None if other is None else _cut(other, batch),
            learned=learned,
            surrogates=[each.on(batch) for each in surrogates],
        )
        for (h, w, d), window, shown in zip(batch, result.adversarial, result.labels, strict=True):
            adversarial[:, h, w, d], moved[:, h, w, d] = window, shown
        num_forwards += model.passes * sum(result.forwards)
        num_backwards += model.passes * sum(result.backwards)
        losses.append(result.losses)
        gradients.append(result.gradients)
        if attack.attacks_volume:
            displacement = attack.displacement(image[None], result.state)
    return AttackedVolume(
        adversarial=adversarial.cpu(),
        num_windows=len(windows),
        num_forwards=num_forwards,
        num_backwards=num_backwards,
        caution=caution_of(model.name, gradients, learned),
        losses=tuple(each.cpu() for each in losses),
        label=moved.cpu() if attack.moves_labels else None,
        **displacement,
    )


def caution_of(name: str, gradients: Sequence[Tensor], learned: Tensor | None = None) -> str | None:
    """Says why an attack on a model may have done nothing. None: its gradients were of use, or it takes none.

    A zero gradient is said and not refused: a network that is sure of every voxel has one, and so has a masked one, of
    which the audit is to see the rows. A gradient of NaN says nothing of any network.

    Args:
        gradients: `AttackResult.gradients` of each call.
        learned: what the attack follows in place of gradients of its own.

    Raises:
        UserError: no gradient had an entry that is finite and not 0, and some had NaN or infinities.
    """
    useful, finite = torch.cat([each.cpu() for each in gradients]).unbind(1)
    if not len(useful):
        return "every gradient was 0: the attack learned nothing" if learned is not None and not learned.any() else None
    if useful.any():
        return (
            None if finite.all() else "some gradients had NaN or infinities: the attack took these voxels for settled"
        )
    if not finite.all():
        raise UserError(
            f"{name}: expected finite gradients of the network, got NaN or infinities at every step: check its "
            "checkpoint, input and precision"
        )
    return "every gradient was 0: the attack had nothing to follow"


def _cut(volume: Tensor, windows: Sequence[tuple[slice, slice, slice]]) -> Tensor:
    return torch.stack([volume[:, h, w, d] for h, w, d in windows])


def native_budget(attack: Attack, case: Case) -> float | None:
    """The budget in the data's own unit (HU for CT) where it bounds intensities, and those of all channels alike."""
    if attack.budget_name is None or attack.threat_model not in INTENSITY_BUDGETS:
        return None
    widths = {high - low for low, high in case.native_ranges}
    return float(getattr(attack, attack.budget_name)) * widths.pop() if len(widths) == 1 else None
