"""Classes and channels are compared by name before number, and merged into the dataset's by a class map."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import meshnet_folder, nnunet_folder, test_bundle
from models.conftest import TINY_ARGS, TINY_ROI, facts, refused
from monai.transforms import Compose, ConcatItemsd, NormalizeIntensityd

from freqbench.core.errors import UserError
from freqbench.data.loaders.decathlon import Decathlon
from freqbench.data.loaders.nnunet_raw import NnunetRaw
from freqbench.data.loaders.pairs import Pairs
from freqbench.models import ModelEntry, facts_of, load, resolve
from freqbench.models.resolving import are_strangers, match_channels, match_names
from freqbench.pipelines.monai import MonaiPipeline

OURS = ("background", "tumour", "liver")


def nnunet(folder: Path, **labels: int) -> ModelEntry:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    change = (lambda p, d, c: d.update(labels=labels)) if labels else None
    return ModelEntry(name="m", arch="nnunet", checkpoint=nnunet_folder.write(folder / "nnU", change))


def bundle(folder: Path, *names: str) -> ModelEntry:
    named = {"outputs": {"pred": {"channel_def": {str(k): name for k, name in enumerate(names)}}}}
    path = test_bundle.written(folder / "b", lambda config, meta: meta["network_data_format"].update(named))
    return ModelEntry(name="m", bundle=path)


def test_classes_of_nnunet_in_another_order_are_paired_by_name(tmp_path: Path) -> None:
    """The folder's are background, liver, tumour: as the class map that a job could state."""
    entry = nnunet(tmp_path)
    by_name = resolve(entry, 3, class_names=OURS)
    assert by_name.class_map == ((0,), (2,), (1,))
    stated = entry.model_copy(update={"class_map": {1: (2,), 2: (1,)}})
    assert by_name.model_id == resolve(stated, 3, class_names=OURS).model_id
    assert by_name.model_id != resolve(entry, 3).model_id
    assert "m: classes are paired by their names, as class_map: {1: [2], 2: [1]} would" in by_name.found


def test_a_list_of_labels_that_is_not_in_order_is_read_by_number(tmp_path: Path) -> None:
    assert facts_of(nnunet(tmp_path, tumour=2, background=0, liver=1)).class_names == ("background", "liver", "tumour")


def test_classes_of_a_bundle_in_another_order_are_paired_by_name(tmp_path: Path) -> None:
    by_name = resolve(bundle(tmp_path, "background", "Liver", "Tumour"), 3, class_names=OURS)
    assert by_name.class_map == ((0,), (2,), (1,))


def test_a_bundle_that_names_some_outputs_alone_names_none(tmp_path: Path) -> None:
    assert facts_of(bundle(tmp_path, "background", "liver")).class_names == ()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("background liver tumour", "background liver tumour"),
        ("background Left_Kidney spleen", "background left-kidney SPLEEN"),
        ("background liver tumour", "background a b"),
        ("background liver lesion", "background liver tumour"),
        ("background vessel vessel liver", "background liver vessel vessel"),  # which is which is not said
        ("background liver tumour", "background tumour"),  # refused by their numbers
    ],
)
def test_names_that_contradict_no_number_make_no_map(theirs: str, ours: str) -> None:
    assert match_names("m", "p", theirs.split(), ours.split()) == {}


def test_misplaced_class_beside_a_stranger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        resolve(nnunet(tmp_path), 3, class_names=("background", "tumour", "kidney"))
    assert str(caught.value).endswith(
        "liver, tumour, got background, tumour, kidney, where tumour has another place: say which is which, as by "
        "class_map: {1: [2], 2: [?]}"
    )


def test_channels_in_another_order_are_refused_with_both_orders(tmp_path: Path) -> None:
    stated = {"labels": {"background": 0, "lesion": 1}, "channel_names": {"1": "t1", "0": "Flair"}}
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    ours = NnunetRaw(name="d", root=str(tmp_path)).channel_names
    with pytest.raises(UserError, match=r"expected the channels T1, FLAIR, the order of p, got Flair, t1 of .*pairs`"):
        match_channels("m", "p", ("T1", "FLAIR"), ours, None)
    assert match_channels("m", "p", ("Flair", "T1"), ours, None) == {}


def test_the_modality_of_a_decathlons_list_names_the_channels(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"1": "T1w", "0": "FLAIR"}}))
    assert Decathlon(name="d", root=str(tmp_path), list_file="dataset.json").channel_names == ("FLAIR", "T1w")


