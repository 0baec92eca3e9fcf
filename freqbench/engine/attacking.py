"""Attacks one case, without files, processes or a grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.attacks import Attack
from freqbench.attacks.core.norms import RMS_BUDGETS
from freqbench.core.config import Strict
from freqbench.core.errors import UserError
from freqbench.core.identity import window_generator
from freqbench.core.types import Case, triple
from freqbench.models import JointModel, SegmentationModel, SlidingWindowModel, assemble, attack_windows
from freqbench.models.inference import Window

INTENSITY_BUDGETS = ("linf", "gaussian")


class AttackFacts(Strict):
    """Cost, displacement and smallest change of an adversarial volume, which are also columns of RECORDS. Numbers are
    None for a volume made elsewhere; those of NOT_MEASURED are also None if the attack does not state them."""

    num_windows: int | None  # attacked windows; for a volume attacked as one, the windows of its prediction
    num_forwards: int | None  # passes over all windows; each draw of a random defence counts as one
    num_backwards: int | None
    displacement_mean_mm: float | None
    displacement_max_mm: float | None
    jacobian_min: float | None
    smallest_linf: float | None = None  # of files written before there were such attacks
    smallest_l2: float | None = None
    caution: str | None  # why the volume says little about the model; None: no known reason


UNKNOWN = AttackFacts.model_validate(dict.fromkeys(AttackFacts.model_fields))
NOT_MEASURED: dict[str, float | None] = dict.fromkeys(
    ("displacement_mean_mm", "displacement_max_mm", "jacobian_min", "smallest_linf", "smallest_l2")
)


@dataclass(frozen=True, kw_only=True)
class AttackedVolume:
    """An adversarial volume and its facts."""

    adversarial: Tensor  # float32 [C, H, W, D] in [0, 1], on the CPU
    facts: AttackFacts = UNKNOWN
    losses: tuple[Tensor, ...] = ()  # as in AttackResult, one tensor per call of the attack
    label: Tensor | None = None  # uint8 [1, H, W, D], the label moved with the volume; None: the case's own

    def relabel(self, case: Case) -> Case:
        """Returns the case with the label that predictions of the volume are compared with."""
        return case if self.label is None else replace(case, label=self.label)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Needs of an attack beside a case and a model: another case, a learned tensor, surrogates."""

    reference: Case | None = None
    learned: Tensor | None = None
    surrogates: Sequence[SegmentationModel] = ()


NOTHING = Needs()


