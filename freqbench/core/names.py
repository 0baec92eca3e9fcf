"""Checks names and paths from files of unknown origin before they become file names or are opened."""

import ast
import os
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from freqbench.core.errors import UserError, unknown
from freqbench.core.measures import METRICS
from freqbench.core.plugins import installed_names, kind_of, names_class

AnyPath = str | PathLike[str]
# bytes, on Linux
LONGEST_PATH = 4095
LONGEST_PART = 255
LONGEST = 128  # bytes: two names, a cell's id and a suffix have to fit into LONGEST_PART
ALLOWED = "letters, digits and _ . , + = @ ( ) - or blanks within"
OWN_PROTOCOLS: Mapping[str, str] = {
    "brainchop": "freqbench.models.brainchop:local",
    "hf": "freqbench.models.hub:local",
    "monai": "freqbench.models.hub:local",
}
"""Protocols of freqbench's own, each with the function that fetches a URI's file or folder."""
PROTOCOLS = (
    *("file", "local", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "http", "https"),
    *OWN_PROTOCOLS,
)

# A leading dot or dash hides a file or looks like an option; a trailing dot or blank is lost on some disks.
_NAME = re.compile(r"\w(?:[\w .,+=@()-]*[\w+=@()-])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")

# Tables of the names that a job may use. Their keys are read from the source, as importing most of them imports torch.
_TABLES: Mapping[str, Mapping[str, str]] = {
    "attacks": {"ATTACKS": "attacks/table.py"},
    "datasets": {"DATASETS": "data/__init__.py"},
    "models": {"MODELS": "models/networks/architectures.py", "READERS": "models/sources/__init__.py"},
    "losses": {"LOSSES": "ops/losses.py"},
    "corruptions": {"KINDS": "attacks/corruption.py"},
    "changes": {"CHANGES": "ops/changes.py"},
}


class _KnownNames(dict[str, tuple[str, ...]]):
    def __missing__(self, kind: str) -> tuple[str, ...]:
        known: list[str] = []
        for table, file in _TABLES[kind].items():
            known += entries(file, table)
        self[kind] = tuple(known)
        return self[kind]


KNOWN = _KnownNames(bands=("low", "middle", "high"), metrics=(*METRICS,))
"""Names of each kind that a job may use; those of a table are read on first use."""

ALIASES: Mapping[str, Mapping[str, str]] = {  # unambiguous names from the code released with the papers
    "datasets": {"btcv": "synapse"},
    "models": {"unet-r": "unetr", "swin-unetr": "swin_unetr", "unetr-pp": "unetr_pp"},
    "attacks": {"saa": "sa2", "vafa-3d": "vafa", "vafa-2d": "vafa_2d"},
}


