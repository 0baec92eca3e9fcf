"""Changes windows before a network sees them: smoothing, quantisation, a random place; one class per technique."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from freqbench.models.defences.base import Back, Defence
from freqbench.ops.blocks import Block, along_axes, cut_block, tiled
from freqbench.ops.dct import BlockDCT
from freqbench.ops.resampling import Zoom, by_sample, gaussian_matrix

TRUNCATE = 4.0  # in sigmas, as scipy has it


class GaussianSmoothing(Defence):
    r"""Convolution with a Gaussian of `sigma` voxels, axis by axis, each channel by itself.

    Used as a defence in Xu, Evans, Qi, NDSS 2018, arXiv:1704.01155, section 3, among others. The weights
    :math:`\exp(-j^2 / 2 \sigma^2)` reach to 4 sigma and sum to 1; beyond the window its outermost voxels repeat
    (`scipy.ndimage.gaussian_filter(mode="nearest")`). It is linear: autograd's gradient is the true one.
    """

    is_smooth: ClassVar[bool] = True

    name: Literal["gaussian_smoothing"] = "gaussian_smoothing"
    sigma: Annotated[float, Field(gt=0, le=16)]

    def transform(self, images: Tensor) -> Tensor:
        """Returns the blurred windows of images `[B, C, h, w, d]`."""
        taps = 2 * int(TRUNCATE * self.sigma + 0.5) + 1
        sides = images.shape[2:]
        return along_axes(images, [gaussian_matrix(side, taps, self.sigma, hold=True).to(images) for side in sides])


class MedianSmoothing(Defence):
    """Replaces every voxel by the median of the cube of `size` voxels a side around it, each channel by itself.

    Xu, Evans, Qi, NDSS 2018 (feature squeezing), arXiv:1704.01155. Beyond the window its outermost voxels repeat
    (`scipy.ndimage.median_filter(mode="nearest")`). Autograd sends a voxel's gradient to the one that is its median:
    the true gradient. Approximations are no better: for cubes of 3, PGD (8/255, 10 steps, two windows of the phantom)
    leaves a Dice of 0.85 and 0.79 with the true gradient, 0.84 and 0.80 with that of the cube's mean, 0.88 and 0.84
    with the identity.

    **Differs from the paper**: cubes of odd sides in place of squares; without the detector that compares predictions.
    """

    is_smooth: ClassVar[bool] = True

    name: Literal["median_smoothing"] = "median_smoothing"
    size: Literal[3, 5, 7]

    def transform(self, images: Tensor) -> Tensor:
        """Returns the medians of images `[B, C, h, w, d]`; holds size^3 numbers per voxel meanwhile."""
        padded = F.pad(images, [self.size // 2] * 6, mode="replicate")
        for axis in (2, 3, 4):
            padded = padded.unfold(axis, self.size, 1)
        return padded.flatten(5).median(dim=5).values


class BitDepth(Defence):
    r"""Rounds every voxel to the nearest of :math:`2^b` levels of [0, 1]: Xu, Evans, Qi, NDSS 2018, arXiv:1704.01155.

    .. math:: T(x) = \mathrm{round}\bigl((2^b - 1) x\bigr) / (2^b - 1)

    The gradient of T is zero wherever it exists, so that plain autograd (`adaptive: false`) finds nothing to follow;
    an adaptive attacker takes the identity in its place.

    Attributes:
        bits: b; pictures have 8, the paper tries 1 to 5.

    **Differs from the paper**: without the detector that compares the predictions of x and T(x).
    """

    name: Literal["bit_depth"] = "bit_depth"
    bits: Annotated[int, Field(ge=1, le=16)]

    def transform(self, images: Tensor) -> Tensor:
        """Returns the rounded voxels of images in [0, 1]; halves go to the even level."""
        steps = float(2**self.bits - 1)
        return (images * steps).round().div(steps)


SCALE = 255.0  # the grey levels of JPEG, the scale of the quantisation steps
MIDDLE = 128.0  # JPEG subtracts it before the DCT


class DctQuantization(Defence):
    r"""Rounds the coefficients of a blockwise orthonormal DCT to multiples of a table, each channel by itself.

    With u = 255 x - 128 in blocks of b voxels a side, D their DCT and i, j, k the indices of a coefficient:

    .. math:: T(x) = \frac{1}{255} \Bigl(128 + D^{-1} \bigl[ q \, \mathrm{round}(D u / q) \bigr]\Bigr), \qquad
              q_{ijk} = 1 + c \, (1 + i + j + k)

    clamped to [0, 1]. A window that blocks do not tile is padded by reflection and cropped afterwards. The gradient of
    the rounding is zero (`adaptive: false`); an adaptive attacker takes the identity in its place, and as D^{-1} D and
    q / q cancel, that is the identity for T.

    JPEG as a defence: Dziugaite, Ghahramani, Roy, 2016, arXiv:1608.00853; Guo et al., ICLR 2018, arXiv:1711.00117.

    **Differs from JPEG**: three dimensions; in place of the eye's luminance table, which is for squares of 8, one that
    grows with the indices' sum (the textbook's table, Nelson and Gailly, The Data Compression Book, 1995); no colours
    and no coding, which loses nothing.

    Attributes:
        block: voxels a side of a block; cut to the window.
        coarseness: c: 0 rounds to whole numbers on the 0..255 scale; the steps at 2 are 3 to 45 for blocks of 8.
    """

    name: Literal["dct_quantization"] = "dct_quantization"
    block: PositiveInt | tuple[PositiveInt, PositiveInt, PositiveInt] = 8
    coarseness: Annotated[float, Field(ge=0, le=1000)] = 2.0

    def transform(self, images: Tensor) -> Tensor:
        """Returns windows, images `[B, C, h, w, d]`, rebuilt from the quantised coefficients."""
        block = cut_block(self.block, images.shape[2:])
        transform = BlockDCT.of(images, block)
        spectrum = transform.spectrum(SCALE * images - MIDDLE)
        steps = tiled(self.table(block).to(images), spectrum)
        return ((transform.volume((spectrum / steps).round() * steps) + MIDDLE) / SCALE).clamp(0, 1)

    def table(self, block: Block) -> Tensor:
        """Returns the steps of a block's coefficients on the 0..255 scale, float64 `[h, w, d]`."""
        i, j, k = (torch.arange(side, dtype=torch.float64) for side in block)
        return 1 + self.coarseness * (1 + i[:, None, None] + j[:, None] + k)


