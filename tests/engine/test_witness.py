"""Clean predictions held against those of the network's own code: what proves a network, and what a run does."""

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import roads
import torch
from rich.console import Console

import freqbench as fb
from freqbench.core.errors import DataError, MisfitError, UserError
from freqbench.data import Dataset, witnesses
from freqbench.engine import run, witness
from freqbench.engine.witness import Held
from freqbench.job.fit import facts_on
from freqbench.job.grid import expand
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.metrics.agreement import agreement, agreement_by_class, drawn
from freqbench.models import ModelEntry, load, resolve
from freqbench.ops.classes import Classes
from freqbench.reporting.report import report
from freqbench.results import Store

pytestmark = pytest.mark.integration
ROI = [roads.SIDE] * 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CT with its list, a UNet for it, and MONAI's own predictions of two of three cases."""
    root = tmp_path_factory.mktemp("ct")
    paths = roads.put_folder(root / "ct", "ct")
    torch.save(roads.trained("ct").state_dict(), root / "unet.pt")
    for path in paths[:2]:
        likely = roads.predicted(roads.trained("ct"), path, roads.CT)
        roads.save(root / "maps" / path.name, likely.argmax(0).astype(np.uint8))
        roads.save(root / "likely" / path.name, likely.astype(np.float32))
    return root


