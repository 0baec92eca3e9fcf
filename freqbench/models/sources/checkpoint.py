"""Reads checkpoints of the networks of MODELS, freqbench's and others', and keeps what a check by MONAI finds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt
from torch import Tensor, nn

from freqbench.core import plugins
from freqbench.core.config import Strict, validate
from freqbench.core.documents import to_tuples
from freqbench.core.errors import CheckpointError, UserError, unknown
from freqbench.core.files.kept import Kept
from freqbench.core.names import KNOWN
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.checkpoints import migrations
from freqbench.models.entry import DEFAULT_INPUT, InputAdapter, ModelEntry, seed_of
from freqbench.models.examination import outcomes
from freqbench.models.networks import construction
from freqbench.models.networks.architectures import MODELS, complete_args
from freqbench.models.networks.inferring import UNTRACED, Inferred, defaults, find_arch, infer_args, open_args
from freqbench.models.sources.source import Facts, Metadata, Source, cost_of, require_fit
from freqbench.models.spec import ModelSpec


class _Fit(Strict):
    """Outcome of a network's check: the fields of its `ModelSpec` that take a network to fill in."""

    args: dict[str, Any]
    migration: str | None
    flops: NonNegativeInt
    step_bytes: NonNegativeInt
    notes: tuple[str, ...] = ()


OF_NETWORK = ("arch", "args", "roi", "num_channels", "num_outputs")
OF_FILE = ("head", "prefix", "checkpoint_sha256", "notes")
FITS = outcomes("network's fit", _Fit, *OF_NETWORK, *OF_FILE, "trained", "migration", "is_own", "input")
COSTS = Kept[tuple[int, int]](name="cost of a pass", depends=(*OF_NETWORK, "migration"), most=10_000)


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a checkpoint, or of untrained weights, without their network's class. `entry`, `path`,
    `num_classes` and `num_channels` are those of `Source.facts`; neither number is asked for. Raises UserError for
    malformed metadata, an unknown architecture or another than theirs; CheckpointError for a missing file."""
    seed = seed_of(path)
    own = metadata_of(path) if seed is None else None
    metadata = own or Metadata()
    asked = entry.reader
    trained_as = metadata.arch
    if asked is None and trained_as is None:
        checkpoints.require_weights(path, Path(path))
        raise UserError(f"{entry.name}: the checkpoint does not say its architecture: give arch: {', '.join(MODELS)}")
    if asked and trained_as and asked != trained_as:
        raise UserError(f"{entry.name}: arch is {asked} here, but {path} was trained as {trained_as}: leave arch out")
    arch = str(asked or trained_as)
    if asked is None and plugins.names_class(arch):
        rest = f"code of another package, which a job must name itself: give arch: {arch}"
        raise UserError(f"{entry.name}: {path} was trained as {arch}, {rest}")
    if arch not in MODELS and not plugins.names_class(arch):
        raise UserError(unknown("architecture", arch, KNOWN["models"]))
    known = MODELS.get(arch)
    adapter = InputAdapter(axes=known.axes) if known else DEFAULT_INPUT
    roi = known.roi if known else None
    if metadata.roi:
        roi = adapter.merge_input(entry.input).network_order(metadata.roi)
    is_own = own is not None
    return Facts(
        arch=arch,
        args=entry.args,
        roi=roi,
        num_classes=metadata.num_classes,
        outputs=metadata.outputs,
        input=adapter,
        space=metadata.preprocess,
        metadata=metadata,
        is_own=is_own,
        knows_axes=is_own or seed is not None,
    )


def metadata_of(path: str) -> Metadata | None:
    """Returns the metadata of the checkpoint by freqbench at `path`, None without any; raises UserError for malformed
    ones."""
    content = checkpoints.read_metadata(path)
    return validate(content, Metadata, where=f"{path}: metadata") if content else None


def network(spec: ModelSpec) -> nn.Module:
    """Builds a network of MODELS with the fresh weights of the spec's seed, or 0."""
    roi = spec.network_roi
    extra = migrations.migration_of(spec.arch, spec.migration).extra
    return construction.build(spec.arch, spec.num_outputs, roi, spec.args, spec.seed or 0, spec.num_channels, extra)


