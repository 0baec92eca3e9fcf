"""A first afternoon in a fresh environment, by the documented lines: clean Dice beside that of other libraries."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from data.dicom_files import put_seg, put_series
from pipelines.plans import NESTED, Plan, affine_of, by_nnunetv2, in_file, written
from safetensors.torch import load_file

from freqbench import load_results
from freqbench.data.loaders.phantom import Phantom
from freqbench.results import KEY, Store

ROOT = Path(__file__).parents[3]
ORGANS = ("liver", "spleen", "kidneys", "aorta", "gallbladder")
SETTING = "spacing: [4, 4, 6], intensity: {window: [-175, 250]}"
UNET = "{channels: [8, 16, 32, 64], strides: [2, 2, 2], num_res_units: 2}"
ATTACK = "attacks:\n  - {name: gn, std: 4/255}\n"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Shell = Callable[[str], str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("afternoon")


@pytest.fixture(scope="module")
def shell(place: Path) -> Shell:
    """A line of a page in a clone with an environment of its own; its stdout. The first line installs."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(place / "clone")], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FREQBENCH"))}
    environment = kept | {"PATH": f"{place}/venv/bin:{os.environ['PATH']}", "FREQBENCH_CACHE": str(place / "cache")}

    def run(line: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", line], cwd=place / "clone", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    run(re.findall(r"^(pip install -e \.) &&", (ROOT / "README.md").read_text(), re.MULTILINE)[0] + " -q")
    run("pip install -q '.[nnunet,dicom]'")
    return run


@pytest.fixture(scope="module")
def abdomens(place: Path) -> Path:
    """Two phantoms in Hounsfield units as a Decathlon folder, and the same as series of DICOM with a segmentation."""
    phantom, root = Phantom(name="phantom", split="test", cases=2), place / "abdomens"
    entries = []
    for ref in phantom.refs():
        native = phantom.native(ref)
        image, label, affine = np.rint(native.image[0].numpy()), native.label[0].numpy(), native.affine
        entry = {"image": f"imagesTr/{ref.case_id}.nii.gz", "label": f"labelsTr/{ref.case_id}.nii.gz"}
        for key, voxels in (("image", image.astype(np.int16)), ("label", label.astype(np.uint8))):
            (root / entry[key]).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, affine), root / entry[key])
        slices = put_series(place / "clinic" / "images" / ref.case_id, image, affine)
        masks = {organ: label == number for number, organ in enumerate(ORGANS, 1)}
        put_seg(place / "clinic" / "labels" / f"{ref.case_id}.dcm", slices, masks)
        entries.append(entry)
    labels = {"0": "background"} | {str(number): organ for number, organ in enumerate(ORGANS, 1)}
    content = {"labels": labels, "modality": {"0": "CT"}, "training": [], "validation": entries}
    (root / "dataset.json").write_text(json.dumps(content))
    torch.save(load_file(ROOT / "freqbench/models/zoo/phantom/unet.safetensors"), place / "unet.pt")
    return root


def clean_dice(out: Path) -> dict[str, dict[str, float]]:
    """Dice on clean volumes by case and number of the class."""
    store, scores = Store(str(out)), dict[str, dict[str, float]]()
    cases = {tuple(row[name] for name in KEY): row["case_id"] for row in store.records().to_pylist()}
    for row in store.class_records().to_pylist():
        if row["class_index"]:
            case = cases[tuple(row[name] for name in KEY)]
            scores.setdefault(case, {})[str(row["class_index"])] = row["dsc_clean"]
    return scores


def by_libraries(shell: Shell, *words: object) -> dict[str, dict[str, float]]:
    line = " ".join(["python", str(ROOT / "tests/tools/afternoon/by_libraries.py"), *map(str, words)])
    return dict(json.loads(shell(line).splitlines()[-1]))


