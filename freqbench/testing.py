"""Checks in your own tests that your classes keep the contracts of attacks, datasets, networks and metrics.

Each check takes seconds on a CPU, needs no data, and raises AssertionError with the first promise that is broken.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from freqbench.attacks import Attack, AttackResult
from freqbench.core.errors import UserError
from freqbench.core.identity import digest
from freqbench.core.plugins import installed_names, path_of
from freqbench.core.types import Case, triple
from freqbench.data import Dataset
from freqbench.metrics.added import LabelMetric, checked
from freqbench.metrics.overlap import Values
from freqbench.models.examination import examine, windows
from freqbench.ops.voxels import without_ignored
from freqbench.results import require_free


class SmallNet(nn.Module):
    """A network of three classes with batch normalisation and dropout, which reveal a wrong mode."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.first = nn.Conv3d(channels, 6, 3, padding=1)
            self.norm = nn.BatchNorm3d(6)
            self.drop = nn.Dropout(0.5)
            self.last = nn.Conv3d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps volumes `[B, C, H, W, D]` to logits of three classes."""
        logits: Tensor = self.last(self.drop(torch.tanh(self.norm(self.first(x)) * 4)))
        return logits


def volumes(batch: int = 2, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Returns noise in [0, 1], `[batch, channels, 8, 6, 4]`, and labels in the three classes of `SmallNet`."""
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(batch, channels, 8, 6, 4, generator=generator)
    return images, torch.randint(0, 3, (batch, 1, 8, 6, 4), generator=generator)


def check_attack(attack: Attack) -> None:
    """Checks an attack on two small volumes and a small network of three classes, plus two more as surrogates.

    The attack must draw if and only if declared, and only from its generators; leave model and inputs unchanged, in
    inference mode too; take the passes that it promised; and give a batch the same results as its samples, unless it
    couples them. Every call of an attack checks its bounds.

    Raises:
        AssertionError: a promise is broken.
        ThreatModelError, UserError: as in a call of the attack.
    """
    images, labels = volumes()
    copies = images.clone(), labels.clone()
    model = _used()
    fresh = _used()
    random = torch.random.get_rng_state()
    with torch.inference_mode():
        first = _attacked(attack, model, images, labels, (1, 2)).adversarial
    again, other = (_attacked(attack, fresh, images, labels, seeds).adversarial for seeds in ((1, 2), (7, 8)))
    same = torch.equal(random, torch.random.get_rng_state())
    _require(same, attack, "expected torch's own generator untouched: draw from the generators of the call")
    _require(all(map(torch.equal, (images, labels), copies)), attack, "changed its inputs: work on copies")
    _require(_state(model) == _state(_used()), attack, "expected the model as it was found, got another mode or tensor")
    alike = torch.equal(first, again)
    _require(alike, attack, "expected one result for equal seeds, got two: draw from the generators")
    claim = "draws, but other seeds give the same" if attack.is_stochastic else "does not draw, but other seeds differ"
    _require(torch.equal(first, other) != attack.is_stochastic, attack, f"is_stochastic says that it {claim}")
    _check_passes(attack)


def check_dataset(dataset: Dataset) -> None:
    """Checks a dataset; reads at most two cases.

    Its cases must have names, patients and fingerprints; it must honour `cases`; volumes must be valid for a `Case`,
    equal on every read, and no larger than their reference states; the recipe must be plain JSON.

    Raises:
        AssertionError: a promise is broken.
        DataError: as in the dataset itself.
    """
    refs = dataset.refs()
    _require(len(refs) > 0, dataset, "expected cases, got none")
    _require(refs == dataset.refs(), dataset, "expected the same references whenever they are listed")
    _require(len({ref.case_id for ref in refs}) == len(refs), dataset, "expected a case_id of its own for each case")
    one = type(dataset)(**{**dataset.model_dump(), "cases": 1}).refs()
    _require(one == refs[:1], dataset, f"expected the first case with `cases: 1`, got {len(one)}: use `chosen`")
    recipe = dataset.recipe()
    _require(_is_json(recipe), dataset, f"expected a recipe of plain JSON, got {recipe!r:.200}")
    for ref in refs[:2]:
        case = dataset.load(ref)
        again = dataset.load(ref)
        _check_case(dataset, case)
        same = torch.equal(case.image, again.image) and torch.equal(case.label, again.label)
        _require(same, dataset, f"{ref.case_id}: expected the same volume whenever it is read")


