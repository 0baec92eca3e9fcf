"""Resolves a model's entry in a job to a spec, and checks everything that can be wrong with it.

The outcome for a network of MODELS is kept on the node's disk, as importing MONAI to check it anew takes seconds.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import NonNegativeInt, ValidationError
from torch import nn

from freqbench.core import limits, plugins
from freqbench.core.config import Strict, validate
from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.files import node_cache, storage
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess, parse_intensity
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.checkpoints import migrations
from freqbench.models.checkpoints.record import Origin, origin_of
from freqbench.models.cost import traced
from freqbench.models.defences.transforms import RandomResizePad
from freqbench.models.entry import (
    COMMAND,
    DEFAULT_INFERENCE,
    DEFAULT_INPUT,
    DEFAULT_ROI,
    ENSEMBLE,
    FROZEN,
    Inference,
    InputAdapter,
    ModelEntry,
    advice_on_classes,
    class_map_of,
    is_prompted,
    seed_of,
)
from freqbench.models.examination import Findings, examine, windows
from freqbench.models.foreign import READERS
from freqbench.models.foreign.command import TIMEOUT
from freqbench.models.foreign.common import Description
from freqbench.models.loading import load, located, naming, placed, skeleton
from freqbench.models.networks.architectures import MODELS, as_tuples, complete_args
from freqbench.models.networks.inferring import UNTRACED, Inferred, defaults, inferred, recognised, to_state
from freqbench.models.spec import ModelSpec

K = TypeVar("K", bound=Strict)
UNTRAINED = "its weights look untrained, as every scale of a norm and slope of a PReLU is that of a fresh network"


class _Outcome(Strict):
    """Outcome of a network's check: the fields of its `ModelSpec` that take a network to fill in."""

    args: dict[str, Any]
    migration: str | None
    flops: NonNegativeInt
    step_bytes: NonNegativeInt
    notes: tuple[str, ...] = ()


