"""Resolves a model's entry in a job to a spec: the job's settings over the facts of its source, all checked."""

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from freqbench.core.code import identify
from freqbench.core.config import validate
from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.files import storage
from freqbench.core.input_space import Preprocess, parse_intensity
from freqbench.core.types import CaseRef, Outputs, ScoredOn
from freqbench.models import Inference, InputAdapter, ModelEntry, ModelSpec, hub
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.defences.randomized_smoothing import RandomizedSmoothing
from freqbench.models.defences.transforms import RandomResizePad
from freqbench.models.entry import DEFAULT_INFERENCE, DEFAULT_INPUT, DEFAULT_ROI, ENSEMBLE, advice_on_classes, seed_of
from freqbench.models.examination import EXAMINATIONS, Examination, examine, windows
from freqbench.models.inference import VOTES_ON_GRID
from freqbench.models.loading import load, naming
from freqbench.models.networks.architectures import MODELS
from freqbench.models.networks.construction import refusing
from freqbench.models.sources import source_of
from freqbench.models.sources.nnunet import folder_near
from freqbench.models.sources.source import Facts, adapter_of
from freqbench.ops.classes import Classes
from freqbench.pipelines import AnySpace, Pipeline
from freqbench.pipelines.monai import MonaiPipeline, from_words

OF_BRATS = {"t1n": ("t1", "t1w"), "t1c": ("t1ce", "t1gd"), "t2w": ("t2",), "t2f": ("flair", "t2 flair")}
"""For each channel of BraTS 2023, its names of other years and tools."""
SHARE = {"train": "taught it (train)", "select": "chose its weights (select)"}


def facts_of(
    entry: ModelEntry, num_classes: int | None = None, num_channels: int | None = None, class_names: Sequence[str] = ()
) -> Facts:
    """Returns the facts of a model, not an ensemble: the part of `resolve` that makes no network, and refuses as it.

    Args:
        entry: the model in a job file.
        num_classes: classes of the dataset, background included; None: not known yet.
        num_channels: channels of the dataset's volumes; None: not known yet.
        class_names: names of the dataset's classes, background first, to pair the network's with; empty: the order of
            classes is not compared.
    """
    path, at = hub.pin_commit(_path_of(entry))
    source = source_of(entry.reader)
    local = source.locate(path, entry.args)
    with naming(path, local):
        try:
            facts = source.facts(entry, local, num_classes, num_channels)
            seed = seed_of(path)
        except UserError:
            if entry.reader is None and (advice := folder_near(local)):
                raise CheckpointError(f"{path}: expected an nnU-Net's whole folder, got a part: {advice}") from None
            raise
        sha256 = source.sha256(local, facts.args) if seed is None else f"random:{seed}"
    own: dict[str, Any] = {}
    if entry.transforms is not None:
        if facts.arch == "nnunet" or facts.takes_volumes:
            raise UserError(f"{entry.name}: expected no transforms for {path}, which brings its own: leave them out")
        pipeline = transforms_of(entry)
        own = {"space": pipeline, "input": adapter_of(pipeline), "knows_axes": True}
    named = facts.metadata.class_names or facts.class_names
    by_name = match_names(entry.name, path, named, class_names) if named and entry.class_map is None else {}
    if by_name:
        own["found"] = (f"classes are paired by their names, as class_map: {shown_map(by_name)} would",)
    names: dict[str, Any] = {"class_names": tuple(named), "class_map": by_name or None}
    notes = (*at, *facts.notes)
    return replace(facts, path=path, checkpoint=local, checkpoint_sha256=sha256, notes=notes, **names, **own)


