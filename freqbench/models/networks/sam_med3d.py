"""Builds SAM-Med3D for a dataset's classes, prompted by points inside each of them.
Wang, Guo, Ye, Deng, Cheng, Li, Chen, Su, Huang, Shen, Fu, Zhang, He, Qiao, *SAM-Med3D: Towards General-purpose
Segmentation Models for Volumetric Medical Images*, 2023, arXiv:2310.15161. Modules have the names of the authors'
code; the transformer of the decoder is MONAI's."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets.vista3d import MLP, TwoWayTransformer
from torch import Tensor, nn

from freqbench.models.networks.construction import sequence
from freqbench.models.prompts import PointPrompts, answers_to_clicks

_PATCH = 16
_WINDOW = 14  # patches an axis
_MASKS = 4  # answers of the decoder; the first is meant for a single answer


class SAMMed3D(nn.Module):
    """Maps `[B, in_channels, h, w, d]` to logits `[B, out_channels, h, w, d]`, for windows of `img_size`.

    The network segments the object that is clicked and knows no class names. Each class is prompted by clicks inside
    it: `prompts`, `[B, 1, h, w, d]`, hold the class of a clicked voxel and 0 elsewhere. One embedding of the image
    serves all classes. The logit of background is 0, so that the largest positive logit decides a voxel. A class
    without a click in the window gets a logit of -0.001 there, so that background wins, and windows with a click decide
    where windows overlap. `PointPrompts` places the clicks.

    Each window is standardised inside the gradient, as the authors do: channel by channel, it loses the mean of its
    voxels above 0 and is divided by their standard deviation. So negative intensities have to arrive as such
    (`input.scale`).

    **Differs from** the authors' code: windows are those of the sliding window (there: around each class); a window of
    a volume smaller than 128 voxels is padded with the lowest intensity (there: 0 of the file); all clicks are inside
    the class and given at once (there: one after another, where the last answer is wrong, and with that answer as
    input); if two classes claim a voxel, the larger logit decides (there: the later class). For the same window and
    clicks, logits and gradients agree with theirs to 1e-12 in float64. Outputs of their checkpoint were not compared.

    Args:
        img_size: voxels of the window, equal on all axes: a multiple of 16, at most 224; 128 for the authors' weights.
        points: clicks per class, at least 1.
        point_seed: seed of the clicks' places.
        embed_dim: channels of the image encoder, a multiple of `num_heads`.
        depth: blocks of the image encoder, a multiple of 4; the last of each quarter attends to the whole window.
        num_heads: heads of its attention.
        prompt_embed_dim: channels of the embeddings and of the decoder, a multiple of 48.

    Raises ValueError for a number outside these limits.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        img_size: Sequence[int] = (128, 128, 128),
        points: int = 1,
        point_seed: int = 0,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        prompt_embed_dim: int = 384,
    ) -> None:
        if type(points) is not int or points < 1:
            raise ValueError(f"expected points of at least 1, got {points!r}: the network is asked by points alone")
        for name, value, factor in (
            ("num_heads", num_heads, 1),
            ("embed_dim", embed_dim, num_heads),
            ("depth", depth, 4),
            ("prompt_embed_dim", prompt_embed_dim, 48),
        ):
            if type(value) is not int or value < 1 or value % factor:
                raise ValueError(f"expected {name} of a positive multiple of {factor}, got {value}")
        if len({*img_size}) > 1 or img_size[0] > _WINDOW * _PATCH:
            got = "x".join(map(str, img_size))
            raise ValueError(f"expected a roi of equal sides of at most {_WINDOW * _PATCH} voxels, got {got}")
        super().__init__()
        side = img_size[0] // _PATCH
        self.image_encoder = _ImageEncoder(in_channels, side, embed_dim, depth, num_heads, prompt_embed_dim)
        self.prompt_encoder = _PromptEncoder(prompt_embed_dim)
        self.mask_decoder = _MaskDecoder(prompt_embed_dim)
        self.prompt_policy = PointPrompts(count=points, seed=point_seed)
        self.foreground = out_channels - 1

    def forward(self, images: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Returns logits; without `prompts` (to count its cost), those of one click in the middle per class."""
        images = standardise(images)
        logits = answers_to_clicks(images, prompts, self.foreground, self.image_encoder, self._class_logits)
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)

    def _class_logits(self, features: Tensor, _: int, clicks: Tensor) -> Tensor:
        coarse: Tensor = self.mask_decoder(features, *self.prompt_encoder(clicks, features.shape[2]))
        return F.interpolate(coarse, scale_factor=4.0, mode="trilinear", align_corners=False)[:, 0]


def standardise(images: Tensor) -> Tensor:
    """Standardises `[B, C, h, w, d]` by mean and deviation (0 counts as 1) of the voxels above 0 of each channel."""
    above = images > 0
    axes = (2, 3, 4)
    count = above.sum(axes, keepdim=True)
    mean = images.where(above, 0).sum(axes, keepdim=True) / count.clamp(min=1)
    squares = (images - mean).square().where(above, 0).sum(axes, keepdim=True)
    return (images - mean) / (squares / (count - 1).clamp(min=1)).where(squares > 0, 1).sqrt()


class _ImageEncoder(nn.Module):
    """A vision transformer over patches: maps `[B, C, h, w, d]` to `[B, out_channels, h / 16, w / 16, d / 16]`."""

    def __init__(self, in_channels: int, side: int, channels: int, depth: int, heads: int, out_channels: int) -> None:
        super().__init__()
        self.patch_embed = sequence(proj=nn.Conv3d(in_channels, channels, _PATCH, _PATCH))
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, side, channels))
        self.blocks = nn.ModuleList(
            _Block(channels, heads, _WINDOW if i % (depth // 4) else side) for i in range(1, depth + 1)
        )
        self.neck = nn.Sequential(
            *(nn.Conv3d(channels, out_channels, 1, bias=False), _ChannelNorm(out_channels)),
            *(nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False), _ChannelNorm(out_channels)),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).movedim(1, -1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.movedim(-1, 1))


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = _Attention(channels, heads, side)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = _mlp(channels, 4 * channels, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    r"""Attention among the tokens of a grid `[B, d, h, w, C]` in a window of `side` tokens per axis.

    Zeros fill the window up after the grid, and take part in the attention. With q, k of each head and learned R of
    each axis, the logit of the token at (i, j, l) for the one at (d, h, w) is

    .. math:: q_{dhw} k_{ijl} / \sqrt C + q_{dhw} R^d_{d-l} + q_{dhi} R^h_{h-l} + q_{dhj} R^w_{j-l}

    as in the authors' code, with which the weights were trained (true offsets along each axis would use q_dhw in all
    terms, with d - i, h - j and w - l). So a window must have equally many tokens on each axis."""

    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__()
        self.rel_pos_d, self.rel_pos_h, self.rel_pos_w = (
            nn.Parameter(torch.zeros(2 * side - 1, channels // heads)) for _ in range(3)
        )
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.heads = heads
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        channels = x.shape[4]
        filled = F.pad(x, [0, 0, *[0, self.side - size] * 3])
        # Padding tokens need queries only where these are added to other tokens' queries.
        q = F.linear(filled[:, :size, :size], self.qkv.weight[:channels], self.qkv.bias[:channels])
        k, v = F.linear(filled, self.qkv.weight[channels:], self.qkv.bias[channels:]).chunk(2, dim=-1)
        q, k, v = (part.reshape(*part.shape[:4], self.heads, -1).movedim(-2, 1) for part in (q, k, v))
        offsets = self._offset_terms(q, size).flatten(5).flatten(2, 4)
        q, k, v = (part.flatten(2, 4) for part in (q[..., :size, :], k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=offsets).transpose(1, 2).reshape(x.shape))

    def _offset_terms(self, q: Tensor, size: int) -> Tensor:
        """Returns the last three terms `[B, heads, d, h, w, i, j, l]` for queries `[B, heads, d, h, side, C]`."""
        places = torch.arange(self.side, device=q.device)
        differences = places[:, None] - places + self.side - 1
        along_d = torch.einsum("bndhwc,dlc->bndhwl", q[..., :size, :], self.rel_pos_d[differences[:size]])
        along_h = torch.einsum("bndhic,hlc->bndhil", q, self.rel_pos_h[differences[:size]])
        along_w = torch.einsum("bndhjc,jlc->bndhjl", q, self.rel_pos_w[differences])
        return along_d[..., None, None, :] + along_h[..., None, :, None, :] + along_w[..., None, None, :, :]


class _PromptEncoder(nn.Module):
    """Encodes clicks `[N, 3]`, in voxels of a window, for the decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pe_layer = _Waves(channels // 3)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(2))  # outside and inside
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            *(nn.Conv3d(1, 4, 2, stride=2), _ChannelNorm(4), nn.GELU()),
            *(nn.Conv3d(4, 16, 2, stride=2), _ChannelNorm(16), nn.GELU()),
            nn.Conv3d(16, channels, 1),
        )
        self.no_mask_embed = nn.Embedding(1, channels)

    def forward(self, clicks: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns tokens `[N + 1, C]`, and embeddings and positions `[1, C, side, side, side]` of the patches."""
        inside = self.pe_layer((clicks + 0.5) / (_PATCH * side)) + self.point_embeddings[1].weight
        tokens = torch.cat([inside, self.not_a_point_embed.weight])
        # The authors start from an answer of zeros, and never use `no_mask_embed`.
        before = self.mask_downscaling(tokens.new_zeros(1, 1, *[4 * side] * 3))
        centres = (torch.arange(side, device=clicks.device) + 0.5) / side
        h, w, d = torch.meshgrid(centres, centres, centres, indexing="ij")
        # The first two axes are swapped, unlike those of clicks: the weights were trained like this.
        return tokens, before, self.pe_layer(torch.stack([w, h, d], dim=-1)).movedim(-1, 0)[None]


class _Waves(nn.Module):
    """Maps positions `[..., 3]` in [0, 1] to sines and cosines `[..., 3 C]` of random frequencies."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, channels))

    def forward(self, positions: Tensor) -> Tensor:
        frequencies = self.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * positions.to(frequencies) - 1) @ frequencies)
        return torch.cat([angles.sin(), angles.cos(), angles.sin()], dim=-1)


