"""Holds one call of an attack: model, volumes, objective, passes, draws."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from freqbench.attacks.core.calls import Draws, Generators, Passes, extremes
from freqbench.attacks.core.inputs import NOTHING, Given, check_logits
from freqbench.attacks.core.objective import Objective
from freqbench.attacks.core.targets import LEAST_LIKELY, Rule
from freqbench.core.errors import UserError
from freqbench.core.identity import digest
from freqbench.ops.heads import head_of

T = TypeVar("T")
View = Callable[[Tensor], Tensor]


class Task:
    """One call of an attack.

    The model maps whole volumes `[B, C, H, W, D]` in [0, 1] to logits `[B, K, H, W, D]`. A model that makes random
    draws has an attribute `takes_keys = True`. It then receives `keys`, one integer per sample, made from the seed of
    the sample's generator and the number of the pass: each pass has new draws, which do not depend on the other samples
    of the batch.

    A model with the attribute `joins_windows = True` predicts one volume from all windows of the batch: labels and
    logits then have a batch of 1.

    Attributes:
        name: name of the attack, for errors.
        model: the attacked network.
        images: a copy of the whole volumes, `[B, C, H, W, D]`.
        clean: their attacked channels.
        objective: loss, sign, scope and target.
        passes: passes so far: counts, losses, the best volumes.
        given: start, reference, learned state and surrogates of the call, cut to the attacked channels.
        draws: the generators of the samples.
        state: the learned state that the attack leaves for its result, or None.
        away: gradient of `objective.excess` at the point of the last gradient; None: the attacker knows no detector.
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
        given: Given = NOTHING,
        channels: tuple[int, ...] | None = None,
        check_classes: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self._check_classes = check_classes
        # Copied to the device once: a copy in every pass would make the host wait for it.
        self._index = None if channels is None else torch.tensor(channels, device=images.device)
        self.images = images.detach().clone()
        self.clean = self._attacked(self.images)
        self.objective = Objective.of(
            labels.to(torch.long, copy=True),
            sign=-1.0 if targeted else 1.0,
            windows=len(images) if joins_windows(model) else None,
            head=head_of(model),
        )
        self.passes = Passes()
        reference = None if given.reference is None else self._attacked(given.reference.detach()).to(self.clean)
        learned = None if given.learned is None else given.learned.detach().to(self.clean)
        self.given = replace(given, reference=reference, learned=learned)
        self.draws = Draws(name, generator, len(images))
        self.state: Tensor | None = None
        self.away: Tensor | None = None

    def aim(self, loss: str, organs: tuple[int, ...] | None, rule: Rule | None) -> None:
        """Replaces the default objective, Dice + cross-entropy on all voxels; call it before the first forward pass.

        Args:
            loss: a name in LOSSES.
            organs: only voxels with these true classes count; None: all voxels. The Dice is the mean over these classes
                away from the truth, and over all classes towards a target.
            rule: target rule; the first forward pass makes the target from the labels. For `least-likely` this method
                runs that pass, on the clean volumes.
        """
        self.objective.aim(loss, organs, rule)
        if rule == LEAST_LIKELY:
            with torch.no_grad():
                self.logits(self.clean)

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """Puts the model and its surrogates in evaluation mode, then restores the mode of every module."""
        networks = (self.model, *self.given.surrogates)
        modes: dict[nn.Module, bool] = {}
        for network in networks:
            modes |= {module: module.training for module in network.modules()}
        for network in networks:
            network.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training

    def whole(self, x: Tensor) -> Tensor:
        """Returns volumes of all channels, `[B, C, H, W, D]`: `x`, and the others without a gradient."""
        return x if self._index is None else self.images.index_copy(1, self._index, x)

    def logits(self, x: Tensor, view: View | None = None) -> Tensor:
        """Runs one forward pass on volumes `x` `[B, C, H, W, D]`: `[B, K, H, W, D]`; `view` transforms the whole
        volumes before the model sees them."""
        volumes = self.whole(x) if view is None else view(self.whole(x))
        if getattr(self.model, "takes_keys", False) is True:
            seeds = self.draws.seeds[: len(self.objective.labels)]
            keys = [int(digest(["attack", seed, self.passes.forwards]), 16) >> 1 for seed in seeds]
            logits: Tensor = self.model(volumes, keys=keys)
        else:
            logits = self.model(volumes)
        self.objective.excess = getattr(self.model, "excess", None)
        if self.passes.forwards == 0:
            objective = self.objective
            check_logits(self.name, logits, objective.labels, objective.head, has_ignored=objective.counted is not None)
            if self._check_classes is not None:
                self._check_classes(objective.head.num_classes(logits.shape[1]))
            self.objective.set_target(logits.detach())
        self.passes.forwards += 1
        return logits

    def loss(self, x: Tensor) -> Tensor:
        """Returns the objective that the attacker raises on volumes `x`, `[B]`."""
        return self.objective.raised(self.logits(x))

    def success(self, x: Tensor) -> Tensor:
        """Returns the values of volumes `x` that decide between runs, `[B]`, higher is better: one forward pass, no
        gradient.

        A value is minus the mean Dice of the predicted classes or of the organs; towards a target, it is that of
        `look`.
        """
        with torch.no_grad():
            logits = self.logits(x)
            objective = self.objective
            has_truth = objective.truth is not None or objective.sign > 0
            return objective.success(logits) if has_truth else objective.compared(logits)

    def look(self, x: Tensor, render: View = lambda x: x) -> Tensor:
        """Runs one forward pass on the volumes that `render` makes of a point `x`, offers the point to `passes.best`,
        returns its values `[B]`."""
        return self.look_closely(x, render)[0]

    def look_closely(self, x: Tensor, render: View = lambda x: x) -> tuple[Tensor, Tensor]:
        """Does the same as `look` with `x` and `render`, and returns the logits too."""
        with torch.no_grad():
            logits = self.logits(render(x))
            values = self.objective.compared(logits)
            self.offer(logits, x, lambda: values)
        return values, logits

    def offer(self, logits: Tensor, x: Tensor, compared: Callable[[], Tensor]) -> None:
        """Offers volumes, or the point `x` that makes them, to `passes.best`, if set: by success of their `logits`, or
        what is `compared`."""
        best = self.passes.best
        if best is not None:
            best.offer(self.objective.success(logits) if best.by_success else compared(), x.detach())

    def gradient(
        self,
        x: Tensor,
        objective: Callable[[Tensor], Tensor] | None = None,
        *,
        of_logits: Callable[[Tensor], Tensor] | None = None,
        render: View = lambda x: x,
    ) -> Tensor:
        """Returns the gradient of an objective with respect to `x` alone, and records the objective's value.

        The objective is a function of `x`, or `of_logits` a function of the logits of the volumes that `render` makes;
        it returns one value per sample, `[B]`; by default it is `loss`. Unless `objective` is given, `x` is offered to
        `passes.best` if that is set.
        """

        def of_point(point: Tensor) -> Tensor:
            logits = self.logits(render(point))
            raised = (of_logits or self.objective.raised)(logits)
            known = raised if of_logits is None else None
            self.offer(logits, point, lambda: self.objective.compared(logits, known))
            return raised

        return self.gradient_and(x, lambda point: ((objective or of_point)(point), None))[0]

    def gradient_and_value(self, x: Tensor, render: View) -> tuple[Tensor, Tensor]:
        """Returns the gradient of `loss` at points `x`, and values `[B]` that compare the volumes that `render`
        makes."""

        def objective(point: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(render(point))
            raised = self.objective.raised(logits)
            values = self.objective.compared(logits, raised)
            self.offer(logits, point, lambda: values)
            return raised, values

        return self.gradient_and(x, objective)

    def gradient_and(self, x: Tensor, objective: Callable[[Tensor], tuple[Tensor, T]]) -> tuple[Tensor, T]:
        """Returns what `gradient` does at `x`, and beside it the second result of the objective."""
        x = x.detach().requires_grad_()
        values, besides = objective(x)
        if not values.requires_grad:
            raise UserError(
                f"{self.name}: expected logits that a gradient goes through, got detached ones: return them from the "
                "network as it computes them, or take an attack without gradients, such as square"
            )
        excess = self.objective.excess
        if excess is not None and not excess.requires_grad:
            got = "got detached ones: return them as they are computed, or set adaptive: false of the model"
            raise UserError(f"{self.name}: expected features of the detector that a gradient goes through, {got}")
        (gradient,) = torch.autograd.grad(values.sum(), x, retain_graph=excess is not None)
        self.away = None if excess is None else torch.autograd.grad(excess, x)[0]
        self.passes.gradients.append(extremes(gradient))
        self.passes.backwards += 1
        self.passes.losses.append(values.detach())
        return gradient, besides

    def draw(self, sample: Callable[..., Tensor], layout: Sequence[int] | None = None) -> Tensor:
        """Draws with `torch.rand` or `torch.randn` from each sample's own generator, in the images' dtype and device.

        Numbers are drawn in float32, so that a run in float64 has the same draws. `layout` is the shape for one sample;
        None: that of the attacked channels.
        """
        shape = tuple(layout or self.clean.shape[1:])
        draws = self.draws.stacked(sample, shape)
        if self.clean.is_cuda and not draws.is_cuda:
            draws = draws.pin_memory()  # from pageable memory the copy would wait for all steps before it
        return draws.to(self.clean, non_blocking=True)

    def given_start(self, layout: Sequence[int] | None = None) -> Tensor | None:
        """Returns the `start` of the call, or None; raises a UserError if its shape is not `[B, *layout]`."""
        start = self.given.start
        if start is None:
            return None
        expected = (len(self.clean), *(layout or self.clean.shape[1:]))
        if not isinstance(start, Tensor) or tuple(start.shape) != expected:
            got = tuple(start.shape) if isinstance(start, Tensor) else type(start).__name__
            raise UserError(f"{self.name}: expected a start of shape {expected}, got {got}")
        dtype = self.clean.dtype
        return start.to(self.clean.device, dtype.to_complex() if start.is_complex() else dtype)

    def _attacked(self, volumes: Tensor) -> Tensor:
        return volumes if self._index is None else volumes.index_select(1, self._index)


def joins_windows(model: nn.Module) -> bool:
    """True if a model maps the windows of a volume to one prediction (`freqbench.models.JointModel`)."""
    return getattr(model, "joins_windows", False) is True
