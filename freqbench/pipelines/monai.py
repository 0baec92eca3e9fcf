"""Runs a pipeline of MONAI's transforms by MONAI's parser, `Compose` and inverse. Cardoso et al., arXiv:2211.02701."""

import pkgutil
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from freqbench.core import plugins
from freqbench.core.code import Code, identify
from freqbench.core.errors import CheckpointError, DataError, UserError, one_line
from freqbench.core.identity import digest
from freqbench.core.input_space import file_codes, orient, ras_order, turned_affine
from freqbench.core.limits import whole
from freqbench.core.types import NO_LABEL, NativeCase, Outputs, Shape, Spacing, triple
from freqbench.ops.regions import codes_of
from freqbench.pipelines import pipeline
from freqbench.pipelines.pipeline import Facts, Maps, Pipeline, PreparedInput, line_of, own_bounds, quiet, running

# Transforms that read files or convert types: freqbench hands over what they would make, but for what `_standing` says.
NEUTRAL = ("LoadImage", "EnsureChannelFirst", "AddChannel", "AsChannelFirst", "EnsureType", "ToTensor", "ToDevice")
_COMPOSES = ("Compose", "monai.transforms.Compose", "monai.transforms.compose.Compose")
_EXPECTED = "a Compose of MONAI's transforms"
_ADVICE = "give a function that returns MONAI's, with steps of another package in a class of your own"
_READING = NEUTRAL[:2]  # those that make an array of a file, channels first
_DROPPED = ("AddChannel", "AsChannelFirst", "ToDevice")  # those of them that MONAI has no more, or need a device
_VOLUMES = (".nii", ".gz", ".nrrd", ".mha", ".mhd")  # ends of files that hold a whole volume each
# Arguments of MONAI's readers that turn the array, with the values at which it is as in the file.
_TURNS = {"reverse_indexing": False, "swap_ij": True, "affine_lps_to_ras": True}
_TYPES = re.compile(r"\$\s*(torch|np|numpy)\.([a-z]+\d*)\s*")  # an expression that names a type, and runs nothing
_WRITING = ("SaveImage", "SaveClassification")  # steps after the network that write files
_IMAGE = "image"
_PRED = "pred"
_LABELS = ("label", "labels", "seg", "mask", "segmentation")  # names of a label map's key in MONAI's tutorials
_BRATS = ("tumor core", "whole tumor", "enhancing tumor")
_MOVING = ("ConcatItems", "CopyItems", "DeleteItems", "SelectItems")  # steps that move keys, and no intensities
_SILENT = (*_MOVING, *NEUTRAL)  # steps that say nothing of bounds and of a label's numbers
INPUTS = "_meta_::network_data_format::inputs"  # id of a network's inputs by name, in the metadata of its bundle
_BEFORE = "preprocessing"
_STEPS = f"{_BEFORE}::transforms"
_AFTER = "postprocessing"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Values of a configuration by their id, such as `network_def::out_channels`, as MONAI's parser names them."""

    where: str  # the file, or the place in a job, for errors
    content: Mapping[str, Any]

    def find(self, id: str, seen: tuple[str, ...] = ()) -> Any:
        """Returns the value of an id, its own reference resolved but not those inside it; None if absent. `seen` are
        the ids whose references led here."""
        if id in seen:
            raise CheckpointError(f"{self.where}: {seen[0]} refers to itself: {' > '.join((*seen, id))}")
        parent, _, last = id.rpartition("::")
        holder = self.find(parent, seen) if parent else self.content
        node = None
        if isinstance(holder, Mapping):
            node = holder.get(last)
        elif isinstance(holder, list) and (i := whole(last)) is not None and i < len(holder):
            node = holder[i]
        if not isinstance(node, str) or not node.startswith(("$", "@", "%")):
            return node
        if node.startswith("$"):
            plugins.require_trust(f"{self.where}: {id} is the expression {' '.join(node.split())}")
            return self.parse(id)
        target = self.find(node[1:].replace("#", "::"), (*seen, id))
        if target is None:
            raise CheckpointError(f"{self.where}: {id} refers to {node}, which is not in the file")
        return target

    def value(self, id: str) -> Any:
        """Returns the value of an id with all references inside it resolved; an object that has to be made needs
        trust."""
        node = self.find(id)
        if isinstance(node, Mapping):
            if "_target_" in node:
                plugins.require_trust(f"{self.where}: {id} is an object of {node['_target_']}")
                return self.parse(id)
            return {key: self.value(f"{id}::{key}") for key in node}
        return [self.value(f"{id}::{i}") for i in range(len(node))] if isinstance(node, list) else node

    @cached_property
    def code_texts(self) -> tuple[str, ...]:
        """Its expressions and the paths of its classes, which run code."""
        found = set[str]()
        waiting: list[Any] = [self.content]
        while waiting:
            value = waiting.pop()
            if isinstance(value, Mapping):
                found.add(str(value.get("_target_", "")))
                waiting += value.values()
            elif isinstance(value, list | tuple):
                waiting += value
            elif isinstance(value, str) and value.startswith("$"):
                found.add(value)
        return tuple(sorted(found))

    def items(self, id: str) -> list[str]:
        """Returns the ids of the items of the list under an id; an empty list if there is no list."""
        node = self.find(id)
        return [f"{id}::{i}" for i in range(len(node))] if isinstance(node, list) else []

    def parse(self, id: str) -> Any:
        """Returns an id's value from MONAI's parser; this runs the bundle's code, and so needs trust."""
        plugins.require_trust(f"{self.where}: {id}")
        try:
            return self._parser.get_parsed_content(id)
        except Exception as error:  # noqa: BLE001 (a configuration's code may raise anything)
            advice = "if it needs modules of the bundle, put its folder on PYTHONPATH"
            raise CheckpointError(f"{self.where}: {id} cannot be resolved: {one_line(error)}: {advice}") from None

    @cached_property
    def _parser(self) -> Any:
        from monai.bundle import ConfigParser

        return ConfigParser(dict(self.content))


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Keys of the dictionary that transforms work on."""

    out: str | None  # key of the network's input; None: they take the image itself
    images: tuple[str, ...] = ()  # keys of a case's channels that it is made of, in the order in which they are joined
    label: str | None = None  # key of the label map; None: nothing says which it is


@dataclass(frozen=True, kw_only=True)
class MonaiPipeline(Pipeline):
    """A `Compose` of MONAI's, stated in the words of a bundle, by a function's path, or as the object itself."""

    kind = toolchain = "monai"

    config: Mapping[str, Any] | None = field(default=None, repr=False)  # `preprocessing` and others, as in a bundle
    function: str | None = None  # `module:function` that returns the Compose; needs trust
    compose: Any = field(default=None, repr=False)  # of a Python call
    channels: Mapping[str, int | Sequence[int]] | None = None  # of each key; None: joined in order
    where: str = field(default="transforms", compare=False)  # in the job or file, for errors

    @property
    def described(self) -> Mapping[str, Any]:
        """The words in short, the identity of the code of others in them, and the keys that it joins."""
        if self.config is not None:
            runs_code = plugins.is_trusted() and (self.code.modules or self.code.files)
            code = {"code": self.code.digest} if runs_code else {}
            return {"words": self._words, **code, **self._binding, **self._readings}
        if self.function is not None:
            return {"function": self.function, "code": digest([self.code.digest, self._called[1]]), **self._binding}
        return {"code": self.code.digest, **self._binding}

    @property
    def _binding(self) -> dict[str, Any]:
        """The channels of each key, unless one key has all, and what tells its Compose from a plain one."""
        stated = self.channels or dict(zip(self.keys.images, range(len(self.keys.images)), strict=True))
        bound = {key: [*np.atleast_1d(at).tolist()] for key, at in stated.items()}
        is_plain = len(bound) < 2 and self.channels is None
        return {**({} if is_plain else {"channels": bound}), **({"lazy": True} if self._compose.lazy else {})}

    @property
    def _readings(self) -> dict[str, str]:
        """Mark of words of loading, types or texts that switch steps off, which earlier releases left out."""
        config = Config(where=self.where, content=self.config or {})
        texts = [id for id in config.items(_STEPS) if isinstance(config.find(f"{id}::_disabled_"), str)]
        has_effects = any(is_neutral(step) and [*_standing(step)] for step in self._made.transforms)
        return {"read": "as MONAI does"} if texts or has_effects else {}

    @property
    def code(self) -> Code:
        """Identity of the steps that make the network's input, or lead back from its output, as they are now."""
        own = (step for step in self.steps if {*getattr(step, "keys", ())} != {self.keys.label})
        texts = Config(where=self.where, content=self.config).code_texts if self.config else ()
        return identify((*own, self._own_steps), texts)

    @cached_property
    def _words(self) -> str:
        return digest({key: value for key, value in (self.config or {}).items() if key != "bundle_root"})

    @cached_property
    def _called(self) -> tuple[Any, str]:
        """Result of its function, and the identity that the function had then."""
        plugins.require_trust(path := str(self.function))
        try:
            function = pkgutil.resolve_name(path)
        except Exception as error:  # noqa: BLE001 (importing a module runs it, and it may raise anything)
            raise UserError(f"{path}: expected an importable function, got {one_line(error)}: fix PYTHONPATH") from None
        code = identify(function).digest
        return function(), code

    @cached_property
    def _parsed(self) -> Any:
        """MONAI's parser of the configuration, without the steps that files need."""
        from monai.bundle import ConfigParser

        config = Config(where=self.where, content=self.config or {})
        parts = [part for part in (_BEFORE, _AFTER) if isinstance(config.find(part), Mapping)]
        made = {}
        for part in parts:
            if (target := str(config.find(f"{part}::_target_"))) not in _COMPOSES:
                raise UserError(f"{self.where}: {part}: expected {_EXPECTED}, got {target}: {_ADVICE}")
            names = ("lazy", "overrides", "map_items", "unpack_items")
            settings = {name: value for name in names if (value := config.value(f"{part}::{name}")) is not None}
            entries = _kept_entries(config, part, None if part == _BEFORE else _PRED)
            made[part] = {"_target_": "Compose", "transforms": entries, **settings}
        return ConfigParser({**config.content, **made})

    @cached_property
    def _made(self) -> Any:
        """The transforms before the network as their author has them, nested ones in line."""
        from monai.transforms import Compose

        with running(f"{self.where}: MONAI cannot make them", UserError), quiet():
            if self.config is not None:
                made = self._parsed.get_parsed_content(_BEFORE)
            else:
                made = self.compose if self.function is None else self._called[0]
        if not isinstance(made, Compose):
            got = f"got {type(made).__name__} of {type(made).__module__}"
            raise UserError(f"{self.where}: expected {_EXPECTED}, {got}: {_ADVICE}")
        flat = made.flatten()
        if self.config is not None:  # for an `Invertd` of its own
            made.transforms = tuple(chain.from_iterable(map(_standing, flat.transforms)))
        return flat

    @cached_property
    def _compose(self) -> Any:
        """The transforms before the network, but for those that freqbench stands for; refuses a random one."""
        from monai.transforms import Compose, RandomizableTrait

        kept = [*chain.from_iterable(map(_standing, self._made.transforms))]
        for step in kept:
            if isinstance(step, RandomizableTrait):
                got = f"got {type(step).__name__}: leave it out, as a network is deployed without augmentation"
                raise UserError(f"{self.where}: expected transforms that draw nothing, {got}")
            if hasattr(step, "allow_missing_keys"):
                step.allow_missing_keys = True
        own = {name: getattr(self._made, name) for name in ("map_items", "unpack_items", "lazy", "overrides")}
        return Compose(kept, **own)

    @property
    def steps(self) -> tuple[Any, ...]:
        """The transforms before the network; raises UserError for a random one."""
        return tuple(self._compose.transforms)

    @cached_property
    def keys(self) -> Keys:
        """Keys of images and label, as the steps name them; raises UserError if several may be the network's input."""
        config = Config(where=self.where, content=self.config or {})
        made_of = self._made_of()
        if not made_of:
            return Keys(out=None)
        joined = [step.name for step in self.steps if short(type(step).__name__) == "ConcatItems"][-1:]
        others = [name for name in made_of if name not in _LABELS and name in (self.channels or made_of)]
        if _IMAGE in made_of and (not joined or _IMAGE not in made_of[joined[0]]):
            joined = [_IMAGE]
        stated = config.find(INPUTS) if self.channels is None else None
        found = joined or [name for name in made_of if isinstance(stated, Mapping) and name in stated] or others
        if found[1:]:
            advice = f"set channels of the model, such as channels: {{{others[0]}: 0}}, or join them by ConcatItemsd"
            raise UserError(f"{self.where}: expected one key of the network's input, got {', '.join(others)}: {advice}")
        out = (found or [*made_of])[0]
        self._require_no_label({out, *made_of[out]}, made_of)
        files = [name for name in dict.fromkeys(chain.from_iterable(made_of.values())) if name not in made_of[out]]
        label = next((name for name in files if name in _LABELS), files[0] if len(files) == 1 else None)
        return Keys(out=out, images=made_of[out], label=label)

    def _made_of(self) -> dict[str, tuple[str, ...]]:
        """Returns for each key of the steps those of the files that it is made of."""
        loaded = [key for step in self._made.transforms for key in getattr(step, "keys", ())]
        made_of: dict[str, tuple[str, ...]] = {name: (name,) for name in map(str, loaded)}
        for step in self.steps:
            for name in getattr(step, "keys", ()):
                made_of.setdefault(name, (name,))
            for name, of in _moves(step):
                made_of[name] = tuple(dict.fromkeys(chain.from_iterable(map(made_of.__getitem__, of))))
        return made_of

    def _require_no_label(self, images: Collection[str], made_of: Mapping[str, tuple[str, ...]]) -> None:
        """Refuses a crop by a key that is not made of those of `images` alone."""
        for step in self.steps:
            by = getattr(step, "source_key", None)
            if by is not None and not {*made_of.get(by, (by,))} <= {*images}:
                got = f"got {type(step).__name__} by {by}: crop by the image, or leave it out"
                raise UserError(f"{self.where}: expected crops that need no label, as a new file has none, {got}")

    def bound(self, num_channels: int) -> dict[str, list[int]]:
        """Returns the data's channels, of `num_channels`, of each key of an image; raises UserError unless each has its
        place."""
        images = self.keys.images or (_IMAGE,)
        if self.channels is None:
            if len(images) == 1:
                return {images[0]: [*range(num_channels)]}
            found = {key: [at] for at, key in enumerate(images)}
        else:
            found = {key: np.atleast_1d(at).tolist() for key, at in self.channels.items()}
        if found.keys() != {*images} or sorted(chain.from_iterable(found.values())) != [*range(num_channels)]:
            got = ", ".join(f"{key}: {at[0] if len(at) == 1 else at}" for key, at in found.items())
            advice = ", ".join(f"{key}: {at}" for at, key in enumerate(images))
            raise UserError(
                f"{self.where}: expected the {num_channels} channels of the data, each once, under the keys "
                f"{', '.join(images)}, got {{{got}}}: set channels of the model, such as channels: {{{advice}}}"
            )
        return {key: found[key] for key in images}

    def _run(self, sample: Any, steps: Any = None) -> Any:
        """Returns what the whole Compose makes of an image or a dictionary; an error names the step."""
        try:
            return (steps or self._compose)(sample)
        except RuntimeError as error:
            step = re.search(r"applying transform <?[\w.<>]*?(\w+) object", str(error))
            if step is None or error.__cause__ is None:
                raise
            raise RuntimeError(f"{step[1]} cannot be run: {one_line(error.__cause__)}") from error

    def codes_of(self, codes: str) -> str:
        """Returns the directions of the network's axes for a file whose axes lie towards `codes`."""
        return self._dry((8, 8, 8), (1.0, 1.0, 1.0), codes)[1]

    def shape_of(self, shape: Shape, spacing: Spacing, codes: str) -> Shape:
        """Returns the shape along RAS axes after the transforms of space, run on no voxels, for a file of this shape
        and spacing (mm), whose axes lie towards `codes`; crops to the foreground are left out."""
        made, towards = self._dry(shape, spacing, codes)
        return ras_order(made, towards)

    def _dry(self, shape: Shape, spacing: Spacing, codes: str) -> tuple[Shape, str]:
        """Returns the shape and directions that the transforms of space lead to, by MONAI's lazy evaluation."""
        from monai.data import MetaTensor
        from monai.transforms import LazyTrait

        affine = turned_affine(np.diag([*spacing, 1.0]), shape, "RAS", codes)
        image: Any = MetaTensor(orient(torch.zeros(1).expand(1, *shape), "RAS", codes), affine=torch.from_numpy(affine))
        with running(f"{self.where}: MONAI's transforms refuse a volume", UserError):
            sample = image if self.keys.out is None else dict.fromkeys(self.keys.images, image)
            for step in self.steps:
                if isinstance(step, LazyTrait) and not step.requires_current_data:
                    sample = step(sample, lazy=True)
                for name, (of, *_) in _moves(step):
                    sample = {**sample, **({name: sample[of]} if of in sample else {})}
            image = sample if self.keys.out is None else sample[self.keys.out]
            return triple(map(int, image.peek_pending_shape())), file_codes(image.peek_pending_affine().numpy())

    @property
    def stated_bounds(self) -> tuple[tuple[float, float] | None, ...]:
        """Bounds of the channels of each joined key, or once of every channel, as their last transform states them."""
        return tuple(self._stated_bounds_of(key) for key in self.keys.images or (None,))

    def _stated_bounds_of(self, key: str | None) -> tuple[float, float] | None:
        from monai.transforms import LazyTrait

        of_key = [s for s in self.steps if key is None or {key, self.keys.out} & {*getattr(s, "keys", (key,))}]
        of_intensities = [s for s in of_key if not isinstance(s, LazyTrait) and short(type(s).__name__) not in _SILENT]
        if not of_intensities:
            return None
        last = of_intensities[-1]  # of a dictionary, around the transform of an array
        step: Any = getattr(last, "normalizer", getattr(last, "scaler", last))
        match short(type(last).__name__):
            case "NormalizeIntensity" if step.subtrahend is step.divisor is None:
                return -pipeline.DEVIATIONS, pipeline.DEVIATIONS
            case "ScaleIntensityRange" | "ScaleIntensityRangePercentiles" if step.clip:
                ends = step.b_min, step.b_max
                return None if None in ends or getattr(step, "relative", False) else ends
            case _:
                return None

    @property
    def own_rule(self) -> str:
        """Words on its bounds, by key where several are joined."""
        words = ["its own ends" if ends is None else f"[{ends[0]:g}, {ends[1]:g}]" for ends in self.stated_bounds]
        return ", ".join(map(" of ".join, zip(words, self.keys.images, strict=True))) if len(words) > 1 else words[0]

    @property
    def rule(self) -> str:
        """Sentence on its bounds, and on keys that take the data's channels unsaid."""
        images = self.keys.images
        if self.channels is not None or len(images) < 2:
            return super().rule
        order = ", ".join(f"{key}: {at}" for at, key in enumerate(images))
        return f"{super().rule}; its keys are taken for the channels of the data in order, channels: {{{order}}}"

    def prepare(self, native: NativeCase) -> PreparedInput:
        """Prepares the volume of a file, `native`, by the transforms; `fixed` voxels lie outside of it, or at 0 off the
        file's line."""
        from monai.data import MetaTensor
        from monai.transforms import SpatialResample

        made = self._apply(native)
        self._require_same_reading(native, made)
        data = made.as_tensor().float().contiguous()

        def to_grid(volume: Tensor, mode: str, padding: str) -> Tensor:
            """Returns a volume of the file on the prepared grid, by a mode of interpolation and of padding."""
            at = MetaTensor(volume.float(), affine=torch.from_numpy(native.affine))
            resample = SpatialResample(mode=mode, padding_mode=padding, dtype=torch.float64)
            return resample(at, dst_affine=made.affine, spatial_size=made.shape[1:]).as_tensor().float()

        count = len(data)
        if self.bounds is not None and len(self.bounds) != count:
            raise UserError(f"bounds: expected one pair for each of the {count} channels, got {len(self.bounds)}")
        ends: Sequence[tuple[float, float] | None] = self.bounds or [*self.stated_bounds] * count
        if self.bounds is None and self.keys.images:
            pairs = zip(self.stated_bounds, self.bound(count).values(), strict=True)
            ends = [of_key for of_key, channels in pairs for _ in channels]
        bounds = own_bounds(native.source, data, ends)
        order = [*chain.from_iterable(self.bound(len(data)).values())]
        raw = to_grid(native.image[order], "bilinear", "border")
        lines = tuple(map(line_of, raw.numpy(), data.numpy()))
        outside = to_grid(torch.ones(1, *native.image.shape[1:]), "nearest", "zeros") < 0.5
        fixed = torch.stack([outside[0] | _filled_voxels(*each) for each in zip(raw, data, lines, bounds, strict=True)])
        return PreparedInput(
            data=data,
            label=to_grid(native.label, "nearest", "zeros").round().to(torch.uint8),
            codes=file_codes(made.affine.numpy()),
            affine=made.affine.numpy().astype(np.float64),
            bounds=bounds,
            lines=lines,
            fixed=fixed if fixed.any() else None,
            facts={"affine": made.affine.tolist(), "trace": _plain(made.applied_operations)}
            | ({} if order == sorted(order) else {"channels": order}),
        )

    @cached_property
    def _read_kinds(self) -> set[tuple[str, str]]:
        """Ends of names, and axes, of the files whose reading was compared with MONAI's."""
        return set()

    def _require_same_reading(self, native: NativeCase, made: Any) -> None:
        """Refuses a file whose reading by the stated steps leads to another input than `made`, `[C, *grid]`; compares
        the first file of each format and orientation."""
        from monai.transforms import Compose

        file = Path(native.source)
        kind = (file.suffix, file_codes(native.affine))
        stated = [step for step in self._made.transforms if short(type(step).__name__) in _READING]
        loaders = deepcopy(stated)  # a caller's own stay as they are
        is_new = kind not in self._read_kinds and file.suffix in _VOLUMES and file.is_file()
        if not (loaders and is_new and len(self.keys.images) == 1):
            return
        self._read_kinds.add(kind)
        (key,) = self.keys.images
        for step in loaders:
            step.allow_missing_keys = True
        try:
            with quiet():
                read = Compose(loaders)({key: native.source})[key]
        except Exception:  # noqa: BLE001 (what MONAI cannot read is no input of its)
            return
        if len(read) != len(native.image):  # one file of several
            return
        sample = self._sample(native)
        if not _difference(read, sample[key]):
            return
        with running(f"{native.source}: MONAI's transforms refuse it"):
            theirs = self._run({**sample, key: read[self.bound(len(read))[key]]})[self.keys.out]
        if found := _difference(theirs, made):
            rest = "write the file as its steps of loading make it, and leave them out"
            raise DataError(f"{native.source}: expected the input of MONAI's own reading, got other {found}: {rest}")

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names of the regions that a transform makes of labels, whatever their numbers; empty: it says none."""
        last = short(type(self._steps_of_labels[-1]).__name__) if self._steps_of_labels else ""
        return _BRATS if last == "ConvertToMultiChannelBasedOnBratsClasses" else ()

    @property
    def _steps_of_labels(self) -> list[Any]:
        """The transforms that change what the label's numbers mean."""
        from monai.transforms import LazyTrait

        of_label = [step for step in self.steps if self.keys.label in getattr(step, "keys", ())]
        return [s for s in of_label if not isinstance(s, LazyTrait) and short(type(s).__name__) not in _SILENT]

    def relabel(self, native: NativeCase) -> Tensor | None:
        """Returns the label map of a file, `native`, `[L, H, W, D]`, as the transforms change its numbers; None if none
        does."""
        from monai.data import MetaTensor
        from monai.transforms import Compose

        key = self.keys.label
        steps = self._steps_of_labels
        if key is None or not steps or native.values is None:
            return None
        with running(f"{native.source}: MONAI's transforms refuse its label"):
            label = MetaTensor(native.file_numbers().float(), affine=torch.from_numpy(native.affine))
            made: Tensor = self._run({key: label}, Compose(steps))[key].as_tensor()
        return made

    def again(self, attacked: NativeCase, clean: PreparedInput) -> Tensor:
        """Prepares an attacked volume, and brings it to the clean one's grid where a crop follows the voxels."""
        from monai.transforms import SpatialResample

        made = self._apply(attacked)
        affine = torch.from_numpy(clean.affine)
        if made.shape != clean.data.shape or not torch.allclose(made.affine, affine):
            made = SpatialResample(padding_mode="border", dtype=torch.float64)(made, affine, clean.data.shape[1:])
        return made.as_tensor().float().contiguous()

    def _apply(self, native: NativeCase) -> Any:
        """Returns the MetaTensor `[C, *grid]` that the transforms make of a file's volume."""
        from monai.data import MetaTensor

        with running(f"{native.source}: MONAI's transforms refuse it"):
            sample = self._sample(native)
            made = self._run(sample) if self.keys.out is None else self._run(sample)[self.keys.out]
        if not isinstance(made, MetaTensor) or made.ndim != 4 or len(made) != len(native.image):
            got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            advice = "make more of a file's channel in a network of your own, as the budget is of that channel"
            rest = f"{len(native.image)} channels, got {got}: {advice}"
            raise DataError(f"{native.source}: expected transforms to make {rest}")
        return made

    def _sample(self, native: NativeCase) -> Any:
        """Returns what the transforms are given of a case: a MetaTensor `[C, H, W, D]`, or one for each key."""
        from monai.data import MetaTensor

        affine = torch.from_numpy(native.affine)
        keys = self.keys
        if keys.out is None:
            return MetaTensor(native.image.clone(), affine=affine)
        bound = self.bound(len(native.image))
        sample = {key: MetaTensor(native.image[at].clone(), affine=affine) for key, at in bound.items()}
        if keys.label is not None and not bool((native.label == NO_LABEL).all()):
            sample[keys.label] = MetaTensor(native.file_numbers().float(), affine=affine)
        return sample

    def restore(self, facts: Facts, logits: Tensor, head: Outputs, is_merged: bool, with_probabilities: bool) -> Maps:
        """Restores logits by the bundle's postprocessing, or, as merged ones, as MONAI's examples do: softmax or
        sigmoid, the inverted transforms (linear in probabilities), then argmax or a threshold of one half. `facts`,
        `head`, `is_merged` and `with_probabilities` are those of `Pipeline.restore`."""
        from monai.data import MetaTensor

        def to_network(volume: Tensor) -> Any:
            """Returns a volume `[K, *grid]` with the affine and the transforms that made its grid."""
            affine = torch.tensor(facts["affine"], dtype=torch.float64)
            return MetaTensor(volume, affine=affine, applied_operations=_back(facts["trace"]))

        own = None if is_merged else self._own_steps
        with running("MONAI's transforms cannot restore a prediction"):
            likely = to_network(logits.softmax(dim=0) if head == "softmax" else logits.sigmoid())
            key = self.keys.out
            for step in reversed(self.steps if own is None or with_probabilities else ()):
                key = next((of for name, (of, *_) in _moves(step) if name == key), key)
                if hasattr(step, "inverse"):
                    likely = step.inverse(likely) if key is None else step.inverse({key: likely})[key]
            made = likely
            if own is not None:
                image = to_network(torch.zeros(1, *logits.shape[1:]))
                images = dict.fromkeys([*self.keys.images, self.keys.out or _IMAGE], image)
                made = own({_PRED: MetaTensor(logits, affine=image.affine), **images})[_PRED]
        scores = made.as_tensor()
        probabilities = likely.as_tensor().float()
        if head == "sigmoid":
            labels = codes_of(scores > 0.5)
        else:
            labels = (scores[0] if len(scores) == 1 else scores.argmax(dim=0)).to(torch.uint8)
        return labels.contiguous(), probabilities if with_probabilities else None

    @cached_property
    def _own_steps(self) -> Any:
        """A bundle's own steps after the network; None if they do not lead back to the file."""
        self._made  # noqa: B018 (where its steps take the place of loading)
        after = self.config and self.config.get(_AFTER) and self._parsed.get_parsed_content(_AFTER)
        return after if after and any(short(type(step).__name__) == "Invert" for step in after.transforms) else None


