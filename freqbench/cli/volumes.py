"""Scores and exports existing volumes: the commands `score` and `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from freqbench.cli import common
from freqbench.cli.common import more, option
from freqbench.cli.report import finish
from freqbench.core.errors import UserError

app = typer.Typer()
# Options that go with each way to score, and that it needs.
TAKES = {"--targets": "", "--predictions": "--name --label-map", "--adversarial": "--name --source"}
NEEDS = {"--predictions": "--name", "--adversarial": "--source"}


@dataclass(frozen=True, kw_only=True)
class OriginOptions:
    """Options that say what volumes or label maps from elsewhere are."""

    name: Annotated[str | None, option("Name of the tool, or of the volumes, in tables.")] = None
    label_map: Annotated[str | None, more("YAML of the tool's labels: `1: spleen`.")] = None
    source: Annotated[str | None, more("The job's model whose gradients made the volumes.")] = None


@app.command()
@common.takes_options
def score(
    out: common.Out,
    stored: common.StoredOptions,
    origin: OriginOptions,
    targets: Annotated[list[str] | None, option("Model of the job, or a checkpoint that names itself.")] = None,
    predictions: Annotated[str | None, option("Folder of label maps that a tool made of exported volumes.")] = None,
    adversarial: Annotated[str | None, option("Folder of adversarial volumes from elsewhere (adv_CASE).")] = None,
) -> None:
    """Score existing volumes or label maps without attacking.

    They are saved volumes on --targets, a tool's label maps of them, or volumes made elsewhere.
    """
    ways = {"--targets": targets, "--predictions": predictions, "--adversarial": adversarial}
    given = {f"--{name.replace('_', '-')}": value for name, value in vars(origin).items()}
    if not (way := common.chosen_way("score", ways, given, TAKES)):
        raise UserError(f"score: expected one of {', '.join(ways)}, got none: see score --help")
    if (lacking := NEEDS.get(way)) and given[lacking] is None:
        raise UserError(f"score: {way}: expected {lacking} too, got none: see score --help-all")
    from freqbench.engine import run
    from freqbench.exchange import adversarial_volumes
    from freqbench.exchange import predictions as label_maps
    from freqbench.job.grid import further_targets

    if targets:
        grid = further_targets(stored.spec(out), targets)
        summary = run.rescore(adversarial_volumes.join_imported(grid, out), out, common.console())
    elif adversarial:
        grid = stored.grid(out)
        called = origin.name or Path(adversarial).resolve().name
        summary = adversarial_volumes.bring_in(grid, out, adversarial, origin.source or "", called, common.console())
    else:
        of_tool = predictions or "", origin.name or "", origin.label_map
        summary = label_maps.score(stored.grid(out), out, *of_tool, common.console())
    finish(summary, out)


@app.command()
@common.takes_options
def export(
    out: common.Out,
    stored: common.StoredOptions,
    to: Annotated[str | None, option("Folder to write to.", show_default="OUT/export or OUT/dicom")] = None,
    form: Annotated[Literal["nifti", "dicom"], option("dicom: series, predictions as SEG.", "--format")] = "nifti",
    keep_identity: Annotated[bool, more("Copy patient and study of DICOM.", "--keep-identity")] = False,
    yes: common.Yes = False,
) -> None:
    """Write saved adversarial volumes for third-party tools.

    Each has its file's own grid and unit.
    """
    from freqbench.core import names
    from freqbench.core.files import storage
    from freqbench.exchange import export as exporting

    grid = stored.grid(out)
    common.ask_to_write(sorted({cell.dataset.name for cell in grid.cells if not cell.dataset.may_be_shared}), yes)
    if not to:
        to = storage.join(out, "export" if form == "nifti" else form)
        names.require_inside(out, to)
    exporting.export(grid, out, to, common.console(), form, keep_identity)
