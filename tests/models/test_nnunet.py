"""nnU-Net folders, written here as nnU-Net v2 writes them: plans of either format, plain and residual encoders."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from draws import seeded
from models import nnunet_folder
from models.conftest import facts, network, unresolved, weights_of
from models.nnunet_folder import PATCH, Change, direct, new_architecture, old_architecture

from freqbench.core.errors import CheckpointError, UserError
from freqbench.core.plugins import trusting
from freqbench.models import READERS, Facts, ModelEntry, facts_of
from freqbench.models.sources import nnunet
from freqbench.pipelines.nnunet import NnunetPipeline

pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")

Write = Callable[..., str]
CT_NORM = "CTNormalization"
CASCADE = "3d_cascade_fullres"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(nnunet_folder.write, tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres")


@pytest.mark.parametrize(
    ("architecture", "cls"), [(old_architecture, "PlainConvUNet"), (new_architecture, "ResidualEncoderUNet")]
)
def test_computes_what_the_class_does(write: Write, architecture: Callable[[str], dict[str, Any]], cls: str) -> None:
    trained = direct(cls)
    net = network("nnunet", write(architecture=architecture(cls), network=trained), with_weights=True).eval()
    images = torch.rand(1, 1, *PATCH, generator=seeded(1))
    with torch.no_grad():
        torch.testing.assert_close(net(images), trained(images)[0], rtol=0, atol=0)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "PSR", "IRA"])
@pytest.mark.parametrize(("transpose", "is_stated"), [([0, 1, 2], False), ([2, 0, 1], False), ([2, 0, 1], True)])
def test_network_gets_itk_axes(write: Write, tmp_path: Path, transpose: list[int], is_stated: bool, codes: str) -> None:
    """Each file's own array, or, where `orientation` says that all were turned, that of a file turned so."""
    sitk = pytest.importorskip("SimpleITK")
    args = {"orientation": codes} if is_stated else {}
    written = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
    # Identity direction: towards left, posterior, superior.
    sitk.WriteImage(sitk.DICOMOrient(sitk.GetImageFromArray(written), codes), str(tmp_path / "a.nii.gz"))
    wanted = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))).transpose(transpose)
    volume = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii.gz")).get_fdata(dtype=np.float32)
    folder = write(lambda plans, dataset, checkpoint: plans.update(transpose_forward=transpose))
    adapter = facts("nnunet", folder, args=args).input.turn_to_file(codes)
    np.testing.assert_array_equal(adapter.to_network_axes(torch.from_numpy(volume.copy())[None, None])[0, 0], wanted)


@pytest.mark.parametrize(
    ("change", "axes", "configuration"),
    [
        (lambda p, d, c: p.update(image_reader_writer="NibabelIOWithReorient"), "DWH", "3d_fullres"),
        # The network's axes are now the first, third and second of the file.
        (lambda p, d, c: p.update(transpose_forward=[2, 0, 1]), "IKJ", "3d_fullres"),
        (lambda p, d, c: p.update(image_reader_writer="NibabelIO"), "KJI", "3d_fullres"),
        (lambda p, d, c: d["labels"].update(ignore=3), "KJI", "3d_fullres"),
        (lambda p, d, c: c["init_args"].update(configuration="3d_lowres"), "KJI", "3d_lowres"),
    ],
    ids=[
        *("a reader that reorients", "transposed", "nibabel's reader", "the ignore label is no class"),
        "as the checkpoint was trained",
    ],
)
def test_axes_configuration_and_classes(write: Write, change: Change, axes: str, configuration: str) -> None:
    stated = facts("nnunet", write(change))
    assert (stated.input.axes, pipeline(stated).configuration, stated.num_classes) == (axes, configuration, 3)


def pipeline(stated: Facts) -> NnunetPipeline:
    assert isinstance(stated.space, NnunetPipeline)
    return stated.space


def test_a_list_of_labels_makes_sigmoid_outputs_of_all(write: Write) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    stated = facts("nnunet", write(lambda p, dataset, c: dataset.update(labels=labels, regions_class_order=[1, 2, 3])))
    assert (stated.outputs, stated.num_classes, facts("nnunet", write()).outputs) == ("sigmoid", 3, "softmax")


@pytest.mark.parametrize(
    ("scheme", "ends"),
    [
        ("CTNormalization", ((-60 - 90) / 120, (340 - 90) / 120)),
        ("ZScoreNormalization", (-5.0, 5.0)),
        ("RescaleTo01Normalization", (0.0, 1.0)),
        ("RGBTo01Normalization", (0.0, 1.0)),
        ("NoNormalization", None),
    ],
)
def test_each_normalisation_has_its_bounds_and_array_spans_them(write: Write, scheme: str, ends: Any) -> None:
    """The ends of the attacked volume: of CT the clip of the plans; where no plan says them, the volume's own."""
    stated = facts("nnunet", write(lambda p, d, c: full(p).update(normalization_schemes=[scheme])))
    assert pipeline(stated).stated_bounds == (ends,)
    spanned = stated.input.to_network(torch.tensor([0.0, 1.0]).reshape(1, 1, 2, 1, 1)).flatten()
    np.testing.assert_allclose(np.sort(spanned), ends or (0, 1), rtol=1e-6)


