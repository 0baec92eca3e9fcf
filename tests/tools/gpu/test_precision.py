"""Effects of precisions and compiling: logits change by a little, an attack's bound by nothing."""

import pytest
import torch
from torch import Tensor

from freqbench.attacks import make
from freqbench.models import SegmentationModel, build

ROI = (32, 32, 32)
ARGS = {"unet": {}, "unetr": {"hidden_size": 96, "num_heads": 4, "mlp_dim": 128}}
# The standard deviation of what changes, to that of logits: 0.014 of bf16 on a CPU, and TF32 has two bits more.
OFF = {"tf32": 0.01, "bf16": 0.03, "compiled": 1e-4}
SETTINGS = [
    *(pytest.param(precision, marks=pytest.mark.integration) for precision in ("tf32", "bf16")),
    pytest.param("compiled", marks=pytest.mark.slow),
]


def model(arch: str, device: torch.device, setting: str = "fp32") -> SegmentationModel:
    net = build(arch, 4, ROI, ARGS[arch], seed=0).requires_grad_(False)
    precision = setting if setting in ("tf32", "bf16") else "fp32"
    return SegmentationModel(net, ROI, precision, compile=setting == "compiled").to(device).eval()


def images(device: torch.device) -> Tensor:
    return torch.rand(1, 1, *ROI, generator=torch.Generator().manual_seed(0)).to(device)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("arch", ARGS)
def test_logits_are_near_those_in_float32(arch: str, setting: str, processor: torch.device) -> None:
    x = images(processor)
    with torch.no_grad():
        exact = model(arch, processor)(x)
        rounded = model(arch, processor, setting)(x)
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).std() / exact.std()) <= OFF[setting]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["pgd", "vafa"])
def test_an_attack_raises_the_loss_and_stays_in_its_bounds(name: str, setting: str, processor: torch.device) -> None:
    """A call refuses what left them; TF32 is off again for all that is not the network's."""
    net = model("unet", processor, setting)
    x = images(processor)
    with torch.no_grad():
        labels = net(x).argmax(1, keepdim=True)
    attack = make("pgd", eps=8 / 255, steps=4) if name == "pgd" else make("vafa", steps=4, block=8)
    losses = attack(net, x, labels).losses
    assert losses[-1] > losses[0]
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
