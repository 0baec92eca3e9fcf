"""Makes what the reference takes from the code: tables, the command line, job keys, and pictures of attacks.

Pages include the files that `write` leaves in `docs/generated`, which git ignores.
"""

import inspect
import json
import re
import shutil
import tomllib
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd
import torch
import typer
from board_pages import (
    ACDC_PAGE,
    BOARD_PAGE,
    BOUNDS,
    ROOT,
    acdc_page,
    board_table,
    filled,
    leaderboard_page,
    table,
    worst_cases,
)
from matplotlib.figure import Figure
from pydantic import BaseModel
from report_pages import (
    DETECTION,
    EJECTION,
    NNUNET,
    STRONGEST,
    detection_page,
    ejection_page,
    nnunet_page,
    strongest_page,
)
from torch import Tensor
from typer.cli import get_docs_for_click

from freqbench.attacks import ATTACKS, Attack, make
from freqbench.attacks.core.declared import declared
from freqbench.attacks.core.ensemble import Ensemble
from freqbench.audit.checks import CHECKS
from freqbench.cli import app, catalogue, show_hidden
from freqbench.core.names import packaged_jobs
from freqbench.core.threat_models import WORDS
from freqbench.data import DATASETS, Dataset
from freqbench.job.json_schema import schema_of
from freqbench.job.schema import JobSpec
from freqbench.job.sweep import parse_value
from freqbench.metrics import METRICS
from freqbench.models import ModelEntry, SegmentationModel, load, resolve
from freqbench.models.packaged import WORST_CASES
from freqbench.results import CLASS_RECORDS, RECORDS, Column
from freqbench.training import TrainJob

SPEED = ROOT / "reports" / "speed" / "cpu.json"
GPU_SPEED = SPEED.with_name("gpu.json")
COVERAGE = ROOT / "reports" / "intervals" / "coverage.json"
ALIKE = ROOT / "reports" / "pipelines" / "alike.csv"
QUICKSTART = ROOT / "reports" / "quickstart" / "tables.md"
BOARD_OF_README = (  # ten lines: the clean network and nine trained on attacks
    *("union-larger", "union-wide", "union", "at-sa2-opt", "at-vafa-opt"),
    *("at-sa2", "at-pgd", "trades", "vaft", "unet"),
)
JOBS_PAGE = """# Jobs

`freqbench run phantom/suite` runs a job of this folder from anywhere, or trains its networks where the first word is
*Trains*; `plan` takes the same names. `freqbench list jobs` lists them, `freqbench list jobs phantom/suite` shows one,
`freqbench list keys` every key by an example. A job is one YAML file, and its first comment says more. Costs are those
that the files state; `freqbench plan JOB` estimates yours. Data are looked for under `$FREQBENCH_DATA`: [your own
data](../docs/how-to/own-data.md). Jobs of `research` are those of this project's own reports.

This page is made from the files by `python docs/generated.py`.

"""
PAGES: Mapping[str, str] = {  # where the site has what the repository has elsewhere
    "docs/": "",
    "reports/": "generated/reports/",
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "../CITATION.cff",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "CONTRIBUTING.md": "contributing.md",
}

QUICK: dict[str, Any] = {  # of the pictures
    **{"steps": 4, "queries": 20, "num_spectra": 2, "bands": 24},
    **{"members": ("apgd-dice", "square"), "losses": ("mask-ce",)},  # of the ensembles
}
QUICK_TOO: dict[str, dict[str, Any]] = {
    "sa2_2d": {"ssim_weight": 0.0},  # its SSIM asks for a cube
    "bases": {"queries": 3},  # a query is four steps of two networks
}