def two_channels(plans: dict[str, Any], dataset: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    full(plans).update(normalization_schemes=["CTNormalization", "ZScoreNormalization"], use_mask_for_norm=[False] * 2)
    dataset["channel_names"]["1"] = "PET"


def test_each_channel_has_bounds_that_the_job_overrules(write: Write) -> None:
    folder = write(two_channels, network=direct("PlainConvUNet", channels=2))
    stated = facts("nnunet", folder)
    assert (stated.num_channels, pipeline(stated).stated_bounds[1]) == (2, (-5.0, 5.0))
    network("nnunet", folder, with_weights=True)
    own = ((-1.0, 2.0), (0.0, 9.0))
    overruled = facts("nnunet", folder, bounds=own)
    assert pipeline(overruled).stated_bounds == own
    assert pipeline(overruled).identity() != pipeline(stated).identity()
    with pytest.raises(UserError, match=r"bounds: expected one for each of the 2 channels, got 1"):
        facts("nnunet", folder, bounds=own[:1])


def copied(folder: str, *folds: str) -> None:
    for fold in folds:
        shutil.copytree(Path(folder, "fold_0"), Path(folder, f"fold_{fold}"))


@pytest.mark.parametrize(
    ("there", "args", "count"),
    [
        (("1", "all"), {}, 2),  # every numbered one
        (("1", "2"), {"fold": [0, 2]}, 2),
        (("1", "all"), {"fold": "all"}, 1),
        (("1",), {"fold": 1}, 1),
        (("all",), {"fold": 0}, 1),
    ],
)
def test_folds_are_numbered_or_named(write: Write, there: tuple[str, ...], args: dict[str, Any], count: int) -> None:
    folder = write()
    copied(folder, *there)
    spec = unresolved("nnunet", folder, args=args)
    assert len(READERS["nnunet"].network(spec).nets) == count  # type: ignore[arg-type]
    assert facts("nnunet", folder, args=args).notes == (
        (f"logits of {count} folds are averaged, as nnU-Net does",) if count > 1 else ()
    )


@pytest.mark.parametrize("fold", [[0, 0], []])
def test_a_list_of_folds_names_each_once(write: Write, fold: list[int]) -> None:
    folder = write()
    with pytest.raises(UserError, match=r"fold: expected a list of different folds"):
        facts("nnunet", folder, args={"fold": fold})


def test_fold_all_is_taken_where_it_is_alone(write: Write) -> None:
    folder = Path(write())
    (folder / "fold_0").rename(folder / "fold_all")
    assert facts("nnunet", str(folder)).num_classes == 3
    with pytest.raises(CheckpointError, match=r"expected fold_1/checkpoint_final.pth.*one of all"):
        facts("nnunet", str(folder), args={"fold": 1})


def test_the_hash_follows_plans_and_weights_and_not_the_place(write: Write, tmp_path: Path) -> None:
    folder = Path(write())
    first = facts("nnunet", str(folder)).checkpoint_sha256
    moved = folder.rename(tmp_path / "elsewhere")
    assert facts("nnunet", str(moved)).checkpoint_sha256 == first
    (moved / "plans.json").write_text(json.dumps({**json.loads((moved / "plans.json").read_text()), "note": 1}))
    assert facts("nnunet", str(moved)).checkpoint_sha256 != first


def full(plans: dict[str, Any]) -> dict[str, Any]:
    section: dict[str, Any] = plans["configurations"]["3d_fullres"]
    return section


def arch(plans: dict[str, Any]) -> dict[str, Any]:
    section: dict[str, Any] = full(plans)["architecture"]
    return section


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"dataset.json: nnunetv2 cannot .*Background label", lambda p, d, c: d.update(labels={"0": "a", "1": "b"})),
        (r"dataset.json: labels: expected .* 0..2", lambda p, d, c: d["labels"].update(tumour=4)),
        (r"dataset.json: .*define regions_class_order", lambda p, d, c: d["labels"].update(both=[1, 2])),
        (r"labels: required", lambda p, d, c: d.pop("labels")),
        (
            r"normalization_schemes.*1 channels, got 2",
            lambda p, d, c: full(p).update(normalization_schemes=[CT_NORM] * 2),
        ),
        (r"unknown image_reader_writer 'Tiff3DIO'", lambda p, d, c: p.update(image_reader_writer="Tiff3DIO")),
        (r"each of 0, 1, 2 once", lambda p, d, c: p.update(transpose_forward=[0, 1, 1])),
        (r"plans.json: .*Circular dependency", lambda p, d, c: full(p).update(inherits_from="3d_lowres")),
        (r"found no network_weights", lambda p, d, c: c.pop("network_weights")),
        (r"mirroring_axes: expected some of 0, 1, 2", lambda p, d, c: c.update(inference_allowed_mirroring_axes=(3,))),
        (
            r"refines the prediction .* or 3d_lowres itself",
            lambda p, d, c: c["init_args"].update(configuration=CASCADE),
        ),
        (
            r"regions_class_order: expected some of the labels \[0, 1, 2\], got \[1, 5\]",
            lambda p, d, c: d.update(labels={"background": 0, "a": [1, 2], "b": 2}, regions_class_order=[1, 5]),
        ),
        (r"unknown network 'os.system'", lambda p, d, c: arch(p).update(network_class_name="os.system")),
        (
            r"unknown network 'evil.PlainConvUNet'",
            lambda p, d, c: arch(p).update(network_class_name="evil.PlainConvUNet"),
        ),
        (r"nonlin: expected a layer of torch.nn", lambda p, d, c: arch(p)["arch_kwargs"].update(nonlin="os.system")),
        (
            r"nonlin: expected a layer of torch.nn",
            lambda p, d, c: arch(p)["arch_kwargs"].update(nonlin="torch.nn.init"),
        ),
        (
            r"nonlin: expected a layer of torch.nn",
            lambda p, d, c: arch(p)["arch_kwargs"].update(nonlin="evil.LeakyReLU"),
        ),
        (r"does not fit its class: n_conv_per_stage must", lambda p, d, c: arch(p)["arch_kwargs"].update(n_stages=2)),
    ],
)
def test_refuses_in_one_line(write: Write, message: str, change: Change) -> None:
    folder = write(change)
    with pytest.raises(UserError, match=message):  # noqa: PT012 (which of the two refuses is free)
        facts("nnunet", folder)
        network("nnunet", folder)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"configuration": "3d_cascade_fullres"}, r"was trained as 3d_fullres: leave it out"),
        ({"configuraton": "2d"}, r"unknown key 'configuraton'. Did you mean 'configuration'"),
        ({"orientation": "LAA"}, r"orientation: expected one of R or L"),
        (
            {"checkpoint": "checkpoint_best.pth"},
            r"expected fold_N/checkpoint_best.pth, found none: give args: {checkpoint: checkpoint_final.pth}, which is",
        ),
    ],
)
def test_refuses_arguments_in_one_line(write: Write, args: dict[str, Any], message: str) -> None:
    folder = write()
    with pytest.raises(UserError, match=message):
        facts("nnunet", folder, args=args)