def check_network(network: nn.Module, *, num_classes: int, roi: Sequence[int], channels: int = 1) -> None:
    """Checks a network on two windows `[2, channels, *roi]` in [0, 1], as every network of a job is examined.

    In evaluation mode it must return finite logits `[2, num_classes, *roi]` and no probabilities, equal for a batch and
    its samples and for every call; it must change neither itself nor its input; and gradients must reach the volume.

    Raises:
        AssertionError: a promise is broken.
    """
    mode = network.training
    network.eval()
    images = windows(channels, roi)
    before = _state(network)
    findings = examine(network, images, num_classes)
    _require(findings.fault is None, network, findings.fault or "")
    _require(not findings.singly, network, "expected a batch to give what its samples give, in evaluation mode")
    _require(_state(network) == before, network, "expected parameters and buffers as they were, got others")
    (gradient,) = torch.autograd.grad(network(images.requires_grad_()).square().sum(), images, allow_unused=True)
    reached = gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())
    _require(reached, network, "expected finite gradients of the volume that are not all 0: no attack can follow these")
    _require(findings.yields == "logits", network, "expected logits, got probabilities: leave out the softmax")
    network.train(mode)


def check_metric(metric: LabelMetric) -> None:
    """Checks a metric on small label maps of two and of three classes.

    It must give a number per class, finite or NaN where a class has none, also where a class or all of the foreground
    is in one map alone; the same on every call; and rate no prediction better than the true one. It must leave the
    maps unchanged, and must have a `title`, a `unit` and a `direction`. The name by which an installed package adds its
    class must be no column's.

    Raises:
        AssertionError: a promise is broken.
    """
    texts = [getattr(metric, key, None) for key in ("title", "unit")]
    _require(all(isinstance(text, str) and text for text in texts), metric, "expected texts as title and unit")
    direction = getattr(metric, "direction", None)
    _require(direction in ("higher", "lower"), metric, f"expected direction 'higher' or 'lower', got {direction!r}")
    for name in (name for name, path in installed_names("metrics").items() if path == path_of(type(metric))):
        try:
            require_free(name)
        except UserError as error:
            raise AssertionError(str(error)) from None
    label = torch.zeros(12, 10, 8, dtype=torch.uint8)
    label[2:8, 2:8, 2:6] = 1
    for num_classes in (2, 3):
        if num_classes == 3:
            label[4:6, 3:7, 3:5] = 2
        empty = torch.zeros_like(label)
        sign = 1 if direction == "higher" else -1
        best = _measured(metric, label, label, num_classes)
        for pred, truth in ((label.roll(2, 0), label), (empty, label), (label, empty), (empty, empty)):
            values = _measured(metric, pred, truth, num_classes)
            equal = np.array_equal(values, _measured(metric, pred, truth, num_classes), equal_nan=True)
            _require(equal, metric, "expected the same values on every call")
            if truth is label:
                is_worse = not (sign * (values - best)[1:] > 1e-6).any()
                _require(is_worse, metric, f"expected {direction} to be better, got a wrong map with a better value")


def _measured(metric: LabelMetric, pred: Tensor, label: Tensor, num_classes: int) -> Values:
    """Returns the values of a metric as workers take them, on voxels of unequal sides."""
    pair = pred.clone(), label.clone()
    try:
        values = checked(metric.score(*pair, num_classes, (1.0, 1.5, 2.0)), num_classes)
    except UserError as error:
        raise AssertionError(f"{type(metric).__name__}: {error}") from None
    _require(torch.equal(pair[0], pred) and torch.equal(pair[1], label), metric, "changed its maps: work on copies")
    return values


def _require(holds: bool, of: object, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"{type(of).__name__}: {otherwise}")


def _is_json(value: Any) -> bool:
    """True if a value has the same digest after a round trip through JSON, where tuples become lists."""
    try:
        return digest(json.loads(json.dumps(value))) == digest(value)
    except (TypeError, ValueError):
        return False


def _attacked(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, seeds: Sequence[int]) -> AttackResult:
    windows = list[bool]()
    followed = list[SmallNet]()

    def surrogates() -> list[SmallNet]:
        with torch.inference_mode(False):
            followed.extend(_used().to(images.dtype) for _ in range(2))
        for surrogate in followed:
            surrogate.register_forward_hook(lambda _, inputs, logits: windows.append(logits.requires_grad))
        return followed

    learned = partial(_learned, attack, model, seeds[0])
    needs = attack.supplied(reference=images.square, learned=learned, surrogates=surrogates)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    result = attack(model, images, labels, generator=generators, **needs)
    taken = (len(windows), sum(windows))
    promised = tuple(len(followed) * n for n in attack.surrogate_passes)
    _require(taken == promised, attack, f"promised {promised} passes of two surrogates, but took {taken}")
    left = all(_state(surrogate) == _state(_used().to(images.dtype)) for surrogate in followed)
    _require(left, attack, "expected surrogates as they were found, got another mode or tensor")
    return result


