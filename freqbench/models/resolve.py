"""From what a job says of a model to a spec in which all that can be wrong has been checked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from freqbench.core import plugins, storage
from freqbench.core.config import validate
from freqbench.core.errors import CheckpointError, UserError, unknown
from freqbench.core.input_space import Preprocess, parse_intensity
from freqbench.core.names import ALIASES
from freqbench.core.types import Shape
from freqbench.models import loading
from freqbench.models.adapter import Description, InputAdapter
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.checkpoints import migrations, record
from freqbench.models.loading import READERS
from freqbench.models.networks.architectures import MODELS, complete_args
from freqbench.models.settings import DEFAULT_INFERENCE, Inference
from freqbench.models.spec import ENSEMBLE, FROZEN, ModelEntry, ModelSpec

DEFAULT_ROI: Shape = (96, 96, 96)


def resolve(
    entry: ModelEntry,
    num_classes: int,
    num_channels: int = 1,
    space: Preprocess | None = None,
    class_names: Sequence[str] = (),
) -> ModelSpec:
    """Check all that can be wrong with a model, without computing, and fix its identity.

    Args:
        entry: from a job file; not of an ensemble.
        num_classes: of the dataset, background included.
        num_channels: of its images.
        space: the dataset's: a checkpoint that was trained in it has none of its own. None: as if all were.
        class_names: the dataset's; none: nothing is compared.

    Raises:
        UserError: an unknown architecture or argument, a value or ROI the network refuses, a contradiction with
            what the checkpoint says of itself, code that is not trusted.
        CheckpointError: no such checkpoint, unreadable, or it does not fit the network.
    """
    path = _weights_path(entry)
    untrained = checkpoints.seed_of(path) is not None
    arch = "bundle" if entry.bundle else ALIASES["models"].get(str(entry.arch), entry.arch)
    trained, is_own = (record.Record(), False) if untrained or arch in READERS else record.read(path)
    record.require_order(entry.name, path, trained.class_names, class_names)
    arch = _agreed_arch(entry, arch, path, trained.arch)
    draft = ModelSpec(
        name=entry.name,
        arch=arch,
        args=entry.args,
        roi=entry.roi or trained.roi or DEFAULT_ROI,
        num_classes=num_classes,
        checkpoint=path,
        checkpoint_sha256=f"random:{checkpoints.seed_of(path)}",
        num_channels=num_channels,
        input=entry.input or InputAdapter(),
        space=_space(entry, path, trained.preprocess, space),
        inference=entry.inference or DEFAULT_INFERENCE,
        defence=entry.defence,
        adaptive=entry.adaptive,
        min_dice=0.0 if untrained else entry.min_dice,
        training=entry.trained.identity if entry.trained else None,
        method=(entry.trained.method if entry.trained else None) or trained.training.method,
        weights_sha256=entry.trained.weights if entry.trained else None,
    )
    if arch in READERS:
        return _resolve_read(entry, replace(draft, args=_told_to_reader(draft, entry)))
    if plugins.names_class(arch):
        cls: type[nn.Module] = plugins.load_class(arch, nn.Module)
        sha256 = plugins.provenance(cls).get("source_sha256")
        draft = replace(draft, args={**(trained.args or {}), **entry.args}, code_sha256=sha256)
    else:
        adapter = _stated(entry.input, InputAdapter(axes=MODELS[arch].axes))
        roi = entry.roi or trained.roi or adapter.in_volume_order(MODELS[arch].roi)
        draft = replace(draft, args=_agreed_args(entry, arch, trained.args), roi=roi, input=adapter)
    _require_applicable(entry, draft)
    stated = entry.migration or (migrations.NONE if is_own else None)
    return _checked(draft, stated)


def _resolve_read(entry: ModelEntry, draft: ModelSpec) -> ModelSpec:
    """A model of a reader: what is at a URI is looked at where it was fetched to."""
    given = draft.checkpoint
    local = loading.located(draft.arch, given, draft.args)
    with loading.named(given, local):
        found = READERS[draft.arch].describe(local, draft.args)
        draft = _as_described(replace(draft, checkpoint=local), entry, found)
        _require_applicable(entry, draft)
        return replace(_checked(draft, entry.migration), checkpoint=given)


def resolve_ensemble(entry: ModelEntry, members: Sequence[ModelSpec]) -> ModelSpec:
    """The mean of other models' probabilities as a model of its own.

    Raises:
        UserError: the members do not see the same windows of the same space, or are predicted with sliding windows of
            their own and the job gives the ensemble none, one is given twice, or one has a random defence.
    """
    first = members[0]
    for member in members:
        if member.defence and member.defence.is_random:
            raise UserError(
                f"{entry.name}: ensemble: expected members without a random defence, got {member.name} with "
                f"{member.defence.name}: put the defence around the ensemble"
            )
    for i, member in enumerate(members[1:], start=1):
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
        defence=entry.defence,
        adaptive=entry.adaptive,
        min_dice=entry.min_dice if any(member.min_dice for member in members) else 0.0,
    )


def _told_to_reader(draft: ModelSpec, entry: ModelEntry) -> Mapping[str, Any]:
    """Arguments of a reader; a frozen file may not say itself what it takes and gives."""
    if draft.arch not in FROZEN:
        return entry.args
    roi = {"roi": draft.input.in_network_order(entry.roi)} if entry.roi else {}
    return {"num_classes": draft.num_classes, "num_channels": draft.num_channels, **roi, **entry.args}


def _as_described(draft: ModelSpec, entry: ModelEntry, found: Description) -> ModelSpec:
    """What a folder says of itself, where the job says nothing else."""
    for what in ("num_classes", "num_channels"):
        theirs, ours = getattr(found, what), getattr(draft, what)
        if theirs != ours:
            words = "output classes" if what == "num_classes" else "input channels"
            raise UserError(f"{entry.name}: {draft.checkpoint} has {theirs} {words}, dataset wants {ours}")
    _require_whole_space(entry, draft, found)
    adapter = _stated(entry.input, found.input)
    return replace(
        draft,
        roi=entry.roi or adapter.in_volume_order(found.roi),
        checkpoint_sha256=found.sha256,
        input=adapter,
        space=entry.preprocess or found.preprocess,
        inference=entry.inference or validate(dict(found.inference), Inference, where=entry.name),
    )


def _stated(given: InputAdapter | None, known: InputAdapter) -> InputAdapter:
    """The job's `input`; axes that it does not state stay, as the wrong ones change the prediction alone."""
    if given is None or "axes" in given.model_fields_set:
        return given or known
    return given.model_copy(update={"axes": known.axes})


