"""Reads training jobs: networks, each with its objective and schedule, and a benchmark job's entries for them. The
defaults are the papers' training (Hanif et al., MICCAI 2023, arXiv:2307.07269) counted in optimizer steps for the 18
training volumes of Synapse: 5000 epochs, 50 of them warm-up, validation every 100."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from freqbench.core import limits
from freqbench.core.config import Architecture, FileName, Strict, Threads, explain
from freqbench.core.errors import UserError
from freqbench.job.sweep import AttackEntry, DatasetEntry, parse_value, require_distinct

INHERITED = ("arch", "args", "roi")
SCRATCH = "scratch"
OWN = "own"
TRADES_BETA = 6.0
BatchSize = Annotated[PositiveInt, Field(le=4096)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Splits(Strict):
    """The dataset's lists for learning, for choosing the best weights, and for measuring once at the end.

    `selected_on_test` lets `select` and `test` share cases, as in the papers, which have two lists: the figure on
    `test` is then flattered, and the record of the weights states it.
    """

    train: str
    select: str
    test: str
    selected_on_test: bool = False


class Augmentation(Strict):
    """Probabilities of the random changes of a crop.

    Attributes:
        flip: probability of mirroring, on each axis; three values for axes that differ (anatomy with a left and a right
            side).
        rotate90: probability of one to three quarter turns in the first two axes; ignored if the ROI is not square
            there.
        scale_intensity: probability of multiplying by a factor from [0.9, 1.1].
        shift_intensity: probability of adding an offset from [-0.1, 0.1].
    """

    flip: Probability | tuple[Probability, Probability, Probability] = 0.2
    rotate90: Probability = 0.2
    scale_intensity: Probability = 0.1
    shift_intensity: Probability = 0.1


class TrainingSchedule(Strict):
    """Duration and speed of one network's training.

    Attributes:
        steps: optimizer steps.
        batch_size: crops per step.
        lr: learning rate at the end of the warm-up.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps of linear rise before the cosine decay to zero.
        validate_every: steps between two validations; one more follows at the end.
        max_minutes: stop at the next step after this many minutes of training; the learning rate follows `steps`
            anyway.
        accumulate: number of parts in which a step's crops pass through the network, if they do not fit at once.
        clip_norm: limit of the gradient's L2 norm; None: no limit.
        precision: precision of the network: `bf16` under autocast, `fp32`, or `auto`: bf16 on CUDA.
    """

    steps: PositiveInt = 90_000
    batch_size: BatchSize = 4
    lr: PositiveFloat = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 900
    validate_every: PositiveInt = 1800
    max_minutes: PositiveFloat | None = None
    accumulate: PositiveInt = 1
    clip_norm: PositiveFloat | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class FrequencyConsistency(Strict):
    """VAFT's term that keeps the spectra of clean and attacked logits close.

    Attributes:
        form: `released`: the sum of differences over the sum of the clean spectrum; `paper`: the differences' plain L1
            norm, which grows with the crop.
        block: `whole`: one transform over the crop, as released; or voxels per side of a block.
    """

    weight: PositiveFloat = 1.0
    form: Literal["released", "paper"] = "released"
    block: Literal["whole"] | PositiveInt = "whole"


class Union(Strict):
    """Several attacks that one network is trained on. Tramer and Boneh, NeurIPS 2019, arXiv:1904.13000.

    Attributes:
        attacks: two or more, each with its own budget and steps.
        mix: attack that a crop meets: `random`: one, drawn by `shares` for all crops of a pass; `worst`: the one that
            leaves the highest loss (their "max"); `average`: each, and the network learns from the mean of their losses
            (their "avg").
        shares: relative probabilities of `random`; None: equal.
    """

    attacks: Annotated[tuple[AttackEntry, ...], Field(min_length=2)]
    mix: Literal["random", "worst", "average"]
    shares: tuple[PositiveFloat, ...] | None = None

    @model_validator(mode="after")
    def _has_a_share_each(self) -> "Union":
        shares = len(self.shares or ())
        attacks = len(self.attacks)
        if shares and self.mix != "random":
            raise ValueError(f"expected no shares for mix: {self.mix}, got some: leave them out, or say random")
        if shares and shares != attacks:
            raise ValueError(f"expected {attacks} shares, one for each attack, got {shares}")
        return self


class Noise(Strict):
    """Random change of every crop, of one of the kinds that certificates know (`freqbench.ops.changes`).

    Attributes:
        kind: kind of change. Shifts are none of them: their labels would have to move too.
        sigma: standard deviation of each of its parameters.
    """

    kind: Literal["voxels", "bias_field", "gain_offset", "dct_bands"]
    sigma: PositiveFloat


class Validation(Strict):
    """Validation of the weights on the select list.

    Attributes:
        attack: attack under which the list is predicted too: as in a benchmark's job file, `own` for the one that the
            network is trained on (a `clean` network has none, a union several), or a list of these. None: QUICK_ATTACK
            for networks trained on one `linf` attack, `own` for those trained on others, else none.
        choose_by: the mean foreground Dice that picks the best weights.
            `clean`: on clean volumes, as in the papers; the default without an attack.
            `attacked`: the mean over attacks; never the default.
            `worst`: the lowest of each case under any attack; the default of a union.
            `mean`: the mean of `clean` and `attacked`; the default with an attack. It keeps clean Dice from falling.
    """

    attack: AttackEntry | Literal["own"] | tuple[AttackEntry | Literal["own"], ...] | None = None
    choose_by: Literal["clean", "attacked", "mean", "worst"] | None = None

    @field_validator("attack", mode="before")
    @classmethod
    def _attacks(cls, given: Any) -> Any:
        def is_attack(one: Any) -> bool:
            return one == OWN or isinstance(one, AttackEntry) or (isinstance(one, dict) and "name" in one)

        if given is None or is_attack(given):
            return given
        if not (isinstance(given, list | tuple) and given and all(map(is_attack, given))):
            raise ValueError(f"expected an attack {{name: ..., ...}}, {OWN}, or a list of these, got {given!r:.300}")
        return given

    @property
    def attacks(self) -> tuple[AttackEntry | Literal["own"], ...]:
        """The attacks of `attack`, one or several; empty if it is None."""
        attack = self.attack
        if attack is None:
            return ()
        return attack if isinstance(attack, tuple) else (attack,)


QUICK_ATTACK = AttackEntry.model_validate({"name": "pgd", "eps": "4/255", "steps": 3, "step_size": "2/255"})


class ModelRecipe(Strict):
    """One network to train; its schedule fields, if given, replace those of the job.

    Attributes:
        arch: a name of `freqbench.models.MODELS`; None, as for `args` and `roi`: that of the model it starts from.
        roi: voxels of a crop and of a window, per side.
        objective: `clean`: Dice + cross-entropy on the crops; `at`: on attacked crops only (the papers' adversarial
            training); `vaft`: on both, with the frequency consistency, if given, between them; `trades`: on the crops,
            with `beta` times the divergence of the attacked predictions from the clean ones.
        attack: attack of all but `clean`, as in a benchmark's job file, but with one value per parameter.
        union: several attacks instead of `attack`.
        beta: weight of the divergence; None: the 6 of TRADES.
        ema: decay, per step, of an exponential moving average of the weights, which is then what is judged and kept.
        random_budget: lowest and highest budget; one is drawn uniformly every step in place of the attack's own.
        start: initial weights: another model of the job, a checkpoint, or `scratch`; None: `scratch` for `clean`, else
            the job's one clean model.
        augmentation: replaces the job's augmentation as a whole.
        noise: change that is drawn for every crop after its augmentation, as the defence `smoothing` draws one for
            every prediction; the crop is then clamped to [0, 1].
        replicates: number of networks of this recipe, in place of the job's.
    """

    name: FileName
    arch: Architecture | None = None
    args: dict[str, Any] | None = None
    roi: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    objective: Literal["clean", "at", "vaft", "trades"] = "clean"
    attack: AttackEntry | None = None
    union: Union | None = None
    beta: PositiveFloat | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    random_budget: Annotated[tuple[PositiveFloat, PositiveFloat] | None, BeforeValidator(parse_value)] = None
    frequency_consistency: FrequencyConsistency | None = None
    start: Annotated[str, Field(min_length=1)] | None = None
    augmentation: Augmentation | None = None
    noise: Noise | None = None
    replicates: PositiveInt | None = None
    steps: PositiveInt | None = None
    batch_size: BatchSize | None = None
    lr: PositiveFloat | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    validate_every: PositiveInt | None = None
    max_minutes: PositiveFloat | None = None
    accumulate: PositiveInt | None = None
    clip_norm: PositiveFloat | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None

    @model_validator(mode="after")
    def _objective_is_whole(self) -> "ModelRecipe":
        name = self.name
        objective = self.objective
        budget = self.random_budget
        if objective == "clean":
            keys = ("attack", "union", "random_budget", "frequency_consistency")
            if surplus := [key for key in keys if getattr(self, key)]:
                raise ValueError(f"{name}: expected no {surplus[0]} for objective: clean, got one: say at or vaft")
        elif not self.attacks:
            raise ValueError(f"{name}: expected an attack for objective: {objective}, got none: give one")
        if self.union and (self.attack or budget):
            key = "attack" if self.attack else "random_budget"
            raise ValueError(f"{name}: expected no {key} beside union, got both: each of its attacks has a budget")
        for key, of in (("beta", "trades"), ("frequency_consistency", "vaft")):
            if getattr(self, key) and objective != of:
                raise ValueError(f"{name}: expected {key} for objective: {of} alone: say {of}")
        if budget and budget[0] > budget[1]:
            raise ValueError(f"{name}: expected random_budget: [lowest, highest], got {budget}")
        return self

    @property
    def divergence_weight(self) -> float | None:
        """Weight of the divergence of `trades`; None for other objectives."""
        return (self.beta or TRADES_BETA) if self.objective == "trades" else None

    @property
    def attacks(self) -> dict[str, AttackEntry]:
        """The attacks that it is trained on, by their key; empty for a `clean` network."""
        if self.union:
            return {f"union.attacks[{i}]": attack for i, attack in enumerate(self.union.attacks)}
        return {"attack": self.attack} if self.attack else {}


def suffix(number: int) -> str:
    """Returns the suffix of the name of the replicate `number`: empty for the first, 0, then `.1`, `.2` and so on."""
    return f".{number}" if number else ""


def _nearest(chain: Sequence[ModelRecipe], key: str) -> Any:
    """Returns a setting of the first model in a chain that states it; None if none does."""
    return next((value for model in chain if (value := getattr(model, key)) is not None), None)


class TrainJob(TrainingSchedule):
    """A training job file, read by `freqbench.core.config.load`.

    Attributes:
        name: name of the job; results go to `runs/<name>` by default.
        splits: lists of cases for learning (`train`), for choosing weights (`select`) and for measuring (`test`).
        dataset: `name`, `loader` (default: the name) and the loader's own parameters; a `split` in it is ignored.
        models: networks, trained one after another.
        seed: seed of weights, crops and augmentation.
        replicates: number of times that each network is trained, with the seeds `seed`, `seed` + 1, ...: networks
            `NAME`, `NAME.1`, `NAME.2`. A network that starts from a model of the job starts from the replicate with its
            own number.
        half: store the best weights in half precision (the form of the packaged zoo).
        threads: CPU threads of torch; on a CPU, the last bits of results depend on them. None: torch's choice.
        licence: terms of use of the weights, stored beside them; None: those of the data, if known.
        engine: `local`: in this process; `ray`: data-parallel over `workers` by Ray Train.
        workers: processes of `engine: ray`, each with a GPU if there are any; they share a step's crops.
        loaders: processes that cut and augment crops while a step is computed; `auto`: one on a CPU, up to four on
            CUDA; 0: none. They are in no identity.
        trust_code: allow code of other packages to run, as `--trust-code` does; beside `train://`, that of the job with
            attacks alone counts.
    """

    name: FileName
    dataset: DatasetEntry
    splits: Splits
    models: Annotated[tuple[ModelRecipe, ...], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    replicates: PositiveInt = 1
    augmentation: Augmentation = Augmentation()
    half: bool = False
    threads: Threads | None = None
    validation: Validation = Validation()
    licence: str | None = None
    engine: Literal["local", "ray"] = "local"
    workers: PositiveInt = 2
    loaders: Literal["auto"] | Annotated[int, Field(ge=0, le=256)] = "auto"
    trust_code: bool = False

    @model_validator(mode="after")
    def _is_consistent(self) -> "TrainJob":
        names = [model.name for model in self.models]
        require_distinct("models", names)
        replicates = {model.name: self.replicates_of(model) for model in self.models}
        limits.require(sum(replicates.values()), limits.MODELS, "networks to train")
        taken: dict[str, str] = {}
        for name, several in replicates.items():
            taken |= {f"{name}{suffix(number)}": name for number in range(1, several)}
        for name in names:
            if name in taken:
                called = f"which is what a replicate of {taken[name]} is called"
                raise ValueError(f"expected names that replicates leave free, got {name}, {called}: rename one")
        for model in self.models:
            name = model.name
            schedule = self.schedule(model)
            if schedule.warmup_steps >= schedule.steps:
                got = f"{schedule.warmup_steps} and {schedule.steps}"
                raise ValueError(f"{name}: expected warmup_steps below steps, got {got}: lower warmup_steps")
            parts = schedule.accumulate * (self.workers if self.engine == "ray" else 1)
            if schedule.batch_size % parts:
                expected = f"a batch_size that accumulate x workers = {parts} divides"
                raise ValueError(f"{name}: expected {expected}, got {schedule.batch_size}: change one of them")
            self.whole(model)
            start = self.start(model)
            several = replicates[name]
            if replicates.get(start, limits.MODELS) < several:
                raise ValueError(
                    f"{name}: expected at most the {replicates[start]} replicates of {start}, from which they "
                    f"start, got {several}: give {start} as many"
                )
        return self

    def replicates_of(self, model: ModelRecipe) -> int:
        """Returns the number of networks of a recipe."""
        return model.replicates or self.replicates

    def start(self, model: ModelRecipe) -> str:
        """Returns the origin of a model's first weights: SCRATCH, another model's name, or a checkpoint."""
        if model.start or model.objective == "clean":
            return model.start or SCRATCH
        clean = [other.name for other in self.models if other.objective == "clean"]
        if len(clean) != 1:
            advice = f"name a model or a checkpoint, or say start: {SCRATCH}"
            rest = f"and the job has {', '.join(clean) or 'none'}: {advice}"
            raise ValueError(f"{model.name}: start: adversarial training begins at a clean checkpoint, {rest}")
        return clean[0]

    def whole(self, model: ModelRecipe) -> ModelRecipe:
        """Returns a model with the settings that it inherits from the model of the job that it starts from."""
        seen = [model.name]
        chain = [model]
        by_name = {other.name: other for other in self.models}
        while (start := self.start(chain[-1])) in by_name:
            if start in seen:
                raise ValueError(f"{model.name}: start: {' -> '.join([*seen, start])} has no beginning: change one")
            seen.append(start)
            chain.append(by_name[start])
        inherited = {key: _nearest(chain, key) for key in INHERITED}
        if inherited["arch"] is None and start == SCRATCH:
            raise ValueError(f"{model.name}: arch: required, but not given")
        return model.model_copy(update={**inherited, "start": self.start(model)})

    def replicate(self, number: int) -> "TrainJob":
        """Returns the job that trains only the replicates of one number, counted from 0."""
        names = {model.name for model in self.models}
        models = []
        for model in self.models:
            if number >= self.replicates_of(model):
                continue
            ending = suffix(number)
            start = f"{model.start}{ending}" if model.start in names else model.start
            named = {"name": f"{model.name}{ending}", "start": start, "replicates": None}
            models.append(model.model_copy(update=named))
        return self.model_copy(update={"models": tuple(models), "seed": self.seed + number, "replicates": 1})

    @property
    def seed_jobs(self) -> "list[TrainJob]":
        """The jobs of one seed each: the first replicates of all networks, the second ones, and so on."""
        return [self.replicate(number) for number in range(max(map(self.replicates_of, self.models)))]

    @property
    def networks(self) -> list[ModelRecipe]:
        """All networks in training order: one replicate of all models after the other, each model after its start."""
        networks: list[ModelRecipe] = []
        for job in self.seed_jobs:
            networks += job.ordered_models
        return networks

    @property
    def ordered_models(self) -> list[ModelRecipe]:
        """The models, each after the one that it starts from."""
        ordered: list[ModelRecipe] = []
        while waiting := {model.name for model in self.models} - {model.name for model in ordered}:
            ordered += [model for model in self.models if model.name in waiting and self.start(model) not in waiting]
        return [self.whole(model) for model in ordered]

    def wanted_models(self, only: Collection[str] | None) -> list[ModelRecipe]:
        """Returns the models named in `only` and those that they start from, in training order; None: all."""
        ordered = self.ordered_models
        if only is None:
            return ordered
        names = set(only)
        for model in reversed(ordered):
            if model.name in names:
                names.add(self.start(model))
        return [model for model in ordered if model.name in names]

    def schedule(self, model: ModelRecipe) -> TrainingSchedule:
        """Returns the job's schedule with the model's own settings."""
        pairs = {name: (getattr(model, name), getattr(self, name)) for name in TrainingSchedule.model_fields}
        settings = {name: usual if own is None else own for name, (own, usual) in pairs.items()}
        return TrainingSchedule.model_validate(settings)


class TrainingEntry(Strict):
    """A training job that a benchmark job names: its path or its content, and the place of its networks.

    Attributes:
        out: a folder or URI; None: `runs/<name>` of the training job.
    """

    job: Annotated[str, Field(min_length=1)] | TrainJob
    out: Annotated[str, Field(min_length=1)] | None = None

    @pydantic.field_serializer("job")
    def _dump_given(self, job: str | TrainJob) -> Any:
        """Serialises a job without its defaults."""
        return job if isinstance(job, str) else job.model_dump(mode="json", exclude_unset=True)


def training_entry(given: Any) -> Any:
    """Completes an entry, or a training job alone, by path or content; raises UserError that names a wrong key."""
    if isinstance(given, TrainingEntry):
        return given
    entry = dict(given) if isinstance(given, Mapping) and "job" in given else {"job": given}
    if isinstance(entry["job"], Mapping):
        try:
            entry["job"] = TrainJob.model_validate(entry["job"])
        except pydantic.ValidationError as error:
            raise UserError(explain(error, TrainJob)) from None
    return entry