@pytest.mark.parametrize("missing", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
def test_refuses_an_incomplete_folder_by_name(write: Write, missing: str) -> None:
    folder = Path(write())
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=Path(missing).name):
        facts("nnunet", str(folder))


def packed(folder: Path) -> Path:
    with zipfile.ZipFile(folder.parent / "model.zip", "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, f"Dataset001_Small/{file.relative_to(folder.parent)}")
    return folder.parent / "model.zip"


PARTS: dict[str, Callable[[Path], Path]] = {
    "fold": lambda folder: folder / "fold_0",
    "weights": lambda folder: folder / "fold_0/checkpoint_final.pth",
    "dataset": lambda folder: folder.parent,
    "archive": packed,
}


@pytest.mark.parametrize("arch", ["nnunet", None])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_folder_is_refused_with_the_whole_one(write: Write, part: str, arch: str | None) -> None:
    folder = Path(write())
    entry = ModelEntry(name="m", arch=arch, checkpoint=str(PARTS[part](folder)))
    advice = f"unpack it, and give its folder Dataset001_Small/{folder.name}" if part == "archive" else f"give {folder}"
    with pytest.raises(CheckpointError, match=re.escape(f"{advice} with arch: nnunet") + "$"):
        facts_of(entry)


def test_a_trainer_of_a_former_release_builds_the_network_too(write: Write) -> None:
    """nnunetv2 calls either form; this one takes the architecture in place of both managers."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    def former(name: str, kwargs: Any, needing_import: Any, inputs: int, outputs: int, deep: bool) -> torch.nn.Module:
        net: torch.nn.Module = get_network_from_plans(name, kwargs, needing_import, inputs, outputs, True, deep)
        return net

    folder = write()
    space = pipeline(facts("nnunet", folder))
    net = nnunet._called_as_now(former)(space.manager, space.settings, 1, 3, False).eval()
    net.load_state_dict({name.removeprefix("nets.0."): value for name, value in weights_of("nnunet", folder).items()})
    images = torch.rand(1, 1, *PATCH, generator=seeded(1))
    with torch.no_grad():
        torch.testing.assert_close(net(images), direct("PlainConvUNet")(images)[0], rtol=0, atol=0)


def test_trusted_trainers_folder_is_in_hash(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_elsewhere(plans: dict[str, Any], dataset: dict[str, Any], checkpoint: dict[str, Any]) -> None:
        checkpoint["trainer_name"] = "MyTrainer"

    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
    (tmp_path / "trainers").mkdir()
    seen: dict[str, set[str]] = {"own": set(), "mine": set()}
    folders = {"own": write(), "mine": nnunet_folder.write(tmp_path / "mine", train_elsewhere)}
    for text in ("A = 1", "A = 2"):
        (tmp_path / "trainers/helper.py").write_text(text)
        with trusting():
            for name, folder in folders.items():
                seen[name].add(READERS["nnunet"].sha256(folder, {}))
    assert {name: len(hashes) for name, hashes in seen.items()} == {"own": 1, "mine": 2}
