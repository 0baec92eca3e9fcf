"""Packs files that travel with a job to a cluster: the job file, and the small local files that it names. A URI,
`file:///path` or a path that begins with an environment variable is for the nodes and stays unchanged. A plain path
belongs to this machine. Nothing is looked up on the nodes, and no data is read."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from freqbench.core import plugins
from freqbench.core.errors import UserError
from freqbench.core.names import home_of
from freqbench.job import sweep
from freqbench.job.schema import JobSpec
from freqbench.job.training import TrainJob
from freqbench.models.checkpoints.files import locate
from freqbench.models.entry import seed_of

LIMIT_BYTES = 100 << 20
"""Limit of all files together: they pass through the memory of the cluster's head, and Ray itself refuses 500 MiB."""
ON_NODES = "s3://..., file:///path or ${FREQBENCH_DATA}/..."
_VARIABLE = re.compile(r"\$\{?\w")
_SECRETS = re.compile(r"(?i)://[^/\s@'\"]*:[^\s@'\"]*@|[?&](sig|signature|x-amz-signature|token|key|secret|password)=")
_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASS|CREDENTIAL|AUTH", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class WorkingDirectory:
    """Working directory of a job on the nodes."""

    job: str  # the job file's place in it
    files: Mapping[str, Path]  # local files, by their places in it
    overrides: tuple[str, ...]  # for `--set`, where a path differs there

    def unpack(self, folder: Path) -> None:
        """Copies all files into a folder."""
        for place, file in self.files.items():
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


class _Named(NamedTuple):
    """Path that a job names: its place, its text, its key for `--set`, and a prefix that it needs on the nodes."""

    place: str
    text: str
    key: str
    prefix: str = ""


def pack(job: JobSpec) -> WorkingDirectory:
    """Packs the files that travel with a job. Relative paths begin in the current folder, as for `run`. Their targets
    must lie in it, or, if the job file is elsewhere, in the job file's folder. Modules of `module:Class` entries are
    sought in both, and lie at the top of the working directory, where Python finds them. Raises UserError for a path
    that leads out of the folder or to nothing, or for too many bytes.

    Args:
        job: a job that was read from a file, with overrides applied and training jobs described
            (`freqbench.training.link`): their content travels as an override, and their data as the job's own do.
    """
    here = Path.cwd().resolve()
    job_path = Path(job.where).resolve()
    root = here if job_path.is_relative_to(here) else job_path.parent
    job_place = job_path.relative_to(root).as_posix()
    files = {job_place: job_path}
    overrides = []
    if job.training:
        overrides.append(f"training={json.dumps(job.model_dump(mode='json', include={'training'})['training'])}")
    for named in (*_checkpoints(job), *_folders(job)):
        with sweep.prefix_errors(f"{job.where}: {named.place}"):
            target = _resolve_inside(named.text, root)
            place = target.relative_to(root).as_posix()
            _add(files, place, target)
            if os.path.normpath(named.text) != place:
                overrides.append(f"{named.key}={json.dumps(named.prefix + place)}")
    for name, module in _modules(job, (here, job_path.parent) if here.is_relative_to(root) else (job_path.parent,)):
        with sweep.prefix_errors(f"{job.where}: {name}"):
            _add(files, module.name, module)
    return WorkingDirectory(job=job_place, files=files, overrides=tuple(overrides))


def require_zoo(job: JobSpec) -> None:
    """Raises UserError for an unknown zoo checkpoint in `job`, which nodes would refuse; `job_of` has checked the
    rest."""
    for i, model in enumerate(job.models):
        with sweep.prefix_errors(f"{job.where}: models[{i}].checkpoint"):
            locate(model.checkpoint or "")


def refuse_credentials(text: str, where: str) -> None:
    """Raises UserError, which begins with `where` and does not repeat it, for a password, key or signature in a URI of
    a text."""
    if _SECRETS.search(text):
        got = "got one with some, which all who reach the cluster could read: credentials come from the node"
        raise UserError(f"{where}: expected URIs without credentials, {got}")


