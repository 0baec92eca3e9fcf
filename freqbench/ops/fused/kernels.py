"""Reads logits `[B, K, N]` once, a tile of voxels after another: Triton kernels of `fused`.

A program takes `WIDTH` voxels of one sample and goes through their classes one by one; what it reads again lies in the
processor's cache. Sums over classes are in the order of PyTorch's own operations on a CPU: where the softmax rounds to
1, signs of gradients depend on it. `y` holds labels `[B, N]`, below 0 for voxels that do not count; `among` flags of
the classes that count, `[K]`, read with CHOSEN alone: without, these are the foreground, of the Dice all. Half
precisions are computed in float32, and what is of a class, not of a voxel, in float64.
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
    """Writes a tile's sums of each class, `[B, tiles, 6, K]`: with p the softmax, y the label and m the margin, of p_k
    where y = k, of p_k^2, of p_k, and, where y = k, of -log p_k, of m, at most `most`, and of 1."""
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
def _counts(among_at, k, CHOSEN: tl.constexpr):
    """Returns 1 for a class that counts, else 0."""
    if CHOSEN:
        return tl.load(among_at + k).to(tl.float64)
    else:
        return (tl.cast(k, tl.int32) > 0).to(tl.float64)


@triton.jit
def value(
    sums_at, among_at, out_at, slope_at,
    dice: tl.constexpr, ce: tl.constexpr, margin: tl.constexpr, linear: tl.constexpr, smooth: tl.constexpr,
    K: tl.constexpr, CHOSEN: tl.constexpr,
):  # fmt: skip
    """Writes the weighted sum of Dice, cross-entropy, margin and linear Dice of a sample, `[B]`, and how fast it grows
    with the sums, `[B, 5, K]`, from the sums of all tiles, `[B, 6, K]`: that of 1 has no gradient."""
    b = tl.program_id(0).to(tl.int64)
    sums, slope = sums_at + b * 6 * K, slope_at + b * 5 * K
    zero = tl.cast(0.0, tl.float64)
    chosen, present, held, voxels = zero, zero, zero, zero
    for k in range(K):
        size, counts = tl.load(sums + 5 * K + k), _counts(among_at, k, CHOSEN)
        chosen += counts if CHOSEN else 1.0
        held += tl.where(size > 0, counts, zero)
        present += (size > 0).to(tl.float64)
        voxels += size
    held, present, voxels = tl.maximum(held, 1.0), tl.maximum(present, 1.0), tl.maximum(voxels, 1.0)
    total = zero + linear
    for k in range(K):
        at = sums + k
        overlap, squares, soft = tl.load(at), tl.load(at + K), tl.load(at + 2 * K)
        entropy, m, size = tl.load(at + 3 * K), tl.load(at + 4 * K), tl.load(at + 5 * K)
        counts = _counts(among_at, k, CHOSEN)
        of_dice = dice * (counts if CHOSEN else 1.0) / chosen
        of_linear = linear * tl.where(size > 0, counts, zero) / held
        both, whole, least = squares + size + smooth, soft + size + smooth, tl.maximum(size, 1.0)
        share, score = 2 * overlap / both, 2 * overlap / whole
        total += of_dice * (1 - share) - of_linear * score + ce * entropy / voxels + margin * m / least / present
        tl.store(slope + k, -2 * of_dice / both - 2 * of_linear / whole)
        tl.store(slope + K + k, of_dice * share / both)
        tl.store(slope + 2 * K + k, of_linear * score / whole)
        tl.store(slope + 3 * K + k, ce / voxels)
        tl.store(slope + 4 * K + k, margin / least / present)
    tl.store(out_at + b, total)


@triton.jit
def sums_back(z_at, y_at, up_at, of_at, out_at, num_voxels, most, K: tl.constexpr, WIDTH: tl.constexpr):
    """Writes the gradient by the logits from that by the sample's value, `[B]`, and the slopes of `value`."""
    b, n, has_voxel, y, place = _place(y_at, num_voxels, K, WIDTH)
    counts = y >= 0
    top, log_total, best, other, own = _ends(z_at, place, num_voxels, counts, y, K)
    of, up = of_at + b * 5 * K, tl.load(up_at + b).to(own.dtype)
    mine = of + tl.maximum(y, 0)
    of_overlap, of_entropy = up * tl.load(mine), up * tl.load(mine + 3 * K)
    of_margin = tl.where(best - own < most, up * tl.load(mine + 4 * K), 0.0)
    inner = tl.zeros_like(own)
    for k in range(K):
        p = tl.exp(_logits(z_at, place, k, num_voxels, counts) - top - log_total)
        of_p = up * (2 * tl.load(of + K + k) * p + tl.load(of + 2 * K + k)) + tl.where(y == k, of_overlap, 0.0)
        inner += of_p * p
    for k in range(K):
        p = tl.exp(_logits(z_at, place, k, num_voxels, counts) - top - log_total)
        of_p = up * (2 * tl.load(of + K + k) * p + tl.load(of + 2 * K + k)) + tl.where(y == k, of_overlap, 0.0)
        back = (of_p - inner) * p + (p - tl.where(y == k, 1.0, 0.0)) * of_entropy
        back += tl.where(other == k, of_margin, 0.0) - tl.where(y == k, of_margin, 0.0)
        tl.store(out_at + place + k * tl.cast(num_voxels, tl.int64), tl.where(counts, back, 0.0), mask=has_voxel)


