"""Nineteen pipelines of MONAI's transforms in the words of a bundle, and MONAI's own prediction of a case by them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai import transforms
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.networks.nets import UNet
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from pipelines.plans import TIE, Array, Ours, predicted_by
from roads import step
from scipy.ndimage import gaussian_filter
from torch import Tensor

from freqbench import load_dataset, load_model
from freqbench.job.fit import match_classes
from freqbench.models import ModelEntry, facts_of

Step = dict[str, Any]
WINDOW = (24, 16, 16)
OUTPUTS = 3


class Window(transforms.MapTransform):  # type: ignore[misc]
    """A transform of one's own, with arguments."""

    def __init__(self, keys: str, low: float, high: float) -> None:
        super().__init__(keys)
        self.low = low
        self.high = high

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        made = {key: (data[key].clamp(self.low, self.high) - self.low) / (self.high - self.low) for key in self.keys}
        return {**data, **made}


RAS = step("Orientation", axcodes="RAS")
NONZERO = step("NormalizeIntensity", nonzero=True, channel_wise=True)
RANGE = step("ScaleIntensityRange", a_min=150, a_max=900, b_min=0.0, b_max=1.0, clip=True)


SLIDING: Step = {"_target_": "SlidingWindowInferer", "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian"}
JOINED = (
    RANGE | {"keys": "adc"},
    NONZERO | {"keys": "t2"},
    step("ConcatItems", keys=["t2", "adc"]) | {"name": "image"},
)
REGIONS = step("ConvertToMultiChannelBasedOnBratsClasses", keys="label", et_label=3)
EIGHTS = step("DivisiblePad", k=8)


def spacing(*pixdim: float) -> Step:
    return step("Spacing", pixdim=[*pixdim], mode="bilinear")


@dataclass(frozen=True, kw_only=True)
class Words:
    """A pipeline, and the file that it is tried on; sides and shape are along the file's own axes."""

    name: str
    steps: tuple[Step, ...]
    channels: int = 1
    codes: str = "LPS"
    shape: tuple[int, int, int] = (30, 26, 22)
    sides: tuple[float, float, float] = (1.0, 1.2, 1.5)
    head: str = "softmax"
    has_skull: bool = False
    inverts: bool = False  # a bundle's own postprocessing leads back
    is_entry: bool = False  # stated as `transforms:` beside a checkpoint
    keys: tuple[str, ...] = ("image",)
    inferer: Step = dataclasses.field(default_factory=lambda: {**SLIDING, "roi_size": [*WINDOW]})
    needs_trust: bool = False
    order: tuple[int, ...] = (0, 1, 2)  # of the network's regions, for each of the data set

    @property
    def dims(self) -> int:
        """Axes of the network's input."""
        return 2 if "Slice" in self.inferer["_target_"] else 3


