"""Resolves a model's entry in a job to a spec, and checks everything that can be wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from freqbench.core import plugins
from freqbench.core.config import validate
from freqbench.core.errors import UserError
from freqbench.core.input_space import Preprocess, parse_intensity
from freqbench.core.types import Shape
from freqbench.models import known
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.checkpoints import migrations
from freqbench.models.checkpoints.fit import check_fit
from freqbench.models.cost import traced_flops
from freqbench.models.defences.transforms import RandomResizePad
from freqbench.models.examining import examined
from freqbench.models.foreign import READERS
from freqbench.models.foreign.common import Description
from freqbench.models.loading import content_sha256, located, migration_of, naming, skeleton, weights_of
from freqbench.models.networks.architectures import MODELS, as_tuples, complete_args
from freqbench.models.settings import DEFAULT_INFERENCE, Inference, InputAdapter
from freqbench.models.spec import ENSEMBLE, FROZEN, ModelEntry, ModelSpec, seed_of

DEFAULT_ROI: Shape = (96, 96, 96)


def resolve(
    entry: ModelEntry,
    num_classes: int,
    num_channels: int = 1,
    space: Preprocess | None = None,
    class_names: Sequence[str] = (),
) -> ModelSpec:
    """Checks everything that can be wrong with a model, without computing, and fixes its identity.

    `entry` is a job file's, not of an ensemble; `num_classes` (background included), `num_channels`, `space` and
    `class_names` are the dataset's. The spec of a checkpoint that was trained in `space` has no space of its own; if
    `space` is None, no checkpoint has. Without `class_names`, the order of classes is not compared.

    Raises UserError for an unknown architecture or argument, a value or ROI the network refuses, a contradiction with
    the checkpoint's metadata, or code that is not trusted; CheckpointError for a checkpoint that is missing, unreadable
    or does not fit.
    """
    path, arch, trained, is_own = examined(entry, class_names)
    seed = seed_of(path)
    draft = ModelSpec(
        name=entry.name,
        arch=arch,
        args=entry.args,
        roi=entry.roi or trained.roi or DEFAULT_ROI,
        num_classes=num_classes,
        checkpoint=path,
        checkpoint_sha256=f"random:{seed}",
        num_channels=num_channels,
        input=entry.input or InputAdapter(),
        space=_space(entry, path, trained.preprocess, space),
        inference=entry.inference or DEFAULT_INFERENCE,
        defence=entry.defence,
        adaptive=entry.adaptive,
        min_dice=0.0 if seed is not None else entry.min_dice,
        training=entry.trained.identity if entry.trained else None,
        method=(entry.trained.method if entry.trained else None) or trained.training.method,
        weights_sha256=entry.trained.weights if entry.trained else None,
    )
    if arch in READERS:
        return _resolve_read(entry, draft)
    if plugins.names_class(arch):
        cls: type[nn.Module] = plugins.load_class(arch, nn.Module)
        sha256 = plugins.provenance(cls).get("source_sha256")
        draft = replace(draft, args={**(trained.args or {}), **entry.args}, code_sha256=sha256)
    else:
        adapter = _stated(entry.input, InputAdapter(axes=MODELS[arch].axes))
        roi = entry.roi or trained.roi or adapter.in_volume_order(MODELS[arch].roi)
        draft = replace(draft, roi=roi, input=adapter)
        if draft.is_prompted and isinstance(entry.defence, RandomResizePad):
            raise UserError(
                f"{entry.name}: expected no {entry.defence.name} beside args.points, as it moves the window from under "
                "the points: take another defence, or a network without points"
            )
        return _remembered(entry, draft, trained.args, is_own)
    return _checked(draft, entry.migration)


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


def _resolve_read(entry: ModelEntry, draft: ModelSpec) -> ModelSpec:
    """Resolves a model of a reader: its folder's description fills in what the job does not state."""
    if draft.arch in FROZEN:  # its file may not state its inputs and outputs
        roi = {"roi": draft.input.in_network_order(entry.roi)} if entry.roi else {}
        args = {"num_classes": draft.num_classes, "num_channels": draft.num_channels, **roi, **entry.args}
        draft = replace(draft, args=args)
    checkpoint = draft.checkpoint
    local = located(draft.arch, checkpoint, draft.args)
    with naming(checkpoint, local):
        description: Description = READERS[draft.arch].describe(local, draft.args)
        for what, words in (("num_classes", "output classes"), ("num_channels", "input channels")):
            theirs, ours = getattr(description, what), getattr(draft, what)
            if theirs != ours:
                raise UserError(f"{entry.name}: {local} has {theirs} {words}, dataset wants {ours}")
        if not (entry.input and entry.preprocess):  # with one alone, intensities of one window would pass as another's
            if draft.arch == "bundle" and description.preprocess is None:
                raise UserError(
                    f"{entry.name}: expected preprocess and input, as the transforms of {local} are not all known: "
                    "state both"
                )
            if description.preprocess:
                _require_input(entry, local, description.preprocess)
        adapter = _stated(entry.input, description.input)
        draft = replace(
            draft,
            checkpoint=local,
            roi=entry.roi or adapter.in_volume_order(description.roi),
            checkpoint_sha256=description.sha256,
            input=adapter,
            space=entry.preprocess or description.preprocess,
            inference=entry.inference or validate(dict(description.inference), Inference, where=entry.name),
        )
        return replace(_checked(draft, entry.migration), checkpoint=checkpoint)