def resolve(
    entry: ModelEntry,
    num_classes: int,
    num_channels: int = 1,
    space: Preprocess | None = None,
    class_names: Sequence[str] = (),
    origin: Origin | None = None,
) -> ModelSpec:
    """Checks everything that can be wrong with a model, without computing, and fixes its identity.

    `entry` is a job file's, not of an ensemble; `num_classes` (background included), `num_channels`, `space` and
    `class_names` are the dataset's. The spec of a checkpoint that was trained in `space` has no space of its own; if
    `space` is None, no checkpoint has. Without `class_names`, the order of classes is not compared. `origin` is that of
    the entry, if it was asked for before.

    Raises UserError for an unknown architecture or argument, a value or ROI the network refuses, a contradiction with
    the checkpoint's metadata, or code that is not trusted; CheckpointError for a checkpoint that is missing, unreadable
    or does not fit.
    """
    path, arch, trained, has_record = origin or origin_of(entry, class_names)
    said: tuple[str, ...] = ()
    seed, local, kept, code, outcome = seed_of(path), path, None, None, None
    space = _space(entry, path, trained.preprocess, space)
    args, roi, adapter, inference = entry.args, entry.roi or trained.roi, entry.input or DEFAULT_INPUT, entry.inference
    sha256 = f"random:{seed}" if seed is not None or arch in READERS else checkpoints.content_sha256(path)
    outputs, black_box = _outputs(entry, arch, trained.num_classes, num_classes), None
    if arch in READERS:
        if arch == COMMAND:
            args = {"num_classes": outputs or num_classes, "timeout": entry.timeout or TIMEOUT}
        elif arch in FROZEN:  # its file may not state its inputs and outputs
            side = {"roi": adapter.in_network_order(roi)} if roi else {}
            args = {"num_classes": outputs, "num_channels": num_channels, **side, **args}
        local, description = _described(entry, arch, path, args, outputs, num_channels)
        outputs, black_box, said = description.num_classes, description.black_box, description.notes
        adapter, sha256 = _stated(entry.input, description.input), description.sha256
        roi = roi or adapter.in_volume_order(description.roi)
        space = space or description.preprocess
        inference = inference or validate(dict(description.inference), Inference, where=entry.name)
    elif plugins.names_class(arch):
        code = plugins.provenance(plugins.load_class(arch, nn.Module)).get("source_sha256")
        args = {**(trained.args or {}), **args}
    else:
        adapter = _stated(entry.input, InputAdapter(axes=MODELS[arch].axes))
        roi = roi or adapter.in_volume_order(MODELS[arch].roi)
        if isinstance(entry.defence, RandomResizePad) and is_prompted(arch, args):
            raise UserError(
                f"{entry.name}: expected no {entry.defence.name} beside args.points, as it moves the window from under "
                "the points: take another defence, or a network without points"
            )
        stated = {"args": args, "trained": trained.args, "migration": entry.migration, "is_own": has_record}
        kept = _place(
            {"arch": arch, "roi": roi, "num_classes": outputs, "num_channels": num_channels, "prefix": entry.prefix}
            | {"checkpoint_sha256": sha256, "input": adapter.model_dump(), **stated}
        )
        outcome = _read(kept, _Outcome)
        args = (
            {k: as_tuples(v) for k, v in outcome.args.items()} if outcome else _agreed_args(entry, arch, trained.args)
        )
    draft = ModelSpec(
        name=entry.name,
        arch=arch,
        args=args,
        roi=roi or DEFAULT_ROI,
        num_classes=num_classes,
        checkpoint=local,
        checkpoint_sha256=sha256,
        num_channels=num_channels,
        migration=outcome.migration if outcome else None,
        prefix=entry.prefix,
        input=adapter,
        space=space,
        inference=inference or DEFAULT_INFERENCE,
        code_sha256=code,
        class_map=class_map_of(entry, num_classes, outputs or num_classes),
        black_box=black_box,
        defence=entry.defence,
        adaptive=entry.adaptive,
        min_dice=0.0 if seed is not None or (outcome and _judges_nothing(entry, outcome.notes)) else entry.min_dice,
        training=entry.trained.identity if entry.trained else None,
        method=(entry.trained.method if entry.trained else None) or trained.training.method,
        weights_sha256=entry.trained.weights if entry.trained else None,
        flops=outcome.flops if outcome else None,
        step_bytes=outcome.step_bytes if outcome else None,
        notes=_noted(entry, outcome.notes) if outcome else (),
    )
    if draft.class_map and draft.is_prompted:
        raise UserError(f"{entry.name}: expected no class_map beside args.points, which are of the dataset's classes")
    if outcome:
        return draft
    with naming(path, local):
        if arch in MODELS and seed is None and not has_record:
            draft, migration, counts, notes = _read_off(draft, entry)
        else:
            migration, counts, notes = _checked(draft, entry.migration, migrations.NONE if has_record else None)
    # The outcome belongs to the content that was hashed, which another file may have replaced meanwhile.
    if kept and counts and (seed is not None or checkpoints.content_sha256(path) == sha256):
        _keep(kept, _Outcome(args=dict(draft.args), migration=migration, notes=notes, **counts))
    all_notes = _noted(entry, (*said, *notes))
    judged: dict[str, Any] = {"min_dice": 0.0} if _judges_nothing(entry, notes) else {}
    return _examined(replace(draft, checkpoint=path, migration=migration, notes=all_notes, **counts, **judged))


def shown_channels(origin: Origin) -> Inferred:
    """Returns what the weights of a network of MODELS show of it; nothing for other files."""
    is_file = origin.arch in MODELS and seed_of(origin.path) is None
    return inferred_from(origin.path, origin.arch) if is_file else Inferred()


def stated_classes(entry: ModelEntry, origin: Origin) -> int | tuple[str, ...] | None:
    """Returns the names of the classes that a model's files state, background first, else their number; None: neither.

    The entry's own `classes` and `class_map` come first. The code of a frozen model is not run for it.
    """
    if entry.class_map is not None or entry.classes is not None:
        return entry.classes if entry.class_map is None else max(entry.class_map) + 1
    path, arch, trained, has_record = origin
    if trained.class_names:
        return trained.class_names
    if arch in READERS and arch not in FROZEN and storage.is_local(path):
        return int(READERS[arch].describe(storage.local_path(path), entry.args).num_classes)
    stated = checkpoints.read_metadata(path).get("num_classes") if has_record else None
    return stated if isinstance(stated, int) else None


def _outputs(entry: ModelEntry, arch: str, trained: int | None, num_classes: int) -> int | None:
    """Returns the classes that a network is expected to have; None if its file has to say it."""
    if entry.class_map is None:
        return num_classes if entry.classes is None else entry.classes
    if entry.classes is None and trained is None and arch not in READERS:
        raise UserError(f"{entry.name}: classes: required beside class_map, as {entry.path} does not state them")
    return entry.classes or trained


