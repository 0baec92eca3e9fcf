"""Says what an attack raises of logits: a loss over labels in scope, away from the truth or towards a target."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freqbench.attacks.core.targets import Rule, target_map
from freqbench.ops.losses import COMPARED_BY, EVERYTHING, LOSSES, Loss, Scope, is_as_labelled
from freqbench.ops.overlap import mean_dice


@dataclass(kw_only=True)
class Objective:
    """A loss, its sign, what of a sample it looks at, and the labels that it compares with.

    Attributes:
        labels: truth or target, `[B, 1, H, W, D]`; a rule's target from the first forward pass on.
        sign: 1, or -1 where `labels` are a target to approach; of a rule from the first forward pass on.
        scope: what of a sample the loss looks at.
        truth: labels whose Dice decides which volumes of a run are its result, wherever it aims; None: its loss.
        raises: the loss that is raised.
        compares: the loss that volumes are compared by.
        organs: the only classes in the Dice; None: all.
        rule: of a target that is still to be made, in the first forward pass.
    """

    labels: Tensor
    sign: float = 1.0
    scope: Scope = EVERYTHING
    truth: Tensor | None = None
    raises: Loss = LOSSES["dicece"]
    compares: Loss = LOSSES["dicece"]
    organs: tuple[int, ...] | None = None
    rule: Rule | None = None

    def aim(self, loss: str, organs: tuple[int, ...] | None, rule: Rule | None) -> None:
        """See `Task.aim`."""
        self.raises, self.compares = LOSSES[loss], LOSSES[COMPARED_BY.get(loss, loss)]
        self.organs, self.rule = organs, rule
        if organs is not None:
            classes = torch.tensor(organs, device=self.labels.device)
            voxels = torch.isin(self.labels, classes)
            self.scope = Scope(voxels=voxels, classes=None if rule else classes)

    def set_target(self, logits: Tensor) -> None:
        """Replace the truth by the target of the rule, if there is one; `logits` are those of the clean volumes."""
        if self.rule is not None:
            self.scope = replace(self.scope, truth=self.labels)
            self.labels = target_map(self.rule, self.labels, logits)
            self.sign, self.rule = -1.0, None

    def in_place(self, labels: Tensor) -> Tensor:
        """Labels `[B, 1, H, W, D]` where the volumes that were looked at last show what they label."""
        return labels

    def compared_with(self) -> tuple[Tensor, Scope]:
        """Labels and scope where the volumes show them."""
        return self.labels, self.scope

    def raised(self, logits: Tensor) -> Tensor:
        """What the attacker raises of logits, `[B]`: the loss, or its negative for a target."""
        return self.sign * self.raises(logits, *self.compared_with())

    def compared(self, logits: Tensor, raised: Tensor | None = None) -> Tensor:
        """What volumes are compared by, `[B]`: what is raised, but for losses that do not say which is worse."""
        if raised is not None and self.compares is self.raises:
            return raised.detach()
        with torch.no_grad():
            return self.sign * self.compares(logits, *self.compared_with())

    def success(self, logits: Tensor) -> Tensor:
        """Minus the mean Dice of the predicted classes, or of the organs, against the truth, `[B]`."""
        truth = self.in_place(self.labels if self.truth is None else self.truth)
        return -mean_dice(logits.detach(), truth, self.organs)

    def is_reached(self, logits: Tensor) -> Tensor:
        """Tells whether no voxel in scope is predicted as labelled, or all are as the target says; bool `[B]`.

        Where two classes share the largest logit, both are taken as predicted: an argmax is slow on a CPU.
        """
        labels, scope = self.compared_with()
        as_labelled = is_as_labelled(logits.detach(), labels)
        is_open = scope.among(as_labelled if self.sign > 0 else ~as_labelled)
        return ~is_open.flatten(1).any(dim=1)
