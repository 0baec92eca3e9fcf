"""Reads nnU-Net v2 result folders: `plans.json`, `dataset.json` and `fold_N/checkpoint_final.pth`.
Isensee et al., Nature Methods 2021, arXiv:1904.08128; residual encoders: Isensee et al., MICCAI 2024, arXiv:2404.09556.
nnunetv2 prepares volumes, builds the network and restores its logits (`freqbench.pipelines.nnunet`). No code of a
folder is run: names in its files are looked up in nnunetv2's own tables, and checkpoints are read as weights.

**Orientation.** nnU-Net looks at array axes only. If its reader reorients (`NibabelIOWithReorient`,
`SimpleITKIOWithReorient`), the axes point right, anterior and superior (`RAS`). Otherwise (`SimpleITKIO`, `NibabelIO`)
the network is given each file's own array, whatever its orientation. TotalSegmentator turns images itself before
nnU-Net reads them: give `orientation: RAS`, unless its plans name a reader that reorients.

**Differs from nnU-Net:** sums over windows are float32 (there: float16)."""

import ast
import inspect
import os
import pkgutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt, field_validator
from torch import Tensor, nn

from freqbench.core import plugins
from freqbench.core.config import Strict, validate
from freqbench.core.errors import CheckpointError, UserError, one_line, unknown
from freqbench.core.files import programs
from freqbench.core.types import Outputs
from freqbench.models.checkpoints import files as checkpoints
from freqbench.models.entry import AXES, FILE_AXES, NNUNET, InputAdapter, ModelEntry
from freqbench.models.networks.construction import refusing
from freqbench.models.networks.slices import SLICES, Sliced
from freqbench.models.sources import source
from freqbench.models.sources.source import Facts, Metadata, Source
from freqbench.models.spec import ModelSpec
from freqbench.pipelines.nnunet import NnunetPipeline, pipeline_of, release
from freqbench.pipelines.pipeline import quiet

_PACKAGE = "dynamic_network_architectures"
_UNETS = f"{_PACKAGE}.architectures.unet"
_BLOCKS = ("BasicBlockD", "BottleneckD")
_TRAINERS = "nnunetv2.training.nnUNetTrainer"
_TRAINER = "nnUNetTrainer"
_EXTERNAL = "nnUNet_extTrainer"


class NnunetArgs(Strict):
    """Arguments of an nnU-Net folder in a job.

    `fold`: a number, `all` (the network of `fold_all`), or several, whose logits are averaged; None: every numbered
    fold there, as nnU-Net does, else `all`. `orientation`: one of R or L, one of A or P, one of S or I, towards which
    every image was turned before nnU-Net read it; None: RAS, or as it lies in its file, by the plans' image reader.
    """

    configuration: str | None = None  # of the plans; None: the one that the checkpoint was trained as
    fold: NonNegativeInt | Literal["all"] | tuple[NonNegativeInt, ...] | None = None
    checkpoint: str = Field(default="checkpoint_final.pth", pattern=r"^[^/\\]+$")
    orientation: str | None = None

    @field_validator("orientation")
    @classmethod
    def _check_orientation(cls, codes: str | None) -> str | None:
        if codes is not None:
            source.axes_towards(codes)
        return codes

    @field_validator("fold")
    @classmethod
    def _each_once(cls, fold: Any) -> Any:
        if isinstance(fold, tuple) and (not fold or len(set(fold)) < len(fold)):
            raise ValueError(f"expected a list of different folds, got {[*fold]}")
        return fold

    @property
    def folds(self) -> tuple[int | str, ...]:
        """The folds that are asked for; empty: none in particular."""
        if self.fold is None:
            return ()
        return self.fold if isinstance(self.fold, tuple) else (self.fold,)


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """The files of a folder that inference needs, and the part of their content that tells how."""

    path: str
    checkpoints: tuple[Path, ...]
    content: Mapping[str, Any]  # of the first checkpoint
    pipeline: NnunetPipeline

    @property
    def num_outputs(self) -> int:
        """Outputs of the network."""
        return int(self.pipeline.labels.num_segmentation_heads)

    @property
    def trainer(self) -> str:
        """Name of the class that trained it."""
        return str(self.content.get("trainer_name", _TRAINER))


