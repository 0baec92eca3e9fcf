"""Clean predictions on random volumes against the networks' own toolchains: MONAI's inferer and nnU-Net's predictor.

Voxels whose two highest classes are closer than rounding allows are ties, and left out; their share is bounded.
"""

import json
from itertools import permutations, product
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from models import nnunet_folder
from models.nnunet_folder import CT, direct
from monai.inferers.utils import sliding_window_inference
from nibabel.orientations import axcodes2ornt
from pipelines.plans import seen
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from freqbench import load_dataset, load_model
from freqbench.core.types import Shape
from freqbench.data.preprocess import way_to_file
from freqbench.models import Inference, InputAdapter, SegmentationModel, Wanted, predict, prediction
from freqbench.ops.regions import codes_of

ROI: Shape = (8, 6, 4)
AXES = [
    "".join(sign + axis for sign, axis in zip(signs, order, strict=True))
    for order in permutations("HWD")
    for signs in product(("", "-"), repeat=3)
]


MOST_TIES = 0.002


def network(channels: int) -> nn.Module:
    """Three classes from convolutions whose borders show where a window was padded and where it begins."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = nn.Conv3d(channels, 6, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(6, 3, 3, padding=1)
        return nn.Sequential(*layers).double().eval().requires_grad_(False)


def agreement(labels: Tensor, logits: Tensor, tie: float) -> None:
    """Asserts equal labels `[h, w, d]` where the two highest of the logits `[K, h, w, d]` are apart."""
    first, second = logits.float().topk(2, dim=0).values
    ties = first - second <= tie
    assert ties.float().mean() <= MOST_TIES
    assert torch.equal(labels.long()[~ties], logits.argmax(0)[~ties])


def agreement_of_regions(codes: Tensor, logits: Tensor, tie: float) -> None:
    """Asserts the codes `[h, w, d]` of the regions with logits `[K, h, w, d]` above 0, where none is near it."""
    ties = (logits.abs() <= tie).any(dim=0)
    assert ties.float().mean() <= MOST_TIES
    assert codes.unique().numel() > 2
    assert torch.equal(codes[~ties], codes_of(logits > 0)[~ties])


def drawn_adapter(rng: np.random.Generator, channels: int) -> InputAdapter:
    """Axes, scale, means and deviations of which 0 is anywhere in the network's range."""
    low = float(rng.uniform(-400, 100))
    mean, std = rng.uniform(-200, 200, channels), rng.uniform(20, 150, channels)
    return InputAdapter(
        axes=str(rng.choice(AXES)),
        scale=(low, low + float(rng.uniform(50, 600))),
        mean=tuple(mean) if channels > 1 else float(mean[0]),
        std=tuple(std) if channels > 1 else float(std[0]),
    )


