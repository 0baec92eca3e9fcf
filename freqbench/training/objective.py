"""Computes the losses of the objectives, and the attacked crops that they need."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqbench import models
from freqbench.attacks import Attack
from freqbench.core.errors import UserError
from freqbench.core.identity import digest, window_generator
from freqbench.job.training import FrequencyConsistency
from freqbench.models.one_volume import fast_convolutions
from freqbench.ops.dct import frequency_consistency
from freqbench.ops.heads import SOFTMAX, Head
from freqbench.ops.losses import EVERYTHING


class StepLoss(nn.Module):
    r"""Computes the loss of one step's crops, as a module, so that a data-parallel wrapper sees one forward pass.

    With L = Dice + cross-entropy (binary for regions), x the crops, x' the attacked ones and y the labels:

    .. math:: \text{clean: } L(f(x), y), \qquad \text{at: } L(f(x'), y), \qquad
              \text{vaft: } L(f(x), y) + L(f(x'), y) + w \, L_{fr}(f(x), f(x')), \qquad
              \text{trades: } L(f(x), y) + \beta \, KL(f(x) \Vert f(x'))

    `at` is the "VAFA" row of Table 6, `vaft` with the frequency consistency its "VAFA-FR" row (Hanif et al., MICCAI
    2023, arXiv:2307.07269). `trades` follows Zhang et al., ICML 2019, arXiv:1901.08573, except that attacks raise their
    own loss instead of the divergence, which is the mean over voxels. With `half` the network runs under bf16 autocast;
    losses are computed in float32."""

    def __init__(
        self,
        net: nn.Module,
        adapter: models.InputAdapter,
        consistency: FrequencyConsistency | None,
        half: bool,
        beta: float | None = None,
        head: Head = SOFTMAX,
    ) -> None:
        super().__init__()
        self._head = head
        self.net = net
        self._adapter = adapter
        self._consistency = consistency
        self._half = half
        self._beta = beta

    def forward(self, clean: Tensor | None, adversarial: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss, and its terms (NaN if missing) on `clean` crops `[B, C, h, w, d]`, on `adversarial` ones
        (which may be several times as many, in the same order), and by consistency; `labels` are integers `[B, 1, h, w,
        d]`."""
        on_clean, on_adversarial = (None if x is None else self._logits(x) for x in (clean, adversarial))
        losses: list[Tensor | None] = [None, None, None]
        for i, logits in enumerate((on_clean, on_adversarial)):
            if logits is not None:
                losses[i] = self._head.losses["dicece"](logits, _repeat_batch(labels, logits), EVERYTHING).mean()
        if on_clean is not None and on_adversarial is not None:
            on_clean = _repeat_batch(on_clean, on_adversarial)
            if self._consistency:
                block = None if self._consistency.block == "whole" else self._consistency.block
                distance = frequency_consistency(on_clean, on_adversarial, self._consistency.form, block)
                losses[-1] = self._consistency.weight * distance
            if self._beta:
                losses[1:] = None, self._beta * divergence(on_clean, on_adversarial, self._head)
        terms = [term for term in losses if term is not None]
        values = [labels.new_full((), float("nan"), dtype=torch.float32) if t is None else t.detach() for t in losses]
        return sum(terms[1:], start=terms[0]), torch.stack(values)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self._half), fast_convolutions(images):
            logits: Tensor = self._adapter.from_network(self.net(self._adapter.to_network(images)))
        return logits.float()  # [B, K, h, w, d]


def divergence(clean: Tensor, adversarial: Tensor, head: Head = SOFTMAX) -> Tensor:
    """Returns KL(clean || adversarial) of the probabilities of logits `[B, K, h, w, d]`, mean over voxels, a scalar. If
    `head` is of regions it is the sum of the divergences of each region's two probabilities."""

    def side_divergence(sign: int) -> Tensor:
        of_clean, of_adversarial = (head.log_probabilities(sign * logits) for logits in (clean, adversarial))
        return F.kl_div(of_adversarial, of_clean, log_target=True, reduction="none").sum(dim=1).mean()

    return side_divergence(1) if head.has_background else side_divergence(1) + side_divergence(-1)


def _repeat_batch(volumes: Tensor, like: Tensor) -> Tensor:
    times = len(like) // len(volumes)
    return volumes if times == 1 else volumes.repeat(times, *[1] * (volumes.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Attack whose draws depend only on `seed`, step and crops; `random_budget` draws its budget too."""

    attack: Attack
    random_budget: tuple[float, float] | None
    seed: int

    def step_attack(self, step: int) -> Attack:
        """Returns the attack of a step counted from 0."""
        name = self.attack.budget_name
        if self.random_budget is None or name is None:
            return self.attack
        drawn: dict[str, Any] = {name: float(np.random.default_rng([self.seed, step]).uniform(*self.random_budget))}
        return replace(self.attack, **drawn)

    def attack_crops(
        self, model: models.SegmentationModel, images: Tensor, labels: Tensor, step: int, numbers: Sequence[int]
    ) -> Tensor:
        """Attacks crops on the current `model` in evaluation mode, by `step` and the crops' `numbers`: `images` `[B, C,
        h, w, d]` in [0, 1], `labels` `[B, 1, h, w, d]`."""
        if (attack := self.step_attack(step)).needs_reference and len(images) < 2:
            raise UserError(f"{attack.name}: expected two crops or more a part of a step, got 1: raise batch_size")
        generators = [window_generator(self.seed, "training", number) for number in numbers]
        reference = images.roll(1, dims=0) if attack.needs_reference else None
        return attack(model, images, labels, generator=generators, reference=reference).adversarial


@dataclass(frozen=True, kw_only=True)
class MixedAdversary:
    """Several adversaries of one training, mixed as `freqbench.job.training.Union` says."""

    adversaries: tuple[Adversary, ...]
    mix: str
    shares: tuple[float, ...] | None
    seed: int

    def draw_adversary(self, number: int) -> Adversary:
        """Draws the adversary of a `random` mix that meets the crops from this number on."""
        shares = np.array(self.shares or [1] * len(self.adversaries))
        draw = np.random.default_rng(int(digest(["union", self.seed, number]), 16))
        return self.adversaries[draw.choice(len(shares), p=shares / shares.sum())]

    def attack_crops(
        self, model: models.SegmentationModel, images: Tensor, labels: Tensor, step: int, numbers: Sequence[int]
    ) -> Tensor:
        """Attacks crops as `Adversary.attack_crops` does with `model`, `images`, `labels`, `step` and `numbers`; an
        `average` returns those of one adversary after the other."""
        if self.mix == "random":
            return self.draw_adversary(numbers[0]).attack_crops(model, images, labels, step, numbers)
        volumes = [each.attack_crops(model, images, labels, step, numbers) for each in self.adversaries]
        return torch.cat(volumes) if self.mix == "average" else _pick_highest_loss(model, volumes, labels)


def _pick_highest_loss(model: models.SegmentationModel, volumes: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Takes each crop from the batch in which it has the highest loss: one forward pass a batch."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        loss = model.head.losses["dicece"]
        losses = torch.stack([loss(model(batch), labels, EVERYTHING) for batch in volumes])  # [k, B]
    model.train(was_training)
    return torch.stack(list(volumes))[losses.argmax(dim=0), torch.arange(len(labels), device=labels.device)]
