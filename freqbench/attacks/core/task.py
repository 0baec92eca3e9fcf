"""What an attack works on: model, volumes, labels, loss and draws bound together, with the passes counted."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from freqbench.attacks.core.best import Best
from freqbench.attacks.core.draws import Draws, Generators
from freqbench.attacks.core.network import Network, View
from freqbench.attacks.core.targets import LEAST_LIKELY, Rule, target_map
from freqbench.core.errors import UserError
from freqbench.ops.losses import COMPARED_BY, LOSSES, Loss
from freqbench.ops.overlap import mean_dice
from freqbench.ops.voxel_losses import Scope
from freqbench.ops.voxelwise import is_as_labelled

T = TypeVar("T")


class Task:
    """One call of an attack.

    Attributes:
        network: the model with whole volumes.
        clean: the images, `[B, C, H, W, D]`; where some channels alone are attacked, these, and C their number.
        labels: truth or target, `[B, 1, H, W, D]`; a rule's target from the first forward pass on.
        sign: 1, or -1 where `labels` are a target to approach; of a rule from the first forward pass on.
        scope: what of a sample the loss looks at.
        best: where `gradient` and `look` offer the volumes that they look at, or None.
        start: what replaces the draws, or None.
        reference: volumes of other cases, of the shape of `clean`, or None.
        state: the learned state that the attack leaves for its result, or None.
        losses: the objective before each step, one `[B]` a step.
        num_forwards: model passes of all samples.
        num_backwards: gradient passes of all samples.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        targeted: bool,
        generator: Generators | None,
        start: Tensor | Mapping[str, Tensor] | None,
        reference: Tensor | None = None,
        channels: tuple[int, ...] | None = None,
        check_classes: Callable[[int], None] | None = None,
    ) -> None:
        self._draws = Draws(name, generator, len(images))
        self.network = Network(model, images, channels, self._draws.seeds)
        self.clean = self.network.clean
        self.labels = labels.to(torch.long, copy=True)
        self.scope = Scope()
        self.best: Best | None = None
        self.start = start
        self.reference = None if reference is None else self.network.attacked(reference.detach()).to(self.clean)
        self.state: Tensor | None = None
        self.losses: list[Tensor] = []
        self.num_forwards = 0
        self.num_backwards = 0
        self._name = name
        self.sign = -1.0 if targeted else 1.0
        self._loss = self._compared_by = "dicece"
        self._raises: Loss = LOSSES[self._loss]
        self._truth: Tensor | None = None
        self._organs: tuple[int, ...] | None = None
        self._rule: Rule | None = None
        self._check_classes = check_classes
        self._in_parts = torch.zeros(len(images), 2, dtype=torch.long)

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
        self._raises, self._organs = LOSSES[loss], organs
        if organs is not None:
            classes = torch.tensor(organs, device=self.labels.device)
            voxels = torch.isin(self.labels, classes)
            self.scope = Scope(voxels=voxels, classes=None if rule else classes)
        if rule == LEAST_LIKELY:
            with torch.no_grad():
                self.logits(self.clean)

    def raise_instead(self, loss: Loss) -> None:
        """Raise another loss than the one of `aim`, by which volumes are compared all the same."""
        self._loss, self._raises = "", loss

    def keep_by_success(self, truth: Tensor) -> None:
        """Let the Dice against the truth decide which volumes of a run are its result, wherever the run aims.

        Args:
            truth: labels, `[B, 1, H, W, D]`.
        """
        self._truth = truth

    def new_best(self) -> Best:
        """A `Best` for volumes on the way, by which a run goes on: they are compared by their loss."""
        return Best()

    def new_result(self) -> Best:
        """A `Best` for the result of a run: by its loss, or by its success."""
        return Best(by_success=self._truth is not None)

    def part(self, samples: list[int]) -> "Task":
        """A task of its own on some of the samples; what it took is counted by `join`.

        Every part begins to draw where the first one did, so that an attack draws the same whatever went before it.
        """
        return Task(
            self._name,
            self.network.model,
            self.network.images[samples],
            self.labels[samples],
            targeted=False,
            generator=self._draws.rewound(samples),
            start=None,
            channels=self.network.channels,
            check_classes=self._check_classes,
        )

    def join(self, part: "Task", samples: list[int]) -> None:
        """Count the passes of a part, and take over its losses: NaN for samples that were not in it."""
        self._in_parts[samples] += torch.tensor([part.num_forwards, part.num_backwards])
        for values in part.losses:
            row = values.new_full((len(self.clean),), math.nan)
            row[samples] = values
            self.losses.append(row)

    @property
    def passes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Forward and backward passes of every sample, those in parts with them."""
        forwards, backwards = self._in_parts.T.tolist()
        return (
            tuple(self.num_forwards + count for count in forwards),
            tuple(self.num_backwards + count for count in backwards),
        )

    def logits(self, x: Tensor, view: View | None = None) -> Tensor:
        """One forward pass, `[B, K, H, W, D]`.

        Args:
            x: volumes like `clean`.
            view: what the model is shown of them, all channels together: where it changes their geometry.
        """
        logits = self.network.logits(x, view)
        if self.num_forwards == 0:
            self._check_logits(logits)
            self._set_target(logits.detach())
        self.num_forwards += 1
        return logits

    def loss(self, x: Tensor) -> Tensor:
        """What the attacker raises, `[B]`: the attack's loss, or its negative for a target."""
        return self.raised(self.logits(x))

    def raised(self, logits: Tensor) -> Tensor:
        """The loss of logits and labels a sample, `[B]`, or its negative for a target."""
        return self.sign * self._raises(logits, self.labels, self.scope)

    def compared(self, logits: Tensor, raised: Tensor | None = None) -> Tensor:
        """What volumes are compared by, `[B]`: what is raised, but for losses that do not say which is worse.

        Args:
            logits: of the model.
            raised: the loss that is raised, where it is known.
        """
        if raised is not None and self._compared_by == self._loss:
            return raised.detach()
        with torch.no_grad():
            return self.sign * LOSSES[self._compared_by](logits, self.labels, self.scope)

    def value(self, x: Tensor) -> Tensor:
        """What volumes are offered with as `best`, `[B]`: one forward pass and no gradient."""
        with torch.no_grad():
            logits = self.logits(x)
            return self._worth(logits, self.compared(logits))

    def success(self, x: Tensor) -> Tensor:
        """What decides between runs, `[B]`, the higher the better: one forward pass and no gradient.

        Away from the truth, it is minus the mean Dice of the predicted classes (`freqbench.ops.overlap.mean_dice`),
        that of the organs where some classes alone are attacked. Towards a target, it is what volumes are compared by.
        """
        with torch.no_grad():
            logits = self.logits(x)
            return self._success(logits) if self._has_truth else self.compared(logits)

    def look(self, x: Tensor) -> Tensor:
        """What volumes are compared by, `[B]`: one forward pass and no gradient; they are offered as `best`."""
        with torch.no_grad():
            logits = self.logits(x)
            values = self.compared(logits)
            if self.best is not None:
                self.best.offer(self._worth(logits, values), x)
        return values

    def is_reached(self, logits: Tensor) -> Tensor:
        """Whether no voxel of a sample is predicted as labelled, or all are as the target says; bool `[B]`.

        Voxels outside the attack's scope do not matter. Where two classes share the largest logit, both are taken as
        predicted: an argmax over classes costs a tenth of the network's passes on a CPU.
        """
        as_labelled = is_as_labelled(logits.detach(), self.labels)
        is_open = self.scope.among(as_labelled if self.sign > 0 else ~as_labelled)
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

    def gradient_and_value(self, x: Tensor, render: Callable[[Tensor], Tensor] = lambda x: x) -> tuple[Tensor, Tensor]:
        """The gradient of the task's loss at points, and what their volumes are compared by, `[B]`; they are offered.

        Args:
            x: `[B, ...]`.
            render: makes the volumes of such points.
        """

        def objective(point: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            logits = self.logits(render(point))
            raised = self.raised(logits)
            values = self.compared(logits, raised)
            return raised, (values, values if self.best is None else self._worth(logits, values))

        gradient, (values, worth) = self.gradient_and(x, objective)
        if self.best is not None:
            self.best.offer(worth, x)
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
            sample: the sampler.
            layout: shape of a sample's draw without the batch axis; that of the images where None.
        """
        return self._draws.draw(sample, tuple(layout or self.clean.shape[1:]), self.clean)

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

    @property
    def _has_truth(self) -> bool:
        return self._truth is not None or self.sign > 0

    def _success(self, logits: Tensor) -> Tensor:
        return -mean_dice(logits.detach(), self.labels if self._truth is None else self._truth, self._organs)

    def _worth(self, logits: Tensor, compared: Tensor) -> Tensor:
        """The value with which volumes are offered as `best`."""
        return self._success(logits) if self.best is not None and self.best.by_success else compared

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
            self.sign = -1.0

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
