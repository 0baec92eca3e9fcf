"""Roads from a network and data to a job: each beside a control that MONAI or nnU-Net alone makes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import roads
import torch
import yaml
from command_line import Bench, done
from data.dicom_files import put_seg, put_series
from monai.networks.nets import SwinUNETR
from pipelines import plans
from roads import Array, Step

from freqbench.data import witnesses
from freqbench.engine import witness
from freqbench.job.fit import facts_on
from freqbench.job.schema import build_dataset
from freqbench.models import ModelEntry, load, resolve
from freqbench.results import Store

pytestmark = [pytest.mark.workshop, pytest.mark.timeout(900)]  # minutes on a busy machine

Control = Callable[[Path], Array]


def script(root: Path, modality: str = "scan") -> tuple[str, str, list[Path], Control]:
    """A UNet whose author has a script alone, on files whose list says nothing of their modality."""
    paths = roads.put_folder(root / "data", "ct")
    path = root / "data/dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "modality": {"0": modality}}))
    return *bare(root, "ct"), paths, script_control


def listed(root: Path) -> tuple[str, str, list[Path], Control]:
    """The same, CT by its list."""
    return script(root, "CT")


def script_control(path: Path) -> Array:
    return roads.predicted(roads.trained("ct"), path, roads.CT).argmax(0)


def bare(root: Path, kind: str) -> tuple[str, str]:
    torch.save(roads.trained(kind).state_dict(), root / "net.pt")
    return str(root / "data"), str(root / "net.pt")


def brats(root: Path) -> tuple[str, str, list[Path], Control]:
    """Four channels, three regions, sigmoid; its author writes the regions as channels."""
    paths = roads.put_folder(root / "data", "brats")
    net = roads.trained("brats")
    return (
        *bare(root, "brats"),
        paths,
        lambda x: (roads.predicted(net, x, roads.BRATS, "sigmoid") > 0.5).astype(np.uint8),
    )


def swin(root: Path) -> tuple[str, str, list[Path], Control]:
    """A SwinUNETR of today's MONAI on CT by its list: nothing in its weights tells the release."""
    paths = roads.put_folder(root / "data", "ct")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = SwinUNETR(in_channels=1, out_channels=3, feature_size=12, depths=(1, 1, 1, 1), norm_name="batch").eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.5)
    torch.save(net.state_dict(), root / "net.pt")

    def control(path: Path) -> Array:
        return roads.predicted(net, path, roads.CT, roi_size=(32,) * 3).argmax(0)

    return str(root / "data"), str(root / "net.pt"), paths, control


def dicom(root: Path) -> tuple[str, str, list[Path], Control]:
    """CT as DICOM with SEG; its author predicts the same volumes as NIfTI."""
    paths = roads.put_folder(root / "nifti", "ct")
    for number, path in enumerate(paths):
        image, label = roads.ct(100 + number)
        case = path.name.removesuffix(".nii.gz")
        series = put_series(root / "data/images" / case, image[0].astype(np.int16), roads.AFFINE)
        put_seg(root / f"data/labels/{case}.dcm", series, {"liver": label == 1, "spleen": label == 2})
    return *bare(root, "ct"), paths, script_control


ROADS = {road.__name__: road for road in (script, listed, brats, swin, dicom)}


@pytest.mark.parametrize("name", ROADS)
def test_init_finds_network_s_own_clean_prediction_at_first_try(name: str, tmp_path: Path, bench: Bench) -> None:
    """Two cases are given, which the author's code predicted; a third one, which init does not see, is the same too."""
    data, checkpoint, paths, control = ROADS[name](tmp_path)
    for path in paths:
        roads.save(tmp_path / ("seen" if path in paths[:2] else "unseen") / path.name, control(path).astype(np.uint8))
    job = tmp_path / "mine.yaml"
    options = ("--data", data, "--checkpoint", checkpoint, "--budget", "8/255", "--predictions", str(tmp_path / "seen"))
    said = done(bench, "init", str(job), *options, *(("--arch", "swin_unetr") if name == "swin" else ()))
    assert "proven by its own predictions of 2 cases" in said
    assert share_of(yaml.safe_load(job.read_text()), tmp_path / "unseen") >= witness.PROVEN
    assert " # matched by its predictions, " in job.read_text() or name == "nnunet"


@pytest.mark.parametrize("name", ROADS)
def test_a_lower_clean_dice_passes_only_with_assumptions_said(name: str, tmp_path: Path, bench: Bench) -> None:
    """Either nothing is attacked, or the Dice is the control's but for two points, or each row counts assumptions."""
    data, checkpoint, paths, control = ROADS[name](tmp_path)
    job = tmp_path / "mine.yaml"
    arch = ("--arch", "swin_unetr" if name == "swin" else "unet")
    bench("init", str(job), "--data", data, "--checkpoint", checkpoint, "--budget", "8/255", *arch)
    content = yaml.safe_load(job.read_text())
    content |= {"attacks": [{"name": "fgsm", "eps": "8/255"}], "metrics": ["dsc"]}
    job.write_text(yaml.safe_dump(content))
    code, *_ = bench("run", str(job), "--out", str(tmp_path / "out"), "--engine", "serial")
    if code == 0:
        rows = Store(str(tmp_path / "out")).records().to_pylist()
        labels = [(roads.brats if name == "brats" else roads.ct)(100 + number)[1] for number in range(len(paths))]
        wanted = np.mean([dice(control(path), label) for path, label in zip(paths, labels, strict=True)])
        is_low = np.mean([row["dsc_foreground_clean"] for row in rows]) < wanted - 0.02
        assert not is_low or all(" assumed (" in row["clean_number"] for row in rows)


