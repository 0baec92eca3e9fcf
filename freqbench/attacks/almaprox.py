"""ALMA prox, minimal perturbations.  Rony, Pesquet and Ben Ayed, CVPR 2023, arXiv:2206.07179."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from freqbench.attacks.core.attack import Attack
from freqbench.attacks.core.calls import across
from freqbench.attacks.core.parameters import INTENSITY_STEP, PARAMETERS, SCOPES_WITHOUT_JOINT
from freqbench.attacks.core.targets import LEAST_LIKELY, Rule
from freqbench.attacks.core.task import Task
from freqbench.core.errors import UserError
from freqbench.ops.heads import Head
from freqbench.ops.projections import linf_prox

FIRST_MULTIPLIER = 1.0
MULTIPLIERS = (1e-12, 1.0)
FIRST_PENALTY = 0.01
LARGEST_PENALTY = 1e12
CHECKED_EVERY = 10
ENOUGH = 0.95
GROWTH = 2.0
SMOOTHING = 0.8
SCALES = (0.1, 1.0)
SCALE_RATE = 0.02
TOLERANCE = 1e-4
LAST_STEP = 0.1  # relative to the first


@dataclass(frozen=True, kw_only=True)
class ALMAProx(Attack):
    r"""Seeks the smallest L-infinity perturbation that turns a share of the organs' voxels wrong; no radius is given.

    Every voxel v that counts is a constraint, and d = x - clean is kept small:

    .. math:: \min_d \lVert d \rVert_\infty \quad \text{such that} \quad
              c_v = w \, \frac{z_y - \max_{i \ne y} z_i + 10^{-4}}{z_{\pi_1} - z_{\pi_3}} \le 0, \quad 0 \le x \le 1

    with the logits z of the voxel, its label y and the order pi of logits from the largest down. Each step descends the
    augmented Lagrangian :math:`\sum_v P(c_v; \mu_v, \rho_v)` in the metric H, the root of a running mean of squared
    gradients, and ends with the proximity operator of the norm in the same metric (`freqbench.ops.projections`):

    .. math:: P(c) = \mu c + \mu \rho c^2 + \tfrac16 \rho^2 c^3 \;\; (c \ge 0), \qquad
              P(c) = \frac{\mu c}{1 - \max(\rho, 1) c} \;\; (c < 0)

    The multiplier mu follows P'(c), smoothed; every 10 steps rho doubles for a voxel that was neither wrong in between
    nor came 5 % nearer; the scale w, in [0.1, 1], falls by 2 % per step while the share is reached, and rises
    otherwise. In step i of T the voxels with the largest c are left out, up to (1 - share) i / (T - 1) of those that
    count. From the first success on, or from T / 2 on, the step length falls as a hyperbola to a tenth.

    The result is the smallest change that reaches the share of wrong voxels, otherwise the one with the most wrong
    voxels; the record's `linf` is its size, and so is `smallest_linf` if every window reached the share. The share is
    taken of each window; a window without voxels that count stays unchanged.

    Args:
        share: share of the counting voxels that must be wrong (or at the target) for a success, in [0, 1].
        step_size: length of the first step, on the [0, 1] intensity scale.
        organs: class indices; only voxels whose true label is one of them count. None: every class but background; with
            `targeted`, when no truth is given, every voxel.
        target: as in `GradientAttack`.

    **Variants.** `paper` descends P. `released`: the authors' code (jeromerony/adversarial-library), whose derivative
    of P has mu c instead of mu for c >= 0.

    **Differs from the paper**: by default only the voxels of organs count: a volume is mostly background, so wrong air
    alone could make 99 % of its voxels wrong.

    **Differs from the authors' code**: towards a target, the target's logit must lead by 1e-4, while theirs may trail
    by as much; the mean of the third and fourth logit is the third alone for a model of three classes; with two classes
    c is the difference of logits alone. rho ends at 1e12, and squared gradients are summed in float64, because float32
    overflows there. The proximity operator halves an interval; theirs cuts it by thirds.
    """

    name = "almaprox"
    threat_model = "linf-minimal"
    budget_name = "share"
    variants = ("paper", "released")
    scopes = SCOPES_WITHOUT_JOINT
    revision = 2  # 1: every voxel counted
    parameters = PARAMETERS | {"step_size": INTENSITY_STEP}

    share: float = 0.99
    steps: int = 500
    step_size: float = 0.001
    organs: tuple[int, ...] | None = None
    target: Rule | None = None
    variant: str = "paper"

    @property
    def passes(self) -> tuple[int, int]:
        """One forward and one backward pass per step; the last step's volume is not evaluated."""
        return self.steps + (self.target == LEAST_LIKELY), self.steps

    def check_head(self, head: Head) -> None:
        """Refuses a `head` of regions, as each voxel has one constraint."""
        if not head.has_background:
            raise UserError(f"{self.name}: expected exclusive classes, got a network of regions: take apgd")
        super().check_head(head)

    def prepare(self, task: Task) -> None:
        """Sets organs and target rule of `task`; without organs, all voxels but the truth's background count."""
        foreground = task.objective.labels > 0
        task.aim("ce", self.organs, self.target)
        if self.organs is None and not self.targeted:
            task.objective.scope = replace(task.objective.scope, voxels=foreground)

    def perturb(self, task: Task) -> Tensor:
        """Runs the paper's iteration on the volumes of `task`."""
        clean = task.clean
        low = -clean
        high = 1 - clean
        delta = torch.zeros_like(clean)
        squares = torch.zeros_like(clean, dtype=torch.float64)
        lagrangian = Lagrangian(self, task)
        smallest = Smallest(self, clean, lagrangian.is_empty)
        for i in range(self.steps):
            objective = partial(self._objective, task, lagrangian, smallest, i)
            gradient = task.gradient((clean + delta).clamp(0, 1), objective)
            squares = SMOOTHING * squares + (1 - SMOOTHING) * gradient.double().square()
            metric = (squares / (1 - SMOOTHING ** (i + 1))).sqrt().clamp(min=1e-8).to(clean)
            step = smallest.step_length(i).to(clean)
            delta = linf_prox(delta + across(step, delta) * gradient / metric, step, metric, low, high)
        task.state = smallest.size
        return smallest.images

    def measured(self, clean: Tensor, state: Tensor | None) -> Mapping[str, float]:
        """Returns the size of the smallest change of `clean` volumes by their `state`, the change of each; infinite if
        it did not reach its share in some window."""
        return {} if state is None else {"smallest_linf": float(state.max())}

    def _objective(self, task: Task, lagrangian: "Lagrangian", smallest: "Smallest", i: int, x: Tensor) -> Tensor:
        """Returns minus the Lagrangian, after its multipliers have followed the volume."""
        logits = task.logits(x)
        violation, reached = violations(logits, task.objective.labels, self.targeted or self.target is not None)
        enough = smallest.look(i, lagrangian.share_of(reached), x.detach())
        return -lagrangian.value(i, violation, reached, enough)


