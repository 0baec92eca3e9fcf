"""Makes what reports/nnunet is made from, beside nnU-Net's own commands: `python tests/tools/pipelines/trained.py`.

`raw DATA FOLDER` copies the hippocampus of $FREQBENCH_DATA to a raw folder of nnU-Net. `plans FOLDER`, after nnU-Net's
planning, adds a small configuration and the fold to its preprocessed folder. `predict` is nnUNetv2_predict with sums of
windows in float32 and takes its arguments. `training FOLDER PREDICTED32`, of the results, and `rows OUT PREDICTED
PREDICTED32`, of the job, with folders that have the summaries of nnUNetv2_evaluate_folder, write the report's files.
"""

import json
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
from nnunetv2.inference.predict_from_raw_data import predict_entry_point

from freqbench.analysis.frames import plain, records_frame
from freqbench.analysis.tables import current
from freqbench.data.loaders.msd import LISTS
from freqbench.results import Store

CONFIGURATION = "3d_small"
FEATURES = [16, 32, 64, 128]
BATCH = 2
REPORT = Path(__file__).parents[3] / "reports" / "nnunet"
SPLITS = {"Tr": ("training", "validation"), "Ts": ("test",)}
SETTINGS = ["loss", "control", "scope", "steps"]
COLUMNS = ["source_model", "attack", "label", "threat_model", "budget_name", "budget", *SETTINGS]
COLUMNS += ["case_id", "dsc_foreground", "linf", "ssim_body"]


def cases(split: str) -> list[str]:
    """Names of a split of the package's list."""
    lines = json.loads(LISTS["Task04_Hippocampus"].read_text(encoding="utf-8"))[split]
    return [Path(line["image"]).name.removesuffix(".nii.gz") for line in lines]


def raw(data: Path, folder: Path) -> None:
    """Writes a raw folder: `training` and `validation` to train on, `test` to predict."""
    for side, splits in SPLITS.items():
        for kind in ("images", "labels"):
            (folder / f"{kind}{side}").mkdir(parents=True, exist_ok=True)
        for case in (case for split in splits for case in cases(split)):
            shutil.copy(data / "imagesTr" / f"{case}.nii.gz", folder / f"images{side}" / f"{case}_0000.nii.gz")
            shutil.copy(data / "labelsTr" / f"{case}.nii.gz", folder / f"labels{side}" / f"{case}.nii.gz")
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "numTraining": sum(len(cases(split)) for split in SPLITS["Tr"]),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def plans(folder: Path) -> None:
    """Adds the configuration, which is `3d_fullres` with half the features, and one fold."""
    path = folder / "nnUNetPlans.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    network = json.loads(json.dumps(content["configurations"]["3d_fullres"]["architecture"]))
    network["arch_kwargs"]["features_per_stage"] = FEATURES
    small = {"inherits_from": "3d_fullres", "batch_size": BATCH, "architecture": network}
    content["configurations"][CONFIGURATION] = small
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")
    fold = {"train": cases("training"), "val": cases("validation")}
    (folder / "splits_final.json").write_text(json.dumps([fold], indent=1), encoding="utf-8")


def training(folder: Path, predicted32: Path) -> dict[str, Any]:
    """Facts of a training from its results folder, and from the predictions of `test` with sums in float32."""
    content = json.loads((folder / "plans.json").read_text(encoding="utf-8"))["configurations"]
    settings = content["3d_fullres"] | content[CONFIGURATION]
    logs = "".join(log.read_text(encoding="utf-8") for log in (folder / "fold_0").glob("training_log_*.txt"))
    seconds = [float(each) for each in re.findall(r"Epoch time: ([\d.]+) s", logs)]
    validation = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text(encoding="utf-8"))
    made: dict[str, Any] = {
        "nnunetv2": version("nnunetv2"),
        "trainer": folder.name.partition("__")[0],
        "patch_size": settings["patch_size"],
        "batch_size": settings["batch_size"],
        "features_per_stage": settings["architecture"]["arch_kwargs"]["features_per_stage"],
    }
    made |= {
        "patients": {"training": len(cases("training")), "validation": len(validation["metric_per_case"])},
        "epochs": len(seconds),
        "iterations": 250 * len(seconds),
        "seconds_an_epoch": round(float(np.median(seconds))),
    }
    made |= {  # nnU-Net's own check after it included
        "validation_dice": round(validation["foreground_mean"]["Dice"], 4),
        "test_dice": round(float(np.mean([*dice_of(predicted32).values()])), 4),
    }
    return made


def dice_of(folder: Path) -> dict[str, float]:
    """Mean Dice of the foreground classes of each case, as nnUNetv2_evaluate_folder wrote it."""
    return {
        Path(case["prediction_file"]).name.removesuffix(".nii.gz"): sum(
            each["Dice"] for label, each in case["metrics"].items() if label != "0"
        )
        / len([label for label in case["metrics"] if label != "0"])
        for case in json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metric_per_case"]
    }


def predict() -> None:
    """Runs nnUNetv2_predict with the sums in float32 that its code keeps in float16, as `float32_sums` of the tests."""
    torch.half = torch.float
    predict_entry_point()


def rows(out: str, predicted: Path, predicted32: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clean Dice of each case by both, and the attacked rows of a store."""
    frame = plain(current(records_frame([Store(out)])))
    if not (frame["status"].eq("ok") & frame["left_out"].eq("")).all():
        raise SystemExit(f"{out}: expected complete rows, got failed ones or some that were left out")
    for name in SETTINGS:
        frame[name] = [json.loads(text).get(name) for text in frame["params"]]
    frame = frame.sort_values(["source_model", "label", "case_id"], ignore_index=True)
    frame["budget"] = frame["budget"].map(repr)  # 8/255 in all digits
    clean = frame.groupby("case_id", as_index=False)["dsc_foreground_clean"].first()
    clean = clean.rename(columns={"dsc_foreground_clean": "freqbench"})
    for name, folder in (("nnunetv2", predicted), ("nnunetv2_float32", predicted32)):
        clean[name] = clean["case_id"].map(dice_of(folder))
    maps = [
        [np.asarray(nibabel.load(folder / f"{case}.nii.gz").dataobj) for case in clean["case_id"]]
        for folder in (predicted, predicted32)
    ]
    clean["voxels_of_float16"] = [int((a != b).sum()) for a, b in zip(*maps, strict=True)]
    return clean, frame[COLUMNS]


def main(step: str, *given: str) -> None:
    """Runs a step."""
    folders = [Path(each) for each in given]
    if step == "raw":
        raw(*folders)
    elif step == "plans":
        plans(*folders)
    elif step == "predict":
        del sys.argv[1]
        predict()
    elif step == "training":
        (REPORT / "training.json").write_text(json.dumps(training(*folders), indent=1) + "\n", encoding="utf-8")
    elif step == "rows":
        for name, table in zip(("clean", "attacked"), rows(given[0], *folders[1:]), strict=True):
            table.to_csv(REPORT / f"{name}.csv", index=False, float_format="%.6f", lineterminator="\n")
    else:
        raise SystemExit(f"expected raw, plans, predict, training or rows, got {step}")


if __name__ == "__main__":
    main(*sys.argv[1:])
