"""Defines the contract of every attack: a final `__call__` that checks and counts, and one method to write."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NoReturn, final

import torch
from torch import Tensor, nn

from freqbench.attacks.core import inputs, parameters
from freqbench.attacks.core.calls import Generators, useful_and_finite
from freqbench.attacks.core.inputs import NEEDS, NOTHING, Given, Start
from freqbench.attacks.core.parameters import PARAMETERS, SCOPES, Parameter
from freqbench.attacks.core.targets import NEXT_CLASS, highest_class
from freqbench.attacks.core.task import Task, joins_windows
from freqbench.core.errors import ParameterError, ThreatModelError, UserError
from freqbench.core.types import Shape
from freqbench.ops.blocks import cut_block
from freqbench.ops.heads import Head, head_of

SLACK = 1e-6


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """Result of an attack.

    Attributes:
        adversarial: `[B, C, H, W, D]` in [0, 1], in the dtype and on the device of the images.
        labels: the labels of the call, `[B, 1, H, W, D]`; an attack that `moves_labels` has moved them with the
            anatomy.
        state: the final learned state in the layout of the attack's docstring, or None.
        losses: the objective before each step of all restarts, `[steps, B]`; `[steps]` if the batch is coupled; `[0,
            B]` if no gradient was taken. NaN marks steps that a window did not take.
        gradients: bool `[G, 2]`: some entry of a gradient is finite and not 0; all are finite.
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
        """Model passes per window; the largest count if windows differ."""
        return max(self.forwards)

    @property
    def num_backwards(self) -> int:
        """Gradient passes per window; the largest count if windows differ."""
        return max(self.backwards)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack with all its parameters (`PARAMETERS` explains each): frozen, without state between calls.

    Class attributes are assigned without a type; a name with a type is a parameter. A class that assigns a parameter of
    its base without a type no longer has this parameter.

    Class attributes of an attack:
        name: its key in `ATTACKS`.
        threat_model: name of the set of volumes that it chooses from: one of the table in the docs, or a new one. A
            property if parameters change the set; its docstring begins with the name that the catalogue shows.
        budget_name: the parameter that bounds the change; a property if parameters decide which; None if there is none.
        variants: allowed values of `variant`.
        parameters: meaning and allowed values of each parameter.
        scopes: allowed values of `scope`.
        may_stop_early: true if a window may take fewer passes than `passes` states.
        needs_reference: true if a call takes `reference`.
        needs_learned: true if a call takes `learned`, the result of `learn`: set by LearnedAttack.
        needs_surrogates: true if a call takes `surrogates`: set by SurrogateAttack.
        judged_by_dice: true if the Dice against the truth decides what it keeps: it takes no target.
        moves_labels: true if it moves the anatomy: predictions are then compared with the result's labels, which
            `Objective.in_place` makes.
        per_slice: None: volumes are not cut into blocks. False: blocks have one side or three, `block`, in voxels, cut
            to a shorter window. True: blocks are one voxel deep and have one side or two, so that each depth slice has
            a two-dimensional transform.
        num_corners: points that a run looks at, a pass without a gradient each, before its first step.
        revision: raised by hand when a code change alters results, so that old rows are recomputed.

    Args:
        targeted: `labels` are a target to move towards, not the truth to move away from.
        variant: form of the algorithm; if `released` and `paper` are the same, both names are accepted.
        scope: the sample that a run passes to the attack. `window`: each window of a volume; `volume`: the whole volume
            and the logits stitched from its windows (`freqbench.models.SlidingWindowModel`), so that the attack raises
            the loss of the final prediction; `joint`: all windows of a volume together and the logits stitched from
            them (`freqbench.models.JointModel`); each window stays within the set that it has with `window`. In Python
            the caller passes such samples.
        channels: the channels that may change, counted from 0; one number for a single channel; None: all. The model
            sees the others too, and the result has them unchanged to the bit. Draws, `start` and state cover the
            attacked channels alone. A bound on intensities holds in every voxel of every channel; a norm is taken over
            all channels together.
    """

    name: ClassVar[str]
    variants: ClassVar[tuple[str, ...]] = ("released", "paper")
    parameters: ClassVar[Mapping[str, Parameter]] = PARAMETERS
    scopes: ClassVar[tuple[str, ...]] = ("window",)
    may_stop_early: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    needs_learned: ClassVar[bool] = False
    needs_surrogates: ClassVar[bool] = False
    judged_by_dice: ClassVar[bool] = False
    moves_labels: ClassVar[bool] = False
    per_slice: ClassVar[bool | None] = None
    num_corners: ClassVar[int] = 0
    revision: ClassVar[int] = 1

    targeted: bool = False
    variant: str = "released"
    scope: str = "window"
    channels: tuple[int, ...] | None = None

    def __init_subclass__(cls) -> None:
        """Makes a parameter of a base class a constant, if the class assigns it without a type."""
        super().__init_subclass__()
        own = vars(cls).get("__annotations__", {})
        constants = vars(cls).keys() & getattr(cls, "__dataclass_fields__", {}).keys() - own.keys()
        cls.__annotations__ = own | dict.fromkeys(constants, ClassVar[Any])

    def __post_init__(self) -> None:
        vars(self).update(self.spelled())  # part of construction: frozen from here on
        parameters.require_together(self.name, vars(self))
        if self.scope not in self.scopes:
            refusals = {
                "volume": "this attack perturbs windows one by one",
                "joint": "its windows cannot act together; vafa_opt, sa2_opt, acquisition and linf attacks can",
            }
            reason = refusals.get(self.scope, "windows made one by one would not fit together")
            self.refuse("scope", f"expected {' or '.join(self.scopes)}, got {self.scope!r}: {reason}")
        if self.judged_by_dice and self.targeted:
            self.refuse("targeted", "expected false, got true: the Dice against the truth judges its volumes")

    def spelled(self) -> dict[str, Any]:
        """Returns the checked, canonical value of every parameter: attacks are identified by these values."""
        values = {field.name: parameters.spelled(self, field.name, getattr(self, field.name)) for field in fields(self)}
        for field in fields(self):
            is_whole = isinstance(values[field.name], int)
            if is_whole and field.type in (float, float | None, float | str, float | str | None):
                values[field.name] = float(values[field.name])
        return values

    @property
    @abstractmethod
    def threat_model(self) -> str:
        """Name of the set of volumes; most attacks assign it."""

    @property
    @abstractmethod
    def budget_name(self) -> str | None:
        """The parameter that bounds the attack; most attacks assign it."""

    @abstractmethod
    def perturb(self, task: Task) -> Tensor:
        """Makes the adversarial volumes of a task; the author of an attack writes this method."""

    @property
    @abstractmethod
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes per window, known in advance; an upper limit if it `may_stop_early`."""

    @property
    def learning_passes(self) -> tuple[int, int]:
        """Forward and backward passes that `learn` takes per case; 0 for an attack that learns nothing."""
        return 0, 0

    @property
    def surrogate_passes(self) -> tuple[int, int]:
        """Forward and backward passes of each surrogate per window; `passes` counts the attacked network alone."""
        return 0, 0

    @property
    def needs_gradient(self) -> bool:
        """True if it takes gradients of the attacked network, in a call or in `learn`."""
        return self.passes[1] + self.learning_passes[1] > 0

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the extra arguments that a call takes: `reference`, `learned`, `surrogates`."""
        return tuple(need for need in NEEDS if getattr(self, f"needs_{need}"))

    @final
    def supplied(self, **makers: Callable[[], Any]) -> dict[str, Any]:
        """Makes the extra arguments that a call needs, each by the maker of that name, and no others."""
        return {need: makers[need]() for need in self.needs}

    def learn(
        self,
        model: nn.Module,
        cases: Iterable[tuple[Tensor, Tensor]],
        window: Shape,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Returns the argument `learned` of a call; equal arguments give equal results on one device.

        Args:
            model: as in a call, for one volume at a time.
            cases: cases to learn from, on the model's device, iterated once per step: images `[C, H, W, D]` in [0, 1]
                and labels `[1, H, W, D]` as in a call; sizes may differ.
            window: sides of the model's window in voxels.
            generator: source of all draws; None stands for seed 0.

        Raises:
            UserError: the attack does not learn, there are no cases, or images or labels are not valid.
        """
        raise UserError(f"{self.name}: expected an attack that learns from other cases, got one that does not")

    def check_learned(self, learned: Tensor, num_channels: int) -> None:
        """Raises a UserError if `learn` cannot have returned this `learned` for volumes with `num_channels`
        channels."""
        return

    def shortened(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Returns the sides of `block` as cut to a window of `shape` `H, W, D`; None if nothing is cut or there is no
        block."""
        if self.per_slice is None:
            return None
        block: int | tuple[int, ...] = getattr(self, "block")  # noqa: B009  # no attack without blocks has it
        cut = cut_block(block, shape, self.per_slice)
        if cut == cut_block(block, (sys.maxsize,) * 3, self.per_slice):
            return None
        return cut[:2] if self.per_slice else cut

    @property
    def is_stochastic(self) -> bool:
        """True if the attack draws random numbers; otherwise it runs once, whatever the seeds."""
        return False

    @property
    def couples_batch(self) -> bool:
        """True if a window's result depends on the others in its batch; the batch size is then part of the identity."""
        return False

    @property
    def attacks_volume(self) -> bool:
        """True if a volume is perturbed as one, through the model's sliding window, and not window by window."""
        return self.scope == "volume"

    @property
    def follows_prediction(self) -> bool:
        """True if the attack raises the loss of the volume's prediction, and not that of each window."""
        return self.scope in ("volume", "joint")

    def refuse(self, parameter: str, complaint: str) -> NoReturn:
        """Raises a ParameterError in the attack's name: of which `parameter`, and the `complaint` (expected and
        got)."""
        raise ParameterError(self.name, parameter, complaint)

    def check_classes(self, num_classes: int) -> None:
        """Raises a ParameterError if the parameters do not suit a model with `num_classes` classes; called first.

        This base checks that `organs` and `target`, if the attack has them, name classes of the model.
        """
        organs = getattr(self, "organs", None)
        target = getattr(self, "target", None)
        for parameter, highest in (("organs", max(organs or (0,))), ("target", highest_class(target))):
            if highest >= num_classes:
                self.refuse(parameter, f"expected classes in 0..{num_classes - 1}, got {highest}")

    def check_head(self, head: Head) -> None:
        """Raises a ParameterError if the parameters do not suit a network with this head; called first.

        This base checks that `organs` and `target`, if the attack has them, name no background and no order of classes
        where there are regions.
        """
        if head.has_background:
            return
        if 0 in (getattr(self, "organs", None) or ()):
            self.refuse("organs", "expected regions, from 1 on, got 0: a network of regions has no background output")
        if getattr(self, "target", None) == NEXT_CLASS:
            self.refuse("target", "expected a rule for regions, got next-class: take least-likely, swap or erase")

    def check_loss(self, head: Head, loss: str) -> None:
        """Raises a ParameterError for a loss that this head lacks."""
        if loss not in head.losses:
            have = ", ".join(head.losses)
            self.refuse("loss", f"expected a loss that regions have, {have}, got {loss}: take another")

    def check_channels(self, num_channels: int) -> None:
        """Raises a ParameterError for channels that volumes with `num_channels` channels lack; called first."""
        highest = max(self.channels or (0,))
        if highest >= num_channels:
            self.refuse("channels", f"expected channels in 0..{num_channels - 1}, got {highest}")

    def prepare(self, task: Task) -> None:
        """Sets up a task before `perturb`: the loss to raise, the voxels that count, and the target labels."""
        return

    def measured(self, clean: Tensor, state: Tensor | None) -> Mapping[str, float]:
        """Returns what a state says of volumes like `clean`, as columns of a record: displacement, smallest change."""
        return {}

    def on_grid(self, spacing: Sequence[float]) -> "Attack":
        """Returns the attack for volumes of this spacing in millimetres; unchanged if no bound is a length."""
        return self

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns how far `adversarial` volumes of `clean` ones, both `[B, C, H, W, D]`, lie outside the threat model's
        bound, on its own scale; 0 or less is inside.

        `state` is the `task.state` that `perturb` left; bounds on a table or on multipliers need it.
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
        """Attacks a batch of windows; unless `couples_batch`, a sample's result does not depend on its batch.

        Args:
            model: `[B, C, H, W, D]` in [0, 1] to logits `[B, K, H, W, D]`. It runs in evaluation mode; parameters,
                buffers, mode and `.grad` are left unchanged.
            images: clean volumes, float32 or float64 `[B, C, H, W, D]` in [0, 1].
            labels: integers in 0..K-1, `[B, 1, H, W, D]`: the truth, or with `targeted=True` the target.
            generator: one for the batch or one per sample; None stands for seed 0. Draws are made on its device.
            start: replaces the random draw, in the layout of the attack's docstring.
            reference: for attacks with `needs_reference`, volumes of the images' shape in [0, 1], one per sample.
            learned: for a LearnedAttack, the result of `learn`, the same for all samples.
            surrogates: for a SurrogateAttack, the networks whose gradients it follows; each is run and left unchanged
                like `model`.

        Raises:
            UserError: images, labels, generator, start, reference, learned or surrogates are not valid, or `perturb`
                returns something else than finite volumes like the clean ones.
            ThreatModelError: the result exceeds the attack's own bound by more than 1e-6.
        """
        with torch.inference_mode(False), torch.enable_grad():
            given = Given(start=start, reference=reference, learned=learned, surrogates=tuple(surrogates))
            task = self.task(model, images, labels, generator, given)
            with task.evaluation_mode():
                self.prepare(task)
                adversarial = inputs.checked_volumes(self.name, self.perturb(task), task.clean)
            low, high = inputs.ends_of(self.name, adversarial)
            if not ((low >= 0 and high <= 1) or clamps_last(model)):
                raise ThreatModelError(f"{self.name}: volumes left [0, 1]: [{low:.6g}, {high:.6g}]")
            excess = self.excess(task.clean, adversarial, task.state)
            if not excess <= SLACK:
                raise ThreatModelError(f"{self.name}: {self.threat_model} bound exceeded by {excess:.3g}")
            adversarial = task.whole(adversarial)
        passes = task.passes
        forwards, backwards = passes.of_samples(len(images))
        losses = passes.losses.stacked() if passes.losses else images.new_zeros(0, len(images))
        gradients = useful_and_finite(passes.gradients.stacked().reshape(-1, 4))
        return AttackResult(
            adversarial=adversarial,
            labels=task.objective.in_place(labels),
            state=task.state,
            losses=losses,
            gradients=gradients,
            forwards=forwards,
            backwards=backwards,
        )

    def task(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        generator: Generators | None = None,
        given: Given | None = None,
    ) -> Task:
        """Makes the task of a call and checks its arguments, `model`, `images`, `labels` and `generator` as `__call__`
        explains; `learn` has no `given`."""
        inputs.check_volumes(self.name, images, labels, joint=joins_windows(model))
        self.check_channels(images.shape[1])
        self.check_head(head_of(model))
        if given is not None:
            inputs.check_given(self.name, self.needs, given, images)
            if given.learned is not None:
                self.check_learned(given.learned, images.shape[1])
        return Task(
            self.name,
            model,
            images,
            labels,
            targeted=self.targeted,
            generator=generator,
            given=given or NOTHING,
            channels=self.channels,
            check_classes=self.check_classes,
        )


def clamps_last(model: nn.Module) -> bool:
    """True if a model clamps volumes to [0, 1] after its own changes; the attack then need not clamp them."""
    return getattr(model, "clamps_last", False) is True


@dataclass(frozen=True, kw_only=True)
class LinfAttack(Attack):
    """An attack inside `{ x : |x - clean| <= eps, 0 <= x <= 1 }`; eps is a radius on the [0, 1] intensity scale."""

    threat_model = "linf"
    budget_name = "eps"
    scopes = SCOPES

    eps: float

    def draw_start(self, task: Task) -> Tensor:
        """Returns uniform noise in [-eps, eps] for the volumes of `task`, or the `start` of the call."""
        start = task.given_start()
        return self.eps * (2 * task.draw(torch.rand) - 1) if start is None else start

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the largest change of a voxel from `clean` to `adversarial`, less `eps`; no `state` is needed."""
        return float((adversarial - clean).abs().max()) - self.eps


@dataclass(frozen=True, kw_only=True)
class LearnedAttack(Attack):
    """An attack that learns once from some cases of a dataset and applies the result to all others.

    In a job each cell learns once, from cases that share no patient with the scored ones. From Python, `learn` returns
    the argument `learned` of each call, which `check_learned` checks.

    Args:
        learn_split: the split of the dataset to learn on.
        learn_cases: number of cases to learn from, the first of the split; None: all.
    """

    needs_learned = True

    learn_split: str = "train"
    learn_cases: int | None = 8

    @abstractmethod
    def learn(
        self,
        model: nn.Module,
        cases: Iterable[tuple[Tensor, Tensor]],
        window: Shape,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Returns the argument `learned` of a call, as `Attack.learn` says of `model`, `cases`, `window` and
        `generator`."""

    @property
    @abstractmethod
    def learning_passes(self) -> tuple[int, int]:
        """Forward and backward passes that `learn` takes per case."""


@dataclass(frozen=True, kw_only=True)
class SurrogateAttack(Attack):
    """An attack that follows the gradients of surrogates, `task.given.surrogates`.

    In a job, surrogates are other models of the job; from Python, each call takes the networks as `surrogates`.

    Args:
        surrogates: their names; the attacked network is never its own surrogate. Ignored by a call.
    """

    needs_surrogates = True

    surrogates: tuple[str, ...] = ()

    @property
    @abstractmethod
    def surrogate_passes(self) -> tuple[int, int]:
        """Forward and backward passes of each surrogate per window."""
