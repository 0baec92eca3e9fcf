"""Builds UNETR++: a U-shaped network whose blocks pair channel and spatial attention.
Shaker, Maaz, Rasheed, Khan, Yang, Khan, *UNETR++: Delving into Efficient and Accurate 3D Medical Image
Segmentation*, IEEE TMI 2024, arXiv:2212.04497. Modules have the names of the authors' checkpoints, which load
strictly."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from monai.networks.blocks.dynunet_block import UnetOutBlock, UnetResBlock
from torch import Tensor, nn

from freqbench.core.types import Shape, triple
from freqbench.models.networks.architectures import require_positive, total_stride
from freqbench.models.networks.construction import sequence

_FEATURE_DROPOUT = 0.1
_residual = partial(UnetResBlock, 3, kernel_size=3, stride=1)


class UNETRPP(nn.Module):
    """Maps `[B, in_channels, *img_size]` to logits `[B, out_channels, *img_size]`.

    The stem reduces the input to stage 0, and each further stage halves it. The N voxels (tokens) of a stage are
    projected to P by learnt matrices of size P x N, so a network takes windows of its `img_size` only. The defaults are
    the authors' for Synapse. Their values for ACDC in a job file:

        args: {stem: [1, 4, 4], tied_projections: false, conv_blocks: 2, attention_dropout: 0.1}
        roi: [16, 160, 160]

    Args:
        img_size: voxels of a window in the network's own order, depth (the through-plane axis) first; multiples of 8 x
            stem.
        stem: kernel and stride of the first convolution, and of the last up-sampling.
        feature_size: channels at full size.
        dims: channels of the four stages, each a multiple of the one before.
        depths, decoder_depth: attention blocks of the encoder's four stages and of each of the decoder's three.
        num_heads: heads of all attention blocks.
        proj_sizes, decoder_proj_size: P of the encoder's four stages and of the decoder's.
        tied_projections: True: keys and values share one projection (Synapse); False: they have one each (ACDC).
        conv_blocks: residual convolution blocks in an attention block, 1 (Synapse) or 2 (ACDC).

    **Differs from** the authors' code: without deep supervision (out2 and out3 hold weights and are not computed;
    `features` returns their inputs). Raises ValueError for sizes that do not fit each other.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 14,
        img_size: Sequence[int] = (64, 128, 128),
        stem: Sequence[int] = (2, 4, 4),
        feature_size: int = 16,
        dims: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (3, 3, 3, 3),
        decoder_depth: int = 3,
        num_heads: int = 4,
        proj_sizes: Sequence[int] = (64, 64, 64, 32),
        decoder_proj_size: int = 64,
        tied_projections: bool = True,
        conv_blocks: int = 1,
        attention_dropout: float = 0.15,
    ) -> None:
        super().__init__()
        require_positive("img_size", img_size, 3)
        multiple = total_stride(stem)
        if any(size % factor for size, factor in zip(img_size, multiple, strict=True)):
            raise ValueError(f"expected an img_size of multiples of {multiple}, got {tuple(img_size)}")
        for name, per_stage in {"dims": dims, "depths": depths, "proj_sizes": proj_sizes}.items():
            require_positive(name, per_stage, 4)
        _require_divisible(dims, in_channels, num_heads)
        if conv_blocks not in (1, 2):
            raise ValueError(f"expected conv_blocks of 1 or 2, got {conv_blocks}")
        first = [size // step for size, step in zip(img_size, stem, strict=True)]

        def blocks(stage: int, depth: int, proj_size: int) -> nn.Sequential:
            """Returns `depth` attention blocks of a stage's channels and tokens (0..3), projected to `proj_size`."""
            tokens = math.prod(side >> stage for side in first)
            sizes = (dims[stage], tokens, proj_size, num_heads)
            options = (tied_projections, conv_blocks, attention_dropout)
            return nn.Sequential(*(_AttentionBlock(*sizes, *options) for _ in range(depth)))

        stages = [blocks(stage, depths[stage], proj_sizes[stage]) for stage in range(4)]
        self.unetr_pp_encoder = _PairedAttentionEncoder(in_channels, stem, dims, stages)
        self.encoder1 = _residual(in_channels, feature_size, norm_name="instance")
        self.decoder5 = _Decoder(dims[3], dims[2], 2, blocks(2, decoder_depth, decoder_proj_size))
        self.decoder4 = _Decoder(dims[2], dims[1], 2, blocks(1, decoder_depth, decoder_proj_size))
        self.decoder3 = _Decoder(dims[1], dims[0], 2, blocks(0, decoder_depth, decoder_proj_size))
        last = _residual(feature_size, feature_size, norm_name="instance")
        self.decoder2 = _Decoder(dims[0], feature_size, triple(stem), last)
        self.out1 = UnetOutBlock(3, feature_size, out_channels)
        self.out2 = UnetOutBlock(3, dims[0], out_channels)
        self.out3 = UnetOutBlock(3, dims[1], out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits at full size of images `[B, in_channels, *img_size]`."""
        return self.out1(self.features(images)[0])

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the inputs of the heads `out1`, `out2` and `out3` for images `[B, in_channels, *img_size]`: at full
        size and at the sizes of stages 0, 1."""
        e1, e2, e3, e4 = self.unetr_pp_encoder(images)
        d2 = self.decoder4(self.decoder5(e4, e3), e2)
        d1 = self.decoder3(d2, e1)
        return self.decoder2(d1, self.encoder1(images)), d1, d2


def _require_divisible(dims: Sequence[int], in_channels: int, num_heads: int) -> None:
    """Refuses channels of stages that do not follow from each other, or do not split into heads."""
    if any(after % before for before, after in pairwise((in_channels, *dims))):
        raise ValueError(f"expected dims, each a multiple of the one before, got {tuple(dims)} on {in_channels}")
    if any(channels % 2 or channels % num_heads for channels in dims):
        raise ValueError(f"expected even dims that num_heads divides, got {tuple(dims)} and {num_heads}")


class _PairedAttentionEncoder(nn.Module):
    """The four stages, each after its down-sampling."""

    def __init__(self, in_channels: int, stem: Sequence[int], dims: Sequence[int], stages: list[nn.Sequential]) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList()
        kernels: tuple[int | Shape, ...] = (triple(stem), 2, 2, 2)
        for (before, after), kernel in zip(pairwise((in_channels, *dims)), kernels, strict=True):
            conv = nn.Conv3d(before, after, kernel, stride=kernel, bias=False)
            self.downsample_layers.append(nn.Sequential(sequence(conv=conv), nn.GroupNorm(before, after)))
        self.stages = nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the outputs of the four stages for images `[B, in_channels, *img_size]`, the finest first."""
        outputs = [images]
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            outputs.append(stage(downsample(outputs[-1])))
        return outputs[1:]


class _Decoder(nn.Module):
    """Up-samples, adds the encoder's output of that size, and refines."""

    def __init__(self, before: int, after: int, step: int | Shape, refine: nn.Module) -> None:
        super().__init__()
        self.transp_conv = sequence(conv=nn.ConvTranspose3d(before, after, step, stride=step, bias=False))
        self.decoder_block = nn.ModuleList([refine])

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Returns features of the size of `skip`, the encoder's output, from the coarser `x`."""
        return self.decoder_block[0](self.transp_conv(x) + skip)


class _AttentionBlock(nn.Module):
    """t = x + position;  u = t + gamma * attention(norm(t));  u + conv8(conv51(u)), or u + conv8(conv52(conv51(u)))."""

    def __init__(
        self, channels: int, tokens: int, proj_size: int, num_heads: int, tied: bool, conv_blocks: int, dropout: float
    ) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, channels))
        self.norm = nn.LayerNorm(channels)
        self.epa_block = _PairedAttention(channels, tokens, proj_size, num_heads, tied, dropout)
        self.conv51 = _residual(channels, channels, norm_name="batch")
        self.conv52 = _residual(channels, channels, norm_name="batch") if conv_blocks == 2 else nn.Identity()
        self.conv8 = nn.Sequential(nn.Dropout3d(_FEATURE_DROPOUT), nn.Conv3d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps features `x`, `[B, C, d, h, w]` of N voxels, to features of the same shape."""
        tokens = x.flatten(2).transpose(1, 2) + self.pos_embed  # [B, N, C]
        tokens = tokens + self.gamma * self.epa_block(self.norm(tokens))
        u = tokens.transpose(1, 2).reshape(x.shape)
        return u + self.conv8(self.conv52(self.conv51(u)))


class _PairedAttention(nn.Module):
    """Channel and spatial attention on shared queries q and keys k, with separate values; H heads of c channels.
    channel: softmax(temperature * q' k'^T) v c x c, ' = divided by the norm over the N tokens spatial:
    softmax(temperature2 * q'^T E(k)) F(w)^T N x P, E and F project the tokens of k and w Each result goes through a
    linear layer to half the channels; the spatial half comes first."""

    def __init__(self, channels: int, tokens: int, proj_size: int, num_heads: int, tied: bool, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.temperature2 = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkvv = nn.Linear(channels, 4 * channels, bias=False)
        self.E = nn.Linear(tokens, proj_size)
        # One layer under two names: checkpoints hold both, and F, which is read last, counts.
        self.F = self.E if tied else nn.Linear(tokens, proj_size)
        self.out_proj = nn.Linear(channels, channels // 2)
        self.out_proj2 = nn.Linear(channels, channels // 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps the tokens `x`, `[B, N, C]`, to tokens of the same shape."""
        shape = x.shape  # [B, N, C]
        split = self.qkvv(x).unflatten(2, (4, self.num_heads, -1)).permute(2, 0, 3, 4, 1)
        q, k, value_channel, value_spatial = split.unbind()  # [B, H, c, N] each
        k_projected = self.E(k)  # [B, H, c, P]
        v_projected = self.F(value_spatial)  # [B, H, c, P]
        q = F.normalize(q, dim=-1)
        k = F.normalize(k, dim=-1)

        weights = self.dropout((q @ k.transpose(2, 3) * self.temperature).softmax(dim=-1))  # [B, H, c, c]
        channel = (weights @ value_channel).permute(0, 3, 1, 2).reshape(shape)

        weights = self.dropout((q.transpose(2, 3) @ k_projected * self.temperature2).softmax(dim=-1))  # [B, H, N, P]
        spatial = weights @ v_projected.transpose(2, 3)  # [B, H, N, c]
        # The authors read [B, c, H, N] as [B, N, C] without moving tokens back in front: trained weights expect it.
        spatial = spatial.permute(0, 3, 1, 2).reshape(shape)
        return torch.cat([self.out_proj(spatial), self.out_proj2(channel)], dim=2)
