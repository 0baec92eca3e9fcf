"""A Compose is called whole, as its author calls it: its keys, its label, its laziness, and what cannot be run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai import transforms as t
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from pipelines.bundles import PIPELINES, Words, config, step, written
from tiny_job import expanded, small

from freqbench import attack, load_dataset, load_model
from freqbench.audit.diagnosis import diagnose
from freqbench.audit.first_case import first_case
from freqbench.core.config import validate
from freqbench.core.errors import DataError, UserError
from freqbench.core.types import CaseRef, NativeCase
from freqbench.data.preprocess import attacked_native, prepare
from freqbench.job.fit import assumptions, facts_on, match_classes
from freqbench.job.schema import JobSpec
from freqbench.models import Facts, ModelEntry, facts_of
from freqbench.pipelines.monai import MonaiPipeline, _moves

SHAPE = (8, 7, 6)
JOINED = [
    t.NormalizeIntensityd("t2"),
    t.ScaleIntensityRanged("adc", 0, 3, 0, 1, clip=True),
    t.ConcatItemsd(["t2", "adc"], "image"),
]
SWAPPED = {"t2": 1, "adc": 0}


def native(channels: int = 2) -> NativeCase:
    """Noise, and a label of codes whose file holds the number 4 in their place."""
    ref = CaseRef(case_id="k", patient_id="k", fingerprint="0" * 16, shape=SHAPE)
    image = 3 * torch.rand(channels, *SHAPE, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[:, 2:5, 2:5, 2:5] = 7
    values = torch.where(label == 7, 4, 0)
    made = NativeCase(ref=ref, image=image, label=label, affine=np.eye(4), spacing=(1, 1, 1), source="k")
    return replace(made, values=lambda: values)


def pipeline(steps: Sequence[Any], lazy: bool = False, **stated: Any) -> MonaiPipeline:
    return MonaiPipeline(release="0", compose=t.Compose([*steps], lazy=lazy), **stated)


def by_monai(steps: Sequence[Any], sample: Mapping[str, torch.Tensor], lazy: bool = False) -> torch.Tensor:
    given = {key: MetaTensor(voxels) for key, voxels in sample.items()}
    made: torch.Tensor = t.Compose([*steps], lazy=lazy)(given)["image"].as_tensor()
    return made


def test_stated_channels_bind_keys_in_any_order_of_the_files() -> None:
    case = native()
    wanted = by_monai(JOINED, {"t2": case.image[1:], "adc": case.image[:1]})
    made = pipeline(JOINED, channels=SWAPPED).prepare(case)
    torch.testing.assert_close(made.data, wanted, rtol=0, atol=0)
    assert made.bounds == ((-5, 5), (0, 1))


def test_a_change_of_a_key_goes_back_to_its_channel_of_the_file() -> None:
    clean = native()
    space = pipeline(JOINED, channels=SWAPPED)
    case = prepare(clean, space)
    adversarial = case.image.clone()
    adversarial[0] += 0.01  # of t2, the file's second
    moved = attacked_native(clean, case, adversarial, space).image - clean.image
    deviation = float(clean.image[1].std(unbiased=False))
    assert not moved[0].any()
    torch.testing.assert_close(moved[1], torch.full(SHAPE, 0.1 * deviation), rtol=0, atol=1e-3)


def test_keys_that_are_joined_elsewhere_have_another_identity() -> None:
    """The order unsaid is that of the data."""
    unsaid, said, swapped = (pipeline(JOINED, channels=c) for c in (None, {"t2": 0, "adc": 1}, SWAPPED))
    assert unsaid.identity() == said.identity() != swapped.identity()
    assert "channels: {t2: 0, adc: 1}" in unsaid.rule
    assert "channels" not in said.rule


def test_the_metadata_of_a_bundle_say_which_key_is_the_input() -> None:
    """The other one is the label's, whatever it is called."""
    steps = [step("Orientation", keys=["organ", "volume"], axcodes="RAS"), step("NormalizeIntensity", keys="volume")]
    meta: dict[str, Any] = {"network_data_format": {"inputs": {"volume": {}}}}
    words = {"preprocessing": {"_target_": "Compose", "transforms": steps}, "_meta_": meta}
    keys = MonaiPipeline(release="0", config=words).keys
    assert (keys.out, keys.images, keys.label) == ("volume", ("volume",), "organ")


@pytest.mark.parametrize(
    ("line", "steps", "stated"),
    [
        (r"3 channels .* keys t2, adc, got {t2: 0, adc: 1}: set channels .*{t2: 0, adc: 1}$", JOINED, {}),
        (r"under the keys t2, adc, got {t2: 0, dwi: 1}: set", JOINED, {"channels": {"t2": 0, "dwi": 1}}),
        (r"got {t2: 0, adc: \[1, 1\]}", JOINED, {"channels": {"t2": 0, "adc": [1, 1]}}),
        (r"one key of the network's input, got t2, adc: set channels of the model", JOINED[:2], {}),
    ],
)
def test_keys_that_cannot_be_bound_are_one_line(line: str, steps: Sequence[Any], stated: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=line):
        pipeline(steps, **stated).bound(3)


