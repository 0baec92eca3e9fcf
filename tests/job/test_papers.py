"""The jobs of the papers' tables can be tried without their data."""

import itertools
import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from data.downloads import put
from monai.data import MetaTensor
from monai.transforms import Orientation

from freqbench.core import config
from freqbench.core.names import job_file
from freqbench.job.grid import Grid, expand
from freqbench.job.rehearsal import add_stand_ins, missing, shrink_job
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.models import build


@pytest.fixture(autouse=True)
def _without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FREQBENCH_DATA", "FREQBENCH_CHECKPOINTS"):
        monkeypatch.delenv(variable, raising=False)


def job(name: str) -> JobSpec:
    return config.load(job_file(name), JobSpec)


def tried(name: str) -> Grid:
    """The grid of a job on small stand-ins; the attacks' own numbers of steps are not those of the job."""
    return expand(shrink_job(job(name)))


def test_steps_of_table_3_are_those_published() -> None:
    (entry,) = job("papers/vafa_table3").attacks
    assert entry.own["steps"] == [10, 20, 30, 40, 50, 60]


def test_missing_data_and_checkpoints_name_their_source() -> None:
    said = {each.what: str(each) for each in missing(job("papers/sa2"))}
    what = ("dataset", "model unet of", "model unetr of", "model swin_unetr of")
    assert {*said} == set(map(" ".join, itertools.product(what, ("synapse", "acdc"))))
    assert "get it from https://www.synapse.org" in said["dataset synapse"]
    assert "${FREQBENCH_CHECKPOINTS}/acdc/unet/clean.pt" in said["model unet of acdc"]
    assert "get it from https://github.com/asif-hanif/saa" in said["model unet of acdc"]


def test_present_data_and_checkpoints_are_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_CHECKPOINTS", str(tmp_path))
    (tmp_path / "synapse/unetr").mkdir(parents=True)
    (tmp_path / "synapse/unetr/clean.pt").touch()
    assert [each.what for each in missing(job("papers/vafa_table1"))] == ["dataset synapse"]


def test_cases_and_passes_are_counted_without_the_data() -> None:
    """12 validation volumes, 20 steps of one forward and one backward pass over each window of a usual volume."""
    spec = job("papers/vafa_table4")
    grid = expand(add_stand_ins(spec, missing(spec)))
    assert len(grid.cases["synapse"]) == 12
    (unit, *_) = grid.units()
    assert (unit.passes, unit.num_windows) == (2 * 20 * unit.num_windows, 3 * 3 * 2)


def test_a_mistake_in_the_job_is_none_of_what_is_missing(tmp_path: Path) -> None:
    from freqbench.core.errors import UserError

    spec = job("papers/vafa_table1")
    wrong = spec.model_copy(update={"datasets": [spec.datasets[0].model_copy(update={"split": "valdiation"})]})
    with pytest.raises(UserError, match=r"unknown split 'valdiation'\. Did you mean 'validation'"):
        missing(wrong)


def test_stand_ins_keep_arguments_of_released_code_s_names_too(tmp_path: Path) -> None:
    """A file whose name begins with `random` is a file."""
    data = [{"name": "phantom", "cases": 1}]
    models = [{"name": "m", "arch": "unetr-pp", "checkpoint": str(tmp_path / "random.pt"), "args": {"stem": [1, 4, 4]}}]
    spec = JobSpec.model_validate({"name": "j", "datasets": data, "models": models, "attacks": [{"name": "fgsm"}]})
    lacking = missing(spec)
    assert [each.what for each in lacking] == ["model m"]
    assert add_stand_ins(spec, lacking).models[0].args == {"stem": [1, 4, 4]}


def test_shrinking_radii_are_tried_with_a_step_each() -> None:
    attacks = [cell.attack for cell in tried("hippocampus/suite").cells]
    assert {"sea", "autoattack"} <= {attack.name for attack in attacks}
    assert {attack.steps for attack in attacks if getattr(attack, "eps_schedule", None)} == {4}