@pytest.mark.parametrize("seed", range(16))
def test_a_prediction_is_that_of_monais_inferer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 3))
    net, adapter = network(channels), drawn_adapter(rng, channels)
    padding = ["reflect", "replicate", 0.0, float(rng.normal())][seed % 4]
    # Reflection reaches no further than the volume.
    shape = tuple(int(rng.integers(side // 2 + 1 if padding == "reflect" else 1, 3 * side)) for side in ROI)
    overlap, weighting = float(rng.choice([0.0, 0.25, 0.5, 0.7])), str(rng.choice(["constant", "gaussian"]))
    settings = Inference(overlap=overlap, weighting=weighting, padding=padding)
    volume = torch.from_numpy(rng.random((1, channels, *shape)))
    labelled = predict(SegmentationModel(net, ROI, adapter=adapter, inference=settings), volume)

    order = ["HWD".index(letter) for letter in adapter.axes.replace("-", "")]
    turned = [2 + "HWD".index(axes) for axes in "HWD" if f"-{axes}" in adapter.axes]
    mean, std = (np.reshape(value, (1, -1, 1, 1, 1)) for value in (adapter.mean, adapter.std))
    low, high = adapter.scale
    seen = torch.from_numpy(((low + (high - low) * volume.numpy()) - mean) / std).flip(turned)
    seen = seen.permute(0, 1, *(2 + axis for axis in order))
    named = {"padding_mode": padding} if isinstance(padding, str) else {"padding_mode": "constant", "cval": padding}
    logits = sliding_window_inference(
        seen, [ROI[axis] for axis in order], 3, lambda windows: 1 * net(windows), overlap=settings.overlap,
        mode=settings.weighting, sigma_scale=0.125, **named
    )  # fmt: skip
    back = logits.permute(0, 1, *(2 + order.index(axis) for axis in range(3))).flip(turned)
    agreement(labelled, back[0], 1e-9)


def write_volume(path: Path, voxels: npt.NDArray[Any], codes: str, spacing: tuple[float, ...]) -> None:
    """Writes voxels as they are, with a header by which the file's axes increase towards `codes`."""
    affine = np.eye(4)
    for axis, (code, step) in enumerate(zip(codes, spacing, strict=True)):
        affine[:3, axis] = 0
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[row, axis] = step if code in "RAS" else -step
    affine[:3, 3] = (11, -7, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


CODES = ["LPS", "RAS", "LAS", "RPI", "PSR", "SAL", "ILA", "AIR"]
REGIONS: dict[str, Any] = {"background": 0, "whole": [1, 2, 3], "edge": 3, "core": [2]}
REGIONS_CLASS_ORDER = [1, 3, 2]
READERS = ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"]


def drawn_files(rng: np.random.Generator, root: Path, codes: str, channels: int, is_mr: bool) -> None:
    """A raw folder of one case, on spacings that have to be resampled, smooth so that resampling is benign."""
    shape = tuple(int(n) for n in rng.integers(7, 25, 3))
    spacing = tuple(float(step) for step in rng.choice([0.8, 1.0, 1.6, 3.0], 3))
    for channel in range(channels):
        voxels = gaussian_filter(rng.normal(0, 1, shape), 1.2)
        voxels = (voxels / voxels.std()).clip(-4, 4) * 100 + (900 if is_mr else 60)
        write_volume(root / f"imagesTr/a_{channel:04d}.nii.gz", voxels.astype(np.float32), codes, spacing)
    label = (rng.random(shape) < 0.3).astype(np.uint8) * 2
    label.flat[0] = 1
    write_volume(root / "labelsTr/a.nii.gz", label, codes, spacing)


def nnunet_plans(
    reader: str, transpose: list[int], channels: int, is_mr: bool, has_regions: bool = False
) -> nnunet_folder.Change:
    """All that nnU-Net's predictor reads beyond the parts that are needed here."""

    def change(plans: dict[str, Any], dataset: dict[str, Any], checkpoint: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"] |= {
            "spacing": [1.6, 1.0, 0.8],
            "normalization_schemes": ["ZScoreNormalization" if is_mr else "CTNormalization"] * channels,
            "use_mask_for_norm": [False] * channels,
        }
        plans |= {
            "image_reader_writer": reader,
            "transpose_forward": transpose,
            "transpose_backward": [transpose.index(axis) for axis in range(3)],
            "foreground_intensity_properties_per_channel": {str(n): {**CT, "median": 80.0} for n in range(channels)},
        }
        dataset["channel_names"] = {str(n): "MR" if is_mr else "CT" for n in range(channels)}
        if has_regions:
            dataset |= {"labels": REGIONS, "regions_class_order": REGIONS_CLASS_ORDER}

    return change


@pytest.fixture(scope="module")
def nnunetv2() -> ModuleType:
    """nnU-Net's module of its predictor, without the variables that it would ask for."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, "unused")
        from nnunetv2.inference import predict_from_raw_data
    return predict_from_raw_data


def in_float32(nnunetv2: ModuleType, peer: Any, data: Tensor) -> Tensor:
    """Logits from nnU-Net's own padding, windows, mirroring and weights, summed in float32."""
    patch = peer.configuration_manager.patch_size
    padded, place = nnunetv2.pad_nd_image(data, patch, "constant", {"value": 0}, True, None)
    weights = nnunetv2.compute_gaussian(tuple(patch), 1 / 8, 10, device=peer.device).float()  # rounded to float16
    sums = torch.zeros(peer.label_manager.num_segmentation_heads, *padded.shape[1:])
    total = torch.zeros(padded.shape[1:])
    with torch.inference_mode():
        for window in peer._internal_get_sliding_window_slicers(padded.shape[1:]):
            sums[window] += peer._internal_maybe_mirror_and_predict(padded[window][None])[0] * weights
            total[window[1:]] += weights
    return (sums / total)[(slice(None), *place[1:])]


# Of each reader, orientation of plans, kind and number of channels one is of the integration tests.
REGIONS_FROM = 12  # from this seed on the folder has regions that overlap
INTEGRATION = (2, 4, 6, 14)
SEEDS = [
    pytest.param(n, marks=pytest.mark.integration if n in INTEGRATION else pytest.mark.slow)
    for n in range(REGIONS_FROM + 4)
]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_prediction_is_that_of_nnunets_own_predictor(tmp_path: Path, nnunetv2: ModuleType, seed: int) -> None:
    """Shapes below and above the patch, orientation, spacing, offset, channels, transposed plans and each reader."""
    has_regions = seed >= REGIONS_FROM
    rng = np.random.default_rng(seed)
    codes, reader, channels, is_mr = CODES[seed % 8], READERS[seed % 3], 1 + seed // 2 % 2, seed % 4 < 2
    transpose = [[0, 1, 2], [2, 0, 1], [1, 0, 2]][seed // 3 % 3]
    drawn_files(rng, tmp_path / "raw", codes, channels, is_mr)
    written = nnunet_folder.write(
        tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres",
        nnunet_plans(reader, transpose, channels, is_mr, has_regions),
        network=direct("PlainConvUNet", channels),
    )
    content = json.loads(Path(written, "dataset.json").read_text())
    (tmp_path / "raw/dataset.json").write_text(json.dumps(content))

    device = torch.device("cpu")
    peer = nnunetv2.nnUNetPredictor(perform_everything_on_device=False, device=device, allow_tqdm=False)
    peer.initialize_from_trained_model_folder(written, (0,), "checkpoint_final.pth")
    images = [str(path) for path in sorted((tmp_path / "raw/imagesTr").iterdir())]
    preprocessor = peer.configuration_manager.preprocessor_class(verbose=False)
    data, _, facts = preprocessor.run_case(images, None, peer.plans_manager, peer.configuration_manager, content)
    seen_by_peer = torch.from_numpy(data)
    logits, exact = peer.predict_logits_from_preprocessed_data(seen_by_peer), in_float32(nnunetv2, peer, seen_by_peer)

    model = load_model(written)
    dataset = load_dataset("nnunet_raw", root=str(tmp_path / "raw"), split="training").dataset
    (ref,) = dataset.refs()
    case = dataset.load(ref, model.spec.space)
    prepared = model.network.for_case(case)
    given = prepared.adapter.to_network_axes(seen(case, case.image)[None])
    np.testing.assert_allclose(given[0].numpy(), data, atol=1e-5)
    grid = way_to_file(dataset.file_label(ref), case, model.spec.space)
    labelled = prediction(prepared, case.image, wanted=Wanted(file_grid=grid))
    labels = prepared.adapter.to_network_axes(labelled.labels[None, None])[0, 0]
    (agreement_of_regions if has_regions else agreement)(labels, exact, 1e-4)
    # Its own sums are float16, in which weights near a window's corner vanish.
    theirs = codes_of(logits > 0) if has_regions else logits.argmax(0)
    assert (labels == theirs).float().mean() > 0.99

    managers = peer.plans_manager, peer.configuration_manager, peer.plans_manager.get_label_manager(content)
    exported = nnunetv2.convert_predicted_logits_to_segmentation_with_correct_shape(exact, *managers, facts)
    in_file = labelled.in_file.labels.numpy()
    if has_regions:  # a voxel's code is that of the label that nnU-Net writes there
        exported = np.array([0, 1, 1 | 4, 1 | 2])[exported]
    if reader.endswith("Reorient"):
        in_file = nibabel.orientations.apply_orientation(in_file, axcodes2ornt(tuple(codes)))
    assert (in_file == exported.transpose(2, 1, 0)).mean() > 0.999  # ties of its rounding