def _remembered(entry: ModelEntry, draft: ModelSpec, trained: Mapping[str, Any] | None, is_own: bool) -> ModelSpec:
    """Checks a network of MODELS as `_checked` does, but does not build it if it passed before on this machine."""
    if not draft.is_random:
        draft = replace(draft, checkpoint_sha256=content_sha256(draft))
    asked = {"args": entry.args, "trained": trained, "migration": entry.migration, "is_own": is_own}
    fields = ("arch", "roi", "num_classes", "num_channels", "checkpoint_sha256")
    adapter = draft.input.model_dump()
    path = known.place(asked | {"input": adapter} | {name: getattr(draft, name) for name in fields})
    if outcome := known.read(path):
        args = {name: as_tuples(value) for name, value in outcome.args.items()}
        return replace(draft, args=args, migration=outcome.migration, flops=outcome.flops)
    spec = _checked(
        replace(draft, args=_agreed_args(entry, draft.arch, trained)),
        entry.migration,
        migrations.NONE if is_own else None,
    )
    if spec.checkpoint_sha256 == draft.checkpoint_sha256 and spec.flops is not None:
        known.keep(path, known.Checked(args=dict(spec.args), migration=spec.migration, flops=spec.flops))
    return spec


def _checked(draft: ModelSpec, stated: str | None, default: str | None = None) -> ModelSpec:
    """Returns the spec with its checkpoint's digest and migration; refuses a checkpoint or window that does not fit."""
    if stated and (draft.is_random or draft.arch not in MODELS):
        raise UserError(
            f"{draft.name}: migration: expected none for {draft.arch} of {draft.checkpoint}, got {stated}: "
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
        return draft
    net = skeleton(draft)
    if next(net.parameters(), None) is None:
        raise UserError(f"{draft.name}: {draft.arch}: expected a network with parameters, found none: add one")
    wanted = net.state_dict()
    if not draft.is_random:
        if draft.arch in MODELS:
            weights = checkpoints.read_state_dict(draft.checkpoint, wanted)
            chosen = migrations.choose(draft.name, draft.arch, stated or default, weights, wanted)
            draft = replace(draft, migration=None if chosen == migrations.NONE else chosen)
            weights = migration_of(draft).convert(weights, wanted)
        else:
            weights = weights_of(draft, wanted)
        check_fit(draft.name, draft.checkpoint, wanted, weights, draft.num_classes)
        draft = replace(draft, checkpoint_sha256=content_sha256(draft))
    flops = traced_flops(draft, net)
    return replace(draft, flops=flops) if draft.arch in MODELS else draft
