"""SAM-Med3D: the authors' names, shapes and numbers, and what a job says of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from freqbench.job.rehearsal import SMALL_ARGS
from freqbench.models import ModelEntry, build, load, resolve
from freqbench.models.networks.construction import skeleton
from freqbench.models.networks.sam_med3d import SAMMed3D, standardise

from .conftest import prompts, refused

CPU = torch.device("cpu")
TINY = dict(SMALL_ARGS["sam_med3d"])
ROI = (16, 16, 16)


def entry(**changes: Any) -> ModelEntry:
    return ModelEntry(**{"name": "m", "arch": "sam_med3d", "checkpoint": "random", "args": TINY, "roi": ROI, **changes})


def network(num_classes: int = 3, **args: Any) -> SAMMed3D:
    net = build("sam_med3d", num_classes, ROI, TINY | args)
    assert isinstance(net, SAMMed3D)
    return net.requires_grad_(False)


def linear(name: str, before: int, after: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.weight", (after, before)), (f"{name}.bias", (after,)))


def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.weight", (channels,)), (f"{name}.bias", (channels,)))


def attention(name: str, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for each in "qkv":
        yield from linear(f"{name}.{each}_proj", 384, inner)
    yield from linear(f"{name}.out_proj", inner, 384)


def authors_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the weights, as the released code makes them, in their order."""
    yield "image_encoder.pos_embed", (1, 8, 8, 8, 768)
    yield "image_encoder.patch_embed.proj.weight", (768, 1, 16, 16, 16)
    yield "image_encoder.patch_embed.proj.bias", (768,)
    for i in range(12):
        at = f"image_encoder.blocks.{i}"
        offsets = 15 if i in (2, 5, 8, 11) else 27
        yield from norm(f"{at}.norm1", 768)
        yield from ((f"{at}.attn.rel_pos_{axis}", (offsets, 64)) for axis in "dhw")
        yield from linear(f"{at}.attn.qkv", 768, 2304)
        yield from linear(f"{at}.attn.proj", 768, 768)
        yield from norm(f"{at}.norm2", 768)
        yield from linear(f"{at}.mlp.lin1", 768, 3072)
        yield from linear(f"{at}.mlp.lin2", 3072, 768)
    yield "image_encoder.neck.0.weight", (384, 768, 1, 1, 1)
    yield from norm("image_encoder.neck.1", 384)
    yield "image_encoder.neck.2.weight", (384, 384, 3, 3, 3)
    yield from norm("image_encoder.neck.3", 384)
    yield "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", (3, 128)
    for name in ("point_embeddings.0", "point_embeddings.1", "not_a_point_embed"):
        yield f"prompt_encoder.{name}.weight", (1, 384)
    for i, before, after, kernel in ((0, 1, 4, 2), (3, 4, 16, 2), (6, 16, 384, 1)):
        at = f"prompt_encoder.mask_downscaling.{i}"
        yield from ((f"{at}.weight", (after, before, kernel, kernel, kernel)), (f"{at}.bias", (after,)))
        if i < 6:
            yield from norm(f"prompt_encoder.mask_downscaling.{i + 1}", after)
    yield "prompt_encoder.no_mask_embed.weight", (1, 384)
    for i in range(2):
        at = f"mask_decoder.transformer.layers.{i}"
        yield from attention(f"{at}.self_attn", 384)
        yield from norm(f"{at}.norm1", 384)
        yield from attention(f"{at}.cross_attn_token_to_image", 192)
        yield from norm(f"{at}.norm2", 384)
        yield from linear(f"{at}.mlp.lin1", 384, 2048)
        yield from linear(f"{at}.mlp.lin2", 2048, 384)
        yield from norm(f"{at}.norm3", 384)
        yield from norm(f"{at}.norm4", 384)
        yield from attention(f"{at}.cross_attn_image_to_token", 192)
    yield from attention("mask_decoder.transformer.final_attn_token_to_image", 192)
    yield from norm("mask_decoder.transformer.norm_final_attn", 384)
    yield from (("mask_decoder.iou_token.weight", (1, 384)), ("mask_decoder.mask_tokens.weight", (4, 384)))
    for i, before, after in ((0, 384, 96), (3, 96, 48)):
        at = f"mask_decoder.output_upscaling.{i}"
        yield from ((f"{at}.weight", (before, after, 2, 2, 2)), (f"{at}.bias", (after,)))
        if i == 0:
            yield from norm("mask_decoder.output_upscaling.1", after)
    heads = *((f"output_hypernetworks_mlps.{i}", 384, 48) for i in range(4)), ("iou_prediction_head", 256, 4)
    for name, hidden, after in heads:
        for i, pair in enumerate(((384, hidden), (hidden, hidden), (hidden, after))):
            yield from linear(f"mask_decoder.{name}.layers.{i}", *pair)


def test_names_shapes_and_their_order_are_the_authors() -> None:
    net = skeleton("sam_med3d", 5, (128, 128, 128), {})
    assert [(key, tuple(value.shape)) for key, value in net.state_dict().items()] == list(authors_shapes())
    assert sum(each.numel() for each in net.parameters()) == 100_509_232


