"""SegMamba: the selective scan against a plain loop, the authors' names, the three orders of the tokens."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqbench.models import ModelEntry, build, load, resolve
from freqbench.models.networks import segmamba, selective_scan
from freqbench.models.networks.construction import skeleton

from .conftest import refused

TINY: dict[str, Any] = {"feat_size": [4, 4, 8, 8], "depths": [1, 1, 1, 1], "hidden_size": 8}
ROI = (32, 32, 48)


def arguments(length: int, batch: int = 2, channels: int = 3, states: int = 4, seed: int = 0) -> list[Tensor]:
    """u, delta, a, b, c and d as a layer makes them, in float64."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    delta = F.softplus(normal(batch, channels, length) - 1)
    a = -torch.arange(1, states + 1, dtype=torch.float64).repeat(channels, 1)
    b, c = normal(batch, states, length), normal(batch, states, length)
    return [normal(batch, channels, length), delta, a, b, c, normal(channels)]


def one_after_another(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The recurrence as the paper states it, token by token."""
    outputs = torch.zeros_like(u)
    for sample in range(u.shape[0]):
        for channel in range(u.shape[1]):
            h = torch.zeros(a.shape[1], dtype=u.dtype)
            for t in range(u.shape[2]):
                step, x = delta[sample, channel, t], u[sample, channel, t]
                h = torch.exp(step * a[channel]) * h + step * b[sample, :, t] * x
                outputs[sample, channel, t] = c[sample, :, t] @ h + d[channel] * x
    return outputs


def in_chunks_of(tokens: int, given: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective_scan, "_CHUNK_NUMBERS", tokens * len(given[0]) * given[2].numel())


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13, 100])
@pytest.mark.parametrize("chunk", [1, 5, 8, 1000])
def test_scan_is_the_recurrence_token_by_token(length: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(length)
    in_chunks_of(chunk, given, monkeypatch)
    torch.testing.assert_close(selective_scan.selective_scan(*given), one_after_another(*given), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [2, 1000])
def test_gradient_of_the_scan_is_that_of_finite_differences(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [each.requires_grad_() for each in arguments(5, batch=1, channels=2, states=3)]
    in_chunks_of(chunk, given, monkeypatch)
    assert torch.autograd.gradcheck(selective_scan.selective_scan, given)
    assert torch.autograd.gradgradcheck(selective_scan.selective_scan, given)


def test_slow_and_fast_decay_stay_finite_and_right() -> None:
    """Products of thousands of decays are far below the least float32: to divide by them would give no number."""
    u, delta, _, b, c, d = arguments(3000, 1, 2, 2)
    a = torch.tensor([[-1e-4, -50.0], [-1e-2, -5.0]], dtype=torch.float64)
    scanned = selective_scan.selective_scan(*(each.float() for each in (u, delta, a, b, c, d)))
    torch.testing.assert_close(scanned.double(), one_after_another(u, delta, a, b, c, d), rtol=1e-4, atol=1e-4)


def test_memory_for_the_way_back_does_not_grow_with_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [each.requires_grad_() for each in arguments(4096, 1, 8, 16)]
    in_chunks_of(256, given, monkeypatch)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        selective_scan.selective_scan(*given)
    states = given[0].nbytes * 16
    assert sum(kept.values()) < 1.2 * sum(each.nbytes for each in given) < 0.5 * states


def test_scan_has_full_precision_under_autocast() -> None:
    given = [each.float() for each in arguments(50)]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan.selective_scan(*given), selective_scan.selective_scan(*given))
        half = selective_scan.selective_scan(given[0].bfloat16(), *given[1:])
    exact = selective_scan.selective_scan(given[0].bfloat16().float(), *given[1:])
    assert half.dtype is torch.bfloat16
    assert torch.equal(half, exact.bfloat16())


class OnCUDA(Tensor):
    """A tensor of the CPU that says it is on a GPU."""

    is_cuda = True


def test_the_kernel_computes_float32_on_a_gpu_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gets the arguments of `selective_scan_fn(u, delta, A, B, C, D)` of mamba-ssm."""
    calls: list[tuple[Tensor, ...]] = []

    def kernel(*given: Tensor) -> Tensor:
        calls.append(given)
        return given[0]

    monkeypatch.setattr(selective_scan, "cuda_scan", kernel)
    exact, single = arguments(10), [each.float() for each in arguments(10)]
    selective_scan.selective_scan(*single)
    selective_scan.selective_scan(exact[0].as_subclass(OnCUDA), *exact[1:])
    assert not calls, "on a CPU, and in float64"
    selective_scan.selective_scan(single[0].as_subclass(OnCUDA), *single[1:])
    [given] = calls
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(single, given, strict=True))


