"""Reads entries of a leaderboard as files of unknown origin. An entry is a folder: `card.yaml`, statements of a person;
`store/`, the rows of one network attacked, and of its audit, from which all facts follow; `entry.json`, which names the
network by its checkpoint's SHA-256 and every other file by its own."""

import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field, model_validator

from freqbench.analysis.frames import plain
from freqbench.analysis.tables import case_minima
from freqbench.audit import checks
from freqbench.audit.checks import Finding, ModelVerdict
from freqbench.audit.checks.contrasts import FAILURE
from freqbench.audit.checks.strongest import claims_of
from freqbench.audit.probe_files import GRADIENTS
from freqbench.core import config, names
from freqbench.core.config import FileName, Strict
from freqbench.core.documents import YAML_BYTES, mapping_of, object_of
from freqbench.core.errors import UserError, one_line
from freqbench.core.files import downloads
from freqbench.job.schema import JobSpec
from freqbench.results import Store, index_keys

CARD = "card.yaml"
# letters
LINE = 200
PARAGRAPH = 3000
_HTTPS = re.compile(r"https://[!#-;=?-~]{1,300}")  # neither quotes nor angle brackets
_PACKAGE = re.compile(r"zoo://\w[\w-]*/\w[\w.-]*|train://(\w[\w-]*/)+\w[\w.-]*")
_MAIL = re.compile(r"[\w.+-]+@([\w-]+\.)+(?!(invalid|example|test|localhost)$)[\w-]+", re.ASCII)  # RFC 2606
TEMPLATE = """\
# What people read about the network. Fill in every key; contact, paper and bibtex may stay null.
title: {title}
authors: ""      # who made it
summary: ""      # what it is: architecture, size, what makes it robust
data: ""         # what it was trained on, and where to get that
training: ""     # how: steps, loss, augmentation, attacks
license: ""      # of the weights, such as Apache-2.0
contact: null    # a mail address, or an https address
checkpoint: {checkpoint}   # where to get the weights: an https address, zoo://DATASET/NAME, or train://JOB/NAME
paper: null      # an https address
bibtex: null     # how to cite it
"""
SEAL = "entry.json"
STORE = "store"
VERSION = 2
MOST_FILES = 2000
MOST_BYTES = 2**27
MOST_SEAL = 2**24
MOST_ROWS = 1_000_000
MOST_RECORDS = 100_000
MOST_UNPACKED = 2**28
_RUN = r"(run\.json|runs/[\w.-]+\.json|records/[\w.-]+\.parquet)"
_OWN = re.compile(rf"{re.escape(CARD)}|{re.escape(SEAL)}|{STORE}/((audit/)?{_RUN}|audit/{GRADIENTS})", re.ASCII)
_CASE = ["dataset", "bounds", "case_id", "case_key", "patient_id"]
_WORST = [*_CASE, "attack", "cell_id", "dsc_foreground", "dsc_foreground_clean"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _text(longest: int) -> AfterValidator:
    def check(text: str) -> str:
        if not text.strip():
            raise ValueError("expected a text, got none: fill it in")
        if len(text) > longest:
            raise ValueError(f"expected at most {longest} letters, got {len(text)}: shorten it")
        if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") and letter != "\n" for letter in text):
            raise ValueError("expected plain text, got control characters: remove them")
        return text.strip()

    return AfterValidator(check)


def is_address(text: str) -> bool:
    """True if a text is an https address of a host without a user name."""
    try:
        parts = urlsplit(text)
        return bool(_HTTPS.fullmatch(text) and parts.hostname and parts.username is None)
    except ValueError:
        return False


def _address(expected: str, *others: re.Pattern[str]) -> AfterValidator:
    def check(text: str) -> str:
        if not (is_address(text) or any(other.fullmatch(text) for other in others)):
            raise ValueError(f"expected {expected}, got {text!r:.100}: give one")
        return text

    return AfterValidator(check)


Line = Annotated[str, _text(LINE)]
Paragraph = Annotated[str, _text(PARAGRAPH)]


class Card(Strict):
    """A model card: plain texts; links are https addresses."""

    title: Line
    authors: Line
    summary: Paragraph
    data: Paragraph
    training: Paragraph
    license: Line  # of the weights
    # Of weights that may not be passed on, train://JOB/NAME is the packaged job that trains them.
    checkpoint: Annotated[str, _address("an https address, zoo://DATASET/NAME or train://JOB/NAME", _PACKAGE)]
    contact: Annotated[str, _address("a mail address or an https address that exists", _MAIL)] | None = None
    paper: Annotated[str, _address("an https address")] | None = None
    bibtex: Paragraph | None = None


def read_card(path: Path) -> Card:
    """Reads the card of an entry; raises UserError for a key that is missing, unknown or empty, or a bad value."""
    with path.open("rb") as stream:
        return config.validate(mapping_of(stream.read(YAML_BYTES + 1), str(path)), Card, where=str(path))


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """Facts of an entry's rows. `worst_cases`: by case, threat model, `bounds` the attack of lowest foreground DSC."""

    cases: Mapping[str, Mapping[str, str]]  # digests by dataset and case
    worst_cases: pd.DataFrame
    findings: tuple[Finding, ...]  # of its audit
    verdicts: tuple[ModelVerdict, ...]  # one for each dataset
    lacking: tuple[str, ...]  # sentences on the strongest attacks, within its own bounds, that its audit did not run


class Seal(Strict):
    """Content of the file SEAL."""

    version: int = VERSION
    model: FileName  # in the store
    checkpoint: Sha256  # of its weights
    files: dict[str, Sha256]  # every other file of the entry, by its path there
    versions: dict[str, str]  # of the software that made the entry

    @model_validator(mode="before")
    @classmethod
    def _is_of_this_version(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and (version := content.get("version", VERSION)) != VERSION:
            raise ValueError(f"expected an entry of version {VERSION}, got {version!r:.40}: update freqbench")
        return content


@dataclass(frozen=True, kw_only=True)
class BoardEntry:
    """Entry whose files are those that were sealed."""

    folder: Path
    card: Card
    seal: Seal

    @property
    def name(self) -> str:
        """Name on boards and pages: that of its folder."""
        return self.folder.name

    @property
    def store(self) -> Store:
        """Store of the entry's rows."""
        return Store(str(self.folder / STORE))

    @cached_property
    def told(self) -> Told:
        """Facts that follow from its rows; read it once `examine` finds nothing wrong."""
        return told_by(self.store)


def read_entry(folder: Path) -> BoardEntry:
    """Reads an entry whose files are complete, permitted and equal to the sealed ones; nothing is run or followed.
    UserError: links, devices, other, too many or too large files, an invalid card or seal, a changed file."""
    names.require_name(folder.name, str(folder))
    files = files_of(folder)
    for name in (CARD, SEAL, f"{STORE}/run.json"):
        if name not in files:
            raise UserError(f"{folder}: expected {name}, found none: freqbench board entry writes it")
    card = read_card(files[CARD])
    if files[SEAL].stat().st_size > MOST_SEAL:
        raise UserError(f"{files[SEAL]}: expected at most {MOST_SEAL // 2**20} MiB, got more: make the entry again")
    sealed = config.validate(object_of(files[SEAL].read_bytes(), str(files[SEAL])), Seal, str(files[SEAL]))
    digests = {name: downloads.digest(path) for name, path in files.items() if name != SEAL}
    for name in sorted(digests.keys() | sealed.files.keys()):
        wanted = sealed.files.get(name, "none")
        got = digests.get(name, "no file")
        if wanted != got:
            advice = "changed since the entry was made: make it again"
            raise UserError(f"{folder / name}: expected sha256 {wanted:.12}, got {got:.12}: {advice}")
    _require_small(folder, files)
    return BoardEntry(folder=folder, card=card, seal=sealed)


def files_of(folder: Path) -> dict[str, Path]:
    """Lists the files of an entry by their paths in it; UserError for a file that no entry has."""
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder}: expected an entry's folder, got a file, a link or nothing: unpack archives first")
    files = dict[str, Path]()
    total = 0
    for path in folder.rglob("*"):  # which follows no link
        name = path.relative_to(folder).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise UserError(f"{path}: expected a file, got a link, pipe or device: an entry has none")
        if not _OWN.fullmatch(name):
            raise UserError(f"{folder}: {name!a:.120}: expected no such file in an entry: remove it")
        total += path.lstat().st_size
        files[name] = path
        if len(files) > MOST_FILES or total > MOST_BYTES:
            most = f"{MOST_FILES} files and {MOST_BYTES // 2**20} MiB"
            raise UserError(f"{folder}: expected at most {most}, got more: compact the store")
    return files


def _require_small(folder: Path, files: Mapping[str, Path]) -> None:
    """Refuses Parquet files whose metadata state more rows or bytes, once read, than an entry or its jobs may have."""
    rows = Counter[str]()
    lines = 0
    size = 0
    try:
        for name, path in files.items():
            facts = pq.read_metadata(path) if name.endswith(".parquet") else None
            for group in map(facts.row_group, range(facts.num_row_groups)) if facts else ():
                rows[name.rpartition("/")[0]] += group.num_rows
                lines += max(group.column(number).num_values for number in range(group.num_columns))
                size += group.total_byte_size
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{folder}: expected Parquet files, got another: {one_line(error, 200)}") from None
    if lines > MOST_ROWS or size > MOST_UNPACKED:
        most = f"{MOST_ROWS:,} rows of classes and {MOST_UNPACKED // 2**20} MiB once read"
        raise UserError(f"{folder}: expected at most {most}, got more: make an entry of fewer attacks")
    for place in (STORE, f"{STORE}/audit"):
        if got := rows[f"{place}/records"]:
            asked = len(index_keys(Store(str(folder / place)).job()["index"]))
            if got > min(asked, MOST_RECORDS):
                most = f"a row for each of the {asked:,} records of its job, of at most {MOST_RECORDS:,}"
                raise UserError(f"{folder / place}: expected {most}, got {got:,} rows: make the entry again")


def told_by(store: Store) -> Told:
    """Derives cases, threat models, worst cases and the audit's verdicts from a store's rows and those of its audit."""
    evidence = checks.gathered([store], index_keys(store.job()["index"]))
    records = plain(evidence.records[["dataset", "case_id", "case_key"]].drop_duplicates())
    digests = {(dataset, case): key for dataset, case, key in records.itertuples(index=False, name=None)}
    worst = [pd.DataFrame(columns=_WORST)]
    lacking = list[str]()
    for on in evidence.models:
        for claim in claims_of(on):
            if not claim.forms:
                continue  # an audit knows no strongest attack: weak settings would rank highest
            labels = [each.label for each in (*claim.own, *claim.added)]
            rows = on.rows[on.rows["label"].isin(labels) & on.rows["fg"].notna()]
            least = case_minima(rows.assign(_score=rows["fg"]), [])
            case_keys = [digests[on.dataset, case] for case in least["case_id"]]
            least = least.assign(dataset=on.dataset, bounds=claim.subject, attack=least["label"], case_key=case_keys)
            worst.append(least[_WORST])
            if claim.lacking and claim.left.min() > FAILURE:
                subject = claim.subject
                forms = ", ".join(claim.lacking)
                lacking.append(f"Not audited on {on.dataset}: {subject}: {forms} not run: freqbench audit OUT --run.")
    cases = defaultdict[str, dict[str, str]](dict)
    for (dataset, case), key in sorted(digests.items()):
        cases[str(dataset)][str(case)] = str(key)
    findings = checks.audited(evidence)
    ranked = plain(pd.concat(worst[1:] or worst, ignore_index=True))
    verdicts = tuple(checks.verdicts(findings))
    return Told(cases=cases, worst_cases=ranked, findings=findings, verdicts=verdicts, lacking=tuple(lacking))


def require_labels(job: JobSpec, where: str) -> None:
    """Refuses a job that scores agreement, in which a constant network would lead."""
    for entry in job.datasets:
        if entry.own.get("reference") == "prediction":
            got = "got reference: prediction: run the job with label maps"
            raise UserError(f"{where}: {entry.name}: expected scores against labels, as boards rank by them, {got}")


def locate_weights(spec: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Returns a stored job of one network with its weights at another place."""
    (model,) = spec["models"]
    if trained := model.get("trained"):
        return {**spec, "models": [{**model, "trained": {**trained, "checkpoint": place}}]}
    return {**spec, "models": [{**model, "bundle" if model.get("bundle") else "checkpoint": place}]}


def place_of(spec: Mapping[str, Any]) -> str:
    """Returns the place of the weights in a stored job of one network."""
    (model,) = spec["models"]
    return str((model.get("trained") or model).get("checkpoint") or model.get("bundle"))
