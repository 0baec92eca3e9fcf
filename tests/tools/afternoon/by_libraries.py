"""Clean Dice of a network by MONAI, or by nnU-Net's own commands, without freqbench: a JSON of case, class and Dice.

python by_libraries.py monai DATA WEIGHTS
python by_libraries.py nnunet RAW RESULTS
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from monai.data import decollate_batch
from monai.inferers import sliding_window_inference
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.transforms import (
    AsDiscrete,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
)

ROI, CLASSES = (64, 64, 32), 6
Scores = Mapping[str, Mapping[str, float]]


def by_monai(data: Path, weights: Path) -> Scores:
    """Dice of each foreground class, by the transforms, windows and metric of MONAI's tutorials."""
    net = UNet(3, 1, CLASSES, channels=(8, 16, 32, 64), strides=(2, 2, 2), num_res_units=2).eval()
    net.load_state_dict(torch.load(weights, weights_only=True))
    keys, scores = ("image", "label"), {}
    prepare = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS", labels=None),
            ScaleIntensityRanged("image", a_min=-175, a_max=250, b_min=0, b_max=1, clip=True),
            CropForegroundd(keys, source_key="image"),
        ]
    )
    for entry in json.loads((data / "dataset.json").read_text())["validation"]:
        case = prepare({key: data / entry[key] for key in keys})
        with torch.inference_mode():
            logits = sliding_window_inference(case["image"][None], ROI, 4, net, overlap=0.5)
        (predicted,) = (AsDiscrete(argmax=True, to_onehot=CLASSES)(each) for each in decollate_batch(logits))
        dice = DiceMetric(include_background=False)(predicted[None], AsDiscrete(to_onehot=CLASSES)(case["label"])[None])
        scores[Path(entry["image"]).name.split(".")[0]] = {str(k + 1): float(value) for k, value in enumerate(dice[0])}
    return scores


def by_nnunet(raw: Path, results: Path) -> Scores:
    """Dice of each class or region, by nnU-Net's commands for prediction and evaluation."""
    with tempfile.TemporaryDirectory() as out:
        words = ["-i", str(raw / "imagesTr"), "-o", out, "-m", str(results), "-f", "0", "-device", "cpu"]
        subprocess.run(["nnUNetv2_predict_from_modelfolder", *words, "-npp", "1", "-nps", "1"], check=True)
        files = ["-djfile", str(results / "dataset.json"), "-pfile", str(results / "plans.json")]
        subprocess.run(["nnUNetv2_evaluate_folder", str(raw / "labelsTr"), out, *files, "-np", "1"], check=True)
        summary = json.loads((Path(out) / "summary.json").read_text())
    return {
        Path(case["reference_file"]).name.split(".")[0]: {
            str(number): values["Dice"] for number, values in enumerate(case["metrics"].values(), 1)
        }
        for case in summary["metric_per_case"]
    }


if __name__ == "__main__":
    tool, data, network = sys.argv[1:]
    print(json.dumps({"monai": by_monai, "nnunet": by_nnunet}[tool](Path(data), Path(network))))
