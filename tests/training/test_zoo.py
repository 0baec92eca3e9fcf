"""The job that trains the packaged networks of real volumes: its files, and the first steps of two of its trainings."""

import json
import signal
from pathlib import Path
from shutil import copyfile

import pytest
import torch

from freqbench.job import schema
from freqbench.models import ModelEntry, packaged, read_metadata, resolve
from freqbench.training.loop import fit
from freqbench.training.plan import Prepared, prepare
from freqbench.training.state import BEST, State

JOB = Path(__file__).parents[2] / "jobs" / "research" / "hippocampus" / "zoo.yaml"
LOSSES = Path(__file__).with_name("zoo_losses.json")
CARRIED = [name for name in packaged.zoo_names() if name.startswith("hippocampus/")]
STEPS = 20


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results that has the packaged clean network, from which the others start."""
    out = tmp_path_factory.mktemp("zoo")
    (out / "unet").mkdir()
    copyfile(packaged.zoo_path("zoo://hippocampus/unet"), out / "unet" / BEST)
    return out


@pytest.fixture(scope="module")
def prepared(shared: Path, start: Path) -> Prepared:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREQBENCH_DATA", str(shared / "data"))
        return prepare(schema.load_any(str(JOB)), str(start))


@pytest.mark.integration
def test_each_network_states_the_recipe_that_the_job_has_now(prepared: Prepared) -> None:
    methods = {each.model.name: each.method for each in prepared.trainings}
    stated = {name.partition("/")[2]: read_metadata(f"zoo://{name}")["training"]["method"] for name in CARRIED}
    assert stated.items() <= methods.items()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "union"])
def test_the_first_steps_of_a_training_have_the_losses_of_the_packaged_one(
    name: str, prepared: Prepared, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREQBENCH_DATA", str(shared / "data"))
    [training] = [each for each in prepared.trainings if each.model.name == name]
    losses: list[float] = []

    def seen(state: State) -> None:
        losses.append(state.losses[-1][0])
        if state.step == STEPS:
            signal.raise_signal(signal.SIGINT)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(training, prepared.cases("train"), [], str(tmp_path), seen)
    finally:
        torch.set_num_threads(threads)
    stored = json.loads(LOSSES.read_text())[name]
    if name == "unet":
        assert losses == pytest.approx(stored, rel=1e-3)
    else:  # an adversary carries on how a processor rounds: with two threads a step moves by half, the mean by little
        assert losses[0] == pytest.approx(stored[0], rel=1e-3)
        assert sum(losses) == pytest.approx(sum(stored), rel=0.05)


@pytest.mark.parametrize("name", CARRIED)
def test_a_packaged_network_is_small_and_needs_only_its_name(name: str) -> None:
    address = f"zoo://{name}"
    assert packaged.zoo_path(address).stat().st_size <= 1.5e6
    assert resolve(ModelEntry(name="m", checkpoint=address), 3).num_classes == 3
    assert packaged.card(address).licence.startswith("CC-BY-SA 4.0")