def dice(made: Array, label: Array) -> float:
    masks = [*zip(made > 0.5, roads.region_masks(label), strict=True)] if made.ndim == 4 else []
    masks = masks or [(made == k, label == k) for k in (1, 2)]
    return float(np.mean([2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in masks]))


def share_of(content: dict[str, Any], folder: Path) -> float:
    """The least share of alike voxels of a job's network in the cases of a folder."""
    dataset = build_dataset({key: value for key, value in content["datasets"][0].items() if key != "cases"}, "datasets")
    entry = ModelEntry(**content["models"][0])
    facts = facts_on(entry, dataset, dataset.refs())
    spec = resolve(entry, len(dataset.classes), dataset.num_channels, dataset.space, facts=facts)
    own = witnesses.find(str(folder), dataset, "own")
    network = load(spec, torch.device("cpu"))
    return min(witness.hold(network, spec, dataset, ref, own.files[ref.case_id]).share for ref in own.refs)


HU = '''
from typing import ClassVar

import torch
from freqbench.data import Dataset
from freqbench.core.types import CaseRef, NativeCase
import roads


class Ours(Dataset):
    """Volumes in HU."""

    loader: ClassVar[str] = "ours"

    @property
    def class_names(self):
        return "background", "liver", "spleen"

    def recipe(self):
        return {"loader": "ours"}

    def refs(self, split=None):
        made = [
            CaseRef(case_id=f"ct_{k}", patient_id=f"ct_{k}", fingerprint=f"{k:016x}", shape=roads.SHAPE, axes="LPS")
            for k in range(3)
        ]
        chosen = self.chosen([ref.case_id for ref in made])
        return tuple(ref for ref in made if ref.case_id in chosen)

    def native(self, ref):
        image, label = roads.ct(100 + int(ref.case_id[-1]))
        of = {"affine": roads.AFFINE, "spacing": (2.0, 2.0, 3.0), "source": ref.case_id}
        return NativeCase(ref=ref, image=torch.from_numpy(image), label=torch.from_numpy(label)[None], **of)
'''


def test_doctor_finds_settings_of_network_on_dataset_class_in_hu(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "ours_in_hu.py").write_text(HU)
    paths = roads.put_folder(tmp_path / "nifti", "ct")
    _ = bare(tmp_path, "ct")
    roads.save(tmp_path / "seen/ct_0.nii.gz", script_control(paths[0]).astype(np.uint8))
    model: Step = {"name": "unet", "arch": "unet", "checkpoint": str(tmp_path / "net.pt"), "args": roads.ARGS}
    content: dict[str, Any] = {
        "name": "own",
        "trust_code": True,
        "datasets": [{"name": "ours_in_hu:Ours"}],
        "score_on": "file",
        "models": [{**model, "predictions": str(tmp_path / "seen")}],
        "attacks": [{"name": "fgsm", "eps": "8/255"}],
    }
    job = tmp_path / "mine.yaml"
    job.write_text(yaml.safe_dump(content))
    code, said, err = bench("doctor", "--job", str(job), "--checkpoint", "unet")
    assert (code, "intensit" in err) == (2, True)  # of the job as it is
    lines = [line.partition(":")[2].strip() for line in said.splitlines() if line.startswith("model line:")]
    for line in lines:
        content["models"][0] |= yaml.safe_load(line)
    job.write_text(yaml.safe_dump(content))
    code, said, err = bench("run", str(job), "--out", str(tmp_path / "out"), "--engine", "serial")
    assert (code, "proven by its own predictions of 1 case" in said + err) == (0, True)


def test_a_folder_of_nnunet_is_proven_as_it_is(tmp_path: Path, bench: Bench) -> None:
    folder, raw = plans.written(plans.PLANS[0], tmp_path)
    exact, _, _ = plans.wanted(plans.PLANS[0], plans.by_nnunetv2(folder, raw, plans.PLANS[0].folds))
    affine = nibabel.load(raw / "labelsTr/a.nii.gz").affine
    (tmp_path / "seen").mkdir()
    nibabel.save(nibabel.Nifti1Image(exact.astype(np.uint8), affine), tmp_path / "seen/a.nii.gz")
    job = tmp_path / "mine.yaml"
    options = ("--data", str(raw), "--checkpoint", folder, "--budget", "8/255")
    _, said, _ = bench("init", str(job), *options, "--predictions", str(tmp_path / "seen"))
    assert "nnunet: proven by its own predictions of 1 case: " in said
    assert yaml.safe_load(job.read_text())["models"][0].keys() == {"name", "arch", "checkpoint", "predictions"}
