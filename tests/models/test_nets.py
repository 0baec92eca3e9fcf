"""Architectures: the papers' sizes, every argument of MONAI, and refusals in one line."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from freqbench.core.types import Shape
from freqbench.job.rehearsal import SMALL_ARGS
from freqbench.models import MODELS, ModelEntry, build, forward_flops, load, resolve, source_of
from freqbench.models.networks.architectures import complete_args
from freqbench.models.networks.construction import skeleton
from freqbench.models.sources.source import cost_of

from .conftest import refused

ROI = (96, 96, 96)
# UNet, UNETR and SwinUNETR as the papers' protocol lists them for 14 classes.
PARAMETERS = {"unet": 19_242_873, "unetr": 92_802_478, "swin_unetr": 62_187_296}


DEFAULTS = {"unet": (), "segresnet": (), "unetr": pytest.mark.integration, "swin_unetr": pytest.mark.integration}


@pytest.mark.parametrize("arch", [pytest.param(arch, marks=DEFAULTS.get(arch, pytest.mark.slow)) for arch in MODELS])
def test_default_network_takes_the_default_window(arch: str) -> None:
    assert resolve(ModelEntry(name="m", arch=arch, checkpoint="random", roi=ROI), 14).flops, "a window was sent through"
    if arch in PARAMETERS:
        assert sum(each.numel() for each in skeleton(arch, 14, ROI, {}).parameters()) == PARAMETERS[arch]


def test_lists_of_a_job_file_are_tuples_inside() -> None:
    assert complete_args("unet", {"channels": [4, 8], "strides": [[2, 2, 1]]})["strides"] == ((2, 2, 1),)


def test_weights_depend_on_seed_alone_and_leave_global_state() -> None:
    args = {"channels": [4, 8], "strides": [2]}
    before = torch.random.get_rng_state()
    first = build("unet", 2, (16, 16, 16), args).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    again, other = (build("unet", 2, (16, 16, 16), args, seed=seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.0.conv.unit0.conv.weight"], other["model.0.conv.unit0.conv.weight"])


@pytest.mark.parametrize(
    ("arch", "args", "roi", "text"),
    [
        pytest.param(
            "unet", {"chanels": [4]}, ROI, "unet: unknown argument 'chanels'. Did you mean 'channels'?", id="argument"
        ),
        pytest.param(
            "unet",
            {"out_channels": 3},
            ROI,
            "unet: args.out_channels follows from the dataset and the roi",
            id="filled in",
        ),
        pytest.param(
            "unetr",
            {"img_size": [96] * 3},
            ROI,
            "unetr: args.img_size follows from the dataset and the roi",
            id="img_size",
        ),
        pytest.param(
            "unetr",
            {"hidden_size": 50},
            ROI,
            "unetr: UNETR refuses its args: hidden_size should be divisible by",
            id="value",
        ),
        pytest.param(
            "unet",
            {},
            (96, 40, 96),
            "unet: expected a roi of multiples of 16x16x16, got 96x40x96: the next ",
            id="unet roi",
        ),
        pytest.param(
            "unet",
            {"channels": [4, 8, 8], "strides": [[2, 2, 1], 2]},
            (16, 16, 15),
            "unet: expected a roi of multiples of 4x4x2, got 16x16x15: the next larger is 16x16x16",
            id="uneven strides",
        ),
        pytest.param(
            "unetr", {}, (96, 96, 100), "unetr: expected a roi of multiples of 16x16x16, got 96x96x100", id="unetr roi"
        ),
        pytest.param(
            "swin_unetr",
            {},
            (96, 96, 80),
            "swin_unetr: expected a roi of multiples of 32x32x32, got 96x96x80",
            id="swin roi",
        ),
        pytest.param(
            "segresnet",
            {},
            (96, 96, 84),
            "segresnet: expected a roi of multiples of 8x8x8, got 96x96x84",
            id="segresnet roi",
        ),
        pytest.param(
            "swin_unetr", {}, (32, 32, 32), "swin_unetr: a roi of 32x32x32 shrinks to a single voxel", id="single voxel"
        ),
    ],
)
def test_refusal_is_one_clear_line(arch: str, args: dict[str, Any], roi: Any, text: str) -> None:
    refused(ModelEntry(name="m", arch=arch, checkpoint="random", args=args, roi=roi), text, 14)


@pytest.mark.parametrize(
    ("arch", "roi", "more"),
    [
        ("rog", (16, 24, 16), {}),
        pytest.param(
            "unetr_pp", (16, 16, 32), {"tied_projections": False, "conv_blocks": 2}, marks=pytest.mark.integration
        ),
    ],
)
def test_gradient_reaches_every_voxel_of_every_channel(arch: str, roi: Shape, more: dict[str, Any]) -> None:
    entry = ModelEntry(name="m", arch=arch, checkpoint="random", args={**SMALL_ARGS[arch], **more}, roi=roi)
    model = load(resolve(entry, 3, num_channels=2), torch.device("cpu"))
    images = torch.rand(2, 2, *roi, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = model(images)
    logits[:, 1].square().sum().backward()
    assert logits.shape == (2, 3, *roi)
    assert images.grad is not None
    # One sum of many terms in float32 may be zero by rounding; that of the same voxel of another image is not.
    assert (images.grad != 0).any(dim=0).all()


def test_flops_of_a_network_without_depth_are_its_convolutions() -> None:
    """UNet of two levels without residual units, counted by hand: two operations for each weight at each voxel."""
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 0}
    entry = ModelEntry(name="m", arch="unet", checkpoint="random", args=args, roi=(8, 8, 8))
    down = 4**3 * (1 * 4 * 27)
    bottom = 4**3 * (4 * 8 * 27)
    # A transposed convolution visits its weights once for each input voxel.
    up = 4**3 * ((4 + 8) * 3 * 27)
    assert forward_flops(resolve(entry, 3)) == 2 * (down + bottom + up)


def test_flops_of_attention_are_counted_too() -> None:
    """A pass of UNETR costs more than its convolutions: the published 96^3 figure is above 75 GFLOPs."""
    assert forward_flops(resolve(ModelEntry(name="m", arch="unetr", checkpoint="random"), 14)) > 2 * 70e9


def test_counts_of_resolving_equal_those_of_counting_anew() -> None:
    spec = resolve(ModelEntry(name="m", arch="unet", checkpoint="random", roi=(32, 32, 32)), 3)
    assert (spec.flops, spec.step_bytes) == cost_of(spec, source_of(spec.arch).outline_of(spec))
    assert forward_flops(replace(spec, flops=1)) == 1, "nothing is traced again"
