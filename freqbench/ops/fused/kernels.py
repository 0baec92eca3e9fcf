"""Reads logits `[B, K, N]` once, a tile of voxels after another: Triton kernels of `fused`.

A program takes `WIDTH` voxels of one sample and goes through their classes one by one; what it reads again lies in the
processor's cache. Sums over classes are in the order of PyTorch's own operations on a CPU: where the softmax rounds to
1, signs of gradients depend on it. `y` holds labels `[B, N]`, below 0 for voxels that do not count. Half precisions are
computed in float32.
"""
# mypy: ignore-errors
# ruff: noqa: N803, RUF059

import triton
import triton.language as tl


@triton.jit
def _place(y_at, num_voxels, K: tl.constexpr, WIDTH: tl.constexpr):
    """Returns the sample's number, the voxels, which of them exist, their labels, and where their first logits lie.

    All are 64-bit numbers, as logits of a large volume lie beyond what 32 can count.
    """
    b, num_voxels = tl.program_id(1).to(tl.int64), tl.cast(num_voxels, tl.int64)
    n = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    y = tl.load(y_at + b * num_voxels + n, mask=n < num_voxels, other=-1)
    return b, n, n < num_voxels, y, b * K * num_voxels + n


@triton.jit
def _logits(z_at, place, k, num_voxels, counts):
    z = tl.load(z_at + place + k * tl.cast(num_voxels, tl.int64), mask=counts, other=0.0)
    return z if z.dtype == tl.float64 else z.to(tl.float32)


@triton.jit
def _rivals(z_at, place, num_voxels, counts, y, K: tl.constexpr):
    """Returns a voxel's largest logit beside the label's, the first class that has it, and the label's logit."""
    own = _logits(z_at, place, tl.maximum(y, 0), num_voxels, counts)
    best = tl.where(counts, float("-inf"), 0.0).to(own.dtype)
    other = tl.zeros_like(y)
    for k in range(K):
        z = _logits(z_at, place, k, num_voxels, counts)
        is_better = (z > best) & (y != k)
        best, other = tl.where(is_better, z, best), tl.where(is_better, k, other)
    return best, other, own


@triton.jit
def _ends(z_at, place, num_voxels, counts, y, K: tl.constexpr):
    """Returns a voxel's largest logit, the logarithm of its sum of exponentials beyond it, and its `_rivals`."""
    best, other, own = _rivals(z_at, place, num_voxels, counts, y, K)
    top = tl.maximum(own, best)
    total = tl.zeros_like(own)
    for k in range(K):
        total += tl.exp(_logits(z_at, place, k, num_voxels, counts) - top)
    return top, tl.log(total), best, other, own


@triton.jit
def sums(z_at, y_at, out_at, num_voxels, most, K: tl.constexpr, WIDTH: tl.constexpr):
    """Writes a tile's sums of each class, `[B, tiles, 6, K]`; their meaning is that of `fused.ClassSums`."""
    b, n, has_voxel, y, place = _place(y_at, num_voxels, K, WIDTH)
    counts = y >= 0
    top, log_total, best, other, own = _ends(z_at, place, num_voxels, counts, y, K)
    m = tl.minimum(best - own, most)
    out = out_at + (b * tl.num_programs(0) + tl.program_id(0)) * 6 * K
    for k in range(K):
        log_p = _logits(z_at, place, k, num_voxels, counts) - top - log_total
        p = tl.where(counts, tl.exp(log_p), 0.0)
        mine = y == k
        tl.store(out + k, tl.sum(tl.where(mine, p, 0.0)))
        tl.store(out + K + k, tl.sum(p * p))
        tl.store(out + 2 * K + k, tl.sum(p))
        tl.store(out + 3 * K + k, -tl.sum(tl.where(mine, log_p, 0.0)))
        tl.store(out + 4 * K + k, tl.sum(tl.where(mine, m, 0.0)))
        tl.store(out + 5 * K + k, tl.sum(tl.where(mine, 1.0, 0.0)))


@triton.jit
def sums_back(z_at, y_at, of_at, out_at, num_voxels, most, K: tl.constexpr, WIDTH: tl.constexpr):
    """Writes the gradient by the logits from that by the sums, `[B, 5, K]`."""
    b, n, has_voxel, y, place = _place(y_at, num_voxels, K, WIDTH)
    counts = y >= 0
    top, log_total, best, other, own = _ends(z_at, place, num_voxels, counts, y, K)
    of = of_at + b * 5 * K
    mine = of + tl.maximum(y, 0)
    of_overlap, of_entropy = tl.load(mine), tl.load(mine + 3 * K)
    of_margin = tl.where(best - own < most, tl.load(mine + 4 * K), 0.0)
    inner = tl.zeros_like(own)
    for k in range(K):
        p = tl.exp(_logits(z_at, place, k, num_voxels, counts) - top - log_total)
        of_p = 2 * tl.load(of + K + k) * p + tl.load(of + 2 * K + k) + tl.where(y == k, of_overlap, 0.0)
        inner += of_p * p
    for k in range(K):
        p = tl.exp(_logits(z_at, place, k, num_voxels, counts) - top - log_total)
        of_p = 2 * tl.load(of + K + k) * p + tl.load(of + 2 * K + k) + tl.where(y == k, of_overlap, 0.0)
        back = (of_p - inner) * p + (p - tl.where(y == k, 1.0, 0.0)) * of_entropy
        back += tl.where(other == k, of_margin, 0.0) - tl.where(y == k, of_margin, 0.0)
        tl.store(out_at + place + k * tl.cast(num_voxels, tl.int64), tl.where(counts, back, 0.0), mask=has_voxel)


@triton.jit
def margins(z_at, y_at, m_at, other_at, out_at, num_voxels, K: tl.constexpr, WIDTH: tl.constexpr):
    """Writes each voxel's margin and nearest other class, and a tile's voxels by class, `[B, tiles, 3, K]`."""
    b, n, has_voxel, y, place = _place(y_at, num_voxels, K, WIDTH)
    counts = y >= 0
    best, other, own = _rivals(z_at, place, num_voxels, counts, y, K)
    tl.store(m_at + b * num_voxels + n, tl.where(counts, best - own, 0.0), mask=has_voxel)
    tl.store(other_at + b * num_voxels + n, other, mask=has_voxel)
    is_lost = (best > own) | ((best == own) & (other < y))  # of equal logits the first class is predicted
    found = tl.where(counts, tl.where(is_lost, other, y), -1)
    out = out_at + (b * tl.num_programs(0) + tl.program_id(0)) * 3 * K
    for k in range(K):
        tl.store(out + k, tl.sum(tl.where(found == k, 1, 0)))
        tl.store(out + K + k, tl.sum(tl.where((found == k) & (y == k), 1, 0)))
        tl.store(out + 2 * K + k, tl.sum(tl.where(y == k, 1, 0)))


@triton.jit
def margins_back(up_at, y_at, other_at, out_at, num_voxels, K: tl.constexpr, WIDTH: tl.constexpr):
    """Writes the gradient by the logits from that by the margins, `[B, N]`."""
    b, n, has_voxel, y, place = _place(y_at, num_voxels, K, WIDTH)
    other = tl.load(other_at + b * num_voxels + n, mask=has_voxel, other=-1)
    up = tl.load(up_at + b * num_voxels + n, mask=y >= 0, other=0.0)
    for k in range(K):
        back = tl.where(other == k, up, 0.0) - tl.where(y == k, up, 0.0)
        tl.store(out_at + place + k * tl.cast(num_voxels, tl.int64), back, mask=has_voxel)