def violations(logits: Tensor, labels: Tensor, towards: bool) -> tuple[Tensor, Tensor]:
    """Returns each voxel's violation of its constraint on `logits` `[B, K, H, W, D]` and a flag of success, both `[B,
    1, H, W, D]`.

    A violation above 0 is the distance to success. `towards`: the labels are the target, not the truth to leave.
    """
    num_classes = logits.shape[1]
    top = logits.topk(min(num_classes, 4 if towards else 3), dim=1).values
    label_logit = logits.gather(1, labels)
    margin = label_logit - torch.where(label_logit >= top[:, :1], top[:, 1:2], top[:, :1])
    if towards:
        margin = -margin
    lacking = margin + TOLERANCE
    if num_classes > 2:
        lacking = lacking / (top[:, :1] - top[:, 2:].mean(dim=1, keepdim=True) + 1e-8)
    return lacking, margin.detach() < 0


class Lagrangian:
    """The multipliers mu and penalties rho of every voxel, and the scale of each sample's constraints."""

    def __init__(self, attack: ALMAProx, task: Task) -> None:
        self._attack = attack
        labels = task.objective.labels
        voxels = task.objective.scope.voxels
        self._counts = torch.ones_like(labels, dtype=torch.bool) if voxels is None else voxels
        self._number = self._counts.flatten(1).sum(dim=1)
        self._left_out = (1 - attack.share) * self._number.double()
        self._most_left_out = float(self._left_out.max())
        self._multipliers = torch.full_like(labels, FIRST_MULTIPLIER, dtype=torch.float64)
        self._penalties = torch.full_like(labels, FIRST_PENALTY, dtype=torch.float64)
        self._scale = torch.ones_like(self._number, dtype=torch.float64)
        self._before = torch.zeros_like(self._multipliers)
        self._ever = torch.zeros_like(self._counts)

    @property
    def is_empty(self) -> Tensor:
        """True for samples without a voxel that counts, bool `[B]`."""
        return self._number == 0

    def share_of(self, reached: Tensor) -> Tensor:
        """Returns the share of counting voxels that are reached, float64 `[B]`."""
        return (reached & self._counts).flatten(1).sum(dim=1).double() / self._number.clamp(min=1)

    def value(self, i: int, violation: Tensor, reached: Tensor, enough: Tensor) -> Tensor:
        """Returns the sum of P over a sample's voxels, `[B]`, with the variant's own slope as its derivative."""
        rate = torch.where(enough, 1 / (1 + SCALE_RATE), 1 / (1 - SCALE_RATE))
        self._scale = (self._scale * rate).clamp(*SCALES)
        scaled = across(self._scale, violation).to(violation) * violation
        c = scaled.detach().double()
        counts = self._counts & (c <= self._highest(i, c))
        self._follow(i, c, counts, reached)
        slope = self._slope(c) * counts
        linear = (slope.to(scaled) * scaled).flatten(1).sum(dim=1)
        exact = (self._penalty(c) * counts).flatten(1).sum(dim=1)
        return linear + (exact.to(linear) - linear.detach())

    def _highest(self, i: int, c: Tensor) -> Tensor:
        """Returns the largest constraint that is not left out, `[B, 1, 1, 1, 1]`."""
        growth = i / max(self._attack.steps - 1, 1)
        most = int(self._most_left_out * growth + 1e-9)
        if most == 0:
            return c.new_full((len(c), 1, 1, 1, 1), torch.inf)
        down = c.masked_fill(~self._counts, -torch.inf).flatten(1).topk(most, dim=1).values
        rank = (self._left_out * growth + 1e-9).long()
        largest = down.gather(1, (rank - 1).clamp(min=0)[:, None])[:, 0]
        return across(torch.where(rank > 0, largest, torch.inf), c)

    def _follow(self, i: int, c: Tensor, counts: Tensor, reached: Tensor) -> None:
        self._ever = self._ever | reached
        if i == 0:
            self._before = c
            return
        if (i + 1) % CHECKED_EVERY == 0:
            is_better = c * counts <= ENOUGH * self._before
            grown = (GROWTH * self._penalties).clamp(max=LARGEST_PENALTY)
            self._penalties = torch.where(self._ever | is_better, self._penalties, grown)
            self._before = c
            self._ever = torch.zeros_like(self._ever)
        moved = SMOOTHING * self._multipliers + (1 - SMOOTHING) * self._slope(c) * counts
        self._multipliers = moved.clamp(*MULTIPLIERS)

    def _penalty(self, c: Tensor) -> Tensor:
        mu = self._multipliers
        rho = self._penalties
        below = mu * c / (1 - rho.clamp(min=1) * c.clamp(max=0))
        return torch.where(c >= 0, mu * c + mu * rho * c.square() + rho.square() * c**3 / 6, below)

    def _slope(self, c: Tensor) -> Tensor:
        mu = self._multipliers
        rho = self._penalties
        first = mu if self._attack.variant == "paper" else mu * c
        below = mu / (1 - rho.clamp(min=1) * c.clamp(max=0)).square()
        return torch.where(c >= 0, first + 2 * mu * rho * c + (rho * c).square() / 2, below)


