"""Describes what a job may name: the command `list`, and docs' tables; read from source where tables load torch."""

import ast
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

import typer
import yaml
from rich.table import Column, Table

from freqbench.attacks.core.declared import PACKAGE, declared
from freqbench.attacks.core.parameters import variant_of
from freqbench.cli import common
from freqbench.cli.common import argument, more
from freqbench.core import names, plugins
from freqbench.core.documents import yaml_item
from freqbench.core.errors import UserError, unknown
from freqbench.core.measures import METRICS
from freqbench.core.names import packaged_jobs
from freqbench.core.threat_models import words_of

app = typer.Typer()
ABOUT = "One of them, to see all about it, or a word to search for."
KEYS = PACKAGE / "freqbench/job/keys.yaml"
PAPERS = "papers"
RESEARCH = "research"
GROUPS: Mapping[str, str] = {  # folders of jobs, in the order of a reader
    "": "First",
    "phantom": "Procedural CT volumes and networks of the package: no data needed",
    "hippocampus": "MR volumes of the Medical Segmentation Decathlon, Task04",
    "brain": "Networks that people use",
    PAPERS: f"Tables of papers ({PAPERS}/...): their data are needed, and mostly checkpoints",
}
EXAMPLES: Mapping[str, Any] = {  # values of keys without a default, as a job file has them
    **{"eps": "8/255", "std": "8/255", "linf": "8/255", "share": 0.5, "portion": 0.3, "eps_k": 0.3, "eps_p": 0.02},
    "radius": 0.5,
    **{"log_amplitude": 0.5, "deviation": 0.1, "max_mm": 6, "band": "low", "kind": "motion", "severity": 3},
    "image": "images/{case}.nii.gz",
    **{"root": "data/mine", "task": "hippocampus", "classes": ["spleen"], "like": "synapse"},
}
OWN: Mapping[str, Mapping[str, Any]] = {  # of keys that mean something else elsewhere, or are required beside others
    **{"ball": {"kind": "bias_field"}, "images": {"reference": "prediction"}},
    "pairs": {"label": "labels/{case}.nii.gz", "labels": ["background", "tumour"]},
}
REQUIRED = "required"
PARAMETERS = ("parameter", "default", "meaning")
COLUMNS = ("column", "unit", "meaning")
_KEYS_OF_READERS: Mapping[str, Mapping[str, Any]] = {
    "bundle": {"bundle": "DIR"},
    **{name: {"arch": name, "checkpoint": "DIR"} for name in ("nnunet", "meshnet")},
    "command": {"command": ["TOOL", "-i", "{image}", "-o", "{labels}"]},
}
Rows = list[tuple[str, ...]]
Listed = tuple[tuple[str, ...], Callable[[], Rows]]  # heads and rows of a list


@dataclass(frozen=True)
class Described:
    """Description of one name that a job may have, or of a packaged job."""

    facts: Mapping[str, str]  # short texts by what they are
    line: str  # how a job names it; of a job, the command that runs it
    text: str = ""  # docstring, or comment
    heads: tuple[str, ...] = PARAMETERS  # of the table of its parameters or columns
    rows: Sequence[tuple[str, ...]] = ()


def first_line(text: str | None) -> str:
    """Returns the first line of a docstring, without its full stop."""
    return (text or "").partition("\n")[0].rstrip(".").replace("  ", " ")


def attributes(docstring: str, title: str = "Attributes") -> dict[str, str]:
    """Returns the names below a title of a docstring, with their meanings, each on one line."""
    listed = inspect.cleandoc(docstring).partition(f"{title}:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", listed, re.M)
    found: dict[str, str] = {}
    for several, text in entries:
        found |= dict.fromkeys(several.split(", "), " ".join(text.split()))
    return found


def example(cls: Any) -> dict[str, Any]:
    """Returns EXAMPLES for an attack's required parameters, and for its budget if that has no value by default."""
    empty = (MISSING, None)
    wanted = [e.name for e in fields(cls) if e.default is MISSING or (e.name == cls.budget_name and e.default in empty)]
    return {name: {**EXAMPLES, **OWN.get(cls.name, {})}.get(name, "VALUE") for name in wanted}


