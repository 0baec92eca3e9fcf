"""Attacks a case from Python, by the functions that `freqbench run` uses."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field

from freqbench.api.case import Case, as_case, plain
from freqbench.api.model import Model, as_model, as_models, cell_of
from freqbench.api.result import Result
from freqbench.attacks import Attack, LearnedAttack, SurrogateAttack, attack_class
from freqbench.core import config, names
from freqbench.core.config import Strict, Whole
from freqbench.core.plugins import require_class
from freqbench.engine import attacking, learning, memory
from freqbench.job.attacks import attack_of
from freqbench.job.grid import COUPLED_WINDOWS, learning_cases
from freqbench.job.models import surrogates_of
from freqbench.models import SegmentationModel


class _Call(Strict):
    """Arguments of a call that a job file has, too, and their limits there."""

    seed: Whole
    window_batch: Annotated[Whole, Field(gt=0)] | None


def attack(
    model: Model,
    case: Case | Sequence[Any],
    name: str | type[Attack],
    *,
    seed: int = 0,
    window_batch: int | None = None,
    surrogates: Sequence[Model] = (),
    **parameters: Any,
) -> Result:
    """Attack a case, window by window, or with `scope="volume"` as one through the model's sliding window.

    An attack that learns from other cases (`universal`) does so at its first call with a model, on the case's dataset;
    later calls of equal parameters take what it learned.

    Args:
        model: from `load_model`; its gradients are followed.
        case: a Case, or a tuple `(image, label)` or `(image, label, spacing)` of arrays or tensors, see Case.
        name: of `freqbench.attacks.ATTACKS` (`pgd`, `vafa`, `sa2`, ...), or a class of your own.
        seed: of the draws, for attacks that draw.
        window_batch: windows attacked at once. None: as `window_batch: auto` of a job, 1 on a CPU, as many as its
            memory holds on a GPU, and 4 for attacks that couple the windows of a batch.
        surrogates: models from `load_model` whose gradients an attack such as `bases` follows, on the device of
            `model`, which is then only asked for predictions.
        parameters: of the attack, as in a job file; budgets such as `eps` are on the [0, 1] intensity scale, as a
            number or as `"8/255"`.

    Raises:
        UserError: an attack or parameter that is not known, a value out of its range, or a case that does not fit the
            model.
    """
    model, case = as_model(model), as_case(case)
    surrogates = as_models(surrogates)
    call = config.validate({"seed": seed, "window_batch": window_batch}, _Call, "attack")
    seed, window_batch = call.seed, call.window_batch
    require_class(name, Attack)
    chosen = attack_class(names.ALIASES["attacks"].get(name, name) if isinstance(name, str) else name)
    parameters = {key: plain(value, f"{chosen.name}.{key}") for key, value in parameters.items()}
    dataset, source = model._fitted(case)
    if surrogates:
        parameters["surrogates"] = tuple(each.spec.name for each in surrogates)
    made = attack_of(chosen, parameters, dataset, chosen.name)
    cell = cell_of(model, dataset, source, made, seed if made.is_stochastic else None)
    if made.couples_batch:
        cell = replace(cell, window_batch=window_batch or COUPLED_WINDOWS)
    volume, reference = case._in(dataset, source.space), None
    if made.needs_reference:
        reference = dataset.load(dataset.other(volume.ref, cell.seed or 0), source.space)
    learned = None
    if isinstance(made, LearnedAttack):
        refs = learning_cases(dataset, made, [volume.ref])
        cell = replace(cell, learns_from=refs)
        learned = model._learned.get(cell.cell_id)
        if learned is None:
            loads = [partial(dataset.load, ref, source.space) for ref in refs]
            windows = window_batch or memory.fitting_windows(made, model.network, volume, 1.0)
            learned = learning.learn(made, model.network, loads, cell.seed, windows).cpu()
            model._learned[cell.cell_id] = learned
    followed: list[SegmentationModel] = []
    if isinstance(made, SurrogateAttack):
        networks = {each.spec.name: each for each in surrogates}
        specs = {given: each._fitted(case)[1] for given, each in networks.items()}
        cell = replace(cell, surrogates=surrogates_of(made, source, specs))
        followed = [networks[spec.name].network for spec in cell.surrogates]
    given: dict[str, Any] = {"reference": reference, "learned": learned, "surrogates": followed}
    started = time.perf_counter()
    run = partial(attacking.attack_case, made, model.network, volume, cell.seed, **given)
    if cell.window_batch is None:
        wanted = window_batch or memory.fitting_windows(made, model.network, volume, 1.0, followed)
        attacked, window_batch = memory.within_memory(run, wanted, memory.hint_for(made))
    else:
        attacked, window_batch = memory.at_once(run, cell.window_batch), cell.window_batch
    seconds = time.perf_counter() - started
    measured = {"attack_seconds": seconds, "window_batch": window_batch, "threads": torch.get_num_threads()}
    return Result(
        model=model, case=case, volume=volume, cell=cell, attacked=attacked, measured=measured, learned=learned
    )
