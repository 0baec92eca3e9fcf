"""Networks trained in seconds on procedural volumes, and their predictions by MONAI alone: controls of the roads."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from monai import transforms
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from scipy.ndimage import gaussian_filter
from torch import nn

Array = npt.NDArray[Any]
Step = dict[str, Any]

SHAPE = (40, 40, 24)
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
AFFINE[:3, 3] = 40.0, -13.0, 7.0
ARGS = {"channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1}
SIDE = 24


def step(name: str, **given: Any) -> Step:
    return {"_target_": f"{name}d", "keys": "image", **given}


CT: tuple[Step, ...] = (
    step("Orientation", axcodes="RAS"),
    step("ScaleIntensityRange", a_min=-175, a_max=250, b_min=0.0, b_max=1.0, clip=True),
)
BRATS = (step("Orientation", axcodes="RAS"), step("NormalizeIntensity", nonzero=True, channel_wise=True))


def _inside(centre: Sequence[float], radii: Sequence[float]) -> npt.NDArray[np.bool_]:
    at = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    inner: npt.NDArray[np.bool_] = sum(((x - c) / r) ** 2 for x, c, r in zip(at, centre, radii, strict=True)) < 1
    return inner


def ct(seed: int) -> tuple[Array, Array]:
    """A body in HU with two organs, `[1, H, W, D]`, and its label map."""
    rng = np.random.default_rng(seed)
    image = np.full(SHAPE, -1000.0)
    label = np.zeros(SHAPE, np.uint8)
    image[_inside((20, 20, 12), (18, 16, 40))] = -90
    image[_inside((20, 20, 12), (16, 13, 40))] = 40
    image[_inside((20, 10, 12), (3, 3, 60))] = 500
    label[_inside(np.array([13, 22, 12]) + rng.uniform(-2, 2, 3), (7, 8, 8))] = 1
    label[_inside(np.array([28, 18, 13]) + rng.uniform(-2, 2, 3), (5, 5, 6))] = 2
    image[label == 1] = 110
    image[label == 2] = 75
    return (gaussian_filter(image, 0.7) + rng.normal(0, 12, SHAPE))[None].astype(np.float32).round(), label


def brats(seed: int) -> tuple[Array, Array]:
    """A head without its skull in four channels, each with a scale of its own, and nested labels 1 to 3."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    centre = np.array([19, 20, 12]) + rng.uniform(-4, 4, 3)
    for number, radii in ((2, (9, 8, 7)), (1, (6, 5, 5)), (3, (3, 3, 3))):
        label[_inside(centre, radii)] = number
    head = _inside((20, 20, 12), (18, 17, 12))
    shown = {0: (0, 1, 1), 1: (0, 2, 0), 2: (1, 0, 2), 3: (-1, 1, 0)}
    channels = []
    for channel, of_label in shown.items():
        plain = 4 + sum(value * (label == k) for k, value in enumerate(of_label, 1)) + rng.normal(0, 0.25, SHAPE)
        channels.append(gaussian_filter(plain, 0.5) * (50 + 120 * channel) * head)
    return np.stack(channels).astype(np.float32).round(), label


def region_masks(label: Array) -> Array:
    """Tumour core, whole tumour and enhancing tumour, in MONAI's order."""
    return np.stack([np.isin(label, (1, 3)), label > 0, label == 3])


@cache
def trained(kind: str, steps: int = 160) -> nn.Module:
    """A UNet that MONAI's own code trained on eight volumes of a kind, `ct` or `brats`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more wait for each other on a busy machine
    is_ct = kind == "ct"
    make, words = (ct, CT) if is_ct else (brats, BRATS)
    net = UNet(3, 1 if is_ct else 4, 3, channels=ARGS["channels"], strides=ARGS["strides"], num_res_units=1)
    loss = DiceCELoss(to_onehot_y=True, softmax=True) if is_ct else DiceCELoss(sigmoid=True)
    optimiser = torch.optim.Adam(net.parameters(), 6e-3)
    rng = np.random.default_rng(0)
    cases = []
    for seed in range(8):
        image, label = make(seed)
        target = label[None] if is_ct else region_masks(label)
        case = {"image": MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(AFFINE))}
        case["target"] = MetaTensor(torch.from_numpy(target.astype(np.float32)), affine=torch.from_numpy(AFFINE))
        turned = transforms.Orientationd("target", axcodes="RAS")(composed(words)(case))
        cases.append((turned["image"].as_tensor().float(), turned["target"].as_tensor()))
    for _ in range(steps):
        some = [cases[i] for i in rng.integers(0, len(cases), 2)]
        h, w = rng.integers(0, SHAPE[0] - SIDE + 1, 2)
        crops = [torch.stack([each[k][:, h : h + SIDE, w : w + SIDE] for each in some]) for k in (0, 1)]
        optimiser.zero_grad()
        loss(net(crops[0]), crops[1]).backward()
        optimiser.step()
    return net.eval()


def composed(words: Sequence[Step]) -> transforms.Compose:
    """MONAI's transforms of words."""
    return transforms.Compose(
        [
            getattr(transforms, each["_target_"])(**{key: value for key, value in each.items() if key != "_target_"})
            for each in words
        ]
    )


def predicted(
    net: Callable[[Any], Any],
    path: Path | Sequence[Path],
    words: Sequence[Step],
    head: str = "softmax",
    nearest: bool = False,
    **sliding: Any,
) -> Array:
    """Probabilities `[K, H, W, D]` on a file's grid by MONAI's loader, window, inverse; `nearest`: `[1, H, W, D]`."""
    before = transforms.Compose(
        [transforms.LoadImaged("image"), transforms.EnsureChannelFirstd("image"), *composed(words).transforms]
    )
    case = before({"image": path})
    settings = {"roi_size": (SIDE,) * 3, "sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian", **sliding}
    with torch.no_grad():
        logits = sliding_window_inference(case["image"][None], predictor=net, **settings)[0]
    case["pred"] = logits.softmax(0) if head == "softmax" else logits.sigmoid()
    case["pred"] = case["pred"].argmax(0, keepdim=True).float() if nearest else case["pred"]
    inverse = transforms.Invertd("pred", transform=before, orig_keys="image", nearest_interp=nearest)
    made: Array = inverse(case)["pred"].numpy()
    return made


def save(path: Path, voxels: Array) -> None:
    """Writes a volume `[C, H, W, D]` or `[H, W, D]` on AFFINE."""
    path.parent.mkdir(parents=True, exist_ok=True)
    moved = np.moveaxis(voxels, 0, -1) if voxels.ndim == 4 and len(voxels) > 1 else voxels.reshape(voxels.shape[-3:])
    nibabel.save(nibabel.Nifti1Image(moved, AFFINE), path)


def put_folder(root: Path, kind: str, count: int = 3) -> list[Path]:
    """Writes volumes of a kind with a Decathlon list; the paths of the images."""
    make = ct if kind == "ct" else brats
    lines = []
    for number in range(count):
        image, label = make(100 + number)
        name = f"{kind}_{number}.nii.gz"
        save(root / "imagesTr" / name, image.astype(np.int16))
        save(root / "labelsTr" / name, label)
        lines.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    names = ("liver", "spleen") if kind == "ct" else ("necrosis", "oedema", "enhancing")
    kinds = ("CT",) if kind == "ct" else ("FLAIR", "T1w", "t1gd", "T2w")
    content = {
        "modality": {str(k): name for k, name in enumerate(kinds)},
        "labels": {str(k): name for k, name in enumerate(("background", *names))},
        "training": lines,
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return [root / "imagesTr" / f"{kind}_{number}.nii.gz" for number in range(count)]