def resolve(
    entry: ModelEntry,
    num_classes: int,
    num_channels: int = 1,
    space: AnySpace | None = None,
    class_names: Sequence[str] = (),
    facts: Facts | None = None,
) -> ModelSpec:
    """Checks everything that can be wrong with a model, without computing, and fixes its identity.

    Args:
        entry: the model in a job file, not an ensemble.
        num_classes: classes of the dataset, background included.
        num_channels: channels of its volumes.
        space: the dataset's way from its files to volumes: a checkpoint that was trained in it gets no space of its
            own; None: no checkpoint gets one.
        class_names: names of the dataset's classes; empty: the order of classes is not compared.
        facts: those of `facts_of`, if it was asked for the same dataset before; None: asks it.

    Raises UserError for an unknown architecture or argument, a value or ROI the network refuses, a contradiction with
    the checkpoint's metadata, or code that is not trusted; CheckpointError for a checkpoint that is missing, unreadable
    or does not fit.
    """
    facts = facts or facts_of(entry, num_classes, num_channels, class_names)
    if facts.class_map:
        outputs = facts.num_classes or entry.num_outputs(num_classes, entry.head(facts.outputs))
        entry = entry.model_copy(update={"class_map": facts.class_map, "classes": outputs})
    source = source_of(facts.arch)
    adapter = facts.input.merge_input(entry.input)
    head = entry.head(facts.outputs)
    outputs = entry.num_outputs(num_classes, head) or facts.num_classes
    if outputs is None:
        raise UserError(f"{entry.name}: classes: required beside class_map, as {entry.path} does not state them")
    if not source.is_checkpoint:  # whose weights are compared with their network
        _require_counts(entry, facts, outputs, num_channels)
    stated = _job_fields(entry)
    method = stated["method"] or facts.metadata.training.method or None
    trained_roi = adapter.volume_order(facts.roi) if facts.roi else DEFAULT_ROI
    own_space = _space(entry, facts, space)
    # The job's window is no whole volume.
    sliding = {**facts.inference, **({"whole": ""} if entry.roi else {})}
    inference = entry.inference or validate(sliding, Inference, where=entry.name)
    class_map = entry.merged_classes(num_classes, outputs, head)
    draft = ModelSpec(
        **{**stated, **facts.origin, "method": method},
        num_classes=num_classes,
        num_channels=num_channels,
        roi=entry.roi or trained_roi,
        input=adapter,
        space=own_space,
        inference=inference,
        prefix=entry.prefix,
        head=head,
        class_map=class_map,
    )
    _require_agreement(draft, facts, entry)
    # The path of the local copy would change an error from node to node.
    with naming(facts.path, facts.checkpoint):
        spec = source.fit(source, draft, facts, entry)
    notes = _of_model(entry.name, spec.notes)
    found = _of_model(entry.name, spec.found)
    silent = frozenset(source.silent(spec.arch, spec.args))
    # Untrained weights have a clean Dice that nobody expects, and that stops no run.
    dice = None if spec.is_random else entry.expected_dice
    spec = replace(spec, checkpoint=facts.path, notes=notes, found=found, silent_args=silent, expected_dice=dice)
    return _examine_spec(spec)


def _of_model(name: str, lines: Sequence[str]) -> tuple[str, ...]:
    """Returns lines that begin with the model's name."""
    return tuple(f"{name}: {line}" for line in lines)


def _job_fields(entry: ModelEntry) -> dict[str, Any]:
    """Returns the fields of a spec that the job alone states."""
    fields = {name: getattr(entry, name) for name in ("name", "defence", "adaptive", "expected_dice")}
    training = entry.trained
    if training is None:
        return {**fields, "method": None}
    return {**fields, "training": training.identity, "method": training.method, "weights_sha256": training.weights}


def _require_counts(entry: ModelEntry, facts: Facts, outputs: int, num_channels: int) -> None:
    """Refuses a network whose files state other counts of classes and channels than the job wants."""
    wanting = "dataset" if entry.classes is None else "classes"
    theirs = facts.num_classes
    if theirs not in (None, outputs):
        advice = f"set classes: {theirs}"
        if entry.classes is None and theirs:
            advice = advice_on_classes(theirs, outputs, entry.head(facts.outputs))
        raise UserError(f"{entry.name}: {facts.path} has {theirs} output classes, {wanting} wants {outputs}: {advice}")
    if facts.num_channels != num_channels:
        raise UserError(
            f"{entry.name}: {facts.path} has {facts.num_channels} input channels, {wanting} wants "
            f"{num_channels}: take data or a network with as many"
        )


