"""Defines a model's entry in a job: its network, checkpoint, input (axes and intensities), window and defence."""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, SerializeAsAny, field_validator, model_validator
from pydantic.functional_validators import AfterValidator, BeforeValidator, PlainValidator
from pydantic.types import NonNegativeInt, PositiveFloat, PositiveInt

from freqbench.core.config import Architecture, FileName, Strict, validate
from freqbench.core.errors import UserError, unknown
from freqbench.core.input_space import RAS_LETTERS, Preprocess, ras_order
from freqbench.core.names import meant_name
from freqbench.core.plugins import installed_names, load_class, names_class
from freqbench.core.types import Outputs, Shape, triple
from freqbench.models.brainchop import FILES, SCHEME, T1
from freqbench.models.defences.base import Defence

if TYPE_CHECKING:
    from torch import Tensor

AXES = "HWD"
FILE_AXES = "IJK"  # the first, second and third axis of a file's array, as NIfTI names them
DEFAULT_ROI: Shape = (96, 96, 96)
ENSEMBLE = "ensemble"
COMMAND = "command"
IMAGE = "{image}"
LABELS = "{labels}"
OF_A_NETWORK = (
    "arch",
    "args",
    "roi",
    "migration",
    "prefix",
    "input",
    "preprocess",
    "transforms",
    "bounds",
    "outputs",
    "classes",
    "class_map",
    "channels",
)
SEED_DIGITS = 18
ANY_DICE = 0.01  # an expected Dice that any network reaches
TRAIN = "train://"  # prefix of the name of a network that the job itself trains
Yields = Literal["logits", "probabilities"]  # the quantity that a network returns of each class
ClassMap = tuple[tuple[int, ...], ...]  # for each class of the dataset, the network's classes that are merged into it
T = TypeVar("T")

Finite = Annotated[float, Field(allow_inf_nan=False)]
Overlap = Annotated[float, Field(ge=0, lt=1)]


class Inference(Strict):
    """The sliding window of a model; the defaults are those of the VAFA and SA2 papers.

    Attributes:
        overlap: share of a window that the next one covers again, in [0, 1); one number, or one for each axis of
            `roi`.
        windows: `shifted`: they start a step apart, from the low end of the network's axes, and the last is shifted
            back inside, as MONAI does; `even`: they are spread evenly, as nnU-Net does.
        weighting: `constant`: all voxels of a window count alike; `gaussian`: voxels near its centre count more, by
            MONAI's importance map with sigmas of an eighth of the window; `nnunet`: the same by nnU-Net's map, whose
            centre is the upper of an even axis' two middle voxels.
        sigma: sigmas of `gaussian`, as a share of the window; one number, or one for each axis of `roi`.
        whole: axes, as for `mirror`, along which a window is the whole volume, whatever `roi` says there: MONAI's -1.
        padding: fills a window on an axis where the volume is shorter: a number in the unit of the network's input,
            `reflect` or `replicate`. The smaller half comes first on the network's axis, as in MONAI and nnU-Net.
            `volume`: 0 of the volume, its lowest intensity, before `input`; padding and windows then follow the
            volume's axes, as in the papers' jobs.
        mirror: axes of the volume, some of `HWD`, over which each window is also mirrored: `HWD` makes eight passes of
            every window. Of a network with `input.axes` of the file: some of `IJK`.
        attack_mirrors: follows the mean over mirror images in attacks too, at two, four or eight passes a query; else
            they follow one pass of each window, and mirroring is for predictions only.
        average: the outputs that are averaged over mirror images and overlapping windows: `logits`, as MONAI and
            nnU-Net v2 do (Isensee et al., Nature Methods 2021, arXiv:1904.08128), or `probabilities`, as nnU-Net v1,
            nnFormer and UNETR++ do.

    nnU-Net's own sliding window is `windows: even, weighting: nnunet, padding: 0`; MONAI's is the default with its own
    `overlap`.
    """

    overlap: Overlap | tuple[Overlap, Overlap, Overlap] = 0.5
    windows: Literal["shifted", "even"] = "shifted"
    weighting: Literal["constant", "gaussian", "nnunet"] = "constant"
    sigma: PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat] = 0.125
    whole: str = ""
    padding: Finite | Literal["reflect", "replicate", "volume"] = 0.0
    mirror: str = ""
    attack_mirrors: bool = False
    average: Literal["logits", "probabilities"] = "logits"

    @field_validator("mirror", "whole")
    @classmethod
    def _axes(cls, given: str) -> str:
        for axes in (AXES, FILE_AXES):
            if len(set(given)) == len(given) and set(given) <= set(axes):
                return "".join(axis for axis in axes if axis in given)
        raise ValueError(f"expected some of the axes {AXES} or some of {FILE_AXES}, each once, got {given!r}")

    @model_validator(mode="after")
    def _has_mirror(self) -> Self:
        if self.attack_mirrors and not self.mirror:
            raise ValueError("attack_mirrors: expected axes in mirror beside it, such as HWD, got none")
        return self

    @property
    def attacked_mirror(self) -> str:
        """The axes of `mirror` over which attacks follow the mean."""
        return self.mirror if self.attack_mirrors else ""

    def turn_to_file(self, codes: str) -> "Inference":
        """Returns the settings for a volume whose file has axes towards `codes`, its axes in place of the file's."""
        letters = {own: RAS_LETTERS[code][-1] for own, code in zip(FILE_AXES, codes, strict=True)}
        turned: dict[str, Any] = {}
        for name in ("mirror", "whole"):
            axes = [letters.get(axis, axis) for axis in getattr(self, name)]
            turned[name] = "".join(sorted(axes, key=AXES.index))
        for name in ("overlap", "sigma"):
            given = getattr(self, name)
            turned[name] = ras_order(given, codes) if isinstance(given, tuple) else given
        return self.model_copy(update=turned)

    def window(self, roi: Shape, shape: Shape) -> Shape:
        """Returns the window of `roi` voxels in a volume of this `shape`, both on the axes H, W, D, as `whole` is."""
        return triple(shape[i] if axis in self.whole else roi[i] for i, axis in enumerate(AXES))


