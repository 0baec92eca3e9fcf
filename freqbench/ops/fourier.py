"""Splits the Fourier spectrum of a volume into nested bands, and changes amplitudes under a phase that stays."""

from collections.abc import Sequence

import torch
from torch import Tensor

AXES = (2, 3, 4)


def fourier_bands(shape: Sequence[int], count: int) -> Tensor:
    """The band of every coefficient of `torch.fft.rfftn` over a volume, integers in 0..count - 1 `[H, W, D // 2 + 1]`.

    Bands are boxes inside each other, 0 at the mean. A coefficient's radius is the largest of its frequencies on the
    three axes, as shares of the highest that an axis can have; the bands part [0, 1] evenly; some may be empty.
    """
    h, w, d = shape
    axes = torch.fft.fftfreq(h).abs(), torch.fft.fftfreq(w).abs(), torch.fft.rfftfreq(d)
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).amax(dim=0) * 2
    return (radius * count + 1e-6).long().clamp(max=count - 1)


def band_sums(values: Tensor, bands: Tensor, count: int) -> Tensor:
    """The sum over each band of each channel, `[B, C, count]`, of values of coefficients `[B, C, H, W, D // 2 + 1]`."""
    flat = values.flatten(2)
    return flat.new_zeros(*flat.shape[:2], count).index_add(2, bands.flatten(), flat)


def amplitude_swap(clean: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """What the spectrum of volumes changes by where it takes another's amplitude and keeps its own phase.

    Returns the change of every coefficient, complex `[B, C, H, W, D // 2 + 1]`, and the clean amplitudes. A coefficient
    that the clean volume lacks, but for rounding, has no phase and stays away.
    """
    own, other = torch.fft.rfftn(clean, dim=AXES), torch.fft.rfftn(reference, dim=AXES).abs()
    amplitude = own.abs()
    rounding = 10 * torch.finfo(clean.dtype).eps * amplitude.amax(dim=AXES, keepdim=True)
    return torch.where(amplitude > rounding, (other - amplitude) * own.sgn(), 0.0), amplitude