def _require_agreement(draft: ModelSpec, facts: Facts, entry: ModelEntry) -> None:
    """Refuses settings that contradict each other or what the files say, and keys for weights of another kind."""
    name = entry.name
    defence = entry.defence
    space = draft.space
    is_of_regions = draft.head == "sigmoid"
    if is_of_regions and isinstance(defence, RandomizedSmoothing):
        raise UserError(
            f"{name}: expected no {defence.name} around a network of regions, as it votes for one class a voxel: take "
            "smoothing, which certifies scores"
        )
    if is_of_regions and draft.takes_volumes:
        raise UserError(f"{name}: expected outputs: softmax for {draft.arch}, got sigmoid: it knows no regions")
    if isinstance(defence, RandomResizePad) and isinstance(space, Pipeline):
        raise UserError(
            f"{name}: expected no {defence.name} beside a pipeline of its own, as it moves the window from under "
            "what belongs to its place: take another defence, or a network without"
        )
    if isinstance(space, Pipeline):
        _require_no_other_input(name, entry.input, draft.inference)
    if isinstance(space, MonaiPipeline):
        space.bound(draft.num_channels)
    elif entry.channels is not None:
        raise UserError(f"{name}: expected no channels beside {facts.path}, which MONAI does not prepare: leave it out")
    for key, value in (("migration", entry.migration), ("prefix", entry.prefix)):
        if value is not None and (draft.is_random or key not in source_of(draft.arch).takes):
            raise UserError(
                f"{name}: {key}: expected none for {draft.arch} of {facts.path}, got {value}: it is for checkpoints of "
                f"{', '.join(MODELS)}"
            )
    for what in ("mean", "std"):
        value = getattr(draft.input, what)
        if isinstance(value, tuple) and len(value) != draft.num_channels:
            raise UserError(
                f"{name}: input.{what}: expected one number or {draft.num_channels} (one a channel), got {len(value)}: "
                "give as many"
            )


def _require_no_other_input(name: str, stated: InputAdapter | None, inference: Inference) -> None:
    """Refuses settings of the input beside a network's own pipeline, which makes it alone."""
    if stated and stated.model_fields_set:
        raise UserError(f"{name}: expected no input beside a pipeline of its own, got one: leave it out")
    if inference.padding == "volume":
        raise UserError(
            f"{name}: inference.padding: expected reflect, replicate or a number in the unit of its input, got volume, "
            "which a pipeline of its own does not make"
        )


def transforms_of(entry: ModelEntry) -> MonaiPipeline:
    """Returns the pipeline of an entry's `transforms`."""
    given = entry.transforms
    stated: dict[str, Any] = {"where": f"{entry.name}: transforms", "bounds": entry.bounds, "channels": entry.channels}
    if isinstance(given, list | tuple):
        return from_words(given, **stated)
    stated |= {"function": given} if isinstance(given, str) else {"compose": given}
    return MonaiPipeline(release=version("monai"), **stated)


