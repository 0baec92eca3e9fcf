"""Writes a first job: the command `init`."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freqbench.cli import common
from freqbench.cli.common import argument, more, option
from freqbench.core import names
from freqbench.core.errors import UserError

if TYPE_CHECKING:
    from freqbench.audit.first_case import FirstCase
    from freqbench.data.layouts import Layout

app = typer.Typer()
Lines = Sequence[tuple[str, str]]  # findings: the name of each, and a line
CASES = 5
EPS = "8/255"
BUNDLE = "bundle"
COMMAND = "command"
ONNX = "onnx"
UNTRAINED = "random"
JOB = """\
# Attacks on one network, made by `freqbench init`. Every key by an example: freqbench list keys
# Next: freqbench plan {path}, then freqbench run {path}
name: {name}
{trust}
datasets:
{of_data}
  {dataset}    # without `cases`: all of the split
{open_of_dataset}
models:    # a second one shows transfer
{of_model}
  {model}
{open_of_model}
attacks:
  # Noise of the same size, which knows no network: the drop beyond this row is the attack's own.
  - {{name: random_noise, linf: {eps}}}
{attacks}

# Predictions are held against the files' own label maps, as nnU-Net and challenges do; grid: on the grid that is
# attacked, as in the papers, which an attack that moves labels and a defence that votes need.
{scored_on}
# save_adversarial: nifti    # keeps the volumes for the viewer and for other tools
"""
TRANSFORMS = (
    "transforms: [{_target_: Orientationd, keys: image, axcodes: RAS}]    # the steps of your training without "
    "augmentation: they answer axes, spacing, intensity and crop at once"
)
PREDICTIONS = (
    "predictions: FOLDER    # label maps that your own code wrote: init finds what is open by them, run proves it"
)
EXPECTED = "expected_dice: 0.87    # of your own validation: a run far below it stops before the first attack"
BY_GRADIENTS = """\
  - {{name: fgsm, eps: {eps}}}
  - {{name: pgd, eps: {eps}, steps: 20}}
  # In the frequency domain: rho is its budget, control: random its null row, the same change without the optimisation.
  - {{name: sa2, rho: 0.4, control: [none, random]}}"""
BY_QUERIES = """\
  # The network has no gradient, so it is attacked by its predictions: a measurement takes 1000 or more.
  - {{name: square, eps: {eps}, queries: 100}}
  # The null row of an attack in the frequency domain, whose optimisation would need gradients.
  - {{name: sa2, rho: 0.4, control: random}}"""
TRUST = "trust_code: true    # runs the command below: read it first\n"


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options that say what is attacked, and how far."""

    data: Annotated[str | None, option("Folder of a dataset, as `doctor --data` takes it.")] = None
    checkpoint: Annotated[str | None, option("File, folder, URI, zoo://DATASET/NAME, random, or a command.")] = None
    arch: Annotated[str | None, option("unet, unetr, nnunet, bundle, ...", show_default="by the checkpoint")] = None
    budget: Annotated[str | None, more(f"L-infinity radius on the [0, 1] scale, such as {EPS}.")] = None
    predictions: Annotated[str | None, option("Folder of what the network's own code predicts of some cases.")] = None