PIPELINES = [
    Words(name="BraTS: spacing, z-scores of voxels that are not 0, sigmoid regions, Invertd",
        steps=(RAS, spacing(1.2, 1.2, 1.2), NONZERO), channels=4, has_skull=True, head="sigmoid", inverts=True),
    Words(name="z-scores of voxels that are not 0, as `transforms:`", steps=(NONZERO,), has_skull=True, is_entry=True),
    Words(name="z-scores of the whole volume", steps=(RAS, step("NormalizeIntensity"))),
    Words(
        name="percentiles to [-1, 1], clipped",
        steps=(
            step("ScaleIntensityRangePercentiles", lower=1, upper=99, b_min=-1, b_max=1, clip=True, channel_wise=True),
        ),
        channels=2, codes="RAS",
    ),
    Words(
        name="percentiles, not clipped, spacing in PLI",
        steps=(step("Orientation", axcodes="PLI"), spacing(1.5, 1.0, 1.3),
            step("ScaleIntensityRangePercentiles", lower=2, upper=98, b_min=0, b_max=1)),
        codes="SRA",
    ),
    Words(name="range, spacing in SAR, Invertd",
        steps=(step("Orientation", axcodes="SAR"), spacing(2.0, 1.1, 1.6), RANGE), inverts=True),
    Words(name="crop to the foreground", steps=(RAS, RANGE, step("CropForeground", source_key="image", margin=2)),
        has_skull=True),
    Words(
        name="crop to the foreground, Invertd",
        steps=(step("Orientation", axcodes="LPI"), spacing(1.3, 1.3, 1.3),
            step("CropForeground", source_key="image", select_fn="$lambda x: x > 0"), NONZERO),
        has_skull=True, inverts=True, needs_trust=True,
    ),
    Words(name="resized with padding and crop",
        steps=(RAS, RANGE, step("ResizeWithPadOrCrop", spatial_size=[36, 20, 24])), codes="ASL"),
    Words(name="padded, cropped to the centre", steps=(step("SpatialPad", spatial_size=[36, 28, 24]),
        step("CenterSpatialCrop", roi_size=[34, 24, 24]), RANGE)),
    Words(name="resized to a shape, own ends, Invertd",
        steps=(RAS, step("Resize", spatial_size=[28, 24, 26], mode="trilinear"), step("ScaleIntensity")), inverts=True),
    Words(name="histogram equalised (not affine), as `transforms:`",
        steps=(step("HistogramNormalize", num_bins=64, min=0, max=1),), is_entry=True),
    Words(name="keys of their own, each with its scaling, joined; spacing, Invertd",
        steps=(*(each | {"keys": ["t2", "adc"]} for each in (RAS, spacing(1.3, 1.2, 1.4))), *JOINED), channels=2,
        keys=("t2", "adc"), inverts=True),
    Words(name="regions that the label's transform makes, in another order",
        steps=(REGIONS, RAS | {"keys": ["image", "label"]}, NONZERO), channels=4, has_skull=True, head="sigmoid",
        keys=("image", "label"), order=(1, 0, 2)),
    Words(name="a class of one's own, with arguments", needs_trust=True,
        steps=({"_target_": "pipelines.bundles.Window", "keys": "image", "low": 300, "high": 800},)),
    Words(name="SlidingWindowInfererAdapt, sigmas of a quarter", steps=(NONZERO,), inferer={**SLIDING,
        "_target_": "monai.inferers.SlidingWindowInfererAdapt", "roi_size": [*WINDOW], "sigma_scale": 0.25}),
    Words(name="SlidingWindowInferer of the whole third axis", steps=(RAS, EIGHTS, NONZERO), inferer={**SLIDING,
        "roi_size": [16, 16, -1]}),
    Words(name="SliceInferer of a 2D network, across the second axis", steps=(RAS, NONZERO), inferer={**SLIDING,
        "_target_": "SliceInferer", "roi_size": [16, 12], "spatial_dim": 1}),
    Words(name="SimpleInferer, padded to eights", steps=(EIGHTS, NONZERO), inferer={"_target_": "SimpleInferer"}),
]  # fmt: skip


def config(words: Words) -> dict[str, Any]:
    """`inference.json` as the model zoo writes it."""
    activation = {"softmax": True} if words.head == "softmax" else {"sigmoid": True}
    discrete = {"argmax": True} if words.head == "softmax" else {"threshold": 0.5}
    after = [
        {"_target_": "Activationsd", "keys": "pred", **activation},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": words.keys[0],
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", **discrete},
    ]
    if not words.inverts:
        del after[1]
    before = [step(name, keys=[*words.keys]) for name in ("LoadImage", "EnsureChannelFirst")]
    made: dict[str, Any] = {
        "network_def": {
            "_target_": "UNet",
            "spatial_dims": words.dims,
            "in_channels": words.channels,
            "out_channels": OUTPUTS,
            "channels": [6, 12],
            "strides": [2],
        },
        "preprocessing": {"_target_": "Compose", "transforms": [*before, *words.steps, step("EnsureType")]},
    }
    made |= {
        "inferer": words.inferer,
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }
    return made


def network(channels: int, dims: int = 3) -> UNet:
    """A network that gives every class somewhere."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = UNet(dims, channels, OUTPUTS, channels=(6, 12), strides=(2,))
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2)
    return net.eval()


def written(words: Words, root: Path) -> tuple[str, Path]:
    for folder in ("configs", "models"):
        (root / "bundle" / folder).mkdir(parents=True)
    (root / "bundle/configs/inference.json").write_text(json.dumps(config(words)))
    torch.save(network(words.channels, words.dims).state_dict(), root / "bundle/models/model.pt")
    data = root / "data"
    (image, label) = drawn(words)
    data.mkdir()
    for index, voxels in enumerate(image):
        nibabel.save(nibabel.Nifti1Image(voxels, affine_of(words)), data / f"a_{index}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, affine_of(words)), data / "a_label.nii.gz")
    return str(root / "bundle"), data


def drawn(words: Words) -> tuple[Array, Array]:
    """A smooth volume `[C, i, j, k]` in the file's axes, and a label."""
    rng = np.random.default_rng(5)
    smooth = [gaussian_filter(rng.normal(0, 1, words.shape), 1.5) * 400 + 500 for _ in range(words.channels)]
    image = np.stack(smooth).astype(np.float32)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in words.shape), indexing="ij"))
    if words.has_skull:
        image *= np.square(places).sum(axis=0) < 0.6
    label = np.where((np.abs(places) < 0.4).all(axis=0), 1 + (places[0] > 0), 0).astype(np.uint8)
    return image, np.where((label == 1) & (places[1] > 0), 3, label).astype(
        np.uint8
    ) if "label" in words.keys else label