def resolve_ensemble(entry: ModelEntry, members: Sequence[ModelSpec]) -> ModelSpec:
    """Resolves the mean of other models' probabilities, the `members`, to a spec with the settings of `entry`. Raises
    UserError if members differ in window, space, or, unless the job gives one, sliding window, or if one comes twice or
    has a random defence."""
    first = members[0]
    where = f"{entry.name}: ensemble"
    seen = set[str]()
    for member in members:
        name = member.name
        defence = member.defence
        if defence and defence.is_random:
            raise UserError(
                f"{where}: expected members without a random defence, got {name} with {defence.name}: put the defence "
                "around the ensemble"
            )
        if member.takes_volumes:
            raise UserError(f"{where}: expected networks, got {name}, a command: leave it out")
        if member.model_id in seen:
            raise UserError(f"{where}: expected each member once, got {name} twice")
        seen.add(member.model_id)
        for what in ("roi", "space") if entry.inference else ("roi", "space", "inference"):
            ours = getattr(first, what)
            theirs = getattr(member, what)
            if ours != theirs:
                raise UserError(
                    f"{entry.name}: expected members of the same {what}, got {ours} of {first.name} and {theirs} of "
                    f"{name}: state one for both"
                )
    fields = _job_fields(entry)
    if all(member.is_random for member in members):
        fields["expected_dice"] = None
    shared = {name: getattr(first, name) for name in ("num_classes", "num_channels", "roi", "head", "space")}
    names = " + ".join(member.name for member in members)
    are_nnunets = all(member.arch == "nnunet" for member in members)
    return ModelSpec(
        **fields,
        **shared,
        arch=ENSEMBLE,
        checkpoint=names,
        inference=entry.inference or first.inference,
        members=tuple(members),
        averages="logits" if are_nnunets else "probabilities",
        black_box=next((member.black_box for member in members if member.black_box), None),
    )


def resolve_network(
    net: nn.Module, entry: ModelEntry, num_classes: int | None, num_channels: int, device: torch.device | None
) -> tuple[ModelSpec, nn.Module]:
    """Checks a network that the caller has, and fixes its identity; one window of zeros shows the shape of its logits.

    Args:
        net: maps windows, as `entry.input` makes them, to logits; it stays as it is.
        entry: its settings; `checkpoint` means nothing.
        num_classes: classes that it should return, background included; None: as many as it returns.
        num_channels: channels of the volumes.
        device: device to compute on; None: the network's.

    Returns the spec, and a copy of the network on the device, in eval mode, its parameters without gradients. Raises
    UserError for a network that cannot be copied, does not take its window, or does not return logits of it.
    """
    name = entry.name
    roi = entry.roi or DEFAULT_ROI
    adapter = DEFAULT_INPUT
    inference = entry.inference or DEFAULT_INFERENCE
    space: AnySpace | None = entry.preprocess
    if entry.transforms is not None:
        pipeline = transforms_of(entry)
        adapter = adapter_of(pipeline)
        space = pipeline
        pipeline.bound(num_channels)
        _require_no_other_input(name, entry.input, inference)
    adapter = adapter.merge_input(entry.input)
    if next(net.parameters(), None) is None:
        raise UserError(f"{name}: expected a network with parameters, found none: add one")
    device = device or next(net.parameters()).device
    with refusing(f"{name}: expected a network that can be copied", (Exception,)):
        net = copy.deepcopy(net).requires_grad_(False)
    checkpoints.check_sound(name, net.state_dict())
    net = net.to(device).eval()
    code = identify(net).digest  # before a pass, after which it may hold what it computed
    head = entry.head(None)
    outputs = _outputs_of(net, name, adapter, (num_channels, *roi), head, device)
    wanted = entry.num_outputs(num_classes)
    if wanted not in (None, outputs):
        raise UserError(f"{name}: expected {wanted} output classes, got {outputs}: leave num_classes out, or fix it")
    kind = type(net)
    arch = f"{kind.__module__}:{kind.__qualname__}"
    sha256 = checkpoints.state_sha256(net.state_dict())
    spec = ModelSpec(
        **_job_fields(entry),
        num_classes=outputs + (head == "sigmoid"),
        num_channels=num_channels,
        roi=roi,
        inference=inference,
        head=head,
        arch=arch,
        code=code,
        checkpoint_sha256=sha256,
        input=adapter,
        space=space,
    )
    inputs = adapter.to_network(windows(num_channels, roi).to(device))
    return _add_findings(spec, examine(net, inputs, outputs, head)), net