def write(folder: Path) -> None:
    """Write all snippets, and the pictures that are not there; what is as it was stays untouched."""
    for pages in ("attacks", "job", "training-job"):
        (folder / pages).mkdir(parents=True, exist_ok=True)
    for tree in ("cluster", "reports"):
        shutil.copytree(ROOT / tree, folder / tree, dirs_exist_ok=True)
    snippets = {
        "readme": re.sub(r"<!-- badge -->.*?<!-- /badge -->\n+", "", on_site("README.md"), flags=re.DOTALL),
        "contributing": on_site("CONTRIBUTING.md"),
        "code-of-conduct": on_site("CODE_OF_CONDUCT.md"),
        "changelog": on_site("CHANGELOG.md"),
        "attack-table": attack_table(),
        "threat-models": threat_table(),
        **attack_pages(),
        "models": model_table(),
        "datasets": dataset_table(),
        "dataset-classes": "\n".join(_documented(loader) for loader in DATASETS.values()),
        "gpu-speed": gpu_tables(GPU_SPEED),
        "coverage": coverage_table(),
        "alike-nnunetv2": alike_table("nnunetv2"),
        "alike-monai": alike_table("monai"),
        "bounds": section_of(BOUNDS, "Both ends"),
        "metrics": metric_table(),
        "checks": table([[f"`{name}`", check.should] for name, check in CHECKS.items()], ["check", "what should hold"]),
        "quickstart-attacks": section_of(QUICKSTART, "phantom: attacks on unet, white-box"),
        "quickstart-transfer": "\n".join(
            line
            for line in section_of(QUICKSTART, "phantom: foreground DSC x100").splitlines()
            if re.match(r"\| (attack|clean|sa2 rho=0.4 |sa2_opt|pgd)|\|:", line) and "control" not in line
        ),
        "records": column_table(RECORDS),
        "class-records": column_table(CLASS_RECORDS),
        "command-line": command_line(),
        **{f"job/{name}": text for name, text in key_pages(JobSpec, "A job")},
        **{f"training-job/{name}": text for name, text in key_pages(TrainJob, "A training job")},
        "packaged-jobs": job_tables(),
    }
    snippets["reports/quickstart/tables"] = f"# The quick start, all tables\n\n{QUICKSTART.read_text(encoding='utf-8')}"
    for name, text in snippets.items():
        _put(folder / f"{name}.md", text + "\n")
    for name in ATTACKS:
        picture = folder / "attacks" / f"{name}.png"
        if not picture.exists():
            draw(name).savefig(picture, dpi=80)
    (folder / "notebooks").mkdir(exist_ok=True)
    for path in (ROOT / "docs" / "tutorials").glob("*.py"):
        _put(folder / "notebooks" / f"{path.stem}.ipynb", notebook(path))
    rooms((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")).savefig(folder / "rooms.svg")


def on_site(name: str) -> str:
    """A file of the repository's top, its links and pictures as the site has them."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for there, here in PAGES.items():
        text = text.replace(f"]({there}", f"]({here}")
    return text


def places() -> Mapping[str, str]:
    """Addresses of `[project.urls]` by name; empty until there is a public place."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})


def front_page() -> str:
    """The README with the addresses that there are, and a badge if the repository is on GitHub."""
    urls = places()
    tests = f"{urls.get('Repository', '')}/actions/workflows/ci.yml"
    badge = f"[![tests]({tests}/badge.svg)]({tests})\n" if "//github.com/" in tests else ""
    found = ", ".join(f"{name}: <{urls[name]}>" for name in ("Repository", "Documentation") if name in urls)
    lines = [line for line in (found and f"{found}.", image_line()) if line]
    parts = {"badge": badge, "addresses": "".join(f"{line}\n" for line in lines), "board": board_table(BOARD_OF_README)}
    return filled((ROOT / "README.md").read_text(encoding="utf-8"), parts)


def image_line() -> str:
    """How to run the published image; empty if there is none."""
    image = places().get("Image", "").removeprefix("https://")
    run = f"`docker run --rm --shm-size=1g -w /tmp {image}:cpu freqbench run quickstart`"
    return f"Without an installation: {run}." if image else ""


def citation() -> str:
    """CITATION.cff with the addresses that there are."""
    keys = {"repository-code": "Repository", "url": "Documentation"}
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.partition(":")[0] not in keys]
    return "\n".join([*lines, *(f"{key}: {places()[name]}" for key, name in keys.items() if name in places()), ""])


def install_page() -> str:
    """The page on installation with the published image, if there is one."""
    image = image_line()
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    return filled(page, {"image": f"{image}\n" if image else ""})


def notebook(path: Path) -> str:
    """A tutorial as a notebook without outputs; its cells have the same ids each time."""
    import jupytext  # of the extra `docs`, which the page of jobs does not need

    made = jupytext.read(path, fmt="py:percent")
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
    return str(jupytext.writes(made, fmt="ipynb"))


def rooms(text: str) -> Figure:
    """The graph of Mermaid in a page, each node just above the first that it points to."""
    graph = nx.DiGraph(re.findall(r"^    (\w+) --> (\w+)$", text, flags=re.MULTILINE))
    layers = [*nx.topological_generations(graph.reverse())][::-1]
    places: dict[str, tuple[float, float]] = {}
    for depth, names in enumerate(layers):
        above = {
            name: sum(places[each][0] for each in graph.pred[name]) / max(1, len(graph.pred[name])) for name in names
        }
        for number, name in enumerate(sorted(names, key=lambda name: (above[name], name))):
            places[name] = ((number + 1) / (len(names) + 1), -float(depth))
    figure = Figure(figsize=(8, 0.8 * len(layers)), layout="constrained")
    ax = figure.subplots()
    for start, end in graph.edges:
        arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": "#888888", "shrinkA": 12, "shrinkB": 12}
        if places[start][1] - places[end][1] > 1:  # past another layer: around its nodes
            side = 1 if places[start][0] <= places[end][0] else -1
            arrow["connectionstyle"] = f"arc3,rad={0.35 * side}"
        ax.annotate("", places[end], places[start], arrowprops=arrow)
    for name, (x, y) in places.items():
        ax.text(
            x,
            y,
            name,
            ha="center",
            va="center",
            bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "#2a6f97"},
        )
    ax.set(xlim=(0, 1), ylim=(0.5 - len(layers), 0.5))
    ax.set_axis_off()
    return figure


