"""Certifies a model's scores on a case from Python."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freqbench.analysis import certificates
from freqbench.analysis.certificates import ALPHA, LOWER
from freqbench.api.case import PatientCase, as_case
from freqbench.api.model import Model, as_model
from freqbench.core import config
from freqbench.core.errors import UserError, unknown
from freqbench.core.machine import keep_freed_memory
from freqbench.engine import memory
from freqbench.models.defences.smoothing import Smoothing

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("dsc", "nsd")


@dataclass(frozen=True, kw_only=True, repr=False)
class Certificate:
    """Scores of a randomised network on one case, which bound its medians under any change of the kind.

    Attributes:
        kind: kind of change.
        sigma: standard deviation of each of its parameters.
        scores: scores of all draws in rising order, by name: `dsc_foreground`, `dsc`, `volume_error_relative`, `dsc_K`
            of class K; with the metric `nsd` also `nsd` and `nsd_K`.
    """

    kind: str
    sigma: float
    scores: Mapping[str, Sequence[float]]

    def curve(self, radii: Sequence[float], score: str = "dsc_foreground", alpha: float = ALPHA) -> "pd.DataFrame":
        """Bounds the median of a score for each norm of the change; all rows hold together but for a chance of alpha.

        Raises:
            UserError: an unknown score, or a radius that the draws cannot certify.
        """
        import pandas as pd

        if score not in self.scores:
            raise UserError(unknown("score", score, self.scores))
        values = self.scores[score]
        ranks = [certificates.require(len(values), self.kind, r, self.sigma, alpha / len(radii)) for r in radii]
        bounds = [certificates.bound(values, k, score in LOWER) for k in ranks]
        return pd.DataFrame({"radius": list(radii), "at_most" if score in LOWER else "at_least": bounds})

    def __repr__(self) -> str:
        name, values = next(iter(self.scores.items()))
        median = 100 * values[(len(values) - 1) // 2]
        return f"<Certificate {self.kind}, sigma {self.sigma:g}: {len(values)} draws, median {name} {median:.1f}>"


def certify(
    model: Model,
    case: PatientCase | Sequence[Any],
    kind: str,
    *,
    sigma: float,
    draws: int = 1000,
    metrics: Sequence[str] = ("dsc",),
) -> Certificate:
    """Draws random changes of a case, predicts each once, and scores them: what certificates are made of.

    The statement is about the randomised network, which draws a change before each prediction, and an attacker who does
    not know the draw. A case without a label is scored against the model's prediction without a draw.

    Args:
        model: without a defence; the case is seen in its space.
        kind: `voxels`, `bias_field`, `gain_offset`, `dct_bands`, `fourier_shift` or `voxel_shift`
            (`freqbench.ops.changes`). The label stays where it is under a shift.
        sigma: standard deviation of each parameter of the change.
        draws: number of predictions.
        metrics: `dsc`, and `nsd` for the normalised surface Dice too, which takes longer than a prediction of a small
            network.

    Raises:
        UserError: an unknown kind or metric, a sigma of 0, or a model that has a defence already.
    """
    model, case = as_model(model), as_case(case)
    if model.spec.defence is not None:
        raise UserError(f"{model.spec.name}: expected a model without a defence, got {model.spec.defence.name}")
    if "dsc" not in metrics or not {*metrics} <= {*METRICS}:
        raise UserError(f"metrics: expected dsc, or dsc and nsd, got {', '.join(metrics) or 'none'}")
    content = {"name": "smoothing", "kind": kind, "sigma": sigma, "samples": draws}
    defence = config.validate(content, Smoothing, "certify")
    dataset, source = model._fitted(case)
    volume = memory.referred(case._in(dataset, source.space), dataset, model.network)
    network = copy(model.network)
    network.defence = defence
    keep_freed_memory()
    tolerances = dataset.tolerances_mm if "nsd" in metrics else None
    prediction, _ = memory.predicted(
        network, volume.image, volume, memory.INFERENCE_WINDOWS, with_confidence=False, tolerances=tolerances
    )
    return Certificate(kind=kind, sigma=defence.sigma, scores=prediction.draws or {})