def test_hecktor_is_read_by_the_released_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file stored LPS, windowed and in MONAI's orientation PLS, with all of its voxels."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    voxels = np.random.default_rng(0).uniform(-300, 400, (6, 5, 4)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 3, voxels.shape).astype(np.uint8)
    line = {"image": "ct/CHUV-048_ct_trans.nii.gz", "label": "gtvt/CHUV-048_gtvt_trans.nii.gz"}
    for path, values in ((line["image"], voxels), (line["label"], label)):
        (tmp_path / "hecktor" / path).parent.mkdir(parents=True)
        put(tmp_path / "hecktor" / path, values, affine)
    (tmp_path / "hecktor/dataset_hecktor.json").write_text(json.dumps({"train": [], "test": [line]}))
    monkeypatch.setenv("FREQBENCH_DATA", str(tmp_path))
    spec = job("papers/malik")
    dataset = build_dataset(next(entry for entry in spec.datasets if entry.name == "hecktor"), "papers/malik")
    (ref,) = dataset.refs()
    case = dataset.load(ref)
    networks = [model for model in spec.models if model.datasets == ("hecktor",)]
    expected = Orientation("PLS", labels=None)(MetaTensor((voxels[None] + 175) / 425, affine)).clamp(0, 1).as_tensor()
    for network in networks:
        assert network.input is not None
        assert torch.allclose(network.input.to_network(case.image[None])[0], expected.float(), atol=1e-6)
    assert (len(networks), len(dataset.classes), int(case.label.max())) == (4, 3, 2)


TASKS = ("brain", "heart", "liver", "hippocampus", "prostate", "lung", "pancreas", "vessel", "spleen", "colon")


def part_of_rog(model: str, *tasks: str) -> JobSpec:
    """The job on some tasks, with one of the two networks of each."""
    spec = job("papers/rog_msd")
    datasets = [entry for entry in spec.datasets if entry.name in tasks]
    models = [entry for entry in spec.models if entry.name == model and set(entry.datasets or ()) <= {*tasks}]
    attacks = []
    for entry in spec.attacks:
        of_entry = [task for task in tasks if task in (entry.datasets or tasks)]
        attacks.append(entry.model_copy(update={"datasets": of_entry}))
    return spec.model_copy(update={"datasets": datasets, "models": models, "attacks": attacks})


def test_rog_msd_lacks_ten_tasks_and_two_networks_of_each() -> None:
    lacking = missing(job("papers/rog_msd"))
    expected = set[str]()
    for task in TASKS:
        expected |= {f"dataset {task}", f"model rog-clean of {task}", f"model rog-free_at of {task}"}
    assert {each.what for each in lacking} == expected
    assert all("http" in each.source for each in lacking)


@pytest.mark.integration
def test_rog_is_planned_without_data_and_checkpoints() -> None:
    """Every window suits its strides, every normalisation the task's channels."""
    spec = part_of_rog("rog-clean", *TASKS)
    grid = expand(add_stand_ins(spec, missing(spec)))
    channels = {cell.dataset.name: cell.source.num_channels for cell in grid.cells}
    assert channels == dict.fromkeys(TASKS, 1) | {"brain": 4, "prostate": 2}
    with_dlr = {cell.dataset.name for cell in grid.cells if getattr(cell.attack, "members", ()) == ("apgd-dlr",)}
    assert {*TASKS} - with_dlr == {"heart", "lung", "spleen", "colon"}, "the ratio takes three classes"


def test_rog_is_tried_on_phantoms() -> None:
    assert len(expand(shrink_job(part_of_rog("rog-free_at", "brain", "heart"))).cells) == 5 + 4


def test_rogs_lists_and_checkpoints_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("FREQBENCH_CHECKPOINTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    task = tmp_path / "msd" / "Task04_Hippocampus"
    image = np.random.default_rng(0).integers(0, 900, (35, 51, 35)).astype(np.float32)
    for kind, voxels in {"imagesTr": image, "labelsTr": (image > 300).astype(np.uint8)}.items():
        (task / kind).mkdir(parents=True)
        for number in (1, 7):
            case = nibabel.Nifti1Image(voxels + number % 2, np.eye(4))
            nibabel.save(case, task / kind / f"hippocampus_00{number}.nii.gz")
    names = [f"hippocampus_00{n}.nii.gz" for n in (1, 7)]
    training = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    (task / "dataset.json").write_text(json.dumps({"name": "hippocampus", "labels": labels, "training": training}))
    (lists := tmp_path / "ROG" / "Tasks" / task.name).mkdir(parents=True)
    (lists / "val_fold0.csv").write_text(f"image,label\n{training[1]['image']},{training[1]['label']}\n")
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "paper-tables.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(block, {})

    place = tmp_path / "rog" / task.name / "clean" / "fold_0"
    place.mkdir(parents=True)
    net = build("rog", 3, (32, 48, 32), {"strides": [[1, 1, 1], [1, 1, 1], [2, 2, 2]]})
    state = {f"module.ROG.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state, "rng": np.random.RandomState(0).get_state()}, place / "best_dice.pth.tar")

    spec = part_of_rog("rog-clean", "hippocampus")
    assert not missing(spec)
    grid = expand(spec)
    (case,) = grid.cases["hippocampus"]
    assert case.case_id == "hippocampus_007"
    assert {cell.source.roi for cell in grid.cells} == {(32, 48, 32)}
    assert len(grid.cells) == 5
