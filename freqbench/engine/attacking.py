"""Attacks one case, without files, processes or a grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.attacks import Attack
from freqbench.attacks.core.attack import AttackResult
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


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A case as its attack sees it: volumes on the device, and the windows, each with its generator."""

    case: Case
    by: str  # name of the attacked model
    image: Tensor  # float32 [C, H, W, D] in [0, 1]
    label: Tensor  # uint8 [1, H, W, D]
    windows: Sequence[Window]
    generators: Sequence[torch.Generator]
    learned: Tensor | None  # as in Needs


def attack_case(
    attack: Attack,
    model: SegmentationModel,
    case: Case,
    seed: int | None,
    window_batch: int,
    needs: Needs = NOTHING,
    kept: int = 0,
) -> AttackedVolume:
    """Attacks a volume by the attack's `scope`.

    `window`: window by window; `volume`: as one, through the model's sliding window; `joint`: all windows at once, each
    with its own state, through the sliding window over the volume that they make. Every window starts from the clean
    volume and has its own generator (from the seed, the case's content and the window's number), so the result does not
    depend on `window_batch` beyond rounding, unless the attack couples the samples of a batch. Where windows overlap,
    the later one overwrites. Models that tell windows apart (`has_place`) get them one by one. Voxels that the own
    pipeline of the network fills stay as they are.

    Args:
        attack: the attack, with its parameters in millimetres or voxels as the job states them.
        model: the attacked network, on the device to compute on. Passes count it alone.
        case: the case, on the grid that the network sees.
        seed: seed of all draws; None if the attack draws nothing.
        window_batch: windows that are attacked, or predicted, at once.
        needs: further needs of the attack; its other case is stretched to the volume's shape, and its surrogates are on
            the device of `model`.
        kept: windows whose graphs a step on a whole volume keeps; it runs the others forward twice.
    """
    attack = attack.on_grid(case.spacing)
    networks = [network.for_case(case) for network in (model, *needs.surrogates)]
    model, *surrogates = networks
    if not attack.couples_batch and any(network.has_place for network in networks):
        window_batch = 1
    shown = _shown(case, model, seed, needs)
    if attack.scope == "joint":
        joint = [JointModel(network, shown.windows, window_batch, kept) for network in networks]
        return _attack_prediction(attack, joint, shown, _cut(shown.image, shown.windows), shown.generators)
    if attack.attacks_volume and (len(shown.windows) > 1 or model.watch):
        sliding = [SlidingWindowModel(network, window_batch, kept) for network in networks]
        return _attack_prediction(attack, sliding, shown, shown.image[None], shown.generators[0])
    other = None if needs.reference is None else _stretched(needs.reference, shown.image)
    attacked = _AttackedWindows(shown)
    for first in range(0, len(shown.windows), window_batch):
        of_batch = slice(first, first + window_batch)
        batch = shown.windows[of_batch]
        clean = _cut(shown.image, batch)
        result = attack(
            model.cut(batch),
            clean,
            _cut(shown.label, batch),
            generator=shown.generators[of_batch],
            reference=None if other is None else _cut(other, batch),
            learned=shown.learned,
            surrogates=[network.cut(batch) for network in surrogates],
        )
        attacked.add(batch, result, attack.measured(clean, result.state))
    return attacked.whole(attack.moves_labels, model.passes)


def _shown(case: Case, model: SegmentationModel, seed: int | None, needs: Needs) -> _Shown:
    windows = attack_windows(triple(case.image.shape[1:]), model.roi)
    device = next(model.parameters()).device
    generators = [window_generator(seed or 0, case.ref.fingerprint, number) for number in range(len(windows))]
    return _Shown(
        case=case,
        by=model.name,
        image=case.image.to(device),
        label=case.label.to(device),
        windows=windows,
        generators=generators,
        learned=needs.learned,
    )