@triton.jit
def margins(z_at, y_at, m_at, other_at, out_at, num_voxels, K: tl.constexpr, WIDTH: tl.constexpr, KEEPS: tl.constexpr):
    """Writes a tile's voxels by class, `[B, tiles, 3, K]`; with KEEPS each voxel's margin and nearest other class."""
    b, n, has_voxel, y, place = _place(y_at, num_voxels, K, WIDTH)
    counts = y >= 0
    best, other, own = _rivals(z_at, place, num_voxels, counts, y, K)
    if KEEPS:
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


@triton.jit
def _of_class(counts_at, b, k, K: tl.constexpr):
    """Returns a sample's voxels that are predicted as a class, of these the hits, and those that are labelled so."""
    at = counts_at + b * 3 * K + k
    return tl.load(at).to(tl.float64), tl.load(at + K).to(tl.float64), tl.load(at + 2 * K).to(tl.float64)


@triton.jit
def score(counts_at, among_at, out_at, K: tl.constexpr, CHOSEN: tl.constexpr):
    """Writes the mean Dice of a sample, float64 `[B]`, from its voxels by class, `[B, 3, K]` (`losses.mean_dice`)."""
    b = tl.program_id(0).to(tl.int64)
    zero = tl.cast(0.0, tl.float64)
    total, held, right, voxels = zero, zero, zero, zero
    for k in range(K):
        found, hits, labelled = _of_class(counts_at, b, k, K)
        counts = tl.where(labelled > 0, _counts(among_at, k, CHOSEN), zero)
        total += counts * (2 * hits / tl.maximum(found + labelled, 1.0))
        held, right, voxels = held + counts, right + hits, voxels + labelled
    mean = total / tl.maximum(held, 1.0)
    tl.store(out_at + b, mean if CHOSEN else tl.where(held > 0, mean, right / tl.maximum(voxels, 1.0)))


@triton.jit
def costs(
    counts_at, y_at, other_at, among_at, mine_at, others_at, num_voxels,
    K: tl.constexpr, WIDTH: tl.constexpr, CHOSEN: tl.constexpr,
):  # fmt: skip
    """Writes the two parts of what a voxel's flip takes from the Dice, `[B, N]` each (`losses.flips`)."""
    b, n, has_voxel, y, place = _place(y_at, num_voxels, K, WIDTH)
    other = tl.load(other_at + b * num_voxels + n, mask=has_voxel, other=-1)
    zero = tl.cast(0.0, tl.float64)
    held, voxels = zero, zero
    for k in range(K):
        found, hits, labelled = _of_class(counts_at, b, k, K)
        held += tl.where(labelled > 0, _counts(among_at, k, CHOSEN), zero)
        voxels += labelled
    mine = tl.zeros_like(y).to(tl.float64)
    others = mine
    for k in range(K):
        found, hits, labelled = _of_class(counts_at, b, k, K)
        counts = tl.where(labelled > 0, _counts(among_at, k, CHOSEN), zero)
        both = tl.maximum(found + labelled, 1.0)
        dice = 2 * hits / both
        own = tl.where(held > 0, counts * (2 - dice) / both, 1 / tl.maximum(voxels, 1.0))
        mine = tl.where(y == k, own, mine)
        others = tl.where((other == k) & (y >= 0), counts * dice / both, others)
    tl.store(mine_at + b * num_voxels + n, mine, mask=has_voxel)
    tl.store(others_at + b * num_voxels + n, others, mask=has_voxel)