class Smallest:
    """Keeps the smallest change so far that reaches the share, sample by sample, without waiting for the device."""

    def __init__(self, attack: ALMAProx, clean: Tensor, is_empty: Tensor) -> None:
        self.images = clean
        self._is_empty = is_empty
        self._attack = attack
        self._clean = clean
        self._size = clean.new_full((len(clean),), torch.inf)
        self._share = torch.zeros_like(self._size, dtype=torch.float64)
        self._succeeded = torch.zeros_like(self._size, dtype=torch.bool)
        self._since = torch.full_like(self._share, attack.steps // 2)

    def look(self, i: int, share: Tensor, images: Tensor) -> Tensor:
        """Keeps the samples that are better than before; returns the flag of those that reach the share, bool `[B]`."""
        size = (images - self._clean).abs().flatten(1).amax(dim=1)
        enough = share >= self._attack.share
        nearer = ~self._succeeded & (share >= self._share.clamp(max=self._attack.share))
        better = (enough & (size <= self._size)) | nearer
        if i < self._attack.steps // 2:
            self._since = torch.where(enough & ~self._succeeded, float(i), self._since)
        self._succeeded = self._succeeded | enough
        self._size = torch.where(better, size, self._size)
        self._share = torch.where(better, share, self._share)
        self.images = torch.where(across(better, images), images, self.images)
        return enough

    @property
    def size(self) -> Tensor:
        """Size of the smallest change, `[B]`: infinite if none reached the share, 0 if no voxel counts."""
        return self._size.masked_fill(~self._succeeded, torch.inf).masked_fill(self._is_empty, 0)

    def step_length(self, i: int) -> Tensor:
        """Returns the length of step i, `[B]`."""
        slack = LAST_STEP / (1 - LAST_STEP) * (self._attack.steps - self._since).clamp(min=1)
        return self._attack.step_size * slack / ((i - self._since).clamp(min=0) + slack)
