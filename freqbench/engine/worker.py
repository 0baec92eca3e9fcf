"""Runs units: attacks a case once, scores it on every target, and keeps models and cases for the next unit."""

import logging
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freqbench.core import code
from freqbench.core.errors import UserError
from freqbench.core.files.kept import Kept
from freqbench.core.machine import core_seconds, keep_freed_memory, slowdown
from freqbench.core.plugins import is_foreign, is_installed, is_trusted, path_of, require_trust, trusting
from freqbench.core.types import Case, CaseRef, FileLabel, ScoredOn
from freqbench.data import Dataset
from freqbench.data.preprocess import Spaces
from freqbench.engine import glimpser, learning, memory, retry, rows, scoring, witness
from freqbench.engine import saved_volumes as volumes
from freqbench.engine.attacking import AttackedVolume, Needs
from freqbench.engine.retry import Patience, StoreRefuses, is_away
from freqbench.engine.rows import Masks, Outcome, reason_of
from freqbench.engine.scoring import CleanScores, TargetScores
from freqbench.job.cells import Cell, Unit
from freqbench.metrics import Scores, added
from freqbench.models import ModelSpec, SegmentationModel, VolumePrediction, Wanted, loading
from freqbench.models.defences.detectors import Detector
from freqbench.ops import compiled
from freqbench.pipelines import AnySpace
from freqbench.results import volumes as layout

HOW = ("precision", "compile")
# Of one worker, whose device and memory stay.
NETWORKS = Kept[SegmentationModel](
    name="network",
    depends=("model", *HOW),
    most=8 << 30,
    size=lambda model: sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())),
)
CASES = Kept[Case](name="case", depends=("case", "space"), most=4 << 30, size=lambda c: c.image.nbytes + c.label.nbytes)
CLEAN = Kept[CleanScores](
    name="clean scores",
    depends=("case", "model", "scored_on", "metrics", *HOW),
    most=1 << 30,
    size=lambda clean: clean.pred.nbytes + clean.judged.nbytes,
)
FILES = Kept[FileLabel](name="label of a file", depends=("case",), most=1 << 30, size=lambda file: file.label.nbytes)
SPLITS = Kept[tuple[CaseRef, ...]](name="split", depends=("recipe", "settings"), most=100_000, size=len)
BATCHES = Kept[int](name="number of windows", depends=("model", *HOW, "attack"), most=10_000)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """Settings that a worker gets when it starts."""

    run_id: str
    metrics: tuple[str, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict)  # reason by metric that cannot be computed here
    device: str = "auto"  # cpu, cuda or cuda:N; auto: a GPU if the worker sees one
    threads: int = 1
    window_batch: int | None = None  # windows attacked at once; None: as many as the device holds
    gpu_share: float = 1.0  # the part of a GPU's memory that the worker may take
    volumes: str | None = None  # folder or URI of saved volumes; None to save none
    learned: str | None = None  # folder or URI of learned tensors; None to keep none
    keeps_maps: bool = False  # return label maps that no metric is computed on apart from the device
    reuse: bool = False  # read adversarial volumes from `volumes` instead of attacking
    fresh: bool = False  # read nothing that earlier runs stored on its node
    trust_code: bool = False
    planner: str = field(default_factory=code.run_token)  # process whose plan it carries out


class _OnTarget(NamedTuple):
    """A unit's part for one target: scores, label maps `[H, W, D]` of the clean and the attacked volume, seconds."""

    target: ModelSpec
    scores: TargetScores
    label_maps: tuple[Tensor, Tensor]
    seconds: float


def _id_here(spec: ModelSpec) -> str:
    """Returns the id of a network by the code that is here now."""
    return replace(spec).model_id


