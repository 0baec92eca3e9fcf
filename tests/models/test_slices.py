"""2D networks over slices: the 2D network's numbers, keys and gradient, in memory of a chunk, as any other network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freqbench.core.errors import CheckpointError, UserError
from freqbench.models import ModelEntry, build, load, resolve, save_checkpoint
from freqbench.models.networks.construction import construct
from freqbench.models.networks.slices import SliceNetwork

from .conftest import refused

CPU = torch.device("cpu")
ROI = (16, 12, 8)
ARGS: dict[str, Any] = {"channels": [4, 8], "strides": [2], "num_res_units": 1}
# Windows that each 2D network takes, and arguments that make it small.
SMALL: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "unet": (ROI, ARGS),
    "unetr": ((16, 32, 3), {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2}),
    "swin_unetr": ((64, 32, 3), {"feature_size": 12, "depths": [1, 1, 1, 1]}),
    "segresnet": (ROI, {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}),
}


def volume(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


def net_of(roi: tuple[int, int, int] = ROI, **args: Any) -> SliceNetwork:
    net = build("slices", 3, roi, {**ARGS, **args}).eval()
    assert isinstance(net, SliceNetwork)
    return net


def entry(**changes: Any) -> ModelEntry:
    given = {"name": "m", "arch": "slices", "checkpoint": "random", "args": ARGS, "roi": ROI}
    return ModelEntry(**{**given, **changes})


def by_slice(net: nn.Module, images: Tensor, slices: int, axis: int) -> Tensor:
    """The 2D network slice by slice, its stacks written out."""
    planes = []
    length = images.shape[2 + axis]
    for middle in range(length):
        inside = [min(max(i, 0), length - 1) for i in range(middle - slices // 2, middle + slices // 2 + 1)]
        planes.append(net(torch.cat([images.select(2 + axis, i) for i in inside], dim=1)))
    return torch.stack(planes, dim=2 + axis)


@pytest.mark.parametrize(
    ("network", "slices", "axis", "channels"),
    [*(("unet", *each) for each in ((1, 2, 1), (5, 1, 1), (3, 0, 1))), *((network, 3, 2, 2) for network in SMALL)],
)
def test_logits_are_those_of_the_2d_network_slice_by_slice(network: str, slices: int, axis: int, channels: int) -> None:
    roi, args = SMALL[network]
    height, width, depth = roi
    roi = ((depth, height, width), (height, depth, width), roi)[axis]
    net = build("slices", 3, roi, {"network": network, "slices": slices, "axis": axis, **args}, num_channels=channels)
    named = {"proj_type": "perceptron"} if network == "unetr" else {}
    plain = construct(network, slices * channels, 3, (height, width), named | args)
    plain.load_state_dict(net.state_dict())
    images = volume(2, channels, *roi)
    with torch.no_grad():
        expected = by_slice(plain.eval(), images, slices, axis)
        torch.testing.assert_close(net.eval()(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.integration
def test_gradient_is_that_of_finite_differences() -> None:
    """Through the edge slices, which stand in several stacks, and over chunks that are computed again."""
    net = net_of(roi=(4, 4, 3), slices=5, chunk=2, channels=[2, 3]).double()
    images = volume(1, 1, 4, 4, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(net, (images,), eps=1e-5, atol=1e-6, fast_mode=True)


def test_chunks_change_neither_logits_nor_gradients() -> None:
    images = volume(2, 1, *ROI, dtype=torch.float64)
    whole = net_of(chunk=100).double()
    for chunk in (1, 3, 16):
        net = net_of(chunk=chunk).double()
        first = images.clone().requires_grad_()
        second = images.clone().requires_grad_()
        torch.testing.assert_close(net(first), whole(second), rtol=1e-5, atol=1e-5)
        net(first).square().sum().backward()
        whole(second).square().sum().backward()
        for one, other in zip((first, *net.parameters()), (second, *whole.parameters()), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
        whole.zero_grad()


def held(net: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass keeps for the way back, weights left out."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(images.requires_grad_())
    return sum(kept.values())


def test_activations_of_all_slices_are_not_held_at_once() -> None:
    images = volume(1, 1, 16, 16, 32)
    inputs = 3 * images.nbytes
    assert held(net_of(roi=(16, 16, 32), chunk=32), images) > 5 * inputs
    assert held(net_of(roi=(16, 16, 32), chunk=4), images) <= 2 * inputs


def test_a_checkpoint_of_the_2d_network_is_read_by_its_own_keys(tmp_path: Path) -> None:
    net = construct("unet", 3, 3, ROI[:2], ARGS).eval()
    torch.save(net.state_dict(), tmp_path / "2d.pt")
    model = load(resolve(entry(checkpoint=str(tmp_path / "2d.pt")), 3), CPU)
    images = volume(1, 1, *ROI)
    with torch.no_grad():
        torch.testing.assert_close(model(images), by_slice(net, images, 3, 2), rtol=1e-5, atol=1e-5)
    with pytest.raises(CheckpointError, match="does not fit"):
        resolve(entry(checkpoint=str(tmp_path / "2d.pt"), args={**ARGS, "slices": 5}), 3)


def test_own_checkpoint_needs_no_arguments(tmp_path: Path) -> None:
    args = {**ARGS, "slices": 5, "chunk": 4}
    path = str(tmp_path / "net.safetensors")
    save_checkpoint(path, net_of(slices=5).state_dict(), {"arch": "slices", "args": args, "roi": ROI}, half=False)
    whole = resolve(entry(arch=None, args={}, roi=None, checkpoint=path), 3)
    parts = resolve(entry(arch=None, args={"chunk": 2}, roi=None, checkpoint=path), 3)
    assert (whole.args["slices"], whole.args["chunk"], parts.args["chunk"]) == (5, 4, 2)
    assert whole.model_id == parts.model_id
    with pytest.raises(UserError, match=r"args\.slices is 3 here, but .* was trained otherwise"):
        resolve(entry(arch=None, args={"slices": 3}, roi=None, checkpoint=path), 3)


def test_naming_a_default_changes_no_identity() -> None:
    named = {**ARGS, "network": "unet", "slices": 3, "axis": 2}
    assert resolve(entry(args=named), 3).model_id == resolve(entry(), 3).model_id
    others = [{**ARGS, "slices": 5}, {**ARGS, "axis": 1}, {**SMALL["segresnet"][1], "network": "segresnet"}]
    assert len({resolve(entry(args=args), 3).model_id for args in (ARGS, *others)}) == 4


@pytest.mark.parametrize(
    ("text", "args"),
    [
        (
            "SliceNetwork refuses its args: expected an odd number of slices, the middle one being predicted",
            {"slices": 4},
        ),
        (
            "SliceNetwork refuses its args: expected at most 15 slices in a window of 8, got 1000000001",
            {"slices": 10**9 + 1},
        ),
        ("SliceNetwork refuses its args: expected slices of a positive integer, got 0", {"slices": 0}),
        ("SliceNetwork refuses its args: expected slices of a positive integer, got '5'", {"slices": "5"}),
        ("SliceNetwork refuses its args: expected chunk of a positive integer, got -1", {"chunk": -1}),
        ("args.chunk: expected a whole number such as 16, got True", {"chunk": True}),
        ("args.chunk: expected a whole number such as 16, got 16.0", {"chunk": 16.0}),
        ("args.dropout: expected a number such as 0.0, got True", {"dropout": True}),
        ("SliceNetwork refuses its args: expected axis of 0, 1 or 2, got 3", {"axis": 3}),
        ("SliceNetwork refuses its args: expected axis of 0, 1 or 2, got 'D'", {"axis": "D"}),
        ("args.network: unknown 2D network 'unetr_pp'", {"network": "unetr_pp"}),
        ("args.network: unknown 2D network 'slices'", {"network": "slices"}),
        ("args.network: unknown 2D network", {"network": {"name": "unet"}}),
        ("unknown argument 'feature_size'", {"feature_size": 4}),
        ("unknown argument 'args'", {"args": {"channels": [4]}}),
        ("args.spatial_dims follows from the dataset and the roi", {"spatial_dims": 3}),
        ("args.in_channels follows from the dataset and the roi", {"in_channels": 5}),
        (
            "expected a roi of multiples of 8x8x1, got 16x12x8: the next lar",
            {"channels": [4, 8, 8, 8], "strides": [2, 2, 2]},
        ),
        ("expected a roi of multiples of 3x1x2, got 16x12x8", {"strides": [[3, 2]], "axis": 1}),
    ],
)
def test_refusal_is_one_clear_line(text: str, args: dict[str, Any]) -> None:
    refused(entry(args={**ARGS, **args}), f"slices: {text}")