@pytest.mark.gpu
def test_kernel_of_mamba_ssm_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mamba_ssm", reason="mamba-ssm is not installed")
    given = [each.float().cuda().requires_grad_() for each in arguments(5000, 2, 8, 16)]
    outputs = []
    for kernel in (selective_scan.cuda_scan, None):
        monkeypatch.setattr(selective_scan, "cuda_scan", kernel)
        y = selective_scan.selective_scan(*given)
        outputs.append((y, *torch.autograd.grad(y.square().sum(), given)))
    for fast, plain in zip(*outputs, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-2)


# The network


def test_layer_adds_three_orders_of_the_tokens() -> None:
    """Each order by itself, its tokens put in place by index: of 3 slices with 4 tokens, number 4 s + p is (s, p)."""
    torch.manual_seed(0)
    layer = segmamba.ToM(8).double()
    tokens = torch.randn(2, 12, 8, dtype=torch.float64)
    orders = {
        "": list(range(12)),
        "_b": list(reversed(range(12))),
        "_s": [4 * s + p for p in range(4) for s in range(3)],
    }
    summed = torch.zeros(2, 12, 16, dtype=torch.float64)
    for name, order in orders.items():
        summed[:, order] += mamba_of(layer, name, tokens[:, order])
    torch.testing.assert_close(layer(tokens, slices=3), summed @ layer.out_proj.weight.T, rtol=1e-10, atol=1e-10)