def attack_rows(cls: Any) -> Rows:
    """Lists the parameters of an attack, by its class or outline: name, default, meaning."""
    meanings = {name: parameter.meaning for name, parameter in cls.parameters.items()}
    meanings["variant"] = f"{variant_of(cls.variants).meaning}: {', '.join(f'`{form}`' for form in cls.variants)}"
    return [(e.name, REQUIRED if e.default is MISSING else str(e.default), meanings[e.name]) for e in fields(cls)]


def metric_rows(more: Sequence[str] = ()) -> Rows:
    """Lists the metrics, and `more` of installed packages: name, title, unit, better direction."""
    metrics = dict(METRICS)
    if more:
        from freqbench.metrics import metric_of

        metrics |= {name: metric_of(name) for name in more if name not in names.KNOWN["metrics"]}
    return [(name, metric.title, metric.unit, metric.direction) for name, metric in metrics.items()]


def model_rows() -> Rows:
    """Lists the architectures: name, title, paper."""
    rows: Rows = []
    for name, call in names.entries("models/networks/architectures.py", "MODELS").items():
        values = {each.arg: each.value for each in call.keywords} if isinstance(call, ast.Call) else {}
        rows.append((name, *(str(ast.literal_eval(values[key])) for key in ("title", "citation"))))
    return rows + [(name, path, "") for name, path in plugins.installed_names("models").items()]


def zoo_rows() -> Rows:
    """Lists the networks that the package carries: address, architecture, training, clean Dice and worst case x100."""
    from freqbench.models.packaged import ZOO, card, zoo_names

    cards = [card(f"{ZOO}{name}") for name in zoo_names()]
    return [(each.address, each.arch, each.trained_by, _points(each.dice), _points(each.worst_case)) for each in cards]


def _points(dice: float | None) -> str:
    return "-" if dice is None else f"{100 * dice:.1f}"


def reader_rows() -> Rows:
    """Lists the readers of other frameworks' networks, like `model_rows`."""
    rows: Rows = []
    for name, kind in names.entries("models/sources/__init__.py", "READERS").items():
        path = PACKAGE / f"freqbench/models/sources/{ast.unparse(kind).partition('.')[0]}.py"
        rows.append((name, first_line(ast.get_docstring(ast.parse(path.read_bytes()))), ""))
    return rows


def dataset_rows() -> Rows:
    """Lists the loaders: name, and the first line of their docstring."""
    from freqbench.data import DATASETS, Dataset

    classes = {name: plugins.load_class(path, Dataset) for name, path in plugins.installed_names("datasets").items()}
    return [(name, first_line(cls.__doc__)) for name, cls in {**DATASETS, **classes}.items()]


def attack_list() -> Rows:
    """Lists the attacks: name, threat model, budget, first line of the docstring."""
    classes = [(name, declared(name)) for name in names.KNOWN["attacks"]]
    if added := plugins.installed_names("attacks"):
        from freqbench.attacks import Attack

        classes += [(name, plugins.load_class(path, Attack)) for name, path in added.items()]
    return [(name, cls.threat_model, cls.budget_name or "none", first_line(cls.__doc__)) for name, cls in classes]


def attack(name: str) -> Described:
    """Describes an attack, without importing it unless it is a class of another package."""
    cls: Any = declared(name)
    if plugins.names_class(path := names.meant_name("attacks", name)):
        from freqbench.attacks import Attack

        cls = plugins.load_class(path, Attack)
    paper = cls.paper if hasattr(cls, "paper") else sys.modules[cls.__module__].__doc__
    threat_model = cls.threat_model  # a property, of a class whose parameters choose it
    if isinstance(threat_model, str) and (words := words_of(threat_model)):
        threat_model = f"{threat_model}: {words}"
    facts = {"paper": first_line(paper), "threat model": threat_model, "budget": cls.budget_name or "none"}
    details: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        details |= attributes(base.__doc__ or "", "Args") if base.__name__ != "Attack" else {}
    rows = [(key, default, details.get(key, meaning)) for key, default, meaning in attack_rows(cls)]
    usual = {e.name: e.default for e in fields(cls) if e.name == cls.budget_name and e.default not in (None, MISSING)}
    return Described(facts, _line("attacks", {"name": name, **usual, **example(cls)}), cls.__doc__, rows=rows)