# Logits of the authors' code under the weights and the volume below, of two classes that are asked for by two clicks
# and by one, and the gradient of the sum of the first less that of the squares of the second.
GOLDEN = {
    (0, 0, 0): ([-0.503379436791, -0.450082300121], 4.890872323806336),
    (31, 15, 8): ([-0.873909307077, -0.865385494954], -16.966307762515587),
    (20, 7, 11): ([-1.304881339648, -1.275474881442], -0.8115993462931134),
    (3, 30, 22): ([-1.029706524982, -1.002398933397], 7.347777619855542),
}


def test_logits_and_gradients_are_the_authors() -> None:
    roi = (32, 32, 32)
    args = {"embed_dim": 24, "depth": 8, "num_heads": 2, "prompt_embed_dim": 48, "points": 2}
    net = build("sam_med3d", 3, roi, args).double()
    with torch.no_grad():
        for i, value in enumerate(net.state_dict().values()):
            wave = torch.sin(torch.arange(1, value.numel() + 1, dtype=torch.float64) * (1 + 0.37 * i))
            value.copy_(0.5 * wave.reshape(value.shape))
    volume = torch.sin(torch.arange(32**3, dtype=torch.float64) * 0.013).reshape(1, 1, *roi).requires_grad_()
    logits = net(volume, prompts((1, 3, 9, 20), (1, 10, 2, 31), (2, 25, 0, 5), roi=roi))
    assert not logits[:, 0].any()
    (gradient,) = torch.autograd.grad(logits[:, 1].sum() - logits[:, 2].square().sum(), volume)
    for (h, w, d), (expected, slope) in GOLDEN.items():
        assert logits[0, 1:, h, w, d].tolist() == pytest.approx(expected, rel=1e-8)
        assert float(gradient[0, 0, h, w, d]) == pytest.approx(slope, rel=1e-7)


def test_window_is_in_deviations_from_the_mean_above_zero() -> None:
    """Sample by sample and channel by channel, as torchio's ZNormalization has it; also where nothing deviates."""
    given = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    given[1, 1] = 0.5
    given[1, 0] = -given[1, 0].abs()
    scaled = standardise(given)
    for one, result in zip(given[0], scaled[0], strict=True):
        torch.testing.assert_close(result, (one - one[one > 0].mean()) / one[one > 0].std())
    torch.testing.assert_close(scaled[1], torch.stack([given[1, 0], torch.zeros(4, 4, 4)]))
    torch.testing.assert_close(standardise(1000 * given[:1]), scaled[:1])


@pytest.mark.integration
def test_weights_serve_any_number_of_classes(tmp_path: Path) -> None:
    weights = build("sam_med3d", 3, ROI, TINY, seed=7).state_dict()
    torch.save({"model_state_dict": weights}, tmp_path / "sam.pth")
    spec = resolve(entry(checkpoint=str(tmp_path / "sam.pth"), args=TINY | {"points": 2}), 4)
    state = load(spec, CPU).net.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], value) for key, value in weights.items())


@pytest.mark.integration
def test_network_is_shown_one_point_of_each_class_by_default() -> None:
    specs = [resolve(entry(args=TINY | args), 3) for args in ({}, {"points": 2, "point_seed": 1})]
    assert all(each.is_prompted for each in (entry(), *specs))
    assert specs[0].model_id != specs[1].model_id
    policies = [network(**spec.args).prompt_policy for spec in specs]
    assert [(each.count, each.seed) for each in policies] == [(1, 0), (2, 1)]


REFUSED: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "SAMMed3D refuses its args: expected points of at least 1, got 0: the network is asked by po": ({"points": 0}, ROI),
    "args.num_heads: expected a whole number such as 12, got True": ({"num_heads": True}, ROI),
    "args.points: expected a whole number such as 1, got True": ({"points": True}, ROI),
    "args.points: expected a whole number such as 1, got 1.0": ({"points": 1.0}, ROI),
    "args.point_seed: expected a whole number such as 0, got False": ({"point_seed": False}, ROI),
    "SAMMed3D refuses its args: expected depth of a positive multiple of 4, got 6": ({"depth": 6}, ROI),
    "SAMMed3D refuses its args: expected embed_dim of a positive multiple of 5, got 12": ({"num_heads": 5}, ROI),
    "SAMMed3D refuses its args: expected prompt_embed_dim of a positive multiple of 48": (
        {"prompt_embed_dim": 64},
        ROI,
    ),
    "SAMMed3D refuses its args: expected point_seed of a whole number, got '1'": ({"point_seed": "1"}, ROI),
    "unknown argument 'classes'": ({"classes": ["liver", "spleen"]}, ROI),
    "SAMMed3D refuses its args: expected a roi of equal sides of at most 224 voxels, got 32x16x16": ({}, (32, 16, 16)),
    "SAMMed3D refuses its args: expected a roi of equal sides of at most 224 voxels, got 240x240x240": ({}, (240,) * 3),
    "expected a roi of multiples of 16x16x16, got 24x24x24: the next larger is 32x32x32": ({}, (24, 24, 24)),
}


@pytest.mark.parametrize(("text", "case"), REFUSED.items(), ids=range(len(REFUSED)))
def test_refusal_is_one_clear_line(text: str, case: tuple[dict[str, Any], tuple[int, int, int]]) -> None:
    args, roi = case
    refused(entry(args=TINY | args, roi=roi), f"sam_med3d: {text}")