def resolve_ensemble(entry: ModelEntry, members: Sequence[ModelSpec]) -> ModelSpec:
    """Resolves the mean of other models' probabilities to a spec.

    Raises UserError if members have different windows or spaces, if they have different sliding windows and the job
    gives the ensemble none, or if a member is given twice, takes prompts or has a random defence.
    """
    first = members[0]
    for i, member in enumerate(members):
        if member.defence and member.defence.is_random:
            raise UserError(
                f"{entry.name}: ensemble: expected members without a random defence, got {member.name} with "
                f"{member.defence.name}: put the defence around the ensemble"
            )
        if member.is_prompted:
            raise UserError(
                f"{entry.name}: ensemble: expected members without prompts, got {member.name} with args.points: take "
                "networks without points"
            )
        if member.arch == COMMAND:
            raise UserError(f"{entry.name}: ensemble: expected networks, got {member.name}, a command: leave it out")
        if member.model_id in [other.model_id for other in members[:i]]:
            raise UserError(f"{entry.name}: ensemble: expected each member once, got {member.name} twice")
        for what in ("roi", "space") if entry.inference else ("roi", "space", "inference"):
            ours, theirs = getattr(first, what), getattr(member, what)
            if ours != theirs:
                raise UserError(
                    f"{entry.name}: expected members of the same {what}, got {ours} of {first.name} and {theirs} of "
                    f"{member.name}: state one for both"
                )
    return ModelSpec(
        name=entry.name,
        arch=ENSEMBLE,
        args={},
        roi=first.roi,
        num_classes=first.num_classes,
        checkpoint=" + ".join(member.name for member in members),
        checkpoint_sha256="",
        num_channels=first.num_channels,
        space=first.space,
        inference=entry.inference or first.inference,
        members=tuple(members),
        black_box=next((member.black_box for member in members if member.black_box), None),
        defence=entry.defence,
        adaptive=entry.adaptive,
        min_dice=entry.min_dice if any(member.min_dice for member in members) else 0.0,
    )


