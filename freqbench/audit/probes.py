"""What an audit measures that no row has: gradients of each source model, and saved volumes scored once more."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from freqbench import models
from freqbench.attacks import make
from freqbench.attacks.core.task import Task
from freqbench.audit.extra_cells import PRECISION, STEP_SIZE, STEPS, Probe
from freqbench.audit.measurements import (
    GradientFacts,
    Gradients,
    Saved,
    SavedScore,
    read_gradients,
    write,
)
from freqbench.core import storage
from freqbench.core.machine import versions
from freqbench.core.types import Case, CaseRef
from freqbench.engine import evaluate, saved_volumes
from freqbench.job.grid import Cell, Grid
from freqbench.models import DefendedModel, SegmentationModel, attack_windows
from freqbench.ops.gradients import sign_agreement, zero_share
from freqbench.results import Store
from freqbench.results.volumes import VOLUMES

WINDOWS = 2
"""Of each case, those with most foreground."""
NO_GRADIENT = ("does not require grad", "not have been used in the graph")

Say = Callable[[str], None]


def num_passes(probe: Probe) -> int:
    """Forward and backward passes over windows that `measure_gradients` takes at most."""
    sources = {(cell.dataset.name, cell.source.model_id): cell for cell in probe.own.cells}
    windows = 0
    for cell in sources.values():
        for ref in probe.own.cases[cell.dataset.name]:
            shape = cell.dataset.shape_in(ref, cell.source.space)
            windows += min(WINDOWS, len(attack_windows(shape, cell.source.roi)))
    return windows * (4 + 2 * STEPS)


def measure_gradients(probe: Probe, out: str, say: Say) -> None:
    """Look at gradients of every source model on the audit's cases, and write them to OUT/audit; what is there stays.

    Args:
        probe: whose cases and eps.
        out: the store that is audited.
        say: told of each model, and of windows that could not be looked at.
    """
    former = read_gradients(out)
    known = {}
    if former and (former.steps, former.step_size) == (STEPS, STEP_SIZE):
        known = {_key(each): each for each in former.windows}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sources = {(cell.dataset.name, cell.source.model_id): cell for cell in probe.own.cells}
    for cell in sources.values():
        model = None
        for ref in probe.own.cases[cell.dataset.name]:
            place = (cell.source.model_id, cell.dataset.case_key(ref), PRECISION, probe.eps)
            if any(key[:4] == place for key in known):
                continue
            if model is None:
                say(f"looking at the gradients of {cell.source.name} on {cell.dataset.name}")
                model = models.load(cell.source, device, PRECISION)
            known |= {_key(each): each for each in _of_case(model, cell, ref, probe.eps, say)}
            windows = tuple(known.values())
            write(out, Gradients(steps=STEPS, step_size=STEP_SIZE, versions=versions(), windows=windows))


def _key(window: GradientFacts) -> tuple[str, str, str, float, int]:
    return window.model_id, window.case_key, window.precision, window.eps, window.window


def _of_case(model: SegmentationModel, cell: Cell, ref: CaseRef, eps: float, say: Say) -> Iterator[GradientFacts]:
    """The windows of a case with most foreground."""
    case = cell.dataset.load(ref, cell.source.space)
    height, width, depth = case.image.shape[1:]
    windows = attack_windows((height, width, depth), model.roi)
    foreground = [int((case.label[:, h, w, d] > 0).sum()) for h, w, d in windows]
    chosen = sorted(range(len(windows)), key=lambda number: (-foreground[number], number))[:WINDOWS]
    for number in chosen:
        h, w, d = windows[number]
        error, zero, agreement, losses = None, None, None, list[float]()
        try:
            zero, agreement, losses = _look(model, case.image[None, :, h, w, d], case.label[None, :, h, w, d], eps)
        except RuntimeError as caught:
            error = " ".join(str(caught).split())
            if not any(text in error for text in NO_GRADIENT):
                say(f"{cell.source.name}, {ref.case_id}, window {number}: no gradient facts: {error}")
                continue
        if not all(map(math.isfinite, losses)):
            error, losses = "the loss is not finite", []
        yield GradientFacts(
            dataset=cell.dataset.name,
            model=cell.source.name,
            model_id=cell.source.model_id,
            case_id=ref.case_id,
            case_key=cell.dataset.case_key(ref),
            window=number,
            precision=PRECISION,
            zero_share=zero,
            sign_agreement=agreement,
            draws=model.passes if _draws(model) else None,
            eps=eps,
            losses=tuple(losses),
            error=error,
        )


def _look(
    model: SegmentationModel, image: Tensor, label: Tensor, eps: float
) -> tuple[float, float | None, list[float]]:
    """Share of zero gradients, sign agreement of two of them, and the losses of a PGD, of one window.

    An attacker who takes one draw of a random defence for the network sees the same gradient twice; here he does not.
    """
    device = next(model.parameters()).device
    image, label = image.to(device), label.to(device)
    task = Task("audit", model, image, label, targeted=False, generator=None, start=None)

    def of_draw(key: int) -> Callable[[Tensor], Tensor]:
        return lambda point: task.raised(model(point, keys=[key]))

    objectives = [of_draw(1), of_draw(2)] if _draws(model) and not model.takes_keys else [None, None]
    with torch.enable_grad(), task.evaluation_mode():
        first, second = (task.gradient(task.clean, objective) for objective in objectives)
    agreement = sign_agreement(first, second)
    result = make("pgd", eps=eps, steps=STEPS, step_size=STEP_SIZE)(model, image, label)
    losses = result.losses[:, 0].tolist()
    return zero_share(first), None if math.isnan(agreement) else agreement, losses


def _draws(model: SegmentationModel) -> bool:
    """Whether a defence at random stands before the network."""
    return isinstance(model, DefendedModel) and model.defence.is_random


def rescore_saved(probe: Probe, out: str, say: Say) -> None:
    """Score saved volumes of the audit's cases again, a few a source model, as stored and in 8 bits; nothing if none.

    Args:
        probe: whose cases.
        out: the store that is audited, with its volumes.
        say: told how many volumes there are.
    """
    root = storage.join(out, VOLUMES)
    chosen = list(_chosen(probe.own, root))
    if not chosen:
        return
    say(f"scoring {len(chosen)} saved volumes once more")
    columns = ("cell_id", "case_key", "target_model_id", "dsc", "status")
    scores = {tuple(key): dsc for *key, dsc, status in Store(out).rows(columns) if status == "ok"}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded: dict[str, SegmentationModel] = {}
    found = []
    for cell, ref in chosen:
        dsc = scores.get(cell.key(ref, cell.source))
        if dsc is None or math.isnan(dsc):
            continue
        if cell.source.model_id not in loaded:
            model = models.load(cell.source, device, cell.precision, cell.compile)
            loaded = {cell.source.model_id: model}  # one at a time
        stored = saved_volumes.read(root, cell, ref)[0].adversarial
        case, model = cell.dataset.load(ref, cell.source.space), loaded[cell.source.model_id]
        anew = [_dsc(model, image, case, cell.dataset.num_classes) for image in (stored, (stored * 255).round() / 255)]
        if any(map(math.isnan, anew)):
            say(f"{cell.source.name}, {ref.case_id}: the DSC of the saved volume is undefined")
            continue
        found.append(
            SavedScore(
                dataset=cell.dataset.name,
                model=cell.source.name,
                model_id=cell.source.model_id,
                case_id=ref.case_id,
                case_key=cell.dataset.case_key(ref),
                attack=cell.attack.name,
                cell_id=cell.cell_id,
                dsc=dsc,
                dsc_stored=anew[0],
                dsc_8bit=anew[1],
            )
        )
    write(out, Saved(versions=versions(), volumes=tuple(found)))


def _chosen(own: Grid, root: str) -> Iterator[tuple[Cell, CaseRef]]:
    """Of each dataset and source model as many saved volumes as there are cases, each of another attack."""
    is_saved = saved_volumes.saved(root)
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in own.cells:
        cells.setdefault((cell.dataset.name, cell.source.name), []).append(cell)
    for (name, _), group in cells.items():
        refs = own.cases[name]
        turns = [(cell, refs[number % len(refs)]) for number, cell in enumerate(group)]
        yield from [turn for turn in turns if is_saved(*turn)][: len(refs)]


def _dsc(model: SegmentationModel, image: Tensor, case: Case, num_classes: int) -> float:
    pred = models.predict(model, image)
    return float(evaluate.score_overlap(pred, case.label[0], num_classes).record["dsc"])
