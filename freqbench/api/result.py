"""Holds the result of an attack on a case, to show, score and save."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from freqbench.api.case import PatientCase
from freqbench.api.model import Model
from freqbench.core import names, types
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.names import AnyPath
from freqbench.core.types import Reference, ScoredOn, Spacing
from freqbench.data import attacked_native
from freqbench.data.preprocess import Spaces
from freqbench.engine import memory, rows, saved_volumes, scoring
from freqbench.engine.attacking import AttackedVolume
from freqbench.job.cells import Cell
from freqbench.metrics import Scores
from freqbench.models import ModelSpec, VolumePrediction, Wanted
from freqbench.results.volumes import SUFFIX

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 144  # dots per inch of a picture in a notebook


@dataclass(frozen=True, kw_only=True)
class _View:
    target: ModelSpec
    case: types.Case
    error: float | None  # resampling error, if the model has another space than the source
    before: VolumePrediction
    after: VolumePrediction
    file: types.FileLabel | None  # what is scored on the grid of the file, if that is asked for


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Result of an attack on a case.

    Attributes:
        model: the attacked model.
        case: the attacked case, as the caller gave it.
        volume: the case as the model sees it, in the model's own space if it has one.
        cell: dataset, attack with all its parameters, and seed, as a job's grid has them.
        attacked: the adversarial volume and its passes.
        measured: columns of a record that describe this execution.
        learned: the tensor that the attack learned from other cases, on the CPU; None if it learns nothing.
    """

    model: Model
    case: PatientCase
    volume: types.Case
    cell: Cell
    attacked: AttackedVolume
    measured: Mapping[str, Any]
    learned: Tensor | None = None
    _views: dict[tuple[Model, ScoredOn], _View] = field(default_factory=dict)
    _scores: dict[tuple[str, ...], Scores] = field(default_factory=dict)

    @property
    def adversarial(self) -> Tensor:
        """Adversarial volume, float32 `[C, H, W, D]` in [0, 1], on the CPU."""
        return self.attacked.adversarial

    @property
    def clean(self) -> Tensor:
        """Clean volume, float32 `[C, H, W, D]` in [0, 1], on the CPU."""
        return self.volume.image

    @property
    def reference(self) -> Reference:
        """`label`: attacked and scored against the label map; `prediction`: against each model's clean prediction."""
        return self.cell.dataset.reference

    @property
    def label(self) -> Tensor:
        """Label map, uint8 `[1, H, W, D]`; the attacked model's clean prediction if `reference` is the prediction."""
        return self.volume.label

    @property
    def label_adversarial(self) -> Tensor:
        """Label map for the adversarial volume; it differs from `label` after an attack that moves anatomy."""
        return self.attacked.relabel(self.volume).label

    @property
    def spacing(self) -> Spacing:
        """Millimetres per voxel along H, W and D."""
        return self.volume.spacing

    @cached_property
    def losses(self) -> Tensor:
        """The objective before each step, `[steps, N]`, with NaN for steps that were not taken.

        Each column is a window, or a batch of coupled windows. There are no rows if the attack follows no gradient.
        """
        columns: list[Tensor] = []
        for part in self.attacked.losses:
            columns += part.unbind(1) if part.ndim == 2 else [part]
        return pad_sequence(columns, padding_value=float("nan")) if columns else torch.zeros(0, 0)

    @property
    def num_forwards(self) -> int | None:
        """Forward passes of the network over all windows; None if the volume was made elsewhere."""
        return self.attacked.facts.num_forwards

    @property
    def num_backwards(self) -> int | None:
        """Backward passes of the network over all windows; None if the volume was made elsewhere."""
        return self.attacked.facts.num_backwards

    @property
    def prediction_clean(self) -> Tensor:
        """The model's label map of the clean volume, uint8 `[H, W, D]`; computed once, on first access."""
        return self._seen_by(self.model).before.labels

    @property
    def prediction(self) -> Tensor:
        """The model's label map of the adversarial volume, uint8 `[H, W, D]`; computed once, on first access."""
        return self._seen_by(self.model).after.labels

    def figure(self) -> "Figure":
        """Draws clean, adversarial, change, label and both predictions, in three planes where most changed."""
        from freqbench.reporting.figures.cases import draw_case, turn_volumes
        from freqbench.reporting.figures.style import use_style

        name = self.model.spec.name
        dataset = self.cell.dataset
        maps = (self.label[0], self.prediction_clean, self.prediction)
        label, before, after = (dataset.classes.shown(each).numpy() for each in maps)
        volumes = self.clean.numpy(), self.adversarial.numpy(), label
        with use_style():
            view = self.volume
            regions = dataset.classes.of_labels
            views = turn_volumes(*volumes, {name: (before, after)}, view.affine, regions, view.windows)
            figure = draw_case(views, name, self._title, dict(enumerate(dataset.class_names)))
        figure.set_dpi(DOTS)
        return figure

    def show(self) -> None:
        """Shows `figure` in the notebook or in a window; without a screen, use `figure().savefig("case.png")`."""
        import matplotlib.pyplot as plt

        figure = self.figure()
        plt.figure(FigureClass=lambda **_: figure)  # pyplot shows only figures that it makes
        plt.show()

    def save(self, path: AnyPath) -> None:
        """Writes the adversarial volume as `.nii.gz`, atomically, to a path or URI.

        For a case from files, the perturbation is carried back to the file's own grid and unit, as `freqbench export`
        does (in float32, without rounding); for arrays, the volume is written unchanged, with the case's affine.
        """
        cell = self.cell
        volume = self.volume
        if not (place := names.path_of(path, "save")).endswith(SUFFIX):
            raise UserError(f"{place}: expected a name that ends in {SUFFIX}: rename it")
        if storage.is_local(place) and not Path(storage.local_path(place)).parent.is_dir():
            raise UserError(f"{place}: expected an existing folder to save into, found none: make it")
        image = self.adversarial
        affine = volume.affine
        if self.case.dataset is not None:
            native = cell.dataset.native(volume.ref)
            space = cell.source.space or cell.dataset.space
            image = attacked_native(native, volume, image, space).image
            affine = native.affine
        saved_volumes.write(place, image, affine)

    @cached_property
    def _file_error(self) -> float | None:
        """The resampling error of the volume that `save` writes, of a pipeline with another grid than the file."""
        return Spaces(self.cell.dataset, self.volume, self.adversarial, self.cell.source.space).file_error

    def __repr__(self) -> str:
        change = (self.adversarial - self.clean).abs().max()
        passes = f"{self.num_forwards} forward and {self.num_backwards} backward passes"
        agreement = "" if self.reference == "label" else ", against its own clean prediction"
        return f"<Result {self._title}: {passes}, largest change {float(change):.4f}{agreement}>"

    def _repr_html_(self) -> str:
        from freqbench.reporting.figures.style import use_style

        picture = io.BytesIO()
        with use_style():
            self.figure().savefig(picture, format="png", dpi=DOTS)
        source = base64.b64encode(picture.getvalue()).decode()
        return f'<p>{escape(repr(self))}</p><img alt="{escape(self._title)}" src="data:image/png;base64,{source}">'

    @property
    def _title(self) -> str:
        import pandas as pd

        from freqbench.analysis.labels import attack_labels

        (attack,) = attack_labels(pd.DataFrame([rows.cell_columns(self.cell)]))
        return f"{attack} on {self.model.spec.name}, case {self.case.name}"

    def _seen_by(self, model: Model, scored_on: ScoredOn = ScoredOn.GRID) -> _View:
        """Returns a model's view and predictions; computed once per model and grid of the scores."""
        given = self.case
        if (model, scored_on) not in self._views:
            network = model.network
            dataset, target = model._fit_case(given)
            source_space = self.cell.source.space
            adversarial, error = Spaces(dataset, self.volume, self.adversarial, source_space).volume(target.space)
            volume = self.volume if error is None else given._load_in(dataset, target.space)
            if network.clamps_last:
                volume = memory.reference_case(volume, dataset, network)
            file = given._file(dataset) if scored_on == ScoredOn.FILE else None
            to = (file, target.space or dataset.space) if file else None
            predictions: list[VolumePrediction] = []
            for image, seed in ((volume.image, 0), (adversarial, self.cell.seed or 0)):
                case = replace(volume, image=image)
                wanted = Wanted(with_confidence=True, seed=seed)
                predictions.append(memory.segment(network, case, memory.INFERENCE_WINDOWS, wanted, to=to)[0])
            before, after = predictions
            if self.reference == "prediction" and not network.clamps_last:
                volume = replace(volume, label=before.labels[None])
                file = file and replace(file, label=before.scored.labels[None])
            self._views[model, scored_on] = _View(
                target=target, case=volume, error=error, before=before, after=after, file=file
            )
        return self._views[model, scored_on]

    def _distances(self, metrics: tuple[str, ...]) -> Scores:
        """Returns the distances of the volume from the clean one; computed once per set of metrics."""
        if metrics not in self._scores:
            about = self.cell.source, self.model.device, scoring.unavailable(metrics)
            self._scores[metrics] = scoring.score_volume(self.volume, self.adversarial, metrics, *about)
        return self._scores[metrics]
