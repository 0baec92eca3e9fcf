"""Defines a model's entry in a job, and the spec that it resolves to."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt, SerializeAsAny, field_validator, model_validator

from freqbench.core import plugins
from freqbench.core.config import Architecture, FileName, Strict
from freqbench.core.errors import UserError
from freqbench.core.identity import digest
from freqbench.core.input_space import Preprocess
from freqbench.core.types import Shape
from freqbench.models.defences import Defence, defence_of
from freqbench.models.settings import DEFAULT_INFERENCE, DEFAULT_INPUT, Inference, InputAdapter

ENSEMBLE = "ensemble"
FROZEN = ("torchscript", "torch_export")
SEED_DIGITS = 18
TRAIN = "train://"
"""Prefix of the name of a network that the job itself trains."""


def seed_of(checkpoint: str) -> int | None:
    """Returns the seed of untrained weights, requested by `random` or `random:SEED`; None for any other checkpoint."""
    match = re.fullmatch(r"random(?::([0-9]+))?", checkpoint)
    if match and len(match[1] or "") > SEED_DIGITS:
        got = f"random:{match[1][:20]}..."
        raise UserError(f"expected random:SEED with at most {SEED_DIGITS} digits, got {got}: take a smaller seed")
    return int(match[1] or 0) if match else None


def _is_prompted(arch: str | None, args: Mapping[str, Any]) -> bool:
    return arch == "sam_med3d" or (arch == "vista3d" and bool(args.get("points")))


class Trained(Strict):
    """Result of a `train://` checkpoint; `freqbench.training.link` adds it, and a store's job keeps it.

    Attributes:
        checkpoint: the file that the training wrote.
        identity: digest of everything that the training job states about these weights; `method` is the same without
            the seed.
        weights: `freqbench.models.checkpoints.files.weights_sha256` of the weights.
    """

    checkpoint: Annotated[str, Field(min_length=1)]
    identity: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    weights: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    method: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None = None


class ModelEntry(Strict):
    """A model in a job file: one of `checkpoint`, `bundle` and `ensemble`.

    Attributes:
        arch: a name of MODELS, of READERS (`nnunet`, `torchscript`, `torch_export`) or `package.module:Class`; None:
            the one in the metadata of freqbench's own checkpoint.
        checkpoint: path, URI, `zoo://DATASET/NAME`, `train://NAME` for a network of the job's `training`, or `random`
            for untrained weights (`random:7`: seed 7, else 0); environment variables such as `${FREQBENCH_CHECKPOINTS}`
            are filled in.
        bundle: folder of a MONAI bundle.
        ensemble: names of other models of the job, whose probabilities are averaged.
        args: arguments of the network's class, over the defaults; for a reader, the arguments of its `describe`.
        roi: voxels of a window on the volume's axes, in multiples that the network needs; default: as trained, else
            96x96x96.
        migration: migration of an older MONAI's checkpoint (`freqbench.models.checkpoints.migrations`); None:
            recognised from its keys if they show it.
        input: axes and intensities of the network's input; None, or `axes` omitted: those of its architecture or
            folder.
        preprocess: the space in which it is attacked and scored, in place of the dataset's whole preprocessing; None:
            that of its folder or checkpoint, else the dataset's.
        inference: its sliding window; None: the papers', or its folder's; for an ensemble, its members'.
        defence: defence before the network: a mapping with a `name` of DEFENCES and that defence's keys.
        adaptive: true: attacks know the defence and follow a gradient that serves them; false: they follow plain
            autograd through one fixed draw.
        min_dice: foreground Dice on a clean case below which the run warns that checkpoint and data do not fit.
        datasets: names of the job's datasets that the model is for; None: all. Models for different datasets may share
            a name.
        replicates: number of networks of a `train://NAME`; 3 become the models `name`, `name.1`, `name.2` with
            `train://NAME`, `train://NAME.1`, `train://NAME.2`.
        source: where to get the checkpoint.
        trained: result of `train://`; freqbench sets it, not a job file.
    """

    name: FileName
    arch: Architecture | None = None
    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    bundle: Annotated[str, Field(min_length=1)] | None = None
    ensemble: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    migration: str | None = None
    input: InputAdapter | None = None
    preprocess: Preprocess | None = None
    inference: Inference | None = None
    defence: Annotated[SerializeAsAny[Defence] | None, BeforeValidator(defence_of)] = None
    adaptive: bool = True
    min_dice: Annotated[float, Field(ge=0, le=1)] = 0.3
    datasets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    replicates: PositiveInt = 1
    source: str | None = None
    trained: Trained | None = None

    @property
    def is_to_train(self) -> bool:
        """True if the job trains its weights."""
        return str(self.checkpoint).startswith(TRAIN)

    @property
    def is_prompted(self) -> bool:
        """True if the network is prompted with points from a case's label."""
        return _is_prompted(self.arch, self.args)

    def networks(self) -> list["ModelEntry"]:
        """Returns the entry of each replicate."""
        entries = [self.model_copy(update={"replicates": 1})] if self.replicates > 1 else [self]
        for number in range(1, self.replicates):
            named = {"name": f"{self.name}.{number}", "checkpoint": f"{self.checkpoint}.{number}", "replicates": 1}
            entries.append(self.model_copy(update=named))
        return entries

    @property
    def path(self) -> str | None:
        """Path of its weights, as the job writes it; None for an ensemble."""
        return self.trained.checkpoint if self.trained else self.bundle or self.checkpoint

    @field_validator("checkpoint")
    @classmethod
    def _is_no_endless_seed(cls, given: str | None) -> str | None:
        seed_of(given or "")
        return given

    @model_validator(mode="after")
    def _knows_of_what_is_there(self) -> "ModelEntry":
        if self.adaptive:
            return self
        if self.defence is None:
            raise ValueError("expected adaptive: false beside a defence, got none: leave it out")
        if self.defence.is_smooth and not self.defence.is_random:
            raise ValueError(
                f"expected no adaptive: false beside {self.defence.name}: autograd's gradient through it is the true "
                "one, so that there is no other attacker: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> "ModelEntry":
        sources = [key for key in ("checkpoint", "bundle", "ensemble") if getattr(self, key) is not None]
        if len(sources) != 1:
            raise ValueError(
                f"expected one of checkpoint, bundle and ensemble, got {' and '.join(sources) or 'none'}: a path, "
                "zoo://DATASET/NAME, or checkpoint: random for untrained weights"
            )
        if self.replicates > 1 and not self.is_to_train:
            raise ValueError(
                f"expected no replicates beside {sources[0]}: {getattr(self, sources[0])}: they are for {TRAIN}NAME "
                "alone; give each network an entry"
            )
        if self.trained and not self.is_to_train:
            raise ValueError(f"expected no trained beside checkpoint: {self.checkpoint}: it is for {TRAIN}NAME alone")
        if self.bundle and (self.arch or self.migration):
            raise ValueError("expected a bundle without arch and migration: its configuration says what it is")
        settings = [key for key in ("arch", "args", "roi", "migration", "input", "preprocess") if getattr(self, key)]
        if self.ensemble and settings:
            raise ValueError(f"expected an ensemble without {settings[0]}: that is its members' own")
        return self


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model with all its settings resolved and checked; plain data that travels to workers.

    Fields that a `ModelEntry` has too mean the same here, with defaults and variables filled in.

    Attributes:
        arch: also `ensemble`.
        args: the network's arguments that are not its class's own defaults.
        checkpoint_sha256: hex, or `random:SEED`.
        migration: the migration of its checkpoint; None if the weights stay as they are.
        space: space in which it is attacked and scored; None: the dataset's.
        code_sha256: hash of the source file, for a class of another package.
        training: identity of the training, if the job trains the weights; `method`: the same without the seed.
        weights_sha256: hex, of the weights alone. Replaces the file's hash in the model id, because the file also
            records the training time.
        flops: floating-point operations of a pass over one window, counted when the network was resolved; None if not
            counted.
    """

    name: str
    arch: str
    args: Mapping[str, Any]
    roi: Shape
    num_classes: int
    checkpoint: str
    checkpoint_sha256: str
    num_channels: int = 1
    migration: str | None = None
    input: InputAdapter = DEFAULT_INPUT
    space: Preprocess | None = None
    inference: Inference = DEFAULT_INFERENCE
    code_sha256: str | None = None
    members: tuple["ModelSpec", ...] = ()
    defence: Defence | None = None
    adaptive: bool = True
    min_dice: float = 0.0
    training: str | None = None
    method: str | None = None
    weights_sha256: str | None = None
    flops: int | None = field(default=None, compare=False)

    @cached_property
    def model_id(self) -> str:
        """16 hex digits that tell models apart by what they compute; name and path do not enter."""
        return self._identity(self.weights_sha256 or self.checkpoint_sha256, self.training)

    @cached_property
    def method_id(self) -> str | None:
        """16 hex digits shared by networks that differ only in the seed of their training and are used alike.

        Names do not enter. None if it is unknown how the weights were trained.
        """
        return self._identity(self.method, None) if self.method else None

    def _identity(self, weights: str, training: str | None) -> str:
        from freqbench.models.networks.architectures import MODELS

        architecture = MODELS.get(self.arch)
        defaults, tuning = (architecture.args, architecture.tuning) if architecture else ({}, ())
        changed = {k: v for k, v in self.args.items() if k not in tuning and (k not in defaults or v != defaults[k])}
        later = {  # omitted at their defaults, so that ids of earlier runs stay
            "num_channels": self.num_channels if self.num_channels != 1 else None,
            "migration": self.migration,
            "input": self.input.model_dump(exclude_defaults=True) or None,
            "space": self.space.identity() if self.space else None,
            "inference": self.inference.model_dump(exclude_defaults=True) or None,
            "code": self.code_sha256,
            "members": [member.model_id for member in self.members] or None,
            "training": training,
            "defence": self.defence.identity() if self.defence else None,
            "adaptive": None if self.adaptive else False,
        }
        return digest(
            {
                "arch": self.arch,
                "args": changed,
                "num_classes": self.num_classes,
                "roi": self.roi,
                "checkpoint": weights,
                **{key: value for key, value in later.items() if value is not None},
            }
        )

    @property
    def network_roi(self) -> Shape:
        """The ROI in the network's own axis order."""
        return self.input.in_network_order(self.roi)

    @property
    def passes(self) -> int:
        """Network passes for each query of an attacker."""
        return self.defence.draws if self.defence and self.adaptive else 1

    @property
    def predictions(self) -> int:
        """Sliding windows over the whole volume that one prediction takes."""
        return self.defence.predictions if self.defence else 1

    @property
    def defence_text(self) -> str | None:
        """JSON of the defence's parameters, of `adaptive`, and of the `model_id` without the defence."""
        if self.defence is None:
            return None
        undefended = replace(self, defence=None, adaptive=True).model_id
        return json.dumps({**self.defence.model_dump(), "adaptive": self.adaptive, "undefended": undefended})

    @property
    def seed(self) -> int | None:
        """Seed of untrained weights; None for weights of a checkpoint."""
        return seed_of(self.checkpoint)

    @property
    def is_random(self) -> bool:
        """True if its weights are untrained."""
        return self.seed is not None

    @property
    def is_prompted(self) -> bool:
        """True if the network is prompted with points from a case's label."""
        return _is_prompted(self.arch, self.args)

    @property
    def needs_trust(self) -> bool:
        """True if loading it runs third-party code."""
        return (
            self.arch in FROZEN or plugins.names_class(self.arch) or any(member.needs_trust for member in self.members)
        )