def section_of(path: Path, title: str) -> str:
    """The text below the heading of a report that begins with `title`."""
    (text,) = re.findall(
        rf"^## {re.escape(title)}[^\n]*\n\n(.*?)(?=^## |\Z)", path.read_text(encoding="utf-8"), re.M | re.S
    )
    return str(text).rstrip()


def attack_table() -> str:
    """A row an attack: threat model, budget, passes, cost of a step as measured, paper."""
    rows = []
    for name in ATTACKS:
        made = example(name)
        step, whole = passes_of(name)
        budget = f"`{made.budget_name}`" if made.budget_name else "none"
        paper = catalogue.attack(name).facts["paper"]
        rows.append([f"[`{name}`](#{name})", f"`{made.threat_model}`", budget, step, whole, cost_of(name), paper])
    headers = ["attack", "threat model", "budget", "passes a step", "passes", "cost of a step", "paper"]
    return table(rows, headers)


def threat_table() -> str:
    """A row a threat model: its name, and that in words."""
    return table([[f"`{name}`", words] for name, words in WORDS.items()], ["threat model", "in words"])


def attack_pages() -> dict[str, str]:
    """A page an attack by its file: its picture, its docstring, its parameters."""
    pages = {}
    for name, attack in ATTACKS.items():
        rows = [
            [f"`{key}`", default if default == catalogue.REQUIRED else f"`{default}`", meaning]
            for key, default, meaning in catalogue.attack_rows(attack)
        ]
        picture = f"```{{image}} {name}.png\n:alt: what {name} does to a volume\n```\n"
        parameters = table(rows, ["parameter", "default", "meaning"])
        pages[f"attacks/{name}"] = f"({name})=\n# `{name}`\n\n{picture}\n{_documented(attack)}\n{parameters}"
    return pages


