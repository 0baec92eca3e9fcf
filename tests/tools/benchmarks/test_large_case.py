"""A case of 512 x 512 x 300 voxels through loading, an attack and prediction: memory of each, bounded, and time."""

import json
import subprocess
import sys

import pytest

# Beyond what is held when the stage begins. Loading draws the phantom, with several fields of the volume's size;
# the other two hold what a batch of windows makes in the network.
MOST_GIB = {"load": 8.0, "attack": 3.0, "prediction": 3.0}

SCRIPT = """
import json, time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
import torch
from freqbench.attacks import make
from freqbench.data.loaders.phantom import Phantom
from freqbench.engine.attacking import attack_case
from freqbench.models import SegmentationModel, attack_windows, build, predict

torch.set_num_threads(1)
stages = {}

def memory(line):
    status = dict(row.split(":") for row in Path("/proc/self/status").read_text().splitlines())
    return int(status[line].split()[0]) / 2**20

@contextmanager
def stage(name):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    held, started = memory("VmRSS"), time.perf_counter()
    yield
    stages[name] = {"GiB": memory("VmHWM") - held, "held": held, "s": time.perf_counter() - started}

roi = 96, 96, 96
args = {"channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 0}
model = SegmentationModel(build("unet", 14, roi, args, seed=0).requires_grad_(False), roi).eval()
predict(model, torch.rand(1, 96, 96, 96))  # what importing takes is not counted
with stage("load"):
    dataset = Phantom(name="phantom", shape=(512, 512, 300))
    case = dataset.load(dataset.refs()[0])
(_, _, first), (h, w, second) = attack_windows(case.ref.shape, roi)[:2]
two = slice(first.start, second.stop)
part = replace(case, image=case.image[:, h, w, two].clone(), label=case.label[:, h, w, two].clone())
with stage("attack"):
    attacked = attack_case(make("pgd", eps=8 / 255, steps=1), model, part, seed=0, window_batch=2)
assert attacked.facts.num_windows == 2
moved = float((attacked.adversarial - part.image).abs().max())
case.image[:, h, w, two] = attacked.adversarial
with stage("prediction"):
    label = predict(model, case.image)
print(json.dumps({"stages": stages, "moved": moved, "shape": label.shape, "classes": label.unique().tolist()}))
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a stage is read from /proc")
def test_each_stage_of_a_large_case_stays_within_its_memory() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    for name, each in report["stages"].items():
        print(f"{name}: {each['GiB']:.2f} GiB beyond {each['held']:.2f} GiB, {each['s']:.0f} s")
    assert report["shape"] == [512, 512, 300]
    assert report["moved"] == pytest.approx(8 / 255, rel=1e-4)
    for name, most in MOST_GIB.items():
        assert report["stages"][name]["GiB"] < most, report
