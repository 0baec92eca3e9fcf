"""nnU-Net folders, written here as nnU-Net v2 writes them: plans of either format, plain and residual encoders."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from models import nnunet_folder
from models.conftest import facts, network
from models.nnunet_folder import CT, PATCH, Change, direct, new_architecture, old_architecture

from freqbench.core.errors import CheckpointError, UserError

pytest.importorskip("dynamic_network_architectures", reason="dynamic-network-architectures is not installed")

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(nnunet_folder.write, tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres")


@pytest.mark.parametrize(
    ("architecture", "cls"), [(old_architecture, "PlainConvUNet"), (new_architecture, "ResidualEncoderUNet")]
)
def test_computes_what_the_class_built_directly_computes(
    write: Write, architecture: Callable[[str], dict[str, Any]], cls: str
) -> None:
    trained = direct(cls)
    folder = write(architecture=architecture(cls), network=trained)
    net = network("nnunet", folder, with_weights=True).eval()
    images = torch.rand(1, 1, *PATCH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(net(images), trained(images)[0], rtol=0, atol=0)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "PSR", "IRA"])
@pytest.mark.parametrize(("transpose", "is_stated"), [([0, 1, 2], False), ([2, 0, 1], False), ([2, 0, 1], True)])
def test_the_network_is_given_the_array_that_itk_reads(
    write: Write, tmp_path: Path, transpose: list[int], is_stated: bool, codes: str
) -> None:
    """Each file's own array, or, where `orientation` says that all were turned, that of a file turned so."""
    sitk = pytest.importorskip("SimpleITK")
    args = {"orientation": codes} if is_stated else {}
    written = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
    # Identity direction: towards left, posterior, superior.
    image = sitk.DICOMOrient(sitk.GetImageFromArray(written), codes)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    wanted = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))).transpose(transpose)
    volume = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii.gz")).get_fdata(dtype=np.float32)
    folder = write(lambda plans, dataset, checkpoint: plans.update(transpose_forward=transpose))
    adapter = facts("nnunet", folder, args=args).input.of_file(codes)
    np.testing.assert_array_equal(adapter.to_network_axes(torch.from_numpy(volume.copy())[None, None])[0, 0], wanted)


@pytest.mark.parametrize(
    ("change", "axes", "spacing"),
    [
        (lambda p, d, c: p.update(image_reader_writer="NibabelIOWithReorient"), "DWH", (0.8, 1.0, 5.0)),
        # The network's axes are now the first, third and second of the file; the plans' spacing is in their order.
        (lambda p, d, c: p.update(transpose_forward=[2, 0, 1]), "IKJ", (5.0, 0.8, 1.0)),
        (lambda p, d, c: p.update(image_reader_writer="NibabelIO"), "KJI", (0.8, 1.0, 5.0)),
        (lambda p, d, c: d["labels"].update(ignore=3), "KJI", (0.8, 1.0, 5.0)),
        (lambda p, d, c: c["init_args"].update(configuration="3d_lowres"), "KJI", (1.6, 2.0, 6.0)),
    ],
    ids=[
        "a reader that reorients",
        "transposed",
        "nibabel's reader",
        "the ignore label is no class",
        "as the checkpoint was trained",
    ],
)
def test_axes_spacing_and_classes(write: Write, change: Change, axes: str, spacing: tuple[float, ...]) -> None:
    stated = facts("nnunet", write(change))
    assert stated.space is not None
    assert (stated.input.axes, stated.space.spacing, stated.num_classes) == (axes, spacing, 3)


def test_a_list_of_labels_makes_sigmoid_outputs_of_all(write: Write) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    stated = facts("nnunet", write(lambda plans, dataset, checkpoint: dataset.update(labels=labels)))
    assert (stated.outputs, stated.num_classes) == ("sigmoid", 3)
    assert facts("nnunet", write()).outputs == "softmax"


def test_ct_intensities_become_what_nnunet_makes_of_them(write: Write) -> None:
    stated = facts("nnunet", write())
    native = np.array([-1000.0, -60.0, 0.0, 90.0, 340.0, 2000.0])
    assert stated.space is not None
    low, high = stated.space.intensity["window"]  # type: ignore[index,misc]
    unit = np.clip((native - low) / (high - low), 0, 1)
    got = stated.input.to_network(torch.from_numpy(unit).reshape(1, 1, -1, 1, 1)).flatten()
    np.testing.assert_allclose(np.sort(got), (np.clip(native, -60, 340) - 90) / 120, atol=1e-12)


@pytest.mark.parametrize(
    ("scheme", "args", "intensity", "scale"),
    [
        ("ZScoreNormalization", {}, {"zscore": 5.0}, (-5.0, 5.0)),
        ("ZScoreNormalization", {"z_score_limit": 12}, {"zscore": 12.0}, (-12.0, 12.0)),
        ("RescaleTo01Normalization", {}, "minmax", (0.0, 1.0)),
        ("RGBTo01Normalization", {}, {"window": (0.0, 255.0)}, (0.0, 1.0)),
    ],
)
def test_other_normalisations(write: Write, scheme: str, args: dict[str, Any], intensity: Any, scale: Any) -> None:
    folder = write(lambda plans, dataset, checkpoint: full(plans).update(normalization_schemes=[scheme]))
    stated = facts("nnunet", folder, args=args)
    assert stated.space is not None
    assert (stated.space.intensity, stated.input.scale) == (intensity, scale)