class _MaskDecoder(nn.Module):
    """Maps embeddings of image and clicks to logits `[1, 1, 4 d, 4 h, 4 w]`; some weights are for checkpoints alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(depth=2, embedding_dim=channels, num_heads=8, mlp_dim=2048)
        for layer in self.transformer.layers:
            layer.mlp = _mlp(channels, 2048, nn.ReLU())  # MONAI names its layers otherwise
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(_MASKS, channels)
        self.output_upscaling = nn.Sequential(
            *(nn.ConvTranspose3d(channels, channels // 4, 2, stride=2), _ChannelNorm(channels // 4), nn.GELU()),
            *(nn.ConvTranspose3d(channels // 4, channels // 8, 2, stride=2), nn.GELU()),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(channels, channels, channels // 8, 3) for _ in range(_MASKS))
        self.iou_prediction_head = MLP(channels, 256, _MASKS, 3)

    def forward(self, features: Tensor, clicks: Tensor, before: Tensor, positions: Tensor) -> Tensor:
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight, clicks])[None]
        tokens, voxels = self.transformer(features + before, positions, tokens)
        fine = self.output_upscaling(voxels.transpose(1, 2).unflatten(2, features.shape[2:]))
        return torch.einsum("bc,bcdhw->bdhw", self.output_hypernetworks_mlps[0](tokens[:, 1]), fine)[:, None]


class _ChannelNorm(nn.LayerNorm):
    """Layer norm of the channels of each voxel, `[B, C, d, h, w]`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _mlp(channels: int, hidden: int, activation: nn.Module) -> nn.Sequential:
    return sequence(lin1=nn.Linear(channels, hidden), act=activation, lin2=nn.Linear(hidden, channels))