def _stretched(reference: Case, image: Tensor) -> Tensor:
    """Returns another case's image `[C, H, W, D]` in the shape of `image`, on its device."""
    images = reference.image[None].to(image.device)
    return F.interpolate(images, size=image.shape[1:], mode="trilinear", align_corners=True)[0]


def _attack_prediction(
    attack: Attack,
    networks: Sequence[SlidingWindowModel],
    shown: _Shown,
    images: Tensor,
    generator: torch.Generator | Sequence[torch.Generator],
) -> AttackedVolume:
    """Attacks a volume through its prediction: all its windows in `images` `[W, C, h, w, d]` at once, or it as one."""
    model, *surrogates = networks
    whole = shown.image[None]
    label = shown.label[None]
    model.allow(shown.image)
    result = attack(model, images, label, generator=generator, learned=shown.learned, surrogates=surrogates)
    adversarial = assemble(result.adversarial, shown.windows) if isinstance(model, JointModel) else result.adversarial
    moved = result.labels[0] if attack.moves_labels else None
    made = AttackedVolume(adversarial=adversarial[0], losses=(result.losses.cpu(),), label=moved)
    return _finish(
        shown.case,
        made,
        attack.measured(whole, result.state),
        num_windows=len(model.windows(whole)),
        num_forwards=model.num_forwards,
        num_backwards=model.num_backwards,
        caution=caution_of(shown.by, [result.gradients], shown.learned),
    )


class _AttackedWindows:
    """The volume that windows make which are attacked on their own, and what was measured of them."""

    def __init__(self, shown: _Shown) -> None:
        self.shown = shown
        self.adversarial = shown.image.clone()
        self.moved = shown.label.clone()
        self.forwards = 0
        self.backwards = 0
        self.losses: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.measured: dict[str, float] = {}

    def add(self, batch: Sequence[Window], result: AttackResult, measured: Mapping[str, float]) -> None:
        """Puts the windows of a batch into the volume; of smallest changes, that of the hardest window counts."""
        for (h, w, d), window, shown_label in zip(batch, result.adversarial, result.labels, strict=True):
            self.adversarial[:, h, w, d] = window
            self.moved[:, h, w, d] = shown_label
        self.forwards += sum(result.forwards)
        self.backwards += sum(result.backwards)
        self.losses.append(result.losses.cpu())
        self.gradients.append(result.gradients)
        for name, value in measured.items():
            self.measured[name] = max(value, self.measured.get(name, value))

    def whole(self, moves_labels: bool, passes: int) -> AttackedVolume:
        """Returns the volume with its facts; `passes` are those of a network for one of the attack's."""
        moved = self.moved if moves_labels else None
        return _finish(
            self.shown.case,
            AttackedVolume(adversarial=self.adversarial, losses=tuple(self.losses), label=moved),
            self.measured,
            num_windows=len(self.shown.windows),
            num_forwards=passes * self.forwards,
            num_backwards=passes * self.backwards,
            caution=caution_of(self.shown.by, self.gradients, self.shown.learned),
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
    """Explains why an attack on the model `name` may have done nothing. None: its `gradients` (`AttackResult.gradients`
    of each call) were useful, or it takes none and uses `learned`. A zero gradient is reported, and not refused: masked
    networks have it. Raises UserError if no gradient had a finite entry other than 0, and some had NaN or infinities.
    """
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
    """Returns the budget of an attack in the data's own unit (HU for CT), by the `native_ranges` of a case. None unless
    it bounds the intensities of all channels equally."""
    budget_name = attack.budget_name
    is_rms = attack.threat_model == "l2" and budget_name in RMS_BUDGETS
    if budget_name is None or not (is_rms or attack.threat_model in INTENSITY_BUDGETS):
        return None
    widths = {high - low for low, high in case.native_ranges}
    same = len(widths) == 1 and math.isfinite(max(widths))
    return float(getattr(attack, budget_name)) * widths.pop() if same else None