def _folder(path: str, args: Mapping[str, Any], bounds: Any = None) -> _Folder:
    stated = validate(dict(args), NnunetArgs, path)
    files = _checkpoints(path, stated)
    content = _content(files[0])
    asked = stated.configuration
    trained = content.get("init_args")
    trained_as = trained.get("configuration") if isinstance(trained, Mapping) else None
    if asked and trained_as and asked != trained_as:
        rest = f"but its checkpoint was trained as {trained_as}: leave it out"
        raise UserError(f"{path}: configuration is {asked} here, {rest}")
    configuration = str(asked or trained_as or "3d_fullres")
    plans, dataset = (source.read_object(Path(path, name)) for name in ("plans.json", "dataset.json"))
    pipeline = pipeline_of(path, plans, dataset, configuration, stated.orientation, bounds)
    return _Folder(path=path, checkpoints=files, content=content, pipeline=pipeline)


def facts(entry: ModelEntry, path: str, num_classes: int | None, num_channels: int | None) -> Facts:
    """States the facts of a folder `TRAINER__PLANS__CONFIGURATION`: nnU-Net's own pipeline, and its default inference,
    mirrored as the checkpoint allows; a 2d network's window has some slices, without overlap.

    `entry`, `path`, `num_classes` and `num_channels` are those of `Source.facts`; neither number is asked for. Raises
    CheckpointError for a file that is missing or unreadable; UserError for an unknown argument or name in the plans, or
    a cascade."""
    folder = _folder(path, entry.args, entry.bounds)
    pipeline = folder.pipeline
    letters = source.axes_of(pipeline)
    adapter = InputAdapter(axes=letters, **source.spanning(pipeline.stated_bounds))
    patch = pipeline.patch
    inference: dict[str, Any] = {**NNUNET}
    if pipeline.is_2d:
        patch = (SLICES, *patch[1:])
        inference["overlap"] = adapter.volume_order((0.0, 0.5, 0.5))
    folds = len(folder.checkpoints)
    notes = (f"logits of {folds} folds are averaged, as nnU-Net does",) if folds > 1 else ()
    outputs: Outputs = "softmax"
    metadata = Metadata()
    if regions := pipeline.regions:
        outputs = "sigmoid"
        metadata = Metadata(class_names=("background", *regions))
    # The axes, of the volume or of the file, over which predictions may be mirrored.
    allowed = folder.content.get("inference_allowed_mirroring_axes") or ()
    axes = range(2 if pipeline.is_2d else 3)
    if not isinstance(allowed, tuple | list) or not all(axis in axes for axis in allowed):
        advice = f"inference_allowed_mirroring_axes: expected some of {', '.join(map(str, axes))}, got {allowed!r}"
        raise CheckpointError(f"{folder.checkpoints[0]}: {advice}")
    plain = letters.replace("-", "")[pipeline.is_2d :]
    mirrored = [plain[axis] for axis in set(allowed)]
    inference["mirror"] = "".join(sorted(mirrored, key=(AXES + FILE_AXES).index))
    return Facts(
        arch="nnunet",
        args=entry.args,
        roi=patch,
        num_classes=folder.num_outputs,
        num_channels=pipeline.num_channels,
        outputs=outputs,
        input=adapter,
        space=pipeline,
        inference=inference,
        notes=notes,
        metadata=metadata,
        class_names=pipeline.class_names,
        channel_names=pipeline.channel_names,
    )


