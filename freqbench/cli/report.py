"""Shows results: the commands `report` and `compare`, and the end of commands that made records."""

import os
import shlex
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freqbench.cli import common
from freqbench.cli.common import argument, more, option
from freqbench.core.errors import UserError, one_line
from freqbench.core.terminal import amount

if TYPE_CHECKING:
    from freqbench.engine.run import Summary
    from freqbench.reporting.contents import Contents
    from freqbench.reporting.page.data import Part

app = typer.Typer()
PAGE = "report.html"
PAGE_FOLDER = "report"
INDEX = "index.html"
MARK = b"freqbench</title>"
MOST_BESIDE = 15_000_000  # bytes of the attacked volumes that a run's end gives the viewer
ALL = "all"  # tables
NEXT = ("freqbench report {out} --open", "freqbench report {out}", "freqbench audit {out}")
Outs = Annotated[list[str], argument("Result stores.", "OUT...", autocompletion=common.stores)]


def _tables(incomplete: str) -> list[str]:
    from freqbench.reporting.papers.recipes import RECIPES
    from freqbench.reporting.report import AUDIT
    from freqbench.reporting.views import VIEWS

    return [name for name in (*RECIPES, *VIEWS, AUDIT, ALL) if name.startswith(incomplete)]


@app.command()
@common.takes_options
def report(
    outs: Outs,
    text: common.TextOptions,
    table: Annotated[
        str | None,
        option("One table: transfer, clinical, ..., of a paper, a recipe (YAML); or all.", autocompletion=_tables),
    ] = None,
    volumes: Annotated[bool, more("html: a folder with the saved volumes.", "--volumes")] = False,
    yes: common.Yes = False,
    figures: Annotated[str | None, option("Folder for every picture, PDF and PNG.")] = None,
    shown: Annotated[bool, option("Open OUT's page in a browser, if there is one.", "--open")] = False,
) -> None:
    """Show results: tables, pictures, the page.

    Tables are all of them, or one, as of a paper; the page is for a browser (--format html). `run` wrote one at its
    end, which --open opens: that in the folder OUT/report, which has the viewer, where volumes were saved.
    """
    form = text.format
    ways = {"--figures": figures, "--open": shown}
    for way in (name for name, value in ways.items() if value):
        if table or volumes or not text.is_usual or sum(map(bool, ways.values())) > 1:
            raise UserError(f"report: {way}: expected no other option beside it: run report twice")
    if shown:
        if len(outs) > 1:
            raise UserError(f"report: --open: expected one store, got {len(outs)}: open one after another")
        _open_page(outs[0])
    elif figures:
        with common.print_warnings():
            _write_figures(common.unique(outs), figures)
    elif form == "html":
        if table:
            raise UserError("report: --format html: expected no --table, as html is the page: take md, csv or latex")
        with common.print_warnings():
            write_page(common.unique(outs), text.to, volumes, yes)
    else:
        if volumes:
            raise UserError("report: --volumes: expected --format html without --table: the page is what shows them")
        is_short = table is None and form in ("terminal", "latex")
        text.put(common.tables(outs, form, "overview" if is_short else table if table != ALL else None))
        if is_short and text.is_usual:
            _name_others(outs)


def _name_others(outs: list[str]) -> None:
    from freqbench.core.files import storage
    from freqbench.reporting.papers.recipes import RECIPES

    page = storage.join(outs[0], PAGE)
    way = f"freqbench report {' '.join(map(shlex.quote, outs))}"
    common.say(f"page: {page}" if storage.exists(page) else f"page: none; {way} --format html writes it")
    others = [name for name in _tables("") if name not in ("overview", *RECIPES)]
    common.console().print(f"more by --table NAME: {', '.join(others)}; of papers: {', '.join(RECIPES)}")


def write_page(outs: list[str], to: str | None = None, with_volumes: bool | None = None, yes: bool = False) -> None:
    """Writes the page of stores: one file, or with volumes, which `yes` may allow, a folder; None: as stores allow."""
    from freqbench.core.files import storage
    from freqbench.reporting.page import data_of
    from freqbench.results import Store
    from freqbench.results.volumes import VOLUMES, whole

    out = outs[0]
    place = to or storage.join(outs[0], PAGE_FOLDER if with_volumes else PAGE)
    if not with_volumes:
        common.require_file(place)
    content, data = data_of([Store(out) for out in outs])
    if with_volumes:
        common.ask_to_write(content.restricted, yes)
        _write_folder(content, data, outs, place)
        return
    _put_page(place, data)
    may_be = with_volumes is None and storage.is_local(out) and not content.restricted
    if may_be and whole(storage.join(out, VOLUMES)):
        _write_folder(content, data, outs, storage.join(out, PAGE_FOLDER), MOST_BESIDE)


