"""The contract of every attack: a final `__call__` that checks and counts, and one hook that an attack writes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from freqbench.attacks.parameters import PARAMETERS, Parameter
from freqbench.attacks.task import Task
from freqbench.errors import ParameterError, ThreatModelError, UserError

SLACK = 1e-6

Generators = torch.Generator | Sequence[torch.Generator]
Start = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What an attack returns.

    Attributes:
        adversarial: `[B, 1, H, W, D]` in [0, 1], in the dtype and on the device of the images.
        state: the final learned state in its blocked layout, or None.
        losses: the objective before each step, `[steps, B]`, one restart after the other; `[0, B]` where an attack
            asks for no gradient.
        num_forwards: model passes a window.
        num_backwards: gradient passes a window.
    """

    adversarial: Tensor
    state: Tensor | None
    losses: Tensor
    num_forwards: int
    num_backwards: int


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack with all its parameters: frozen, without state between calls.

    Class attributes of an attack:
        name: its key in `ATTACKS`.
        threat_model: what its budget bounds: `linf`, `gaussian`, `dct-quantization`, `dct-scaling` or `none`.
        budget_name: the one parameter that bounds it.
        variants: the values that `variant` takes.
        parameters: what each of its parameters means and which values it takes.
        revision: raised by hand when a change alters results, so that old rows are computed anew.

    Args:
        targeted: `labels` are the target to reach instead of the truth to leave.
        variant: which form of the algorithm; where `released` and `paper` are one, both are taken.
    """

    name: ClassVar[str]
    threat_model: ClassVar[str]
    budget_name: ClassVar[str]
    variants: ClassVar[tuple[str, ...]] = ("released", "paper")
    parameters: ClassVar[Mapping[str, Parameter]] = PARAMETERS
    revision: ClassVar[int] = 1

    targeted: bool = False
    variant: str = "released"

    def __post_init__(self) -> None:
        for field in fields(self):
            parameter, value = self.parameters.get(field.name), getattr(self, field.name)
            complaint = parameter.check(value) if parameter else None
            if complaint:
                raise ParameterError(self.name, field.name, complaint)
            if isinstance(value, int) and field.type in (float, float | None, float | str):
                # 20 and 20.0 are one attack, told apart by nothing that hangs on its parameters.
                object.__setattr__(self, field.name, float(value))
        if self.variant not in self.variants:
            expected = " or ".join(self.variants)
            raise ParameterError(self.name, "variant", f"expected {expected}, got {self.variant!r}")

    @abstractmethod
    def perturb(self, task: Task) -> Tensor:
        """Make the adversarial volumes of a task; this is what an attack's author writes."""

    @property
    @abstractmethod
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes a window, known before the attack runs."""

    @property
    def is_stochastic(self) -> bool:
        """Whether the attack draws; one that does not runs once whatever the seeds."""
        return False

    @property
    def attacks_volume(self) -> bool:
        """Whether a volume is perturbed as one, through the model's sliding window, instead of window by window."""
        return False

    def check_classes(self, num_classes: int) -> None:
        """Refuse parameters that a model of so many classes cannot take; called before anything is computed.

        Raises:
            ParameterError: naming the parameter.
        """
        return

    def prepare(self, task: Task) -> None:
        """Set a task up before `perturb`: what is raised, where, and towards which labels."""
        return

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """How far the volumes lie outside the threat model's bound, on its own scale; 0 or less is inside.

        Args:
            clean: what was attacked.
            adversarial: what `perturb` returned.
            state: what it left as `task.state`: where the bound is one on a table or on multipliers.
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
    ) -> AttackResult:
        """Attack a batch of windows; a batch gives what its samples give alone, to rounding.

        Args:
            model: `[B, 1, H, W, D]` in [0, 1] to logits `[B, K, H, W, D]`. It is run in evaluation mode; parameters,
                buffers, mode and `.grad` are left as found.
            images: clean volumes, float32 or float64 `[B, 1, H, W, D]` in [0, 1].
            labels: integers in 0..K-1, `[B, 1, H, W, D]`: the truth, or the target of an attack with `targeted=True`.
            generator: one for the batch or one a sample; None stands for seed 0. Draws are made on the generator's
                device.
            start: replaces the random draw, in the layout of the attack's docstring.

        Raises:
            UserError: images, labels, generator or start are not what they must be.
            ThreatModelError: the result left the attack's own bound by more than 1e-6.
        """
        self._check(images, labels)
        with torch.inference_mode(False), torch.enable_grad():
            task = Task(
                self.name,
                model,
                images,
                labels,
                targeted=self.targeted,
                generator=generator,
                start=start,
                check_classes=self.check_classes,
            )
            with task.evaluation_mode():
                self.prepare(task)
                adversarial = self.perturb(task).detach()
        self._verify(task.clean, adversarial, task.state)
        return AttackResult(
            adversarial=adversarial,
            state=task.state,
            losses=torch.stack(task.losses) if task.losses else images.new_zeros(0, len(images)),
            num_forwards=task.num_forwards,
            num_backwards=task.num_backwards,
        )

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if images.ndim != 5 or images.shape[1] != 1 or 0 in images.shape:
            got = "x".join(map(str, images.shape))
            raise UserError(f"{self.name}: expected images [B, 1, H, W, D], got {got}: add batch and channel axes")
        if images.dtype not in (torch.float32, torch.float64):
            raise UserError(f"{self.name}: expected float32 or float64 images, got {images.dtype}: convert them")
        if labels.shape != images.shape:
            expected, got = ("x".join(map(str, t.shape)) for t in (images, labels))
            raise UserError(f"{self.name}: expected labels of the images' shape {expected}, got {got}")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise UserError(f"{self.name}: expected integer labels, got {labels.dtype}: convert them")
        low, high = (float(bound) for bound in images.aminmax())
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"{self.name}: expected images in [0, 1], got [{low:.4g}, {high:.4g}]: "
                "rescale intensities in the dataset, not in the attack."
            )

    def _verify(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> None:
        low, high = (float(bound) for bound in adversarial.aminmax())
        if adversarial.shape != clean.shape or not (low >= 0 and high <= 1):
            raise ThreatModelError(f"{self.name}: volumes left [0, 1]: [{low:.6g}, {high:.6g}]")
        excess = self.excess(clean, adversarial, state)
        if not excess <= SLACK:
            raise ThreatModelError(f"{self.name}: {self.threat_model} bound exceeded by {excess:.3g}")


@dataclass(frozen=True, kw_only=True)
class LinfAttack(Attack):
    """An attack inside { x : |x - clean| <= eps, 0 <= x <= 1 }.

    Args:
        eps: radius on the [0, 1] intensity scale.
    """

    threat_model: ClassVar[str] = "linf"
    budget_name: ClassVar[str] = "eps"

    eps: float

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """The largest voxel change beyond `eps`."""
        return float((adversarial - clean).abs().max()) - self.eps
