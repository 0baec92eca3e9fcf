"""`reference: prediction`: models are attacked and scored against their own predictions of the clean volume."""

import itertools
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from command_line import Bench, refused
from data.downloads import put
from engine.cases import grid_of, run_all
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console
from test_api import load
from tiny_job import ARGS, JOB, ROI, execute, expanded, job, noted, save_weights, write
from training.conftest import job_of

import freqbench as fb
from freqbench import models
from freqbench.analysis.frames import found_records
from freqbench.analysis.tables import CLEAN, summary
from freqbench.audit import checks, probes
from freqbench.core.errors import UserError
from freqbench.engine import memory
from freqbench.exchange import export
from freqbench.exchange.adversarial_volumes import bring_in
from freqbench.metrics import dice
from freqbench.reporting.contents import contents
from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures import FIGURES
from freqbench.reporting.leaderboard.make import make_entry
from freqbench.reporting.page.data import page_data
from freqbench.reporting.render.columns import OWN
from freqbench.reporting.report import report
from freqbench.results import Store
from freqbench.training.plan import prepare

SHAPE = (18, 20, 16)
AGREE = {"reference": "prediction"}
PHANTOM = {**JOB["datasets"][0], "cases": 1}
FGSM = {"name": "fgsm", "eps": "8/255"}
A, B = JOB["models"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two scans, their intensities in [0, 1]."""
    root = tmp_path_factory.mktemp("scans")
    for number, name in enumerate(("x", "y")):
        voxels = np.random.default_rng(number).uniform(0, 1, SHAPE).astype(np.float32)
        put(root / f"{name}.nii.gz", voxels)
    return root


def data(root: Path, **changes: Any) -> dict[str, Any]:
    keys = {"labels": 3, "intensity": {"window": [0, 1]}, "crop_foreground": False}
    return {"name": "scans", "loader": "images", "root": str(root), **AGREE, **keys, **changes}


@pytest.fixture(scope="module")
def out(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of both networks under FGSM and noise, its volumes saved."""
    root = tmp_path_factory.mktemp("out")
    attacks = [FGSM, {"name": "random_noise", "linf": "8/255"}]
    assert execute(job(datasets=[data(scans)], attacks=attacks, save_adversarial="nifti"), root).num_failed == 0
    return root


def saved(out: Path, source: str, name: str) -> np.ndarray[Any, Any]:
    (path,) = out.glob(f"volumes/fgsm-{source}-*/x-*/{name}.nii.gz")
    return np.asanyarray(nibabel.load(path).dataobj)


def test_rows_name_their_reference_and_clean_volumes_agree(out: Path) -> None:
    columns = ("reference", "status", "dsc", "dsc_clean", "hd95_clean", "voxel_success")
    for *said, dsc, dsc_clean, hd95_clean, flipped in Store(str(out)).rows(columns):
        assert (*said, dsc_clean, hd95_clean) == ("prediction", "ok", 1.0, 0.0)
        assert (dsc < 1) == (flipped > 0)


@pytest.mark.parametrize("target", ["a", "b"])
def test_row_holds_predictions_against_clean_ones(out: Path, target: str) -> None:
    stored = Store(str(out)).rows(("case_id", "attack", "source_model", "target_model", "dsc_foreground"))
    (score,) = [row[4] for row in stored if row[:4] == ("x", "fgsm", "a", target)]
    clean, attacked = (saved(out, "a", f"prediction_{kind}-{target}") for kind in ("clean", "adversarial"))
    of_classes = dice(torch.from_numpy(attacked), torch.from_numpy(clean), 3)[1:]
    assert score == pytest.approx(float(np.nanmean(of_classes)))


def test_the_attack_follows_the_sources_own_clean_prediction(out: Path, scans: Path, tmp_path: Path) -> None:
    """The volume is that of an attack on this prediction as the label map."""
    label = saved(out, "a", "prediction_clean-a")
    assert (saved(out, "a", "label") == label).all()
    put(tmp_path / "label.nii.gz", label)
    listed = {"test": [{"image": str(scans / "x.nii.gz"), "label": "./label.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    labelled = data(tmp_path, loader="decathlon", reference="label")
    execute(job(datasets=[labelled], models=[A], attacks=[FGSM], save_adversarial="nifti"), tmp_path / "out")
    assert (saved(tmp_path / "out", "a", "adversarial") == saved(out, "a", "adversarial")).all()


def test_each_model_predicts_a_clean_volume_once(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = noted(monkeypatch, memory, "segment", lambda model, case, *_: f"{model.name} {float(case.image.sum())}")
    assert not any(outcome.failed for outcome in run_all(job(datasets=[data(scans, cases=1)], attacks=[FGSM])))
    assert (len(seen), set(Counter(seen).values())) == (2 * 3, {1})  # clean, and the volumes of both sources


def test_a_label_map_that_is_there_is_not_read(scans: Path, tmp_path: Path) -> None:
    put(tmp_path / "label.nii.gz", np.full(SHAPE, 9.5, np.float32))
    for case in ({"label": "./label.nii.gz"}, {}):
        (tmp_path / "dataset.json").write_text(json.dumps({"test": [{"image": str(scans / "x.nii.gz"), **case}]}))
        outcomes = run_all(job(datasets=[data(tmp_path, loader="decathlon")], attacks=[FGSM]))
        assert [outcome.failed for outcome in outcomes] == [False, False]


def test_the_classes_are_those_that_the_models_file_states(scans: Path, tmp_path: Path) -> None:
    save_weights(tmp_path / "own.safetensors", num_classes=4)
    own = {"name": "own", "checkpoint": str(tmp_path / "own.safetensors")}
    content = job(datasets=[data(scans, labels=None)], models=[own], attacks=[FGSM])
    (cell,) = grid_of(content).cells
    assert cell.dataset.class_names == ("background", "class 1", "class 2", "class 3")
    save_weights(tmp_path / "own.safetensors", num_classes=3, class_names=["air", "white", "grey"])
    assert grid_of(content).cells[0].dataset.class_names == ("air", "white", "grey")


def test_no_mean_holds_scores_of_both_kinds(tmp_path: Path) -> None:
    """A dataset that was run with labels first, and later without."""
    for more in ({}, AGREE):
        execute(job(datasets=[{**PHANTOM, **more}], models=[A], attacks=[FGSM]), tmp_path)
    _, records = found_records([Store(str(tmp_path))], None)
    kinds = itertools.product(("phantom", "phantom (agreement)"), (CLEAN, "fgsm eps=8/255"))
    assert summary(records).set_index(["dataset", "attack"])["cases"].to_dict() == dict.fromkeys(kinds, 1)
    assert set(fb.load_results(tmp_path)["dataset"]) == {"phantom"}


@pytest.mark.parametrize("table", [None, "leaderboard"])
def test_tables_call_the_score_agreement_and_say_what_it_is(out: Path, table: str | None) -> None:
    text = report([Store(str(out))], format="markdown", table=table)
    of_dataset = [part for part in f"\n{text}".split("\n## ") if part.startswith("scans (agreement): ")]
    assert of_dataset
    assert not any("DSC" in part for part in of_dataset)
    assert "agreement" in of_dataset[0].replace("(agreement)", "")
    assert "says how stable the model is, not whether it is right" in text


def test_audit_calls_it_agreement_and_takes_no_credit(out: Path) -> None:
    findings = checks.audited(checks.gathered([Store(str(out))]))
    (clean,) = {(each.verdict, each.sentence) for each in findings if each.check == "clean"}
    assert clean[0] == "not checked"
    assert not any("DSC" in each.sentence for each in findings if each.dataset)


def test_papers_tables_refuse_it(tmp_path: Path) -> None:
    execute(job(datasets=[{**PHANTOM, **AGREE, "name": "acdc", "loader": "phantom"}], attacks=[FGSM]), tmp_path)
    with pytest.raises(UserError, match=r"expected scores against labels, .* got acdc \(agreement\)"):
        report([Store(str(tmp_path))], table="sa2_acdc")


def test_page_and_pictures_call_it_agreement(out: Path) -> None:
    made = contents([Store(str(out))])
    page = page_data(made.records, made.classes, made.facts)
    assert page["findings"]
    assert not any("DSC" in each["text"] for each in page["findings"])
    assert OWN in page["notes"]
    assert made.restricted == []
    (figure, _) = (figure for _, figure in FIGURES["distance"](Material(shown_rows(made.records), made.classes, None)))
    assert isinstance(figure, Figure)
    assert "agreement fg drop (points)" in {text.get_text() for text in figure.findobj(Text)}


def test_probes_look_at_the_clean_prediction(out: Path, scans: Path, tmp_path: Path) -> None:
    """The gradients of the loss against it, and saved volumes scored against it."""
    out = shutil.copytree(out, tmp_path / "out")
    grid = grid_of(job(datasets=[data(scans, cases=1)], models=[A], attacks=[FGSM], save_adversarial="nifti"))
    probes.measure_gradients(grid, 8 / 255, str(out), print)
    probes.rescore_saved(grid, str(out), print)
    evidence = checks.gathered([Store(str(out))])
    (gradients,) = evidence.gradients
    assert {(each.dataset, each.error) for each in gradients.windows} == {("scans (agreement)", None)}
    (score,) = evidence.saved[0].volumes
    assert score.dsc == score.dsc_stored
    made = {each.check: each.verdict for each in checks.audited(evidence) if each.model == "a"}
    assert (made["zero_gradients"], made["saved"]) == ("holds", "holds")


def test_a_leaderboard_takes_no_entry(out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scans: expected scores against labels, as boards rank by them"):
        make_entry(str(out), "a", tmp_path / "entry")


def test_a_network_learns_from_no_prediction() -> None:
    recipe = job_of()
    with pytest.raises(UserError, match="net: expected a dataset with labels, which a network learns from"):
        prepare(job_of(dataset={**recipe.dataset.model_dump(), **AGREE}), "out")


def test_doctor_knows_no_clean_dice(scans: Path, tmp_path: Path, bench: Bench) -> None:
    path = write(tmp_path, job(datasets=[data(scans)], models=[A]))
    err = refused(bench, "doctor", "--checkpoint", "a", "--job", path)
    assert "clean Dice: expected a dataset with labels, which it is a score against, got scans" in err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"datasets": [{"name": "d", "loader": "images", "root": "SCANS"}]}, "set reference: prediction"),
        ({"datasets": [{**PHANTOM, "reference": "mine"}]}, "Input should be 'label' or 'prediction', got 'mine'"),
        ({"datasets": [{"name": "d", "loader": "images", "root": "SCANS", **AGREE}]}, "d: expected `labels`, the num"),
        ({"metrics": ["dsc", "calibration"]}, "the metric calibration: expected a dataset with labels"),
        ({"attacks": [{"name": "deformation", "max_mm": 4}]}, "deformation: expected a dataset with labels, "),
        ({"datasets": [{"name": "d", "loader": "images", "root": "NONE", **AGREE, "labels": 3}]}, "found none: check"),
    ],
)
def test_wrong_input_is_one_line(scans: Path, tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    places = {"SCANS": str(scans), "NONE": str(tmp_path)}
    for entry in changes.get("datasets", ()):
        entry["root"] = places.get(entry.get("root"), "")
        if not entry["root"]:
            del entry["root"]
    content = job(**{"datasets": [{**PHANTOM, **AGREE}], "attacks": [FGSM], **changes})
    with pytest.raises(UserError, match=re.escape(expected)):
        expanded(content)


def test_a_list_without_label_maps_says_which_key_helps(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"test": [{"image": str(scans / "x.nii.gz")}]}))
    with pytest.raises(UserError, match=r"expected a label map for .* or set reference: prediction"):
        expanded(job(datasets=[data(tmp_path, loader="decathlon", reference="label")]))


@pytest.mark.integration
def test_a_tools_predictions_are_held_against_its_own_clean_one(out: Path, tmp_path: Path, bench: Bench) -> None:
    where = tmp_path / "native"
    out = shutil.copytree(out, tmp_path / "out")
    assert bench("export", str(out), "--to", str(where))[0] == 0
    entries = json.loads((where / export.MANIFEST).read_text())["files"]
    rng = np.random.default_rng(0)
    for entry in entries:
        image = nibabel.load(where / entry["path"])
        path = tmp_path / "tool" / entry["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, rng.integers(0, 3, SHAPE, np.uint8), image.affine)
    command = ("score", str(out), "--predictions", str(tmp_path / "tool"), "--name", "tool")
    assert bench(*command)[0] == 0
    columns = ("target_model", "reference", "dsc_clean", "dsc")
    scored = [row[1:] for row in Store(str(out)).rows(columns) if row[0] == "tool"]
    assert scored
    assert all(row[:2] == ("prediction", 1.0) and 0.2 < row[2] < 0.5 for row in scored)
    (tmp_path / "tool" / next(entry["path"] for entry in entries if entry["cell_id"] is None)).unlink()
    assert "scans has reference: prediction" in refused(bench, *command)


def test_volumes_made_elsewhere_score_as_those_of_the_run(out: Path, scans: Path, tmp_path: Path) -> None:
    content = job(datasets=[data(scans)], attacks=[FGSM])
    (made,) = out.glob("volumes/fgsm-a-*/x-*/adversarial.nii.gz")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(made, tmp_path / "elsewhere/adv_x.nii.gz")
    place = str(tmp_path / "elsewhere")
    bring_in(grid_of(content), str(tmp_path / "out"), place, "a", "mine", Console(quiet=True))
    columns = ("case_id", "source_model", "attack", "target_model", "dsc", "dsc_clean")
    of_run = {row[3:] for row in Store(str(out)).rows(columns) if row[:3] == ("x", "a", "fgsm")}
    assert of_run == {row[3:] for row in Store(str(tmp_path / "out")).rows(columns)}
    (label,) = (tmp_path / "out").glob("volumes/imported-*/x-*/label.nii.gz")
    assert (np.asanyarray(nibabel.load(label).dataobj) == saved(out, "a", "prediction_clean-a")).all()


def test_python_takes_scans_alone_and_says_so() -> None:
    """A transferred volume is scored against the target's own clean prediction."""
    model = load()
    other = load("b")
    image = torch.rand(1, *SHAPE)
    result = fb.attack(model, (image, None, (1.0, 1.0, 2.0)), "fgsm", eps="8/255")
    assert (result.reference, result.case.reference, result.case.label) == ("prediction", "prediction", None)
    assert (result.label[0] == result.prediction_clean).all()
    for each in (model, other):
        record = fb.evaluate(each, result.case, result, metrics=["dsc"])
        clean, attacked = (models.predict(each.network, volume) for volume in (image, result.adversarial))
        assert (record["reference"], record["dsc_clean"]) == ("prediction", 1.0)
        assert record["dsc"] == pytest.approx(float(np.nanmean(dice(attacked, clean, 6))))
    with pytest.raises(UserError, match="metrics: calibration: expected a dataset with labels"):
        fb.evaluate(model, result.case, result, metrics=["calibration"])


def test_python_attacks_a_file_as_a_job_does(out: Path, scans: Path) -> None:
    case = fb.Case.from_file(scans / "x.nii.gz", labels=3, intensity={"window": [0, 1]}, crop_foreground=False)
    model = fb.load_model("random", arch="unet", name="a", args=ARGS, roi=ROI, num_classes=3)
    result = fb.attack(model, case, "fgsm", eps="8/255")
    assert repr(case).endswith("no label map>")
    assert (result.adversarial[0].numpy() == saved(out, "a", "adversarial")).all()
    assert "against its own clean prediction" in repr(result)