DEFAULT_INFERENCE = Inference()
NNUNET = {"overlap": 0.5, "windows": "even", "weighting": "nnunet", "padding": 0.0}
"""nnU-Net's sliding window, without its mirroring."""


class InputAdapter(Strict):
    r"""Maps a volume to a network's input: `((low + (high - low) x) - mean) / std`, with axes in the network's order.

    Attributes:
        scale: low and high: the intensities, in the unit of `mean` and `std`, that 0 and 1 become.
        axes: the volume's axes H, W, D (right, anterior, superior) in the network's order; a minus before an axis
            reverses it: `DHW`, `D-W-H`. Or the axes I, J, K of each file's own array, for a network that is given files
            as they lie, whatever their orientation: `KJI` for one that was trained on what SimpleITK reads. Then `roi`
            and `mirror` are of the file's axes too. A volume without a file, such as an array, lies as it is.
        mean, std: one number, or one per channel.
    """

    scale: tuple[Finite, Finite] = (0.0, 1.0)
    axes: str = AXES
    mean: Finite | tuple[Finite, ...] = 0.0
    std: PositiveFloat | tuple[PositiveFloat, ...] = 1.0

    @field_validator("scale")
    @classmethod
    def _keeps_differences(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] == scale[1]:
            raise ValueError(f"expected two different numbers, got {scale[0]:g} twice")
        return scale

    @field_validator("axes")
    @classmethod
    def _each_axis_once(cls, axes: str) -> str:
        if sorted(axes.replace("-", "")) not in (sorted(AXES), sorted(FILE_AXES)) or "--" in axes or axes.endswith("-"):
            raise ValueError(
                "expected each of H, W and D once, or of I, J and K (the file's axes), a minus before what is turned "
                f"round, got {axes!r}"
            )
        return axes

    def merge_input(self, stated: "InputAdapter | None") -> "InputAdapter":
        """Returns a job's `input`, `stated` (None: these); omitted axes stay these, as wrong ones spoil predictions
        without an error."""
        if stated is None or "axes" in stated.model_fields_set:
            return stated or self
        return stated.model_copy(update={"axes": self.axes})

    @property
    def is_of_file(self) -> bool:
        """True if the axes are those of each file, so that they depend on the case."""
        return not set(self.axes).isdisjoint(FILE_AXES)

    @property
    def codes(self) -> str:
        """Directions in which the axes of the network's input increase, as in SPL; not for axes of files.

        >>> InputAdapter(axes="D-W-H").codes
        'SPL'
        """
        codes = {letters: code for code, letters in RAS_LETTERS.items()}
        return "".join(codes[letters] for letters in re.findall("-?[HWD]", self.axes))

    def turn_to_file(self, codes: str) -> "InputAdapter":
        """Returns the adapter from a RAS volume whose file has axes towards `codes`, as in LPS.

        >>> InputAdapter(axes="KJI").turn_to_file("LPS").axes
        'D-W-H'
        """
        if not self.is_of_file:
            return self
        letters = dict(zip(FILE_AXES, (RAS_LETTERS[code] for code in codes), strict=True))
        axes = "".join(letters.get(letter, letter) for letter in self.axes).replace("--", "")
        return self.model_copy(update={"axes": axes})

    def network_order(self, shape: Shape) -> Shape:
        """Returns a `shape`, lengths of the volume's axes H, W, D (or the file's I, J, K), in the network's order."""
        return triple(shape[axis] for axis in self._order)

    def volume_order(self, values: tuple[T, T, T]) -> tuple[T, T, T]:
        """Returns values of the network's axes (lengths, spacing) in the order H, W, D (or I, J, K)."""
        return triple(values[self._order.index(axis)] for axis in range(3))

    def to_network(self, images: "Tensor") -> "Tensor":
        """Returns the network's input for images `[B, C, h, w, d]` in [0, 1]."""
        return self.to_network_axes(self.scale_images(images))

    def scale_images(self, images: "Tensor") -> "Tensor":
        """Returns images `[B, C, h, w, d]` in [0, 1] in the network's unit, with the volume's axes."""
        low, high = self.scale
        # Defaults compute nothing, so that a plain network gets the volume to the bit.
        if (low, high) != (0.0, 1.0):
            images = low + (high - low) * images
        if self.mean != 0.0:
            images = images - self._channel_values(self.mean, images)
        if self.std != 1.0:
            images = images / self._channel_values(self.std, images)
        return images

    def to_network_axes(self, volumes: "Tensor") -> "Tensor":
        """Returns volumes `[B, C, h, w, d]` in the network's axes, with unchanged values."""
        turned = volumes.flip([2 + axis for axis in self.turned]) if self.turned else volumes
        return turned.permute(0, 1, *(2 + axis for axis in self._order))

    def from_network(self, logits: "Tensor") -> "Tensor":
        """Returns the network's logits in the volume's axes."""
        back = logits.permute(0, 1, *(2 + self._order.index(axis) for axis in range(3)))
        return back.flip([2 + axis for axis in self.turned]) if self.turned else back

    @property
    def turned(self) -> tuple[int, ...]:
        """The volume's axes that the network sees reversed."""
        return tuple(i for i, letter in enumerate(self._letters) if f"-{letter}" in self.axes)

    @property
    def _order(self) -> tuple[int, ...]:
        return tuple(self._letters.index(letter) for letter in self.axes.replace("-", ""))

    @property
    def _letters(self) -> str:
        return FILE_AXES if self.is_of_file else AXES

    @staticmethod
    def _channel_values(value: float | tuple[float, ...], images: "Tensor") -> "Tensor":
        return images.new_tensor(value).reshape(1, -1, 1, 1, 1)