def test_several_channels_keep_their_own_mean_and_deviation(write: Write) -> None:
    def two(plans: dict[str, Any], dataset: dict[str, Any], checkpoint: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["CTNormalization"] * 2
        plans["foreground_intensity_properties_per_channel"]["1"] = {**CT, "mean": 10.0, "std": 20.0}
        dataset["channel_names"]["1"] = "CT late"

    folder = write(two, network=direct("PlainConvUNet", channels=2))
    stated = facts("nnunet", folder)
    assert (stated.num_channels, stated.input.mean, stated.input.std) == (2, (90.0, 10.0), (120.0, 20.0))
    network("nnunet", folder, with_weights=True)


def test_the_only_fold_is_taken_and_another_is_refused_by_name(write: Write) -> None:
    folder = Path(write())
    (folder / "fold_0").rename(folder / "fold_all")
    assert facts("nnunet", str(folder)).num_classes == 3
    with pytest.raises(CheckpointError, match=r"expected fold_1/checkpoint_final.pth.*one of all"):
        facts("nnunet", str(folder), args={"fold": 1})


def test_the_hash_follows_plans_and_weights_and_not_the_place(write: Write, tmp_path: Path) -> None:
    folder = Path(write())
    first = facts("nnunet", str(folder)).sha256
    moved = folder.rename(tmp_path / "elsewhere")
    assert facts("nnunet", str(moved)).sha256 == first
    (moved / "plans.json").write_text(json.dumps({**json.loads((moved / "plans.json").read_text()), "note": 1}))
    assert facts("nnunet", str(moved)).sha256 != first


def full(plans: dict[str, Any]) -> dict[str, Any]:
    section: dict[str, Any] = plans["configurations"]["3d_fullres"]
    return section


def arch(plans: dict[str, Any]) -> dict[str, Any]:
    section: dict[str, Any] = full(plans)["architecture"]
    return section


ZSCORE_IN_MASK = {"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True]}

REFUSED: list[tuple[str, Change]] = [
    (r"labels: expected each name with one of 0..2", lambda p, d, c: d.update(labels={"0": "a", "1": "b", "2": "c"})),
    (r"labels: required", lambda p, d, c: d.pop("labels")),
    (r"within a mask", lambda p, d, c: full(p).update(ZSCORE_IN_MASK)),
    (r"got NoNormalization, which is not", lambda p, d, c: full(p).update(normalization_schemes=["NoNormalization"])),
    (r"normalised alike", lambda p, d, c: full(p).update(normalization_schemes=["CTNormalization", "NoNormalization"])),
    (r"resampling_fn_data: .*'resample_torch'", lambda p, d, c: full(p).update(resampling_fn_data="resample_torch")),
    (r"unknown image_reader_writer 'Tiff3DIO'", lambda p, d, c: p.update(image_reader_writer="Tiff3DIO")),
    (r"each of 0, 1, 2 once", lambda p, d, c: p.update(transpose_forward=[0, 1, 1])),
    (r"inherits from itself", lambda p, d, c: full(p).update(inherits_from="3d_lowres")),
    (r"found no network_weights", lambda p, d, c: c.pop("network_weights")),
    (r"mirroring_axes: expected some of 0, 1, 2", lambda p, d, c: c.update(inference_allowed_mirroring_axes=(3,))),
    (r"expected a 3d configuration, got 2d", lambda p, d, c: c["init_args"].update(configuration="2d")),
    (r"refines another", lambda p, d, c: c["init_args"].update(configuration="3d_cascade_fullres")),
    (r"unknown network 'os.system'", lambda p, d, c: arch(p).update(network_class_name="os.system")),
    (r"unknown network 'evil.PlainConvUNet'", lambda p, d, c: arch(p).update(network_class_name="evil.PlainConvUNet")),
    (r"nonlin: expected a layer of torch.nn", lambda p, d, c: arch(p)["arch_kwargs"].update(nonlin="os.system")),
    (r"nonlin: expected a layer of torch.nn", lambda p, d, c: arch(p)["arch_kwargs"].update(nonlin="torch.nn.init")),
    (r"nonlin: expected a layer of torch.nn", lambda p, d, c: arch(p)["arch_kwargs"].update(nonlin="evil.LeakyReLU")),
    (r"does not fit its class: n_conv_per_stage must", lambda p, d, c: arch(p)["arch_kwargs"].update(n_stages=2)),
]  # fmt: skip


@pytest.mark.parametrize(("message", "change"), REFUSED)
def test_refuses_in_one_line(write: Write, message: str, change: Change) -> None:
    folder = write(change)
    with pytest.raises(UserError, match=message) as caught:  # noqa: PT012 (which of the two refuses is free)
        facts("nnunet", folder)
        network("nnunet", folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"configuration": "3d_cascade_fullres"}, r"was trained as 3d_fullres: leave it out"),
        ({"configuraton": "2d"}, r"unknown key 'configuraton'. Did you mean 'configuration'"),
        ({"orientation": "LAA"}, r"orientation: expected one of R or L"),
        ({"checkpoint": "checkpoint_best.pth"}, r"expected fold_N/checkpoint_best.pth, found none"),
        ({"z_score_limit": 0}, r"z_score_limit"),
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