class Worker:
    """Runs units one after another; exceptions become failed rows. `advance` gets passes, `keep` runs what saves."""

    def __init__(self, spec: WorkerSpec) -> None:
        torch.set_num_threads(spec.threads)
        keep_freed_memory()
        self.spec = spec
        is_planner = spec.planner == code.run_token()
        self._checked: set[object] | None = None if is_planner else set()  # code that is as it was planned
        code.join_run(spec.planner)
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(automatic if spec.device == "auto" else spec.device)
        if self._device.type == "cuda" and spec.gpu_share < 1:
            torch.cuda.set_per_process_memory_fraction(spec.gpu_share, self._device.index)
        self.window_batch = spec.window_batch or 1
        self._batches = BATCHES.anew()
        self._inference_batch = memory.INFERENCE_WINDOWS  # fewer after memory ran out
        self._models = NETWORKS.anew()
        self._cases = CASES.anew()
        self._clean = CLEAN.anew()
        self._files = FILES.anew()
        self._splits = SPLITS.anew()
        self.networks: Mapping[str, SegmentationModel] = {}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._worst: dict[str, float] = {}  # points of DSC that a cell's worst case lost
        self._load_seconds = 0.0
        self._is_prepared = False
        self.advance: Callable[[int], None] = lambda passes: None
        self.passed = time.monotonic()  # time of the last pass of a network that it loaded
        self.refusal: str | None = None  # of the store, while files wait for it
        self.keep = Patience(spec.volumes or spec.learned or "", self._wait, lambda text: self._wait(), lambda: 0).keep
        self.learned = learning.TENSORS.anew(spec.learned, lambda save: self.keep(save))

    def _wait(self, refusal: str | None = None) -> None:
        self.refusal = refusal
        if refusal:
            logger.warning("%s", refusal)

    def run(self, unit: Unit, prefetch: Unit | None = None) -> tuple[Outcome, Masks | None]:
        """Attacks a unit's case and scores it on every target (a clean unit's only predict), while the case of
        `prefetch` is read. Returns rows without `scoring.shapes_of`, and masks for these; raises StoreRefuses."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._load_seconds = 0.0
        started = time.perf_counter()
        before = core_seconds()
        outcome = None
        masks = None
        waits = iter(retry.WAITS_S)
        while outcome is None:
            try:
                with trusting(self.spec.trust_code), code.steady():
                    outcome, masks = self._run(unit, prefetch)
            except (StoreRefuses, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 (whatever code of others does, sys.exit too, the grid goes on)
                # Storage that is away comes back, or is cleared, within minutes: the unit is not at fault.
                if is_away(error) and (seconds := next(waits, None)) is not None:
                    logger.warning("%s: the unit is retried in %g s", error, seconds)
                    time.sleep(seconds)
                else:
                    outcome = rows.failure(unit, reason_of(error), self._measures(unit.cell))
        loaded = self._load_seconds
        slower = 1.0 if self._device.type == "cuda" else slowdown(before)
        spent = time.perf_counter() - started - loaded
        times: dict[str, Any] = {"load_seconds": loaded, "device_seconds": spent, "slowdown": slower}
        return replace(outcome, **times, forms={**compiled.FORMS}), masks

    def distances(self, cell: Cell, ref: CaseRef, metrics: Sequence[str]) -> Scores:
        """Measures the distance of a cell's volume of the case `ref` by `metrics`, as `scoring.score_volume` does.
        Errors are raised."""
        with trusting(self.spec.trust_code):
            case = self._shown_case(cell, ref, cell.source)
            attacked, _ = self.attack(cell, case)
            return self._score_volume(cell, case, attacked, metrics)

    def _run(self, unit: Unit, prefetch: Unit | None) -> tuple[Outcome, Masks | None]:
        cell = unit.cell
        metrics = self.spec.metrics
        self._require_planned(unit)
        if unit.is_clean:
            return self._predict_clean(unit, prefetch), None
        case = self._shown_case(cell, unit.ref, cell.source)
        if prefetch:
            self._load_early(prefetch)
        if not self._is_prepared:
            with self._time_loading():  # or the imports of metrics would count as the first unit's scoring
                scoring.prepare(metrics, self._device, self.spec.unavailable)
            self._is_prepared = True
        attacked, attack_seconds = self.attack(cell, case)
        started = time.perf_counter()
        volume = self._score_volume(cell, case, attacked, metrics)
        volume_seconds = (time.perf_counter() - started) / len(unit.targets)  # measured once for the rows of all
        scored, lost = self._score_targets(unit, case, attacked)
        unit = replace(unit, targets=tuple(each.target for each in scored))
        scores = [each.scores.scores for each in scored]
        own = [{**each.scores.facts, "score_seconds": each.seconds + volume_seconds} for each in scored]
        measured = self._measures(cell, attack_seconds=attack_seconds) | attacked.facts.model_dump()
        outcome = rows.scored_outcome(unit, case, volume, scores, own, metrics, measured)
        label_maps = [each.label_maps for each in scored]
        glimpse = glimpser.look(self._worst, unit, case, attacked.adversarial, label_maps, outcome.records)
        records = list(outcome.records)
        for failure in lost:
            records += failure.records
        classes = (*outcome.class_records, *([] for _ in lost))
        outcome = replace(outcome, records=tuple(records), class_records=classes, glimpse=glimpse)
        if not (self.spec.keeps_maps or scoring.shapes_of(metrics)):
            return outcome, None
        return outcome, Masks(pairs=tuple(each.scores.maps for each in scored), metrics=metrics)

    def _score_volume(self, cell: Cell, case: Case, attacked: AttackedVolume, metrics: Sequence[str]) -> Scores:
        about = cell.source, self._device, self.spec.unavailable
        return scoring.score_volume(case, attacked.adversarial, metrics, *about)

    def _score_targets(self, unit: Unit, case: Case, attacked: AttackedVolume) -> tuple[list[_OnTarget], list[Outcome]]:
        """Scores the volume of a unit on each target; a model that fails costs no other model its score."""
        cell = unit.cell
        spaces = Spaces(cell.dataset, case, attacked.adversarial, cell.source.space)
        scored = list[_OnTarget]()
        lost = list[Outcome]()
        for target in unit.targets:
            try:
                scored.append(self._score(unit, target, case, attacked, spaces))
            except (OSError, KeyboardInterrupt):  # The unit waits for storage
                raise
            except BaseException as failure:  # noqa: BLE001 (code of others may raise anything)
                lost.append(rows.failure(replace(unit, targets=(target,)), reason_of(failure), self._measures(cell)))
        return scored, lost

    def _predict_clean(self, unit: Unit, prefetch: Unit | None) -> Outcome:
        """Predicts the clean volume of a unit by each target, and keeps the predictions for attacks."""
        made = list[rows.Row]()
        for target in unit.targets:
            try:
                case = self._shown_case(unit.cell, unit.ref, target)
                if prefetch and target is unit.targets[0]:
                    self._load_early(prefetch)
                model = self._model(target, unit.cell)
                dataset = unit.cell.dataset
                facts = scoring.fit_facts(self._clean_prediction(model, target, unit.cell, case), dataset)
                if own := unit.own.get(target.model_id):
                    facts["held"] = witness.hold(model, target, dataset, unit.ref, own)
                made.append(rows.clean_facts(unit, target, **facts))
            except (OSError, KeyboardInterrupt):  # as for scores
                raise
            except BaseException as failure:  # noqa: BLE001 (as for scores)
                made += rows.failure(replace(unit, targets=(target,)), reason_of(failure), {}).clean
        return Outcome(records=(), class_records=(), clean=tuple(made))

    def _require_planned(self, unit: Unit) -> None:
        """Refuses code of others that is not trusted, or not what the unit was planned with, before it runs."""
        cell = unit.cell
        attack = cell.attack
        dataset = cell.dataset
        for what in (attack, dataset):
            if is_foreign(type(what)) and not is_installed(path_of(type(what))):
                require_trust(what.name)
        self._require_same(type(attack), attack.name, cell.attack_identity, lambda: replace(cell).attack_identity)
        if is_foreign(type(dataset)):
            self._require_same(type(dataset), dataset.name, cell.recipe, dataset.whole_recipe)
        for text in self.spec.metrics:
            if "@" in text:
                self._require_same(text, text, text, partial(added.resolved, text))
        for model in (*cell.models, *unit.targets):
            for spec in (model, *model.members):
                self._require_same(spec.model_id, spec.name, spec.model_id, partial(_id_here, spec))

    def _require_same(self, key: object, name: str, planned: Any, here: Callable[[], Any]) -> None:
        """Refuses code whose identity `here` is not the `planned` one, unless the code of this key was seen before."""
        if self._checked is None or key in self._checked:
            return
        if here() != planned:
            raise UserError(f"{name}: its code is not what was planned with: plan anew")
        self._checked.add(key)

    def _score(self, unit: Unit, target: ModelSpec, case: Case, attacked: AttackedVolume, spaces: Spaces) -> _OnTarget:
        """Predicts the volume of a unit by one target, and scores it without `scoring.shapes_of`."""
        cell = unit.cell
        started = time.perf_counter()
        model = self._model(target, cell)
        adversarial, error = spaces.volume(target.space)
        # The source's case serves where both spaces are one, unless the label is each model's own prediction.
        is_own = error is None and cell.dataset.reference == "label"
        seen = case if is_own else self._shown_case(cell, unit.ref, target)
        if error is None and cell.scored_on == ScoredOn.FILE:
            error = spaces.file_error
        clean = self._clean_prediction(model, target, cell, seen)
        prediction, _ = self._predict(model, replace(seen, image=adversarial), target, cell, cell.seed or 0)
        apart = scoring.shapes_of(self.spec.metrics)
        at_once = [metric for metric in self.spec.metrics if metric not in apart]
        scores = scoring.score_target(prediction, clean, seen, attacked, cell.dataset, at_once, error)
        label_maps = clean.pred, prediction.labels
        if self.spec.volumes and (cell.saves or self.spec.reuse):
            with self._time_loading():
                save = partial(volumes.save_maps, self.spec.volumes, cell, unit.ref)
                kinds = (layout.prediction(kind, target.name) for kind in (layout.ON_CLEAN, layout.ON_ADVERSARIAL))
                self.keep(partial(save, dict(zip(kinds, label_maps, strict=True)), seen.affine))
                if isinstance(clean.truth, FileLabel) or not is_own:
                    maps = torch.stack([clean.truth.label[0], clean.judged, scores.maps.label, scores.maps.pred])
                    self.keep(partial(save, {layout.scored_maps(target.name): maps}, clean.truth.affine))
        return _OnTarget(target=target, scores=scores, label_maps=label_maps, seconds=time.perf_counter() - started)

    @contextmanager
    def _time_loading(self) -> Iterator[None]:
        """Counts the time spent inside as reading and writing."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._load_seconds += time.perf_counter() - started

    def _case(self, dataset: Dataset, ref: CaseRef, space: AnySpace | None) -> Case:
        key = dataset.case_key(ref)
        own = (space or dataset.space).identity()
        with self._time_loading():
            return self._cases.get(partial(dataset.load, ref, space), case=key, space=own)

    def _shown_case(self, cell: Cell, ref: CaseRef, spec: ModelSpec) -> Case:
        """Reads a case in a model's space; under `reference: prediction` its label is the model's clean prediction."""
        case = self._case(cell.dataset, ref, spec.space)
        if cell.dataset.reference == "label":
            return case
        return replace(case, label=self._clean_prediction(self._model(spec, cell), spec, cell, case).label)

    def _load_early(self, unit: Unit) -> None:
        """Begins to read a unit's case; errors are raised when the case is used."""
        dataset = unit.cell.dataset
        ref = unit.ref
        space = unit.cell.source.space
        if is_foreign(type(dataset)) and not is_trusted():
            return  # running the unit will raise the refusal
        # A thread begins without trust, which a space's own transforms may need.
        submit = partial(self._loader.submit, copy_context().run, dataset.load, ref, space)
        self._cases.begin(submit, case=dataset.case_key(ref), space=(space or dataset.space).identity())

    def attack(self, cell: Cell, case: Case) -> tuple[AttackedVolume, float | None]:
        """Attacks a case as its cell says, or reads the saved volume; also returns the seconds, None if unknown."""
        if self.spec.reuse and self.spec.volumes:
            with self._time_loading():
                return volumes.read(self.spec.volumes, cell, case.ref)
        model = self._model(cell.source, cell)
        share = self.spec.gpu_share
        needs = cell.attack.supplied(
            reference=partial(self._reference, cell, case.ref),
            learned=partial(self.learned_tensor, cell, case),
            surrogates=lambda: [self._model(spec, cell) for spec in cell.surrogates],
        )
        # All that the memory of a step depends on is the model, and the attack without its budget.
        step = {name: fact for name, fact in cell.attack_identity.items() if name != cell.attack.budget_name}
        asked: dict[str, Any] = {"model": cell.source.model_id, "attack": step}
        asked |= {"precision": cell.precision, "compile": cell.compile}
        # Those that the last such step took come before those asked for, at which it may have run out of memory.
        windows = self._batches.get(lambda: 0, **asked) or self.spec.window_batch
        attacked, self.window_batch, seconds = memory.attack_within(
            cell, model, case, Needs(**needs), windows, share, self.advance
        )
        self._batches.put(self.window_batch, **asked)
        if self.spec.volumes and cell.saves:
            with self._time_loading():
                self.keep(partial(volumes.save, self.spec.volumes, cell, case, attacked, seconds))
        return attacked, seconds

    def _reference(self, cell: Cell, ref: CaseRef) -> Case:
        """Reads the reference case, the same for every cell of one seed."""
        dataset = cell.dataset
        with self._time_loading():
            split = self._splits.get(dataset.whole_split, recipe=dataset.whole_recipe(), settings=dataset.model_dump())
        return self._case(dataset, dataset.other(ref, cell.seed or 0, split), cell.source.space)

    def learned_tensor(self, cell: Cell, case: Case) -> Tensor:
        """Returns the tensor learned from other cases, with the channels of `case`, made once per cell, wherever its
        file is kept."""

        def make() -> Tensor:
            model = self._model(cell.source, cell)
            share = self.spec.gpu_share
            loads = [partial(self._shown_case, cell, ref, cell.source) for ref in cell.learns_from]
            windows = self.spec.window_batch or memory.fitting_windows(cell.attack, model, case, share)
            kept = memory.windows_in_graph(cell, self._device, share)
            with memory.passes_told((model,), lambda passes: self.advance(0)):  # these are not passes of the unit
                return learning.learn(cell.attack, model, loads, cell.seed, windows, kept).cpu()

        other = partial(learning.read_unsealed, cell.attack, len(case.image))
        return self.learned.get(make, other=other, cell=cell.cell_id)

    def _predict(
        self, model: SegmentationModel, case: Case, target: ModelSpec, cell: Cell, seed: int = 0
    ) -> tuple[VolumePrediction, FileLabel | None]:
        """Predicts a case's volume, and reads the label map of its file if the cell is scored there."""
        file = None
        dataset = cell.dataset
        if cell.scored_on == ScoredOn.FILE:
            with self._time_loading():
                file = self._files.get(partial(dataset.file_label, case.ref), case=dataset.case_key(case.ref))
        tolerances = dataset.classes.tolerances_mm if "nsd" in self.spec.metrics else None
        wanted = Wanted(with_confidence="calibration" in self.spec.metrics, seed=seed)
        to = (file, target.space or dataset.space) if file else None
        made, self._inference_batch = memory.segment(model, case, self._inference_batch, wanted, tolerances, to)
        return made, file

    def _model(self, spec: ModelSpec, cell: Cell) -> SegmentationModel:
        if spec.model_id in self.networks:
            return self.networks[spec.model_id]

        def load() -> SegmentationModel:
            model = loading.load(spec, self._device, cell.precision, cell.compile)
            for part in model.parts:  # the bare networks, which predictions run too
                part.net.register_forward_hook(lambda *_: setattr(self, "passed", time.monotonic()))
            if isinstance(spec.defence, Detector):
                loads = [partial(cell.dataset.load, ref, spec.space) for ref in spec.learns_from.values()]
                model.watch = learning.watch(spec.defence, model, loads)
            return model

        with self._time_loading():
            return self._models.get(load, model=spec.model_id, precision=cell.precision, compile=cell.compile)

    def _clean_prediction(self, model: SegmentationModel, target: ModelSpec, cell: Cell, case: Case) -> CleanScores:
        def make() -> CleanScores:
            shown = memory.reference_case(case, cell.dataset, model) if model.clamps_last else case
            prediction, file = self._predict(model, shown, target, cell)
            if cell.dataset.reference == "prediction" and not model.clamps_last:
                shown = replace(case, label=prediction.labels[None])
                file = file and replace(file, label=prediction.scored.labels[None])
            return scoring.score_clean(prediction, shown, cell.dataset, self.spec.metrics, file)

        asked: dict[str, Any] = {"case": cell.dataset.case_key(case.ref), "model": target.model_id}
        asked |= {"scored_on": cell.scored_on, "metrics": self.spec.metrics}
        asked |= {"precision": cell.precision, "compile": cell.compile}
        return self._clean.get(make, **asked)

    def _measures(self, cell: Cell, **values: Any) -> dict[str, Any]:
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            device = torch.cuda.get_device_name(self._device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            device = "cpu"
        return {
            "run_id": self.spec.run_id,
            "finished_at": datetime.now(UTC),
            "peak_memory_bytes": peak,
            "device": device,
            "threads": self.spec.threads,
            "window_batch": cell.window_batch or self.window_batch,
            "releases": rows.releases_of(cell, self.spec.metrics),
            **values,
        }