DEFAULT_INPUT = InputAdapter()


def seed_of(checkpoint: str) -> int | None:
    """Returns the seed of untrained weights, requested by `random` or `random:SEED`; None for any other checkpoint."""
    match = re.fullmatch(r"random(?::([0-9]+))?", checkpoint)
    if match is None:
        return None
    digits = match[1] or "0"
    if len(digits) > SEED_DIGITS:
        got = f"random:{digits[:20]}..."
        raise UserError(f"expected random:SEED with at most {SEED_DIGITS} digits, got {got}: take a smaller seed")
    return int(digits)


def advice_on_classes(outputs: int, num_classes: int, head: Outputs = "softmax") -> str:
    """Returns the remedy for a network of `outputs` classes, background included, or regions (`head`: sigmoid), on a
    dataset of another number, `num_classes`, counted alike."""
    if head == "sigmoid" and outputs < num_classes:
        return "state those regions of the dataset that it knows"
    if head == "sigmoid":
        return f"set classes: {outputs} and class_map of the model: which of them each region of the dataset is"
    if outputs < num_classes:
        of_regions = "; if each output is a region's, set outputs: sigmoid of the model and regions of the dataset"
        return (
            "choose the classes that it knows by the dataset's `labels` (their names) or label_map, such as "
            f"{_label_map(range(1, num_classes - outputs + 1), num_classes)}"
            f"{of_regions if outputs == num_classes - 1 else ''}"
        )
    return f"set classes: {outputs} and class_map of the model: which of them are merged into each of the dataset's"