def model(name: str) -> Described:
    """Describes an architecture with the arguments of its class, a reader, or a network of the package (zoo://...)."""
    if name.startswith("zoo://"):
        return zoo_network(name)
    line = _line("models", {"name": "mine", **_KEYS_OF_READERS.get(name, {"arch": name, "checkpoint": "FILE"})})
    from freqbench.models import MODELS, READERS

    if name in READERS:
        reader = sys.modules[READERS[name].facts.__module__]
        return Described({"reader": reader.__name__}, line, inspect.getdoc(reader) or "")
    if path := plugins.installed_names("models").get(name):
        from torch.nn import Module

        return Described({"class": path}, line, inspect.getdoc(plugins.load_class(path, Module)) or "")
    network = MODELS[name]
    cls = pkgutil.resolve_name(network.target)
    meanings = attributes(f"{inspect.getdoc(cls)}\n\n{inspect.getdoc(cls.__init__)}", "Args")
    rows = []
    for parameter in inspect.signature(cls).parameters.values():
        key = parameter.name
        own = parameter.default
        default = network.args.get(key, own)
        if key not in network.filled_in and parameter.kind is not parameter.VAR_KEYWORD:
            text = REQUIRED if default is parameter.empty else str(default)
            # The class's own text states its own default, beside which ours would be a contradiction.
            meaning = re.sub(r"\s*Defaults? (?:to|is) .*?\.(?=\s|$)", "", meanings.get(key, ""))
            if own is not parameter.empty and default != own:
                meaning += f" (the class's own default: {own})"
            rows.append((key, text, meaning.strip()))
    sides = " x ".join(map(str, network.roi))
    facts = {"network": network.title, "paper": network.citation, "class": network.target, "window": f"{sides} voxels"}
    return Described(facts, line, heads=("args", "default", "meaning"), rows=rows)


def zoo_network(address: str) -> Described:
    """Describes a network that the package carries by its card."""
    from freqbench.models.packaged import card

    each = card(address)
    facts = {"arch": each.arch, "dataset": each.dataset, "licence": each.licence, "trained by": each.trained_by}
    facts |= {f"attack {number}": str(dict(attack)) for number, attack in enumerate(each.attacks, start=1)}
    facts["training"] = f"job {each.job}, seed {each.seed}, {each.steps} steps in {each.seconds / 3600:.2f} h"
    facts["clean Dice"] = f"{_points(each.dice)} (foreground x100, on the job's test list)"
    if each.worst_case is not None:
        within = "; ".join(each.threat_models)
        facts["worst case"] = f"{_points(each.worst_case)} under the strongest attack within any of: {within}"
    return Described(facts, _line("models", {"name": "mine", "checkpoint": address}))


def dataset(name: str) -> Described:
    """Describes a loader with the keys of its entry in a job."""
    from freqbench.data import DATASETS, Dataset

    cls = DATASETS[name] if name in DATASETS else plugins.load_class(names.meant_name("datasets", name), Dataset)
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= attributes(base.__doc__ or "")
    rows = []
    entry = {"name": name, **OWN.get(name, {})}
    for key, field in cls.model_fields.items():
        word = field.alias or key
        rows.append((word, REQUIRED if field.is_required() else str(field.default), meanings.get(key, "")))
        if field.is_required() and word != "name":
            entry[word] = EXAMPLES.get(word, "VALUE")
    facts = {"homepage": cls.homepage} if cls.homepage else {}
    return Described(facts, _line("datasets", entry), inspect.getdoc(cls) or "", rows=rows)


def metric(name: str) -> Described:
    """Describes a metric with the columns that it fills."""
    from freqbench.metrics import added, metric_of
    from freqbench.results import require_free

    if name in plugins.installed_names("metrics"):
        require_free(name)
    chosen = metric_of(name)
    text = ""
    facts = {"title": chosen.title, "unit": chosen.unit, "better": chosen.direction, "computed from": chosen.of}
    if name not in METRICS:
        text = inspect.getdoc(added.load(name)) or ""
        facts["package"] = plugins.package_of("metrics", name)
    columns: dict[str, tuple[str, str]] = {}
    for each in chosen.numbers:
        columns |= {key: (each.unit, meaning) for key, meaning, _ in each.columns()}
    rows = [(key, *columns[key]) for key in chosen.columns]
    return Described(facts, f"metrics: [{name}]", text, heads=COLUMNS, rows=rows)


