"""Names in plans, bundles and `transforms:` are looked up, refused in one line, or run with trust alone."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import nnunet_folder, test_bundle
from models.conftest import facts, network
from models.nnunet_folder import Change
from monai import transforms
from torch import nn

from freqbench import load_model
from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.models import ModelEntry, resolve
from freqbench.pipelines.monai import MonaiPipeline, from_words

Refused = Callable[[Callable[[], object]], str]


@pytest.fixture
def line() -> Refused:
    def refused(call: Callable[[], object]) -> str:
        with pytest.raises(UserError) as caught:
            call()
        return str(caught.value)

    return refused


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `sprung` that can be imported, and leaves a file if it is."""
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\ndef compose(): pass\nclass Evil: pass\nresample = compose\n"
    (tmp_path / "sprung.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sprung", raising=False)
    return tmp_path / "ran"


def full(**keys: Any) -> Change:
    return lambda plans, dataset, checkpoint: plans["configurations"]["3d_fullres"].update(keys)


def whole(**keys: Any) -> Change:
    return lambda plans, dataset, checkpoint: plans.update(keys)


@pytest.mark.parametrize("name", ["sprung", "sprung.Evil", "os.system", "__class__"])
@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("preprocessor_name", lambda name: full(preprocessor_name=name)),
        ("normalization_schemes", lambda name: full(normalization_schemes=[name])),
        ("resampling function", lambda name: full(resampling_fn_data=name)),
        ("resampling function", lambda name: full(resampling_fn_seg=name)),
        ("resampling function", lambda name: full(resampling_fn_probabilities=name)),
        ("label_manager", lambda name: whole(label_manager=name)),
        ("image_reader_writer", lambda name: whole(image_reader_writer=name)),
    ],
)
def test_foreign_name_in_plans_is_refused_unimported(
    what: str, change: Callable[[str], Change], name: str, tmp_path: Path, trap: Path, line: Refused
) -> None:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    folder = nnunet_folder.write(tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres", change(name))
    (Path(folder) / "sprung.py").write_text((tmp_path / "sprung.py").read_text())
    assert f"unknown {what} '{name}'" in line(lambda: facts("nnunet", folder))
    assert not trap.exists()


def test_a_trainer_elsewhere_needs_trust_and_is_named(tmp_path: Path, trap: Path, line: Refused) -> None:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    folder = nnunet_folder.write(tmp_path / "n", lambda p, d, checkpoint: checkpoint.update(trainer_name="sprung"))
    assert "trainer_name sprung, which is not nnunetv2's: needs --trust-code" in line(lambda: network("nnunet", folder))
    assert not trap.exists()


def test_trainer_of_nnunetv2_with_same_network_needs_no_trust(tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    name = "nnUNetTrainer_5epochs"
    folder = nnunet_folder.write(tmp_path / "n", lambda p, d, checkpoint: checkpoint.update(trainer_name=name))
    assert network("nnunet", folder, with_weights=True)


@pytest.mark.parametrize("plans", [b"[]", b"{", b'{"configurations": 3}', b"\xff\xfe", b'{"configurations": {}}'])
def test_plans_that_are_something_else_are_one_line(plans: bytes, tmp_path: Path, line: Refused) -> None:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    folder = nnunet_folder.write(tmp_path / "n")
    Path(folder, "plans.json").write_bytes(plans)
    assert "plans.json" in line(lambda: facts("nnunet", folder))


RANDOM = ["RandFlip", "RandGaussianNoise", "RandSpatialCrop", "RandCropByPosNegLabel", "RandAffine"]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "RandSpatialCrop": {"roi_size": [8, 8, 8]},
    "RandCropByPosNegLabel": {"label_key": "image", "spatial_size": [8, 8, 8]},
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_transform_is_refused_by_its_name(name: str, line: Refused) -> None:
    words = [{"_target_": f"{name}d", "keys": "image", **ARGUMENTS.get(name, {})}]
    assert f"got {name}d: leave it out" in line(lambda: from_words(words, "m: transforms").steps)


def test_random_transform_inside_compose_is_refused_by_its_name(line: Refused) -> None:
    compose = transforms.Compose([transforms.ScaleIntensity(), transforms.Compose([transforms.RandFlip(prob=1)])])
    assert "got RandFlip: leave it out" in line(lambda: MonaiPipeline(release="0", compose=compose).steps)


CROP = {"_target_": "CropForegroundd", "keys": ["image", "label"], "source_key": "label"}
COPY = {"_target_": "CopyItemsd", "keys": "image", "names": "copy"}


def test_a_crop_by_the_label_is_refused(line: Refused) -> None:
    refused = line(lambda: from_words([CROP], "m: transforms").keys)
    assert "expected crops that need no label, as a new file has none, got CropForegroundd by label: crop by" in refused


def test_a_crop_by_a_copy_of_the_image_is_taken() -> None:
    assert from_words([COPY, CROP | {"source_key": "copy"}], "m: transforms").keys.out == "image"


def test_another_packages_compose_is_refused_by_its_package(line: Refused) -> None:
    """A class with the name of torchio's."""
    theirs = type("Compose", (), {"__module__": "torchio.transforms"})()
    refused = line(lambda: MonaiPipeline(release="0", compose=theirs).steps)
    assert "got Compose of torchio.transforms: give a function that returns MONAI's" in refused
    config = {"preprocessing": {"_target_": "torchio.Compose", "transforms": []}}
    with trusting():
        refused = line(lambda: MonaiPipeline(release="0", config=config).steps)
    assert "expected a Compose of MONAI's transforms, got torchio.Compose: give a function" in refused


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("the expression", {"_target_": "ScaleIntensityd", "keys": "image", "minv": "$__import__('sprung')"}),
    ("an object of sprung.Evil", {"_target_": "sprung.Evil", "keys": "image"}),
    ("an object of Evil", {"_target_": "Evil", "keys": "image"}),
    ("an object of os.system", {"_target_": "os.system", "command": "true"}),
    (
        "an object of builtins.open",
        {"_target_": "Lambdad", "keys": "image", "func": {"_target_": "builtins.open", "file": "ran"}},
    ),
    ("_mode_ or _requires_", {"_target_": "ScaleIntensityd", "keys": "image", "_requires_": "$__import__('sprung')"}),
    ("the expression", {"_target_": "ScaleIntensityd", "keys": ["image", "$__import__('sprung')"]}),
    ("the expression", {"_target_": "ScaleIntensityd", "keys": "image", "_disabled_": "$__import__('sprung')"}),
]


@pytest.mark.parametrize(("what", "entry"), RUNS)
def test_words_that_would_run_code_need_trust(what: str, entry: dict[str, Any], trap: Path, line: Refused) -> None:
    refused = line(lambda: from_words([entry], "m: transforms").steps)
    assert what in refused
    assert "--trust-code" in refused
    assert not trap.exists()


def test_what_a_trusted_step_requires_is_run_by_monai(tmp_path: Path) -> None:
    entry = {"_target_": "ScaleIntensityd", "keys": "image", "_requires_": f"$open({str(tmp_path / 'ran')!r}, 'w')"}
    with trusting():
        assert len(from_words([entry], "m: transforms").steps) == 1
    assert (tmp_path / "ran").exists()


def test_a_macro_of_another_file_is_refused_unread(line: Refused) -> None:
    entry = {"_target_": "ScaleIntensityd", "keys": "image", "minv": "%/etc/passwd::x"}
    assert "%/etc/passwd::x, which is not in the file" in line(lambda: from_words([entry], "m: transforms").steps)


@pytest.mark.parametrize("entry", [entry for _, entry in RUNS[:2]])
def test_preprocessing_needs_trust_for_code(entry: dict[str, Any], tmp_path: Path, trap: Path, line: Refused) -> None:
    folder = test_bundle.written(tmp_path / "b", lambda config, _: config["preprocessing"]["transforms"].append(entry))
    assert "--trust-code" in line(lambda: resolve(ModelEntry(name="m", bundle=folder), 3))
    assert not trap.exists()


@pytest.mark.parametrize("value", ["$__import__('sprung')", {"_target_": "sprung.Evil"}], ids=["expression", "class"])
@pytest.mark.parametrize("key", ["lowest", "preprocessing_lowest", "postprocessing2", "bundle_root2"])
def test_references_need_trust_for_code(key: str, value: Any, tmp_path: Path, trap: Path, line: Refused) -> None:
    def change(config: dict[str, Any], metadata: dict[str, Any]) -> None:
        config[key] = value
        config["preprocessing"]["transforms"] += [{"_target_": "ScaleIntensityd", "keys": "image", "minv": f"@{key}"}]

    folder = test_bundle.written(tmp_path / "b", change)
    assert "--trust-code" in line(lambda: resolve(ModelEntry(name="m", bundle=folder), 3))
    assert not trap.exists()


def test_a_function_that_returns_a_compose_needs_trust(tmp_path: Path, trap: Path, line: Refused) -> None:
    entry = ModelEntry(
        name="m",
        arch="unet",
        args={"channels": [4, 8], "strides": [2]},
        roi=(8, 8, 8),
        checkpoint="random",
        transforms="sprung:compose",
    )
    assert "--trust-code" in line(lambda: resolve(entry, 2))
    assert not trap.exists()
    with trusting():
        assert "expected a Compose of MONAI's transforms, got NoneType" in line(lambda: resolve(entry, 2))


@pytest.mark.parametrize("given", ["RandFlipd", 3, [], ["ScaleIntensityd"], {"_target_": "ScaleIntensityd"}], ids=str)
def test_transforms_that_are_something_else_are_refused(given: Any, line: Refused) -> None:
    stated = {"name": "m", "arch": "unet", "checkpoint": "random", "transforms": given}
    with pytest.raises(ValueError, match="expected a list of entries with _target_"):
        ModelEntry(**stated)


def test_transforms_replace_preprocess_alone(tmp_path: Path, line: Refused) -> None:
    words = [{"_target_": "ScaleIntensityd", "keys": "image"}]
    with pytest.raises(ValueError, match="expected one of preprocess and transforms, got both"):
        ModelEntry(name="m", arch="unet", checkpoint="random", transforms=words, preprocess={})
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    folder = nnunet_folder.write(tmp_path / "n")
    assert "expected no transforms" in line(lambda: facts("nnunet", folder, transforms=words))


def test_bounds_are_refused_where_no_pipeline_has_them(line: Refused) -> None:
    entry = ModelEntry(
        name="m", arch="unet", args={"channels": [4, 8], "strides": [2]}, roi=(8, 8, 8), checkpoint="random",
        bounds=[[0, 1]],
    )  # fmt: skip
    assert "expected no bounds" in line(lambda: resolve(entry, 2))


@pytest.mark.parametrize("bounds", [[[1, 1]], [[2, 1]], [[float("nan"), 1]], []])
def test_bounds_rise(bounds: Any) -> None:
    with pytest.raises(ValueError, match="bounds"):
        ModelEntry(name="m", arch="nnunet", checkpoint="x", bounds=bounds)


def test_a_module_of_python_takes_its_own_compose() -> None:
    compose = transforms.Compose([transforms.ScaleIntensityRanged("image", -100, 300, -1, 1, clip=True)])
    model = load_model(nn.Conv3d(1, 2, 1), roi=(8, 8, 8), transforms=compose)
    assert isinstance(model.spec.space, MonaiPipeline)
    assert model.spec.space.stated_bounds == ((-1, 1),)
    other = transforms.Compose([transforms.ScaleIntensityRanged("image", -100, 299, -1, 1, clip=True)])
    again = transforms.Compose([transforms.ScaleIntensityRanged("image", -100, 300, -1, 1, clip=True)])
    first, differing, equal = (MonaiPipeline(release="0", compose=each).identity() for each in (compose, other, again))
    assert first != differing
    assert first == equal
    assert torch.is_tensor(next(model.network.parameters()))
