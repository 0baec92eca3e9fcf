"""Rows of `bench.py run` on a real volume against VAFA's algorithm, itself held against the authors' arrays."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import bench
from engine.cases import stored
from golden.network import Find, load, reference_network
from monai.losses import DiceCELoss
from pytorch_msssim import ssim
from scipy.fft import dct
from tiny_job import write
from torch import Tensor, nn

from freqbench.models import build, save_checkpoint

pytestmark = pytest.mark.integration

CROP = Path(__file__).parent / "hippocampus"
SIDE = 32
ARGS = {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1}
Q_MAX = 20.0
BLOCK = 8
STEPS = 20


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    loss = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)
    value: Tensor = loss(logits, labels)
    return value


def released_vafa(
    net: nn.Module, x: Tensor, labels: Tensor, q_max: float, block: int, with_ssim: bool, steps: int
) -> Tensor:
    """The volume that the authors' code makes of `x` `[1, 1, H, W, D]`, whose sides are multiples of the block's."""
    basis = torch.from_numpy(dct(np.eye(block), axis=0, norm="ortho")).to(x)
    h, w, d = (side // block for side in x.shape[2:])

    def blocks(volume: Tensor) -> Tensor:
        return volume.reshape(h, block, w, block, d, block).permute(0, 2, 4, 1, 3, 5).reshape(-1, block, block, block)

    def merged(parts: Tensor) -> Tensor:
        return parts.reshape(h, w, d, block, block, block).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    def turned(parts: Tensor, matrix: Tensor) -> Tensor:
        for axis in (1, 2, 3):
            parts = (parts.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
        return parts

    spectrum = turned(blocks(255 * x) - 128, basis)
    table = torch.full_like(spectrum, q_max)
    for step in range(steps):
        alpha = 0.1 * (1 - step / steps)
        table.requires_grad_()
        scaled = spectrum / table
        whole = scaled.floor()
        slope = math.log(2 / alpha - 1)
        rounded = whole + (1 + torch.tanh(slope * (scaled - whole - 0.5)) / (1 - alpha)) / 2
        volume = merged(turned(rounded * table, basis.T) + 128)
        low = volume.amin((2, 3), keepdim=True)  # of every depth slice
        seen = (volume - low) / (volume.amax((2, 3), keepdim=True) - low)
        objective = -task_loss(net(seen), labels)
        if with_ssim:
            pair = blocks(x)[:, None], blocks(seen)[:, None]
            objective = objective + 1 - ssim(*pair, data_range=1, win_size=3, nonnegative_ssim=True)
        (gradient,) = torch.autograd.grad(objective, table)
        table = (table.detach() - gradient.sign()).clamp(5, q_max)
    return seen.detach().clamp(0, 1)


def test_the_algorithm_written_down_here_is_the_released_one(golden: Find) -> None:
    reference = load(golden, "vafa3d_q20_s5_b32_ssim")
    images = (255 * reference.images).double() / 255  # as the released code rounds them
    params = reference.params
    setting = params["q_max"], params["block_size"][0], params["use_ssim_loss"], params["steps"]
    made = released_vafa(reference_network(golden).double(), images, reference.labels, *setting)
    assert (made - torch.from_numpy(reference.arrays["adversarial"])).abs().max() <= 2e-6


@pytest.fixture(scope="module")
def crop() -> tuple[Tensor, Tensor]:
    """The image in [0, 1] and its labels, `[1, 1, H, W, D]`; the file's axes are RAS."""
    import nibabel

    image, label = (
        torch.from_numpy(nibabel.load(CROP / folder / "hippocampus_001.nii.gz").get_fdata(dtype=np.float32))
        for folder in ("imagesTr", "labelsTr")
    )
    return ((image - image.min()) / (image.max() - image.min()))[None, None], label[None, None]


@pytest.fixture(scope="module")
def net(crop: tuple[Tensor, Tensor]) -> nn.Module:
    """A small UNet that has learned the crop."""
    image, label = crop
    made = build("unet", 3, (SIDE, SIDE, SIDE), ARGS, seed=0).train()
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        task_loss(made(image), label).backward()
        optimizer.step()
    return made.eval().requires_grad_(False)


def foreground_dice(logits: Tensor, label: Tensor) -> float:
    predicted = logits.argmax(dim=1, keepdim=True)
    both = [((predicted == k) & (label == k)).sum() for k in (1, 2)]
    each = [2 * n / ((predicted == k).sum() + (label == k).sum()) for n, k in zip(both, (1, 2), strict=True)]
    return float(sum(each) / 2)


def test_rows_agree_with_the_released_attack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], crop: tuple[Tensor, Tensor], net: nn.Module
) -> None:
    """Foreground Dice to 0.01, as far as the sign of small gradients leads two correct runs apart in 20 steps."""
    save_checkpoint(tmp_path / "net.safetensors", net.state_dict(), {}, half=False)
    model = {"name": "net", "arch": "unet", "args": ARGS, "roi": [SIDE] * 3}
    attack = {"name": "vafa", "variant": "released", "q_max": Q_MAX, "block": BLOCK, "steps": STEPS, "ssim_weight": 1.0}
    space = {"intensity": "minmax", "crop_foreground": False}
    job = {
        "name": "real",
        "datasets": [{"name": "decathlon", "root": str(CROP), "split": "validation", **space}],
        "models": [{**model, "checkpoint": str(tmp_path / "net.safetensors")}],
        "attacks": [attack],
        "metrics": ["dsc"],
        "resources": {"threads": 1},
    }
    code, _, said = bench(capsys, "run", write(tmp_path, job), "--out", str(tmp_path / "out"), "--engine", "serial")
    assert code == 0, said
    image, label = crop
    (row,) = stored(tmp_path / "out")
    theirs = foreground_dice(net(released_vafa(net, image, label, Q_MAX, BLOCK, with_ssim=True, steps=STEPS)), label)
    assert row["dsc_foreground_clean"] == pytest.approx(foreground_dice(net(image), label), abs=1e-6)
    assert row["dsc_foreground_clean"] - theirs > 0.05, "an attack that moves nothing shows nothing"
    assert row["dsc_foreground"] == pytest.approx(theirs, abs=0.01)