KEYS = [NormalizeIntensityd("t2"), NormalizeIntensityd("adc"), ConcatItemsd(["t2", "adc"], "image")]


def compose(steps: Any, **stated: Any) -> MonaiPipeline:
    return MonaiPipeline(release="0", compose=Compose(steps), **stated)


@pytest.mark.parametrize(
    ("theirs", "ours", "steps", "bound"),
    [
        ("T1 FLAIR", "flair t1", NormalizeIntensityd("image"), {"image": [1, 0]}),
        ("T1 T2 T1ce", "T1ce T1 T2", NormalizeIntensityd("image"), {"image": [1, 2, 0]}),
        ("", "ADC T2", KEYS, {"t2": 1, "adc": 0}),
        ("T2 ADC", "ADC T2", KEYS, {"t2": 1, "adc": 0}),
        ("", "T2 ADC", KEYS, {}),
        ("", "dwi pet", KEYS, {}),  # none of them is a key
        ("", "ADC T2w", KEYS, {"t2": 1, "adc": 0}),
        ("T1c T1 T2 FLAIR", "t1n t1c t2w t2f", NormalizeIntensityd("image"), {"image": [1, 0, 2, 3]}),
        ("T1ce t1w t2 flair", "FLAIR T1 T1gd T2w", NormalizeIntensityd("image"), {"image": [2, 1, 3, 0]}),
    ],
)
def test_transforms_channels_bind_by_both_names(theirs: str, ours: str, steps: Any, bound: dict[str, Any]) -> None:
    assert match_channels("m", "p", theirs.split(), ours.split(), compose(steps)) == bound


def test_stated_channels_are_held_against_no_name() -> None:
    assert match_channels("m", "p", (), ("ADC", "T2"), compose(KEYS, channels={"t2": 0, "adc": 1})) == {}


def test_misplaced_channel_beside_a_stranger_is_refused() -> None:
    line = r"channels t2, adc, the order of the keys of its transforms, got ADC, PET .*by channels: {t2: \?, adc: 0}$"
    with pytest.raises(UserError, match=line):
        match_channels("m", "p", (), ("ADC", "PET"), compose(KEYS))


def test_what_no_name_decides_cannot_be_pasted() -> None:
    line = r"by channels: {image: \[2, \?, \?, \?\]}$"
    with pytest.raises(UserError, match=line):
        match_channels("m", "p", ("T1c", "a", "b", "c"), ("x", "y", "T1Gd", "z"), compose(NormalizeIntensityd("image")))


def test_channels_of_which_no_name_is_known_are_strangers() -> None:
    assert are_strangers(("T1", "FLAIR"), ("a", "b"))
    assert not are_strangers(("T1", "FLAIR"), ("t1n", "b"))
    assert not are_strangers(("MR", "MR"), ("a", "b"))
    assert not are_strangers((), ("a", "b"))


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ({"volume": {"channel_def": {"0": "T1", "1": "FLAIR"}}}, ("T1", "FLAIR")),
        ({"t2": {"num_channels": 1}, "adc": {"num_channels": 1}}, ("t2", "adc")),
        ({"image": {"channel_def": {"0": "T1", "1": "FLAIR"}}, "mask": {}}, ("T1", "FLAIR")),
        ({"image": {"num_channels": 2}}, ()),
    ],
)
def test_bundles_metadata_name_its_channels(inputs: dict[str, Any], names: tuple[str, ...], tmp_path: Path) -> None:
    def two(config: dict[str, Any], metadata: dict[str, Any]) -> None:
        config["network_def"].update(in_channels=2)
        metadata["network_data_format"].update(inputs=inputs)

    assert facts("bundle", test_bundle.written(tmp_path, two)).channel_names == names


@pytest.mark.parametrize(("theirs", "ours"), [("MR MR", "MR MR"), ("T1 T2", "a b"), ("T1", "T2 T1"), ("", "T2 T1")])
def test_channels_not_told_apart_go_by_number(theirs: str, ours: str) -> None:
    assert match_channels("m", "p", theirs.split(), ours.split(), None) == {}


