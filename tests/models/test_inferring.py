"""Arguments that the keys and shapes of a checkpoint show, and those that leave no trace."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks import nets
from torch import nn

import freqbench as fb
from freqbench.core.errors import UserError
from freqbench.models import MODELS, ModelEntry, resolve
from freqbench.models.networks.architectures import complete_args
from freqbench.models.networks.construction import build, skeleton
from freqbench.models.networks.inferring import find_arch, infer_args

SIZE = (32, 32, 32)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {"channels": (4, 8, 12), "strides": (2, 2), "num_res_units": 3}),
    "unet of two levels without units": ("unet", {"channels": (6, 3), "strides": (2,), "num_res_units": 0}),
    "unet that keeps its size once": ("unet", {"channels": (4, 8, 16), "strides": (1, 2), "num_res_units": 1}),
    "unet with batch norm": ("unet", {"channels": (4, 8), "strides": (2,), "num_res_units": 1, "norm": "batch"}),
    "unet of other kernels": (
        "unet",
        {"channels": (4, 8), "strides": (2,), "num_res_units": 2, "kernel_size": (3, 3, 1), "up_kernel_size": 5},
    ),
    "unet without biases": ("unet", {"channels": (4, 8), "strides": (2,), "num_res_units": 1, "bias": False}),
    "unetr": ("unetr", {"feature_size": 4, "mlp_dim": 40, "qkv_bias": True}),
    "unetr with plain blocks": ("unetr", {"feature_size": 4, "mlp_dim": 8, "conv_block": False, "res_block": False}),
    "unetr with a convolution": ("unetr", {"feature_size": 4, "mlp_dim": 8, "proj_type": "conv"}),
    "swin_unetr": (
        "swin_unetr",
        {"feature_size": 12, "depths": (1, 2, 1, 3), "num_heads": (2, 3, 4, 6), "window_size": 4, "mlp_ratio": 2.0},
    ),
    "swin_unetr v2": ("swin_unetr", {"feature_size": 12, "use_v2": True, "qkv_bias": False, "patch_norm": True}),
    "segresnet": ("segresnet", {"init_filters": 16, "blocks_down": (1, 3, 2), "blocks_up": (2, 1)}),
    "segresnet deconv": ("segresnet", {"init_filters": 16, "upsample_mode": "deconv", "norm": "batch"}),
    "unetr_pp": (
        "unetr_pp",
        {"feature_size": 8, "dims": (16, 32, 32, 64), "depths": (1, 2, 1, 1), "decoder_depth": 2, "num_heads": 2}
        | {"proj_sizes": (8, 8, 16, 8), "decoder_proj_size": 24, "stem": (1, 2, 4), "conv_blocks": 2},
    ),
    "rog": ("rog", {"channels": 16}),
    "vista3d": ("vista3d", {"feature_size": 16, "blocks_down": (1, 1, 2)}),
    "sam_med3d": ("sam_med3d", {"embed_dim": 96, "depth": 4, "num_heads": 4, "prompt_embed_dim": 96}),
    "slices": ("slices", {"slices": 5, "network": "unet", "channels": (4, 8), "strides": (2,), "num_res_units": 1}),
}


def shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in net.state_dict().items()}


@pytest.mark.parametrize(("arch", "args"), NETWORKS.values(), ids=NETWORKS)
def test_weights_show_the_arguments_that_shape_them(arch: str, args: dict[str, Any]) -> None:
    roi = (64, 64, 64) if arch in ("rog", "unetr_pp", "sam_med3d", "swin_unetr") else SIZE
    net = skeleton(arch, 3, roi, args)
    prefix, arch_shown, bare = find_arch({f"net.{key}": value for key, value in net.state_dict().items()})
    assert (prefix, arch_shown) == ("net.", arch)
    shown = infer_args(arch, bare)
    assert {name: shown.args.get(name) for name in args} == args
    assert shapes(skeleton(arch, 3, roi, shown.args)) == shapes(net)
    assert shown.out_channels in (3, None)


@pytest.mark.integration
@pytest.mark.parametrize("arch", MODELS)
def test_a_default_network_shows_no_other_arguments(arch: str) -> None:
    shown = infer_args(arch, skeleton(arch, 3, MODELS[arch].roi, {}).state_dict())
    assert shown.args
    assert complete_args(arch, shown.args) == complete_args(arch, {})


def saved(path: Path, net: nn.Module) -> str:
    with torch.no_grad():
        for parameter in net.parameters():  # a norm of ones would hide which norm it is
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    torch.save({"state_dict": net.state_dict()}, path)
    return str(path)


def unet() -> nn.Module:
    return nets.UNet(3, 2, 4, channels=(4, 8, 16), strides=(2, 2), num_res_units=1).eval()


@pytest.mark.integration
def test_file_of_a_monai_class_needs_no_sizes(tmp_path: Path) -> None:
    net = unet()
    path, images = saved(tmp_path / "m.pt", net), torch.rand(2, 2, *SIZE)
    with pytest.warns(UserWarning, match="m: "):
        model = fb.load_model(path, arch="unet", roi=SIZE)
    assert (model.spec.num_classes, model.spec.num_channels) == (4, 2)
    with torch.no_grad():
        assert torch.equal(model.network(images), net(images))
    assert any("read off its weights" in note for note in model.spec.notes)


def test_contradicted_argument_is_refused_with_the_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", unet())
    entry = ModelEntry(name="m", arch="unet", checkpoint=path, args={"channels": [8, 8, 16]}, roi=SIZE)
    with pytest.raises(UserError, match=r"args.channels is \(8, 8, 16\) here, but the weights .* show \(4, 8, 16\)"):
        resolve(entry, 4, 2)


def test_stated_arguments_come_first_where_weights_show_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", unet())
    spec = resolve(ModelEntry(name="m", arch="unet", checkpoint=path, args={"strides": [2, 4]}, roi=SIZE), 4, 2)
    assert (spec.args["strides"], spec.args["channels"]) == ((2, 4), (4, 8, 16))
    assert not any("no trace" in note for note in spec.notes)


SILENT = {
    "heads beside another hidden size": ("unetr", lambda: nets.UNETR(2, 4, SIZE, 4, 48, 32, num_heads=6), "num_heads"),
    "groups beside other filters": (
        "segresnet",
        lambda: nets.SegResNet(3, 16, 2, 4, norm=("GROUP", {"num_groups": 2})),
        "norm",
    ),
    "an activation without weights": (
        "unet",
        lambda: nets.UNet(3, 2, 4, (4, 8), (2,), act=("LEAKYRELU", {"negative_slope": 0.1})),
        "act",
    ),
    "a norm that has weights alone": (
        "unet",
        lambda: nets.UNet(3, 2, 4, (4, 8), (2,), norm=("GROUP", {"num_groups": 2})),
        "norm",
    ),
    "an affine norm of a transformer": (
        "swin_unetr",
        lambda: nets.SwinUNETR(2, 4, feature_size=12, norm_name=("instance", {"affine": True})),
        "norm_name",
    ),
}


@pytest.mark.integration
@pytest.mark.parametrize(("arch", "make", "name"), SILENT.values(), ids=SILENT)
def test_traceless_argument_with_a_guess_has_to_be_stated(arch: str, make: Any, name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", make())
    stated = {"migration": "none"} if arch == "swin_unetr" else {}
    entry = ModelEntry(name="m", arch=arch, checkpoint=path, roi=SIZE, **stated)
    with pytest.raises(UserError, match=rf"^m: args.{name}: required, as the weights of .* load with any value"):
        resolve(entry, 4, 2)


def test_traceless_arguments_of_usual_default_are_named(tmp_path: Path) -> None:
    spec = resolve(ModelEntry(name="m", arch="unet", checkpoint=saved(tmp_path / "m.pt", unet()), roi=SIZE), 4, 2)
    assert "m: strides (2, 2): left no trace in its weights, state args if it was trained otherwise" in spec.notes


def test_freqbench_s_own_checkpoint_is_asked_nothing(tmp_path: Path) -> None:
    args = {"feature_size": 4, "hidden_size": 48, "mlp_dim": 32, "num_heads": 6}
    net = build("unetr", 4, SIZE, args)
    from freqbench.models import save_checkpoint

    save_checkpoint(
        tmp_path / "m.safetensors", net.state_dict(), {"arch": "unetr", "args": args, "roi": SIZE}, half=False
    )
    spec = resolve(ModelEntry(name="m", checkpoint=str(tmp_path / "m.safetensors")), 4)
    assert (spec.args["num_heads"], spec.notes) == (6, ())
