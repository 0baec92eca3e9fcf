"""Defines the training of a network: lists of cases, steps, augmentation, consistency, and validation.

The defaults are the papers' training (Hanif et al., MICCAI 2023, arXiv:2307.07269) counted in optimizer steps for the
18 training volumes of Synapse: 5000 epochs, 50 of them warm-up, validation every 100.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from freqbench.core.config import Strict
from freqbench.job.sweep import AttackEntry

BatchSize = Annotated[PositiveInt, Field(le=4096)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Splits(Strict):
    """The dataset's lists for learning, for choosing the best weights, and for measuring once at the end.

    `selected_on_test` lets `select` and `test` share cases, as in the papers, which have two lists: the figure on
    `test` is then flattered, and the record of the weights says so.
    """

    train: str
    select: str
    test: str
    selected_on_test: bool = False


class Augmentation(Strict):
    """Probabilities of the random changes of a crop.

    Attributes:
        flip: probability of mirroring, on each axis; three values for axes that differ (anatomy with a left and a right
            side).
        rotate90: probability of one to three quarter turns in the first two axes; ignored if the ROI is not square
            there.
        scale_intensity: probability of multiplying by a factor from [0.9, 1.1].
        shift_intensity: probability of adding an offset from [-0.1, 0.1].
    """

    flip: Probability | tuple[Probability, Probability, Probability] = 0.2
    rotate90: Probability = 0.2
    scale_intensity: Probability = 0.1
    shift_intensity: Probability = 0.1


class Schedule(Strict):
    """Duration and speed of one network's training.

    Attributes:
        steps: optimizer steps.
        batch_size: crops per step.
        lr: learning rate at the end of the warm-up.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps of linear rise before the cosine decay to zero.
        validate_every: steps between two validations; one more follows at the end.
        max_minutes: stop at the next step after this many minutes of training; the learning rate follows `steps`
            anyway.
        accumulate: number of parts in which a step's crops pass through the network, if they do not fit at once.
        clip_norm: limit of the gradient's L2 norm; None: no limit.
        precision: precision of the network: `bf16` under autocast, `fp32`, or `auto`: bf16 on CUDA.
    """

    steps: PositiveInt = 90_000
    batch_size: BatchSize = 4
    lr: PositiveFloat = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 900
    validate_every: PositiveInt = 1800
    max_minutes: PositiveFloat | None = None
    accumulate: PositiveInt = 1
    clip_norm: PositiveFloat | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class FrequencyConsistency(Strict):
    """VAFT's term that keeps the spectra of clean and attacked logits close.

    Attributes:
        form: `released`: the sum of differences over the sum of the clean spectrum; `paper`: the differences' plain L1
            norm, which grows with the crop.
        block: `whole`: one transform over the crop, as released; or voxels per side of a block.
    """

    weight: PositiveFloat = 1.0
    form: Literal["released", "paper"] = "released"
    block: Literal["whole"] | PositiveInt = "whole"


OWN = "own"


class Validation(Strict):
    """Validation of the weights on the select list.

    Attributes:
        attack: attack under which the list is predicted too: as in a benchmark's job file, `own` for the one that the
            network is trained on (a `clean` network has none), or a list of these. None: QUICK_ATTACK for networks
            trained on a `linf` attack, `own` for those trained on another, else none.
        choose_by: the mean foreground Dice that picks the best weights: on `clean` volumes (the papers' way),
            `attacked` (the mean over attacks), `worst` (the lowest of each case under any attack), or the `mean` of
            `clean` and `attacked`; None: `mean` if there is an attack, as training on attacks alone lowers clean Dice,
            else `clean`.
    """

    attack: AttackEntry | Literal["own"] | tuple[AttackEntry | Literal["own"], ...] | None = None
    choose_by: Literal["clean", "attacked", "mean", "worst"] | None = None

    @field_validator("attack", mode="before")
    @classmethod
    def _attacks(cls, given: Any) -> Any:
        def is_attack(one: Any) -> bool:
            return one == OWN or isinstance(one, AttackEntry) or (isinstance(one, dict) and "name" in one)

        if given is None or is_attack(given):
            return given
        if not (isinstance(given, list | tuple) and given and all(map(is_attack, given))):
            raise ValueError(f"expected an attack {{name: ..., ...}}, {OWN}, or a list of these, got {given!r:.300}")
        return given

    @property
    def attacks(self) -> tuple[AttackEntry | Literal["own"], ...]:
        """The attacks of `attack`, one or several; empty if it is None."""
        if self.attack is None:
            return ()
        return self.attack if isinstance(self.attack, tuple) else (self.attack,)


QUICK_ATTACK = AttackEntry.model_validate({"name": "pgd", "eps": "4/255", "steps": 3, "step_size": "2/255"})