@app.command()
@common.takes_options
def init(
    options: NetworkOptions,
    path: Annotated[str, argument("Job file to write.", "[JOB]", autocompletion=common.jobs)] = "job.yaml",
    force: Annotated[bool, more("Overwrite an existing file.", "--force")] = False,
    trust_code: common.Trust = False,
) -> None:
    """Write a commented job for your data and network.

    Asks for whatever no option gives.
    """
    if os.path.lexists(path) and not force:
        raise UserError(f"{path}: expected no file, got one: name another, or give --force")
    data = options.data or _answer("Folder of the dataset", "--data")
    from freqbench.audit.first_case import first_case
    from freqbench.core.files import storage
    from freqbench.core.plugins import trusting
    from freqbench.core.types import ScoredOn
    from freqbench.data import layouts

    layout = layouts.recognise(data)
    cases = _cases(layout, data)
    question = "Checkpoint (file, folder, URI, zoo://DATASET/NAME, or random)"
    checkpoint = options.checkpoint or _answer(question, "--checkpoint")
    is_trained = not checkpoint.startswith(UNTRAINED)
    told, guessed, args = _looked_at(checkpoint, options.arch)
    arch = options.arch or _architecture(guessed)
    if arch != COMMAND:
        names.require_known("models", "architecture", arch)
    eps = _radius(options.budget or _answer("Budget: L-infinity radius on the [0, 1] scale", "--budget", EPS))
    model = _model(checkpoint, arch, args if arch == guessed else {})
    if _has_regions(arch, layout.entry, data):
        model = {**model, "outputs": "sigmoid"}
    predictions = _predictions(options.predictions)
    with trusting(trust_code):
        first = first_case(layout.entry, model, is_trained, predictions, common.say)
    attacks = BY_QUERIES if first.is_black_box else BY_GRADIENTS
    named = f"{layout.entry['name']}-{model['name']}"
    name = re.sub(r"[^\w.-]+", "-", named)  # as a folder's name may be anything
    trust = TRUST if arch == COMMAND else ""
    quoted = shlex.quote(path)
    content = JOB.format(
        path=quoted,
        name=name,
        trust=trust,
        **_dataset_parts(layout, first, cases),
        **_model_parts(told, first, is_trained),
        attacks=attacks.format(eps=eps),
        eps=eps,
        scored_on=ScoredOn.FILE.key,
    )
    storage.write_atomic(path, content.encode())
    _say_written(path, first)
    _require_grid(path, trust_code)
    common.say(f"next: freqbench plan {quoted}")


def _cases(layout: "Layout", data: str) -> int:
    """Returns the number of cases that the job takes: the first ones that are complete, by their headers."""
    complete = {survey.split: len(survey.complete) for survey in layout.surveys}.get(layout.entry["split"])
    if not complete:
        raise UserError(f"{data}: expected a case with image and label map, found none: see doctor --data {data}")
    return min(CASES, complete)


def _architecture(guessed: str | None) -> str:
    if guessed in (COMMAND, ONNX):
        return guessed
    return _answer("Architecture (unet, unetr, swin_unetr, segresnet, nnunet, bundle, ...)", "--arch", guessed)


def _has_regions(arch: str, entry: Mapping[str, Any], data: str) -> bool:
    """True if a dataset's classes are regions, of which the outputs of weights say nothing."""
    from freqbench.job.schema import build_dataset
    from freqbench.models.sources import source_of

    if not source_of(arch).is_checkpoint or entry.get("reference") == "prediction":
        return False
    return build_dataset(entry, data).classes.head == "sigmoid"


def _predictions(folder: str | None) -> str | None:
    """Returns a folder of predictions as a job names it, from anywhere, and says what the lines to come are."""
    if not folder:
        return folder
    common.say("predictions: the share of the foreground's voxels that are the network's own, by settings")
    return folder if "://" in folder else str(Path(folder).expanduser().resolve())


def _complete(model: Mapping[str, Any], lines: Sequence[str]) -> tuple[Mapping[str, Any], Sequence[str]]:
    """Returns a trained network's entry with the Dice that a person expects, and its open lines with ways to answer."""
    if "transforms" not in model and any("assumed: " in line for line in lines):
        lines = [TRANSFORMS, *lines]
    if "predictions" not in model:
        lines = [*lines, PREDICTIONS]
    if expected := _expected_dice():
        return {**model, "expected_dice": expected}, lines
    return model, [*lines, EXPECTED]


def _dataset_parts(layout: "Layout", first: "FirstCase", cases: int) -> Mapping[str, str]:
    """Returns what the job says of the dataset, by its places in JOB."""
    from freqbench.core import documents

    lines = [(name, line) for name, line in layout.lines() if name != "job line"]
    entry = {**first.dataset, "cases": cases}
    return {
        "of_data": _comments(lines),
        "dataset": documents.yaml_lines(entry, first.beside["dataset"]),
        "open_of_dataset": _open(first.open["dataset"]),
    }


def _model_parts(told: Lines, first: "FirstCase", is_trained: bool) -> Mapping[str, str]:
    """Returns what the job says of the network, by its places in JOB: each line once, first what its files tell."""
    from freqbench.core import documents

    lines = [(name, line) for name, line in told if name not in ("assumed", "no trace", "to state")]
    lines += [("matched", word) for word in first.matched]
    lines.append(("first case", first.verdict))
    if first.proof:
        lines.append(("predictions", first.proof))
    entry = first.model
    open_lines = first.open["model"]
    if is_trained and not first.is_black_box:
        entry, open_lines = _complete(entry, open_lines)
    return {
        "of_model": _comments(dict.fromkeys(lines)),
        "model": documents.yaml_lines(entry, first.beside["model"]),
        "open_of_model": _open(open_lines),
    }


