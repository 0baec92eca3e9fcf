"""Clean training of one network: AdamW on Dice + cross-entropy over random crops.

The recipe is that of the papers (Hanif et al., MICCAI 2023, arXiv:2307.07269, and its released code): linear warm-up,
cosine decay, the best weights by mean foreground Dice.
Differs from the released code: everything is seeded; Dice chooses without the background; mixed precision on CUDA is
bfloat16, which needs no loss scaling; crops come from different volumes instead of one volume a step.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from freqbench import models
from freqbench.errors import UserError
from freqbench.identity import digest
from freqbench.interrupt import deferred_interrupt
from freqbench.metrics import dice
from freqbench.ops.losses import dice_ce
from freqbench.storage import join
from freqbench.training.crops import CropSampler
from freqbench.training.recipe import Augmentation, ModelRecipe, Schedule
from freqbench.training.state import BEST, State
from freqbench.types import Case

Seen = Callable[[State], None]


@dataclass(frozen=True, kw_only=True)
class CleanTraining:
    """What shapes the weights of one network.

    Attributes:
        model: architecture, arguments and ROI.
        schedule: steps, crops a step, learning rate.
        augmentation: of the crops.
        seed: of weights, crops and augmentation.
        num_classes: background included.
        half: store weights in half precision.
        record: what the stored file says of its training: data, seed, schedule and augmentation among it.
        fingerprints: of the cases of the train and the select list, which the file names too, so that whoever scores
            the network can tell them; `record` has a digest of them.
    """

    model: ModelRecipe
    schedule: Schedule
    augmentation: Augmentation
    seed: int
    num_classes: int
    half: bool
    record: dict[str, Any]
    fingerprints: dict[str, list[str]]

    @property
    def identity(self) -> str:
        """16 hex digits of all that shapes the weights; a time limit only cuts the same path short."""
        return digest([self.model.model_dump(include={"arch", "args", "roi"}), self.record])

    def new_net(self) -> nn.Module:
        """The network with the weights that the seed draws."""
        roi = self.adapter.in_network_order(self.model.roi)
        return models.build(self.model.arch, self.num_classes, roi, self.model.args, self.seed).train()

    @property
    def adapter(self) -> models.InputAdapter:
        """The axis order in which the network is used later, so that it is trained in it."""
        return models.InputAdapter(axes=models.MODELS[self.model.arch].axes)


def learning_rate(step: int, schedule: Schedule) -> float:
    """The rate of a step counted from 0: linear up to `lr` over the warm-up, then `lr` (1 + cos(pi t)) / 2.

    >>> schedule = Schedule(steps=10, warmup_steps=2, lr=1.0)
    >>> [round(learning_rate(step, schedule), 3) for step in (0, 1, 2, 6)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < schedule.warmup_steps:
        return schedule.lr * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / (schedule.steps - schedule.warmup_steps)
    return schedule.lr * (1 + math.cos(math.pi * done)) / 2


def train_clean(
    training: CleanTraining, train: Sequence[Case], select: Sequence[Case], folder: str, seen: Seen
) -> State:
    """Train one network, or go on from `last.pt`, until its steps or minutes are used up.

    Args:
        training: the recipe.
        train: cases to learn from.
        select: cases that choose the best weights, kept as `best.safetensors`.
        folder: of the model, below OUT: `last.pt` (to resume), `log.csv`, `best.safetensors`.
        seen: called after every step.

    Returns:
        The end state. An interrupted and resumed run ends with the weights of an uninterrupted one, to the bit on the
        CPU at equal threads.

    Raises:
        UserError: the loss is not finite.
        KeyboardInterrupt: Ctrl-C; the step in hand was finished and saved.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    schedule = training.schedule
    net = training.new_net().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    state = State(net=net, optimizer=optimizer)
    state.restore(folder, training.identity)
    sampler = CropSampler(train, training.model.roi, training.augmentation, training.seed)
    limit = math.inf if schedule.max_minutes is None else 60 * schedule.max_minutes
    with deferred_interrupt() as interrupt:
        while state.step < schedule.steps and state.seconds < limit:
            began = time.perf_counter()
            images, labels = (volumes.to(device) for volumes in sampler.batch(state.step, schedule.batch_size))
            rate = learning_rate(state.step, schedule)
            state.losses.append(_step(state, images, labels, rate, training))
            state.step += 1
            state.seconds += time.perf_counter() - began
            if not math.isfinite(state.losses[-1]):
                raise UserError(f"{training.model.name}: the loss is {state.losses[-1]} at step {state.step}: lower lr")
            if state.step % schedule.validate_every == 0 or state.step == schedule.steps or state.seconds >= limit:
                _validate(training, state, select, folder, rate)
            seen(state)
            if interrupt.requested:
                state.save(folder, training.identity)
                raise KeyboardInterrupt
    return state


def _step(state: State, images: Tensor, labels: Tensor, rate: float, training: CleanTraining) -> float:
    """One step of the optimizer at a learning rate; returns the loss before it."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    on_cuda = images.device.type == "cuda"
    with torch.random.fork_rng(devices=[images.device] if on_cuda else []):
        torch.manual_seed(int(digest(["dropout", training.seed, state.step]), 16) >> 1)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=on_cuda):
            logits = training.adapter.from_network(state.net(training.adapter.to_network(images)))  # [B, K, h, w, d]
    loss = dice_ce(logits.float(), labels).mean()
    torch.autograd.backward(loss)
    state.optimizer.step()
    return float(loss.detach())


def _validate(training: CleanTraining, state: State, select: Sequence[Case], folder: str, rate: float) -> None:
    """Measure the select list, keep the best weights and save."""
    state.net.eval()
    model = models.SegmentationModel(state.net, training.model.roi, adapter=training.adapter)
    found = mean_foreground(case_dice(model, select, training.num_classes))
    state.net.train()
    state.log.append((state.step, rate, float(np.mean(state.losses)), found))
    state.losses = []
    better = found > state.dice_select
    if better:
        state.dice_select = found
        state.best = {key: tensor.detach().cpu().clone() for key, tensor in state.net.state_dict().items()}
    state.save(folder, training.identity)
    if better:
        save_best(training, state, folder, {"dice_select": found})


def save_best(training: CleanTraining, state: State, folder: str, found: dict[str, Any]) -> None:
    """Write `best.safetensors`: the best weights, what builds the network, and how it was trained."""
    metadata = {
        "arch": training.model.arch,
        "args": training.model.args,
        "roi": list(training.model.roi),
        "num_classes": training.num_classes,
        "training": training.record | {"fingerprints": training.fingerprints} | found,
    }
    models.save_checkpoint(join(folder, BEST), state.best, metadata, half=training.half)


def case_dice(model: models.SegmentationModel, cases: Sequence[Case], num_classes: int) -> npt.NDArray[np.float64]:
    """Dice of every case and class, `[N, K]`, NaN where a case's label lacks the class."""
    device = next(model.parameters()).device
    found = []
    with torch.no_grad():
        for case in cases:
            pred = models.predict(model, case.image.to(device)).cpu()
            found.append(dice(pred, case.label, num_classes))
    return np.stack(found)


def mean_foreground(scores: npt.NDArray[np.float64]) -> float:
    """Mean over cases of each case's mean over the foreground classes that it has; 0 where no case has any."""
    foreground = scores[:, 1:]
    has = ~np.isnan(foreground)
    cases = has.any(axis=1)
    if not cases.any():
        return 0.0
    sums = np.where(has, foreground, 0).sum(axis=1)
    return float((sums[cases] / has.sum(axis=1)[cases]).mean())
