"""Scores and exports existing volumes: the commands `score` and `export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from freqbench.cli import common
from freqbench.cli.report import finish
from freqbench.core.errors import UserError

app = typer.Typer()

# Options of each way to score, True if it needs them.
OPTIONS: dict[str, dict[str, bool]] = {
    "--targets": {},
    "--predictions": {"--name": True, "--label-map": False},
    "--adversarial": {"--name": False, "--source": True},
}


@app.command()
def score(
    out: common.Out,
    targets: Annotated[
        list[str] | None, typer.Option(help="Model of the job, or a checkpoint that names itself.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(help="Folder of label maps that a tool made of exported volumes.")
    ] = None,
    adversarial: Annotated[
        str | None, typer.Option(help="Folder of adversarial volumes from elsewhere (adv_CASE).")
    ] = None,
    job: common.Job = None,
    name: Annotated[str | None, typer.Option(help="Name of the tool, or of the volumes, in tables.")] = None,
    label_map: Annotated[
        str | None, typer.Option(help="YAML of the tool's labels: `1: spleen`; others are background.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="The job's model whose gradients made the volumes.")] = None,
    trust_code: common.Trust = False,
) -> None:
    """Score existing volumes or label maps without attacking.

    They are saved volumes on --targets, a tool's label maps of them, or volumes made elsewhere.
    """
    _check(
        {"--targets": targets, "--predictions": predictions, "--adversarial": adversarial},
        {"--name": name, "--label-map": label_map, "--source": source},
    )
    from freqbench.engine import run
    from freqbench.exchange import adversarial_volumes
    from freqbench.exchange import predictions as label_maps
    from freqbench.job.grid import further_targets

    if targets:
        grid = further_targets(common.stored_job(out, job, trust_code), targets)
        summary = run.rescore(adversarial_volumes.join_imported(grid, out), out, common.console())
    elif adversarial:
        grid, called = common.stored_grid(out, job, trust_code), name or Path(adversarial).resolve().name
        summary = adversarial_volumes.bring_in(grid, out, adversarial, source or "", called, common.console())
    else:
        grid = common.stored_grid(out, job, trust_code)
        summary = label_maps.score(grid, out, predictions or "", name or "", label_map, common.console())
    finish(summary, out)


def _check(ways: dict[str, object], further: dict[str, str | None]) -> None:
    chosen = [option for option, value in ways.items() if value]
    if len(chosen) != 1:
        got = " and ".join(chosen) or "none"
        raise UserError(f"score: expected one of {', '.join(ways)}, got {got}: see score --help")
    (way,) = chosen
    for option, value in further.items():
        if value is None and OPTIONS[way].get(option):
            raise UserError(f"score: {way}: expected {option} too, got none: see score --help")
        if value is not None and option not in OPTIONS[way]:
            raise UserError(f"score: {way}: expected no {option}, got {value!r}: leave it out")


@app.command()
def export(
    out: common.Out,
    to: Annotated[str | None, typer.Option(help="Folder to write to.", show_default="OUT/export or OUT/dicom")] = None,
    form: Annotated[
        Literal["nifti", "dicom"], typer.Option("--format", help="dicom: series of new UIDs, predictions as SEG.")
    ] = "nifti",
    keep_identity: Annotated[
        bool, typer.Option("--keep-identity", help="Copy patient, study and institution of a DICOM case.")
    ] = False,
    job: common.Job = None,
    yes: common.Yes = False,
    trust_code: common.Trust = False,
) -> None:
    """Write saved adversarial volumes for third-party tools.

    Each has its file's own grid and unit.
    """
    from freqbench.core import names
    from freqbench.core.files import storage
    from freqbench.exchange import export as exporting

    grid = common.stored_grid(out, job, trust_code)
    restricted = {cell.dataset.name for cell in grid.cells if not cell.dataset.may_be_shared}
    common.ask_to_write(sorted(restricted), yes)
    if not to:
        to = storage.join(out, "export" if form == "nifti" else form)
        names.require_inside(out, to)
    exporting.export(grid, out, to, common.console(), form, keep_identity)
