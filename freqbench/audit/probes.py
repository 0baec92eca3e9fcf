"""Measures facts that no row has for `audit --run`, which writes them into the store OUT/audit beside the files of
`freqbench.audit.probe_files`: gradients of each source model, and saved volumes scored once more."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from freqbench import models
from freqbench.attacks import make
from freqbench.attacks.core.task import Task
from freqbench.audit import probe_files
from freqbench.audit.probe_files import GradientFacts, Gradients, SavedScore, SavedScores, sign_agreement, zero_share
from freqbench.core.errors import one_line
from freqbench.core.files import storage
from freqbench.core.machine import versions
from freqbench.core.types import CaseRef, triple
from freqbench.engine import memory, saved_volumes, scoring
from freqbench.job import costs
from freqbench.job.cells import Cell, Unit
from freqbench.job.grid import Grid
from freqbench.models import SegmentationModel, attack_windows
from freqbench.results import Store
from freqbench.results.volumes import VOLUMES

PRECISION: Literal["fp32"] = "fp32"  # rows of a reduced precision count only beside those of the full one
STEPS = 20
STEP_SIZE = "eps/4"
EPS = 8 / 255
WINDOWS = 2  # of each case, those with most foreground
NO_GRADIENT = ("does not require grad", "not have been used in the graph")
Say = Callable[[str], None]


def num_passes(own: Grid) -> int:
    """Upper bound of the forward and backward passes over windows that `measure_gradients` of a store's `own` cells
    takes."""
    return sum(map(_passes_on, _units(own)))


def seconds(own: Grid, store: Store) -> float:
    """Estimates the seconds of these passes, one after another, by those of attacks on the same sources in the
    `store`."""
    units = _units(own)
    attack = costs.estimate_costs(units, ("dsc",), store).attack
    return sum(attack[costs.place(unit)] * _passes_on(unit) / unit.passes for unit in units)


def _units(own: Grid) -> list[Unit]:
    """Returns a PGD on each case and source."""
    pgd = make("pgd", eps=EPS, steps=STEPS)
    cells = [replace(cell, attack=pgd, surrogates=(), targets=(cell.source,)) for cell in _sources(own)]
    units = []
    for cell in cells:
        units += [Unit(cell=cell, ref=ref, targets=cell.targets) for ref in own.cases[cell.dataset.name]]
    return units


def _passes_on(unit: Unit) -> int:
    return min(WINDOWS, unit.num_windows) * (4 + 2 * STEPS)


def _sources(own: Grid) -> list[Cell]:
    cells = [cell for cell in own.cells if cell.source.black_box is None]
    return list({(cell.dataset.name, cell.source.model_id): cell for cell in cells}.values())


def measure_gradients(own: Grid, eps: float, out: str, say: Say) -> None:
    """Measures gradients of each source model of a store's `own` cells on the audit's cases, with PGD of the radius
    `eps` on the [0, 1] scale, into OUT/audit, `out` being the store's root; keeps former results. `say` gets a line for
    each model."""
    former = probe_files.read(out, Gradients)
    facts = {}
    if former and (former.steps, former.step_size) == (STEPS, STEP_SIZE):
        facts = {_key(each): each for each in former.windows}
    for cell in _sources(own):
        model = None
        for ref in own.cases[cell.dataset.name]:
            place = (cell.source.model_id, cell.dataset.case_key(ref), PRECISION, eps)
            if any(key[:4] == place for key in facts):
                continue
            if model is None:
                say(f"looking at the gradients of {cell.source.name} on {cell.dataset.name}")
                model = models.load(cell.source, _device(), PRECISION)
            facts |= {_key(each): each for each in facts_of_case(model, cell, ref, eps, say)}
            windows = tuple(facts.values())
            probe_files.write(out, Gradients(steps=STEPS, step_size=STEP_SIZE, versions=versions(), windows=windows))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _key(window: GradientFacts) -> tuple[str, str, str, float, int]:
    return window.model_id, window.case_key, window.precision, window.eps, window.window


def facts_of_case(model: SegmentationModel, cell: Cell, ref: CaseRef, eps: float, say: Say) -> Iterator[GradientFacts]:
    """Measures the windows with most foreground of the case `ref` of a `cell`'s dataset, with PGD of the radius `eps`
    on the loaded source `model`; `say` gets a line for a window without facts."""
    case = memory.reference_case(cell.dataset.load(ref, cell.source.space), cell.dataset, model)
    model = model.for_case(case)
    windows = attack_windows(triple(case.image.shape[1:]), model.roi)
    foreground = [int((case.label[:, h, w, d] > 0).sum()) for h, w, d in windows]
    for number in sorted(range(len(windows)), key=lambda number: (-foreground[number], number))[:WINDOWS]:
        h, w, d = windows[number]
        error = None
        zero = None
        agreement = None
        losses = list[float]()
        try:
            view = model.cut([windows[number]])
            zero, agreement, losses = _look(view, case.image[None, :, h, w, d], case.label[None, :, h, w, d], eps)
        except RuntimeError as caught:
            error = one_line(caught)
            if not any(text in error for text in NO_GRADIENT):
                say(f"{cell.source.name}, {ref.case_id}, window {number}: no gradient facts: {error}")
                continue
        if not all(map(math.isfinite, losses)):
            error = "the loss is not finite"
            losses = []
        about = _where(cell, ref) | {"window": number, "precision": PRECISION, "eps": eps, "error": error}
        about["draws"] = model.draws if _draws(model) else None
        yield GradientFacts(**about, zero_share=zero, sign_agreement=agreement, losses=tuple(losses))


def _where(cell: Cell, ref: CaseRef) -> dict[str, Any]:
    return {
        "dataset": cell.dataset_shown,
        "model": cell.source.name,
        "model_id": cell.source.model_id,
        "case_id": ref.case_id,
        "case_key": cell.dataset.case_key(ref),
    }


def _look(net: SegmentationModel, image: Tensor, label: Tensor, eps: float) -> tuple[float, float | None, list[float]]:
    """Returns the share of zero gradients, sign agreement of two of them, and the losses of a PGD, for one window."""
    device = next(net.parameters()).device
    image = image.to(device)
    label = label.to(device)
    task = Task("audit", net, image, label, targeted=False)

    def draw_loss(key: int, point: Tensor) -> Tensor:
        return task.objective.raised(net(point, keys=[key]))

    is_drawn = _draws(net) and not net.takes_keys  # anew for each gradient, so that the two can differ
    with torch.enable_grad(), task.evaluation_mode():
        first, second = (task.gradient(task.clean, partial(draw_loss, key) if is_drawn else None) for key in (1, 2))
    agreement = sign_agreement(first, second)
    losses = make("pgd", eps=eps, steps=STEPS, step_size=STEP_SIZE)(net, image, label).losses[:, 0].tolist()
    return zero_share(first), None if math.isnan(agreement) else agreement, losses


def _draws(model: SegmentationModel) -> bool:
    return model.defence is not None and model.defence.is_random


def rescore_saved(own: Grid, out: str, say: Say) -> None:
    """Scores saved volumes of the audit's cases of a store's `own` cells again, as stored and in 8 bits: per source
    model as many as cases. `out` is the store's root; `say` gets lines on the progress."""
    root = storage.join(out, VOLUMES)
    if not (chosen := list(_choose_volumes(own, root))):
        return
    say(f"scoring {len(chosen)} saved volumes once more")
    columns = ("cell_id", "case_key", "target_model_id", "dsc", "status")
    scores = {tuple(key): dsc for *key, dsc, status in Store(out).rows(columns) if status == "ok"}
    loaded: dict[str, SegmentationModel] = {}
    rescored = []
    for cell, ref in chosen:
        if (dsc := scores.get(cell.key(ref, cell.source))) is None or math.isnan(dsc):
            continue
        source = cell.source
        if source.model_id not in loaded:
            loaded = {}  # one at a time
            loaded[source.model_id] = models.load(source, _device(), cell.precision, cell.compile)
        model = loaded[source.model_id]
        attacked, _ = saved_volumes.read(root, cell, ref)
        case = memory.reference_case(cell.dataset.load(ref, cell.source.space), cell.dataset, model)
        stored = attacked.adversarial
        case = attacked.relabel(case)
        shown = model.for_case(case)
        preds = [models.predict(shown, image) for image in (stored, (stored * 255).round() / 255)]
        maps = (scoring.label_maps(pred, case, cell.dataset) for pred in preds)
        anew = [float(scoring.score_prediction(each, ["dsc"])[0].record["dsc"]) for each in maps]
        if any(map(math.isnan, anew)):
            say(f"{cell.source.name}, {ref.case_id}: the DSC of the saved volume is undefined")
            continue
        scored = {"dsc": dsc, "dsc_stored": anew[0], "dsc_8bit": anew[1]}
        rescored.append(SavedScore(**_where(cell, ref), attack=cell.attack.name, cell_id=cell.cell_id, **scored))
    probe_files.write(out, SavedScores(versions=versions(), volumes=tuple(rescored)))


def _choose_volumes(own: Grid, root: str) -> Iterator[tuple[Cell, CaseRef]]:
    """Picks for each dataset and source model as many saved volumes as there are cases, each of another attack."""
    is_saved = saved_volumes.find_saved(root)
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in own.cells:
        cells.setdefault((cell.dataset.name, cell.source.name), []).append(cell)
    for (name, _), group in cells.items():
        refs = own.cases[name]
        turns = [(cell, refs[number % len(refs)]) for number, cell in enumerate(group)]
        yield from [turn for turn in turns if is_saved(*turn)][: len(refs)]
