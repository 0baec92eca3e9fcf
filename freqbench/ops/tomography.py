"""What few photons and metal do to a CT slice, without its raw data: parallel beams, filtered back projection.

Slices are the planes of the first two spatial axes, as a scanner has them after RAS orientation. Both effects are added
to the finished image: nothing is known of its attenuation outside the intensity window, so noise does not grow with
what the beams went through, and streaks come from metal alone.
"""

import math

import torch
from torch import Tensor

ANGLES = 180  # projections over half a turn


def _frequencies(count: int, like: Tensor) -> Tensor:
    frequencies: Tensor = torch.fft.fftfreq(count, dtype=like.dtype, device=like.device)
    return frequencies


def _window(frequency: Tensor) -> Tensor:
    """Hann's, of a soft-tissue kernel: 1 at frequency 0, 0 from half a cycle a voxel on."""
    return 0.5 + 0.5 * torch.cos(2 * math.pi * frequency.clamp(max=0.5))


def reconstructed_noise(normals: Tensor) -> Tensor:
    r"""White noise with the spectrum that back projection gives to the noise of detectors, of unit variance.

    A filter |f| A(f) on projections makes the power spectrum of a slice

    .. math:: N(f) \propto |f| \, A(f)^2

    (Riederer, Pelc and Chesler, Physics in Medicine and Biology 23, 1978), here with Hann's window A. Slices are
    independent of each other, and their mean is 0.

    Args:
        normals: `[..., H, W, D]`, standard normal.
    """
    rows, columns = (_frequencies(count, normals) for count in normals.shape[-3:-1])
    radius = torch.hypot(rows[:, None], columns)
    gain = radius.sqrt() * _window(radius)
    gain = gain / gain.square().mean().sqrt().clamp(min=torch.finfo(gain.dtype).tiny)
    plane = (-3, -2)
    noise: Tensor = torch.fft.ifft2(torch.fft.fft2(normals, dim=plane) * gain[:, :, None], dim=plane).real
    return noise


def num_bins(height: int, width: int) -> int:
    """Detector elements, a voxel wide, that see a whole slice from every side."""
    return math.ceil(math.hypot(height, width)) + 2


def metal_streaks(height: int, width: int, centres: Tensor, radius: float, normals: Tensor) -> Tensor:
    r"""The error that round metal rods leave in a slice: dark bands between them, and fine streaks around.

    Of the way p that a beam makes through metal, beam hardening hides a part that grows with p^2, and photons that are
    missing behind the metal leave noise. With n standard normal and B the filtered back projection (Hann's window):

    .. math:: e = B\bigl[(n - p) \, p\bigr] \quad \text{outside the rods, 0 inside}

    scaled to a root mean square of 1 outside. The form of the hidden part is the first term beyond the linear one of
    Joseph and Spital, Journal of Computer Assisted Tomography 2 (1978); how much noise stands beside it is ours.

    Args:
        height: voxels of the slice.
        width: likewise.
        centres: of the rods in voxels, (row, column), float `[m, 2]`.
        radius: of the rods in voxels.
        normals: `[ANGLES, num_bins(height, width)]`.

    Returns:
        `[H, W]`, in the dtype and on the device of `normals`.
    """
    middle = normals.new_tensor([(height - 1) / 2, (width - 1) / 2])
    angles = torch.arange(ANGLES, device=normals.device).to(normals) * (math.pi / ANGLES)
    directions = torch.stack([angles.sin(), angles.cos()], dim=1)  # [A, 2]: along rows and columns
    bins = normals.shape[1]
    places = torch.arange(bins, device=normals.device).to(normals) - (bins - 1) / 2
    seen = directions @ (centres.to(normals) - middle).T  # [A, m]: where each rod's middle is projected to
    chords = 2 * (radius**2 - (places - seen[:, :, None]).square()).clamp(min=0).sqrt()
    path = chords.sum(dim=1) / (2 * radius)  # [A, R], 1 through the middle of one rod
    rows = torch.arange(height, device=normals.device).to(normals)[:, None] - middle[0]
    columns = torch.arange(width, device=normals.device).to(normals) - middle[1]
    streaks = _back_projected(_filtered((normals - path) * path), directions, rows, columns)
    inside = torch.zeros_like(streaks, dtype=torch.bool)
    for centre in centres.to(normals) - middle:
        inside |= torch.hypot(rows - centre[0], columns - centre[1]) <= radius
    streaks = streaks.masked_fill(inside, 0.0)
    mean_square = streaks.square().sum() / (~inside).sum().clamp(min=1)
    return streaks / mean_square.sqrt().clamp(min=torch.finfo(streaks.dtype).tiny)


def _filtered(projections: Tensor) -> Tensor:
    """Projections `[A, R]` under the ramp and Hann's window, padded lest they wrap around."""
    bins = projections.shape[1]
    frequency = _frequencies(2 * bins, projections).abs()
    spectrum = torch.fft.fft(projections, n=2 * bins) * frequency * _window(frequency)
    filtered: Tensor = torch.fft.ifft(spectrum).real[:, :bins]
    return filtered


def _back_projected(projections: Tensor, directions: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The sum over all angles of what each projection says of a voxel, linearly interpolated, `[H, W]`."""
    bins = projections.shape[1]
    total = torch.zeros_like(rows * columns)
    for projection, (down, right) in zip(projections, directions, strict=True):
        place = rows * down + columns * right + (bins - 1) / 2
        below = place.floor().long().clamp(0, bins - 2)
        total += torch.lerp(projection[below], projection[below + 1], place - below)
    return total