def test_mamba_and_gated_convolution_are_added() -> None:
    net = build("segmamba", 3, ROI, TINY)
    assert isinstance(net, segmamba.SegMamba)
    voxels = torch.rand(1, 4, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    layer, gsc = net.vit.stages[0], net.vit.gscs[0]
    with torch.no_grad():
        assert not torch.allclose(layer(voxels), voxels)
        assert not torch.allclose(gsc(voxels), voxels)
        layer.get_parameter("0.mamba.out_proj.weight").zero_()
        gsc.get_parameter("proj4.weight").zero_()
        gsc.get_parameter("proj4.bias").zero_()
        assert torch.equal(layer(voxels), voxels)
        assert torch.equal(gsc(voxels), voxels)


def mamba_of(layer: segmamba.ToM, order: str, tokens: Tensor) -> Tensor:
    """The block of Gu and Dao before its projection out, written for one order of tokens `[B, L, C]`."""
    weight = {key: value.detach() for key, value in layer.state_dict().items()}
    x, gate = (tokens @ weight["in_proj.weight"].T).split(16, dim=2)
    kernel, bias = weight[f"conv1d{order}.weight"][:, 0], weight[f"conv1d{order}.bias"]
    past = torch.cat([torch.zeros(2, 3, 16, dtype=x.dtype), x], dim=1)
    x = F.silu(sum((past[:, i : i + 12] * kernel[:, i] for i in range(4)), bias))
    rank = math.ceil(8 / 16)
    step, b, c = (x @ weight[f"x_proj{order}.weight"].T).split([rank, 16, 16], dim=2)
    delta = F.softplus(step @ weight[f"dt_proj{order}.weight"].T + weight[f"dt_proj{order}.bias"])
    a = -torch.exp(weight[f"A{order}_log"])
    y = one_after_another(x.mT, delta.mT, a, b.mT, c.mT, weight[f"D{order}"])
    return y.mT * F.silu(gate)


def authors_shapes(feat_size: tuple[int, ...], depths: tuple[int, ...], channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the encoder's weights, as the released code makes them."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    layer("vit.downsample_layers.0.0", feat_size[0], channels, 7, 7, 7)
    for i, c in enumerate(feat_size):
        if i:
            layer(f"vit.downsample_layers.{i}.1", c, feat_size[i - 1], 2, 2, 2)
        for name, side in {"proj": 3, "proj2": 3, "proj3": 1, "proj4": 1}.items():
            layer(f"vit.gscs.{i}.{name}", c, c, side, side, side)
        layer(f"vit.mlps.{i}.fc1", 2 * c, c, 1, 1, 1)
        layer(f"vit.mlps.{i}.fc2", c, 2 * c, 1, 1, 1)
        for j in range(depths[i]):
            at, rank = f"vit.stages.{i}.{j}", math.ceil(c / 16)
            layer(f"{at}.norm", c)
            layer(f"{at}.mamba.in_proj", 4 * c, c, bias=False)
            layer(f"{at}.mamba.out_proj", c, 2 * c, bias=False)
            for order in ("", "_b", "_s"):
                shapes[f"{at}.mamba.A{order}_log"] = (2 * c, 16)
                shapes[f"{at}.mamba.D{order}"] = (2 * c,)
                layer(f"{at}.mamba.conv1d{order}", 2 * c, 1, 4)
                layer(f"{at}.mamba.x_proj{order}", rank + 32, 2 * c, bias=False)
                layer(f"{at}.mamba.dt_proj{order}", 2 * c, rank)
    return shapes


def test_names_and_shapes_of_the_encoder_are_the_authors() -> None:
    weights = skeleton("segmamba", 4, (128, 128, 128), {}).state_dict()
    shapes = {key: tuple(value.shape) for key, value in weights.items() if key.startswith("vit.")}
    assert shapes == authors_shapes((48, 96, 192, 384), (2, 2, 2, 2), 1)
    others = {key.split(".")[0] for key in weights if not key.startswith("vit.")}
    assert others == {*(f"encoder{i}" for i in range(1, 6)), *(f"decoder{i}" for i in range(1, 6)), "out"}
    assert weights["encoder5.layer.conv1.conv.weight"].shape == (768, 384, 3, 3, 3)
    assert weights["decoder5.transp_conv.conv.weight"].shape == (768, 384, 2, 2, 2)
    assert weights["decoder5.conv_block.conv1.conv.weight"].shape == (384, 768, 3, 3, 3)
    assert weights["out.conv.conv.weight"].shape == (4, 48, 1, 1, 1)


def entry(**args: Any) -> ModelEntry:
    return ModelEntry(name="m", arch="segmamba", checkpoint="random", args=TINY | args, roi=ROI)


@pytest.mark.integration
def test_a_sample_does_not_depend_on_the_others_of_its_batch() -> None:
    model = load(resolve(entry(), 3), torch.device("cpu"))
    images = torch.rand(2, 1, *ROI, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        both, last = model(images), model(images[1:])
    torch.testing.assert_close(both[1:], last, rtol=1e-4, atol=1e-4)


def test_steps_start_between_a_thousandth_and_a_tenth() -> None:
    weights = build("segmamba", 3, (32, 32, 32), {**TINY, "feat_size": [64, 64, 64, 64]}).state_dict()
    steps = F.softplus(weights["vit.stages.0.0.mamba.dt_proj.bias"])
    assert 1e-3 * 0.99 <= float(steps.min()) < 2e-3
    assert 0.05 < float(steps.max()) <= 0.1 * 1.01
    assert float(steps.log().mean()) == pytest.approx(math.log(1e-2), abs=0.5)
    rates = weights["vit.stages.0.0.mamba.A_s_log"].exp()
    torch.testing.assert_close(rates, torch.arange(1.0, 17.0).expand(128, 16))


REFUSED: dict[str, dict[str, Any]] = {
    "SegMamba refuses its args: expected feat_size of 4 positive integers, got (4, 8)": {"feat_size": [4, 8]},
    "SegMamba refuses its args: expected depths of 4 positive integers, got (1, 1, 0, 1)": {"depths": [1, 1, 0, 1]},
    "unknown argument 'in_chans'": {"in_chans": 4},
    "expected a roi of multiples of 16x16x16, got 40x32x48 on its axes": {},
}


@pytest.mark.parametrize(("text", "args"), REFUSED.items(), ids=[next(iter(args), "roi") for args in REFUSED.values()])
def test_refusal_is_one_clear_line(text: str, args: dict[str, Any]) -> None:
    roi = ROI if args else (32, 48, 40)
    refused(entry(**args).model_copy(update={"roi": roi}), f"segmamba: {text}")