def _learned(attack: Attack, model: nn.Module, seed: int) -> Tensor:
    """Lets the attack learn from two volumes that differ from the attacked ones."""
    images, labels = (torch.cat([volume, volume.flip(2)]).flip(3) for volume in volumes(1))
    cases = list(zip(images.to(next(model.parameters())), labels, strict=True))
    windows = list[bool]()
    hook = model.register_forward_hook(lambda _, inputs, logits: windows.append(logits.requires_grad))
    learned = attack.learn(model, cases, triple(images.shape[2:]), torch.Generator().manual_seed(seed))
    hook.remove()
    taken = (len(windows), sum(windows))
    promised = tuple(len(cases) * passes for passes in attack.learning_passes)
    _require(taken == promised, attack, f"promised {promised} passes to learn, forward and backward, but took {taken}")
    return learned


def _used() -> SmallNet:
    """Makes a network in a mixed mode, with a gradient that its owner still needs."""
    model = SmallNet().train()
    model.drop.eval()
    model.first.weight.grad = torch.ones_like(model.first.weight)
    return model


def _state(model: nn.Module) -> list[Any]:
    """Returns everything that an attack or a forward pass must leave unchanged."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    values = [(name, tensor.tolist(), tensor.requires_grad) for name, tensor in tensors]
    gradients = [None if parameter.grad is None else parameter.grad.tolist() for parameter in model.parameters()]
    return [values, gradients, [module.training for module in model.modules()]]


def _check_passes(attack: Attack) -> None:
    """Checks passes and batches in float64, because rounding would hide errors of a batch."""
    images, labels = volumes()
    images = images.double()
    model = SmallNet().double()
    windows = list[int]()
    hook = model.register_forward_hook(lambda _, inputs, __: windows.append(len(inputs[0])))
    batch = _attacked(attack, model, images, labels, (1, 2))
    hook.remove()
    _require(batch.adversarial.dtype == torch.float64, attack, "expected float64 of float64 volumes")
    passes = sum(windows) - 2 * attack.learning_passes[0]
    _require(passes == sum(batch.forwards), attack, f"counted {batch.forwards} forward passes of {passes}")
    for taken, promised in zip((batch.forwards, batch.backwards), attack.passes, strict=True):
        fits = all(count <= promised if attack.may_stop_early else count == promised for count in taken)
        _require(fits, attack, f"promised {promised} passes per sample, forward or backward, but took {taken}")
    if attack.couples_batch:
        return
    singles = [_attacked(attack, model, images[i : i + 1], labels[i : i + 1], (i + 1,)) for i in range(len(images))]
    # Rounding sets the sign of a vanishing gradient, so a few voxels may differ.
    moved = (batch.adversarial - torch.cat([single.adversarial for single in singles])).abs() > 1e-6
    _require(float(moved.double().mean()) <= 2e-3, attack, "expected a batch to give what its samples give")
    losses = torch.cat([single.losses for single in singles], dim=1)
    alike = torch.allclose(batch.losses, losses, atol=1e-4, equal_nan=True)
    _require(alike, attack, "expected a batch to have the losses of its samples")
    forwards = tuple(one.num_forwards for one in singles)
    backwards = tuple(one.num_backwards for one in singles)
    counts = (forwards, backwards)
    _require((batch.forwards, batch.backwards) == counts, attack, "expected a batch to take the passes of its samples")


def _check_case(dataset: Dataset, case: Case) -> None:
    name = case.ref.case_id
    image = case.image
    label = case.label
    low, high = (float(bound) for bound in image.aminmax())
    fits = image.dtype == torch.float32 and image.ndim == 4 and len(image) == dataset.num_channels
    expected = f"float32 [{dataset.num_channels}, H, W, D]"
    _require(fits, dataset, f"{name}: expected an image of {expected}, got {image.dtype} {tuple(image.shape)}")
    _require(low >= 0 and high <= 1, dataset, f"{name}: expected intensities in [0, 1], got [{low:.4g}, {high:.4g}]")
    fits = label.dtype == torch.uint8 and label.shape == (1, *image.shape[1:])
    _require(fits, dataset, f"{name}: expected a uint8 label beside the image, got {label.dtype} {tuple(label.shape)}")
    highest = int((without_ignored(label) if dataset.classes.ignored else label).max())
    classes = f"classes in 0..{len(dataset.classes) - 1}"
    _require(highest < len(dataset.classes), dataset, f"{name}: expected {classes}, got {highest}: name all classes")
    fits = all(side <= bound for side, bound in zip(image.shape[1:], case.ref.shape, strict=True))
    _require(fits, dataset, f"{name}: got more voxels than its reference says, {case.ref.shape}")