def _label_map(classes: Sequence[int], num_classes: int) -> str:
    """Returns the label_map of a dataset that makes some of its classes background, and closes the gaps."""
    kept = [k for k in range(1, num_classes) if k not in classes]
    return "{" + "".join(f"{k}: {new}, " for new, k in enumerate(kept, 1)) + "other: background}"


def _named_outputs(
    where: str, class_map: Mapping[int, Sequence[int]], num_classes: int, outputs: int | None, first: int
) -> set[int]:
    """Returns the network's classes that a class map names (`first` 1: regions), each once, for the dataset's own."""
    part, parts = ("region", "regions") if first else ("class", "classes")
    seen = set[int]()
    for number, merged in class_map.items():
        if not first <= number < num_classes:
            raise UserError(f"{where}: expected {parts} of the dataset, {first} to {num_classes - 1}, got {number}")
        if first and len(merged) > 1:
            rest = f"as regions cannot be merged, got {len(merged)}: give one"
            raise UserError(f"{where}: {number}: expected one region of the network, {rest}")
        for theirs in merged:
            if theirs in seen or not first <= theirs < first + (outputs or theirs + 1):
                last = "" if outputs is None else f" to {outputs - 1 + first}"
                why = "was there before" if theirs in seen else f"is not in {first}{last}"
                raise UserError(f"{where}: {number}: expected each {part} of the network once, but {theirs} {why}")
            seen.add(theirs)
    return seen


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


def _transforms(given: object) -> object:
    is_list = isinstance(given, list | tuple) and given and all(isinstance(each, Mapping) for each in given)
    is_path = isinstance(given, str) and names_class(given)
    if not (given is None or is_list or is_path or type(given).__name__ == "Compose"):
        raise ValueError(
            f"expected a list of entries with _target_, module:function or MONAI's Compose, got {given!r:.60}"
        )
    return given


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] < ends[1]:
        raise ValueError(f"expected the lower bound below the upper, got [{ends[0]:g}, {ends[1]:g}]")
    return ends


Ends = Annotated[tuple[Finite, Finite], AfterValidator(_rising)]  # two intensities, the lower one first


def defence_of(content: Any) -> Defence | None:
    """Returns the defence of `content`: a mapping with `name` and its keys, or a Defence or None, which stay as they
    are. Raises UserError for anything else."""
    if content is None or isinstance(content, Defence):
        return content
    name = content.get("name") if isinstance(content, Mapping) else None
    if not isinstance(name, str):
        raise UserError(f"expected a mapping with a name, such as {{name: bit_depth, bits: 3}}, got {content!r:.100}")
    from freqbench.models.defences.table import DEFENCES  # and torch with it

    added = installed_names("defences")
    if name not in DEFENCES and name not in added:
        raise UserError(unknown("defence", name, [*DEFENCES, *added]))
    return validate(dict(content), DEFENCES.get(name) or load_class(added[name], Defence), where=name)