def environment(names: Iterable[str]) -> dict[str, str]:
    """Variables of this process by `names` that are to travel; raises UserError for one that is not set or may be a
    secret."""
    values = {}
    for name in names:
        if _SECRET_NAME.search(name):
            rest = "and all who reach the cluster could read it: credentials come from the node"
            raise UserError(f"--env {name}: expected no secret, got what looks like one by its name, {rest}")
        if name not in os.environ:
            raise UserError(f"--env {name}: expected a variable that is set here, found none: export it first")
        refuse_credentials(os.environ[name], f"--env {name}")
        values[name] = os.environ[name]
    return values


def is_on_nodes(text: str) -> bool:
    """True if a path, the `text`, belongs to the nodes, not to this machine."""
    return "://" in text or bool(_VARIABLE.search(text))


def _checkpoints(job: JobSpec) -> Iterator[_Named]:
    for i, model in enumerate(job.models):
        for key in ("checkpoint", "bundle"):
            if (text := getattr(model, key)) and not is_on_nodes(text) and seed_of(text) is None:
                yield _Named(f"models[{i}].{key}", text, f"models.{i}.{key}")


def _folders(job: JobSpec) -> Iterator[_Named]:
    """Yields `root` of datasets, also of those to train on, and `list` if it lies elsewhere."""
    attacked_on = ((f"datasets[{i}]", f"datasets.{i}", entry.own) for i, entry in enumerate(job.datasets))
    trained_on = (
        (f"training[{i}].dataset", f"training.{i}.job.dataset", entry.job.dataset.own)
        for i, entry in enumerate(job.training)
        if isinstance(entry.job, TrainJob)
    )
    for place, key, entry in (*attacked_on, *trained_on):
        root = entry.get("root")
        listed = entry.get("list")
        if isinstance(root, str) and not is_on_nodes(root):
            yield _Named(f"{place}.root", root, f"{key}.root")
        if isinstance(listed, str) and listed.startswith(("/", "~")) and not is_on_nodes(listed):
            # Other paths are relative to `root`; as a URI they would be relative to the worker's folder.
            yield _Named(f"{place}.list", listed, f"{key}.list", "file://")


def _modules(job: JobSpec, folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Yields the local modules and packages of classes that a job names; modules in no folder must be on the nodes."""
    named = [str(model.arch) for model in job.models]
    named += [entry.class_name for entry in job.datasets]
    named += [entry.class_name for entry in job.attacks]
    tops = {text.partition(":")[0].partition(".")[0] for text in named if plugins.names_class(text)}
    for name in sorted(tops - {"freqbench"}):
        candidates = (folder / file for folder, file in product(folders, (name, f"{name}.py")))
        if path := next(filter(Path.exists, candidates), None):
            yield name, path


def _resolve_inside(text: str, root: Path) -> Path:
    if not (target := home_of(text).resolve()).is_relative_to(root):
        got = f"got {text}, which is outside: copy it there, or name what the nodes have: {ON_NODES}"
        raise UserError(f"expected a path inside {root}, which travels with the job, {got}")
    if hidden := [part for part in target.relative_to(root).parts if part.startswith(".")]:
        raise UserError(f"expected a path that may travel, got {text}: hidden files and folders ({hidden[0]}) do not")
    if not target.exists():
        raise UserError(f"expected a file or folder, found none at {text}: check the path, or name what the nodes have")
    return target


def _add(files: dict[str, Path], place: str, source: Path) -> None:
    """Adds a file, or the visible files of a folder; raises UserError for more bytes than may travel."""
    total = sum(file.stat().st_size for file in files.values())
    for file in _visible(source) if source.is_dir() else (source,):
        there = place if file == source else f"{place}/{file.relative_to(source).as_posix()}"
        total += 0 if there in files else file.stat().st_size
        files.setdefault(there, file)
        if total > LIMIT_BYTES:
            got = f"got more: put {place} where the nodes can read it: {ON_NODES}"
            raise UserError(f"expected at most {LIMIT_BYTES >> 20} MiB of files to travel with a job, {got}")


def _visible(folder: Path) -> Iterator[Path]:
    """Yields files below a folder, without hidden ones and caches of Python."""
    for child in sorted(folder.iterdir()):
        if not child.name.startswith(".") and child.name != "__pycache__":
            yield from _visible(child) if child.is_dir() else filter(Path.is_file, [child])