def test_a_step_reads_the_label_with_the_numbers_of_its_file() -> None:
    steps = [t.MaskIntensityd("image", mask_key="label", select_fn=lambda label: label == 4), t.Identityd("label")]
    case = native(1)
    wanted = by_monai(steps, {"image": case.image, "label": case.file_numbers()})
    torch.testing.assert_close(pipeline(steps).prepare(case).data, wanted, rtol=0, atol=0)


def test_a_step_that_fails_is_named() -> None:
    steps = [t.Identityd("image"), t.Lambdad("image", func=lambda image: image.reshape(-1, 5))]
    with pytest.raises(DataError, match=r"^k: MONAI's transforms refuse it: Lambdad cannot be run: shape '\[-1, 5\]'"):
        pipeline(steps).prepare(native(1))


def test_a_lazy_compose_resamples_once() -> None:
    """Two spacings in one resampling blur less than two."""
    steps = [t.Spacingd("image", (2.0, 2.0, 2.0)), t.Spacingd("image", (1.0, 1.0, 1.0))]
    case = native(1)
    made = [pipeline(steps, lazy=lazy).prepare(case).data for lazy in (True, False)]
    wanted = [by_monai(steps, {"image": case.image}, lazy) for lazy in (True, False)]
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)
    assert (made[0] - made[1]).abs().max() > 0.1
    assert pipeline(steps, lazy=True).identity() != pipeline(steps).identity()


REGIONS = next(words for words in PIPELINES if words.order != (0, 1, 2))
JOINED_WORDS = next(words for words in PIPELINES if words.keys == ("t2", "adc"))


def joined(root: Path) -> tuple[str, dict[str, Any]]:
    """A bundle of the keys t2 and adc, and the entry of a data set that names them in another order."""
    bundle, data = written(JOINED_WORDS, root)
    for number, name in enumerate(("t2", "adc")):
        (data / f"a_{number}.nii.gz").rename(data / f"a_{name}.nii.gz")
    files = {"image": ["{case}_adc.nii.gz", "{case}_t2.nii.gz"], "label": "{case}_label.nii.gz"}
    return bundle, {"root": str(data), **files, "labels": ["background", "a", "b"]}


def test_keys_that_a_data_set_names_take_its_channels_by_name(tmp_path: Path) -> None:
    bundle, files = joined(tmp_path)
    dataset = load_dataset("pairs", **files).dataset
    facts = facts_on(ModelEntry(name="m", bundle=bundle), dataset, dataset.refs())
    assert isinstance(facts.space, MonaiPipeline)
    assert facts.space.channels == SWAPPED
    assert facts.found == ("channels are paired by their names, as channels: {t2: 1, adc: 0} would",)
    (ref,) = dataset.refs()
    before = ConfigParser(config(JOINED_WORDS)).get_parsed_content("preprocessing")
    wanted = before({key: str(tmp_path / "data" / f"a_{key}.nii.gz") for key in JOINED_WORDS.keys})["image"].as_tensor()
    torch.testing.assert_close(facts.space.prepare(dataset.native(ref)).data, wanted, rtol=0, atol=1e-5)


def test_keys_in_another_order_are_refused_in_python(tmp_path: Path) -> None:
    bundle, files = joined(tmp_path)
    with pytest.raises(UserError, match=r"got adc, t2: load_model\(\.\.\., channels={'t2': 1, 'adc': 0}\)$"):
        attack(load_model(bundle), load_dataset("pairs", **files)[0], "gn", std=0.01)


SOFTMAX = replace(
    REGIONS, head="softmax", order=(0, 1, 2),
    steps=(step("MapLabelValue", keys="label", orig_labels=[1, 2, 3], target_labels=[2, 1, 0]),),
)  # fmt: skip


def matched(words: Words, root: Path, **classes: Any) -> tuple[ModelEntry, Facts, Any]:
    bundle, data = written(words, root)
    names = [f"{{case}}_{k}.nii.gz" for k in range(4)]
    dataset = load_dataset("pairs", root=str(data), image=names, label="{case}_label.nii.gz", **classes).dataset
    entry = ModelEntry(name="m", bundle=bundle)
    return entry, match_classes(entry, facts_of(entry), dataset, dataset.refs()), dataset


@pytest.mark.parametrize(
    ("regions", "pairs"),
    [
        ({"whole": [1, 2, 3], "core": [1, 3], "active": [3]}, {1: (2,), 2: (1,), 3: (3,)}),
        ({"core": [1, 3], "whole": [1, 2, 3], "active": [3]}, {}),
        ({"active": [3], "whole": [1, 2, 3]}, {1: (3,), 2: (2,)}),
        ({"whole tumor": [1, 2], "tumor core": [1], "enhancing tumor": [2]}, {1: (2,), 2: (1,), 3: (3,)}),  # by name
    ],
)
def test_regions_are_outputs_of_the_same_voxels(
    regions: Mapping[str, Sequence[int]], pairs: dict[int, tuple[int, ...]], tmp_path: Path
) -> None:
    """MONAI's are the core (1, 3), all, and the active tumour (3)."""
    entry, facts, dataset = matched(REGIONS, tmp_path, labels=["background", "a", "b", "c"], regions=regions)
    assert (facts.class_map, bool(pairs)) == (pairs, any(note.startswith("class_map: {1: [") for note in facts.found))
    assert not [each for each in assumptions(entry, facts, dataset) if each.key == "class_map"]