def _outputs_of(
    net: nn.Module, name: str, adapter: InputAdapter, shape: Sequence[int], head: Outputs, device: torch.device
) -> int:
    """Counts a network's outputs by one window of zeros of a shape `[C, h, w, d]`; refuses what are no logits of it."""
    size = "x".join(map(str, shape))
    with torch.no_grad(), refusing(f"{name}: a window of {size} does not pass through it", (Exception,)):
        window = adapter.to_network(torch.zeros(1, *shape, device=device))
        version = window._version
        logits = net(window)
    if window._version != version:
        raise UserError(
            f"{name}: expected a network that leaves its input as it is, got one that writes into it: copy it"
        )
    least, parts = (1, "region") if head == "sigmoid" else (2, "classes")
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    sides = window.shape[2:]
    if not isinstance(got, tuple) or got[:1] + got[2:] != (1, *sides) or got[1] < least:
        raise UserError(
            f"{name}: expected logits of shape (1, K, {', '.join(map(str, sides))}) with {least} {parts} or more, got "
            f"{got}: wrap the network so that it returns them"
        )
    if not logits.is_floating_point() or logits.layout != torch.strided:
        raise UserError(
            f"{name}: expected dense logits of floating-point numbers, got {logits.dtype}, {logits.layout}: return the "
            "scores of classes"
        )
    return got[1]


def require_head(entry: ModelEntry, facts: Facts, dataset: str, classes: Classes) -> None:
    """Refuses a network of exclusive classes (by `entry`, else its `facts`) on a dataset of regions, and the other way
    round; `classes` are those of the dataset, whose name is `dataset`."""
    head = entry.head(facts.outputs)
    if head == classes.head:
        return
    if entry.outputs and facts.outputs not in (None, entry.outputs):
        advice = f"leave outputs out, as {facts.path} states {facts.outputs}"
    elif classes.overlap:
        advice = f"set outputs: sigmoid of the model if it has one output a region, else leave out regions of {dataset}"
    else:
        advice = f"state regions of {dataset}, one for each output, or outputs: softmax of the model"
    what = "regions" if classes.overlap else "exclusive classes"
    raise UserError(f"{entry.name}: expected outputs: {classes.head} for the {what} of {dataset}, got {head}: {advice}")


def stated_classes(entry: ModelEntry) -> int | tuple[str, ...] | None:
    """Returns the names of the classes that a model's files state, background first, else their number; None: neither.
    The entry's own `classes` and `class_map` come first. An ONNX file and a command are not run for it."""
    if entry.class_map is not None or entry.classes is not None:
        return entry.classes if entry.class_map is None else max(entry.class_map) + 1
    if source_of(entry.reader).weights is None:
        return None
    facts = facts_of(entry)
    outputs = facts.num_classes
    return facts.metadata.class_names or (outputs and outputs + (entry.head(facts.outputs) == "sigmoid"))


def match_names(
    name: str, path: str, trained: Sequence[str], class_names: Sequence[str]
) -> Mapping[int, tuple[int, ...]]:
    """Returns the class map that pairs a dataset's classes with a network's by name; empty if no name says another.

    Args:
        name: the model's, for messages.
        path: the file that names the network's classes, for messages.
        trained: names of the network's classes in the order of its outputs, background first.
        class_names: names of the dataset's classes, background first.

    Refuses names of which some stand elsewhere and others are the dataset's alone.
    """
    places = _moved_places([*map(plain_name, trained)], [*map(plain_name, class_names)])
    if None not in places[1:]:
        return {number: (place,) for number, place in enumerate(places) if number and place is not None}
    moved = next(number for number, place in enumerate(places) if place not in (None, number))
    known = ", ".join(f"{number}: [{_shown(place)}]" for number, place in enumerate(places) if number)
    raise UserError(
        f"{name}: expected the classes of {path}, {', '.join(trained)}, got {', '.join(class_names)}, where "
        f"{class_names[moved]} has another place: say which is which, as by class_map: {{{known}}}"
    )


def _moved_places(theirs: Sequence[str], ours: Sequence[str]) -> list[int | None]:
    """Returns the place of each of a dataset's names among a network's, None for a stranger; empty if none moved."""
    places = [theirs.index(each) if each in theirs else None for each in ours]
    is_clear = len(ours) == len(theirs) == len({*theirs}) == len({*ours})
    return places if is_clear and any(place not in (None, n) for n, place in enumerate(places)) else []