def _require_whole_space(entry: ModelEntry, draft: ModelSpec, found: Description) -> None:
    """Refuse half a space: intensities of one window given to a network as those of another."""
    if entry.input and entry.preprocess:
        return
    if draft.arch == "bundle" and found.preprocess is None:
        raise UserError(
            f"{entry.name}: expected preprocess and input, as the transforms of {draft.checkpoint} are not all known: "
            "state both"
        )
    if found.preprocess:
        _require_input(entry, draft.checkpoint, found.preprocess)


def _require_input(entry: ModelEntry, path: str, trained: Preprocess) -> None:
    """Refuse a job's space of other intensities than a network's own, where it does not say how these are given."""
    if entry.preprocess and entry.input is None:
        ours, theirs = (parse_intensity(space.intensity) for space in (entry.preprocess, trained))
        if ours != theirs:
            raise UserError(
                f"{entry.name}: expected input beside preprocess, as that of {path} is for the intensity "
                f"{trained.intensity}: state both"
            )


def _weights_path(entry: ModelEntry) -> str:
    """Where a model's weights are, variables filled in; of a network that the job trains, they are those of the plan.

    Raises:
        UserError: it has not been trained yet.
        CheckpointError: its weights are gone, or others.
    """
    if entry.is_to_train and not entry.trained:
        raise UserError(
            f"{entry.name}: expected the network of {entry.checkpoint} to be trained before the grid is made, got "
            "none: use bench.py run or freqbench.training.link"
        )
    path = storage.filled_in(str(entry.path), entry.name)
    if entry.trained:
        if not storage.exists(path):
            raise CheckpointError(
                f"{entry.name}: expected the weights of {entry.checkpoint} at {path}, found none: bench.py run JOB "
                "trains them again"
            )
        if (found := checkpoints.weights_sha256(path)) != entry.trained.weights:
            raise CheckpointError(
                f"{entry.name}: expected the weights of {entry.checkpoint} that were planned with (sha256 "
                f"{entry.trained.weights[:12]}...), got others at {path} ({found[:12]}...), as its training job was "
                "changed or carried out anew: put that file back, or bench.py run JOB for what is there now"
            )
    return path


