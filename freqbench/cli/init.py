"""Writes a first job: the command `init`."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from freqbench.cli import common
from freqbench.cli.common import argument, more, option
from freqbench.core import names
from freqbench.core.errors import UserError

app = typer.Typer()
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
    from freqbench.core import documents
    from freqbench.core.files import storage
    from freqbench.core.plugins import trusting
    from freqbench.core.types import ScoredOn
    from freqbench.data import layouts
    from freqbench.job.schema import build_dataset
    from freqbench.models.sources import source_of

    layout = layouts.recognise(data)
    of_split = {survey.split: len(survey.complete) for survey in layout.surveys}
    if not (complete := of_split.get(layout.entry["split"], 0)):
        raise UserError(f"{data}: expected a case with image and label map, found none: see doctor --data {data}")
    question = "Checkpoint (file, folder, URI, zoo://DATASET/NAME, or random)"
    checkpoint = options.checkpoint or _answer(question, "--checkpoint")
    lines, guessed, args = _looked_at(checkpoint, options.arch)
    question = "Architecture (unet, unetr, swin_unetr, segresnet, nnunet, bundle, ...)"
    arch = options.arch or (guessed if guessed in (COMMAND, ONNX) else _answer(question, "--arch", guessed))
    if arch != COMMAND:
        names.require_known("models", "architecture", arch)
    eps = _radius(options.budget or _answer("Budget: L-infinity radius on the [0, 1] scale", "--budget", EPS))
    model = _model(checkpoint, arch, args if arch == guessed else {})
    has_classes = source_of(arch).is_checkpoint and layout.entry.get("reference") != "prediction"
    if has_classes and (head := build_dataset(layout.entry, data).classes.head) == "sigmoid":
        model = {**model, "outputs": head}
    predictions = options.predictions
    place = str(Path(predictions).expanduser().resolve()) if predictions and "://" not in predictions else predictions
    if predictions:
        common.say("predictions: the share of the foreground's voxels that are the network's own, by settings")
    with trusting(trust_code):
        first = first_case(layout.entry, model, not checkpoint.startswith(UNTRAINED), place, common.say)
    of_data = [(name, line) for name, line in layout.lines() if name != "job line"]
    of_model = [(name, line) for name, line in lines if name not in ("assumed", "no trace", "to state")]
    of_model += [*(("matched", word) for word in first.matched), ("first case", first.verdict)]
    of_model += [("predictions", first.proof)] if first.proof else []
    open_of = {of: [*found] for of, found in first.open.items()}
    if not first.is_black_box and not checkpoint.startswith(UNTRAINED):
        if "transforms" not in first.model and any("assumed: " in line for line in open_of["model"]):
            open_of["model"].insert(0, TRANSFORMS)
        open_of["model"] += [] if predictions else [PREDICTIONS]
        expected = _expected_dice() if "expected_dice" not in first.model else None
        open_of["model"] += [] if expected else [EXPECTED]
        model = {**first.model, **({"expected_dice": expected} if expected else {})}
    else:
        model = first.model
    content = JOB.format(
        path=shlex.quote(path),
        name=re.sub(r"[^\w.-]+", "-", f"{layout.entry['name']}-{model['name']}"),  # as a folder's name may be anything
        of_data=_comments(of_data),
        dataset=documents.yaml_lines({**first.dataset, "cases": min(CASES, complete)}, first.beside["dataset"]),
        open_of_dataset=_open(open_of["dataset"]),
        of_model=_comments(dict.fromkeys(of_model)),
        model=documents.yaml_lines(model, first.beside["model"]),
        open_of_model=_open(open_of["model"]),
        attacks=(BY_QUERIES if first.is_black_box else BY_GRADIENTS).format(eps=eps),
        trust=TRUST if arch == COMMAND else "",
        eps=eps,
        scored_on=ScoredOn.FILE.key,
    )
    storage.write_atomic(path, content.encode())
    common.say(f"written: {path}")
    for line in filter(None, (first.proof, first.verdict)):
        common.say(line)
    for of, found in first.open.items():
        for line in found:
            common.say(f"{of}: {line}")
    if any(first.open.values()):
        common.say(f"{path} has each of these as a comment, ready to be used, as nobody has stated it")
    try:
        job = common.JobOptions(path=path, trust_code=trust_code).job()
        common.grid_of(job, None, f"runs/{job.name}")
    except UserError as error:
        raise UserError(f"{path} is written, but must be corrected before it runs: {error}") from None
    common.say(f"next: freqbench plan {shlex.quote(path)}")


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


def _looked_at(checkpoint: str, arch: str | None) -> tuple[list[tuple[str, str]], str | None, Mapping[str, Any]]:
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
