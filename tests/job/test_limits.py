"""Numbers that no machine holds, and jobs that come to more than any could do, are one line before anything is made."""

from pathlib import Path
from typing import Any

import pytest
from tiny_job import ARGS, ROI, job, small

from freqbench.attacks import make
from freqbench.core import config, limits
from freqbench.core.errors import UserError
from freqbench.core.input_space import Preprocess
from freqbench.job.grid import expand
from freqbench.job.schema import JobSpec
from freqbench.models import sliding_windows
from freqbench.models.sources.source import Source
from freqbench.reporting.papers.recipes import Recipe, TableMetric

from .places import Changes, changed

WRONG = {"400 digits": 10**400, "5000 digits": 1 << 16_600, "inf": float("inf"), "nan": float("nan"), "flag": True}


def refusal(content: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        expand(config.validate(content, JobSpec, where="job.yaml"))
    return str(caught.value)


def misplaced(wrong: Any) -> dict[str, Changes]:
    """Changes of a job that put a number where it is wrong, by the place that the refusal names."""
    return {
        "seeds[0]": {"seeds": [wrong]},
        "window_batch": {"window_batch": wrong},
        "case_timeout": {"case_timeout": wrong},
        "resources.gpus_per_worker": {"resources.gpus_per_worker": wrong},
        "datasets[0].cases": {"datasets.0.cases": wrong},
        "models[0].roi[1]": {"models.0.roi": [16, wrong, 16]},
        "models[0].expected_dice": {"models.0.expected_dice": wrong},
        "attacks[0].eps": {"attacks.0.eps": wrong},
        "attacks[0].steps[1]": {"attacks.0.steps": [1, wrong]},
        "attacks[0].match.value": {"attacks.0.match": {"metric": "l2_body", "value": wrong}},
    }


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("place", misplaced(None))
def test_a_number_that_is_none_is_refused_wherever_it_stands(place: str, wrong: str) -> None:
    if wrong == "flag" and "match" in place:
        return  # budgets are sought before a grid is made
    text = refusal(changed(job(), misplaced(WRONG[wrong])[place]))
    assert text.startswith(f"job.yaml: {place.partition('[' if wrong == 'flag' else '|')[0]}")
    assert "expected" in text
    assert len(text) < 250


@pytest.mark.parametrize("wrong", [name for name in WRONG if name != "flag"])
def test_a_number_above_its_limit_is_refused_in_python_too(wrong: str) -> None:
    value = WRONG[wrong]
    for build in (
        lambda: make("pgd", eps=0.1, steps=value),
        lambda: make("vafa", q_max=value, block=8),
        lambda: make("vafa", q_max=20, block=(8, value, 8)),
        lambda: Preprocess.model_validate({"intensity": {"zscore": value}}),
        lambda: config.validate({"name": "dsc", "digits": value}, TableMetric, "recipe.yaml"),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 (a UserError or pydantic's)
            build()


@pytest.mark.parametrize("text", ["٨/255", "8/٢٥٥", "１e-3", "eps/٤", "8x٨x8", "9" * 400 + "/1", "8x8x" + "9" * 5000])
def test_a_number_in_words_has_the_digits_0_to_9_and_an_end(text: str) -> None:
    more = {"name": "sa2", "rho": 0.1, "block": text} if "x" in text else {"name": "pgd", "eps": 0.1, "step_size": text}
    assert "expected" in refusal(small(attacks=[more]))


@pytest.mark.parametrize("seed", ["1" + "0" * 400, "9" * 5000])
def test_a_seed_of_weights_has_an_end(seed: str) -> None:
    text = refusal(changed(job(), {"models.0.checkpoint": f"random:{seed}"}))
    assert text.startswith("job.yaml: models[0].checkpoint: expected random:SEED with at most 18 digits")


NUMBERS = list(range(1, 1001))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"attacks": [{"name": "pgd", "eps": NUMBERS, "steps": NUMBERS, "decay": [0.0] * 3000}]},
            "attacks: expected at most 100,000 attacks, got 3,000,000,000: ask for less, or raise all limits: "
            "FREQBENCH_LIMITS=30000",
        ),
        ({"attacks": [{"name": "gn", "std": NUMBERS * 50}] * 3}, "attacks: expected at most"),
        (
            {"attacks": [{"name": "gn", "std": 0.1}], "seeds": list(range(50_001))},
            "expected at most 100,000 cells, got 100,002",
        ),
        (
            {"models": [{"name": "a", "checkpoint": "train://a", "replicates": 10**9}]},
            "models: expected at most 1,000 models, got 1,000,000,000",
        ),
        (
            {"models.0.preprocess": {"size": [3000, 3000, 3000]}},
            "models[0].preprocess.size: expected at most 2,147,483,648 voxels of a volume, got 27,000,000,000",
        ),
        pytest.param(
            {"models.1.args": ARGS | {"num_res_units": 100}},
            "models[1]: expected at most 60 modules of a network, got 61",
            marks=pytest.mark.integration,
        ),
    ],
    ids=["grid", "many entries", "seeds", "replicates", "size", "network"],
)
def test_the_size_of_a_job_is_counted_before_it_is_made(
    changes: Changes, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MODULES", 60)
    assert refusal(changed(job(), changes)).startswith(f"job.yaml: {expected}")


def test_too_many_windows_are_those_of_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WINDOWS", 10)
    grid = expand(config.validate(small(models=[job()["models"][0] | {"roi": [8, 6, 4]}]), JobSpec, "job.yaml"))
    with pytest.raises(UserError, match=r"phantom: phantom_.*: expected at most 10 windows of 8x6x4 in"):
        next(grid.units()).num_windows  # noqa: B018 (a property that counts)


def test_windows_and_cells_of_a_table_are_counted_too() -> None:
    with pytest.raises(UserError, match="at most 100,000 windows of 4x4x4 in a volume of 900x900x900, got 11,390,625"):
        sliding_windows((900, 900, 900), (4, 4, 4), 0.0)
    entries = {"datasets": [{"name": str(i), "title": str(i), "cases": 1} for i in range(200)]}
    entries |= {"models": [{"name": str(i), "title": str(i)} for i in range(200)]}
    content = {"title": "", "rows": ["dataset"], "columns": ["model"], **entries, "attacks": [{"title": "clean"}]}
    with pytest.raises(UserError, match="at most 20,000 cells of a table, got 40,000"):
        config.validate({**content, "metrics": [{"name": "dsc"}]}, Recipe, "recipe.yaml")


def test_one_variable_raises_all_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limits.require(100, 100, "cells")
    with pytest.raises(UserError, match=r"at most 100 cells, got 101: .*FREQBENCH_LIMITS=2$"):
        limits.require(101, 100, "cells")
    monkeypatch.setenv(limits.VARIABLE, "2")
    limits.require(200, 100, "cells")
    for wrong in ("0", "-1", "1.5", "٢", "9" * 5000, ""):
        monkeypatch.setenv(limits.VARIABLE, wrong)
        with pytest.raises(UserError, match="FREQBENCH_LIMITS: expected a number"):
            limits.require(1, 100, "cells")


@pytest.mark.parametrize(
    ("arch", "args"),
    [
        *(("unet", ARGS | {"strides": [n]}) for n in (0, -2, 2**62)),
        *(("swin_unetr", {"patch_size": n}) for n in (0, -1)),
    ],
)
def test_a_stride_or_a_patch_of_nothing_is_one_line(arch: str, args: dict[str, Any]) -> None:
    content = small(models=[{"name": "a", "arch": arch, "checkpoint": "random", "args": args, "roi": ROI}])
    assert refusal(content).startswith(f"job.yaml: models[0]: {arch}: ")


def test_remarks_on_a_job_name_what_was_made_of_it() -> None:
    """A block beyond the window, and cells that stand in it twice."""
    entry = {"name": "sa2", "rho": [0.1, 0.1], "block": 32}
    grid = expand(config.validate(small(attacks=[entry]), JobSpec, where="job.yaml"))
    assert len(grid.cells) == 1
    assert grid.warnings == (
        "sa2: its block is longer than a window of a: cut to 16x16x16",
        "1 cells are the same as one before: each is computed once",
    )


def test_all_names_and_files_come_before_the_first_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(Source, "outline_of", lambda source, spec: made.append(spec.name))
    assert refusal(changed(job(), {"models.1.checkpoint": str(tmp_path / "none.safetensors")})).startswith(
        "job.yaml: models[1]: "
    )
    content = job(models=[*job()["models"], {"name": "e", "ensemble": ["a", "c"]}])
    assert "models[2]: e: ensemble: unknown model 'c'" in refusal(content)
    assert made == []
