"""Walks pages: finds paths, command lines, options and names in code style that do not exist."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from fnmatch import fnmatch
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import typer

import freqbench
from freqbench.attacks import ATTACKS
from freqbench.cli import EVERY, app
from freqbench.core.names import ALIASES, packaged_jobs
from freqbench.reporting.papers.recipes import RECIPES
from freqbench.reporting.report import AUDIT
from freqbench.reporting.views import VIEWS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in (
        *("*.md", "docs/*.md", "docs/[!g]*/*.md", "jobs/*.md", "reports/*.md", "reports/*/*.md", "cluster/*.md"),
        *("tests/tools/*.md", ".github/*.md"),
    )
    for page in ROOT.glob(pattern)
    if page.name != "CHANGELOG.md"  # which says what was
)
"""Pages of the repository, relative to it."""

TABLES = (*VIEWS, *RECIPES, AUDIT)
UsageError: Any = typer.BadParameter.__base__
CODE = ("freqbench", "jobs", "cluster", "tests", ".github", "docs")
OF_USERS = re.compile(
    r"(runs|data|entries|~|\.\.|\.\.\.|\$\{?[A-Z_]+\}?|OUT|DIR)(/.*)?|(mine|my|toy|robust|map)[\w-]*\.\w+|toy/"
)
URI = re.compile(r"[a-z0-9]+://.*")
SUFFIXES = "py|md|yaml|yml|json|sh|png|csv|html|pt|pth|txt|tex|db|cff|toml|gz|safetensors|parquet|pdf"
OTHERS = {  # what other programs, and folders that freqbench writes, call their own
    "cluster/README.md": r"--requeue|--gpus|MetricsExportPort",
    "tests/tools/README.md": r"--fast",
    "docs/how-to/files.md": (
        r"(images|labels)/CASE(\.dcm)?|case-1a2b3c4d|channel_[01]|(labels/CASE/)?prediction-MODEL\.dcm|.*CASE/\d+\.dcm"
    ),
    "docs/how-to/own-classes.md": r"boundary_clean|roughness of .*",
    "docs/plugin/README.md": r"(two_steps|boundary).*",
    "docs/how-to/gpu.md": r"--fast|reports/speed/gpu\.json",
    "docs/how-to/bundles.md": r"configs/\w+\.json|models/model\.pt",
    "docs/how-to/nnunet.md": r"(plans|dataset)\.json|fold_0/checkpoint_final\.pth",
    "docs/how-to/paper-tables.md": r"--\w[\w.-]*|val_size|Tasks/TASK/dataset\.json|dataset_prueba\.json",
    "docs/how-to/results.md": r"clean/CASE\.nii\.gz|adv_CASE\.nii\.gz",
    "docs/install.md": r"--extra-index-url",
    "docs/security.md": r"Host",
    "reports/nnunet/README.md": r"nnUNetv2_\w+|nnUNetTrainer_20epochs",
    "reports/acdc/authors.md": r"attacks/(vafa|saa|saa/decompression\.py)|compression\.py",
}
PATH = re.compile(rf"[\w.*<>$~{{}}-]+/[\w.*<>/{{}}-]*|[\w*.-]*[\w*]\.({SUFFIXES})")


def complaints(text: str, page: str) -> Iterator[str]:
    """Yields a line for each thing that a page names and that does not exist; `page` is relative to the repository."""
    ours = (line for line in _complaints(text, page) if not re.fullmatch(OTHERS.get(page, "-"), line.partition(" ")[2]))
    yield from dict.fromkeys(ours)


def _complaints(text: str, page: str) -> Iterator[str]:
    folder = (ROOT / page).parent
    blocks = re.findall(r"^ *```([\w{}-]*)[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", prose):
        made = ROOT / target.partition("generated/")[2] if "generated/" in target else folder / target
        if not (folder / target).exists() and not made.exists():
            yield f"link {target}"
    for language, block in blocks:
        if language in ("bash", "", "sh", "console"):
            lines = re.sub(r"\\\n", " ", block).splitlines()
            if language == "console":
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            for line in lines:
                yield from of_line(line, page)
        yield from of_python(block if language == "python" else "")
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose):
        yield from of_span(span.replace(r"\|", "|"), page)


def of_line(line: str, page: str) -> Iterator[str]:
    """Yields complaints about a line of a shell."""
    for part in re.split(r"&&|\|\||[|;]", re.split(r"(?:^|\s)#|>", line)[0]):
        try:
            words = shlex.split(part)
        except ValueError:
            return
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words[:3] == ["python", "-m", "freqbench"] or words[:2] == ["python", "bench.py"]:
            words = ["freqbench", *words[2 + (words[1] == "-m") :]]
        if words[:1] == ["freqbench"]:
            yield from of_command(words[1:])
        elif words[:1] in (["python"], ["pytest"]):
            files = [word for word in words[1:] if PATH.fullmatch(word)]
            yield from (f"path {word}" for word in files if not exists(word, page))


def of_command(words: Sequence[str]) -> Iterator[str]:
    """Yields complaints about the arguments of `freqbench`; those that are required may be left out."""
    command = cli()
    name = "freqbench"
    words = ["--help" if word == EVERY else word for word in words]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = f"{name} {words[0]}"
        (first, *words) = words
        if first not in command.commands:
            yield from () if first == "COMMAND" else [f"command {name}"]
            return
        command = command.commands[first]
    try:
        given, rest, _ = command.make_parser(typer.Context(command)).parse_args([*words])
    except UsageError as error:
        if "requires an argument" not in str(error):  # an option that is named without its value
            yield f"{name}: {error}"
        return
    if rest:
        yield f"{name}: too many arguments {rest}"
    for parameter in command.params:
        values = given.get(parameter.name or "")
        for value in values if isinstance(values, list | tuple) else [values]:
            if not isinstance(value, str):
                continue
            if "--table" in parameter.opts and not (value in TABLES or value.isupper() or (ROOT / value).is_file()):
                yield f"{name}: table {value}"
            if value.startswith("jobs/") and not (ROOT / value).is_file():
                yield f"{name}: job {value}"
            if (
                parameter.name == "path"
                and re.fullmatch("[a-z][a-z0-9_]*(/[a-z0-9_]+){0,2}", value)
                and value not in packaged_jobs()
            ):
                yield f"{name}: packaged job {value}"


def of_python(block: str) -> Iterator[str]:
    """Yields complaints about names of the package that a block of Python uses."""
    yield from (f"fb.{name}" for name in re.findall(r"\bfb\.(\w+)", block) if not hasattr(freqbench, name))


def of_span(span: str, page: str) -> Iterator[str]:
    """Yields complaints about what stands between backticks."""
    first, *rest = span.split() or [""]
    if first in ("freqbench", "python", "pytest") and rest:
        yield from of_line(span, page)
    elif rest and first in cli().commands and any(word.startswith("-") for word in rest):
        yield from of_line(f"freqbench {span}", page)
    elif re.fullmatch(r"--[a-z][\w-]*", first):
        if first not in options():
            yield f"option {first}"
    elif rest and first.isidentifier() and all(re.fullmatch(r"\w+=\S+", word) for word in rest):
        yield from of_label(first, [word.partition("=")[0] for word in rest])
    elif re.fullmatch(r"test_\w+\.py::\w+", span):
        file, _, test = span.partition("::")
        if not any(f"def {test}(" in path.read_text() for path in ROOT.glob(f"tests/**/{file}")):
            yield f"test {span}"
    elif re.fullmatch(r"freqbench(\.\w+)+", span):
        module = ROOT.joinpath(*span.split("."))
        if not (module.is_dir() or module.with_suffix(".py").exists()) and span.rpartition(".")[2] not in vocabulary():
            yield f"name {span}"
    elif PATH.fullmatch(span) and not re.fullmatch(r"[\d./]+(eps)?|eps/\d+|\.\w+", span):
        if not exists(span, page):
            yield f"path {span}"
    elif re.fullmatch(r"[a-z_]+: \S.*", span):
        words = re.findall(r"[a-zA-Z](?:[\w.-]*\w)?", re.sub(r'"[^"]*"|[$~]\S+|\S+:\S+|[A-Z]\S+', "", span))
        yield from (f"word {word} of {span}" for word in words if word not in vocabulary() and not exists(word, page))
    elif re.fullmatch(r"[a-zA-Z]\w*(-\w+)*", span) and span not in vocabulary():
        yield f"word {span}"


def of_label(attack: str, parameters: Sequence[str]) -> Iterator[str]:
    """Yields complaints about a row's label: an attack with parameters."""
    cls = ATTACKS.get(ALIASES["attacks"].get(attack, attack))
    if cls is None:
        yield f"attack {attack}"
    else:
        taken = {field.name for field in fields(cls)}
        yield from (f"parameter {name} of {attack}" for name in parameters if name not in taken)


