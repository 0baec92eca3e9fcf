"""Says what a job file may hold, as far as that can be told without the classes that it names."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator

from freqbench.core import limits, names
from freqbench.core.config import Architecture, FileName, Strict
from freqbench.core.errors import UserError
from freqbench.job.sweep import AttackEntry, DatasetEntry

DEFAULT_METRICS = ("dsc", "hd95", "ssim", "psnr", "lpips")

Auto = Literal["auto"] | PositiveInt
Metric = Annotated[str, AfterValidator(partial(names.known, "metrics", "metric"))]


class Resources(Strict):
    """What a worker may take; recorded with every row, in no identity.

    Attributes:
        workers: processes; `auto`: one a GPU share, or one for two cores and at least two; the serial engine has one.
        threads: CPU threads a worker; `auto`: cores / workers.
        gpus_per_worker: GPUs or a share of one, where there are any; 0: none.
    """

    workers: Auto = "auto"
    threads: Auto = "auto"
    gpus_per_worker: Annotated[float, Field(ge=0)] = 1.0


class NamedModel(BaseModel):
    """A model's entry of which the rest is not looked at."""

    model_config = ConfigDict(extra="allow")

    name: FileName
    arch: Architecture | None = None


def _known(entry: AttackEntry) -> AttackEntry:
    names.known("attacks", "attack", entry.name)
    return entry


class Outline(Strict):
    """What `freqbench.job.schema.JobSpec` says of a job file, of its models no more than names and architectures."""

    name: Annotated[FileName, Field(pattern=r"^[\w.-]+$")]
    datasets: Annotated[list[DatasetEntry], Field(min_length=1)]
    models: Annotated[Sequence[NamedModel], Field(min_length=1)]
    attacks: Annotated[list[Annotated[AttackEntry, AfterValidator(_known)]], Field(min_length=1)]
    training: tuple[Annotated[str, Field(min_length=1)] | dict[str, Any], ...] = ()
    targets: Literal["all", "source"] | Annotated[list[str], Field(min_length=1)] = "all"
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = DEFAULT_METRICS
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    resources: Resources = Resources()
    window_batch: Auto = "auto"
    case_timeout: PositiveFloat | None = None
    save_adversarial: Literal["none", "nifti"] = "none"
    trust_code: bool = False

    @field_validator("attacks")
    @classmethod
    def _can_be_made(cls, given: list[AttackEntry]) -> list[AttackEntry]:
        limits.require(sum(entry.count() for entry in given), limits.CELLS, "attacks")
        return given

    @field_validator("seeds", "metrics")
    @classmethod
    def _each_once(cls, given: tuple[Any, ...]) -> tuple[Any, ...]:
        for value, count in Counter(given).items():
            if count > 1:
                raise UserError(f"expected each once, got {value!r} {count} times: leave one")
        return given