def test_quick_start_has_its_stored_clean_dice(shell: Shell, place: Path) -> None:
    shell("python bench.py run jobs/quickstart.yaml")
    table = load_results(place / "clone/runs/quickstart")
    scores = table.groupby("target_model")["dsc_foreground_clean"].mean()
    text = (ROOT / "reports/quickstart/tables.md").read_text()
    stored, _ = re.findall(r"^\| clean +\| +\| +\| +([\d.]+) \| +([\d.]+) \| +([\d.]+) \|$", text, re.MULTILINE)
    assert [*scores.index] == ["unet", "unet-vaft", "unetr"]
    assert [f"{100 * score:.1f}" for score in scores] == [*stored]


def test_the_readmes_job_has_monais_dice_of_nifti_and_of_dicom(shell: Shell, place: Path, abdomens: Path) -> None:
    """The ten lines with an own UNet, its next commands, and the entry of the page on files for the same volumes."""
    job = re.findall(r"```yaml\n(name: mine.*?)attacks:", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    job = job.replace("~/data/abdomen", str(abdomens)).replace("~/checkpoints", str(place))
    job = re.sub(r"spacing: .*(?=\})", SETTING, job).replace("[96, 96, 96]", "[64, 64, 32]")
    job = job.replace("arch: unet,", f"arch: unet, args: {UNET},") + ATTACK
    entry = re.findall(
        r"^  (- .name: ct, loader: dicom, .*?)\}", (ROOT / "docs/how-to/files.md").read_text(), re.MULTILINE
    )[0]
    series = re.sub(
        r"- .name: abdomen.*?\}\n", f"{entry.replace('~', str(place))}, {SETTING}}}\n", job, flags=re.DOTALL
    )
    theirs = by_libraries(shell, "monai", abdomens, place / "unet.pt")
    for name, text in {"files": job, "series": series}.items():
        (place / f"{name}.yaml").write_text(text)
        assert "0 of 2 records" in shell(f"freqbench plan {place}/{name}.yaml")
        shell(f"freqbench run {place}/{name}.yaml --out {place}/{name}")
        ours = clean_dice(place / name)
        assert ours.keys() == theirs.keys()
        for case, scores in theirs.items():
            assert ours[case] == pytest.approx(scores, abs=1e-6)
            assert min(scores.values()) > 0.5


@pytest.mark.parametrize(
    "plan",
    [
        Plan(name="exclusive classes", mirror=(0, 1, 2), sides=(1.2, 1.4, 2.6)),
        Plan(
            name="BraTS' regions of four sequences",
            labels=NESTED,
            channels=("T1", "T1ce", "T2", "FLAIR"),
            schemes=("ZScoreNormalization",) * 4,
            masks=(False,) * 4,
        ),
    ],
    ids=["classes", "regions"],
)
def test_a_folder_of_nnunet_has_the_dice_of_its_own_commands(shell: Shell, place: Path, plan: Plan) -> None:
    """The label map is the network's own prediction, moved by a voxel: weights are random."""
    folder, raw = written(plan, place / ("regions" if plan.has_regions else "classes"))
    predicted = in_file(plan, by_nnunetv2(folder, raw, plan.folds).labels).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(np.roll(predicted, 1, axis=0), affine_of(plan)), raw / "labelsTr/a.nii.gz")
    shell(f"freqbench init {raw.parent}/nn.yaml --data {raw} --checkpoint {folder}")
    job = (raw.parent / "nn.yaml").read_text()
    (raw.parent / "nn.yaml").write_text(job.partition("attacks:")[0] + ATTACK)
    shell(f"freqbench run {raw.parent}/nn.yaml --out {raw.parent}/run")
    theirs = by_libraries(shell, "nnunet", raw, folder)
    assert 0.2 < min(theirs["a"].values()) < max(theirs["a"].values()) < 1
    assert clean_dice(raw.parent / "run") == {"a": pytest.approx(theirs["a"], abs=2e-3)}