def entries(place: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    data = {"name": "ct", "loader": "decathlon", "root": str(place / "ct"), "split": "training"}
    model = {"name": "unet", "arch": "unet", "checkpoint": str(place / "unet.pt"), "args": roads.ARGS, "roi": ROI}
    model |= {"transforms": [*roads.CT], "inference": {"overlap": 0.5, "weighting": "gaussian"}}
    return data, {**model, **changes}


def held(place: Path, folder: str = "maps", **changes: Any) -> list[Held]:
    data, model = entries(place, **changes)
    dataset: Dataset = build_dataset(data, "ct")
    entry = ModelEntry(**model)
    spec = resolve(entry, 3, 1, dataset.space, facts=facts_on(entry, dataset, dataset.refs()))
    own = witnesses.find(str(place / folder), dataset, "unet")
    network = load(spec, torch.device("cpu"))
    return [witness.hold(network, spec, dataset, ref, own.files[ref.case_id]) for ref in own.refs]


@pytest.mark.parametrize("folder", ["maps", "likely"])
def test_pipeline_of_the_training_is_proven(place: Path, folder: str) -> None:
    seen = held(place, folder)
    assert [(each.case_id, each.is_proven) for each in seen] == [("ct_0", True), ("ct_1", True)]
    assert witness.verdict("unet", seen).startswith("unet: proven by its own predictions of 2 cases: 100.00 %")


def test_another_pipeline_is_none_of_the_network_s_own(place: Path) -> None:
    worse = held(place, inference={"overlap": 0.5, "weighting": "constant"})
    assert not any(each.is_proven for each in worse)
    text = witness.verdict("unet", worse)
    assert "unet: expected its own prediction of ct_" in text
    assert ": look at " in text


def test_maps_restored_by_the_nearest_voxel_are_proven(place: Path, tmp_path: Path) -> None:
    words = (roads.CT[0], roads.step("Spacing", pixdim=[2.5, 2.5, 3.0], mode="bilinear"), roads.CT[1])
    likely = roads.predicted(roads.trained("ct"), place / "ct/imagesTr/ct_0.nii.gz", words, nearest=True)
    roads.save(tmp_path / "near/ct_0.nii.gz", likely[0].astype(np.uint8))
    (seen,) = held(place, str(tmp_path / "near"), transforms=[*words])
    assert (seen.is_proven, seen.way) == (True, witness.NEAREST)


def job(place: Path, **changes: Any) -> JobSpec:
    data, model = entries(place, predictions=str(place / "maps"), **changes)
    content = {"name": "own", "datasets": [{**data, "cases": 1}], "models": [model], "metrics": ["dsc"]}
    return JobSpec(**content, attacks=[{"name": "fgsm", "eps": 0.03}], score_on="file")


def carried_out(spec: JobSpec, out: Path) -> str:
    said = io.StringIO()
    run.execute(expand(spec), str(out), Console(file=said, width=400), run.RunOptions(engine="serial"))
    return said.getvalue()


def test_run_proves_network_once_and_row_table_and_store_say_so(place: Path, tmp_path: Path) -> None:
    said = carried_out(job(place), tmp_path)
    words = "proven by its own predictions of 2 cases: 100.00 % of the foreground's voxels alike"
    assert f"unet on ct: {words}" in said
    store = Store(str(tmp_path))
    (row,) = store.records().to_pylist()
    assert row["clean_number"] == words
    assert f"Clean number: unet on ct (file grid): {words}." in report([store], format="markdown")
    assert store.runs()[-1]["clean"][0]["verdict"] == "fits"
    assert [proof["words"] for proof in store.job()["proven"]] == [words]


def test_a_run_of_another_pipeline_attacks_nothing(place: Path, tmp_path: Path) -> None:
    wrong = [{**roads.CT[0], "axcodes": "LAS"}, roads.CT[1]]
    with pytest.raises(MisfitError, match=r"unet on ct: expected its own prediction of ct_\d, got \d+\.\d\d % of"):
        carried_out(job(place, transforms=wrong), tmp_path)
    assert Store(str(tmp_path)).is_empty


def test_assumptions_are_counted_where_no_own_prediction_is(place: Path) -> None:
    data, model = entries(place, inference=None)
    model = {key: value for key, value in model.items() if key not in ("inference", "roi")}
    content = {"name": "own", "datasets": [data], "models": [model], "attacks": [{"name": "fgsm", "eps": 0.03}]}
    (words,) = expand(JobSpec(**content)).clean.values()
    assert words == "4 values assumed (roi, class_map, inference.overlap, inference.weighting)"


def test_python_refuses_a_case_whose_prediction_is_another(place: Path) -> None:
    _, model = entries(place, predictions=str(place / "maps"), transforms=[roads.CT[0]])
    case = fb.load_dataset("decathlon", root=str(place / "ct"), split="training")[2]
    model = {key: value for key, value in model.items() if key not in ("name", "checkpoint")}
    network = fb.load_model(str(place / "unet.pt"), num_classes=3, **model)
    with pytest.raises(UserError, match="expected its own prediction of ct_"):
        fb.attack(network, case, "fgsm", eps=8 / 255)


@pytest.mark.parametrize(
    ("name", "voxels", "line"),
    [
        ("other.nii.gz", None, "expected files of cases of ct, such as ct_0.nii.gz, in"),
        ("ct_0.nii.gz", np.full(roads.SHAPE, 7, np.uint8), "got the number 7: give the network's own label maps"),
        ("ct_0.nii.gz", np.zeros((2, *roads.SHAPE), np.float32), "expected a channel for each of the 3 outputs of"),
        ("ct_0.nii.gz", np.zeros((8, 8, 8), np.uint8), "expected the shape (40, 40, 24) of"),
    ],
)
def test_foreign_predictions_are_refused(name: str, voxels: Any, line: str, place: Path, tmp_path: Path) -> None:
    roads.save(tmp_path / name, np.zeros(roads.SHAPE, np.uint8) if voxels is None else voxels)
    with pytest.raises((UserError, DataError), match=re.escape(line)):
        held(place, str(tmp_path))


def test_two_files_of_one_case_are_refused(place: Path, tmp_path: Path) -> None:
    dataset = build_dataset(entries(place)[0], "ct")
    for name in ("ct_1/ct_1_seg.nii.gz", "ct_10.nii.gz"):
        roads.save(tmp_path / name, np.zeros(roads.SHAPE, np.uint8))
    assert [*witnesses.find(str(tmp_path), dataset, "unet").files] == ["ct_1"]
    roads.save(tmp_path / "ct_1_other.nii.gz", np.zeros(roads.SHAPE, np.uint8))
    with pytest.raises(UserError, match=r"expected one file of ct_1, got .* and .*: drop one"):
        witnesses.find(str(tmp_path), dataset, "unet")


def same(place: Path, tmp_path: Path, voxels: Any, **changes: Any) -> Held:
    """The one case held against voxels that no code of freqbench made."""
    roads.save(tmp_path / "own/ct_0.nii.gz", voxels)
    (seen,) = held(place, str(tmp_path / "own"), **changes)
    return seen


def test_empty_maps_show_nothing() -> None:
    empty = Held(case_id="ct_0", alike=0, union=0, classes={"liver": (0, 0), "spleen": (0, 0)})
    assert (empty.is_proven, empty.is_other) == (False, False)
    line = witness.verdict("unet", [empty])
    assert line.startswith("unet: not shown by its own predictions of 1 case, as both maps are empty")


def test_exchanged_small_classes_differ_though_nearly_all_voxels_agree() -> None:
    """Two organs of 8 voxels beside a brain: 99.94 % of the foreground is alike."""
    theirs = np.zeros((40, 40, 36), np.uint8)
    theirs[4:36, 4:34, 4:32] = 1
    theirs[2:4, 18:20, 10:12] = 2
    theirs[36:38, 18:20, 10:12] = 3
    ours = np.choose(theirs, [0, 1, 3, 2]).astype(np.uint8)
    classes = Classes(names=("background", "brain", "left", "right"))
    alike, union = agreement(ours, theirs)
    counts = agreement_by_class(ours, theirs, classes)
    assert counts == {1: (26880, 26880), 2: (0, 16), 3: (0, 16)}
    of_class = {name: counts[k] for k, name in enumerate(classes.names) if k}
    seen = Held(case_id="p0", alike=alike, union=union, classes=of_class)
    assert alike / union > 0.999
    assert seen.is_other
    line = witness.verdict("net", [seen])
    assert "differing: left, right; proven: brain" in line
    assert "expected its own prediction of p0" in line


def test_a_class_that_no_case_shows_is_named() -> None:
    only = Held(case_id="ct_0", alike=90, union=90, classes={"liver": (90, 90), "spleen": (0, 0)})
    line = witness.verdict("unet", [only])
    assert witness.PROOF not in line
    assert line.endswith("100.00 % of the foreground's voxels alike; proven: liver; not seen: spleen")


def test_probabilities_of_a_high_temperature_are_no_ties(place: Path, tmp_path: Path) -> None:
    """Nearly alike channels, of which the largest is another class at random."""
    rng = np.random.default_rng(0)
    flat = (1 / 3 + rng.uniform(-1e-3, 1e-3, (3, *roads.SHAPE))).astype(np.float32)
    assert same(place, tmp_path, flat).is_other


def test_a_class_map_is_judged_by_labels_and_not_led_through_itself(place: Path, tmp_path: Path) -> None:
    likely = np.asarray(nibabel.load(place / "likely/ct_0.nii.gz").dataobj).transpose(3, 0, 1, 2)
    assert same(place, tmp_path, likely, classes=3, class_map={1: [1], 2: [2]}).is_proven
    exchanged = same(place, tmp_path, likely, classes=3, class_map={1: [2], 2: [1]})
    assert exchanged.is_other
    assert exchanged.pattern is not None
    assert exchanged.pattern.causes == "class_map"
    assert "liver is [1] of the outputs (Dice 0." in exchanged.pattern.what


def test_regions_are_compared_as_a_label_map_can_express_them() -> None:
    """A control draws whole, core, enhancing over each other, as nnU-Net does with regions_class_order 2, 1, 3."""
    rng = np.random.default_rng(0)
    core, whole, enhancing = rng.random((3, 12, 12, 12)) > 0.5  # a core outside of the whole, too
    theirs = np.zeros(core.shape, np.uint8)
    for value, region in ((2, whole), (1, core), (3, enhancing)):
        theirs[region] = value
    stated = {1: 0b011, 2: 0b010, 3: 0b111}
    classes = Classes(names=("none", "core", "whole", "enhancing"), overlap=True, stated=stated)
    codes = (core * 1 + whole * 2 + enhancing * 4).astype(np.uint8)
    expected = np.array([0, *stated.values()], np.uint8)[theirs]
    assert (codes != expected).any()
    assert np.array_equal(drawn(codes, classes), expected)


def test_a_setting_that_predicted_cases_do_not_tell_is_assumed(place: Path) -> None:
    data, model = entries(place)
    dataset = build_dataset(data, "ct")
    entry = ModelEntry(**model)
    refs = dataset.refs()
    spec = resolve(entry, 3, 1, dataset.space, facts=facts_on(entry, dataset, refs))
    shape, _ = refs[1].grid or (roads.SHAPE, ())
    other = replace(refs[1], grid=(shape, (1.0, 1.0, 1.0)))
    seen = Held(case_id="ct_0", alike=1, union=1, told=frozenset({"axes", "overlap"}))
    words = witness.assumed([seen], refs[:1], [refs[0], other], dataset, spec)
    assert words == "; assumed: spacing (not seen, and other in ct_1: predict one of them too)"
    assert not witness.assumed([seen], refs[:1], refs, dataset, spec)
    resampled = replace(seen, told=seen.told | {"spacing"})
    assert not witness.assumed([resampled], refs[:1], [refs[0], other], dataset, spec)


def test_a_proof_of_settings_leaves_the_stop_below_one_half(place: Path, tmp_path: Path) -> None:
    """The labels are moved away: the pipeline is the network's own, and its Dice is not."""
    root = tmp_path / "ct"
    shutil.copytree(place / "ct", root)
    for path in (root / "labelsTr").glob("*.nii.gz"):
        roads.save(path, np.roll(np.asarray(nibabel.load(path).dataobj), 12, 0))
    spec = job(place)
    moved = spec.model_copy(update={"datasets": [spec.datasets[0].model_copy(update={"root": str(root)})]})
    with pytest.raises(MisfitError, match=r"below 0\.5, and no expected_dice says"):
        carried_out(moved, tmp_path / "out")