def weights(spec: ModelSpec, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """Returns the weights of a spec's checkpoint as the network has them today, by `wanted`, its names and shapes (meta
    will do), and a note on their place in the file."""
    placed = checkpoints.read_placed(spec.checkpoint, wanted, spec.prefix)
    migration = migrations.migration_of(spec.arch, spec.migration)
    return migration.convert(placed.weights, wanted), placed.note


def shown_channels(facts: Facts) -> Inferred:
    """Returns the arguments and counts of a network, inferred from the weights of the checkpoint of `facts`."""
    return inferred_from(facts.checkpoint, facts.arch) if seed_of(facts.path) is None else Inferred()


def inferred_from(path: str, arch: str, num_channels: int = 1) -> Inferred:
    """Returns the arguments and counts of a network of MODELS, inferred from the weights at `path` with any prefix;
    empty if they are of another than `arch`. `num_channels` of the data tell slices from channels."""
    for _, tensors in checkpoints.sets_of(path):
        _, theirs, weights = find_arch(tensors)
        if theirs == arch:
            return infer_args(arch, weights, num_channels)
    return Inferred()


def fit(source: Source, draft: ModelSpec, facts: Facts, entry: ModelEntry) -> ModelSpec:
    """Returns the spec with its arguments, migration, counts and notes; refuses what does not fit the network.

    Args:
        source: the kind of place that the network comes from, `SOURCE`.
        draft: the spec as far as the job and the files state it.
        facts: those of the checkpoint.
        entry: the model in a job file.
    """
    trained = facts.metadata.args

    def check_fit() -> _Fit:
        spec = replace(draft, args=_agreed_args(entry.name, draft.arch, entry.args, trained, entry.path))
        check = _check_weights if facts.is_own or spec.is_random else _read_off
        spec = check(source, spec, facts, entry)
        return _Fit(**{name: getattr(spec, name) for name in _Fit.model_fields})

    asked = {name: getattr(draft, name) for name in (*OF_NETWORK, *OF_FILE)}
    asked |= {"args": entry.args, "trained": trained, "migration": entry.migration, "is_own": facts.is_own}
    asked |= {"input": draft.input.model_dump()}

    def stays() -> bool:
        # Another file may have replaced the content that was hashed.
        return draft.is_random or checkpoints.content_sha256(draft.checkpoint) == draft.checkpoint_sha256

    outcome = FITS.get(check_fit, stays=stays, **asked)
    return replace(draft, **{**dict(outcome), "args": {name: to_tuples(value) for name, value in outcome.args.items()}})


def _agreed_args(
    model: str, arch: str, stated: Mapping[str, Any], trained: Mapping[str, Any] | None, path: str | None
) -> dict[str, Any]:
    args = complete_args(arch, {**(trained or {}), **stated})
    original = args if trained is None else complete_args(arch, trained)
    for key in stated.keys() - MODELS[arch].tuning:
        if args.get(key) != original.get(key):
            raise UserError(f"{model}: args.{key} is {stated[key]!r} here, but {path} was trained otherwise: omit it")
    return args


def _check_weights(source: Source, draft: ModelSpec, facts: Facts, entry: ModelEntry) -> ModelSpec:
    """Returns the spec with its migration, counts and notes; refuses weights or a window that do not fit."""
    net = source.outline_of(draft)
    notes = draft.notes
    chosen = migrations.NONE
    if not draft.is_random:
        wanted = net.state_dict()
        placed = checkpoints.read_placed(draft.checkpoint, wanted, draft.prefix)
        age = entry.migration or (migrations.NONE if facts.is_own else None)
        chosen = migrations.choose(draft.name, draft.arch, age, placed.weights, wanted)
        weights = migrations.migration_of(draft.arch, chosen).convert(placed.weights, wanted)
        notes = require_fit(draft, wanted, weights, placed.note, facts.is_own)
    asked = {name: getattr(draft, name) for name in COSTS.depends} | {"roi": draft.network_roi}
    flops, step_bytes = COSTS.get(lambda: cost_of(draft, net), **asked)  # many checkpoints are of one network
    migration = None if chosen == migrations.NONE else chosen
    return replace(draft, migration=migration, flops=flops, step_bytes=step_bytes, notes=notes)


def _read_off(source: Source, draft: ModelSpec, facts: Facts, entry: ModelEntry) -> ModelSpec:
    """Checks a checkpoint of others, with arguments read off its weights where those of the job do not make it fit."""
    arch = draft.arch
    found = inferred_from(draft.checkpoint, arch, draft.num_channels)
    notes = list[str]()
    if asked := open_args(arch, entry.args, found):
        names = " and ".join(f"args.{name}" for name in asked)
        raise UserError(
            f"{entry.name}: {names}: required, as the weights of {entry.path} load with any value and predict rightly "
            f"with one: state what it was trained with (here the default is {defaults(arch, asked)})"
        )
    try:
        spec = _check_weights(source, draft, facts, entry)
    except UserError:
        stated = {name: to_tuples(value) for name, value in entry.args.items()}
        others = {name: value for name, value in found.args.items() if name not in stated}
        read = complete_args(arch, {**others, **stated})
        if read == draft.args:
            raise
        try:
            spec = _check_weights(source, replace(draft, args=read), facts, entry)
        except UserError:
            _refuse_other_args(entry, stated, found.args)
            raise
        shown = [f"{name} {value!r}" for name, value in others.items() if draft.args.get(name) != read.get(name)]
        notes.append(f"read off its weights: {', '.join(shown)}")
    traceless = UNTRACED.get(arch, ())
    values = {**defaults(arch, traceless), **spec.args}
    untraced = [f"{name} {values[name]!r}" for name in traceless if name not in entry.args]
    if untraced:
        notes.append(f"{', '.join(untraced)}: left no trace in its weights, state args if it was trained otherwise")
    return replace(spec, notes=(*spec.notes, *notes))


def _refuse_other_args(entry: ModelEntry, stated: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuses arguments of a job that the weights show otherwise."""
    for name in found.keys() & stated.keys() - {"strides"}:
        if _one_spelling(found[name]) != _one_spelling(stated[name]):
            rest = f"but the weights of {entry.path} show {found[name]!r}: leave it out"
            raise CheckpointError(f"{entry.name}: args.{name} is {stated[name]!r} here, {rest}") from None


def _one_spelling(value: Any) -> Any:
    """Returns one spelling for a number and the same number for each axis, and for names in capitals."""
    if isinstance(value, tuple) and len(set(map(str, value))) == 1:
        return _one_spelling(value[0])
    return value.lower() if isinstance(value, str) else value


def _silent(arch: str, args: Mapping[str, Any]) -> list[str]:
    """Returns the arguments that are at the table's defaults or do not change what the network computes."""
    usual = MODELS[arch].args
    tuning = MODELS[arch].tuning
    return [name for name, value in args.items() if name in tuning or (name in usual and value == usual[name])]


SOURCE = Source(
    facts=facts,
    network=network,
    weights=weights,
    fit=fit,
    silent=_silent,
    takes=("migration", "prefix"),
    is_known=True,
    is_checkpoint=True,
)
