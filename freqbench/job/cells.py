"""Defines the elements of a grid, cells and units, with the identities of their records and their passes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from freqbench.attacks import Attack
from freqbench.attacks.core.blocks import BLOCK_CUT
from freqbench.core import plugins
from freqbench.core.code import Code, identify
from freqbench.core.identity import digest
from freqbench.core.types import AGREEMENT, CaseRef, ScoredOn
from freqbench.data import Dataset
from freqbench.job import sweep
from freqbench.job.attacks import attack_identity, attack_params
from freqbench.models import ModelSpec, attack_windows, num_windows, windows_in_graph
from freqbench.results import Key

PROTOCOL_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Cell:
    """dataset x source model x attack x seed: the grid's element, with the models that score its volumes.
    `window_batch` is the number of windows attacked at once if the attack couples them; None if it does not, as the
    number is then free. `learns_from` are the cases that a LearnedAttack learns from, `surrogates` the models whose
    gradients a SurrogateAttack follows. `saves` is True if a job that saves volumes saves this cell's."""

    dataset: Dataset
    source: ModelSpec
    attack: Attack
    seed: int | None
    precision: str
    compile: bool
    targets: tuple[ModelSpec, ...]
    window_batch: int | None = None
    learns_from: tuple[CaseRef, ...] = ()
    surrogates: tuple[ModelSpec, ...] = ()
    scored_on: ScoredOn = ScoredOn.GRID
    saves: bool = True

    @property
    def dataset_shown(self) -> str:
        """Name of the dataset in tables, marked for scores on the grid of the file and for datasets without labels."""
        return f"{self.dataset.name}{self.scored_on.mark}{'' if self.dataset.reference == 'label' else AGREEMENT}"

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """Models that its volumes are made with."""
        return self.source, *self.surrogates

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The dataset's whole recipe, as it was when the cell was planned."""
        return self.dataset.whole_recipe()

    @cached_property
    def attack_identity(self) -> dict[str, Any]:
        """Identity of the attack as it was planned, with its surrogates by what they compute instead of by name."""
        identity = attack_identity(self.attack)
        if self.attack.needs_surrogates:
            identity["surrogates"] = [surrogate.model_id for surrogate in self.surrogates]
        return identity

    @cached_property
    def cell_id(self) -> str:
        """16 hex digits of all that the adversarial volumes depend on beside the case, and the scores' grid."""
        attack = self.attack
        # The pool that the reference is drawn from; the draw depends on the seed and the case.
        drawn_from = {"references": self.dataset.references} if attack.needs_reference else {}
        learned_from = {"learns_from": [ref.fingerprint for ref in self.learns_from]} if attack.needs_learned else {}
        content = {
            "protocol": PROTOCOL_VERSION,
            "recipe": self.recipe,
            "source": self.source.model_id,
            "attack": self.attack_identity,
            "seed": self.seed,
            "precision": self.precision,
            "compile": self.compile,
            **self._coupling,
            **self.scored_on.identity,
            **drawn_from,
            **learned_from,
        }
        return digest(content)

    @property
    def codes(self) -> Iterator[Code]:
        """Identities of the code of others that makes its volumes, but a dataset's, whose task is to read files."""
        if plugins.is_foreign(type(self.attack)):
            yield identify(type(self.attack))
        for model in self.models:
            yield from model.codes

    @property
    def params(self) -> str:
        """All parameters of the attack as JSON text, with those that the cell sets: `window_batch` if it couples
        windows, `block_cut` if the source's ROI cuts its block, `surrogates` if it uses them."""
        cut = {BLOCK_CUT: self.block_cut} if self.block_cut else {}
        names = [surrogate.name for surrogate in self.surrogates]
        followed = {"surrogates": names} if self.attack.needs_surrogates else {}
        return attack_params(self.attack, **self._coupling, **cut, **followed)

    @property
    def _coupling(self) -> dict[str, int]:
        return {} if self.window_batch is None else {"window_batch": self.window_batch}

    @property
    def block_cut(self) -> str:
        """Sides of the attack's block if the source's ROI cuts it, else empty; in no identity, as block and ROI are."""
        attack = self.attack
        return "" if attack.attacks_volume else "x".join(map(str, attack.shortened(self.source.roi) or ()))

    @property
    def learning_passes(self) -> int:
        """Forward and backward passes over windows for learning, once for all cases."""
        units = (Unit(cell=self, ref=ref, targets=()) for ref in self.learns_from)
        return sum(unit.passes_of(self.source, *self.attack.learning_passes) for unit in units)

    def key(self, ref: CaseRef, target: ModelSpec) -> Key:
        """Returns the key of one record."""
        return self.cell_id, self.dataset.case_key(ref), target.model_id


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One cell on one case with the targets still wanted; `own` are files of their predictions of the clean volume."""

    cell: Cell
    ref: CaseRef
    targets: tuple[ModelSpec, ...]
    is_clean: bool = False
    own: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name for messages."""
        if self.is_clean:
            return f"clean prediction of {self.ref.case_id} by {', '.join(target.name for target in self.targets)}"
        return f"{self.cell.attack.name} on {self.cell.source.name}, {self.ref.case_id}"

    @property
    def num_windows(self) -> int:
        """Windows to run; an upper bound if the source's space crops to foreground."""
        return self._windows(self.cell.source)

    @property
    def passes(self) -> int:
        """Forward and backward passes over windows, including every draw of a random defence and all surrogates."""
        return 0 if self.is_clean else sum(map(self.passes_on, self.cell.models))

    def passes_on(self, model: ModelSpec) -> int:
        """Returns the passes over the source only, which rows count, or over one surrogate."""
        attack = self.cell.attack
        return self.passes_of(model, *(attack.passes if model is self.cell.source else attack.surrogate_passes))

    def passes_of(self, model: ModelSpec, forwards: int, backwards: int) -> int:
        """Returns the passes of a model over all windows, from the `forwards` and `backwards` of one sample."""
        passes = self._windows(model) * (forwards + backwards) + self.recomputed_windows(model) * backwards
        return passes * model.passes

    def recomputed_windows(self, model: ModelSpec) -> int:
        """Returns the windows that a step runs forward twice, because their graphs do not fit into GRAPH_BYTES."""
        windows = self._windows(model)
        if not self.cell.attack.follows_prediction or windows == 1:  # see SlidingWindowModel
            return 0
        return max(0, windows - windows_in_graph(self.cell.models))

    def _windows(self, model: ModelSpec) -> int:
        ref = self.ref
        dataset = self.cell.dataset
        shape = dataset.shape_in(ref, model.space)
        with sweep.prefix_errors(f"{dataset.name}: {ref.case_id}"):
            if self.cell.attack.follows_prediction:
                return num_windows(model, shape, ref)
            return len(attack_windows(shape, model.roi_of(ref, shape)))
