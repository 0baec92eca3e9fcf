"""Trains one network: AdamW over random crops, linear warm-up, cosine decay, keeping the best weights of validation.
After Hanif et al., MICCAI 2023, arXiv:2307.07269. Differs from the released code: everything is seeded; Dice chooses
without the background; mixed precision on CUDA is bfloat16, which needs no loss scaling; crops come from different
volumes instead of one volume a step; attacked crops are clamped to [0, 1] first, which augmentation may leave."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from freqbench import models
from freqbench.attacks import Attack
from freqbench.core.errors import UserError
from freqbench.core.files.storage import join
from freqbench.core.identity import digest
from freqbench.core.interrupt import deferred_interrupt
from freqbench.core.types import Case, Outputs, Shape
from freqbench.engine.attacking import Needs, attack_case
from freqbench.job.training import Augmentation, ModelRecipe, TrainingSchedule
from freqbench.metrics import dice
from freqbench.ops.heads import HEADS
from freqbench.training.crops import Cases, CropSampler, load_batches
from freqbench.training.objective import Adversary, MixedAdversary, StepLoss
from freqbench.training.state import BEST, Row, State

Numbered = Sequence[tuple[int, Case]]
Seen = Callable[[State], None]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NetworkTraining:
    """Settings that shape the weights of one network."""

    model: ModelRecipe
    schedule: TrainingSchedule
    augmentation: Augmentation
    seed: int
    num_classes: int
    num_channels: int
    outputs: Outputs
    half: bool
    adversary: Adversary | MixedAdversary | None
    quick: tuple[Attack, ...]  # the attacks under which the select list is predicted too
    choose_by: str
    start: str | None  # the checkpoint to begin with; None: weights that the seed draws
    record: dict[str, Any]  # facts of its training in the stored file: data, seed, schedule, augmentation and more
    origin: str | None  # of the checkpoint to begin with: its `method` where the job trains it, else its sha256
    facts: dict[str, Any]  # further facts in the stored file: class names, preprocessing, licence
    fingerprints: dict[str, list[str]]  # of the cases that trained and selected the weights, for whoever scores them
    loaders: int

    @property
    def identity(self) -> str:
        """Digest (16 hex digits) of all settings that shape the weights; a time limit only cuts the same path short."""
        return digest([self.shape, self.record])

    @property
    def method(self) -> str:
        """Digest (16 hex digits) without seed and job's name, which replicates of one training share."""
        shared = {key: value for key, value in self.record.items() if key not in ("job", "seed", "start")}
        return digest([self.shape, shared, self.origin])

    @property
    def shape(self) -> dict[str, Any]:
        """Settings that shape the network."""
        return {"arch": self.arch, "args": self.args, "roi": self.roi}

    @property
    def arch(self) -> str:
        """Architecture, a name of MODELS."""
        return str(self.model.arch)

    @property
    def args(self) -> dict[str, Any]:
        """Arguments of the architecture that the job gives."""
        return self.model.args or {}

    @property
    def roi(self) -> tuple[int, int, int]:
        """Voxels of a crop on each side."""
        return self.model.roi or (96, 96, 96)

    @property
    def adapter(self) -> models.InputAdapter:
        """Axis order in which the network is used later and is therefore trained."""
        return models.InputAdapter(axes=models.MODELS[self.arch].axes)

    def entry(self, checkpoint: str) -> models.ModelEntry:
        """Makes the entry of a benchmark job for the network with the weights of a `checkpoint`."""
        outputs = None if self.outputs == "softmax" else self.outputs
        return models.ModelEntry(name=self.model.name, checkpoint=checkpoint, outputs=outputs, **self.shape)

    def resolve(self, checkpoint: str, roi: Shape | None = None) -> models.ModelSpec:
        """Resolves the network with the weights of a `checkpoint`, or `random`; `roi` replaces its own."""
        entry = self.entry(checkpoint).model_copy(update={"roi": roi or self.roi})
        return models.resolve(entry, self.num_classes, self.num_channels)

    @property
    def num_outputs(self) -> int:
        """Outputs of the network: of regions, none for the background."""
        return self.num_classes - (self.outputs == "sigmoid")

    def new_net(self) -> nn.Module:
        """Builds the network with its initial weights."""
        if self.start is not None:
            return models.load(self.resolve(self.start), torch.device("cpu")).net.train().requires_grad_()
        roi = self.adapter.network_order(self.roi)
        return models.build(self.arch, self.num_outputs, roi, self.args, self.seed, self.num_channels).train()