def from_words(words: Sequence[Mapping[str, Any]], where: str, **stated: Any) -> MonaiPipeline:
    """Returns the pipeline of a list of `_target_` entries, `words`, as a bundle's `preprocessing` has them; `where` is
    their place in a job, for errors."""
    config = {_BEFORE: {"_target_": "Compose", "transforms": [*words]}}
    return MonaiPipeline(release=version("monai"), config=config, where=where, **stated)


def _filled_voxels(raw: Tensor, data: Tensor, line: pipeline.Line | None, bounds: tuple[float, float]) -> Tensor:
    """Returns the voxels that are 0 where the line leads elsewhere; none if 0 is a bound at which a pipeline clips."""
    low, high = bounds
    if line is None or not low < 0 < high:
        return torch.zeros_like(data, dtype=torch.bool)
    return (data == 0) & ((line.slope * raw + line.offset).abs() > pipeline.OFF_LINE * (high - low))


def short(name: str) -> str:
    """Returns `Spacing` for a `name` of `Spacingd`, `SpacingD`, `SpacingDict` and full names."""
    last = name.rpartition(".")[2]
    for suffix in ("Dict", "d", "D"):
        if last.endswith(suffix):
            return last.removesuffix(suffix)
    return last


def _moves(step: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields each key that a step makes, and those that it makes it of."""
    match short(type(step).__name__):
        case "ConcatItems":
            yield step.name, tuple(step.keys)
        case "CopyItems":
            yield from ((name, (key,)) for name, key in zip(step.names, step.keys * step.times, strict=True))


def name_of(config: Config, id: str) -> str:
    """Returns `Spacing` for an entry of `Spacingd` with this id in `config`, however it is written; empty for anything
    else."""
    definition = config.find(id)
    return short((definition.get("_target_") if isinstance(definition, Mapping) else None) or "")


def is_off(config: Config, id: str) -> bool:
    """True if MONAI's parser leaves the entry with this id in `config` out."""
    from monai.bundle import ConfigComponent

    return ConfigComponent({"_target_": "", "_disabled_": config.find(f"{id}::_disabled_")}).is_disabled()


def is_on(config: Config, id: str, key: str) -> bool:
    """True if the transform with this id in `config` works on the image or prediction of this key, or does not say on
    what."""
    keys = config.value(f"{id}::keys")
    return keys is None or key in ([keys] if isinstance(keys, str) else keys)


def _kept_entries(config: Config, part: str, key: str | None) -> list[dict[str, Any]]:
    """Returns the entries of a part (on a key alone), references resolved, without NEUTRAL ones; code needs trust."""
    import monai.transforms as known

    kept = []
    for id in config.items(f"{part}::transforms"):
        node = config.find(id)
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(f"{config.where}: {id}: expected an entry with _target_, got {node!r:.60}")
        package, _, last = str(node["_target_"]).rpartition(".")
        left_out = _DROPPED if part == _BEFORE else NEUTRAL
        if is_off(config, id) or short(last) in (*left_out, *_WRITING) or not (key is None or is_on(config, id, key)):
            continue
        if not isinstance(getattr(known, last, None), type) or not f"{package or 'monai'}.".startswith("monai."):
            plugins.require_trust(f"{config.where}: {id} is an object of {node['_target_']}")
        if {"_mode_", "_requires_"} & set(node):
            plugins.require_trust(f"{config.where}: {id} has _mode_ or _requires_")
        parsers = {name: node[name] for name in ("_mode_", "_requires_") if name in node}
        kept.append({"_target_": node["_target_"], **parsers, **_arguments(config, id, node)})
    return kept


def _arguments(config: Config, id: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the entry `node` with this id, references resolved; refuses what turns the array."""
    given = {name: value for name, value in node.items() if name != "device" and not name.startswith("_")}
    if "ITK" in str(given.get("reader")) and find_spec("itk") is None:  # MONAI's other readers take its place
        given.pop("reader")
    refers = f"@{_BEFORE}"
    plain = {key: value if value == refers else _argument(config, f"{id}::{key}") for key, value in given.items()}
    if turned := [name for name, usual in _TURNS.items() if plain.get(name, usual) is not usual]:
        advice = "leave it out, and state the turn as a step, such as Orientationd"
        raise UserError(f"{config.where}: {id}: expected axes as in the file, got {turned[0]}: {advice}")
    return plain


def _argument(config: Config, id: str) -> Any:
    """Returns the value of an argument with this id; an expression that names a type needs no trust."""
    parent, _, name = id.rpartition("::")
    value = config.find(parent)[name]
    named = _TYPES.fullmatch(value) if isinstance(value, str) else None
    return config.value(id) if named is None else getattr(torch if named[1] == "torch" else np, named[2])


def is_neutral(step: Any) -> bool:
    """True if a transform, `step`, reads files or converts types."""
    return short(type(step).__name__) in NEUTRAL


def _standing(step: Any) -> Iterator[Any]:
    """Yields a transform, or those that do what a NEUTRAL one does beside reading: RAS axes, and types but float32."""
    import monai.transforms as known
    from monai.utils.type_conversion import get_equivalent_dtype

    if not is_neutral(step):
        yield step
        return
    holder = getattr(step, "_loader", getattr(step, "converter", step))
    on, suffix = ({"keys": step.keys}, "d") if hasattr(step, "keys") else ({}, "")
    if any(getattr(reader, "as_closest_canonical", False) for reader in getattr(holder, "readers", ())):
        yield getattr(known, f"Orientation{suffix}")(**on, axcodes="RAS")
    dtype = getattr(step, "dtype", getattr(holder, "dtype", None))
    types = {get_equivalent_dtype(each, torch.Tensor) for each in (dtype if isinstance(dtype, tuple) else [dtype])}
    if types - {None, torch.float32}:
        yield getattr(known, f"EnsureType{suffix}")(**on, dtype=dtype)


def _difference(theirs: Any, ours: Any) -> str:
    """Returns in words how a MetaTensor `[C, *grid]` of MONAI's differs from one of freqbench's; empty if nothing."""
    for what, first, second in (
        ("voxels", theirs.as_tensor(), ours.as_tensor()),
        ("affine", theirs.affine, ours.affine),
    ):
        try:
            torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-4, equal_nan=True, check_dtype=False)
        except AssertionError as error:
            return f"{what}: {one_line(error)}"
    return ""


def _plain(value: Any) -> Any:
    """Returns MONAI's trace as plain data; the identities of transforms, of this process alone, are left out."""
    if isinstance(value, Tensor | np.ndarray):
        return {"tensor": torch.as_tensor(value).tolist()}
    if isinstance(value, Mapping):
        items = ((str(getattr(key, "value", key)), each) for key, each in value.items())
        return {key: "none" if key == "id" else _plain(each) for key, each in items}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    value = getattr(value, "value", value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _back(value: Any) -> Any:
    """Returns the trace that `_plain` wrote."""
    if isinstance(value, Mapping):
        if set(value) == {"tensor"}:
            return torch.tensor(value["tensor"], dtype=torch.float64)
        return {key: _back(each) for key, each in value.items()}
    return [_back(each) for each in value] if isinstance(value, list) else value