def model_table() -> str:
    """A row a network."""
    rows = [[f"`{name}`", title, citation] for name, title, citation in catalogue.model_rows()]
    return table(rows, ["`arch`", "network", "paper"])


def dataset_table() -> str:
    """A row a loader."""
    rows = [[f"`{name}`", line] for name, line in catalogue.dataset_rows()]
    return table(rows, ["`loader`", "what it reads"])


def metric_table() -> str:
    """A row a metric, with the columns that it fills."""
    rows = [
        [f"`{name}`", *facts, ", ".join(f"`{column}`" for column in METRICS[name].columns)]
        for name, *facts in catalogue.metric_rows()
    ]
    return table(rows, ["metric", "title", "unit", "better", "columns"])


def column_table(columns: Sequence[Column]) -> str:
    """A row a column of a result store."""
    rows = [[f"`{each.name}`", str(each.type), each.unit, each.direction, each.mark, each.meaning] for each in columns]
    return table(rows, ["column", "type", "unit", "better", "mark", "meaning"])


def job_tables() -> str:
    """A table a group of jobs, a row a job: question, networks, cost."""
    tables = []
    for folder, title in {**catalogue.GROUPS, catalogue.RESEARCH: "Research of this project"}.items():
        jobs = [name for name in packaged_jobs() if catalogue.group_of(name) == folder]
        rows = [[f"`{name}`", *job_row(name)] for name in jobs]
        tables.append(f"**{title}**\n\n{table(rows, ['job', 'question', 'networks', 'cost'])}\n")
    return "\n".join(tables)


def job_row(name: str) -> tuple[str, str, str]:
    """What a job asks, its networks and its cost."""
    job = catalogue.job(name)
    names = job.facts["models"].split(", ")
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return catalogue.question(job), ", ".join(names[: 3 if more else 4]) + more, job.facts["cost"]


def jobs_page() -> str:
    """The text of `jobs/README.md`."""
    return JOBS_PAGE + re.sub(r"^\| `([\w/]+)`", r"| [`\1`](\1.yaml)", job_tables(), flags=re.MULTILINE)


def command_line() -> str:
    """All commands as Typer documents them, one level of headings down."""
    command = typer.main.get_command(app)
    show_hidden(command)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="freqbench"), name="freqbench")
    return text.partition("\n## ")[1].lstrip() + text.partition("\n## ")[2]


def key_pages(model: type[BaseModel], title: str) -> Iterator[tuple[str, str]]:
    """A page a part of a job by its name, as its JSON Schema has it; attacks and datasets have pages of their own."""
    schema = schema_of(model)
    own = ChainMap(*(catalogue.attributes(inspect.getdoc(base) or "") for base in model.__mro__))
    elsewhere = {loader.__name__ for loader in DATASETS.values()}
    parts = {title: schema} | {
        name: part
        for name, part in schema.get("$defs", {}).items()
        if part.get("properties") and name not in elsewhere and not name.startswith("attack-")
    }
    for name, part in parts.items():
        meanings = own if name == title else catalogue.attributes(part.get("description", ""))
        rows = []
        for key, value in part["properties"].items():
            whole = schema.get("$defs", {}).get(value.get("$ref", "").rpartition("/")[2], {}) | value
            meaning = meanings.get(key) or whole.get("description", "").partition("\n")[0]
            rows.append([f"`{key}`", values(value), default_of(key, part), meaning])
        yield name.replace(" ", "-"), f"# {name}\n\n{table(rows, ['key', 'values', 'default', 'meaning'])}"


def default_of(key: str, part: Mapping[str, Any]) -> str:
    """Value of a key that a job leaves out."""
    if key in part.get("required", ()):
        return "required"
    value = part["properties"][key].get("default")
    return "" if value is None else f"`{json.dumps(value)}`"


