"""Computes the losses of the three objectives, and the attacked crops that they need."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from freqbench import models
from freqbench.attacks import Attack
from freqbench.core.errors import UserError
from freqbench.core.identity import window_generator
from freqbench.job.training import FrequencyConsistency
from freqbench.ops.dct import frequency_consistency
from freqbench.ops.losses import dice_ce


class Objective(nn.Module):
    r"""Computes the loss of one step's crops, as a module, so that a data-parallel wrapper sees one forward pass.

    With L = Dice + cross-entropy, x the crops, x' the attacked ones and y the labels:

    .. math:: \text{clean: } L(f(x), y), \qquad \text{at: } L(f(x'), y), \qquad
              \text{vaft: } L(f(x), y) + L(f(x'), y) + w \, L_{fr}(f(x), f(x'))

    `at` is the "VAFA" row of Table 6, `vaft` with the frequency consistency its "VAFA-FR" row (Hanif et al., MICCAI
    2023, arXiv:2307.07269). With `half` the network runs under bf16 autocast; losses are computed in float32.
    """

    def __init__(
        self, net: nn.Module, adapter: models.InputAdapter, consistency: FrequencyConsistency | None, half: bool
    ) -> None:
        super().__init__()
        self.net = net
        self._adapter = adapter
        self._consistency = consistency
        self._half = half

    def forward(self, clean: Tensor | None, adversarial: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss and its terms (NaN if missing): on clean crops, on attacked ones, the weighted consistency.

        Crops are `[B, C, h, w, d]`, None: without that term; labels integers `[B, 1, h, w, d]`.
        """
        on_clean, on_adversarial = (None if x is None else self._logits(x) for x in (clean, adversarial))
        losses = [None if logits is None else dice_ce(logits, labels).mean() for logits in (on_clean, on_adversarial)]
        losses.append(None)
        if self._consistency and on_clean is not None and on_adversarial is not None:
            block = None if self._consistency.block == "whole" else self._consistency.block
            distance = frequency_consistency(on_clean, on_adversarial, self._consistency.form, block)
            losses[-1] = self._consistency.weight * distance
        terms = [term for term in losses if term is not None]
        values = [labels.new_full((), float("nan"), dtype=torch.float32) if t is None else t.detach() for t in losses]
        return sum(terms[1:], start=terms[0]), torch.stack(values)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self._half):
            logits: Tensor = self._adapter.from_network(self.net(self._adapter.to_network(images)))
        return logits.float()  # [B, K, h, w, d]


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Attack whose draws depend only on `seed`, step and crops; `random_budget` draws its budget too."""

    attack: Attack
    random_budget: tuple[float, float] | None
    seed: int

    def at_step(self, step: int) -> Attack:
        """Returns the attack of a step counted from 0."""
        name = self.attack.budget_name
        if self.random_budget is None or name is None:
            return self.attack
        drawn: dict[str, Any] = {name: float(np.random.default_rng([self.seed, step]).uniform(*self.random_budget))}
        return replace(self.attack, **drawn)

    def attacked(
        self, model: models.SegmentationModel, images: Tensor, labels: Tensor, step: int, numbers: Sequence[int]
    ) -> Tensor:
        """Attacks crops in [0, 1] on the current network in evaluation mode, and restores its mode.

        Draws depend on `step`, counted from 0, and on the `numbers` of the crops.
        """
        attack = self.at_step(step)
        if attack.needs_reference and len(images) < 2:
            raise UserError(f"{attack.name}: expected two crops or more a part of a step, got 1: raise batch_size")
        generators = [window_generator(self.seed, "training", number) for number in numbers]
        reference = images.roll(1, dims=0) if attack.needs_reference else None
        return attack(model, images, labels, generator=generators, reference=reference).adversarial