def job_rows() -> Rows:
    """Lists the packaged jobs: name, what it asks or trains, cost."""
    return [(name, question(each := job(name)), each.facts["cost"]) for name in packaged_jobs()]


def job(name: str) -> Described:
    """Describes a packaged job: what it does, names in it, and the command that runs it."""
    text = packaged_jobs()[name].read_text(encoding="utf-8")
    comment = "\n".join(re.findall(r"^# ?(.*)$", text.partition("\nname: ")[0], re.MULTILINE))
    content = yaml.safe_load(text)
    (cost,) = re.findall(r"^Cost: (.*)\n?", comment, re.MULTILINE)
    of = {key: content.get(key) or [] for key in ("datasets", "models", "attacks")}
    of["datasets"] = of["datasets"] or [content["dataset"]]
    facts: dict[str, str] = {}
    for key, entries in of.items():
        if entries:
            facts[key] = ", ".join(dict.fromkeys(each["name"] for each in entries))
    about = re.sub(r"^(Cost:|Every key) .*\n?", "", comment, flags=re.MULTILINE)
    return Described({**facts, "cost": cost}, f"freqbench run {name}", about)


def group_of(name: str) -> str:
    """Returns the folder of a packaged job, RESEARCH for all below it."""
    return RESEARCH if name.startswith(RESEARCH) else name.rpartition("/")[0]


def question(job: Described) -> str:
    """Returns the first sentence of a packaged job's comment."""
    return re.split(r"(?<=\?)\s|(?<=[\w)]\.)\s+(?=[A-Z0-9])", job.text.replace("\n", " "))[0].strip()


TABLES: Mapping[str, tuple[Callable[[str], Described], *tuple[Listed, ...]]] = {  # one of a table, and its lists
    "attacks": (attack, (("attack", "threat model", "budget", "what it does"), attack_list)),
    "models": (
        model,
        (("arch", "network", "paper"), lambda: [*model_rows(), *reader_rows()]),
        (("checkpoint", "arch", "trained by", "clean Dice", "worst case"), zoo_rows),
    ),
    "datasets": (dataset, (("loader", "what it reads"), dataset_rows)),
    "metrics": (
        metric,
        (("metric", "title", "unit", "better"), lambda: metric_rows([*plugins.installed_names("metrics")])),
    ),
    "jobs": (job, (("job", "what it asks or trains", "cost"), job_rows)),
}


def _names_of(table: str) -> Sequence[str]:
    return [*packaged_jobs()] if table == "jobs" else names.KNOWN[table]


def _beginning(context: typer.Context, incomplete: str) -> list[str]:
    return [name for name in _names_of(context.params["table"]) if name.startswith(incomplete)]


@app.command("list", no_args_is_help=True)
def show_list(
    table: Annotated[
        Literal["attacks", "models", "datasets", "metrics", "jobs", "keys"],
        argument("attacks, models, datasets, metrics, jobs of the package, or keys of a job.", "TABLE"),
    ],
    word: Annotated[str | None, argument(ABOUT, "WORD", show_default="all", autocompletion=_beginning)] = None,
    schema: Annotated[Literal["job", "training"] | None, more("With keys: the JSON Schema, for editors.")] = None,
    trust_code: common.Trust = False,
) -> None:
    """Show what a job may name, and the packaged jobs.

    Of an attack, formula, paper and parameters, also of a class `package.module:Class`; of a model its arguments, of a
    network of the package (zoo://...) its training and scores; a line for a job file of each.
    """
    if table == "keys":
        from freqbench.job import json_schema, training
        from freqbench.job import schema as schemas

        if schema:
            common.put_json(json_schema.schema_of(training.TrainJob if schema == "training" else schemas.JobSpec))
        else:
            common.put(KEYS.read_text(encoding="utf-8"), None)
    elif table == "jobs" and not word:
        _put_jobs()
    else:
        with plugins.trusting(trust_code):
            _show(table, word)