class ModelEntry(Strict):
    """A model in a job file: one of `checkpoint`, `bundle`, `command` and `ensemble`.

    Attributes:
        arch: a name of MODELS, of READERS (`nnunet`, `meshnet`, `onnx`, `command`) or
            `package.module:Class`; None: the one in the metadata of freqbench's own checkpoint.
        checkpoint: path, URI, `zoo://DATASET/NAME`, `hf://ORG/REPO/FILE@REVISION` of the Hugging Face Hub,
            `brainchop://NAME`, `train://NAME` for a network of the job's `training`, or `random` for untrained weights
            (`random:7`: seed 7, else 0); environment variables such as `${FREQBENCH_CHECKPOINTS}` are filled in.
        bundle: folder of a MONAI bundle, `monai://BUNDLE@VERSION` of MONAI's model zoo or `hf://ORG/REPO@REVISION`.
        command: words of a command that segments the file `{image}` and writes the label map `{labels}`; it needs
            trust, and is asked for labels alone.
        format: ending of the command's two files, such as `.mha`; None: `.nii.gz`.
        timeout: seconds that one run of the command may take; None: 600.
        outputs: `softmax`: exclusive classes, background included; `sigmoid`: one output for each of the dataset's
            `regions`, which may overlap; None: as the file states, else `softmax`.
        classes: number of the network's outputs; None: the dataset's, or stated by the file.
        class_map: for each class of the dataset, the classes of the network's output that are merged into it (their
            probabilities are added); background takes those that are left. None: the same classes. Of regions, for
            each the one region of the network that it is, both counted from 1.
        ensemble: names of other models of the job, whose probabilities are averaged.
        args: arguments of the network's class, over the defaults; for a reader, the arguments of its `describe`.
        roi: voxels of a window on the volume's axes, in multiples that the network needs; default: as trained, else
            96x96x96.
        migration: migration of an older MONAI's checkpoint (`freqbench.models.checkpoints.migrations`); None:
            recognised from its keys if they show it.
        prefix: what the names of its weights begin with in the file, such as `ema_model.`, if several networks in it
            fit; None: found in the file.
        input: axes and intensities of the network's input; None, or `axes` omitted: those of its architecture or
            folder.
        preprocess: the space in which it is attacked and scored, in place of the dataset's whole preprocessing; None:
            that of its folder or checkpoint, else the dataset's.
        transforms: the pipeline of its training without augmentation, which MONAI runs: a list of `_target_` entries as
            in a bundle's `preprocessing`, or `module:function` that returns a Compose (needs trust). It takes the place
            of `preprocess`.
        channels: for each key of an image that its transforms join, its channel or channels of the data, from 0 on:
            `{t2: 0, adc: 1}`; None: the channels in the order of the keys.
        bounds: for each channel, the two intensities of its input that 0 and 1 of the attacked volume are, for a
            network with a pipeline of its own; None: by the pipeline's rule, which `plan` says.
        inference: its sliding window; None: the papers', or its folder's; for an ensemble, its members'.
        defence: defence before the network: a mapping with a `name` of DEFENCES and that defence's keys.
        adaptive: true: attacks know the defence and follow a gradient that serves them; false: they follow plain
            autograd through one fixed draw.
        expected_dice: mean foreground Dice that the network's authors report, or your own validation, in (0, 1]: the
            run stops before its first attack if the mean over the patients' clean predictions is lower by more than two
            standard errors (with fewer than three patients: half of it) and 0.05. In no identity. None: it stops below
            0.5, or if a class of the labels is never predicted. Weights that the job trains are only warned of.
        predictions: folder or URI of label maps, or probabilities, that the network's own code wrote for one case of
            the data or more, by their names: the run holds its clean predictions against them before the first attack,
            and stops if they differ. In no identity.
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
    command: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] | None = None
    format: Literal[".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"] | None = None
    timeout: PositiveFloat | None = None
    outputs: Outputs | None = None
    classes: Annotated[int, Field(ge=1)] | None = None
    class_map: dict[NonNegativeInt, Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]] | None = None
    ensemble: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    migration: str | None = None
    prefix: str | None = None
    input: InputAdapter | None = None
    preprocess: Preprocess | None = None
    transforms: Annotated[Any, PlainValidator(_transforms, json_schema_input_type=list[dict[str, Any]] | str)] = None
    channels: dict[str, NonNegativeInt | tuple[NonNegativeInt, ...]] | None = None
    bounds: Annotated[tuple[Ends, ...], Field(min_length=1)] | None = None
    inference: Inference | None = None
    defence: Annotated[SerializeAsAny[Defence] | None, BeforeValidator(defence_of)] = None
    adaptive: bool = True
    expected_dice: Annotated[float, Field(gt=0, le=1)] | None = None
    predictions: Annotated[str, Field(min_length=1)] | None = None
    datasets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    replicates: PositiveInt = 1
    source: str | None = None
    trained: Trained | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_former_floor(cls, given: Any) -> Any:
        """Returns an entry without `min_dice` of earlier jobs: 0 meant that any network is attacked."""
        if not isinstance(given, dict) or "min_dice" not in given:
            return given
        kept = {key: value for key, value in given.items() if key != "min_dice"}
        return {**kept, "expected_dice": ANY_DICE} if given["min_dice"] == 0 and not kept.get("expected_dice") else kept

    @property
    def is_to_train(self) -> bool:
        """True if the job trains its weights."""
        return str(self.checkpoint).startswith(TRAIN)

    def num_outputs(self, num_classes: int | None, outputs: Outputs = "softmax") -> int | None:
        """Returns the number of the network's outputs for a dataset of `num_classes`, background included (None: not
        known), if its files state `outputs`; None if its files have to say it."""
        if self.classes or self.class_map is not None or num_classes is None:
            return self.classes
        return num_classes - (self.head(outputs) == "sigmoid")

    def head(self, stated: Outputs | None) -> Outputs:
        """Returns the job's `outputs`, else those that the network's files state (`stated`), else `softmax`."""
        return self.outputs or stated or "softmax"

    def merged_classes(self, num_classes: int, outputs: int | None, head: Outputs = "softmax") -> ClassMap | None:
        """Returns the class map for a network, that of regions beginning with the outputs left out.

        Args:
            num_classes: classes of the dataset, background included, or regions and one more.
            outputs: outputs of the network; None: a file may state them later, and the result is None.
            head: the network's, `sigmoid` of regions.

        Raises UserError if it leaves a class of the dataset open, or names one that is none.
        """
        class_map = self.class_map
        has_regions = head == "sigmoid"
        first = int(has_regions)  # regions, of dataset and network, are counted from 1
        if class_map is None:
            wanted = num_classes - first
            if self.classes not in (None, wanted):
                parts = "regions" if has_regions else "dataset"
                raise UserError(
                    f"{self.name}: classes: expected the {wanted} of the {parts}, got {self.classes}: "
                    f"{advice_on_classes(self.classes, wanted, head)}"
                )
            return None
        where = f"{self.name}: class_map"
        seen = _named_outputs(where, class_map, num_classes, outputs, first)
        missing = [number for number in range(1, num_classes) if number not in class_map]
        if missing:
            part = "class"
            advice = "give its classes; if the network has none for it, take it out of the dataset: label_map: "
            advice += _label_map(missing, num_classes)
            if has_regions:
                part = "region"
                advice = "give its region of the network, or take it out of the dataset's regions"
            raise UserError(f"{where}: expected each {part} of the dataset, got none for {missing[0]}: {advice}")
        if outputs is None:
            return None
        rest = set(range(first, outputs + first)) - seen
        if has_regions:
            left_out = tuple(theirs - 1 for theirs in sorted(rest))
            return left_out, *((class_map[number][0] - 1,) for number in range(1, num_classes))
        groups: Mapping[int, Collection[int]] = {0: rest, **class_map}
        if not groups[0]:
            raise UserError(f"{where}: expected each class of the dataset, got none for 0: give its classes")
        if 0 in class_map and rest:
            raise UserError(
                f"{where}: expected each class of the network, got none for {min(rest)}: leave out 0 for the rest"
            )
        return tuple(tuple(sorted(groups[number])) for number in range(num_classes))

    def networks(self) -> list["ModelEntry"]:
        """Returns the entry of each replicate."""
        entries = [self.model_copy(update={"replicates": 1})] if self.replicates > 1 else [self]
        for number in range(1, self.replicates):
            named = {"name": f"{self.name}.{number}", "checkpoint": f"{self.checkpoint}.{number}", "replicates": 1}
            entries.append(self.model_copy(update=named))
        return entries

    @property
    def path(self) -> str | None:
        """Path of its weights, or its command, as the job writes it; None for an ensemble."""
        if self.command:
            return shlex.join(self.command)
        return self.trained.checkpoint if self.trained else self.bundle or self.checkpoint

    @property
    def reader(self) -> str | None:
        """Architecture that the entry states, by freqbench's name."""
        if self.bundle:
            return "bundle"
        if self.command:
            return COMMAND
        scheme = str(self.checkpoint).partition("://")[0]
        stated = {"brainchop": "meshnet", "monai": "bundle"}.get(scheme) if self.arch is None else self.arch
        return stated and meant_name("models", stated)

    @field_validator("checkpoint")
    @classmethod
    def _is_no_endless_seed(cls, given: str | None) -> str | None:
        seed_of(given or "")
        return given

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "ModelEntry":
        for is_wrong, complaint in self._complaints():
            if is_wrong:
                raise ValueError(complaint)
        return self

    def _complaints(self) -> Iterator[tuple[object, str]]:
        """Yields each test of keys that exclude each other (true: a mistake), and its complaint."""
        checkpoint = str(self.checkpoint)
        defence = self.defence
        if checkpoint.startswith(SCHEME):
            networks = FILES.keys() - {T1}
            name = checkpoint.removeprefix(SCHEME)
            yield name not in networks, unknown("network of brainchop", name, networks)
            yield self.reader != "meshnet", f"expected no arch beside {checkpoint}, got {self.arch}: leave it out"
        if not self.adaptive:
            yield defence is None, "expected adaptive: false beside a defence, got none: leave it out"
            yield (
                defence and defence.is_smooth and not defence.is_random,
                f"expected no adaptive: false beside {defence and defence.name}: autograd's gradient through it is the "
                "true one, so that there is no other attacker: leave it out",
            )
        yield (
            self.classes == 1 and self.outputs != "sigmoid",
            "classes: expected at least 2, background included, got 1: for one region, set outputs: sigmoid",
        )
        sources = [key for key in ("checkpoint", "bundle", COMMAND, "ensemble") if getattr(self, key) is not None]
        yield (
            len(sources) != 1,
            f"expected one of checkpoint, bundle, command and ensemble, got {' and '.join(sources) or 'none'}: a "
            "path, zoo://DATASET/NAME, or checkpoint: random for untrained weights",
        )
        words = "expected one of preprocess and transforms, got both: leave one out"
        yield self.preprocess and self.transforms is not None, words
        if self.command is None:
            words = f'expected command: ["TOOL", "{IMAGE}", "{LABELS}"], got none: give its words'
            yield self.arch == COMMAND or self.timeout or self.format, words
        else:
            yield from self._complaints_of_command(self.command)
        yield (
            self.replicates > 1 and not self.is_to_train,
            f"expected no replicates beside {sources[0]}: {getattr(self, sources[0])}: they are for {TRAIN}NAME alone; "
            "give each network an entry",
        )
        words = f"expected no trained beside checkpoint: {checkpoint}: it is for {TRAIN}NAME alone"
        yield self.trained and not self.is_to_train, words
        words = "expected a bundle without arch, migration and prefix: its configuration says what it is"
        yield self.bundle and (self.arch or self.migration or self.prefix is not None), words
        for key in OF_A_NETWORK:
            words = f"expected an ensemble without {key}: that is its members' own"
            yield self.ensemble and getattr(self, key), words

    def _complaints_of_command(self, command: Sequence[str]) -> Iterator[tuple[object, str]]:
        """Yields those of the entry's `command`."""
        for key in ("args", "roi", "migration", "prefix", "inference"):
            words = f"expected a command without {key}: it segments whole volumes: leave it out"
            yield getattr(self, key), words
        yield (
            self.input and self.input.model_dump(exclude={"axes"}, exclude_defaults=True),
            "expected input of a command to hold axes alone, as it sees the file's own unit",
        )
        words = f"expected arch: {COMMAND} beside a command, got {self.arch}: leave it out"
        yield self.arch not in (None, COMMAND), words
        for place in (IMAGE, LABELS):
            words = f"expected {place} in a word of the command, got none: it stands for the file's path"
            yield not any(place in word for word in command), words