def test_channels_of_nnunet_are_named_by_its_folder(tmp_path: Path) -> None:
    def two(plans: dict[str, Any], dataset: dict[str, Any], checkpoint: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"].update(normalization_schemes=["NoNormalization"] * 2)
        plans["configurations"]["3d_fullres"].update(use_mask_for_norm=[False] * 2)
        dataset["channel_names"] = {"1": "PET", "0": "CT"}

    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    assert facts("nnunet", nnunet_folder.write(tmp_path / "n", two)).channel_names == ("CT", "PET")


@pytest.mark.parametrize(
    ("image", "names"),
    [
        (("{case}_T1ce.nii.gz", "{case}-flair.nii.gz"), ("T1ce", "flair")),
        (("{case}/t1.nii", "{case}/t2.nii"), ("t1", "t2")),
        (("{case}_0000.nii.gz", "{case}_0001.nii.gz"), ()),
        (("{case}.nii.gz",), ()),
    ],
)
def test_patterns_that_end_in_modalities_name_the_channels(image: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert Pairs(name="d", root="r", image=image, label="l/{case}.nii.gz").channel_names == names


CPU = torch.device("cpu")
MAP = {1: [3, 1], 2: [4]}


def entry(**more: Any) -> ModelEntry:
    content = {"name": "m", "arch": "unet", "checkpoint": "random", "args": TINY_ARGS, "roi": TINY_ROI, **more}
    return ModelEntry(**content)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_probabilities_of_merged_classes_are_added(average: Any) -> None:
    merged = resolve(entry(classes=5, class_map=MAP, inference={"average": average}), num_classes=3)
    plain = load(resolve(entry(), num_classes=5), CPU)
    x = torch.rand(1, 1, *TINY_ROI, generator=torch.Generator().manual_seed(1))
    model = load(merged, CPU)
    p = plain(x).softmax(dim=1)
    wanted = torch.stack([p[:, 0] + p[:, 2], p[:, 1] + p[:, 3], p[:, 4]], dim=1)
    torch.testing.assert_close(model(x).softmax(dim=1), wanted, rtol=1e-5, atol=1e-6)
    assert (merged.num_classes, merged.num_outputs) == (3, 5)


def test_class_map_is_part_of_the_identity_in_any_spelling() -> None:
    def model_id(**more: Any) -> str:
        return resolve(entry(**more), num_classes=3).model_id

    same = model_id(classes=5, class_map={2: [4], 1: [1, 3], 0: [0, 2]})
    other = model_id(classes=5, class_map={1: [1, 2], 2: [4]})
    assert model_id(classes=5, class_map=MAP) == same != other != model_id()
    assert model_id(classes=3) == model_id()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"classes": 5}, "m: classes: expected the 3 of the dataset, got 5: set classes: 5 and class_map"),
        (
            {"classes": 2},
            "m: classes: expected the 3 of the dataset, got 2: choose the classes that it knows by the dataset's "
            "`labels` (their names) or label_map, such as {2: 1, other: background}",
        ),
        (
            {"classes": 2, "class_map": {1: [1]}},
            "m: class_map: expected each class of the dataset, got none for 2: give its classes; if the network has "
            "none for it, take it out of the dataset: label_map: {1: 1, other: background}",
        ),
        ({"class_map": MAP}, "m: classes: required beside class_map, as random does not state them"),
        ({"classes": 4, "class_map": MAP}, "m: class_map: 2: expected each class of the network once, but 4 is not in"),
        ({"classes": 5, "class_map": {1: [3], 2: [3]}}, "m: class_map: 2: expected each class of the network once, bu"),
        ({"classes": 5, "class_map": {1: [1]}}, "m: class_map: expected each class of the dataset, got none for 2"),
        ({"classes": 5, "class_map": {1: [0, 1, 2], 2: [3, 4]}}, "m: class_map: expected each class of the dataset, g"),
        ({"classes": 5, "class_map": {**MAP, 3: [2]}}, "m: class_map: expected classes of the dataset, 0 to 2, got 3"),
        ({"classes": 5, "class_map": {**MAP, 0: [0]}}, "m: class_map: expected each class of the network, got none fo"),
    ],
)
def test_a_map_that_leaves_a_class_open_is_refused(more: dict[str, Any], text: str) -> None:
    refused(entry(**more), text)


def test_a_folder_states_its_own_classes(tmp_path: Path) -> None:
    folder = meshnet_folder.write(tmp_path / "net")
    mapped = ModelEntry(name="m", arch="meshnet", checkpoint=folder, class_map={1: [1, 2]})
    assert resolve(mapped, num_classes=2).class_map == ((0,), (1, 2))
    four = mapped.model_copy(update={"classes": 4})
    refused(four, f"m: {folder} has 3 output classes, classes wants 4", num_classes=2)


def test_an_ensemble_has_its_members_map() -> None:
    with pytest.raises(ValueError, match="expected an ensemble without class_map"):
        ModelEntry(name="both", ensemble=("a", "b"), class_map=MAP)