def _space(entry: ModelEntry, path: str, trained: Preprocess | None, dataset: Preprocess | None) -> Preprocess | None:
    """The job's space for a model, else the one it was trained in where that is not the dataset's."""
    if trained is None or dataset is None:
        return entry.preprocess
    _require_input(entry, path, trained)
    return entry.preprocess or (None if trained.identity() == dataset.identity() else trained)


def _checked(draft: ModelSpec, stated: str | None) -> ModelSpec:
    """A spec whose checkpoint fits and whose network takes its window, with digest and migration of the checkpoint."""
    if draft.arch in FROZEN:
        return draft
    net = loading.skeleton(draft)
    if next(net.parameters(), None) is None:
        raise UserError(f"{draft.name}: {draft.arch}: expected a network with parameters, found none: add one")
    wanted = net.state_dict()
    if not draft.is_random:
        if draft.arch in MODELS:
            found = checkpoints.read_state_dict(draft.checkpoint, wanted)
            chosen = migrations.choose(draft.name, draft.arch, stated, found, wanted)
            draft = replace(draft, migration=None if chosen == migrations.NONE else chosen)
            found = migrations.migrations_of(draft.arch)[chosen].convert(found, wanted)
        else:
            found = loading.weights(draft, wanted)
        checkpoints.check_fit(draft.name, draft.checkpoint, wanted, found, draft.num_classes)
        draft = replace(draft, checkpoint_sha256=loading.content_sha256(draft))
    loading.trace(draft, net)
    return draft


def _agreed_arch(entry: ModelEntry, arch: str | None, path: str, trained: str | None) -> str:
    if arch is None and trained is None:
        raise UserError(f"{entry.name}: the checkpoint does not say its architecture: give arch: {', '.join(MODELS)}")
    if arch and trained and arch != trained:
        raise UserError(f"{entry.name}: arch is {arch} here, but {path} was trained as {trained}: leave arch out")
    agreed = str(arch or trained)
    if arch is None and plugins.names_class(agreed):
        raise UserError(
            f"{entry.name}: {path} was trained as {agreed}, code of another package, which a job must name itself: "
            f"give arch: {agreed}"
        )
    if agreed not in MODELS and agreed not in READERS and not plugins.names_class(agreed):
        raise UserError(unknown("architecture", agreed, [*MODELS, *READERS]))
    return agreed


def _require_applicable(entry: ModelEntry, draft: ModelSpec) -> None:
    """Refuse what would be passed over, or would not fit the dataset's channels."""
    if entry.migration and (draft.is_random or draft.arch not in MODELS):
        raise UserError(
            f"{entry.name}: migration: expected none for {draft.arch} of {draft.checkpoint}, got {entry.migration}: "
            f"it is for checkpoints of {', '.join(MODELS)}"
        )
    for what in ("mean", "std"):
        value = getattr(draft.input, what)
        if isinstance(value, tuple) and len(value) != draft.num_channels:
            wanted = f"one number or {draft.num_channels} (one a channel)"
            raise UserError(f"{entry.name}: input.{what}: expected {wanted}, got {len(value)}: give as many")


def _agreed_args(entry: ModelEntry, arch: str, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    args = complete_args(arch, {**(trained or {}), **entry.args})
    if trained is not None:
        original = complete_args(arch, trained)
        changed = [name for name in entry.args if args.get(name) != original.get(name)]
        if changed:
            raise UserError(
                f"{entry.name}: args.{changed[0]} is {entry.args[changed[0]]!r} here, but {entry.path} was "
                "trained otherwise: leave it out"
            )
    return args