def files(args: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns patterns of the files that are read: those of the folds that `args` of a job ask for, else of every
    fold."""
    stated = validate(dict(args), NnunetArgs, "nnunet")
    return "plans.json", "dataset.json", *(f"fold_{fold}/{stated.checkpoint}" for fold in stated.folds or "*")


class Folds(nn.Module):
    """The mean of the logits `[B, K, ...]` of a network's folds."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the mean logits `[B, K, ...]` of images `[B, C, ...]`."""
        if len(self.nets) == 1:
            only: Tensor = self.nets[0](images)
            return only
        return torch.stack([net(images) for net in self.nets]).mean(dim=0)


def network(spec: ModelSpec) -> nn.Module:
    """Builds the networks of the plans of a spec, fresh, on the CPU or meta device; each head returns full
    resolution."""
    folder = _folder(spec.checkpoint, spec.args)
    pipeline = folder.pipeline
    where = f"{folder.path}: architecture of plans.json"
    settings = pipeline.settings
    kwargs = settings.network_arch_init_kwargs
    for key in settings.network_arch_init_kwargs_req_import:
        if kwargs.get(key) is not None:
            package, _, last = str(kwargs[key]).rpartition(".")
            layer = getattr(torch.nn, last, None) if f"{package}.".startswith("torch.nn.") else None
            is_block = package == f"{_PACKAGE}.building_blocks.residual" and last in _BLOCKS
            if not is_block and not (isinstance(layer, type) and issubclass(layer, nn.Module)):  # plans are untrusted
                wanted = f"a layer of torch.nn or a block of {_PACKAGE}"
                raise UserError(f"{where}.{key}: expected {wanted}, got {kwargs[key]!r}")
    package, _, last = (name := settings.network_arch_class_name).rpartition(".")
    module = package if package.startswith(f"{_PACKAGE}.architectures.") and find_spec(package) else _UNETS
    with quiet():
        there = vars(pkgutil.resolve_name(module))
    known = [key for key, cls in there.items() if isinstance(cls, type) and issubclass(cls, nn.Module)]
    if not package.startswith(f"{_PACKAGE}.") or last not in known:
        raise UserError(f"{where}: {unknown('network', name, known)}")
    settings.configuration["architecture"]["network_class_name"] = f"{module}.{last}"
    build = _builder(folder)

    def build_all() -> nn.Module:
        with quiet():
            args = pipeline.manager, settings, pipeline.num_channels, folder.num_outputs, False
            folds = Folds([build(*args) for _ in folder.checkpoints])
        return Sliced(folds, axis=0) if pipeline.is_2d else folds

    return source.construct(where, build_all)


def weights(spec: ModelSpec, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None]:
    """Returns the weights of a spec's folds, on the CPU; deep-supervision heads included. `wanted`, names and shapes of
    the network, is not asked for."""
    loaded = dict[str, Tensor]()
    path = spec.checkpoint
    for number, file in enumerate(_checkpoints(path, validate(dict(spec.args), NnunetArgs, path))):
        state = checkpoints.read_state_dict(str(file), keys=("network_weights",))
        loaded |= {f"nets.{number}.{key.removeprefix('_orig_mod.')}": value for key, value in state.items()}
    return loaded, None


def _sha256(path: str, args: Mapping[str, Any]) -> str:
    folds = _checkpoints(path, validate(dict(args), NnunetArgs, path))
    named = {"checkpoint": folds[0]} if len(folds) == 1 else {file.parent.name: file for file in folds}
    named |= {name: Path(path, name) for name in ("plans.json", "dataset.json")}
    # nnunetv2 looks there for a trainer that is not its own.
    folders = [Path(part) for part in os.environ.get(_EXTERNAL, "").split(os.pathsep) if part.strip()]
    if folders and plugins.is_trusted():
        for folder in () if str(_content(folds[0]).get("trainer_name", _TRAINER)) in _trainers() else folders:
            files = (programs.program_files(folder) or {}).values()
            named |= {f"trainer/{path.relative_to(folder).as_posix()}": path for path in files}
    return source.fingerprint(named)


def _checkpoints(path: str, args: NnunetArgs) -> tuple[Path, ...]:
    if not Path(path, "plans.json").is_file():
        raise CheckpointError(
            f"{path}: expected an nnU-Net v2 folder with plans.json, dataset.json and fold_N/, found no plans.json: "
            f"{folder_near(path) or 'give the folder TRAINER__PLANS__CONFIGURATION'}"
        )
    there = sorted(fold.parent.name.removeprefix("fold_") for fold in Path(path).glob(f"fold_*/{args.checkpoint}"))
    if not there:
        other = next((file.name for file in sorted(Path(path).glob("fold_*/*.pth"))), None)
        advice = f"give args: {{checkpoint: {other}}}, which is there" if other else "fetch it"
        raise CheckpointError(f"{path}: expected fold_N/{args.checkpoint}, found none: {advice}")
    numbered = [fold for fold in there if fold != "all"]
    wanted = [*map(str, args.folds)] or numbered or there
    for fold in wanted:
        if fold not in there:
            found = f"found none: give fold, one of {', '.join(there)}"
            raise CheckpointError(f"{path}: expected fold_{fold}/{args.checkpoint}, {found}")
    return tuple(Path(path, f"fold_{fold}", args.checkpoint) for fold in wanted)


def folder_near(path: str) -> str | None:
    """Returns advice on the folder of an nnU-Net that a path lies in, holds or has packed; None: there is none."""
    place = Path(path)
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(place) as archive:
        if packed := [name for name in archive.namelist() if PurePath(name).name == "plans.json"]:
            return f"unpack it, and give its folder {one_line(PurePath(packed[0]).parent)} with arch: nnunet"
    near = place.parent, place.parent.parent, *sorted(place.glob("*")), *sorted(place.glob("*/*"))
    return next((f"give {each} with arch: nnunet" for each in near if (each / "plans.json").is_file()), None)


def _content(file: Path) -> Mapping[str, Any]:
    content = checkpoints.read_content(str(file))
    if not isinstance(content, Mapping) or "network_weights" not in content:
        raise CheckpointError(f"{file}: expected an nnU-Net v2 checkpoint, found no network_weights in it")
    return content


@lru_cache(maxsize=1)
def _trainers() -> Mapping[str, tuple[str, list[str], bool]]:
    """Returns nnunetv2's trainers by name: module, names of its bases, and if it builds its own network; unimported."""
    release()
    spec = find_spec(_TRAINERS)
    found = {}
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).rglob("*.py")):
            module = ".".join((_TRAINERS, *file.relative_to(folder).with_suffix("").parts))
            for node in ast.parse(file.read_bytes()).body:
                if isinstance(node, ast.ClassDef):
                    methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                    found[node.name] = module, bases, "build_network_architecture" in methods
    return found


