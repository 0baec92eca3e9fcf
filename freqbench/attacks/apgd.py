"""Auto-PGD.  Croce and Hein, ICML 2020, arXiv:2003.01690."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from freqbench.attacks.core.calls import Best, across
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.norms import NormAttack
from freqbench.attacks.core.parameters import PARAMETERS, SEARCH
from freqbench.attacks.core.task import Task
from freqbench.ops.heads import Head
from freqbench.ops.losses import SEQUENCES, Loss, Scope

MOMENTUM = 0.75
RHO = 0.75
# first and last step of a cosine, in radii
LONGEST = 2.0
SHORTEST = 0.05
EARLY = 0.4  # share of the steps in which `auto` may raise the margin
FAR = 20.0  # steps of a run that count whole
RULES = ("auto", "horizon")  # names of the loss `Auto`; the second was once another rule
NEAR = 0.1  # distance from the allowed suspicion within which steps do not raise it

Points = tuple[Tensor, ...]
Schedule = tuple[tuple[float, float], ...]


def checkpoints(steps: int, *, released: bool) -> list[int]:
    """Returns the numbers of steps after which the step size is reviewed: ceil(p_j * steps) below `steps`.

    p_0 = 0, p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06). The released code counts in steps: 0.22,
    0.03 and 0.06 of `steps`, each rounded down and at least 1, are the first gap, the decrease of each later gap, and
    the smallest gap.
    """
    if released:
        gap, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
        gaps = (max(gap - j * shrink, least) for j in range(steps))
        return [checkpoint for checkpoint in accumulate(gaps) if checkpoint < steps]
    percent = 22
    gap = 22
    counts: set[int] = set()
    while percent < 100:
        counts.add(-(-percent * steps // 100))
        gap = max(gap - 3, 6)
        percent += gap
    return sorted(counts - {steps})


@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack, NormAttack):
    r"""PGD with momentum whose step is halved, sample by sample, when it stops raising the loss.

    With P the projection onto the eps-ball around the clean volume and [0, 1], and :math:`\eta` = 2 eps at first:

    .. math:: z_{k+1} = P(x_k + \eta \, \mathrm{sign}(dL/dx)), \qquad
              x_{k+1} = P(x_k + \alpha (z_{k+1} - x_k) + (1 - \alpha)(x_k - x_{k-1}))

    alpha is 0.75, in the first step 1. At a checkpoint (`checkpoints`) the step is halved, and the run continues from
    its best volume, if too few of the steps since the last checkpoint raised L, or if the step was not halved there and
    the highest L has not changed since. With `norm: l2` the gradient, scaled to a root mean square of 1, takes the
    place of its sign.

    Args:
        eps_schedule: None, or radii that shrink to eps (Croce et al., ECCV 2024, arXiv:2306.12941): pairs of a factor
            of eps and a share of the steps, the last factor 1. At each radius a separate run begins at the best volume
            of the wider one, projected. Croce et al. take ((2, 0.3), (1.5, 0.3), (1, 0.4)).

        step_rule: `halving`, the rule above; `cosine`: steps shrink from 2 to 0.05 eps (`search`), which is not in the
            paper and also allows the losses `switch`, `auto` and `horizon`.

    By default `loss` is the Dice loss, which is what is scored (the paper's is the cross-entropy, `ce`), and `keep` is
    `best`. With masked losses and with `js`, the cross-entropy compares volumes and judges steps, as in the second
    paper's code.

    `start`: the additive noise in [-eps, eps] (times the schedule's first factor), `[B, C, H, W, D]`, used unchanged.

    **Variants.** `released` follows the authors' code; `paper` differs:

    - Too few rises: at most 0.75 of the steps; in the paper fewer than 0.75.
    - The loss after a step is compared with the loss after the previous step, even if the run returned to its best
      volume in between, and after the first step with 0; in the paper with the loss where the step began.
    - At the first checkpoint only rises count; in the paper a start that is still the best volume halves the step too.
    - The draw is stretched so that the largest value of each sample is eps; in the paper it stays as drawn.
    - Checkpoints are rounded differently (`checkpoints`).

    With `norm: l2` the draw is normal noise of a root mean square of eps in both variants, as in the authors' code.

    **Differs from the authors' code**: the best volume is that of highest L (their `best_loss`). By default, their
    result is an image that is misclassified; a volume has one decision for each voxel, so that rule does not apply. The
    second paper's code returns the volume of least accuracy and begins the next radius there. With `norm: l2` volumes
    are projected onto ball and [0, 1] together; their code clamps after the ball, which ends elsewhere.
    """

    name = "apgd"

    parameters = PARAMETERS | SEARCH

    steps: int = 100
    random_start: bool = True
    step_rule: str = "halving"
    eps_schedule: Schedule | None = None
    loss: str = "dice"
    keep: str = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps_schedule is None:
            return
        if min(steps for _, steps in self.stages) < 1:
            shares = " + ".join(f"{share:g}" for _, share in self.eps_schedule)
            complaint = f"expected at least one step for each share, got {self.steps} steps in shares {shares}"
            self.refuse("eps_schedule", complaint)

    @property
    def revision(self) -> int:  # type: ignore[override]  # of a part of the losses
        """3 for losses whose first step was another once, else 2."""
        return 2 + (self.loss in RULES)

    @property
    def stages(self) -> tuple[tuple[float, int], ...]:
        """Radius and number of steps of each part of a run; the last part takes the remainder of rounding."""
        schedule = self.eps_schedule or ((1.0, 1.0),)
        steps = [int(share * self.steps + 1e-9) for _, share in schedule[:-1]]
        steps.append(self.steps - sum(steps))
        return tuple((factor * self.eps, count) for (factor, _), count in zip(schedule, steps, strict=True))

    @property
    def run_passes(self) -> tuple[int, int]:
        """One forward and one backward pass per step, and one forward pass whenever the radius shrinks."""
        return self.steps + len(self.stages) - 1, self.steps

    def draw_start(self, task: Task) -> Tensor:
        """Returns uniform noise in [-eps, eps] for the volumes of `task`, in `released` stretched to eps per sample; or
        the call's `start`."""
        noise = super().draw_start(task)
        if self.norm == "l2" or self.variant == "paper" or task.given.start is not None:
            return noise
        largest = noise.abs().amax(dim=(1, 2, 3, 4), keepdim=True)
        return self.eps * (noise / largest.clamp(min=torch.finfo(noise.dtype).tiny))

    def run(self, task: Task) -> Tensor:
        """Runs the algorithm on the volumes of `task` once for each radius."""
        *wider, (eps, steps) = self.stages
        x = task.clean
        if self.random_start:
            x = x + (self.eps_schedule[0][0] if self.eps_schedule else 1.0) * self.draw_start(task)
        offered = task.passes.best
        for radius, count in wider:
            task.passes.best = Best()  # kept apart: these volumes may lie outside the ball of the result
            x = self._climb(task, x, radius, count)
            task.look(x)
            (x,) = task.passes.best.kept
        task.passes.best = offered
        return self._climb(task, x, eps, steps)

    def _climb(self, task: Task, x: Tensor, eps: float, steps: int) -> Tensor:
        radius = x.new_full((), eps)
        project = self.projection(task, eps)
        ball = Space(task.clean, radius=radius, project=project, towards=self.towards(task))
        released = self.variant == "released"
        return search(task, ball, x, steps, self.step_rule, self.loss_name, released=released)


@dataclass(frozen=True)
class Space:
    """A set of points between bounds, real or complex: voxels, errors of coefficients, multipliers."""

    centre: Tensor  # the middle of the bounds, in the layout of a point
    radius: Tensor  # half the distance of the bounds; broadcasts over a point; the first step is twice as long
    project: Callable[[Tensor], Tensor]  # to the nearest point that the threat model allows
    render: Callable[[Tensor], Tensor] = field(default=lambda voxels: voxels, kw_only=True)  # makes a point's volumes
    # turns a gradient into the step of size 1 that raises most
    towards: Callable[[Tensor], Tensor] = field(default=torch.sgn, kw_only=True)
    # turns a point into its state: what a call takes as `start` and returns as `state`
    state_of: Callable[[Tensor], Tensor] = field(default=lambda point: point, kw_only=True)
    point_of: Callable[[Tensor], Tensor] = field(default=lambda state: state, kw_only=True)  # the inverse
    # makes a state's volumes in float64, so that other code makes the same; None: its point's volumes will do
    exact: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)
    origin: float = field(default=0.0, kw_only=True)  # value of every number at which nothing changes


def search(
    task: Task, space: Space, start: Tensor, steps: int, rule: str, loss: str, *, released: bool = True
) -> Tensor:
    """Searches a space by a rule for the size of steps, from a `start` `[B, ...]`; offers every point to `Best` of
    `task` and returns the last. `released`: by the rules of the released code, else the paper's.

    `halving`: Auto-PGD (`climb`). `cosine`: its momentum, with steps that shrink along a cosine (`glide`). The loss
    `switch` raises `margin` + `dice_linear` in the first half of the steps, then `dice_linear` alone; `auto`, or
    `horizon`, is `Auto`, and towards a target `switch`.
    """
    if rule == "halving":
        return climb(task, space, start, steps, released=released)
    x = space.project(start)
    head = task.objective.head
    if loss in RULES and task.objective.leaves_truth:
        return glide(task, space, (x, x), range(steps), steps, Auto(head, steps))[0]
    if loss not in SEQUENCES:
        return glide(task, space, (x, x), range(steps), steps, head.losses[loss])[0]

    def margin_and_dice(*given: Any) -> Tensor:
        return head.losses["margin"](*given) + head.losses["dice_linear"](*given)

    half = -(-steps // 2)
    points = glide(task, space, (x, x), range(half), steps, margin_and_dice)
    return glide(task, space, points, range(half, steps), steps, head.losses["dice_linear"])[0]


class Auto:
    r"""The loss `auto` of one run: every call is the next step, and its logits tell what the steps left can still move.

    The first step raises the mean margin m of the label's foreground (above 0 a voxel is wrong) and :math:`\sum_v c_v
    m_v`, c being what a voxel's flip takes from the hard Dice (`freqbench.ops.losses.flips`); it decides the basin of
    all others (reports/strongest). Every other step raises

    .. math:: \sum_v 4 \, \sigma(-m_v / \tau) \, \sigma((m_v + R) / \tau) \, c_v \, m_v

    The weight, which has no gradient, tells whether the n - i steps left can make or undo the flip. With r half of the
    root mean square by which the last step moved the margins of the foreground, of label or prediction, where flips
    cost most, random changes add up to :math:`\tau = r \sqrt{u (n - i)}`, those of one direction to :math:`R = r u
    \sum_{k=i}^{n-1} f_k / f_{i-1}`, with the lengths f of steps. In a run of more than 20 steps each counts u = 20 / n,
    as the box does not grow with them. If after the first step random changes, with r of the voxels that are still
    right in the classes that count, exceed the root mean square of their margins, **all may fall**: `margin`, which
    raises all, takes the steps before 0.4 n. Each sample decides for itself.
    """

    def __init__(self, head: Head, steps: int) -> None:
        self._head = head
        self._steps = steps
        self._i = 0
        self._before = torch.empty(0)
        self._all_may_fall = torch.empty(0)

    def __call__(self, logits: Tensor, labels: Tensor, scope: Scope) -> Tensor:
        """Returns the objective of the next step, `[B]`."""
        i = self._i
        self._i = i + 1
        steps = self._steps
        m, own, other = self._head.flips(logits, labels, scope)
        worth = own + other
        now = m.detach()
        before = self._before
        self._before = now
        if i == 0:
            inside = scope.among(labels > 0).expand_as(m).flatten(1).to(m)
            weights = inside / inside.sum(dim=1, keepdim=True).clamp(min=1) + worth.flatten(1)
            return (weights * m.flatten(1)).sum(dim=1)
        unit = min(1.0, FAR / steps)
        change = now - before
        left = math.sqrt(unit * (steps - i))
        if i == 1:
            is_open = (own > 0) & (now < 0)
            self._all_may_fall = _rms(change, is_open) * left > _rms(now, is_open)
        r = across(_rms(change, scope.among((labels > 0) | (now > 0))), m) / 2
        spread = (r * left).clamp(min=torch.finfo(m.dtype).tiny)
        rest = unit * sum(length(k, steps) for k in range(i, steps)) / length(i - 1, steps)
        weights = 4 * torch.sigmoid(-now / spread) * torch.sigmoid((now + r * rest) / spread) * worth
        raised = (weights * m).flatten(1).sum(dim=1)
        if i >= EARLY * steps:
            return raised
        return torch.where(self._all_may_fall, self._head.margin_of(logits, labels, scope, m), raised)


def _rms(values: Tensor, among: Tensor) -> Tensor:
    """Returns the root mean square over the values of each sample that a mask holds, `[B]`; 0 if it holds none."""
    mask = among.flatten(1).to(values)
    return ((values.flatten(1).square() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sqrt()


def length(i: int, steps: int) -> float:
    """Returns the length of step i of a cosine, in radii: 2 at first, almost 0.05 at the end."""
    return SHORTEST + (LONGEST - SHORTEST) * (1 + math.cos(math.pi * i / steps)) / 2


def glide(task: Task, space: Space, points: Points, steps: range, of: int, loss: Loss) -> Points:
    r"""Takes some of a run's `of` steps in a `space` that raise the `loss` of `task`, from two `points`, the last one
    and the one before it; offers every point that it evaluates.

    Step i of n is :math:`0.05 + 0.975 (1 + \cos(\pi i / n))` radii long, from 2 down to 0.05 (a cosine as in Loshchilov
    and Hutter, ICLR 2017, arXiv:1608.03983), with the momentum of `climb`. Returns the last point and the one before.
    """
    x, previous = points
    task.objective.raises = loss
    for i in steps:
        gradient = task.gradient(x, render=space.render)
        far = length(i, of) * space.radius
        step = far * space.towards(gradient) if task.away is None else unseen_step(task, gradient, task.away, far)
        ahead = space.project(x + step)
        if i > 0:
            ahead = _with_momentum(space, x, ahead, previous)
        previous = x
        x = ahead
    return x, previous


def _with_momentum(space: Space, x: Tensor, ahead: Tensor, previous: Tensor) -> Tensor:
    """Returns the point after x: on the way `ahead`, with the last step once more."""
    return space.project(x + MOMENTUM * (ahead - x) + (1 - MOMENTUM) * (x - previous))


def unseen_step(task: Task, gradient: Tensor, away: Tensor, far: Tensor) -> Tensor:
    r"""Returns a step that raises the loss of `task`, and not the suspicion s of the network's detector above the
    allowed e; `away` is the gradient of s, in the shape of `gradient`.

    With g the gradient of the loss and a that of s, of which g loses its part along a within NEAR of e, and u(.) of a
    root mean square of 1, for s > e the second term is Newton's step, or as long as the first where s bends too much
    for it (`Detector.steps_back`). Orthogonal gradients are those of Bryniarski et al., ICLR 2022, arXiv:2106.15023:

    .. math:: far \, u\Bigl(g - \frac{\langle g, a \rangle}{\lVert a \rVert^2} a\Bigr)
              - \frac{s - e}{\lVert a \rVert^2} a
    """
    excess = 0.0 if task.objective.excess is None else task.objective.excess.item()
    square = away.abs().square().sum().clamp(min=torch.finfo(far.dtype).tiny)
    shared = (gradient.conj() * away).sum().real / square
    along = gradient - shared * away if shared > 0 and excess > -NEAR else gradient
    step = far * _unit(along)
    if excess <= 0:
        return step
    return step - (far * _unit(away) if getattr(task.model, "steps_back", False) else excess / square * away)


def _unit(values: Tensor) -> Tensor:
    """Returns real or complex values, scaled to a root mean square of 1."""
    return values / values.abs().square().mean().sqrt().clamp(min=torch.finfo(values.abs().dtype).tiny)


def climb(task: Task, space: Space, start: Tensor, steps: int, *, released: bool = True) -> Tensor:
    """Runs the algorithm of `APGD` on `task` in any space for a number of `steps` from a start `[B, ...]`; offers every
    point and returns the last.

    `released`: follow the rules of the released code; otherwise those of the paper.
    """
    x = previous = space.project(start)
    factor = x.new_full((len(x), *[1] * (x.ndim - 1)), 2.0)
    pace = Pace(steps, released=released)
    best = Best()
    for i in range(steps):
        gradient, value = task.gradient_and_value(x, space.render)
        best.offer(value, x, gradient)
        halves = pace.halves(i, value, best.values)
        if halves is not None:
            factor = torch.where(across(halves, factor), factor / 2, factor)
            x, gradient = (
                torch.where(across(halves, earlier), earlier, current)
                for earlier, current in zip(best.kept, (x, gradient), strict=True)
            )
        ahead = space.project(x + factor * space.radius * space.towards(gradient))
        if i > 0:
            ahead = _with_momentum(space, x, ahead, previous)
        previous = x
        x = ahead
    return x


class Pace:
    """Decides for each sample when to halve the step, by the released code's rules or the paper's."""

    def __init__(self, steps: int, *, released: bool) -> None:
        self._released = released
        self._checkpoints = checkpoints(steps, released=released)
        self._last = 0  # checkpoint
        self._rises = self._before = self._highest = self._halved = torch.empty(0)

    def halves(self, i: int, value: Tensor, highest: Tensor) -> Tensor | None:
        """Returns the samples that halve their step and return to their best, bool `[B]`; None between checkpoints.

        Call it after i steps, 0 included, with `value`, L at the volumes there, and the highest L so far, both `[B]`.
        """
        if i == 0:
            self._rises = torch.zeros_like(value)
            self._halved = torch.full_like(value, self._released, dtype=torch.bool)
            self._before = torch.zeros_like(value) if self._released else value
            self._highest = value
            return None
        self._rises = self._rises + (value > self._before)
        self._before = value
        if i not in self._checkpoints:
            return None
        needed = RHO * (i - self._last)
        rarely = self._rises <= needed if self._released else self._rises < needed
        stuck = ~self._halved & (highest <= self._highest)
        self._halved = rarely | stuck
        if not self._released:
            self._before = torch.where(self._halved, highest, value)
        self._rises = torch.zeros_like(value)
        self._highest = highest
        self._last = i
        return self._halved
