"""Shows how many passes suffice, and what certificates prove: `audit --converge` and `audit --certify`."""

from typing import TYPE_CHECKING, Any

from freqbench.cli import common
from freqbench.core.errors import UserError

if TYPE_CHECKING:
    from freqbench.job.grid import Grid


def show_convergence(out: str, grid: "Grid") -> None:
    """Prints what more passes, other losses and restarts add to each attack of a store, and recommended settings.

    OUT then has converge.csv (the curves), converge.yaml (the recommended attacks for a job file), converge.pdf and
    converge.png. Refuses a job without attacks that follow a gradient in steps or search by queries.
    """
    from freqbench.analysis.frames import found_records
    from freqbench.reporting import convergence, render
    from freqbench.reporting.contents import keys_of
    from freqbench.reporting.figures.curves import convergence_figure
    from freqbench.results import Store

    store, entries = Store(out), convergence.counted_entries(grid.cells)
    if not entries:
        expected = "expected one that follows a gradient in steps or searches by queries"
        got = ", ".join(dict.fromkeys(cell.attack.name for cell in grid.cells))
        raise UserError(f"{grid.job.where}: attacks: {expected}, got {got}: add one")
    _, records = found_records([store], keys_of([store.job()]), convergence.COLUMNS)
    for line in convergence.failed_lines(records, entries):
        common.say(line)
    table = convergence.settings(records, entries)
    if table.empty:
        raise UserError(f"{out}: expected a DSC of at least one setting, got none: see the errors of its records")
    common.put(render.terminal(render.word_sections(convergence.sections(table))), None)
    advice = convergence.job_text(convergence.recommend(table), entries).encode()
    figure = convergence_figure(table)
    _put_beside(out, "converge", figure, csv=render.csv(table.drop(columns="cell_id")).encode(), yaml=advice)


def show_bounds(out: str, grid: "Grid") -> None:
    """Prints what is proven of smoothed networks beside what attacks leave of them.

    OUT then has bounds.csv, bounds.pdf and bounds.png. Refuses a job with a cell that has no certificate: every model
    has the defence `smoothing`, and every attack is `ball` of the same kind, with radii in place of budgets.
    """
    import pandas as pd

    from freqbench.analysis import certificates
    from freqbench.reporting import render
    from freqbench.reporting.contents import contents
    from freqbench.reporting.figures.curves import bounds_figure
    from freqbench.reporting.views import defences
    from freqbench.results import Store

    defences.require_certified(grid)
    content = contents([Store(out)], (*certificates.COLUMNS, "dsc"), with_classes=False)
    sections = defences.bounds(content.records)
    common.put(render.terminal(sections), None)
    tables = [section.data for section in sections if section.data is not None]
    if tables:
        table = pd.concat(tables)
        _put_beside(out, "bounds", bounds_figure(certificates.means(table)), csv=render.csv(table).encode())


def _put_beside(out: str, name: str, figure: Any, **files: bytes) -> None:
    """Writes a figure and files by their suffix beside a store's records; refuses to replace files of others."""
    from freqbench.core.files import storage
    from freqbench.reporting.figures.style import MAKER, pdf_and_png

    pdf, png = pdf_and_png(figure)
    files |= {"pdf": pdf, "png": png}
    paths = {suffix: storage.join(out, f"{name}.{suffix}") for suffix in files}
    for suffix, path in paths.items():  # all before the first is written
        mark = MAKER.encode() if suffix in ("pdf", "png") else files[suffix].partition(b"\n")[0]
        storage.require_own(path, mark)
    for suffix, path in paths.items():
        storage.write_atomic(path, files[suffix])
        common.say(f"written: {path}")