@cache
def entries(file: str, table: str) -> Mapping[str, ast.expr]:
    """Reads a table, a dict with names as keys, from the source of a file of the package."""
    for node in ast.parse((Path(__file__).parents[1] / file).read_bytes()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and ast.unparse(node.target) == table:
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {ast.literal_eval(key): value for key, value in pairs if key}
    raise LookupError(f"{file}: expected a table {table}: Mapping[...] = {{...}}, found none")


def require_name(name: Any, what: str = "") -> str:
    """Returns a name that may be part of a file's: letters of any script, composed (NFC); `what` begins errors."""
    begin = f"{what}: " if what else ""
    if not isinstance(name, str):
        raise UserError(f"{begin}expected text, got {kind_of(name)}: give it as text")
    fits = len(name.encode(errors="replace")) <= LONGEST
    if not (fits and _NAME.fullmatch(name) and unicodedata.is_normalized("NFC", name)):
        rest = f"as files are named after it, got {name!a:.160}: rename it"
        raise UserError(f"{begin}expected a name of {ALLOWED} (composed, {LONGEST} bytes at most), {rest}")
    return name


def path_of(path: Any, what: str) -> str:
    """Returns the text of a path or URI; raises a UserError that begins with `what` for anything else."""
    text = os.fspath(path) if isinstance(path, str | PathLike) else None
    if not isinstance(text, str):
        raise UserError(f"{what}: expected a path or URI, got {kind_of(path)}: give it as text or a Path")
    if "\0" in text or len(text) > LONGEST_PATH or max(len(part.encode()) for part in text.split("/")) > LONGEST_PART:
        raise UserError(f"{what}: expected a path of names up to {LONGEST_PART} bytes, got {text!a:.80}: shorten it")
    return text


@cache
def packaged_jobs() -> Mapping[str, Path]:
    """Returns the job files that the package carries, by their paths in `jobs` without `.yaml`: `phantom/suite`."""
    folder = Path(__file__).parents[1] / "jobs"
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def job_file(name: str) -> str:
    """Returns a job file's path, or a packaged job's by name, path or the `name` in it; raises UserError."""
    jobs = packaged_jobs()
    path = Path(name)
    if path.exists() and not path.is_dir():
        return name
    stem = re.sub(r"^jobs/(.+)\.yaml$", r"\1", name)
    line = re.compile(rf"^name: {re.escape(stem)}$", re.MULTILINE)
    in_files = (job for job, file in jobs.items() if line.search(file.read_text(encoding="utf-8")))
    job = next((each for each in (stem, f"research/{stem}") if each in jobs), None) or next(in_files, None)
    if job is None and re.fullmatch(r"[\w-]+(/[\w-]+){0,2}", name):
        raise UserError(f"{unknown('packaged job', name, jobs)}. A file of your own is named by its path")
    return str(jobs[job]) if job else name


def require_known(table: str, kind: str, name: str) -> str:
    """Returns a name of a table in KNOWN, of an installed package, or the path of a class; refuses anything else, as an
    unknown `kind` (such as `attack`)."""
    if meant_name(table, name) not in KNOWN[table] and not names_class(meant_name(table, name)):
        raise UserError(unknown(kind, name, [*KNOWN[table], *installed_names(table)]))
    return name


def meant_name(table: str, name: str) -> str:
    """Returns the name in KNOWN, of a `table` such as `attacks`, that a job's name means; the path of a class for one
    that an installed package adds."""
    name = ALIASES.get(table, {}).get(name, name)
    return name if name in KNOWN[table] or names_class(name) else installed_names(table).get(name, name)


def require_plain(path: str) -> None:
    """Refuses paths and URIs that do more than name an object: chains (`::`), and file systems that run code."""
    if _CONTROL.search(path):
        raise UserError(f"{path!a:.160}: expected a path without control characters, got some: fix it")
    if not path.strip():
        raise UserError("expected a path, got an empty one: name a file or folder, . for the current one")
    if path.startswith("~"):
        home_of(path)
    if os.name != "nt" and _WINDOWS.match(path):
        raise UserError(f"{path}: expected a path of this system, got one of Windows: write it with / from the root on")
    protocol, separator, _ = path.partition("://")
    if "::" in path or (separator and protocol not in PROTOCOLS):
        protocols = ", ".join(PROTOCOLS)
        raise UserError(f"{path}: expected a path or the URI of a known file system ({protocols}), got none: fix it")
    scheme, colon, place = path.partition(":")
    if colon and scheme in PROTOCOLS and not re.match("///?[^/]", place):  # else files would go to a local folder `s3:`
        raise UserError(f"{path}: expected a URI {scheme}://PLACE, got none: name the bucket, host or folder")


def home_of(path: str) -> Path:
    """Returns a path with `~` filled in; refuses the home of a user who does not exist here."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: expected the home of a user of this machine, found none: write it out") from None


def require_inside(root: str, path: str) -> None:
    """Refuses a path that links lead out of a local folder, `root`; the folder itself may be a link, and URIs have no
    links."""
    protocol, separator, folder = root.rpartition("://")
    if protocol not in ("", "file", "local"):
        return
    if not home_of(path.removeprefix(f"{protocol}{separator}")).resolve().is_relative_to(home_of(folder).resolve()):
        advice = f"remove the link, or make {root} itself the link"
        raise UserError(f"{path}: expected a place in {root}, got a link that leads out of it: {advice}")
