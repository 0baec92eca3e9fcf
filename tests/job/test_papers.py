"""The jobs of the papers' tables can be tried without their data. That each published number has its cell is shown by
the tests of the tables."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from freqbench.core import config
from freqbench.job.grid import Grid, expand
from freqbench.job.rehearsal import counted, missing, rehearsed
from freqbench.job.schema import JobSpec, build_dataset

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture(autouse=True)
def _without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FREQBENCH_DATA", "FREQBENCH_CHECKPOINTS"):
        monkeypatch.delenv(variable, raising=False)


def job(name: str) -> JobSpec:
    return config.load(str(JOBS / f"{name}.yaml"), JobSpec)


def tried(name: str) -> Grid:
    """The grid of a job on small stand-ins; the attacks' own numbers of steps are not those of the job."""
    return expand(rehearsed(job(name)))


def test_steps_of_table_3_are_those_published() -> None:
    (entry,) = job("vafa_table3").attacks
    assert entry.own["steps"] == [10, 20, 30, 40, 50, 60]


def test_what_is_missing_is_told_by_name_with_the_place_to_get_it() -> None:
    said = {each.what: str(each) for each in missing(job("sa2_main"))}
    assert set(said) == {
        "dataset synapse",
        "dataset acdc",
        *(f"model {arch} of {dataset}" for arch in ("unet", "unetr", "swin_unetr") for dataset in ("synapse", "acdc")),
    }
    assert "to be had from https://www.synapse.org" in said["dataset synapse"]
    assert "${FREQBENCH_CHECKPOINTS}/acdc/unet/clean.pt" in said["model unet of acdc"]
    assert "to be had from https://github.com/asif-hanif/saa" in said["model unet of acdc"]


def test_what_is_there_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_CHECKPOINTS", str(tmp_path))
    (tmp_path / "synapse/unetr").mkdir(parents=True)
    (tmp_path / "synapse/unetr/clean.pt").touch()
    assert [each.what for each in missing(job("vafa_table1"))] == ["dataset synapse"]


def test_cases_and_passes_are_counted_without_the_data() -> None:
    """12 validation volumes, 20 steps of one forward and one backward pass over each window of a usual volume."""
    spec = job("vafa_table4")
    grid = expand(counted(spec, missing(spec)))
    assert len(grid.cases["synapse"]) == 12
    (unit, *_) = grid.units()
    assert unit.passes == 2 * 20 * unit.num_windows
    assert unit.num_windows == 3 * 3 * 2


def test_a_number_of_steps_that_multiplies_stays_as_many_cells() -> None:
    assert len(tried("vafa_table3").cells) == 6


def test_a_mistake_in_the_job_is_none_of_what_is_missing(tmp_path: Path) -> None:
    from freqbench.core.errors import UserError

    spec = job("vafa_table1")
    wrong = spec.model_copy(update={"datasets": [spec.datasets[0].model_copy(update={"split": "valdiation"})]})
    with pytest.raises(UserError, match=r"unknown split 'valdiation'\. Did you mean 'validation'"):
        missing(wrong)


def test_stand_ins_keep_the_arguments_of_the_released_code_s_names_too(tmp_path: Path) -> None:
    """A file whose name begins with `random` is a file."""
    data = [{"name": "phantom", "cases": 1}]
    path = str(tmp_path / "random.pt")
    models = [{"name": "m", "arch": "unetr-pp", "checkpoint": path, "args": {"stem": [1, 4, 4]}}]
    spec = JobSpec.model_validate({"name": "j", "datasets": data, "models": models, "attacks": [{"name": "fgsm"}]})
    lacking = missing(spec)
    assert [each.what for each in lacking] == ["model m"]
    assert counted(spec, lacking).models[0].args == {"stem": [1, 4, 4]}


def test_attacks_whose_radius_shrinks_are_tried_with_a_step_for_every_radius() -> None:
    attacks = [cell.attack for cell in tried("suite_hippocampus").cells]
    assert {"sea", "autoattack"} <= {attack.name for attack in attacks}
    assert {attack.steps for attack in attacks if getattr(attack, "eps_schedule", None)} == {4}


def test_hecktor_is_read_by_the_list_that_was_released_and_shown_as_its_networks_saw_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stored LPS, windowed and in MONAI's orientation PLS, with all of its voxels."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    voxels = np.random.default_rng(0).uniform(-300, 400, (6, 5, 4)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 3, voxels.shape).astype(np.uint8)
    line = {"image": "ct/CHUV-048_ct_trans.nii.gz", "label": "gtvt/CHUV-048_gtvt_trans.nii.gz"}
    for path, values in ((line["image"], voxels), (line["label"], label)):
        (tmp_path / "hecktor" / path).parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "hecktor" / path)
    (tmp_path / "hecktor/dataset_hecktor.json").write_text(json.dumps({"train": [], "test": [line]}))
    monkeypatch.setenv("FREQBENCH_DATA", str(tmp_path))
    spec = job("malik_main")
    dataset = build_dataset(next(entry for entry in spec.datasets if entry.name == "hecktor"), "malik_main")
    (ref,) = dataset.refs()
    case = dataset.load(ref)
    networks = [model for model in spec.models if model.datasets == ("hecktor",)]
    expected = Orientation("PLS", labels=None)(MetaTensor((voxels[None] + 175) / 425, affine)).clamp(0, 1).as_tensor()
    for network in networks:
        assert network.input is not None
        assert torch.allclose(network.input.to_network(case.image[None])[0], expected.float(), atol=1e-6)
    assert len(networks) == 4
    assert dataset.num_classes == 3
    assert int(case.label.max()) == 2