def _shown(place: int | None) -> str:
    """Returns a number as a line to paste has it; what no name decides cannot be pasted."""
    return "?" if place is None else str(place)


def shown_map(class_map: Mapping[int, Sequence[int]]) -> str:
    """Returns `class_map` (for each class of a dataset, the network's that are merged into it) as a job file has it."""
    return str({number: [*merged] for number, merged in class_map.items()})


def require_order(name: str, path: str, trained: Sequence[str], class_names: Sequence[str]) -> None:
    """Refuses a network whose outputs are the dataset's classes in another order: scores would be of other organs.
    `name`, `path`, `trained` and `class_names` are those of `match_names`."""
    if by_name := match_names(name, path, trained, class_names):
        raise UserError(
            f"{name}: expected the classes {', '.join(class_names)}, got a network of the same in another order, "
            f"{', '.join(trained)}, by {path}: give class_map={shown_map(by_name)}"
        )


def match_channels(
    name: str, path: str, trained: Sequence[str], channel_names: Sequence[str], space: AnySpace | None
) -> Mapping[str, int | Sequence[int]]:
    """Returns the dataset's channels for each key of a network's transforms, by the names of both sides; empty if none
    says another order, or the job says the channels.

    Args:
        name: the model's, for messages.
        path: the file that names the network's channels, for messages.
        trained: names of the network's channels in their order, by its files; empty: not stated.
        channel_names: names of the dataset's channels in their order.
        space: the network's way to its input; of MONAI's, the keys that its transforms join name channels too.

    Refuses another order where no transforms have keys, and moved names beside the dataset's own.
    """
    keys = space.keys.images if isinstance(space, MonaiPipeline) else ()
    if isinstance(space, MonaiPipeline) and space.channels is not None:
        return {}
    for theirs, of in ((trained, path), (keys, "the keys of its transforms")):
        if not (places := _moved_places([*map(channel_name, theirs)], [*map(channel_name, channel_names)])):
            continue
        order = [places.index(at) if at in places else None for at in range(len(places))]
        known = [at for at in order if at is not None]
        if len(known) == len(order) and len(keys) in (1, len(order)):  # else a key has several channels
            return {keys[0]: known} if len(keys) == 1 else dict(zip(keys, known, strict=True))
        advice = "list its files in that order, as by `loader: pairs` with a pattern for each in `image`"
        if len(keys) in (1, len(order)):
            shown = [*map(_shown, order)]
            bound = f"{keys[0]}: [{', '.join(shown)}]"
            if len(keys) > 1:
                bound = ", ".join(map(": ".join, zip(keys, shown, strict=True)))
            advice = f"say which is which, as by channels: {{{bound}}}"
        raise UserError(
            f"{name}: expected the channels {', '.join(theirs)}, the order of {of}, got {', '.join(channel_names)} "
            f"of the dataset: {advice}"
        )
    return {}


def shown_channels(bound: Mapping[str, int | Sequence[int]]) -> str:
    """Returns the channels that keys are `bound` to, as a job file has them."""
    return "{" + ", ".join(f"{key}: {at}" for key, at in bound.items()) + "}"


def are_strangers(trained: Sequence[str], channel_names: Sequence[str]) -> bool:
    """True if a network, by the names `trained`, and a dataset, by its `channel_names`, have several channels, each of
    a name of its own, and share none."""
    sides = [{*map(channel_name, names)} for names in (trained, channel_names)]
    return len(sides[0]) == len(trained) == len(sides[1]) == len(channel_names) > 1 and sides[0].isdisjoint(sides[1])


def channel_name(name: str) -> str:
    """Returns the name of a channel in one spelling, BraTS' by the year's own.

    >>> channel_name("T1Gd"), channel_name("flair"), channel_name("ADC")
    ('t1c', 't2f', 'adc')
    """
    plain = plain_name(name)
    return next((own for own, others in OF_BRATS.items() if plain in others), plain)