def affine_of(words: Words) -> Array:
    turn = inv_ornt_aff(axcodes2ornt(tuple(words.codes)), words.shape)
    made: Array = np.linalg.inv(turn) @ np.diag([*words.sides, 1.0])
    made[:3, 3] += (11, -7, 3)
    return made


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """Input and label map that MONAI makes of a case, in its own axes and in the file's."""

    image: Tensor
    affine: Tensor
    labels: Array  # of the file: classes, or bit k for region k
    ties: Array


def by_monai(words: Words, data: Path) -> Theirs:
    """Predicts a case's files by MONAI's parser, transforms, inferer and `Invertd`, as its tutorials do."""
    files = [str(path) for path in sorted(data.glob("a_[0-9].nii.gz"))]
    parser = ConfigParser(config(words))
    before = parser.get_parsed_content("preprocessing")
    given: dict[str, Any] = {"image": files if len(files) > 1 else files[0], "label": str(data / "a_label.nii.gz")}
    if "image" not in words.keys:
        given = dict(zip(words.keys, files, strict=True))
    sample = before({key: given[key] for key in words.keys})
    with torch.no_grad():
        net = network(words.channels, words.dims)
        logits = parser.get_parsed_content("inferer")(sample["image"].as_tensor()[None], net)[0]
    likely = logits.softmax(0) if words.head == "softmax" else logits.sigmoid()
    sample["pred"] = MetaTensor(likely, affine=sample["image"].affine)
    invert = transforms.Invertd("pred", before, words.keys[0], nearest_interp=False, to_tensor=True)
    back = invert(sample)["pred"].as_tensor().float().numpy()
    if words.head == "softmax":
        first, second = -np.sort(-back, axis=0)[:2]
        # outside of a crop all are 0
        labels = back.argmax(axis=0)
        ties = (first > second) & (first - second < TIE)
    else:
        labels = sum((back[k] > 0.5).astype(np.uint8) << bit for bit, k in enumerate(words.order))
        ties = (np.abs(back - 0.5) < TIE).any(axis=0)
    image = sample["image"]
    return Theirs(image=image.as_tensor().float(), affine=image.affine, labels=np.asarray(labels), ties=ties)


def by_freqbench(words: Words, bundle: str, data: Path) -> Ours:
    """Predicts the case by the bundle, or by its weights as a checkpoint with `transforms:`."""
    names: str | Sequence[str] = "{case}_0.nii.gz"
    if words.channels > 1:
        names = [f"{{case}}_{k}.nii.gz" for k in range(words.channels)]
    dataset = load_dataset(
        "pairs", root=str(data), image=names, label="{case}_label.nii.gz", intensity="minmax", **classes(words)
    ).dataset
    if words.is_entry:
        args = {"channels": [6, 12], "strides": [2]}
        stated: Mapping[str, Any] = {"arch": "unet", "args": args, "roi": WINDOW, "transforms": [*words.steps]}
        model = load_model(f"{bundle}/models/model.pt", **stated, inference={"overlap": 0.5, "weighting": "gaussian"})
    else:
        entry = ModelEntry(name="m", bundle=bundle)
        pairs = match_classes(entry, facts_of(entry), dataset, dataset.refs()).class_map
        mapped: dict[str, Any] = {"class_map": pairs, "classes": OUTPUTS, "num_classes": OUTPUTS + 1} if pairs else {}
        model = load_model(bundle, **mapped)
    return predicted_by(model, dataset)


def classes(words: Words) -> dict[str, Any]:
    if words.head == "softmax":
        return {"labels": ["background", "a", "b"]}
    core = [1, 3] if "label" in words.keys else [2, 3]
    return {"labels": ["background", "a", "b", "c"], "regions": {"whole": [1, 2, 3], "core": core, "active": [3]}}
