"""What a training job says: networks, lists of cases, schedule and augmentation.

The defaults are the papers' clean training (Hanif et al., MICCAI 2023, arXiv:2307.07269) counted in optimizer steps
for the 18 training volumes of Synapse: 5000 epochs, 50 of them warm-up, validation every 100.
"""

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from freqbench.config import FileName, Strict

Probability = Annotated[float, Field(ge=0, le=1)]


class Splits(Strict):
    """The dataset's lists: learned from, used to choose the best weights, and measured once at the end.

    Attributes:
        train: cases that the optimizer sees.
        select: cases whose mean foreground Dice picks the best weights.
        test: cases of the figure that is reported.
    """

    train: str
    select: str
    test: str


class Augmentation(Strict):
    """Probabilities of the random changes of a crop; the size of the intensity changes is fixed at 0.1.

    Attributes:
        flip: of mirroring, on each axis; three values for axes that differ (anatomy with a left and a right side).
        rotate90: of one to three quarter turns in the first two axes; left out where the ROI is not square there.
        scale_intensity: of multiplying by a factor from [0.9, 1.1].
        shift_intensity: of adding an offset from [-0.1, 0.1].
    """

    flip: Probability | tuple[Probability, Probability, Probability] = 0.2
    rotate90: Probability = 0.2
    scale_intensity: Probability = 0.1
    shift_intensity: Probability = 0.1


class Schedule(Strict):
    """How long and how fast one network learns.

    Attributes:
        steps: optimizer steps.
        batch_size: crops a step.
        lr: learning rate at the end of the warm-up.
        weight_decay: of AdamW.
        warmup_steps: steps of linear rise before the cosine decay to zero.
        validate_every: steps between two validations; one more stands at the end.
        max_minutes: stop at the next step after so many minutes of training; the learning rate follows `steps` anyway.
    """

    steps: PositiveInt = 90_000
    batch_size: PositiveInt = 4
    lr: PositiveFloat = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 900
    validate_every: PositiveInt = 1800
    max_minutes: PositiveFloat | None = None


class ModelRecipe(Strict):
    """One network to train; the schedule's fields, where given, replace those of the job.

    Attributes:
        name: of its folder below OUT.
        arch: a name of `freqbench.models.MODELS`.
        args: the architecture's own arguments.
        roi: voxels of a crop and of a window, a side.
    """

    name: FileName
    arch: str
    args: dict[str, Any] = Field(default_factory=dict)
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] = (96, 96, 96)
    steps: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    lr: PositiveFloat | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    validate_every: PositiveInt | None = None
    max_minutes: PositiveFloat | None = None


class TrainJob(Schedule):
    """A training job file, read by `freqbench.config.load`.

    Attributes:
        name: of the job; OUT is `runs/<name>` unless given.
        dataset: `name`, `loader` (default: the name) and the loader's own parameters; a `split` in it is ignored.
        splits: three lists of that dataset without a case in common.
        models: networks, trained one after another.
        seed: of weights, crops and augmentation.
        augmentation: probabilities of the random changes of a crop.
        half: store the best weights in half precision (the form of the packaged zoo).
        threads: CPU threads of torch, None for torch's choice; on a CPU the last bits depend on them, so a job that is
            to give the same weights everywhere names them.
    """

    name: FileName
    dataset: dict[str, Any]
    splits: Splits
    models: Annotated[tuple[ModelRecipe, ...], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    augmentation: Augmentation = Augmentation()
    half: bool = False
    threads: PositiveInt | None = None

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: tuple[ModelRecipe, ...]) -> tuple[ModelRecipe, ...]:
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise ValueError(f"expected a different name for each model, got {', '.join(names)}: rename one")
        return models

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainJob":
        for model in self.models:
            schedule = self.schedule(model)
            if schedule.warmup_steps >= schedule.steps:
                raise ValueError(
                    f"{model.name}: expected warmup_steps below steps, got {schedule.warmup_steps} and "
                    f"{schedule.steps}: lower warmup_steps"
                )
        return self

    def schedule(self, model: ModelRecipe) -> Schedule:
        """The job's schedule with what a model sets for itself."""
        own = {name: getattr(model, name) for name in Schedule.model_fields}
        given = {name: value for name, value in own.items() if value is not None}
        return Schedule.model_validate({name: getattr(self, name) for name in Schedule.model_fields} | given)
