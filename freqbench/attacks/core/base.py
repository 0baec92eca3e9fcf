"""Defines the contract of every attack: a final `__call__` that checks and counts, and one method to write."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NoReturn, final

import torch
from torch import Tensor, nn

from freqbench.attacks.core import inputs
from freqbench.attacks.core.draws import Generators
from freqbench.attacks.core.parameters import PARAMETERS, TOGETHER, Parameter, variant_of
from freqbench.attacks.core.task import Task
from freqbench.core import limits
from freqbench.core.errors import ParameterError, ThreatModelError, UserError
from freqbench.ops.dct import keep_cube

SLACK = 1e-6

Start = Tensor | Mapping[str, Tensor]
Filter = tuple[str, int] | tuple[str, int, int]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What an attack returns.

    Attributes:
        adversarial: `[B, C, H, W, D]` in [0, 1], in the dtype and on the device of the images.
        labels: `[B, 1, H, W, D]`, those of the call; where the attack `moves_labels`, as `adversarial` shows them.
        state: the final learned state in the layout of the attack's docstring, or None.
        losses: the objective before each step, one restart after the other: `[steps, B]`, or `[steps]` where the batch
            is coupled; `[0, B]` without a gradient; NaN for the steps that a window did not take.
        gradients: bool `[G, 2]`, those of `Task.gradients`.
        forwards: model passes of each window.
        backwards: gradient passes of each window.
    """

    adversarial: Tensor
    labels: Tensor
    state: Tensor | None
    losses: Tensor
    gradients: Tensor
    forwards: tuple[int, ...]
    backwards: tuple[int, ...]

    @property
    def num_forwards(self) -> int:
        """Model passes a window: the most that one took, where they differ."""
        return max(self.forwards)

    @property
    def num_backwards(self) -> int:
        """Gradient passes a window, likewise."""
        return max(self.backwards)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack with all its parameters (`PARAMETERS` says what each means): frozen, without state between calls.

    Class attributes of an attack:
        name: its key in `ATTACKS`.
        threat_model: the set of volumes that it may choose from, by its name in the table of the docs, or a name of its
            own. Where parameters change the set or the budget, an instance has attributes of its own in place of the
            class's.
        budget_name: the one parameter that bounds it; None where none does.
        variants: the values that `variant` takes.
        parameters: what each of its parameters means and which values it takes.
        scopes: the values that `scope` takes.
        may_stop_early: whether a window may take fewer passes than `passes` says.
        needs_reference: whether a call takes `reference`.
        moves_labels: whether it moves the anatomy: predictions are then held against the result's labels.
        revision: raised by hand when a change alters results, so that old rows are computed anew.

    Args:
        targeted: `labels` are the target to reach instead of the truth to leave.
        variant: which form of the algorithm; where `released` and `paper` are one, both are taken.
        filter: None, or the part of the finished perturbation's DCT that is kept, over the sample: `("low", s)`,
            `("high", s)` or `("band", lo, hi)` (`freqbench.ops.dct.keep_cube`); the volume is then clamped to [0, 1].
            The threat model's bound holds before the filter: what is left may be larger at single voxels.
        scope: what a run hands to the attack as one sample. `window`: each window of a volume; `volume`: the volume,
            with the model's stitched logits (`freqbench.models.SlidingWindowModel`), so that what is raised is the loss
            of the prediction as deployed. In Python the caller hands over either.
        channels: the only ones that are changed, counted from 0, or the only one; the model sees all others beside
            them, which come back to the bit. Draws, `start` and state are those of these channels alone. None: all. A
            bound on intensities holds in every voxel of every channel, a norm is taken over all channels together.
    """

    name: ClassVar[str]
    threat_model: ClassVar[str]
    budget_name: ClassVar[str | None]
    variants: ClassVar[tuple[str, ...]] = ("released", "paper")
    parameters: ClassVar[Mapping[str, Parameter]] = PARAMETERS
    scopes: ClassVar[tuple[str, ...]] = ("window",)
    may_stop_early: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    moves_labels: ClassVar[bool] = False
    revision: ClassVar[int] = 1

    targeted: bool = False
    variant: str = "released"
    filter: Filter | None = None
    scope: str = "window"
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            parameter, value = self.parameters.get(field.name), getattr(self, field.name)
            too_large = () if isinstance(value, float) else limits.wrong_numbers(value)
            complaint = next((text for _, text in too_large), None) or (parameter.check(value) if parameter else None)
            if complaint:
                self.refuse(field.name, complaint)
            if isinstance(value, int) and field.type in (float, float | None, float | str, float | str | None):
                # 20 and 20.0 are one attack, told apart by nothing that depends on its parameters.
                object.__setattr__(self, field.name, float(value))
            elif parameter and value is not None:
                object.__setattr__(self, field.name, parameter.spelled(value))
        if complaint := variant_of(self.variants).check(self.variant):
            self.refuse("variant", complaint)
        if self.scope not in self.scopes:
            whole = "only a perturbation of voxels is made for a whole volume"
            reason = whole if self.scope == "volume" else "windows made one by one would not fit together"
            self.refuse("scope", f"expected {self.scopes[0]}, got {self.scope!r}: {reason}")

    @abstractmethod
    def perturb(self, task: Task) -> Tensor:
        """Make the adversarial volumes of a task; this is what an attack's author writes."""

    @property
    @abstractmethod
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes a window, known before the attack runs; the most, where it `may_stop_early`."""

    @property
    def is_stochastic(self) -> bool:
        """Whether the attack draws; one that does not runs once whatever the seeds."""
        return False

    @property
    def couples_batch(self) -> bool:
        """Whether a window's result depends on the windows attacked with it, whose number is then in the identity."""
        return False

    @property
    def attacks_volume(self) -> bool:
        """Whether a volume is perturbed as one, through the model's sliding window, instead of window by window."""
        return self.scope == "volume"

    def require_together(self, parameter: str, *values: Any) -> None:
        """Raise a ParameterError where the rule of TOGETHER for a parameter is broken."""
        if complaint := TOGETHER[parameter][1](*values):
            self.refuse(parameter, complaint)

    def refuse(self, parameter: str, complaint: str) -> NoReturn:
        """Raise a ParameterError in the attack's name."""
        raise ParameterError(self.name, parameter, complaint)

    def check_classes(self, num_classes: int) -> None:
        """Raise a ParameterError for what a model of so many classes cannot take; called before anything else."""
        return

    def check_channels(self, num_channels: int) -> None:
        """Raise a ParameterError for channels that volumes of so many do not have; called before anything else."""
        highest = max(self.channels or (0,))
        if highest >= num_channels:
            self.refuse("channels", f"expected channels in 0..{num_channels - 1}, got {highest}")

    def prepare(self, task: Task) -> None:
        """Set a task up before `perturb`: what is raised, where, and towards which labels."""
        return

    def displacement(self, clean: Tensor, state: Tensor | None) -> Mapping[str, float]:
        """How far volumes like `clean` were moved by a state, as columns of a record; empty where none was moved."""
        return {}

    def on_grid(self, spacing: Sequence[float]) -> "Attack":
        """The same for volumes of so many millimetres a voxel; one whose bounds know no length is itself."""
        return self

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """How far volumes lie outside the threat model's bound, on its own scale; 0 or less is inside.

        `state` is what `perturb` left as `task.state`: where the bound is one on a table or on multipliers.
        """
        return 0.0

    @final
    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        generator: Generators | None = None,
        start: Start | None = None,
        reference: Tensor | None = None,
        learned: Tensor | None = None,
        surrogates: Sequence[nn.Module] = (),
    ) -> AttackResult:
        """Attack a batch of windows; unless `couples_batch`, it gives what its samples give alone, to rounding.

        Args:
            model: `[B, C, H, W, D]` in [0, 1] to logits `[B, K, H, W, D]`. It is run in evaluation mode; parameters,
                buffers, mode and `.grad` are left as found.
            images: clean volumes, float32 or float64 `[B, C, H, W, D]` in [0, 1].
            labels: integers in 0..K-1, `[B, 1, H, W, D]`: the truth, or with `targeted=True` the target.
            generator: one for the batch or one a sample; None stands for seed 0. Draws are made on its device.
            start: replaces the random draw, in the layout of the attack's docstring.
            reference: for attacks with `needs_reference`, volumes of the images' shape in [0, 1], one a sample.
            learned: for a LearnedAttack, what `learn` returned, the same for all samples.
            surrogates: for a SurrogateAttack, the networks whose gradients it follows; each is run and left as `model`.

        Raises:
            UserError: images, labels, generator, start, reference, learned or surrogates are not what they must be.
            ThreatModelError: the result left the attack's own bound by more than 1e-6.
        """
        with torch.inference_mode(False), torch.enable_grad():
            task = self.task(model, images, labels, generator, start, reference, learned, surrogates)
            with task.evaluation_mode():
                self.prepare(task)
                adversarial = self.perturb(task).detach()
            self._verify(task.clean, adversarial, task.state)
            if self.filter is not None:
                adversarial = (task.clean + keep_cube(adversarial - task.clean, *self.filter)).clamp(0, 1)
            adversarial = task.whole(adversarial)
        forwards, backwards = task.passes
        return AttackResult(
            adversarial=adversarial,
            labels=task.motion.labels(labels),
            state=task.state,
            losses=task.losses.stacked() if task.losses else images.new_zeros(0, len(images)),
            gradients=task.gradients.stacked() if task.gradients else labels.new_ones(0, 2, dtype=torch.bool),
            forwards=forwards,
            backwards=backwards,
        )

    def task(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        generator: Generators | None = None,
        start: Start | None = None,
        reference: Tensor | None = None,
        learned: Tensor | None = None,
        surrogates: Sequence[nn.Module] = (),
    ) -> Task:
        """The task of a call, all that is given checked."""
        inputs.check_volumes(self.name, images, labels)
        self.check_channels(images.shape[1])
        inputs.check_reference(self.name, images, reference, needed=self.needs_reference)
        self._check_learned(images, learned)
        self._check_surrogates(surrogates)
        return Task(
            self.name,
            model,
            images,
            labels,
            targeted=self.targeted,
            generator=generator,
            start=start,
            reference=reference,
            learned=learned,
            surrogates=surrogates,
            channels=self.channels,
            check_classes=self.check_classes,
        )

    def _check_learned(self, images: Tensor, learned: Tensor | None) -> None:
        if learned is not None:
            raise UserError(
                f"{self.name}: expected nothing learned, got a tensor: this attack learns from no other case"
            )

    def _check_surrogates(self, surrogates: Sequence[nn.Module]) -> None:
        if surrogates:
            raise UserError(f"{self.name}: expected no surrogates, got some: this attack has no use for them")

    def _verify(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> None:
        low, high = (float(bound) for bound in adversarial.aminmax())
        if adversarial.shape != clean.shape or not (low >= 0 and high <= 1):
            raise ThreatModelError(f"{self.name}: volumes left [0, 1]: [{low:.6g}, {high:.6g}]")
        excess = self.excess(clean, adversarial, state)
        if not excess <= SLACK:
            raise ThreatModelError(f"{self.name}: {self.threat_model} bound exceeded by {excess:.3g}")


@dataclass(frozen=True, kw_only=True)
class LinfAttack(Attack):
    """An attack inside `{ x : |x - clean| <= eps, 0 <= x <= 1 }`; eps is a radius on the [0, 1] intensity scale."""

    threat_model: ClassVar[str] = "linf"
    budget_name: ClassVar[str | None] = "eps"

    eps: float

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """The largest voxel change beyond `eps`."""
        return float((adversarial - clean).abs().max()) - self.eps
