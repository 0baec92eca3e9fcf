"""Defines the objective that an attack raises: a loss over voxels in scope, away from the truth or towards a target."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freqbench.attacks.core.targets import Rule, target_map
from freqbench.ops.heads import SOFTMAX, Head
from freqbench.ops.losses import COMPARED_BY, EVERYTHING, LOSSES, SEQUENCES, Loss, Scope
from freqbench.ops.voxels import counted, without_ignored

WATCHED = 1e6  # worth less than any loss


@dataclass
class Objective:
    """A loss, its sign, its scope within a sample, and the labels that it compares with.

    Attributes:
        head: way in which logits become classes.
        labels: truth or target, `[B, 1, H, W, D]`; a rule replaces the truth by its target at the first forward pass.
        sign: 1, or -1 if `labels` are a target to move towards; a rule sets -1 at the first forward pass.
        scope: voxels and classes that enter the loss.
        truth: labels whose Dice selects the result of a run, even towards a target; None: the loss selects.
        raises: the loss that is raised.
        compares: the loss that volumes are compared by.
        organs: classes in the Dice; None: all.
        rule: target rule that the first forward pass has still to apply, or None.
        windows: None, or the number of windows that share one prediction (`scope: joint`). Labels and logits are then
            those of one volume, and every window has the volume's values.
        counted: voxels with a label, the only ones that count, bool `[B, 1, H, W, D]`; None: all.
        changes: true if a run raises several losses, one after another.
        excess: suspicion of the network's detector in the last pass above what the attacker allows itself; None: there
            is no detector that it knows. Above 0 a volume is worth less than all others.
    """

    labels: Tensor
    head: Head = SOFTMAX
    sign: float = 1.0
    scope: Scope = EVERYTHING
    truth: Tensor | None = None
    raises: Loss = LOSSES["dicece"]
    compares: Loss = LOSSES["dicece"]
    organs: tuple[int, ...] | None = None
    rule: Rule | None = None
    windows: int | None = None
    counted: Tensor | None = None
    changes: bool = False
    excess: Tensor | None = None

    @classmethod
    def of(cls, labels: Tensor, sign: float = 1.0, windows: int | None = None, head: Head = SOFTMAX) -> "Objective":
        """Makes the objective of a call; voxels with the label IGNORED never count, and become background."""
        counts = counted(labels)
        labels = labels if counts is None else without_ignored(labels)
        loss = head.losses["dicece"]
        scope = Scope(voxels=counts)
        return cls(labels, head, sign, scope, raises=loss, compares=loss, windows=windows, counted=counts)

    def of_samples(self, samples: list[int]) -> "Objective":
        """Returns the default objective for some samples: away from their labels."""
        counts = None if self.counted is None else self.counted[samples]
        return replace(Objective.of(self.labels[samples], head=self.head), counted=counts, scope=Scope(voxels=counts))

    @property
    def judges_by_success(self) -> bool:
        """True if the Dice selects a run's result, and not the loss.

        The Dice selects if `truth` is given. Away from the labels it also selects if windows act jointly or the loss
        changes.
        """
        return self.truth is not None or (self.leaves_truth and (self.windows is not None or self.changes))

    @property
    def leaves_truth(self) -> bool:
        """True away from the labels, false towards a target."""
        return self.sign > 0 and self.rule is None

    def aim(self, loss: str, organs: tuple[int, ...] | None, rule: Rule | None) -> None:
        """Sets loss, organs and target rule; see `Task.aim`."""
        self.changes = loss in SEQUENCES
        loss = SEQUENCES.get(loss, loss)
        self.raises = self.head.losses[loss]
        self.compares = self.head.losses[COMPARED_BY.get(loss, loss)]
        self.organs = organs
        self.rule = rule
        if organs is not None:
            voxels, outputs = self.head.of_classes(self.labels, organs)
            voxels = voxels if self.counted is None else voxels & self.counted
            self.scope = Scope(voxels=voxels, classes=None if rule else outputs)

    def set_target(self, logits: Tensor) -> None:
        """Replaces the truth by the target of the rule, if there is one; `logits` are those of the clean volumes."""
        if self.rule is not None:
            self.scope = replace(self.scope, truth=self.labels)
            self.labels = target_map(self.rule, self.labels, logits, self.head.name)
            self.sign = -1.0
            self.rule = None

    def in_place(self, labels: Tensor) -> Tensor:
        """Returns labels `[B, 1, H, W, D]`, moved like the anatomy in the last forward pass; here unmoved."""
        return labels

    def compared_with(self) -> tuple[Tensor, Scope]:
        """Returns labels and scope, moved along with the anatomy."""
        return self.labels, self.scope

    def raised(self, logits: Tensor) -> Tensor:
        """Returns the objective that the attacker raises, `[B]`, of `logits` `[B, K, H, W, D]`: the loss, or its
        negative for a target."""
        return self._of_each(self.sign * self.raises(logits, *self.compared_with()))

    def compared(self, logits: Tensor, raised: Tensor | None = None) -> Tensor:
        """Returns the values that compare volumes by their `logits`, `[B]`: the objective (`raised`, if it is known),
        or that of the loss `compares`."""
        if raised is not None and self.compares is self.raises and self.excess is None:
            return raised.detach()
        with torch.no_grad():
            return self._of_each(self._unwatched(self.sign * self.compares(logits, *self.compared_with())))

    def success(self, logits: Tensor) -> Tensor:
        """Returns minus the mean Dice of the classes predicted by `logits`, or of the organs, against the truth,
        `[B]`."""
        truth = self.in_place(self.labels if self.truth is None else self.truth)
        counts = None if self.counted is None else self.in_place(self.counted)
        return self._of_each(self._unwatched(-self.head.mean_dice(logits.detach(), truth, self.organs, counts)))

    def _unwatched(self, values: Tensor) -> Tensor:
        """Returns the values of volumes, far below all others for those that the detector suspects."""
        if self.excess is None:
            return values
        return torch.where(self.excess > 0, -WATCHED * (1 + self.excess.detach()), values)

    def is_reached(self, logits: Tensor) -> Tensor:
        """Returns bool `[B]`: true if no voxel in scope is predicted by `logits` as labelled or, for a target, if all
        are.

        If two classes share the largest logit, both count as predicted: an argmax is slow on a CPU.
        """
        labels, scope = self.compared_with()
        as_labelled = self.head.is_as_labelled(logits.detach(), labels)
        is_open = scope.among(as_labelled if self.sign > 0 else ~as_labelled)
        return self._of_each(~is_open.flatten(1).any(dim=1))

    def _of_each(self, values: Tensor) -> Tensor:
        """Repeats a volume's value for each of its windows; the gradient of their sum is that of the one value."""
        if self.windows is None:
            return values
        repeated = values.detach().expand(self.windows)
        return repeated + (values - values.detach()) / self.windows if values.requires_grad else repeated
