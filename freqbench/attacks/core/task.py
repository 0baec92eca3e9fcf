"""Binds model, volumes, labels, loss and draws of one call of an attack together, and counts its passes."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from freqbench.attacks.core.best import Best
from freqbench.attacks.core.draws import Draws, Generators
from freqbench.attacks.core.inputs import check_logits
from freqbench.attacks.core.targets import LEAST_LIKELY, Rule, target_map
from freqbench.attacks.core.trace import Trace
from freqbench.core.errors import UserError
from freqbench.core.identity import digest
from freqbench.ops.losses import COMPARED_BY, LOSSES, Loss, Scope, is_as_labelled
from freqbench.ops.overlap import mean_dice

T = TypeVar("T")
View = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How labels follow anatomy that an attack moves.

    Attributes:
        labels: takes a map of voxels `[B, 1, H, W, D]`, labels or a mask, to where the volumes show what it labels.
        logits: the same logits `[B, K, H, W, D]`; what they depend on besides is how the labels move.
    """

    labels: View = lambda labels: labels
    logits: View = lambda logits: logits


class Task:
    """One call of an attack.

    The model maps whole volumes `[B, C, H, W, D]` in [0, 1] to logits `[B, K, H, W, D]`. One that draws says so by an
    attribute `takes_keys` that is true; it then gets `keys`, an integer a sample, of the sample's own generator and the
    number of the pass, so that every pass has draws of its own, whatever samples go through beside it.

    Attributes:
        images: a copy of the whole volumes, `[B, C, H, W, D]`.
        clean: the channels of them that are attacked.
        labels: truth or target, `[B, 1, H, W, D]`; a rule's target from the first forward pass on.
        sign: 1, or -1 where `labels` are a target to approach; of a rule from the first forward pass on.
        scope: what of a sample the loss looks at.
        best: where `gradient` and `look` offer the volumes that they look at, or None.
        truth: labels whose Dice decides which volumes of a run are its result, wherever it aims; None: its loss.
        start: what replaces the draws, or None.
        motion: of the anatomy, to where the volumes that are looked at next show it; set by attacks that move it.
        reference: volumes of other cases, of the shape of `clean`; None where the attack needs none.
        learned: what the attack learned from other cases; None where it learns nothing.
        state: the learned state that the attack leaves for its result, or None.
        losses: the objective before each step, one `[B]` a step.
        gradients: two flags a gradient, bool `[2]`: an entry is finite and not 0; all are finite.
        num_forwards: model passes of all samples; `num_backwards`: gradient passes.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        targeted: bool,
        generator: Generators | None = None,
        start: Tensor | Mapping[str, Tensor] | None = None,
        reference: Tensor | None = None,
        learned: Tensor | None = None,
        surrogates: Sequence[nn.Module] = (),
        channels: tuple[int, ...] | None = None,
        check_classes: Callable[[int], None] | None = None,
    ) -> None:
        self._name, self._model, self._channels, self._check_classes = name, model, channels, check_classes
        self._surrogates = tuple(surrogates)
        self._draws = Draws(name, generator, len(images))
        # Once, as a list copied to a device in every pass makes the host wait there.
        self._index = None if channels is None else torch.tensor(channels, device=images.device)
        self.images = images.detach().clone()
        self.clean = self._attacked(self.images)
        self.labels = labels.to(torch.long, copy=True)
        self.scope = Scope()
        self.best: Best | None = None
        self.start = start
        self.reference = None if reference is None else self._attacked(reference.detach()).to(self.clean)
        self.learned = None if learned is None else learned.detach().to(self.clean)
        self.state: Tensor | None = None
        self.losses, self.gradients = Trace(), Trace()
        self.num_forwards = 0
        self.num_backwards = 0
        self.sign = -1.0 if targeted else 1.0
        self._loss = self._compared_by = "dicece"
        self._raises: Loss = LOSSES[self._loss]
        self.truth: Tensor | None = None
        self.motion = Motion()
        self._organs: tuple[int, ...] | None = None
        self._rule: Rule | None = None
        self._in_parts = torch.zeros(len(images), 2, dtype=torch.long)

    def aim(self, loss: str, organs: tuple[int, ...] | None, rule: Rule | None) -> None:
        """Say what is raised in place of Dice + cross-entropy on all voxels; before the first forward pass.

        Args:
            loss: a name of LOSSES.
            organs: the classes whose voxels, by the truth, count alone; None: everything counts. The Dice is the mean
                over these classes away from the truth, and over all classes towards a target.
            rule: of the target, made from the labels in the first forward pass, which `least-likely` takes here.
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

    def part(self, samples: list[int]) -> "Task":
        """A task of its own on some of the samples; what it took is counted by `join`.

        Every part begins to draw where the first one did, so that an attack draws the same whatever went before it.
        """
        return Task(
            self._name,
            self._model,
            self.images[samples],
            self.labels[samples],
            targeted=False,
            generator=self._draws.set_back(samples),
            channels=self._channels,
            check_classes=self._check_classes,
        )

    def join(self, part: "Task", samples: list[int]) -> None:
        """Count the passes of a part, and take over its losses: NaN for samples that were not in it."""
        for flags in part.gradients.stacked():
            self.gradients.append(flags)
        self._in_parts[samples] += torch.tensor([part.num_forwards, part.num_backwards])
        for values in part.losses.stacked():
            row = values.new_full((len(self.clean),), math.nan)
            row[samples] = values
            self.losses.append(row)

    def on_surrogates(self) -> list["Task"]:
        """The same volumes, labels and aim on each surrogate; passes and losses are its own."""
        tasks = []
        for network in self._surrogates:
            task = copy(self)
            task._model, task.best, task.losses = network, None, Trace()
            tasks.append(task)
        return tasks

    @property
    def passes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Forward and backward passes of every sample, those in parts with them."""
        forwards, backwards = self._in_parts.T.tolist()
        return (
            tuple(self.num_forwards + count for count in forwards),
            tuple(self.num_backwards + count for count in backwards),
        )

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """The model and its surrogates in evaluation mode; every module's own mode is given back."""
        networks = (self._model, *self._surrogates)
        modes = [(module, module.training) for network in networks for module in network.modules()]
        for network in networks:
            network.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    def whole(self, x: Tensor) -> Tensor:
        """Attacked channels with all others beside them as found, `[B, C, H, W, D]`; a gradient reaches the former."""
        return x if self._index is None else self.images.index_copy(1, self._index, x)

    def logits(self, x: Tensor, view: View | None = None) -> Tensor:
        """One forward pass, `[B, K, H, W, D]`; `view` makes what the model is shown of whole volumes."""
        shown = self.whole(x) if view is None else view(self.whole(x))
        if getattr(self._model, "takes_keys", False) is True:
            keys = [int(digest(["attack", seed, self.num_forwards]), 16) >> 1 for seed in self._draws.seeds]
            logits: Tensor = self._model(shown, keys=keys)
        else:
            logits = self._model(shown)
        if self.num_forwards == 0:
            check_logits(self._name, logits, self.labels)
            if self._check_classes is not None:
                self._check_classes(logits.shape[1])
            self._set_target(logits.detach())
        self.num_forwards += 1
        return logits

    def loss(self, x: Tensor) -> Tensor:
        """What the attacker raises, `[B]`."""
        return self.raised(self.logits(x))

    def raised(self, logits: Tensor) -> Tensor:
        """What the attacker raises of logits, `[B]`: the loss, or its negative for a target."""
        return self.sign * self._raises(self.motion.logits(logits), *self._in_place())

    def compared(self, logits: Tensor, raised: Tensor | None = None) -> Tensor:
        """What volumes are compared by, `[B]`: what is raised, but for losses that do not say which is worse."""
        if raised is not None and self._compared_by == self._loss:
            return raised.detach()
        with torch.no_grad():
            return self.sign * LOSSES[self._compared_by](logits, *self._in_place())

    def success(self, x: Tensor) -> Tensor:
        """What decides between runs, `[B]`, the higher the better: one forward pass and no gradient.

        Minus the mean Dice of the predicted classes, or of the organs; towards a target, what volumes are compared by.
        """
        with torch.no_grad():
            logits = self.logits(x)
            has_truth = self.truth is not None or self.sign > 0
            return self._success(logits) if has_truth else self.compared(logits)

    def look(self, x: Tensor, render: View = lambda x: x) -> Tensor:
        """What a point's volumes are compared by, `[B]`: one forward pass, no gradient; it is offered as `best`."""
        with torch.no_grad():
            logits = self.logits(render(x))
            values = self.compared(logits)
            self.offer(logits, x, values)
        return values

    def offer(self, logits: Tensor, x: Tensor, values: Tensor | None = None) -> None:
        """Offer volumes, or a point that makes them, as `best`, where they are compared; by `values`, if known."""
        if self.best is None:
            return
        if self.best.by_success:
            values = self._success(logits)
        self.best.offer(self.compared(logits) if values is None else values, x.detach())

    def is_reached(self, logits: Tensor) -> Tensor:
        """Whether no voxel in scope is predicted as labelled, or all are as the target says; bool `[B]`.

        Where two classes share the largest logit, both are taken as predicted: an argmax is slow on a CPU.
        """
        labels, scope = self._in_place()
        as_labelled = is_as_labelled(logits.detach(), labels)
        is_open = scope.among(as_labelled if self.sign > 0 else ~as_labelled)
        return ~is_open.flatten(1).any(dim=1)

    def gradient(self, x: Tensor, objective: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The gradient of the objective with respect to `x` and nothing else; the objective's value is recorded.

        The objective maps `x` to a value a sample, `[B]`. None: `loss`; where volumes are compared, `x` is offered.
        """
        if objective is None and self.best is not None:
            return self.gradient_and_value(x)[0]
        return self.gradient_and(x, lambda point: ((objective or self.loss)(point), None))[0]

    def gradient_and_value(self, x: Tensor, render: Callable[[Tensor], Tensor] = lambda x: x) -> tuple[Tensor, Tensor]:
        """The gradient of `loss` at points that `render` makes volumes of, and what these are compared by, `[B]`."""

        def objective(point: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(render(point))
            raised = self.raised(logits)
            values = self.compared(logits, raised)
            self.offer(logits, point, values)
            return raised, values

        return self.gradient_and(x, objective)

    def gradient_and(self, x: Tensor, objective: Callable[[Tensor], tuple[Tensor, T]]) -> tuple[Tensor, T]:
        """`gradient`, for an objective that returns something else beside its values, which is handed on."""
        x = x.detach().requires_grad_()
        values, besides = objective(x)
        if not values.requires_grad:
            raise UserError(
                f"{self._name}: expected logits that a gradient goes through, got detached ones: return them from the "
                "network as it computes them, or take an attack without gradients, such as square"
            )
        (gradient,) = torch.autograd.grad(values.sum(), x)
        finite = gradient.isfinite()  # flags stay on the device: a step is not to wait for it
        self.gradients.append(torch.stack(((finite & (gradient != 0)).any(), finite.all())))
        self.num_backwards += 1
        self.losses.append(values.detach())
        return gradient, besides

    def draw(self, sample: Callable[..., Tensor], layout: Sequence[int] | None = None) -> Tensor:
        """A draw of `torch.rand` or `torch.randn` for every sample from its own generator, stacked, like the images.

        Drawn in float32, so that float64 runs see the same numbers; `layout` is a sample's, None: that of the images.
        """
        shape = tuple(layout or self.clean.shape[1:])
        draws = self._draws.stacked(sample, shape)
        if self.clean.is_cuda and not draws.is_cuda:
            draws = draws.pin_memory()  # without it the copy waits for the steps before it
        return draws.to(self.clean, non_blocking=True)

    def given_start(self, layout: Sequence[int] | None = None) -> Tensor | None:
        """The `start` of the call, or None; a UserError where it is not `[B, *layout]`."""
        if self.start is None:
            return None
        expected = (len(self.clean), *(layout or self.clean.shape[1:]))
        if not isinstance(self.start, Tensor) or tuple(self.start.shape) != expected:
            got = tuple(self.start.shape) if isinstance(self.start, Tensor) else type(self.start).__name__
            raise UserError(f"{self._name}: expected a start of shape {expected}, got {got}")
        dtype = self.clean.dtype
        return self.start.to(self.clean.device, dtype.to_complex() if self.start.is_complex() else dtype)

    def _success(self, logits: Tensor) -> Tensor:
        truth = self.motion.labels(self.labels if self.truth is None else self.truth)
        return -mean_dice(logits.detach(), truth, self._organs)

    def given_reference(self) -> Tensor:
        """The `reference` of the call; raises UserError where there is none."""
        if self.reference is None:
            raise UserError(f"{self._name}: expected a reference, got none: give volumes of another case")
        return self.reference

    def given_learned(self) -> Tensor:
        """What the call was given as `learned`; raises UserError where there is none."""
        if self.learned is None:
            raise UserError(f"{self._name}: expected what it learned, got none: give learned=attack.learn(model, ...)")
        return self.learned

    def _in_place(self) -> tuple[Tensor, Scope]:
        """Labels and scope where the volumes show them."""
        voxels, truth = (
            None if each is None else self.motion.labels(each) for each in (self.scope.voxels, self.scope.truth)
        )
        return self.motion.labels(self.labels), replace(self.scope, voxels=voxels, truth=truth)

    def _attacked(self, volumes: Tensor) -> Tensor:
        return volumes if self._index is None else volumes.index_select(1, self._index)

    def _set_target(self, logits: Tensor) -> None:
        if self._rule is not None:
            self.scope = replace(self.scope, truth=self.labels)
            self.labels = target_map(self._rule, self.labels, logits)
            self.sign = -1.0