def learning_rate(step: int, schedule: TrainingSchedule) -> float:
    """Returns the rate of a step counted from 0: linear up to `lr` over the warm-up, then `lr` (1 + cos(pi t)) / 2.

    >>> schedule = TrainingSchedule(steps=10, warmup_steps=2, lr=1.0)
    >>> [round(learning_rate(step, schedule), 3) for step in (0, 1, 2, 6)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < schedule.warmup_steps:
        return schedule.lr * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / (schedule.steps - schedule.warmup_steps)
    return schedule.lr * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True, kw_only=True)
class Team:
    """Place of a process (from 0) among those of `torch.distributed`, and its device; alone it exchanges nothing."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def parallel(self, objective: StepLoss) -> nn.Module:
        """Wraps the objective so that its gradients are means over the team."""
        if self.size == 1:
            return objective
        return nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)

    def local_gradients(self, objective: nn.Module, wanted: bool) -> AbstractContextManager[None]:
        """Context in which, if wanted, gradients of a `parallel` objective are added up locally only."""
        if wanted and isinstance(objective, nn.parallel.DistributedDataParallel):
            return objective.no_sync()
        return nullcontext()

    def mean(self, values: Sequence[float]) -> list[float]:
        """Averages each of the `values` over the team."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return list((total / self.size).tolist())

    def gather(self, scores: Mapping[int, Scores]) -> Scores:
        """Gathers the team's rows of `scores`, `[N, K]`, in the order of their numbers."""
        parts = [dict(scores)] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(parts, dict(scores))
        rows: dict[int, Scores] = {}
        for part in parts:
            rows |= part
        return np.stack([rows[number] for number in sorted(rows)])


ALONE = Team()