def attack_case(
    attack: Attack,
    model: SegmentationModel,
    case: Case,
    seed: int | None,
    window_batch: int,
    needs: Needs = NOTHING,
    kept: int = 0,
) -> AttackedVolume:
    """Attacks a volume by the attack's `scope`: `window` by window; the `volume` as one, or all its windows at once,
    each with a state of its own (`joint`), through the model's sliding window. Every window starts from the clean
    volume and has its own generator (from seed, case and number), so `window_batch` changes rounding alone, unless the
    attack couples a batch's samples; where windows overlap, the later one overwrites. Models that tell windows apart
    (`has_place`) get them one by one. The model is on the device to compute on, as are surrogates; the other case of
    `needs` is stretched to the volume; `seed` is None if the attack draws nothing. Passes count `model` alone."""
    attack = attack.on_grid(case.spacing)
    model, *surrogates = (network.for_case(case) for network in (model, *needs.surrogates))
    learned = needs.learned
    if not attack.couples_batch and any(network.has_place for network in (model, *surrogates)):
        window_batch = 1
    windows = attack_windows(triple(case.image.shape[1:]), model.roi)
    generators = [window_generator(seed or 0, case.ref.fingerprint, number) for number in range(len(windows))]
    is_joint = attack.scope == "joint"
    device = next(model.parameters()).device
    image = case.image.to(device)
    label = case.label.to(device)
    if is_joint or (attack.attacks_volume and (len(windows) > 1 or model.watch)):
        sliding, *others = (
            JointModel(each, windows, window_batch, kept) if is_joint else SlidingWindowModel(each, window_batch, kept)
            for each in (model, *surrogates)
        )
        whole = image[None]
        sliding.allow(image)
        result = attack(
            sliding,
            _cut(image, windows) if is_joint else whole,
            label[None],
            generator=generators if is_joint else generators[0],
            learned=learned,
            surrogates=others,
        )
        made = assemble(result.adversarial, windows) if is_joint else result.adversarial
        moved = result.labels[0] if attack.moves_labels else None
        return _finish(
            case,
            AttackedVolume(adversarial=made[0], losses=(result.losses.cpu(),), label=moved),
            attack.measured(whole, result.state),
            num_windows=len(sliding.windows(whole)),
            num_forwards=sliding.num_forwards,
            num_backwards=sliding.num_backwards,
            caution=caution_of(model.name, [result.gradients], learned),
        )
    other = None
    if needs.reference is not None:
        images = needs.reference.image[None].to(device)
        shape = image.shape[1:]
        other = F.interpolate(images, size=shape, mode="trilinear", align_corners=True)[0]
    adversarial = image.clone()
    moved = label.clone()
    forwards = 0
    backwards = 0
    measured = dict[str, float]()
    losses = list[Tensor]()
    gradients = list[Tensor]()
    for first in range(0, len(windows), window_batch):
        batch = windows[first : first + window_batch]
        result = attack(
            model.cut(batch),
            _cut(image, batch),
            _cut(label, batch),
            generator=generators[first : first + window_batch],
            reference=None if other is None else _cut(other, batch),
            learned=learned,
            surrogates=[network.cut(batch) for network in surrogates],
        )
        for (h, w, d), window, shown_label in zip(batch, result.adversarial, result.labels, strict=True):
            adversarial[:, h, w, d] = window
            moved[:, h, w, d] = shown_label
        forwards += sum(result.forwards)
        backwards += sum(result.backwards)
        losses.append(result.losses.cpu())
        gradients.append(result.gradients)
        for name, value in attack.measured(_cut(image, batch), result.state).items():
            measured[name] = max(value, measured.get(name, value))  # of smallest changes, that of the hardest window
    return _finish(
        case,
        AttackedVolume(adversarial=adversarial, losses=tuple(losses), label=moved if attack.moves_labels else None),
        measured,
        num_windows=len(windows),
        num_forwards=model.passes * forwards,
        num_backwards=model.passes * backwards,
        caution=caution_of(model.name, gradients, learned),
    )


def _finish(case: Case, made: AttackedVolume, measured: Mapping[str, float], **facts: Any) -> AttackedVolume:
    """Returns an attacked volume on the CPU with its facts; a smallest change that was not found is None."""
    adversarial = made.adversarial.cpu()
    fixed = case.prepared.fixed if case.prepared else None
    # Voxels that the network's own pipeline fills are not an attack's to move.
    adversarial = adversarial if fixed is None else torch.where(fixed, case.image, adversarial)
    facts |= NOT_MEASURED | {name: value if math.isfinite(value) else None for name, value in measured.items()}
    label = None if made.label is None else made.label.cpu()
    return replace(made, adversarial=adversarial, label=label, facts=AttackFacts(**facts))


def caution_of(name: str, gradients: Sequence[Tensor], learned: Tensor | None = None) -> str | None:
    """Explains why an attack may have done nothing. None: its `gradients` (`AttackResult.gradients` of each call) were
    useful, or it takes none and uses `learned`. A zero gradient is reported, and not refused: masked networks have it.
    Raises UserError if no gradient had a finite entry other than 0, and some had NaN or infinities."""
    useful, finite = torch.cat([flags.cpu() for flags in gradients]).unbind(1)
    if not len(useful):
        return "every gradient was 0: the attack learned nothing" if learned is not None and not learned.any() else None
    if useful.any() and finite.all():
        return None
    if useful.any():
        return "some gradients had NaN or infinities: the attack took these voxels for settled"
    if finite.all():
        return "every gradient was 0: the attack had nothing to follow"
    raise UserError(
        f"{name}: expected finite gradients of the network, got NaN or infinities at every step: check its "
        "checkpoint, input and precision"
    )


def _cut(volume: Tensor, windows: Sequence[Window]) -> Tensor:
    return torch.stack([volume[:, h, w, d] for h, w, d in windows])


def native_budget(attack: Attack, case: Case) -> float | None:
    """Returns the budget in the data's own unit (HU for CT), if it bounds the intensities of all channels equally."""
    is_rms = attack.threat_model == "l2" and attack.budget_name in RMS_BUDGETS
    if attack.budget_name is None or not (is_rms or attack.threat_model in INTENSITY_BUDGETS):
        return None
    widths = {high - low for low, high in case.native_ranges}
    same = len(widths) == 1 and math.isfinite(max(widths))
    return float(getattr(attack, attack.budget_name)) * widths.pop() if same else None