def _builder(folder: _Folder) -> Any:
    """Returns the function of nnunetv2's that builds the network of a trainer, or of a trusted trainer elsewhere."""
    name = folder.trainer
    known = _trainers()
    if name not in known:
        what = f"{folder.path}: trainer_name {name}, which is not nnunetv2's"
        plugins.require_trust(what)
        # Importing a module runs it, and it may raise anything.
        with refusing(f"{what}: set {_EXTERNAL} to the folder of its file", (Exception,)), quiet():
            found = pkgutil.resolve_name("nnunetv2.utilities.find_objects:recursive_find_trainer_class_by_name")
            return _called_as_now(found(name).build_network_architecture)
    builder = name
    module, bases, has_own = known[builder]
    while not has_own:
        builder = next(base for base in bases if base in known)
        module, bases, has_own = known[builder]
    if builder == _TRAINER:
        plans = pkgutil.resolve_name("nnunetv2.utilities.get_network_from_plans:get_network_from_plans")

        def build(manager: Any, settings: Any, channels: int, outputs: int, deep: bool) -> nn.Module:
            """Builds a network by the `settings` of its configuration, `manager` aside, with input `channels` and
            `outputs`; `deep`: with deep supervision."""
            name = settings.network_arch_class_name
            kwargs = settings.network_arch_init_kwargs
            args = name, kwargs, settings.network_arch_init_kwargs_req_import, channels, outputs
            made: nn.Module = plans(*args, allow_init=False, deep_supervision=deep)
            return made

        return build
    # A package that it needs may raise anything too.
    with refusing(f"{folder.path}: nnunetv2's {name} cannot be imported", (Exception,)), quiet():
        trainer = pkgutil.resolve_name(f"{module}:{builder}")
        return _called_as_now(trainer.build_network_architecture)


def _called_as_now(build: Any) -> Any:
    """Returns a trainer's function with today's arguments, also of one that takes those of former releases."""
    if "plans_manager" in inspect.signature(build).parameters:
        return build
    names = "network_arch_class_name", "network_arch_init_kwargs", "network_arch_init_kwargs_req_import"
    return lambda manager, settings, *rest: build(*(getattr(settings, name) for name in names), *rest)


SOURCE = Source(
    facts=facts, network=network, weights=weights, sha256=_sha256, files=files, sign="plans.json", is_known=True
)
