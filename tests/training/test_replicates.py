"""Networks that are trained several times over, with seeds that follow each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freqbench import models
from freqbench.core.errors import UserError
from freqbench.training import TrainJob, identities, train
from freqbench.training.loop import Training
from freqbench.training.plan import prepare

MakeJob = Callable[..., TrainJob]
NET = {"arch": "unet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 1}, "roi": [16, 16, 16]}
CLEAN = {"name": "net", **NET}
AT = {"name": "at", "objective": "at", "attack": {"name": "pgd", "eps": "4/255", "steps": 1}}


@pytest.fixture
def job_of(tiny_job: MakeJob) -> MakeJob:
    def make(*models: dict[str, Any], **changes: Any) -> TrainJob:
        return tiny_job(**{"models": models or [CLEAN, AT], "steps": 2, "warmup_steps": 0, "loaders": 0} | changes)

    return make


def planned(job: TrainJob) -> dict[str, Training]:
    return {each.model.name: each for each in prepare(job, "out").trainings}


def test_the_first_keeps_its_name_and_identity(job_of: MakeJob) -> None:
    one, three = identities(job_of()), identities(job_of(replicates=3))
    assert [*three] == ["net", "at", "net.1", "at.1", "net.2", "at.2"]
    assert {name: three[name] for name in one} == one


def test_a_replicate_is_what_a_job_of_its_seed_trains(job_of: MakeJob) -> None:
    replicated, second = identities(job_of(replicates=3, seed=4)), identities(job_of(seed=6))
    assert [replicated["net.2"], replicated["at.2"]] == [second["net"], second["at"]]
    assert len(set(replicated.values())) == 6


def test_a_replicate_starts_from_the_one_of_its_number(job_of: MakeJob) -> None:
    for number in (0, 1):
        found = planned(job_of(replicates=2))
        end = ".1" if number else ""
        assert found[f"at{end}"].start == f"out/net{end}/best.safetensors"
        assert found[f"at{end}"].seed == number


def test_a_start_that_is_named_is_followed_and_a_checkpoint_is_shared(job_of: MakeJob) -> None:
    again = {**AT, "name": "again", "start": "at"}
    packaged = {**AT, "name": "zoo", "start": "zoo://phantom/unet"}
    found = planned(job_of(CLEAN, AT, again, packaged, replicates=2))
    assert found["again.1"].start == "out/at.1/best.safetensors"
    assert found["zoo.1"].start == found["zoo"].start == "zoo://phantom/unet"


def test_replicates_share_their_method_and_others_do_not(job_of: MakeJob) -> None:
    found = planned(job_of(CLEAN, AT, {**AT, "name": "longer", "steps": 3}, replicates=2))
    methods = {name: each.method for name, each in found.items()}
    assert methods["at"] == methods["at.1"]
    assert len(set(methods.values())) == 3


def test_a_method_is_that_of_another_job_and_seed(job_of: MakeJob) -> None:
    first, second = planned(job_of()), planned(job_of(name="later", seed=7))
    assert first["at"].method == second["at"].method
    assert first["at"].identity != second["at"].identity


def test_a_method_has_what_it_starts_from_in_it(job_of: MakeJob) -> None:
    assert planned(job_of())["at"].method != planned(job_of({**CLEAN, "lr": 0.5}, AT))["at"].method


def test_only_the_replicate_that_is_wanted_is_trained(job_of: MakeJob, tmp_path: Path) -> None:
    job = job_of(replicates=3)
    assert [each.name for each in train(job, str(tmp_path), progress=False, only=["at.1"])] == ["net.1", "at.1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at.1", "net.1"]
    stored = models.read_metadata(str(tmp_path / "at.1" / "best.safetensors"))["training"]
    assert (stored["seed"], stored["method"]) == (1, planned(job)["at"].method)


@pytest.mark.parametrize(
    ("names", "replicates", "complaint"),
    [
        (("net", "net.1"), 2, "expected names that replicates leave free, got net.1, which is what a replicate of net"),
        (("net",), 0, "replicates: Input should be greater than 0, got 0"),
    ],
)
def test_what_cannot_be_replicated_is_one_line(
    job_of: MakeJob, names: tuple[str, ...], replicates: int, complaint: str
) -> None:
    with pytest.raises(UserError) as caught:
        job_of(*({"name": name, **NET} for name in names), replicates=replicates)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