def test_regions_of_other_voxels_are_one_line(tmp_path: Path) -> None:
    regions = {"whole": [1, 2, 3], "core": [2, 3], "active": [3]}
    line = r"'core' of pairs, got 0: set classes: 3 and class_map of the model, such as {1: \[2\], 2: \[\], 3: \[3\]}$"
    with pytest.raises(UserError, match=line):
        matched(REGIONS, tmp_path, labels=["background", "a", "b", "c"], regions=regions)


def test_regions_in_another_order_are_one_line_in_python(tmp_path: Path) -> None:
    bundle, data = written(REGIONS, tmp_path)
    names = [f"{{case}}_{k}.nii.gz" for k in range(4)]
    regions = {"whole": [1, 2, 3], "core": [1, 3], "active": [3]}
    labels = {"label": "{case}_label.nii.gz", "labels": ["background", "a", "b", "c"], "regions": regions}
    case = load_dataset("pairs", root=str(data), image=names, **labels)[0]
    with pytest.raises(UserError, match=r"num_classes=4, classes=3, class_map={1: \[2\], 2: \[1\], 3: \[3\]}"):
        attack(load_model(bundle), case, "gn", std=0.01)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A job on regions in another order than the label's transform makes them."""
    bundle, data = written(REGIONS, tmp_path_factory.mktemp("moved"))
    names = [f"{{case}}_{k}.nii.gz" for k in range(4)]
    regions = {"whole": [1, 2, 3], "core": [1, 3], "active": [3]}
    labels = {"label": "{case}_label.nii.gz", "labels": ["background", "a", "b", "c"], "regions": regions}
    files = {"name": "d", "loader": "pairs", "root": str(data), "image": names, **labels}
    return small(datasets=[files], models=[{"name": "m", "bundle": bundle}])


STATED = ({1: [2], 2: [1], 3: [3]}, {1: [1], 2: [2], 3: [3]})
FOUND = "class_map: {1: [2], 2: [1], 3: [3]}: outputs with the same voxels in 1 case as the classes of d"


def with_map(job: dict[str, Any], class_map: dict[int, list[int]]) -> dict[str, Any]:
    return {**job, "models": [{**job["models"][0], "classes": 3, "class_map": class_map}]}


def test_first_clean_dice_of_new_job_is_that_of_matched_regions(moved: dict[str, Any]) -> None:
    jobs = [moved, *(with_map(moved, pairs) for pairs in STATED)]
    entries = [(job["datasets"][0], job["models"][0]) for job in jobs]
    matched, right, by_number = (first_case(*entry, is_trained=True).verdict for entry in entries)
    assert matched == right != by_number


def test_doctor_scores_the_matched_regions_and_says_them(moved: dict[str, Any]) -> None:
    jobs = [moved, *(with_map(moved, pairs) for pairs in STATED)]
    lines = [dict(diagnose(None, "m", validate(job, JobSpec, "j"), "j")[0]) for job in jobs]
    assert lines[0]["clean Dice"] == lines[1]["clean Dice"] != lines[2]["clean Dice"]
    assert lines[0]["found"].startswith(FOUND)
    assert "found" not in lines[1]


def test_class_map_that_was_found_is_note_of_plan_and_no_warning(moved: dict[str, Any]) -> None:
    _, grid = expanded(moved)
    assert any(note.startswith(f"m: {FOUND}") for note in grid.notes)
    assert not any("class_map" in line for line in grid.warnings)


def test_numbers_that_a_transform_exchanges_are_exchanged_back(tmp_path: Path) -> None:
    _, facts, _ = matched(SOFTMAX, tmp_path, labels=["background", "a", "b"], label_map={1: 1, 2: 2, 3: 0})
    assert facts.class_map == {1: (2,), 2: (1,)}


def test_an_order_that_nothing_tells_is_assumed(tmp_path: Path) -> None:
    words = replace(SOFTMAX, steps=(step("NormalizeIntensity"),))
    entry, facts, dataset = matched(words, tmp_path, labels=["background", "a", "b"], label_map={1: 1, 2: 2, 3: 0})
    lines = [str(each) for each in assumptions(entry, facts, dataset) if each.key == "class_map"]
    assert lines == ["class_map: outputs in the order a, b (they have no names)"]


def test_copies_of_keys_are_of_the_keys_that_monai_copies() -> None:
    copying = t.CopyItemsd(["image", "other"], times=2, names=["a", "b", "c", "d"])
    made = copying({"image": torch.zeros(1), "other": torch.ones(1)})
    assert {name: torch.equal(made[name], made[key]) for name, (key,) in _moves(copying)} == dict.fromkeys("abcd", True)