class Trainer:
    """Trains one network on one device, a step at a time; arguments as in `fit`."""

    def __init__(self, training: NetworkTraining, folder: str, team: Team) -> None:
        self.training = training
        self.folder = folder
        self.team = team
        schedule = training.schedule
        net = training.new_net().to(team.device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
        recipe = training.model
        averaged = None
        if recipe.ema:
            average = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            averaged = AveragedModel(net, multi_avg_fn=average)
        self.state = State(net=net, optimizer=optimizer, averaged=averaged)
        self.state.restore(folder, training.identity)
        half = team.device.type == "cuda" if schedule.precision == "auto" else schedule.precision == "bf16"
        adapter = training.adapter
        outputs = training.outputs
        consistency = recipe.frequency_consistency
        loss = StepLoss(net, adapter, consistency, half, recipe.divergence_weight, HEADS[outputs])
        self._objective = team.parallel(loss)
        precision = "bf16" if half else "fp32"
        self._attacked_model = models.SegmentationModel(
            net, training.roi, precision=precision, adapter=adapter, outputs=outputs
        )

    def parts(self, step: int) -> list[range]:
        """Numbers of this process's crops in a step: one range per pass through the network."""
        size = self.training.schedule.batch_size
        accumulate = self.training.schedule.accumulate
        length = size // (self.team.size * accumulate)
        first = step * size + self.team.rank * length * accumulate
        return [range(first + part * length, first + (part + 1) * length) for part in range(accumulate)]

    def step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Takes one optimizer step on the next of `batches`, one for each of the step's `parts`; a UserError, and
        unchanged weights, if loss or gradient are not finite."""
        training = self.training
        state = self.state
        began = time.perf_counter()
        waited = 0.0
        sums = torch.zeros(4, device=self.team.device)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(state.step, training.schedule)
        state.optimizer.zero_grad(set_to_none=True)
        parts = self.parts(state.step)
        for number, part in enumerate(parts):
            asked = time.perf_counter()
            volumes = next(batches)
            waited += time.perf_counter() - asked
            images, labels = (volume.to(self.team.device, non_blocking=True) for volume in volumes)
            with self.team.local_gradients(self._objective, wanted=number < len(parts) - 1):
                sums += self._backward(images, labels.long(), part, number) / len(parts)
        norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), training.schedule.clip_norm or math.inf)
        loss, *terms, gradient = self.team.mean([*sums.tolist(), float(norm)])
        if not math.isfinite(loss):
            self._refuse(f"the loss is {loss:g}")
        if not math.isfinite(gradient):
            self._refuse(f"the gradient's norm is {gradient:g}")
        state.optimizer.step()
        if state.averaged is not None:
            state.averaged.update_parameters(state.net)
        state.losses.append([loss, *terms])
        state.step += 1
        seconds, waited = self.team.mean([time.perf_counter() - began, waited])  # one clock for all: it ends them
        state.seconds += seconds
        state.waited += waited

    def _refuse(self, what: str) -> NoReturn:
        training = self.training
        state = self.state
        resumable = f"the state of step {state.saved} is kept" if state.saved else "nothing was kept yet"
        precise = "say precision: fp32, " if training.schedule.precision == "bf16" else ""
        advice = f"{precise}lower lr or set clip_norm; {resumable} in {self.folder}"
        raise UserError(f"{training.model.name}: {what} at step {state.step + 1}: {advice}")

    def _backward(self, images: Tensor, labels: Tensor, numbers: range, part: int) -> Tensor:
        """Adds the gradient of some crops, a step's share of it; returns the loss and its terms before the step."""
        training = self.training
        adversarial = None
        if training.adversary:
            images = images.clamp(0, 1)
            model = self._attacked_model
            step = self.state.step
            adversarial = training.adversary.attack_crops(model, images, labels, step, list(numbers))
        clean = None if training.model.objective == "at" else images
        draws = ["dropout", training.seed, self.state.step, *([self.team.rank, part] if self.team.rank or part else [])]
        with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
            torch.manual_seed(int(digest(draws), 16) >> 1)
            loss, terms = self._objective(clean, adversarial, labels)
        torch.autograd.backward(loss / training.schedule.accumulate)
        return torch.cat([loss.detach()[None], terms])

    def validate(self, select: Cases, rate: float) -> None:
        """Measures the select list, each process its share, keeps the best weights and saves; `rate` of the last step
        stands in the log."""
        training = self.training
        state = self.state
        began = time.perf_counter()
        net = state.judged
        net.eval()
        model = models.SegmentationModel(net, training.roi, adapter=training.adapter, outputs=training.outputs)
        dice = mean_foreground(self._scores(model, select, None))
        attacked, worst = attacked_dice([self._scores(model, select, attack) for attack in training.quick])
        net.train()
        row: list[Any] = [state.step, rate, *np.mean(state.losses, axis=0).tolist(), dice, attacked, worst]
        state.log.append(Row(*row))
        state.losses = []
        score = choice(training.choose_by, dice, attacked, worst)
        if better := score > state.score:
            state.score = score
            state.dice_select = dice
            state.dice_attacked = attacked
            state.dice_worst = worst
            state.best = {key: tensor.detach().cpu().clone() for key, tensor in net.state_dict().items()}
        state.validated += time.perf_counter() - began
        if self.team.rank == 0:
            state.save(self.folder, training.identity)
            if better:
                save_best(training, state, self.folder, state.figures)

    def _scores(self, model: models.SegmentationModel, select: Cases, attack: Attack | None) -> Scores:
        share = list(enumerate(select))[self.team.rank :: self.team.size]
        return self.team.gather(case_dice(model, share, self.training.num_classes, attack, select))


def fit(training: NetworkTraining, train: Cases, select: Cases, folder: str, seen: Seen, team: Team = ALONE) -> State:
    """Trains one network, or resumes from `last.pt`, until its steps or minutes are used up; returns the end state. A
    resumed run ends with the weights of an uninterrupted one, to the bit on the CPU at equal threads. Raises UserError
    if loss or gradient is not finite, KeyboardInterrupt at Ctrl-C once the step is saved.

    Args:
        training: settings that shape the weights.
        train: cases to cut crops of.
        select: cases that choose the best weights.
        folder: the model's own, for `best.safetensors`, `last.pt` and `log.csv`.
        seen: called after every step, in each process of the team.
        team: the processes that share the crops of a step.
    """
    schedule = training.schedule
    trainer = Trainer(training, folder, team)
    state = trainer.state
    sampler = CropSampler(train, training.roi, training.augmentation, training.seed, training.model.noise)
    limit = math.inf if schedule.max_minutes is None else 60 * schedule.max_minutes
    parts = [*chain.from_iterable(map(trainer.parts, range(state.step, schedule.steps)))]
    crops = load_batches(sampler, parts, training.loaders, pinned=team.device.type == "cuda")
    with deferred_interrupt() as interrupt, crops as batches:
        while state.step < schedule.steps and state.seconds < limit:
            rate = learning_rate(state.step, schedule)
            trainer.step(batches)
            if state.step % schedule.validate_every == 0 or state.step == schedule.steps or state.seconds >= limit:
                trainer.validate(select, rate)
            seen(state)
            if interrupt.requested:
                state.save(folder, training.identity)
                raise KeyboardInterrupt
    return state


def save_best(training: NetworkTraining, state: State, folder: str, figures: dict[str, Any]) -> None:
    """Writes `best.safetensors` into `folder`: the best weights of `state`, the settings that build and feed the
    network, and its training with `figures` by name."""
    outputs = {} if training.outputs == "softmax" else {"outputs": training.outputs}
    identity = {"fingerprints": training.fingerprints, "method": training.method}
    metadata = {
        "arch": training.arch,
        "args": training.args,
        "roi": list(training.roi),
        "num_classes": training.num_outputs,
        **outputs,
        **training.facts,
        "training": training.record | identity | figures,
    }
    models.save_checkpoint(join(folder, BEST), state.best, metadata, half=training.half)


def case_dice(
    model: models.SegmentationModel, cases: Numbered, num_classes: int, attack: Attack | None = None, whole: Cases = ()
) -> dict[int, Scores]:
    """Computes the Dice of a model for each of the numbered cases and each of `num_classes` classes, `[K]`, NaN if a
    case's label lacks the class, by case number in `whole`. An attack comes first, with seed 0, window by window; one
    that mixes cases takes the next of `whole`."""
    device = next(model.parameters()).device
    scores = {}
    for number, case in cases:
        image = case.image
        label = case.label
        if attack is not None:
            seed = 0 if attack.is_stochastic else None
            reference = whole[(number + 1) % len(whole)] if attack.needs_reference else None
            attacked = attack_case(attack, model, case, seed, 1, Needs(reference=reference))
            image = attacked.adversarial
            label = attacked.relabel(case).label
        with torch.no_grad():
            pred = models.predict(model, image.to(device)).cpu()
        scores[number] = dice(pred, label, num_classes, has_regions=not model.head.has_background)
    return scores


def mean_foreground(scores: Scores) -> float:
    """Mean over cases of each one's mean over its foreground classes, of scores `[N, K]`; 0 if no case has any."""
    means = _case_means(scores)
    return float(means.mean()) if len(means) else 0.0


def attacked_dice(scores: Sequence[Scores]) -> tuple[float, float]:
    """Mean foreground Dice over attacks, and mean over cases of the lowest, of scores `[N, K]` each; NaN without
    any."""
    if not scores:
        return math.nan, math.nan
    means = np.stack([_case_means(each) for each in scores])  # [attacks, cases]
    return (float(means.mean()), float(means.min(axis=0).mean())) if means.size else (0.0, 0.0)


def _case_means(scores: Scores) -> Scores:
    """Mean over foreground classes of each case that has one; scores are `[N, K]`, NaN where a case lacks a class."""
    foreground = scores[:, 1:]
    has = ~np.isnan(foreground)
    cases = has.any(axis=1)
    return np.asarray(np.where(has, foreground, 0).sum(axis=1)[cases] / has.sum(axis=1)[cases])


def choice(by: str, clean: float, attacked: float, worst: float) -> float:
    """Score that picks the best weights `by` the Dice of `clean` or `attacked` volumes, their `mean`, or the
    `worst`."""
    return {"clean": clean, "attacked": attacked, "mean": math.fsum((clean, attacked)) / 2, "worst": worst}[by]