def values(schema: Mapping[str, Any]) -> str:
    """Values that a key takes, in a few words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(values, schema["anyOf"]))))
    if schema.get("type") == "array":
        items = values(schema.get("items", {}))
        return f"a list of {items}" if items else "a list"
    words = {"object": "keys and values", "string": "text", "null": "nothing", "boolean": "true or false"}
    kind = schema.get("type", "")
    return words.get(kind, kind)


def example(name: str, **quick: Any) -> Attack:
    """An attack with its defaults, but for parameters that have none and for `quick`, as far as it has them."""
    attack = ATTACKS[name]
    given = {key: parse_value(value) for key, value in catalogue.example(declared(name)).items()}
    return make(name, **given, **{f.name: quick[f.name] for f in fields(attack) if f.name in quick})


def passes_of(name: str) -> tuple[str, str]:
    """Forward + backward passes of one step, and of the attack with its defaults."""
    attack = example(name)
    forwards, backwards = attack.passes
    whole = f"{'at most ' if attack.may_stop_early else ''}{forwards} + {backwards}"
    if isinstance(attack, Ensemble):
        return "its members'", whole
    if attack.needs_surrogates:
        return "1 + 0", f"{whole}, of each surrogate {' + '.join(map(str, attack.surrogate_passes))}"
    for knob in ("steps", "queries"):
        if number := getattr(attack, knob, None):
            twice = example(name, **{knob: 2 * number}).passes
            return f"{(twice[0] - forwards) // number} + {(twice[1] - backwards) // number}", whole
    return whole, whole


def cost_of(name: str) -> str:
    """Measured cost of a step in steps of the bare model; the largest over blocks."""
    if issubclass(ATTACKS[name], Ensemble):
        return "its members'"
    rows = [row for row in json.loads(SPEED.read_text())["rows"] if row["attack"] == name]
    return f"{max(row['ratio'] / (row['spectra'] or 1) for row in rows):.2f}" if rows else "not measured"


def gpu_tables(path: Path) -> str:
    """Tables of what a file holds of a GPU: steps, then all other measurements; a sentence if there is no file."""
    if not path.exists():
        return "Nothing is measured yet."
    measured = json.loads(path.read_text())
    machine = measured["machine"]
    steps = []
    others = []
    for row in measured["rows"]:
        if "attack" not in row:
            values = ", ".join(f"{name} {value:.3g}" for name, value in row.items() if isinstance(value, float))
            others.append([row["what"], row.get("model") or "", values, row["date"]])
            continue
        block = f" {row['block']}" if row["block"] else ""
        numbers = [1000 * row["bare step, s"], 1000 * row["attack step, s"], row["ratio"], row["bound"]]
        numbers += [row["bare peak, GiB"], row["attack peak, GiB"]]
        cells = ["" if number is None else f"{number:.3g}" for number in numbers]
        steps.append([f"`{row['attack']}`{block}", row["model"], *cells, row["date"]])
    headers = [
        "attack",
        "network",
        "bare step, ms",
        "step, ms",
        "ratio",
        "bound",
        "bare peak, GiB",
        "peak, GiB",
        "date",
    ]
    where = f"{machine['gpu']}, driver {machine['driver']}, torch {machine['torch']}."
    parts = [table(steps, headers)] if steps else []
    return "\n\n".join([where, *parts, table(others, ["what", "network", "measured", "date"])])


def coverage_table() -> str:
    """A row a distribution of DSC and number of patients: per cent of intervals that hold the mean, by method."""
    methods = ("t", "t on logits", "percentile", "BCa")
    rows = json.loads(COVERAGE.read_text())["rows"]
    cells = [[row["what"], str(row["patients"]), *(f"{100 * row[name]:.1f}" for name in methods)] for row in rows]
    return table(cells, ["DSC of a patient", "patients", *methods])


def alike_table(toolchain: str) -> str:
    """A row a configuration: per cent of the file's voxels that freqbench labels as the toolchain itself does."""
    rows = pd.read_csv(ALIKE)
    rows = rows[rows["toolchain"].str.startswith(f"{toolchain} ")]
    (release,) = rows["toolchain"].unique()
    shares = ["alike", "alike_off_ties", "toolchain_alike_in_float16"]
    headers = {"alike": "alike, %", "alike_off_ties": "off ties, %", "toolchain_alike_in_float16": "float16, %"}
    known = [share for share in shares if rows[share].notna().all()]
    cells = [
        [row["configuration"], f"{row['voxels']:,}", str(row["ties"]), *(f"{100 * row[share]:.2f}" for share in known)]
        for _, row in rows.iterrows()
    ]
    return table(cells, [f"configuration ({release})", "voxels", "ties", *(headers[share] for share in known)])


