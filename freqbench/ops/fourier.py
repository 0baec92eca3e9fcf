"""Splits the Fourier spectrum of a volume into nested bands, and changes amplitudes while the phase stays."""

from collections.abc import Sequence

import torch
from torch import Tensor

AXES = (2, 3, 4)


def fourier_bands(shape: Sequence[int], count: int) -> Tensor:
    """Returns the band, 0..count - 1, of every coefficient of `torch.fft.rfftn`, `[H, W, D // 2 + 1]`.

    Bands are nested boxes, band 0 at the mean. A coefficient's radius is the largest of its frequencies on the three
    axes, as shares of an axis's highest frequency. The bands divide [0, 1] evenly; some may be empty.
    """
    h, w, d = shape
    axes = torch.fft.fftfreq(h).abs(), torch.fft.fftfreq(w).abs(), torch.fft.rfftfreq(d)
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).amax(dim=0) * 2
    return (radius * count + 1e-6).long().clamp(max=count - 1)


def band_sums(values: Tensor, bands: Tensor, count: int) -> Tensor:
    """Sums values of coefficients `[B, C, H, W, D // 2 + 1]` over each band of each channel, `[B, C, count]`."""
    flat = values.flatten(2)
    return flat.new_zeros(*flat.shape[:2], count).index_add(2, bands.flatten(), flat)


def amplitude_swap(clean: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the change of volumes' spectra when they take another volume's amplitude and keep their own phase.

    The change is complex `[B, C, H, W, D // 2 + 1]`; the clean amplitudes are returned with it. A coefficient that is
    zero in the clean volume, up to rounding, has no phase and stays zero.
    """
    spectrum, other = torch.fft.rfftn(clean, dim=AXES), torch.fft.rfftn(reference, dim=AXES).abs()
    amplitude = spectrum.abs()
    rounding = 10 * torch.finfo(clean.dtype).eps * amplitude.amax(dim=AXES, keepdim=True)
    return torch.where(amplitude > rounding, (other - amplitude) * spectrum.sgn(), 0.0), amplitude