def _agreed_args(entry: ModelEntry, arch: str, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    args = complete_args(arch, {**(trained or {}), **entry.args})
    original = args if trained is None else complete_args(arch, trained)
    for name in entry.args.keys() - MODELS[arch].tuning:
        if args.get(name) != original.get(name):
            raise UserError(
                f"{entry.name}: args.{name} is {entry.args[name]!r} here, but {entry.path} was trained otherwise: "
                "leave it out"
            )
    return args


def _space(entry: ModelEntry, path: str, trained: Preprocess | None, dataset: Preprocess | None) -> Preprocess | None:
    """Returns the job's space for a model, else the space of its training if that is not the dataset's."""
    if trained is None or dataset is None:
        return entry.preprocess
    _require_input(entry, path, trained)
    return entry.preprocess or (None if trained.identity() == dataset.identity() else trained)


def _require_input(entry: ModelEntry, path: str, trained: Preprocess) -> None:
    """Refuses a job's space whose intensities differ from the network's own, unless the job also states `input`."""
    if entry.preprocess and entry.input is None:
        ours, theirs = (parse_intensity(space.intensity) for space in (entry.preprocess, trained))
        if ours != theirs:
            raise UserError(
                f"{entry.name}: expected input beside preprocess, as that of {path} is for the intensity "
                f"{trained.intensity}: state both"
            )


def _stated(stated: InputAdapter | None, default: InputAdapter) -> InputAdapter:
    """Returns the job's `input`; omitted axes stay the network's, as wrong ones spoil predictions without an error."""
    if stated is None or "axes" in stated.model_fields_set:
        return stated or default
    return stated.model_copy(update={"axes": default.axes})


def _described(
    entry: ModelEntry, arch: str, path: str, args: Mapping[str, Any], outputs: int | None, num_channels: int
) -> tuple[str, Description]:
    """Returns the local copy of a model of a reader, and the description that its folder or file gives."""
    local = located(arch, path, args)
    with naming(path, local):
        description: Description = READERS[arch].describe(local, args)
        wanting = "dataset" if entry.classes is None else "classes"
        mapped = advice_on_classes(description.num_classes, outputs or description.num_classes)
        if entry.classes is not None:
            mapped = f"set classes: {description.num_classes}"
        for theirs, ours, words, advice in (
            (description.num_classes, outputs or description.num_classes, "output classes", mapped),
            (description.num_channels, num_channels, "input channels", "take data or a network with as many"),
        ):
            if theirs != ours:
                raise UserError(f"{entry.name}: {local} has {theirs} {words}, {wanting} wants {ours}: {advice}")
        if not (entry.input and entry.preprocess):  # with one alone, intensities of one window would pass as another's
            if arch == "bundle" and description.preprocess is None:
                raise UserError(
                    f"{entry.name}: expected preprocess and input, as the transforms of {local} are not all known: "
                    "state both"
                )
            if description.preprocess and arch != COMMAND:  # which sees its own unit in any space
                _require_input(entry, local, description.preprocess)
    return local, description


def inferred_from(path: str, arch: str, num_channels: int = 1) -> Inferred:
    """Returns what the weights of a checkpoint, of whatever prefix, show of a network of MODELS."""
    for tensors in checkpoints.sets_of(path):
        _, theirs, weights = recognised(tensors)
        if theirs == arch:
            return inferred(arch, weights, num_channels)
    return Inferred()


def _read_off(draft: ModelSpec, entry: ModelEntry) -> tuple[ModelSpec, str | None, dict[str, Any], tuple[str, ...]]:
    """Checks a checkpoint of others, with arguments read off its weights where those of the job do not make it fit.

    Returns the spec with these arguments, and what `_checked` returns. Refuses an argument that contradicts the file,
    and asks for one whose default would be a guess.
    """
    found, notes = inferred_from(draft.checkpoint, draft.arch, draft.num_channels), list[str]()
    try:
        migration, counts, said = _checked(draft, entry.migration, None)
    except UserError:
        stated = {name: as_tuples(value) for name, value in entry.args.items()}
        others = {name: value for name, value in found.args.items() if name not in stated}
        read = complete_args(draft.arch, {**others, **stated})
        _ask(draft, entry, found)
        if read == draft.args:
            raise
        before, draft = draft.args, replace(draft, args=read)
        try:
            migration, counts, said = _checked(draft, entry.migration, None)
        except UserError:
            for name in [name for name in found.args.keys() & stated.keys() if name != "strides"]:
                if _spread(found.args[name]) != _spread(stated[name]):
                    raise CheckpointError(
                        f"{entry.name}: args.{name} is {stated[name]!r} here, but the weights of {entry.path} show "
                        f"{found.args[name]!r}: leave it out"
                    ) from None
            raise
        shown = [f"{name} {value!r}" for name, value in others.items() if before.get(name) != read.get(name)]
        notes.append(f"read off its weights: {', '.join(shown)}")
    _ask(draft, entry, found)
    values = {**defaults(draft.arch, UNTRACED.get(draft.arch, ())), **draft.args}
    untraced = [f"{name} {values[name]!r}" for name in UNTRACED.get(draft.arch, ()) if name not in entry.args]
    if untraced:
        notes.append(f"{', '.join(untraced)}: left no trace in its weights, state args if it was trained otherwise")
    return draft, migration, counts, (*said, *notes)


def _ask(draft: ModelSpec, entry: ModelEntry, found: Inferred) -> None:
    """Refuses, by their names, arguments that nobody stated, that weights do not show, and whose default is a guess."""
    if asked := to_state(draft.arch, entry.args, found):
        names = " and ".join(f"args.{name}" for name in asked)
        raise UserError(
            f"{entry.name}: {names}: required, as the weights of {entry.path} load with any value and predict rightly "
            f"with one: state what it was trained with (here the default is {defaults(draft.arch, asked)})"
        )


def _spread(value: Any) -> Any:
    """Returns one spelling for a number and the same number for each axis, and for names in capitals."""
    if isinstance(value, tuple) and len(set(map(str, value))) == 1:
        return _spread(value[0])
    return value.lower() if isinstance(value, str) else value


def _judges_nothing(entry: ModelEntry, notes: Sequence[str]) -> bool:
    """True if the weights look untrained and the job states no `min_dice`: their clean Dice then stops no run."""
    return UNTRAINED in notes and "min_dice" not in entry.model_fields_set


def _noted(entry: ModelEntry, notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{entry.name}: {note}" for note in notes)


def _checked(
    draft: ModelSpec, stated: str | None, default: str | None
) -> tuple[str | None, dict[str, Any], tuple[str, ...]]:
    """Returns migration, the spec's counts and notes; refuses a checkpoint or window that does not fit the network."""
    for key, value in (("migration", stated), ("prefix", draft.prefix)):
        if value is not None and (
            draft.is_random or draft.arch in READERS or (key, draft.arch in MODELS) == ("migration", False)
        ):
            raise UserError(
                f"{draft.name}: {key}: expected none for {draft.arch} of {draft.checkpoint}, got {value}: "
                f"it is for checkpoints of {', '.join(MODELS)}"
            )
    for what in ("mean", "std"):
        value = getattr(draft.input, what)
        if isinstance(value, tuple) and len(value) != draft.num_channels:
            raise UserError(
                f"{draft.name}: input.{what}: expected one number or {draft.num_channels} (one a channel), got "
                f"{len(value)}: give as many"
            )
    if draft.arch in FROZEN:
        return None, {}, ()
    net = skeleton(draft)
    if next(net.parameters(), None) is None:
        raise UserError(f"{draft.name}: {draft.arch}: expected a network with parameters, found none: add one")
    wanted, chosen, notes = net.state_dict(), migrations.NONE, tuple[str, ...]()
    if not draft.is_random:
        weights, note = placed(draft, wanted)
        notes = (note,) if note else ()
        if draft.arch in MODELS:
            chosen = migrations.choose(draft.name, draft.arch, stated or default, weights, wanted)
            weights = migrations.migrations_of(draft.arch)[chosen].convert(weights, wanted)
        checkpoints.check_fit(draft.name, draft.checkpoint, wanted, weights, draft.outputs)
        if default is None and checkpoints.look_untrained(weights):  # freqbench's own record tells of a training
            notes += (UNTRAINED,)
    counts = dict(zip(("flops", "step_bytes"), traced(draft, net), strict=True))
    return None if chosen == migrations.NONE else chosen, counts if draft.arch in MODELS else {}, notes


def _examined(spec: ModelSpec) -> ModelSpec:
    """Returns the spec with what the examination of its network found, once per node; refuses a network at fault.

    The construction of freqbench's own networks shows that they return logits of each window by itself.
    """
    is_mixing = "track_running_stats" in str(spec.args)
    is_known = spec.arch not in (*FROZEN, "bundle") and not plugins.names_class(spec.arch) and not is_mixing
    if spec.arch == COMMAND or spec.is_prompted or is_known:
        return spec
    kept = _place({"examined": spec.model_id})
    findings = _read(kept, Findings)
    if findings is None:
        # A frozen file may make its tensors on the device where it was saved.
        is_here = spec.arch in FROZEN and torch.cuda.is_available()
        model = load(spec, torch.device("cuda" if is_here else "cpu"))
        if model.takes_prompts:
            return spec
        inputs = model.adapter.to_network(windows(spec.num_channels, spec.roi).to(next(model.parameters()).device))
        findings = examine(model.net, inputs, spec.outputs)
        if kept:
            _keep(kept, findings)
    if findings.fault:
        raise UserError(f"{spec.name}: {findings.fault}")
    notes = (*spec.notes, *(f"{spec.name}: {note}" for note in findings.notes))
    return replace(spec, yields=findings.yields, singly=findings.singly, caution=findings.caution, notes=notes)


def _place(asked: dict[str, Any]) -> Path | None:
    """Returns the file for the outcome of a check that depends on `asked`, freqbench's code and the libraries.

    Returns None if nothing is kept: FREQBENCH_CACHE_GB is 0, the cache cannot be used (a run reports that), or an
    argument is no plain value.
    """
    with suppress(UserError, TypeError):
        if not node_cache.limit():
            return None
        key = digest([asked, os.environ.get(limits.VARIABLE), _code(), version("monai"), version("torch")])
        return node_cache.part("networks") / f"{key}.json"
    return None


def _read(path: Path | None, kind: type[K]) -> K | None:
    """Returns the outcome kept at a path; None if there is none or it cannot be read."""
    if path is None or not path.is_file():  # a pipe has no end
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _keep(path: Path, outcome: Strict) -> None:
    """Keeps the outcome of a check; ignores a full or read-only disk, which only costs time at the next command."""
    with suppress(OSError):
        storage.write_atomic(str(path), json.dumps(outcome.model_dump()).encode())


@cache
def _code() -> str:
    """Returns a digest of the modules that make and check networks."""
    hasher = blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