def _put_jobs() -> None:
    """Prints one line for each packaged job by group; only names of those that need a paper's data."""
    jobs: dict[str, list[str]] = {group: [] for group in (*GROUPS, RESEARCH)}
    for name in packaged_jobs():
        jobs[group_of(name)].append(name)
    for group, title in GROUPS.items():
        common.say(f"{title}:")
        if group == PAPERS:
            common.console().print(", ".join(name.removeprefix("papers/") for name in jobs[group]))
            continue
        for name in jobs[group]:
            common.say(f"  {name:<20} {question(job(name))}")
    common.say(f"{len(jobs[RESEARCH])} more of this project's own research: freqbench list jobs {RESEARCH}")
    common.say("all about one: freqbench list jobs quickstart")


def _show(table: str, word: str | None) -> None:
    """Prints all about a name of a table, else the rows of its lists that have the word."""
    describe, *lists = TABLES[table]
    added = plugins.installed_names(table)
    known = _names_of(table)
    name = str(word if word in added else names.ALIASES.get(table, {}).get(word or "", word))
    is_class = table == "attacks" and plugins.names_class(name)
    if name in known or name in added or is_class or (table == "models" and name.startswith("zoo://")):
        _put(name, describe(name))
        return
    sought = (word or "").casefold()
    chosen = [(heads, _rows_with(rows(), sought)) for heads, rows in lists]
    if not any(rows for _, rows in chosen):
        raise UserError(unknown(table.removesuffix("s"), str(word), [*known, *added]))
    for heads, rows in chosen:
        if rows:
            _put_table(heads, rows)
            common.say(f"all about one: freqbench list {table} {rows[0][0]}")
    if table == "models" and chosen[-1][1]:
        common.say("foreground Dice x100: clean on the job's test list; worst case over the leaderboard's attacks")


def _rows_with(rows: Rows, sought: str) -> Rows:
    return [row for row in rows if sought in " ".join(row).casefold()]


def _put(name: str, described: Described) -> None:
    common.say(f"{name}\n")
    for fact, text in described.facts.items():
        common.say(f"{fact + ':':<14} {text}")
    if described.text:
        common.console().print(f"\n{plain(described.text)}")
    if described.rows:
        common.say("")
        _put_table(described.heads, described.rows)
    common.say(f"\n{'run it' if described.line.startswith('freqbench ') else 'in a job file'}:\n{described.line}")


def plain(docstring: str) -> str:
    r"""Renders reStructuredText for a terminal, a line a paragraph; leaves out sections that a table repeats. Formulas
    become text: ``\eta`` is η. Lists and indented lines keep their lines."""
    text = re.sub(r"\n\n(Args|Attributes):\n(?: {4}.*\n?|\n(?= {4}))*", "\n", inspect.cleandoc(docstring) + "\n")
    text = re.sub(r"^\.\. math::\s+((?:.+\n)+)", lambda match: f"    {_formula(match[1])}\n", text, flags=re.M)
    text = re.sub(r":math:`([^`]*)`", lambda match: _formula(match[1]), text)
    text = re.sub(r"(?<=\S)\n(?=[^\s-])", " ", text)  # a paragraph's lines
    return text.replace("**", "").strip()


def _formula(latex: str) -> str:
    from pylatexenc import latex2text

    def fraction(node: Any, l2tobj: Any) -> str:
        parts = (l2tobj.nodelist_to_text([part]) for part in node.nodeargs)
        return " / ".join(f"({part})" if re.search(r"[\s+*/-]", part) else part for part in parts)

    signs = {"lVert": "‖", "rVert": "‖", "lvert": "|", "rvert": "|", "|": "‖"}
    signs |= {"le": " ≤ ", "ge": " ≥ ", "leftarrow": " ← ", "in": " ∈ ", "sim": " ∼ ", "cdot": " · ", "log": "log "}
    macros = [latex2text.MacroTextSpec(name, sign) for name, sign in signs.items()]
    macros.append(latex2text.MacroTextSpec("frac", fraction))
    known = latex2text.get_default_latex_context_db()
    known.add_context_category("signs", macros=macros, prepend=True)
    text = latex2text.LatexNodes2Text(known, math_mode="text").latex_to_text(" ".join(latex.split()))
    return re.sub(r"\s+(?=[,;)‖])", "", " ".join(text.split()))


def _put_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(Column(heads[0], no_wrap=True), *(Column(head, overflow="fold") for head in heads[1:]))
    for row in rows:
        table.add_row(*row)
    common.console().print(table)


def _line(key: str, entry: Mapping[str, Any]) -> str:
    return f"{key}: [{yaml_item(entry).removeprefix('- ')}]"
