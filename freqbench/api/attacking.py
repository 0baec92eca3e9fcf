"""Attacks a case from Python, by the functions that `freqbench run` uses."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field

from freqbench.api.case import Case, as_case, plain
from freqbench.api.model import Model, as_model, as_models, cell_of
from freqbench.api.result import Result
from freqbench.attacks import Attack, attack_class
from freqbench.core import config, names
from freqbench.core.config import Seed, Strict, Whole
from freqbench.core.plugins import require_class
from freqbench.engine.worker import Worker, WorkerSpec
from freqbench.job.attacks import attack_of
from freqbench.job.grid import COUPLED_WINDOWS, learning_cases, surrogates_of


class _Call(Strict):
    """Arguments of a call that a job file has too, with their limits there."""

    seed: Seed
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
    """Attacks a case, window by window, or with `scope="volume"` as one through the model's sliding window.

    An attack that learns from other cases (`universal`) does so at its first call with a model, on the case's dataset;
    later calls with equal parameters reuse the result.

    Args:
        model: from `load_model`; its gradients are followed.
        case: a Case, or a tuple `(image, label)` or `(image, label, spacing)` of arrays or tensors; see Case.
        name: a name in `freqbench.attacks.ATTACKS` (`pgd`, `vafa`, `sa2`, ...), or your own class.
        seed: seed of the draws, for attacks that draw.
        window_batch: windows attacked at once. None: as `window_batch: auto` in a job: 1 on a CPU, as many as its
            memory holds on a GPU, and 4 for attacks that couple the windows of a batch.
        surrogates: models from `load_model` whose gradients an attack such as `bases` follows, on the device of
            `model`; `model` itself then only predicts.
        parameters: parameters of the attack, as in a job file; budgets such as `eps` are on the [0, 1] intensity scale,
            as a number or as `"8/255"`.

    Raises:
        UserError: an unknown attack or parameter, a value out of its range, or a case that does not fit the model.
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
        parameters["surrogates"] = tuple(surrogate.spec.name for surrogate in surrogates)
    made = attack_of(chosen, parameters, dataset, chosen.name)
    volume = case._in(dataset, source.space)
    fitted = [(surrogate._fitted(case)[1], surrogate) for surrogate in surrogates]
    cell = replace(
        cell_of(model, dataset, source, made, seed if made.is_stochastic else None),
        window_batch=(window_batch or COUPLED_WINDOWS) if made.couples_batch else None,
        learns_from=learning_cases(dataset, made, [volume.ref]),
        surrogates=surrogates_of(made, source, {spec.name: spec for spec, _ in fitted}),
    )
    networks = {spec.model_id: surrogate.network for spec, surrogate in fitted} | {source.model_id: model.network}
    about: dict[str, Any] = {"device": str(model.device), "threads": torch.get_num_threads()}
    worker = Worker(WorkerSpec(run_id="", metrics=(), window_batch=window_batch, **about))
    worker.networks, worker.learned = networks, model._learned
    attacked, seconds = worker.attack(cell, volume)
    windows = cell.window_batch or worker.window_batch
    measured = {"attack_seconds": seconds, "window_batch": windows, "threads": about["threads"]}
    learned = worker.needs(cell, volume)[1] if made.needs_learned else None
    return Result(
        model=model, case=case, volume=volume, cell=cell, attacked=attacked, measured=measured, learned=learned
    )
