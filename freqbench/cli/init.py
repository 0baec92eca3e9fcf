"""Writes a first job: the command `init`."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freqbench.cli import common
from freqbench.core import names
from freqbench.core.errors import UserError

if TYPE_CHECKING:
    from freqbench.audit.first_case import FirstCase

app = typer.Typer()

CASES = 5
EPS = "8/255"
BUNDLE, COMMAND, ONNX, UNTRAINED = "bundle", "command", "onnx", "random"

JOB = """\
# Attacks on one network, made by `freqbench init`. `freqbench doctor schema` lists every key.
# Next: freqbench plan {path}, then freqbench run {path}
name: {name}
{trust}
datasets:
{of_data}
  {dataset}    # without `cases`: all of the split

models:    # a second one shows transfer
{of_model}
  # expected_dice: 0.87    # of a model, the Dice of its own validation: a run far below it stops before it attacks
  {model}

attacks:
  # Noise of the same size, which knows no network: the drop beyond this row is the attack's own.
  - {{name: random_noise, linf: {eps}}}
{attacks}

# Predictions are held against the files' own label maps, as nnU-Net and challenges do; grid: on the grid that is
# attacked, as in the papers, which an attack that moves labels and a defence that votes need.
score_on: file
# save_adversarial: nifti    # keeps the volumes for the viewer and for other tools
"""
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


@app.command()
def init(
    path: Annotated[
        str, typer.Argument(help="Job file to write.", metavar="[JOB]", autocompletion=common.jobs)
    ] = "job.yaml",
    data: Annotated[str | None, typer.Option(help="Folder of a dataset, as `doctor --data` takes it.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="File, folder, URI, zoo://DATASET/NAME, random, or a command with {image} and {labels}."),
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="unet, unetr, nnunet, bundle, ...", show_default="as the checkpoint tells")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help=f"L-infinity radius on the [0, 1] intensity scale, such as {EPS}.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    trust_code: common.Trust = False,
) -> None:
    """Write a commented job for your data and network.

    Asks for whatever no option gives.
    """
    if os.path.lexists(path) and not force:
        raise UserError(f"{path}: expected no file, got one: name another, or give --force")
    data = data or _answer("Folder of the dataset", "--data")
    from freqbench.core import documents
    from freqbench.core.files import storage
    from freqbench.core.plugins import trusting
    from freqbench.data import layouts
    from freqbench.job.schema import build_dataset
    from freqbench.models.sources import source_of

    layout = layouts.recognise(data)
    of_split = {survey.split: len(survey.complete) for survey in layout.surveys}
    if not (complete := of_split.get(layout.entry["split"], 0)):
        raise UserError(f"{data}: expected a case with image and label map, found none: see doctor --data {data}")
    checkpoint = checkpoint or _answer("Checkpoint (file, folder, URI, zoo://DATASET/NAME, or random)", "--checkpoint")
    lines, guessed, args = _looked_at(checkpoint, arch)
    question = "Architecture (unet, unetr, swin_unetr, segresnet, nnunet, bundle, ...)"
    arch = arch or (guessed if guessed in (COMMAND, ONNX) else _answer(question, "--arch", guessed))
    if arch != COMMAND:
        names.require_known("models", "architecture", arch)
    budget = budget or _answer("Budget: L-infinity radius on the [0, 1] scale", "--budget", EPS)
    eps = _radius(budget)
    model = _model(checkpoint, arch, args if arch == guessed else {})
    has_classes = source_of(arch).is_checkpoint and layout.entry.get("reference") != "prediction"
    if has_classes and (head := build_dataset(layout.entry, data).classes.head) == "sigmoid":
        model = {**model, "outputs": head}
    with trusting(trust_code):
        first = _first_case(layout.entry, model, checkpoint)
    chosen = {**layout.entry, **({"intensity": first.intensity} if first.intensity else {})}
    assumed = [(each.of, ("assumed", str(each))) for each in first.assumed]
    of_data = [(name, line) for name, line in layout.lines() if name != "job line"]
    of_data += [*(line for of, line in assumed if of == "dataset"), ("first case", first.verdict)]
    content = JOB.format(
        path=shlex.quote(path),
        name=re.sub(r"[^\w.-]+", "-", f"{layout.entry['name']}-{model['name']}"),  # as a folder's name may be anything
        of_data=_comments(of_data),
        dataset=documents.yaml_item({**chosen, "cases": min(CASES, complete)}),
        of_model=_comments(dict.fromkeys([*lines, *(line for of, line in assumed if of == "model")])),
        model=documents.yaml_item(model),
        attacks=(BY_QUERIES if first.is_black_box else BY_GRADIENTS).format(eps=eps),
        trust=TRUST if arch == COMMAND else "",
        eps=eps,
    )
    storage.write_atomic(path, content.encode())
    common.say(f"written: {path}")
    common.say(first.verdict)
    for _, (name, line) in assumed:
        common.say(f"{name}: {line}")
    if assumed:
        common.say(
            f"{path} can state each of these, as nobody has; expected_dice of the model stops a run far below it"
        )
    try:
        job = common.job_of(path, None, trust_code)
        common.grid_of(job, None, f"runs/{job.name}")
    except UserError as error:
        raise UserError(f"{path} is written, but must be corrected before it runs: {error}") from None
    common.say(f"next: freqbench plan {shlex.quote(path)}")


def _first_case(entry: Mapping[str, Any], model: Mapping[str, Any], checkpoint: str) -> "FirstCase":
    from freqbench.audit import first_case
    from freqbench.models import ModelEntry

    try:
        return first_case.first_case(entry, ModelEntry(**model), not checkpoint.startswith(UNTRAINED))
    except UserError as error:  # a job that must be corrected is written all the same
        verdict = f"no clean Dice of the first case: {error}"
        return first_case.FirstCase(intensity=None, assumed=(), verdict=verdict, is_black_box=COMMAND in model)


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

    value = parse_value(budget)
    if isinstance(value, str):
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
            raise UserError(
                f"--checkpoint: expected a command as a shell takes it, got {error}: {checkpoint}"
            ) from None
        return {"name": Path(words[0]).name, COMMAND: words}
    local = names.home_of(checkpoint)
    place = str(local.resolve()) if local.exists() else checkpoint
    if arch == BUNDLE:
        return {"name": BUNDLE, "bundle": place}
    name = arch.rpartition(":")[2]
    return {"name": name, "arch": arch, "checkpoint": place, **({"args": dict(args)} if args else {})}


def _comments(lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"  # {name}: {' '.join(line.split())}" for name, line in lines)
