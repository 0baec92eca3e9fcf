"""`bench.py doctor --checkpoint`: what a file is, and what its model makes of a job's first clean case."""

import hashlib
import math
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from command_line import Bench, done
from models import nnunet_folder
from tiny_job import ARGS, ROI, expanded, save_weights, small, write

from freqbench import models
from freqbench.audit import diagnosis
from freqbench.audit.diagnosis import Wrong, diagnose
from freqbench.audit.probe_files import share_at_end, sign_agreement, zero_share
from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.engine.witness import predictions
from freqbench.job.fit import CAUSES
from freqbench.job.rehearsal import SMALL_ARGS
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.metrics import dice
from freqbench.models import ModelSpec, resolve
from freqbench.models.checkpoints.files import read_state_dict
from freqbench.models.networks.construction import skeleton

SWIN = {"feature_size": 12, "depths": [1, 1, 1, 1]}
SEGRESNET = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
SIZE = (32, 32, 32)


def said(checkpoint: Path | str | None, job: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    spec = config.validate(job, JobSpec, "job.yaml") if job else None
    lines, is_sound = diagnose(None, None if checkpoint is None else str(checkpoint), spec, "job.yaml")
    assert is_sound
    return list(lines)


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SwinUNETR that its authors trained on two cards, of an age that nothing tells."""
    path = tmp_path_factory.mktemp("swin") / "swin.pt"
    net = models.build("swin_unetr", 6, SIZE, SWIN, seed=0)
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}, "epoch": 7}, path)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    save_weights(path)
    return path


def swin_job(path: Path, **changes: Any) -> dict[str, Any]:
    entry = {"name": "swin", "arch": "swin-unetr", "checkpoint": str(path), "args": SWIN, "roi": [64, 32, 32]}
    return small(models=[{**entry, **changes}])


def test_a_file_s_size_digest_wrapper_prefix_and_counts_are_said(swin: Path) -> None:
    lines = dict(said(swin))
    content = swin.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    assert lines["checkpoint"] == f"{swin}: {len(content) / 1e6:.1f} MB, sha256 {digest}"
    net = models.build("swin_unetr", 6, SIZE, SWIN)
    counts = f"{len(net.state_dict())} entries, {sum(parameter.numel() for parameter in net.parameters()):,} parameters"
    assert lines["weights"] == f"{counts}, under state_dict, every key behind module."
    assert (lines["metadata"], lines["architecture"]) == ("none of freqbench's", "swin_unetr (SwinUNETR), by its keys")


def test_the_two_ages_of_swin_unetr_are_a_choice(swin: Path) -> None:
    text = dict(said(swin))["migration"]
    assert text.startswith("none (")
    assert " or monai-1.4 (" in text
    assert text.endswith("nothing in the file tells which; --job shows the clean Dice under each")


def test_a_checkpoint_of_freqbench_s_own_says_what_it_is(own: Path) -> None:
    lines = dict(said(own))
    text = f"written by freqbench: arch unet, args {dict(sorted(ARGS.items()))}, roi {ROI}, num_classes 6"
    assert lines["metadata"] == text
    assert (lines["architecture"], lines["migration"]) == ("unet (UNet)", "none: freqbench wrote it")


@pytest.mark.parametrize(("arch", "prefix"), [("unet", ""), ("segresnet", "model."), ("unetr", "module.net.")])
def test_an_architecture_is_known_by_its_keys_behind_any_prefix(arch: str, prefix: str, tmp_path: Path) -> None:
    wanted = skeleton(arch, 3, SIZE, SEGRESNET if arch == "segresnet" else SMALL_ARGS[arch]).state_dict()
    torch.save({prefix + key: torch.zeros([1] * value.ndim) for key, value in wanted.items()}, tmp_path / "m.pt")
    lines = dict(said(tmp_path / "m.pt"))
    assert lines["architecture"].startswith(f"{arch} (")
    assert (f"behind {prefix}" in lines["weights"]) == bool(prefix)


@pytest.mark.parametrize(
    ("release", "migration"), [("1.3.2", "monai-1.3 ("), ("1.4.0", "monai-1.4 ("), ("now", "none: as it is")]
)
def test_the_age_of_unetr_is_told_by_its_keys(arrays: Path, tmp_path: Path, release: str, migration: str) -> None:
    if release == "now":
        weights = dict.fromkeys(skeleton("unetr", 4, SIZE, SMALL_ARGS["unetr"]).state_dict(), torch.zeros(1))
    else:
        archive = np.load(arrays / "models" / "legacy" / f"unetr_monai{release}.npz")
        weights = {key: torch.from_numpy(archive[key]) for key in archive if not key.startswith("__")}
    torch.save(weights, tmp_path / "old.pt")
    assert dict(said(tmp_path / "old.pt"))["migration"].startswith(migration)


def dice_by_hand(job: dict[str, Any]) -> float:
    _, grid = expanded(job)
    cell = grid.cells[0]
    case = cell.dataset.load(grid.cases["phantom"][0])
    model = models.load(cell.source, torch.device("cpu"))
    return float(np.nanmean(dice(models.predict(model, case.image), case.label[0], 6)[1:]))


@pytest.mark.integration
def test_ages_within_two_standard_errors_are_not_told_apart(swin: Path) -> None:
    cases = {"datasets": [{"name": "phantom", "shape": [32, 32, 32], "cases": 3}]}
    lines = said(swin, {**swin_job(swin, expected_dice=0.01), **cases})
    dice = [dice_by_hand({**swin_job(swin, migration=name), **cases}) for name in ("none", "monai-1.4")]
    told = [float(text.split()[0]) for name, text in lines if name == "clean Dice"]
    assert told[::3] == pytest.approx(dice, abs=5e-4)
    assert lines[-1][1].startswith("cannot tell: migration: ")
    assert isinstance(lines[-1][1], Wrong)


@pytest.mark.parametrize(
    ("ahead", "stated", "word", "is_wrong"),
    [
        ([0.001, 0.001, 0.001], None, "cannot tell", True),
        ([0.001, 0.001, 0.001], "monai-1.4", "cannot tell", False),
        ([0.3, 0.02, -0.1], None, "cannot tell", True),  # two standard errors are 0.24
        ([0.3], None, "cannot tell", True),
        ([0.3, 0.28, 0.31], None, "migration: none fits better by 0.297", True),
        ([0.3, 0.28, 0.31], "none", "migration: none fits better by 0.297", False),
        ([0.3, 0.28, 0.31], "monai-1.4", "migration: none fits better by 0.297", True),
    ],
)
def test_an_age_is_chosen_by_two_standard_errors(
    monkeypatch: pytest.MonkeyPatch, swin: Path, ahead: list[float], stated: str | None, word: str, is_wrong: bool
) -> None:
    """The Dice are given: a network whose two ages differ so much would have to be trained."""

    def given(dataset: Dataset, spec: ModelSpec, ref: CaseRef) -> float:
        return 0.5 + (ahead[int(ref.case_id[-1])] if spec.migration != "monai-1.4" else 0)

    monkeypatch.setattr(diagnosis, "clean_dice", given)
    content = swin_job(swin, **({"migration": stated} if stated else {}))
    content["datasets"] = [{"name": "phantom", "shape": [32, 32, 32], "cases": len(ahead)}]
    name, verdict = said("swin", content)[-1]
    assert (name, verdict.startswith(word), isinstance(verdict, Wrong)) == ("verdict", True, is_wrong)


def test_arguments_that_a_job_states_are_not_to_state(tmp_path: Path) -> None:
    """The strides of a UNet with residual units leave no trace in its weights."""
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 1, "act": "relu"}
    torch.save(models.build("unet", 6, SIZE, args).state_dict(), tmp_path / "m.pt")
    entry = {"name": "m", "arch": "unet", "checkpoint": str(tmp_path / "m.pt"), "roi": ROI, "expected_dice": 0.01}
    asked = dict(said(tmp_path / "m.pt"))
    stated = dict(said("m", small(models=[{**entry, "args": args}])))
    assert {"to state", "no trace"} & {*asked}
    assert not {"to state", "no trace"} & {*stated}


def test_any_other_model_is_looked_at_once_and_by_its_name_too(own: Path) -> None:
    job = small(models=[{"name": "m", "checkpoint": str(own)}])
    value = dice_by_hand(job)
    for asked in (own, "m"):
        lines = said(asked, job)
        assert [text for name, text in lines if name == "clean Dice"] == [
            f"{value:.3f} under migration: none (m on phantom_2000 of phantom, foreground)"
        ]
        assert lines[-1] == ("verdict", "it is as high as is expected")
    high = small(models=[{"name": "m", "checkpoint": str(own), "expected_dice": None}])
    why = "below 0.5, and no expected_dice says that it is the network's own"
    assert said(own, high)[-1][1] == f"clean foreground Dice {value:.3f} (1 case): {why}: {CAUSES}"


def test_expected_dice_is_held_against_three_patients(own: Path, tmp_path: Path) -> None:
    """Freqbench's own file needs no assumption."""
    torch.save(read_state_dict(str(own)), tmp_path / "bare.pt")
    told = {"arch": "unet", "args": ARGS, "roi": ROI, "expected_dice": 0.87}
    content = small(
        models=[{"name": "m", "checkpoint": str(tmp_path / "bare.pt"), **told}],
        datasets=[{"name": "phantom", "shape": [16, 16, 16], "cases": 4}],
    )
    lines = said("m", content)
    cases = [text.split(" on ")[1].split()[0] for name, text in lines if name == "clean Dice"]
    assert cases == ["phantom_2000", "phantom_2001", "phantom_2002"]
    assert lines[-1][1].startswith("clean foreground Dice 0.")
    assert " (3 cases), expected_dice 0.87: lower by more than two standard errors" in lines[-1][1]
    keys = [text.partition(":")[0] for name, text in lines if name == "assumed"]
    assert keys == ["input.axes", "input.scale", "inference.overlap", "inference.weighting"]
    assert [text.partition(":")[0] for name, text in said(tmp_path / "bare.pt") if name == "assumed"] == ["roi", *keys]
    assert "assumed" not in dict(said(own))


def test_predictions_beside_a_job_that_has_none_are_held_against(own: Path, tmp_path: Path) -> None:
    job = config.validate(small(models=[{"name": "m", "checkpoint": str(own)}]), JobSpec, "job.yaml")
    dataset = build_dataset(job.datasets[0], "job.yaml")
    native = dataset.native(dataset.refs()[0])
    spec = resolve(job.models[0], len(dataset.classes), dataset.num_channels, dataset.space)
    _, made = next(predictions(models.load(spec, torch.device("cpu")), spec, dataset, native))
    nibabel.save(nibabel.Nifti1Image(made, native.affine), tmp_path / f"{native.ref.case_id}.nii.gz")
    lines, _ = diagnose(None, "m", job, "job.yaml", str(tmp_path))
    said = dict(lines)
    assert "proven by its own predictions of 1 case" in said["predictions"]
    assert said["verdict"] == "it is as high as is expected"


def test_the_model_s_own_space_and_dataset_are_taken(own: Path) -> None:
    two = [{"name": name, "loader": "phantom", "shape": [24, 20, 16], "cases": 1} for name in ("p", "q")]
    entry = {"name": "m", "checkpoint": str(own), "datasets": ["q"]}
    plain, coarse = (
        said("m", small(datasets=two, models=[{**entry, **more}, {**entry, "name": "other", "datasets": ["p"]}]))
        for more in ({}, {"preprocess": {"spacing": [20, 20, 20], "intensity": {"window": [-175, 250]}}})
    )
    assert "phantom_2000 of q" in dict(plain)["clean Dice"]
    assert dict(plain)["clean Dice"] != dict(coarse)["clean Dice"]


@pytest.mark.parametrize(
    ("checkpoint", "job", "expected"),
    [
        ("nowhere.pt", None, "nowhere.pt: expected a file, found none"),
        ("{text}", None, "not a checkpoint, or a truncated one"),
        ("nobody", small(), "job.yaml: unknown model or checkpoint 'nobody'. Known: a"),
        (None, small(), "--job: expected --checkpoint beside it, got none"),
        (
            "e",
            small(models=[*({**small()["models"][0], "name": n} for n in "ab"), {"name": "e", "ensemble": ["a", "b"]}]),
            "job.yaml: e is an ensemble: look at its members",
        ),
        ("a", small(models=[{"name": "a", "arch": "unet", "checkpoint": "{own}"}]), "job.yaml: models[0]: a: args"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, own: Path, checkpoint: str | None, job: dict[str, Any] | None, expected: str
) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    places = {"text": tmp_path / "text.pt", "own": own}
    if job and job["models"][0]["checkpoint"] == "{own}":
        job = {**job, "models": [{**job["models"][0], "checkpoint": str(own), "args": {"num_res_units": 2}}]}
    with pytest.raises(UserError, match=re.escape(expected)):
        said(checkpoint.format(**places) if checkpoint else None, job)


def test_a_folder_of_nnunet_says_its_network_and_pipeline(tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2")
    folder = nnunet_folder.write(tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    lines = dict(said(folder))
    assert lines["checkpoint"] == f"{folder}: read as nnunet"
    assert lines["network"].startswith("1 channels in, 3 outputs (softmax), windows of 8x16x24")
    assert lines["pipeline"].startswith(f"nnunetv2 {version('nnunetv2')}: a volume spans the clip of the plans")


@pytest.mark.parametrize("inner", ["Dataset001_Balls/fold/fold_0", "Dataset001_Balls", ""])
def test_a_folder_near_one_of_nnunet_names_that(tmp_path: Path, inner: str) -> None:
    folder = tmp_path / "Dataset001_Balls" / "fold"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text("{}")
    with pytest.raises(UserError, match=f"got another folder: give {folder}, which is one of nnunet$"):
        said(tmp_path / inner)


def test_another_folder_asks_for_a_file(tmp_path: Path) -> None:
    expected = f"^{tmp_path}: expected a file, or a folder of nnU-Net .* got another folder: name the file in it$"
    with pytest.raises(UserError, match=expected):
        said(tmp_path)


def test_unfetched_bundle_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path))
    code, out, err = bench("doctor", "--checkpoint", "monai://spleen_ct_segmentation@0.5.3")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "run once with internet access" in err


def test_the_command_prints_it(tmp_path: Path, own: Path, bench: Bench) -> None:
    path = write(tmp_path, small(models=[{"name": "m", "checkpoint": str(own)}]))
    out = done(bench, "doctor", "--checkpoint", str(own), "--job", path)
    assert [line.split(":")[0] for line in out.splitlines()] == [
        *("checkpoint", "weights", "metadata", "architecture", "migration", "clean Dice", "verdict")
    ]


def test_the_exit_status_is_that_of_the_verdict(tmp_path: Path, own: Path, bench: Bench) -> None:
    path = write(tmp_path, small(models=[{"name": "m", "checkpoint": str(own), "expected_dice": 0.9}]))
    code, out, _ = bench("doctor", "--checkpoint", "m", "--job", path)
    assert (code, "expected_dice 0.9: below half of it" in out) == (1, True)


def test_the_diagnosis_tells_a_checkpoint_s_training_and_licence(tmp_path: Path) -> None:
    record = {"job": "adv", "dataset": "phantom", "steps": 7, "seed": 3, "dice_select": 0.51234, "dice_test": 0.5}
    metadata = {
        "class_names": ["background", "liver"],
        "preprocess": {"intensity": "zscore"},
        "licence": "CC-BY-SA: not for sale",
        "training": {**record, "fingerprints": {"train": ["a", "b"], "select": ["c"]}},
    }
    save_weights(tmp_path / "m.safetensors", **metadata)
    lines = dict(said(tmp_path / "m.safetensors"))
    assert lines["classes"] == "background, liver"
    assert lines["space"] == "trained in {'intensity': 'zscore'}: other datasets are converted to it"
    assert lines["training"] == "job adv, dataset phantom, steps 7, seed 3, select Dice 0.512, test Dice 0.5"
    assert lines["cases"] == "1 select, 2 train: scoring it on one of them raises a warning"
    assert lines["licence"] == "CC-BY-SA: not for sale"


def test_a_record_of_another_kind_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    for i, metadata in enumerate(({"training": [1], "class_names": 3}, {"training": {"fingerprints": 1}})):
        save_weights(tmp_path / f"{i}.safetensors", **metadata)
        assert not {"classes", "cases"} & {name for name, _ in said(tmp_path / f"{i}.safetensors")}


def test_exact_zeros_and_infinities_are_counted() -> None:
    for gradient in ([0.0, -0.0, 1e-38, -1.0], [math.nan, math.inf, 1.0, 1.0]):
        assert zero_share(torch.tensor(gradient)) == 0.5


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ([1.0, -2.0, 0.0, 0.0], [3.0, -1.0, 0.0, 1.0], 2 / 3),  # the third is zero in both, the fourth in one
        ([math.nan, math.inf, 1.0, 1.0], [math.nan, math.inf, 1.0, 1.0], 0.5),
        ([0.0], [0.0], math.nan),
    ],
)
def test_signs_agree_over_voxels_that_have_one_in_either(first: list[float], second: list[float], share: float) -> None:
    assert sign_agreement(torch.tensor(first), torch.tensor(second)) == pytest.approx(share, nan_ok=True)


@pytest.mark.parametrize(
    ("losses", "share"),
    [
        ([float(step) for step in range(21)], 2 / 20),  # two of 20 equal steps
        ([0.0, 1.0, 1.0, 1.0], 0.0),
        ([0.0, 1.0, 0.5, 0.4], 0.0),  # it falls at the end
        ([0.0, 0.0, 0.0, 2.0], 1.0),
        ([1.0, *[0.5] * 18, 1.01], 1.0),  # it only comes back
        ([1.0, *[0.5] * 9, 2.0, *[0.5] * 8, 1.5], 0.5),
    ],
)
def test_the_share_of_the_rise_in_the_last_tenth(losses: list[float], share: float) -> None:
    assert share_at_end(losses) == pytest.approx(share)


@pytest.mark.parametrize("losses", [[], [1.0, 2.0], [1.0, 1.0, 1.0], [2.0, 1.0, 0.5]])
def test_a_loss_that_never_rose_has_no_share(losses: list[float]) -> None:
    assert math.isnan(share_at_end(losses))