def _write_folder(content: "Contents", data: "Part", outs: list[str], place: str, most: int | None = None) -> None:
    """Writes the page into a folder, with saved volumes as `write_volumes` takes them; none if `most` allows none."""
    from freqbench.core.files import storage
    from freqbench.reporting.page.manifest import write_volumes

    file = storage.join(place, INDEX)
    storage.require_own(file, MARK)
    volumes = write_volumes(content.records, content.classes, outs, place, data["regions"], most)
    if most is None or volumes["cases"]:
        _put_page(file, data, volumes)
        size = f"{volumes['bytes'] / 1e6:.0f} MB"
        common.say(f"{len(volumes['cases'])} attacked volumes beside it ({size}): keep the folder together")
    elif storage.exists(file):
        storage.remove(file)  # it had volumes that are gone


def _put_page(file: str, data: "Part", volumes: "Part | None" = None) -> None:
    from freqbench.core.files import storage
    from freqbench.reporting.page import build_page, viewer_script

    storage.require_own(file, MARK)
    page = build_page(data, "" if volumes is None else viewer_script(), volumes)
    storage.write_atomic(file, page.encode())
    common.say(f"written: {file} ({len(page) / 1e6:.1f} MB)")


def finish(summary: "Summary", out: str, page: bool = True) -> None:
    """Ends a command that made records: shows results, writes the page, names next steps, sets the exit code."""
    from freqbench.core.files import storage

    if summary.interrupted:
        advice = "the same command goes on"
        common.say(f"stopped: {amount(summary.num_done + summary.num_new, 'record')} kept in {out}; {advice}")
        raise typer.Exit(common.EXIT_INTERRUPTED)
    sys.stdout.write(common.tables([out], "terminal", "overview") + "\n")
    rest = f"{summary.num_done} were there before: {storage.join(out, 'records')}"
    common.say(f"{amount(summary.num_new, 'record')} in {summary.seconds:.0f} s, {rest}")
    if page:
        with common.stoppable("the page was written"):
            try:
                write_page([out])
            except Exception as error:  # noqa: BLE001 (a faulty page does not spoil the run)
                common.say(f"no page: {one_line(error)}")
    for i, command in enumerate(NEXT):
        common.say(f"{'next:' if i == 0 else '     '} {command.format(out=shlex.quote(out))}")
    if summary.num_failed:
        advice = "the same command tries them again"
        common.console().print(f"{amount(summary.num_failed, 'record')} failed: {advice}", style="red")
        raise typer.Exit(common.EXIT_FAILED)


def _write_figures(outs: list[str], folder: str) -> None:
    from freqbench.core.files import storage
    from freqbench.reporting.contents import contents
    from freqbench.reporting.figures import write_figures
    from freqbench.results import Store
    from freqbench.results import volumes as saved

    content = contents([Store(out) for out in outs])
    volumes = storage.join(outs[0], saved.VOLUMES) if len(outs) == 1 else None
    written = write_figures(content.records, content.classes, volumes, folder)
    for path in written.paths:
        common.say(path)
    for name, reason in written.reasons.items():
        common.say(f"no {name}: {reason}")


def _open_page(out: str) -> None:
    """Opens the page of a store, that with the viewer unless the other is newer; without a browser, prints its path."""
    from freqbench.core.files import storage

    place = storage.join(out, PAGE)
    folder = storage.join(out, PAGE_FOLDER, INDEX)
    if storage.is_local(out) and 0 < _write_time(folder) >= _write_time(place):
        place = folder
    if not storage.exists(place):
        raise UserError(f"{place}: expected a page, found none: freqbench report {out} --format html writes it")
    if storage.is_local(out) and _write_time(place) < _write_time(storage.join(out, "run.json")):
        way = f"freqbench report {shlex.quote(out)} --format html"
        common.say(f"{place} is older than the last run's records: {way} makes it anew")
    file = storage.fetch(place).resolve()
    named = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")  # elsewhere a text browser would be taken, which runs no scripts
    has_display = sys.platform in ("darwin", "win32") or any(map(os.environ.get, named))
    is_open = has_display and webbrowser.open(file.as_uri())
    common.say(f"{'opened' if is_open else 'no browser to open it in'}: {file}")


def _write_time(path: str) -> float:
    """Time at which a file of this machine was written; 0 where there is none."""
    from freqbench.core.files import storage

    return Path(storage.local_path(path)).stat().st_mtime if storage.exists(path) else 0.0


@app.command()
@common.takes_options
def compare(
    first: Annotated[str, argument("A result store.", "OUT_A", autocompletion=common.stores)],
    second: Annotated[str, argument("The store to compare it with.", "OUT_B", autocompletion=common.stores)],
    text: common.TextOptions,
) -> None:
    """Compare two stores case by case.

    Shows first their origins, then differences with intervals.
    """
    from freqbench.analysis.groups import SCORES
    from freqbench.reporting import views
    from freqbench.reporting.contents import contents
    from freqbench.reporting.report import renderer
    from freqbench.results import Store

    render = renderer(common.format_name(text.format))
    with common.print_warnings():
        a, b = (contents([Store(out)], SCORES, with_classes=False) for out in (first, second))
    text.put(render(views.compare(a.records, b.records, a.facts[0]["runs"], b.facts[0]["runs"])).rstrip() + "\n")