def exists(path: str, page: str) -> bool:
    """True for a path of the repository, of the package's rooms, of what it writes, a packaged job, or a user's own."""
    if OF_USERS.fullmatch(path) or URI.fullmatch(path) or "<" in path or path in packaged_jobs():
        return True
    end = "/" + re.sub(r"\b(NAME|TASK)\b", "*", path).strip("/")
    holds = (lambda inner: fnmatch(inner, f"*{end}")) if "*" in end else lambda inner: inner.endswith(end)
    if any(map(holds, tree())):
        return True
    return "/" not in path and (path in vocabulary() or ((ROOT / page).parent / path).exists())


@cache
def tree() -> frozenset[str]:
    """Every file and folder of the repository, from a `/` on."""
    paths = [*ROOT.glob("*"), *ROOT.glob(".ci/*"), *(p for f in (*CODE, "reports") for p in (ROOT / f).rglob("*"))]
    return frozenset(f"/{path.relative_to(ROOT).as_posix()}" for path in paths if "generated" not in path.parts)


@cache
def vocabulary() -> frozenset[str]:
    """Every word of the code, the jobs and the project's files."""
    files = [ROOT / "pyproject.toml"]
    files += chain.from_iterable(map(ROOT.glob, ("freqbench/**/*.py", "jobs/**/*.yaml", "cluster/**/*.*")))
    texts = [path.read_text("utf-8") for path in files if path.suffix in (".py", ".yaml", ".toml", ".sh", ".json")]
    words = {*re.findall(r"[\w.-]*\w", "\n".join(texts))}
    return frozenset({*words, *re.findall(r"\w+", "\n".join(words)), *packaged_jobs(), *TABLES})


@cache
def cli() -> Any:
    """The command line, a group of Click, whose types Typer keeps to itself."""
    return typer.main.get_command(app)


@cache
def options() -> frozenset[str]:
    def below(command: Any) -> Iterator[str]:
        for parameter in command.get_params(typer.Context(command)):
            yield from (*parameter.opts, *parameter.secondary_opts)
        for inner in getattr(command, "commands", {}).values():
            yield from below(inner)

    return frozenset(below(cli()))