def _say_written(path: str, first: "FirstCase") -> None:
    """Says what the first case tells, and what is left open."""
    common.say(f"written: {path}")
    for line in filter(None, (first.proof, first.verdict)):
        common.say(line)
    for of, found in first.open.items():
        for line in found:
            common.say(f"{of}: {line}")
    if any(first.open.values()):
        common.say(f"{path} has each of these as a comment, ready to be used, as nobody has stated it")


def _require_grid(path: str, trust_code: bool) -> None:
    """Refuses a written job that gives no grid of runs."""
    try:
        job = common.JobOptions(path=path, trust_code=trust_code).job()
        common.grid_of(job, None, f"runs/{job.name}")
    except UserError as error:
        raise UserError(f"{path} is written, but must be corrected before it runs: {error}") from None


def _expected_dice() -> float | None:
    if not sys.stdin.isatty():
        return None
    answer = str(typer.prompt("Foreground Dice of your own validation, such as 0.87 (empty: unknown)", default=""))
    try:
        return float(answer) if answer.strip() else None
    except ValueError:
        raise UserError(f"expected_dice: expected a number in (0, 1] or nothing, got {answer}") from None


def _open(lines: Sequence[str]) -> str:
    """Returns the lines that nobody states as comments of an entry, each ready to be used."""
    return "".join(f"    # {line}\n" for line in lines)


def _answer(question: str, option: str, default: str | None = None) -> str:
    """Asks a person; without a terminal takes the default, if any."""
    if sys.stdin.isatty():
        return str(typer.prompt(question, default=default))
    if default is None:
        raise UserError(f"{option}: expected a value, got none and no terminal to ask in: give the option")
    return default


def _looked_at(checkpoint: str, arch: str | None) -> tuple[Lines, str | None, Mapping[str, Any]]:
    """Reports `doctor`'s findings about a checkpoint, the architecture that they tell, and its arguments."""
    from freqbench.audit import diagnosis
    from freqbench.models import hub
    from freqbench.models.sources import kind_of_folder, source_of

    if checkpoint.startswith(UNTRAINED):
        return [("checkpoint", "untrained weights: to try the job, not to measure")], None, {}
    if "{image}" in checkpoint and "{labels}" in checkpoint:
        return [("command", "a program that segments files: it may need `format`, `classes`, `timeout`")], COMMAND, {}
    if checkpoint.endswith(f".{ONNX}"):
        return [("architecture", "an ONNX file: it may need `roi`, if its window is open")], ONNX, {}
    if (folder := hub.local(checkpoint) if checkpoint.startswith(hub.SCHEMES) else names.home_of(checkpoint)).is_dir():
        return [], kind_of_folder(folder), {}
    if not source_of(arch).is_checkpoint:
        return [], None, {}
    return list(diagnosis.diagnose(None, checkpoint, None)[0]), *diagnosis.architecture(checkpoint)


def _radius(budget: str) -> str:
    """Returns a radius as a job writes it: a fraction as it is, else a number."""
    from freqbench.attacks import ATTACKS
    from freqbench.job.sweep import parse_value

    if isinstance(value := parse_value(budget), str):
        with suppress(ValueError):
            value = float(value)
    if complaint := ATTACKS["pgd"].parameters["eps"].check(value):
        raise UserError(f"--budget: {complaint}")
    return budget.strip() if "/" in budget else repr(value)


def _model(checkpoint: str, arch: str, args: Mapping[str, Any]) -> Mapping[str, Any]:
    if arch == COMMAND:
        try:
            words = shlex.split(checkpoint)
        except ValueError as error:
            got = f"got {error}: {checkpoint}"
            raise UserError(f"--checkpoint: expected a command as a shell takes it, {got}") from None
        return {"name": Path(words[0]).name, COMMAND: words}
    place = str(local.resolve()) if (local := names.home_of(checkpoint)).exists() else checkpoint
    if arch == BUNDLE:
        return {"name": BUNDLE, "bundle": place}
    name = arch.rpartition(":")[2]
    return {"name": name, "arch": arch, "checkpoint": place, **({"args": dict(args)} if args else {})}


def _comments(lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"  # {name}: {' '.join(line.split())}" for name, line in lines)
