"""A job on regions that overlap: attacks of every kind, transfer, joint windows, saved maps, verification."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from engine.cases import grid_of, network_of, stored
from tiny_job import JOB, ROI, class_rows, execute, expanded, job, rows

from freqbench import models
from freqbench.audit import probe_files, probes
from freqbench.audit.diagnosis import diagnose
from freqbench.audit.reproduce import Reproducer
from freqbench.core.errors import UserError
from freqbench.data.loaders.anatomy import REGIONS
from freqbench.engine import attacking, saved_volumes
from freqbench.engine.attacking import AttackedVolume
from freqbench.metrics import dice
from freqbench.results import Store
from freqbench.results.glimpses import Slice, paths_of, read
from freqbench.results.store import sample_rows

pytestmark = pytest.mark.integration

NETWORKS = [{**entry, "outputs": "sigmoid"} for entry in JOB["models"]]
LESIONS = {"name": "lesions", "loader": "phantom", "regions": True, "shape": [24, 20, 16], "cases": 1}
JOINT = {"name": "vafa_opt", "q_max": 20, "steps": 2, "block": 4, "scope": "joint", "sources": "a"}
ATTACKS: list[dict[str, Any]] = [
    {"name": "pgd", "eps": "8/255", "steps": 2, "organs": [["lesion core"]]},
    {"name": "vafa", "q_max": 20, "steps": 1, "block": 4},
    JOINT,
    {"name": "square", "eps": "8/255", "queries": 3, "sources": "a"},
]


def content(**changes: Any) -> dict[str, Any]:
    metrics = ["dsc", "hd95", "nsd", "components", "calibration"]
    return job(**{"datasets": [LESIONS], "models": NETWORKS, "attacks": ATTACKS, "metrics": metrics, **changes})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("regions")
    execute(content(save_adversarial="nifti"), place)
    return place


def test_class_rows_hold_the_names_of_the_regions(out: Path) -> None:
    names = {(row["class_index"], row["class_name"]) for row in class_rows(out).values()}
    assert names == {(repr(k), repr(name)) for k, name in enumerate(("background", *REGIONS))}


def test_every_record_is_scored_on_both_networks(out: Path) -> None:
    records = list(rows(out).values())
    assert len(records) == 2 * (2 * 2 + 2)
    assert all(row["status"] == repr("ok") and 0 <= float(row["dsc_foreground"]) <= 1 for row in records)


def test_saved_labels_have_the_number_of_the_innermost_region(out: Path) -> None:
    labels = [np.unique(nibabel.load(path).get_fdata()) for path in sorted(out.glob("volumes/*/*/label.nii.gz"))]
    assert all(values.tolist() == [0, 1, 2, 3] for values in labels)


def test_glimpses_have_numbers_of_saved_maps_and_dice_of_row(out: Path) -> None:
    names = itemgetter("cell_id", "case_key", "target_model")
    scores = {names(row): row["dsc_foreground"] for row in stored(out)}
    glimpses = paths_of(str(out))
    assert glimpses.keys() == {key[:2] for key in scores}
    for (cell, case), path in glimpses.items():
        shown = read(path, {})
        assert isinstance(shown, Slice)
        models = [caption.split(",")[0] for caption in shown.captions[5:]]
        assert shown.captions[4].startswith(f"{models[0]}, clean, DSC ")
        assert shown.captions[5:] == [f"{model}, DSC {100 * scores[cell, case, model]:.1f}" for model in models]
        (folder,) = out.glob(f"volumes/*-{cell}/*-{case}")
        files = ["label", f"prediction_clean-{models[0]}", *(f"prediction_adversarial-{model}" for model in models)]
        stacks = [nibabel.load(folder / f"{name}.nii.gz").get_fdata()[::-1, ::-1].T for name in files]
        slices = np.stack(stacks, axis=1)
        assert any(np.array_equal(shown.unpack()[3:], each) for each in slices)


def test_rows_of_regions_have_medpy_s_scores(out: Path) -> None:
    predictions = [nibabel.load(path).get_fdata() for path in out.glob("volumes/*/*/prediction_*.nii.gz")]
    assert max(map(np.max, predictions)) > len(REGIONS)  # of untrained networks, whose regions cross
    store = Store(str(out))
    reports = list(Reproducer(store, None).each(sample_rows(store, 99, 0)))
    assert [each.verdict for each in reports] == ["equal"] * 12
    for report in reports:
        assert sum(each.column.endswith(": hd95_medpy_mm by MedPy") for each in report.by_medpy) == 1 + len(REGIONS)


def test_a_moved_label_is_read_as_it_was_saved(tmp_path: Path) -> None:
    attack = {"name": "deformation", "max_mm": 12, "knot_mm": 30, "steps": 1, "min_jacobian": 0.3}
    cell = grid_of(content(attacks=[attack])).cells[0]
    case = cell.dataset.load(cell.dataset.refs()[0])
    codes = (torch.arange(case.label.numel()) % 8).to(torch.uint8).reshape(case.label.shape)
    facts = attacking.UNKNOWN.model_copy(update=dict.fromkeys(attacking.NOT_MEASURED, 1.0))
    attacked = AttackedVolume(adversarial=case.image, facts=facts, label=codes)
    saved_volumes.save(str(tmp_path), cell, case, attacked, None)
    assert torch.equal(codes, saved_volumes.read(str(tmp_path), cell, case.ref)[0].label)
    (path,) = tmp_path.glob("*/*/label_adversarial.nii.gz")
    assert np.unique(nibabel.load(path).get_fdata()[codes[0] == 7]).tolist() == [3]


def test_an_audit_scores_saved_volumes_again_by_region(out: Path) -> None:
    probes.rescore_saved(grid_of(content(save_adversarial="nifti")), str(out), lambda _: None)
    saved = probe_files.read(str(out), probe_files.SavedScores)
    assert saved is not None
    assert len(saved.volumes) == 2
    assert all(each.dsc == pytest.approx(each.dsc_stored, abs=1e-6) for each in saved.volumes)


def test_doctor_scores_a_network_by_region() -> None:
    network = {"name": "unet", "checkpoint": "zoo://lesions/unet", "roi": ROI}
    spec, grid = expanded(content(models=[network], attacks=[{"name": "fgsm", "eps": "8/255"}]))
    lines, _ = diagnose(None, "unet", spec)
    (cell,) = grid.cells
    case = cell.dataset.load(cell.dataset.refs()[0])
    pred = models.predict(network_of(cell.source), case.image)
    value = np.nanmean(dice(pred, case.label[0], 4, has_regions=True)[1:])
    assert dict(lines)["clean Dice"].startswith(f"{value:.3f} under migration")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"models": JOB["models"]}, "a: expected outputs: sigmoid for the regions of lesions, got softmax"),
        (
            {"datasets": [{**LESIONS, "regions": False}], "attacks": ATTACKS[1:2]},
            "expected outputs: softmax for the exclusive classes of lesions, got sigmoid",
        ),
        (
            {"attacks": [{"name": "apgd", "eps": "8/255", "steps": 3, "loss": "dlr"}]},
            "loss: lesions: expected a loss that regions have",
        ),
    ],
)
def test_a_job_that_mixes_regions_and_classes_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        expanded(content(**changes))