def plain_name(name: str) -> str:
    """Returns the name of a class or channel in one spelling."""
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def _path_of(entry: ModelEntry) -> str:
    """Returns the path of a model's files, variables filled in; for a network of the job, the planned weights."""
    name = entry.name
    trained = entry.trained
    if entry.is_to_train and not trained:
        raise UserError(
            f"{name}: expected the network of {entry.checkpoint} to be trained before the grid is made, got "
            "none: use freqbench run or freqbench.training.link"
        )
    path = storage.filled_in(str(entry.path), name)
    if trained:
        if not storage.exists(path):
            raise CheckpointError(
                f"{name}: expected the weights of {entry.checkpoint} at {path}, found none: freqbench run JOB "
                "trains them again"
            )
        weights = checkpoints.weights_sha256(path)
        if weights != trained.weights:
            raise CheckpointError(
                f"{name}: expected the weights of {entry.checkpoint} that were planned with (sha256 "
                f"{trained.weights[:12]}...), got others at {path} ({weights[:12]}...), as its training job was "
                "changed or carried out anew: put that file back, or freqbench run JOB for what is there now"
            )
    return path


def differ(one: Preprocess, other: Preprocess) -> bool:
    """True if two spaces, `one` and the `other`, scale intensities by other rules, however each is written."""
    return parse_intensity(one.intensity) != parse_intensity(other.intensity)


def _space(entry: ModelEntry, facts: Facts, dataset: AnySpace | None) -> AnySpace | None:
    """Returns the job's space for a model, else that of its source, unless freqbench trained it in the dataset's."""
    own = facts.space if dataset or not facts.is_own or isinstance(facts.space, Pipeline) else None
    if entry.bounds and not isinstance(own, Pipeline):
        raise UserError(f"{entry.name}: expected no bounds for {facts.path}, as it brings no pipeline: set intensity")
    if own and entry.preprocess and entry.input is None and not facts.takes_volumes:
        stated = own.intensity if isinstance(own, Preprocess) else "of its own pipeline"
        if not isinstance(own, Preprocess) or differ(own, entry.preprocess):
            raise UserError(
                f"{entry.name}: expected input beside preprocess, as that of {facts.path} is for the intensity "
                f"{stated}: state both"
            )
    # In the dataset's own space it has none, so that one network has one identity there.
    is_datasets = own and dataset and facts.is_own and own.identity() == dataset.identity()
    return entry.preprocess or (None if is_datasets else own)


def _examine_spec(spec: ModelSpec) -> ModelSpec:
    """Returns the spec with the findings on its network, examined once per node; refuses a network at fault."""
    # The construction of freqbench's own networks shows that they return logits of each window by itself.
    if source_of(spec.arch).is_known and "track_running_stats" not in str(spec.args):
        return spec

    def examine_model() -> Examination:
        model = load(spec, torch.device("cpu"))
        inputs = model.adapter.to_network(windows(spec.num_channels, spec.roi))
        return examine(model.net, inputs, spec.num_outputs, spec.head)

    return _add_findings(spec, EXAMINATIONS.get(examine_model, model=spec.model_id))


def _add_findings(spec: ModelSpec, result: Examination) -> ModelSpec:
    if result.fault:
        raise UserError(f"{spec.name}: {result.fault}")
    notes = (*spec.notes, *_of_model(spec.name, result.notes))
    return replace(spec, yields=result.yields, singly=result.singly, caution=result.caution, notes=notes)


