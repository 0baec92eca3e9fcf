"""Each page of docs/how-to begins with commands that print what the page shows.

A page begins with its title and a block `console`: lines `$ command`, below each what it prints. `...` stands for lines
that are left out, or for the rest of a line. The commands run in an empty folder, 110 columns wide, with the files that
their words name (FILES, `runs/quickstart`). `mine.yaml`, unless `init` writes it, is BASE with the keys of the page's
first block `yaml`. Times, dates and ids may differ, and other decimals by what another processor changes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from data.downloads import put
from models import meshnet_folder, nifti_tool
from pipelines import bundles, plans
from safetensors.torch import load_file

import freqbench as fb

pytestmark = [pytest.mark.workshop, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/how-to/*.md"))}
BEGINNING = re.compile(r"(?:---\n.*?---\n+)?# [^\n]+\n\n```console\n\$ (.*?)```", re.DOTALL)
TIMES = r"\d{8}T[\d.]+-\w+|\b[\d-]{5,10} \d\d:\d\d|\d[\d.,]* (?:ms|s|min|h|seconds?|minutes?|hours?)\b"
VARIES = re.compile(rf"{TIMES}|\b(?=\w*\d)[0-9a-f]{{8,}}\b|\d{{4}}-\d\d-\d\d")
DECIMAL = re.compile(r"\d+\.\d+")
BASE = """{name: mine, datasets: [{name: phantom, split: test, cases: 1}], metrics: [dsc],
models: [{name: unet, checkpoint: "zoo://phantom/unet"}], attacks: [{name: fgsm, eps: 8/255}]}"""


def shell(folder: Path, command: str) -> str:
    at = {**os.environ, "COLUMNS": "110", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=folder, env=at, text=True, capture_output=True)
    assert done.returncode < 2, done.stderr
    return (done.stdout + done.stderr).replace(f"{folder}/", "")


def abdomen(folder: Path) -> None:
    """Two volumes in the layout of the Decathlon, a network's weights alone, and its prediction of the first volume."""
    data = folder / "data/abdomen"
    model = fb.load_model("zoo://phantom/unet")
    listed = []
    for case in fb.load_dataset("phantom", split="test", cases=2):
        affine = case.affine @ np.diag([0.25, 0.25, 0.25, 1])  # on which `init` tries spacings fast
        put(data / f"imagesTr/{case.name}.nii.gz", 425 * case.image[0].numpy() - 175, affine)
        put(data / f"labelsTr/{case.name}.nii.gz", case.label[0].numpy(), affine)
        if not listed:
            predicted = fb.attack(model, case, "gn", std=0.01).prediction_clean.squeeze().numpy()
            put(folder / f"predicted/{case.name}.nii.gz", predicted.astype(np.uint8), affine)
        listed.append({each: f"./{each}sTr/{case.name}.nii.gz" for each in ("image", "label")})
    content = {"modality": {"0": "CT"}, "labels": dict(enumerate(case.class_names)), "validation": listed}
    (data / "dataset.json").write_text(json.dumps(content))
    torch.save(load_file(ROOT / "freqbench/models/zoo/phantom/unet.safetensors"), folder / "unet.pt")


FILES: dict[str, Callable[[Path], object]] = {
    "abdomen|unet.pt": abdomen,
    "nnUNetTrainer": lambda folder: plans.written(plans.PLANS[0], folder),
    "--checkpoint bundle": lambda folder: bundles.written(bundles.PIPELINES[5], folder),
    "segment.py": lambda folder: (folder / "segment.py").write_text(nifti_tool.script("int(value > 100)")),
    "build entries": lambda folder: shutil.copytree(ROOT / "reports/leaderboard/unet", folder / "entries/unet"),
    "--checkpoint meshnet": lambda folder: meshnet_folder.write(folder / "meshnet"),
    "runs/toy": lambda folder: shutil.copytree(ROOT / "tests/toy_package/toy", folder / "toy"),
}


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the quick start, or those that FREQBENCH_QUICKSTART names."""
    folder = tmp_path_factory.mktemp("quickstart")
    made = os.environ.get("FREQBENCH_QUICKSTART")
    _ = made or shell(folder, "freqbench run quickstart")
    return Path(made or folder / "runs/quickstart")


def alike(shown: str, real: str) -> bool:
    one, other = (VARIES.sub("TIME", " ".join(line.split())) for line in (shown, real))
    pattern = re.escape(DECIMAL.sub("DECIMAL", one)).replace("DECIMAL", r"(\d+\.\d+)").replace(r"\.\.\.", ".*")
    match = re.fullmatch(pattern, other)
    sizes = [*map(float, DECIMAL.findall(one))]
    return bool(match and [*map(float, match.groups())] == pytest.approx(sizes, rel=0.1, abs=0.05))


@pytest.mark.parametrize("page", sorted(TEXTS.keys() - {"index"}))
def test_a_page_begins_with_commands_and_what_they_print(page: str, tmp_path: Path, request: Any) -> None:
    begins = BEGINNING.match(TEXTS[page])
    assert begins, "expected a title, an empty line, and a block `console` of commands"
    blocks = [each.splitlines() for each in begins[1].split("\n$ ")]
    typed = "\n".join(command for command, *_ in blocks)
    for make in (make for word, make in FILES.items() if re.search(word, begins[1])):
        make(tmp_path)
    if "runs/quickstart" in typed and "run quickstart" not in typed:
        shutil.copytree(request.getfixturevalue("quickstart"), tmp_path / "runs/quickstart")
    if "mine.yaml" in typed and "init mine.yaml" not in typed:
        first, *_ = [*re.findall("```yaml\n(.*?)```", TEXTS[page], re.DOTALL), BASE]
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(yaml.safe_load(BASE) | yaml.safe_load(first)))
    for command, *shown in blocks:
        left = iter((real := shell(tmp_path, command)).splitlines())
        for line in filter(str.strip, shown):
            assert any(alike(line, one) for one in left), f"not printed, or not in this order: {line}\n{real}"
