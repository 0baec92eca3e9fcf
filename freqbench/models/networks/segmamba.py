"""Builds SegMamba: an encoder of Mamba layers in three orders of the voxels, and a convolutional decoder.

Xing, Ye, Yang, Liu, Zhu, *SegMamba: Long-range Sequential Modeling Mamba For 3D Medical Image Segmentation*, MICCAI
2024, arXiv:2401.13560.  Modules have the names of the authors' code.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from freqbench.models.networks.architectures import require_positive
from freqbench.models.networks.construction import sequence
from freqbench.models.networks.selective_scan import selective_scan

_STATE = 16  # numbers in a channel's state
_KERNEL = 4  # kernel of the causal convolution
_EXPANSION = 2
_STEPS = (1e-3, 1e-1)  # range in which softplus(bias) starts
_ORDERS = ("", "_b", "_s")  # suffixes of the authors' names: forward, backward, across slices

_basic = partial(UnetrBasicBlock, 3, kernel_size=3, stride=1, norm_name="instance", res_block=True)
_up = partial(UnetrUpBlock, 3, kernel_size=3, upsample_kernel_size=2, norm_name="instance", res_block=True)


class SegMamba(nn.Module):
    """Maps `[B, in_channels, d, h, w]` to logits `[B, out_channels, d, h, w]`; each side is a multiple of 16 voxels.

    As published: a stem of stride 2; at each of four stages the gated spatial convolution (GSC), Mamba layers that scan
    the voxels forward, backward and across slices (ToM), instance norm and an MLP for the skip connection; MONAI's
    residual blocks as decoder; the default sizes.

    **Differs from** the authors' code: a layer scans across the slices of the first axis, for any window (there: across
    64, 32, 16 and 8 slices at the four stages, as in windows of 128); `feat_size` also sets the channels before the
    last convolution (there: 48). State dicts have the names and shapes of their code. Equal outputs, and the training's
    axes D, H, W, were read off the code and not measured.

    Args:
        feat_size: channels of the four stages.
        depths: Mamba layers of the four stages.
        hidden_size: channels of the decoder's first block.

    Raises ValueError unless there are four positive numbers.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 13,
        feat_size: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (2, 2, 2, 2),
        hidden_size: int = 768,
    ) -> None:
        super().__init__()
        for name, numbers in {"feat_size": feat_size, "depths": depths}.items():
            require_positive(name, numbers, 4)
        self.vit = _MambaEncoder(in_channels, feat_size, depths)
        self.encoder1 = _basic(in_channels, feat_size[0])
        self.encoder2 = _basic(feat_size[0], feat_size[1])
        self.encoder3 = _basic(feat_size[1], feat_size[2])
        self.encoder4 = _basic(feat_size[2], feat_size[3])
        self.encoder5 = _basic(feat_size[3], hidden_size)
        self.decoder5 = _up(hidden_size, feat_size[3])
        self.decoder4 = _up(feat_size[3], feat_size[2])
        self.decoder3 = _up(feat_size[2], feat_size[1])
        self.decoder2 = _up(feat_size[1], feat_size[0])
        self.decoder1 = _basic(feat_size[0], feat_size[0])
        self.out = UnetOutBlock(3, feat_size[0], out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits at full size of images `[B, in_channels, d, h, w]`."""
        x1, x2, x3, x4 = self.vit(images)
        up = self.decoder5(self.encoder5(x4), self.encoder4(x3))
        up = self.decoder4(up, self.encoder3(x2))
        up = self.decoder3(up, self.encoder2(x1))
        up = self.decoder2(up, self.encoder1(images))
        return self.out(self.decoder1(up))


class _MambaEncoder(nn.Module):
    """Four stages of down-sampling, GSC and Mamba layers; each stage's output is normalised and goes through an MLP."""

    def __init__(self, in_channels: int, feat_size: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv3d(in_channels, feat_size[0], 7, stride=2, padding=3))
        downs = [
            nn.Sequential(nn.InstanceNorm3d(before), nn.Conv3d(before, after, 2, stride=2))
            for before, after in pairwise(feat_size)
        ]
        self.downsample_layers = nn.ModuleList([stem, *downs])
        self.stages = nn.ModuleList(
            nn.Sequential(*(_MambaLayer(channels) for _ in range(depth)))
            for channels, depth in zip(feat_size, depths, strict=True)
        )
        self.gscs = nn.ModuleList(_GatedSpatialConvolution(channels) for channels in feat_size)
        self.mlps = nn.ModuleList(_mlp(channels) for channels in feat_size)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for down, gsc, stage, mlp in zip(self.downsample_layers, self.gscs, self.stages, self.mlps, strict=True):
            x = stage(gsc(down(x)))
            outputs.append(mlp(F.instance_norm(x)))
        return outputs


class _GatedSpatialConvolution(nn.Module):
    """x + block4(block2(block1(x)) + block3(x)); a block is convolution, instance norm and ReLU, the last two 1x1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, channels, 3, padding=1)
        self.proj2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.proj3 = nn.Conv3d(channels, channels, 1)
        self.proj4 = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        spatial = _normalise(self.proj2(_normalise(self.proj(x))))
        return x + _normalise(self.proj4(spatial + _normalise(self.proj3(x))))


class _MambaLayer(nn.Module):
    """x + mamba(norm(x)) on the voxels as tokens, the last axis fastest."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = ToM(channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # [B, L, C]
        mixed: Tensor = self.mamba(self.norm(tokens), slices=x.shape[2])
        return x + mixed.transpose(1, 2).reshape(x.shape)


class ToM(nn.Module):
    """Mamba in three orders of the tokens, forward, backward and across slices, whose outputs are added.

    The orders share their input and output projections; each has its own convolution, parameters and scan.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rank = math.ceil(channels / 16)
        inner = _EXPANSION * channels
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        for order in _ORDERS:
            rates = torch.arange(1, _STATE + 1, dtype=torch.float32).log()
            self.register_parameter(f"A{order}_log", nn.Parameter(rates.repeat(inner, 1)))
            self.register_parameter(f"D{order}", nn.Parameter(torch.ones(inner)))
            self.add_module(f"conv1d{order}", nn.Conv1d(inner, inner, _KERNEL, groups=inner, padding=_KERNEL - 1))
            self.add_module(f"x_proj{order}", nn.Linear(inner, self.rank + 2 * _STATE, bias=False))
            # As in the authors' code, the steps of the other two orders start with torch's initial linear layer.
            dt_proj = nn.Linear(self.rank, inner) if order else _steps(self.rank, inner)
            self.add_module(f"dt_proj{order}", dt_proj)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def forward(self, tokens: Tensor, slices: int) -> Tensor:
        """Returns the update of tokens `[B, L, C]`, of which the first L / `slices` are the first slice."""
        xz = self.in_proj(tokens).transpose(1, 2)  # [B, 2 * inner, L]
        mixed = self._scan(xz, "") + self._scan(xz.flip(2), "_b").flip(2)
        across = self._scan(xz.reshape(*xz.shape[:2], slices, -1).mT.flatten(2), "_s")
        mixed = mixed + across.reshape(*across.shape[:2], -1, slices).mT.flatten(2)
        return self.out_proj(mixed.transpose(1, 2))

    def _scan(self, xz: Tensor, order: str) -> Tensor:
        """Runs convolution, scan and gate in one order, `[B, inner, L]`."""
        conv, x_proj, dt_proj = (self.get_submodule(f"{name}{order}") for name in ("conv1d", "x_proj", "dt_proj"))
        x, gate = xz.chunk(2, dim=1)
        x = F.silu(conv(x)[..., : x.shape[2]])
        step, b, c = x_proj(x.transpose(1, 2)).split([self.rank, _STATE, _STATE], dim=2)
        delta = F.softplus(dt_proj(step))
        a, d = -torch.exp(self.get_parameter(f"A{order}_log")), self.get_parameter(f"D{order}")
        return selective_scan(x, delta.mT, a, b.mT, c.mT, d) * F.silu(gate)


def _steps(rank: int, channels: int) -> nn.Linear:
    """Builds the projection to the steps, which start log-uniformly distributed in _STEPS, as in Mamba."""
    layer = nn.Linear(rank, channels)
    low, high = map(math.log, _STEPS)
    with torch.no_grad():
        layer.weight.uniform_(-(rank**-0.5), rank**-0.5)
        steps = torch.exp(torch.rand(channels) * (high - low) + low)
        layer.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus
    return layer


def _normalise(x: Tensor) -> Tensor:
    return F.relu(F.instance_norm(x))


def _mlp(channels: int) -> nn.Sequential:
    return sequence(fc1=nn.Conv3d(channels, 2 * channels, 1), act=nn.GELU(), fc2=nn.Conv3d(2 * channels, channels, 1))