def scoring_concerns(
    model: ModelSpec, facts: Facts, dataset: str, class_names: Sequence[str], refs: Sequence[CaseRef], space: AnySpace
) -> Iterator[str]:
    """Yields one line per reason to doubt scores of a model on cases of a dataset.

    Args:
        model: spec of the model.
        facts: those of its files.
        dataset: name of the dataset.
        class_names: names of the dataset's classes, background first.
        refs: the cases that are scored.
        space: preprocessing of the dataset.
    """
    metadata = facts.metadata
    trained = metadata.preprocess
    if trained and model.space == trained and isinstance(space, Preprocess) and differ(trained, space):
        yield (
            f"{model.name}: expected the intensity {trained.intensity} that it was trained on, got {space.intensity} "
            f"of {dataset}: it is attacked and scored in the space of its training; give {dataset} the same, or state "
            "preprocess and input of the model"
        )
    if facts.class_names:
        yield from _name_concerns(model, facts.class_names, dataset, class_names)
    scored = {ref.fingerprint for ref in refs}
    seen = {role: len(scored.intersection(taught)) for role, taught in metadata.training.fingerprints}
    shares = [f"{count} of {len(refs)} cases of {dataset} {SHARE[role]}" for role, count in seen.items() if count]
    if shares:
        yield f"{model.name}: {' and '.join(shares)}: scores on them are flattered"


def _name_concerns(model: ModelSpec, names: Sequence[str], dataset: str, class_names: Sequence[str]) -> Iterator[str]:
    """Yields lines on classes that a model's files and a dataset call otherwise."""
    groups: Sequence[Sequence[int]] = model.class_map or [(number,) for number in range(len(names))]
    called = dict(enumerate(names))  # by the network's output
    if model.class_map and model.head == "sigmoid":  # of regions, the background has no output
        called = dict(enumerate(names, -1))
        groups = [(-1,), *groups[1:]]
    merged = []  # for each class, the names of those that are merged into it
    for group in groups:
        merged.append([called[number] for number in group if number in called])
    pairs = list(zip(merged, class_names, strict=False))  # of the classes that both sides name
    if pairs and len(merged) != len(class_names):
        yield (
            f"{model.name}: its files name {len(merged)} classes, {dataset} has {len(class_names)}: only the first "
            f"{len(pairs)} are compared by name: check the others"
        )
    others = [
        (theirs[0], ours)
        for number, (theirs, ours) in enumerate(pairs)
        if theirs and plain_name(ours) not in map(plain_name, theirs) and ours != f"class {number}"
    ]
    if others:
        theirs, ours = others[0]
        yield (
            f"{model.name}: {len(others)} of its {len(pairs)} classes are called otherwise in {dataset} (first: "
            f"{theirs!r} there is {ours!r} here): check that they are the same"
        )


def file_concerns(model: ModelSpec) -> Iterator[str]:
    """Yields a line on a model whose labels alone go to the grids of files; refuses one that has no scores there."""
    if model.votes:
        raise UserError(f"{model.name}: {VOTES_ON_GRID}")
    if model.takes_volumes:
        yield (
            f"{model.name}: says labels alone: {ScoredOn.FILE.key} takes the nearest of them for each voxel of a file, "
            "where logits of others are interpolated"
        )


def axes_notes(model: ModelSpec, facts: Facts, dataset: str, refs: Sequence[CaseRef]) -> Iterator[str]:
    """Yields a line on the axes that a network (an ensemble: its first member) is assumed to take, and the files'.
    `facts` are the model's, `refs` the cases of the dataset of the name `dataset`."""
    if facts.knows_axes:
        return
    first = model.members[0] if model.members else model
    counts = Counter(ref.axes for ref in refs)
    files = f"files of {dataset} lie towards {', '.join(f'{codes} ({count})' for codes, count in counts.items())}"
    if first.input.is_of_file:
        yield f"{model.name}: is given each file as it lies, its axes in the order {first.input.axes}: {files}"
    elif first.input.axes != DEFAULT_INPUT.axes:
        yield f"{model.name}: is assumed to take axes towards {first.input.codes}; each file is turned to them: {files}"
    elif counts.keys() != {"RAS"}:
        yield (
            f"{model.name}: is assumed to take axes towards RAS; each file is turned to them: {files}: set input: "
            "{axes: IJK} if it was trained on files as they lie"
        )