STEP = 1 / 12  # below 1 / squared norm of the 3D gradient operator, which is below 12
LEAST = 1e-12  # least squared slope: a square root has no derivative at 0


class TotalVariation(Defence):
    r"""The nearby window with the least total variation, by channel: Guo et al., ICLR 2018, arXiv:1711.00117.

    After Rudin, Osher, Fatemi, Physica D 1992:

    .. math:: T(x) \approx \arg\min_u \tfrac12 \lVert u - x \rVert_2^2 + w \sum_i \lVert (\nabla u)_i \rVert_2

    by `steps` steps of Chambolle's projection (J. Math. Imaging Vis. 20, 2004), with forward differences, p from 0:

    .. math:: p \leftarrow \frac{p + \tau g}{1 + \tau \lVert g \rVert}, \quad
              g = \nabla (\mathrm{div}\, p - x / w), \qquad u = x - w \, \mathrm{div}\, p

    The steps are differentiable and unrolled: autograd's gradient is that of what is computed.

    Attributes:
        weight: w; Guo et al. take 0.03 on the [0, 1] scale.
        steps: steps of the projection; each keeps four volumes of the window's size for the backward pass.

    **Differs from the paper**: all voxels are kept, where Guo et al. drop pixels at random first; another solver.
    """

    is_smooth: ClassVar[bool] = True

    name: Literal["total_variation"] = "total_variation"
    weight: PositiveFloat = 0.03
    steps: Annotated[int, Field(ge=1, le=1000)] = 20

    def transform(self, images: Tensor) -> Tensor:
        """Returns images `[B, C, h, w, d]` after the last step, clamped to [0, 1], as the minimiser stays inside."""
        field = images.new_zeros(3, *images.shape)
        for _ in range(self.steps):
            slope = _gradient(_divergence(field) - images / self.weight)
            size = slope.square().sum(dim=0).clamp(min=LEAST).sqrt()
            field = (field + STEP * slope) / (1 + STEP * size)
        return (images - self.weight * _divergence(field)).clamp(0, 1)


def _gradient(x: Tensor) -> Tensor:
    """Returns forward differences along H, W and D, 0 at the far ends, `[3, B, C, H, W, D]`."""
    return torch.stack([x.diff(dim=axis, append=x.narrow(axis, x.shape[axis] - 1, 1)) for axis in (2, 3, 4)])


def _divergence(field: Tensor) -> Tensor:
    """Returns minus the transpose of `_gradient`; the field is 0 at the far ends."""
    parts = []
    for axis, part in zip((2, 3, 4), field, strict=True):
        inner = part.narrow(axis, 0, part.shape[axis] - 1)
        outside = torch.zeros_like(part.narrow(axis, 0, 1))
        parts.append(inner.diff(dim=axis, prepend=outside, append=outside))
    return torch.stack(parts).sum(dim=0)


class RandomResizePad(Defence):
    r"""The window resized by a random ratio, equal on all axes, and put at a random place among zeros.

    Xie, Wang, Zhang, Ren, Yuille, ICLR 2018, arXiv:1711.01991. With r uniform in [smallest, 1], an offset uniform in
    the room that is left in the window, Z = Z(r, offset), f the network:

    .. math:: f_T(x) = Z^{-1} f(Z x)

    The logits are cut out where the resized window lay and resized back to the window's grid
    (`freqbench.ops.resampling.Zoom`). A prediction takes one draw per window, as in the paper. Both ways are linear:
    autograd's gradient of one draw is right. An adaptive attacker follows the mean over `eot` fresh draws at every step
    (Athalye et al., ICML 2018, arXiv:1802.00420); `adaptive: false` follows one draw, the same at every step: the
    paper's single-pattern attack.

    **Differs from the paper**: windows are made smaller, where the paper enlarges pictures of 299 pixels to 331, as
    networks of volumes are built for one size of windows; the logits of volumes have to be mapped back, the paper's
    image classes do not.
    """

    is_random: ClassVar[bool] = True
    is_smooth: ClassVar[bool] = True

    name: Literal["random_resize_pad"] = "random_resize_pad"
    smallest: Annotated[float, Field(gt=0, lt=1)] = 0.85
    eot: Annotated[int, Field(ge=1, le=1000)] = 8

    def defend(self, images: Tensor, seeds: Sequence[int], adaptive: bool) -> tuple[Tensor, Back]:
        """Returns every window of images `[B, C, h, w, d]` resized by its own draw, that of its seed of `seeds`, for an
        attacker, `adaptive` or not, and for a prediction."""
        zooms = []
        for window, seed in zip(images, seeds, strict=True):
            ratio, *place = torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
            zooms.append(Zoom.of(window[None], self.smallest + (1 - self.smallest) * ratio, place))
        return by_sample(Zoom.zoom, zooms, images), partial(by_sample, Zoom.undo, zooms)
