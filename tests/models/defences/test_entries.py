"""Defences in a model's entry: identities, refusals, and what is loaded."""

import json
from itertools import chain
from typing import Any

import pytest
import torch
from tiny_job import expanded, job, sent, small

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.job.grid import further_targets
from freqbench.job.schema import JobSpec
from freqbench.models import ModelEntry, ModelSpec, load, resolve, resolve_ensemble

CPU = torch.device("cpu")
BITS = {"name": "bit_depth", "bits": 3}
SMOOTHING = {"name": "randomized_smoothing", "sigma": 0.1, "samples": 5}


def entry(**changes: Any) -> dict[str, Any]:
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
    return {"name": "m", "arch": "unet", "checkpoint": "random", "args": args, "roi": (16, 16, 16), **changes}


def spec(**changes: Any) -> ModelSpec:
    return resolve(config.validate(entry(**changes), ModelEntry, "models[0]"), 3)


@pytest.mark.integration
def test_each_defence_and_attacker_makes_another_model() -> None:
    made = [
        spec(),
        spec(defence=BITS),
        spec(defence=BITS, adaptive=False),
        spec(defence={"name": "bit_depth", "bits": 4}),
        spec(defence={"name": "total_variation"}),
        spec(defence={"name": "total_variation", "weight": 0.1}),
        spec(defence=SMOOTHING),
        spec(defence=SMOOTHING | {"eot": 2}),
    ]
    assert len({each.model_id for each in made}) == len(made)
    assert spec(defence={"name": "total_variation", "steps": 20}).model_id == made[4].model_id


def test_a_record_names_the_defence_and_the_model_without_it() -> None:
    assert spec().defence_text is None
    told = json.loads(spec(defence=BITS, adaptive=False).defence_text or "")
    assert told == BITS | {"adaptive": False, "undefended": spec().model_id}


def test_a_defence_travels_to_workers_and_into_the_store() -> None:
    made = spec(defence=SMOOTHING)
    assert sent(made).model_id == made.model_id
    written = config.validate(entry(defence=SMOOTHING), ModelEntry, "m").model_dump(mode="json")
    assert config.validate(written, ModelEntry, "m").defence == made.defence


def test_defence_goes_around_ensemble_and_around_its_members() -> None:
    members = [spec(name="a", defence=BITS), spec(name="b", checkpoint="random:1")]
    whole = config.validate({"name": "e", "ensemble": ["a", "b"], "defence": SMOOTHING}, ModelEntry, "m")
    model = load(resolve_ensemble(whole, members), CPU)
    assert model.defence is not None
    assert model.net.members[0].defence is not None
    x = torch.rand(1, 1, 16, 16, 16)
    torch.testing.assert_close(model.net.members[0](x), load(spec(), CPU)((x * 7).round() / 7), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defence": {"name": "bit_dept"}}, r"defence: unknown defence 'bit_dept'\. Did you mean 'bit_depth'"),
        ({"defence": BITS | {"bit": 3}}, r"defence: bit_depth: unknown key 'bit'\. Did you mean 'bits'"),
        ({"defence": {"name": "bit_depth"}}, "defence: bit_depth: bits: required, but not given"),
        ({"defence": BITS | {"bits": 0}}, "defence: bit_depth: bits: .*greater than or equal to 1, got 0"),
        ({"defence": "bit_depth"}, r"defence: expected a mapping with a name, .*got 'bit_depth'"),
        ({"defence": SMOOTHING | {"tau": 0.4}}, "tau: .*greater than or equal to 0.5"),
        ({"adaptive": False}, "expected adaptive: false beside a defence, got none"),
        ({"defence": {"name": "total_variation"}, "adaptive": False}, "no adaptive: false beside total_variation"),
    ],
)
def test_wrong_defences_are_refused_in_one_line_with_their_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        expanded(small(models=[entry(**changes)]))
    assert str(caught.value).startswith("job.yaml: models[0]")


def test_one_checkpoint_stands_once_a_defence() -> None:
    models = [entry(name="plain"), entry(name="bits", defence=BITS), entry(name="naive", defence=BITS, adaptive=False)]
    _, grid = expanded(small(models=models))
    assert len(grid.cells) == 3
    with pytest.raises(UserError, match="the same network with the same weights as bits"):
        expanded(small(models=[*models, entry(name="again", defence=BITS)]))


def test_a_checkpoint_to_score_on_is_the_model_without_defence() -> None:
    models = [entry(name="plain", checkpoint="random:3"), entry(name="bits", checkpoint="random:3", defence=BITS)]
    grid = further_targets(config.validate(job(models=models), JobSpec, "job.yaml"), ["random:3"])
    targets = chain.from_iterable(cell.targets for cell in grid.cells)
    assert {target.name for target in targets} == {"plain"}
