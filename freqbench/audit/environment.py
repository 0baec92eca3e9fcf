"""Under which circumstances a row was computed, and how they differ from those of here and now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freqbench.core.machine import versions
from freqbench.engine import provenance
from freqbench.job.grid import Grid

NUMERIC = ("python", "torch", "monai", "numpy", "scipy", "scikit-image", "lpips", "nibabel")
"""Packages whose version may change the last bits; Ray, pyarrow and freqbench itself must not."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Something that differs.

    Attributes:
        text: what, then and now.
        excuses: whether results need no longer be equal to the bit.
    """

    text: str
    excuses: bool


def causes(run: Mapping[str, Any], stored: Mapping[str, Any], found: Mapping[str, Any]) -> list[Cause]:
    """What differs between the execution that wrote a row and the one that recomputed it.

    Args:
        run: the file of the run that wrote it; empty where it is gone.
        stored: the record.
        found: the record as recomputed.
    """
    differing = [
        Cause(text=f"{what}: {stored[column]} then, {found[column]} now", excuses=True)
        for column, what in (("device", "device"), ("threads", "threads"), ("window_batch", "window batch"))
        if stored[column] != found[column]
    ]
    then, now = _mapping(run.get("versions")), versions()
    if not then:
        differing.append(Cause(text="versions: the run's file does not say them", excuses=True))
    for name in sorted(then.keys() | now.keys()) if then else ():
        if then.get(name) != now.get(name):
            text = f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
            differing.append(Cause(text=text, excuses=name in NUMERIC))
    return [*differing, *_processor(run), *_code(run)]


def _processor(run: Mapping[str, Any]) -> list[Cause]:
    then, now = run.get("processor"), provenance.processor()
    if then is None:
        return [Cause(text="processor: the run's file does not say it", excuses=True)]
    return [] if then == now else [Cause(text=f"processor: {then} then, {now} now", excuses=True)]


def _code(run: Mapping[str, Any]) -> list[Cause]:
    """The commit of freqbench: its results must not change with it unless an identity does."""
    then, now = (_commit(code) for code in (run.get("code"), provenance.git_state()))
    if then == now and not then.endswith("changed"):
        return []
    return [Cause(text=f"code: {then} then, {now} now", excuses=False)]


def _commit(code: Any) -> str:
    state = _mapping(code)
    if not state:
        return "unknown"
    return f"{str(state.get('commit'))[:12]}{', with files changed' if state.get('dirty') else ''}"


def changed_inputs(run: Mapping[str, Any], stored: Mapping[str, Any], grid: Grid) -> list[str]:
    """Why no cell of a grid is the one that a record is of: what of its models, data and settings is another now.

    Args:
        run: the file of the run that wrote the record.
        stored: the record.
        grid: of the same job, here and now.
    """
    models = {model.name: model for cell in grid.cells for model in (cell.source, *cell.targets)}
    known = _mapping(run.get("models"))
    found = []
    for name, model_id in dict.fromkeys((stored[f"{k}_model"], stored[f"{k}_model_id"]) for k in ("source", "target")):
        then, now = _mapping(known.get(model_id)).get("sha256"), models.get(name)
        if now is None:
            found.append(f"model {name}: the job has none of that name")
        elif then and then != now.checkpoint_sha256:
            found.append(
                f"checkpoint of {name}: sha256 {then[:12]} then, {now.checkpoint_sha256[:12]} now ({now.checkpoint})"
            )
        elif model_id != now.model_id:
            found.append(f"model {name}: arguments, window, preprocessing or code differ from those of then")
    return found + _changed_data(_mapping(run.get("datasets")), stored, grid)


def _changed_data(known: Mapping[str, Any], stored: Mapping[str, Any], grid: Grid) -> list[str]:
    name, case_id = stored["dataset"], stored["case_id"]
    dataset = next((cell.dataset for cell in grid.cells if cell.dataset.name == name), None)
    if dataset is None:
        return [f"dataset {name}: the job has none of that name"]
    ref = next((ref for ref in grid.cases[name] if ref.case_id == case_id), None)
    if ref is None:
        return [f"data: case {case_id} is not in {name} here"]
    then = _mapping(known.get(name))
    fingerprint = _mapping(then.get("cases")).get(case_id)
    found = []
    if fingerprint and fingerprint != ref.fingerprint:
        found.append(f"data: the files of case {case_id} differ: {fingerprint[:12]} then, {ref.fingerprint[:12]} now")
    recipe, now = _mapping(then.get("recipe")), dataset.whole_recipe()
    changed = [key for key in sorted(recipe.keys() | now.keys()) if _plain(recipe.get(key)) != _plain(now.get(key))]
    if recipe and changed:
        found.append(f"data: the recipe of {name} differs in {', '.join(changed)}")
    return found


def _plain(value: Any) -> Any:
    """A value as JSON would bring it back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
