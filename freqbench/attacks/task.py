"""What an attack works on: model, volumes, labels, loss and draws bound together, with the passes counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from freqbench.attacks.best import Best
from freqbench.attacks.targets import LEAST_LIKELY, Rule, target_map
from freqbench.errors import UserError
from freqbench.ops.losses import COMPARED_BY, LOSSES
from freqbench.ops.voxel_losses import Scope

T = TypeVar("T")


class Task:
    """One call of an attack.

    Attributes:
        clean: the images, `[B, 1, H, W, D]`.
        labels: truth or target, `[B, 1, H, W, D]`; a rule's target from the first forward pass on.
        scope: what of a sample the loss looks at.
        best: where `gradient` offers the volumes that it looks at, or None.
        start: what replaces the draws, or None.
        reference: volumes of other cases, `[B, 1, H, W, D]`, or None.
        state: the learned state that the attack leaves for its result, or None.
        losses: the objective before each step, one `[B]` a step.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        targeted: bool,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        start: Tensor | Mapping[str, Tensor] | None,
        reference: Tensor | None = None,
        check_classes: Callable[[int], None] | None = None,
    ) -> None:
        self.clean = images.detach().clone()
        self.labels = labels.to(torch.long, copy=True)
        self.scope = Scope()
        self.best: Best | None = None
        self.start = start
        self.reference = None if reference is None else reference.detach().to(self.clean)
        self.state: Tensor | None = None
        self.losses: list[Tensor] = []
        self.num_forwards = 0
        self.num_backwards = 0
        self._name = name
        self._model = model
        self._sign = -1.0 if targeted else 1.0
        self._loss = self._compared_by = "dicece"
        self._rule: Rule | None = None
        self._check_classes = check_classes
        self._generators = _one_a_sample(name, generator, len(images))

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """The model in evaluation mode; every module's own mode is given back."""
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    def aim(self, loss: str, organs: tuple[int, ...] | None, rule: Rule | None) -> None:
        """Say what is raised in place of Dice + cross-entropy on all voxels; before the first forward pass.

        Args:
            loss: a name of LOSSES.
            organs: the classes whose voxels, by the truth, count alone. The Dice is the mean over these classes away
                from the truth, and over all classes towards a target; None: everything counts.
            rule: of the target, made from the labels in the first forward pass; `least-likely` makes one on the clean
                volumes for it here.
        """
        self._loss, self._compared_by, self._rule = loss, COMPARED_BY.get(loss, loss), rule
        if organs is not None:
            classes = torch.tensor(organs, device=self.labels.device)
            voxels = torch.isin(self.labels, classes)
            self.scope = Scope(voxels=voxels, classes=None if rule else classes)
        if rule == LEAST_LIKELY:
            with torch.no_grad():
                self.logits(self.clean)

    def logits(self, x: Tensor) -> Tensor:
        """One forward pass, `[B, K, H, W, D]`."""
        logits: Tensor = self._model(x)
        if self.num_forwards == 0:
            self._check_logits(logits)
            self._set_target(logits.detach())
        self.num_forwards += 1
        return logits

    def loss(self, x: Tensor) -> Tensor:
        """What the attacker raises, `[B]`: the attack's loss, or its negative for a target."""
        return self.raised(self.logits(x))

    def raised(self, logits: Tensor, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """The loss of logits and labels a sample, `[B]`, or its negative for a target.

        Args:
            logits: of the model.
            loss: of logits and labels, whatever the attack's `scope`; None: the attack's own, inside its scope.
        """
        own = LOSSES[self._loss](logits, self.labels, self.scope) if loss is None else loss(logits, self.labels)
        return self._sign * own

    def compared(self, logits: Tensor, raised: Tensor | None = None) -> Tensor:
        """What volumes are compared by, `[B]`: what is raised, but for losses that do not say which is worse.

        Args:
            logits: of the model.
            raised: the loss that is raised, where it is known.
        """
        if raised is not None and self._compared_by == self._loss:
            return raised.detach()
        with torch.no_grad():
            return self._sign * LOSSES[self._compared_by](logits, self.labels, self.scope)

    def value(self, x: Tensor) -> Tensor:
        """What volumes are compared by, `[B]`: one forward pass and no gradient."""
        with torch.no_grad():
            return self.compared(self.logits(x))

    def is_reached(self, logits: Tensor) -> Tensor:
        """Whether no voxel of a sample is predicted as labelled, or all are as the target says; bool `[B]`.

        Voxels outside the attack's scope do not matter. Where two classes share the largest logit, both are taken as
        predicted: an argmax over classes costs a tenth of the network's passes on a CPU.
        """
        logits = logits.detach()
        as_labelled = logits.gather(1, self.labels) >= logits.amax(dim=1, keepdim=True)
        is_open = as_labelled if self._sign > 0 else ~as_labelled
        if self.scope.voxels is not None:
            is_open = is_open & self.scope.voxels
        return ~is_open.flatten(1).any(dim=1)

    def gradient(self, x: Tensor, objective: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The gradient of the objective with respect to `x` and nothing else; the objective's value is recorded.

        Args:
            x: where; any shape that the objective takes.
            objective: maps `x` to a value a sample, `[B]`. None: the task's `loss`; where volumes are compared, `x` is
                offered as `best`.
        """
        if objective is not None:
            return self.gradient_and(x, lambda point: (objective(point), None))[0]
        if self.best is None:
            return self.gradient_and(x, lambda point: (self.loss(point), None))[0]
        return self.gradient_and_value(x)[0]

    def gradient_and_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the task's loss at volumes, and what they are compared by, `[B]`; they are offered."""

        def objective(point: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(point)
            values = self.raised(logits)
            return values, self.compared(logits, values)

        gradient, values = self.gradient_and(x, objective)
        if self.best is not None:
            self.best.offer(values, x)
        return gradient, values

    def gradient_and(self, x: Tensor, objective: Callable[[Tensor], tuple[Tensor, T]]) -> tuple[Tensor, T]:
        """`gradient`, for an objective that returns something else beside its values, which is handed on."""
        x = x.detach().requires_grad_()
        values, besides = objective(x)
        (gradient,) = torch.autograd.grad(values.sum(), x)
        self.num_backwards += 1
        self.losses.append(values.detach())
        return gradient, besides

    def draw(self, sample: Callable[..., Tensor], layout: Sequence[int] | None = None) -> Tensor:
        """A draw for every sample from its own generator, `torch.rand` or `torch.randn`, stacked.

        Args:
            sample: the sampler; always drawn in float32, so that float64 runs see the same numbers.
            layout: shape of a sample's draw without the batch axis; that of the images where None.
        """
        shape = tuple(layout or self.clean.shape[1:])
        draws = [sample(shape, generator=g, device=g.device, dtype=torch.float32) for g in self._generators]
        return torch.stack([draw.to(self.clean) for draw in draws])

    def given_start(self, layout: Sequence[int] | None = None) -> Tensor | None:
        """The `start` of the call, checked against `[B, *layout]`, or None.

        Raises:
            UserError: it has another shape.
        """
        if self.start is None:
            return None
        expected = (len(self.clean), *(layout or self.clean.shape[1:]))
        if not isinstance(self.start, Tensor) or tuple(self.start.shape) != expected:
            got = tuple(self.start.shape) if isinstance(self.start, Tensor) else type(self.start).__name__
            raise UserError(f"{self._name}: expected a start of shape {expected}, got {got}")
        return self.start.to(self.clean)

    def given_reference(self) -> Tensor:
        """The `reference` of the call.

        Raises:
            UserError: there is none.
        """
        if self.reference is None:
            raise UserError(f"{self._name}: expected a reference, got none: give volumes of another case")
        return self.reference

    def _set_target(self, logits: Tensor) -> None:
        if self._rule is not None:
            self.scope = replace(self.scope, truth=self.labels)
            self.labels = target_map(self._rule, self.labels, logits)
            self._sign = -1.0

    def _check_logits(self, logits: Tensor) -> None:
        batch, _, *space = self.clean.shape
        if logits.ndim != 5 or logits.shape[0] != batch or list(logits.shape[2:]) != space:
            raise UserError(
                f"{self._name}: expected logits [{batch}, K, {', '.join(map(str, space))}] from the model, "
                f"got {list(logits.shape)}"
            )
        low, high = (int(bound) for bound in self.labels.aminmax())
        num_classes = logits.shape[1]
        if low < 0 or high >= num_classes:
            raise UserError(
                f"{self._name}: expected labels in 0..{num_classes - 1} for {num_classes} classes of the model, "
                f"got {low}..{high}: map the dataset's labels"
            )
        if self._check_classes is not None:
            self._check_classes(num_classes)


def _one_a_sample(
    name: str, generator: torch.Generator | Sequence[torch.Generator] | None, batch: int
) -> list[torch.Generator]:
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if isinstance(generator, torch.Generator):
        return [generator] * batch
    if len(generator) != batch:
        raise UserError(f"{name}: expected one generator or {batch}, one a sample, got {len(generator)}")
    return list(generator)