def draw(name: str) -> Figure:
    """One slice of a phantom: clean, attacked in a few steps on the packaged UNet, and the change."""
    image, label = _slab(0)
    attack = example(name, **(QUICK | QUICK_TOO.get(name, {})))
    model = _network("unet")
    other = _slab(1)
    given = attack.supplied(
        reference=lambda: other[0],
        learned=lambda: attack.learn(model, [(other[0][0], other[1][0])], model.roi),
        surrogates=lambda: [_network("unet-vaft"), _network("segresnet")],
    )
    adversarial = attack(model, image, label, **given).adversarial
    change = (adversarial - image)[0, 0, :, :, 8]
    bound = max(float(change.abs().max()), 1 / 255)
    figure = Figure(figsize=(7.5, 2.7))
    panels = [(image, "gray", (0, 1), "clean"), (adversarial, "gray", (0, 1), f"after {name}")]
    *axes, bar = figure.subplots(1, 4, width_ratios=(1, 1, 1, 0.06))
    figure.subplots_adjust(left=0.01, right=0.92, bottom=0.04, top=0.92, wspace=0.04)
    for ax, (volume, cmap, limits, title) in zip(axes[:2], panels, strict=True):
        ax.imshow(volume[0, 0, :, :, 8].T, cmap=cmap, vmin=limits[0], vmax=limits[1], origin="lower")
        ax.set_title(title, fontsize=10)
    shown = axes[2].imshow(change.T, cmap="RdBu_r", vmin=-bound, vmax=bound, origin="lower")
    axes[2].set_title("change", fontsize=10)
    figure.colorbar(shown, cax=bar)
    for ax in axes:
        ax.set_axis_off()
        ax.invert_xaxis()  # the patient's right on the left, as in every other picture
    return figure


@cache
def _phantom() -> Dataset:
    return DATASETS["phantom"](name="phantom", cases=2)


@cache
def _network(name: str) -> SegmentationModel:
    entry = ModelEntry(name=name, checkpoint=f"zoo://phantom/{name}")
    return load(resolve(entry, len(_phantom().classes)), torch.device("cpu"))


@cache
def _slab(number: int) -> tuple[Tensor, Tensor]:
    """The middle of a phantom, `[1, 1, 64, 64, 16]`: quick to attack."""
    case = _phantom().load(_phantom().refs()[number])
    return case.image[None, :, 8:72, :, 8:24], case.label[None, :, 8:72, :, 8:24].long()


def _documented(cls: type) -> str:
    return f"```{{eval-rst}}\n.. autoclass:: {cls.__module__}.{cls.__qualname__}\n```\n"


def _put(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _put(ROOT / "jobs" / "README.md", jobs_page())
    _put(ROOT / "README.md", front_page())
    _put(ROOT / "CITATION.cff", citation())
    _put(ROOT / "docs" / "install.md", install_page())
    _put(BOARD_PAGE, leaderboard_page())
    _put(ACDC_PAGE, acdc_page())
    _put(EJECTION, ejection_page())
    _put(NNUNET, nnunet_page())
    _put(DETECTION, detection_page())
    _put(STRONGEST, strongest_page())
    _put(WORST_CASES, worst_cases())
