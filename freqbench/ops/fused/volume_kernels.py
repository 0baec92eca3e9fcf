"""Maps every voxel or coefficient of volumes, read once: Triton kernels of `volumes`.

A program takes `WIDTH` numbers of one volume `[N]` of `[V, N]`, batch and channels counted together. Rounding is that
of PyTorch's own operations, one after another, where a launch forbids fused multiply-adds; float64 stays float64.
"""
# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl


@triton.jit
def _numbers(count, WIDTH: tl.constexpr):
    """Returns the places of a program's numbers, of 64 bits, and which of them exist."""
    n = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    return n, n < count


@triton.jit
def _over(a, b):
    """Returns a / b rounded to the nearest, which `/` is not in float32."""
    return a / b if a.dtype == tl.float64 else tl.div_rn(a, b)


@triton.jit
def _line(low, high, scale: tl.constexpr, offset: tl.constexpr, constant: tl.constexpr):
    """Returns what is taken from a slice, what divides it, and whether its extremes move it."""
    if scale > 0:
        is_constant = high - low <= constant * scale
        return tl.where(is_constant, 0.0, low), tl.where(is_constant, scale, high - low + offset), is_constant == 0
    else:
        return low, high - low + offset, low == low


@triton.jit
def stretch(
    x_at, low_at, high_at, out_at, voxels, depth,
    scale: tl.constexpr, offset: tl.constexpr, constant: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes (x - base + offset) / width of volumes `[V, N]`, whose extremes are `[V, D]`, D the last axis."""
    n, has_voxel = _numbers(voxels, WIDTH)
    v = tl.program_id(1).to(tl.int64)
    d = v * depth + n % depth
    low, high = tl.load(low_at + d, mask=has_voxel, other=0.0), tl.load(high_at + d, mask=has_voxel, other=1.0)
    base, width, _ = _line(low, high, scale, offset, constant)
    x = tl.load(x_at + v * voxels + n, mask=has_voxel, other=0.0)
    tl.store(out_at + v * voxels + n, _over(x - base + offset, width), mask=has_voxel)


@triton.jit
def slice_sums(
    g_at, x_at, out_at, area, depth, low_at, high_at,
    scale: tl.constexpr, offset: tl.constexpr, constant: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Writes a tile's sums of each slice, `[V, tiles, 4, D]`: with h = g / width, of h x and h, and the voxels that
    have the slice's lowest and its highest value."""
    v = tl.program_id(2).to(tl.int64)
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    d = (tl.program_id(1) * DEPTH + tl.arange(0, DEPTH))[None, :]
    has_voxel = (row < area) & (d < depth)
    low = tl.load(low_at + v * depth + d, mask=d < depth, other=0.0)
    high = tl.load(high_at + v * depth + d, mask=d < depth, other=1.0)
    _, width, _ = _line(low, high, scale, offset, constant)
    place = (v * area + row) * depth + d
    x = tl.load(x_at + place, mask=has_voxel, other=0.0)
    h = _over(tl.load(g_at + place, mask=has_voxel, other=0.0), width)
    one = tl.where(has_voxel, 1.0, 0.0).to(x.dtype)
    out = out_at + ((v * tl.num_programs(0) + tl.program_id(0)) * 4) * depth + tl.program_id(1) * DEPTH
    out += tl.arange(0, DEPTH)
    is_slice = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH) < depth
    tl.store(out, tl.sum(h * x, axis=0), mask=is_slice)
    tl.store(out + depth, tl.sum(h, axis=0), mask=is_slice)
    tl.store(out + 2 * depth, tl.sum(tl.where(x == low, one, 0.0), axis=0), mask=is_slice)
    tl.store(out + 3 * depth, tl.sum(tl.where(x == high, one, 0.0), axis=0), mask=is_slice)


@triton.jit
def stretch_back(
    g_at, x_at, sums_at, out_at, voxels, depth, low_at, high_at,
    scale: tl.constexpr, offset: tl.constexpr, constant: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes the gradient by x from that by the result, and the sums of each slice, `[V, 4, D]`."""
    n, has_voxel = _numbers(voxels, WIDTH)
    v = tl.program_id(1).to(tl.int64)
    d = n % depth
    low = tl.load(low_at + v * depth + d, mask=has_voxel, other=0.0)
    high = tl.load(high_at + v * depth + d, mask=has_voxel, other=1.0)
    base, width, moves = _line(low, high, scale, offset, constant)
    sums = sums_at + v * 4 * depth + d
    of_x, total = tl.load(sums, mask=has_voxel, other=0.0), tl.load(sums + depth, mask=has_voxel, other=0.0)
    lows = tl.load(sums + 2 * depth, mask=has_voxel, other=1.0)
    highs = tl.load(sums + 3 * depth, mask=has_voxel, other=1.0)
    at_high = _over((base - offset) * total - of_x, width)
    at_low = -total - at_high
    x = tl.load(x_at + v * voxels + n, mask=has_voxel, other=0.0)
    back = _over(tl.load(g_at + v * voxels + n, mask=has_voxel, other=0.0), width)
    back += tl.where(moves & (x == low), _over(at_low, lows), 0.0)
    back += tl.where(moves & (x == high), _over(at_high, highs), 0.0)
    tl.store(out_at + v * voxels + n, back, mask=has_voxel)


@triton.jit
def _within(error_at, low_at, high_at, low2_at, high2_at, n, exists):
    """Returns each error, the numbers of two intervals that are nearest to it, and whether the second is nearer."""
    error = tl.load(error_at + n, mask=exists, other=0.0)
    low, high = tl.load(low_at + n, mask=exists, other=0.0), tl.load(high_at + n, mask=exists, other=0.0)
    low2, high2 = tl.load(low2_at + n, mask=exists, other=0.0), tl.load(high2_at + n, mask=exists, other=0.0)
    first, second = tl.minimum(tl.maximum(error, low), high), tl.minimum(tl.maximum(error, low2), high2)
    return error, first, second, tl.abs(second - error) < tl.abs(first - error)


@triton.jit
def nearest(error_at, low_at, high_at, low2_at, high2_at, out_at, count, WIDTH: tl.constexpr):
    """Writes the number of two intervals that is nearest to each error; of equal distances that of the first."""
    n, exists = _numbers(count, WIDTH)
    _, first, second, is_nearer = _within(error_at, low_at, high_at, low2_at, high2_at, n, exists)
    tl.store(out_at + n, tl.where(is_nearer, second, first), mask=exists)


@triton.jit
def table(
    error_at, low_at, high_at, low2_at, high2_at, c_at, few_at, q_min_at, q_max_at, out_at, count, WIDTH: tl.constexpr
):
    """Writes the step that makes each error of a coefficient."""
    n, exists = _numbers(count, WIDTH)
    error, _, _, is_nearer = _within(error_at, low_at, high_at, low2_at, high2_at, n, exists)
    size = tl.abs(tl.load(c_at + n, mask=exists, other=0.0) + error)
    many = tl.load(few_at + n, mask=exists, other=0.0) + tl.where(is_nearer, 1.0, 0.0)
    q_min, q_max = tl.load(q_min_at), tl.load(q_max_at)
    step = tl.where(many > 0, _over(size, tl.where(many > 0, many, 1.0)), q_max)
    tl.store(out_at + n, tl.minimum(tl.maximum(step, q_min), q_max), mask=exists)


@triton.jit
def rounding(c_at, q_at, out_at, count, WIDTH: tl.constexpr):
    """Writes q round(c / q) - c; of two whole numbers as near as the other, the even one."""
    n, exists = _numbers(count, WIDTH)
    c = tl.load(c_at + n, mask=exists, other=0.0)
    q = tl.load(q_at + n, mask=exists, other=1.0).to(c.dtype)
    u = _over(c, q)
    low = tl.floor(u)
    rest, is_odd = u - low, low - 2 * tl.floor(low / 2) == 1
    tl.store(out_at + n, tl.where((rest > 0.5) | ((rest == 0.5) & is_odd), low + 1, low) * q - c, mask=exists)


@triton.jit
def _errors(size, over, under, is_negative, q_min, q_max, n, is_first: tl.constexpr):
    """Returns the lowest and the highest error of coefficients that become n steps."""
    low = tl.minimum(tl.maximum(_over(over, n + 0.5), q_min), q_max)
    high = tl.minimum(tl.where(n > 0, _over(under, n - 0.5), q_max), q_max)
    if is_first:
        high = tl.maximum(low, high)
    less = tl.where(low <= high, n * low - size, float("inf"))
    more = tl.where(low <= high, n * high - size, float("inf"))
    return tl.where(is_negative, -more, less), tl.where(is_negative, -less, more)


@triton.jit
def reach(
    c_at, q_min_at, q_max_at, few_at, low_at, high_at, low2_at, high2_at, least_at, most_at, count,
    tie: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes the fewest steps that a coefficient becomes, and the ends of two intervals of errors and of both."""
    n, exists = _numbers(count, WIDTH)
    c, q_min, q_max = tl.load(c_at + n, mask=exists, other=0.0), tl.load(q_min_at), tl.load(q_max_at)
    size = tl.abs(c)
    under, over = size * (1 - tie), size * (1 + tie)
    q_top = tl.zeros_like(size) + q_max
    few = tl.maximum(tl.ceil(_over(over, q_top) - 0.5), 0.0)
    low, high = _errors(size, over, under, c < 0, q_min, q_max, few, True)
    low2, high2 = _errors(size, over, under, c < 0, q_min, q_max, few + 1, False)
    tl.store(few_at + n, few, mask=exists)
    tl.store(low_at + n, low, mask=exists)
    tl.store(high_at + n, high, mask=exists)
    tl.store(low2_at + n, low2, mask=exists)
    tl.store(high2_at + n, high2, mask=exists)
    tl.store(least_at + n, tl.where(tl.abs(low2) < float("inf"), tl.minimum(low, low2), low), mask=exists)
    tl.store(most_at + n, tl.where(tl.abs(high2) < float("inf"), tl.maximum(high, high2), high), mask=exists)


@triton.jit
def maps(
    moments_at, mean_at, variance_at, similarity_at, out_at, voxels,
    C: tl.constexpr, c1: tl.constexpr, c2: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Writes the SSIM of each position and its derivatives by E[y], E[y^2] and E[x y]: three numbers of `[B, 3 C, N]`
    for one of `[B, C, N]`."""
    n, has_voxel = _numbers(voxels, WIDTH)
    v, voxels = tl.program_id(1).to(tl.int64), tl.cast(voxels, tl.int64)
    place, first, stride = v * voxels + n, (v // C * 3 * C + v % C) * voxels + n, C * voxels
    mean_y = tl.load(moments_at + first, mask=has_voxel, other=0.0)
    square_y = tl.load(moments_at + first + stride, mask=has_voxel, other=0.0)
    product = tl.load(moments_at + first + 2 * stride, mask=has_voxel, other=0.0)
    mean_x = tl.load(mean_at + place, mask=has_voxel, other=0.0)
    variance_x = tl.load(variance_at + place, mask=has_voxel, other=0.0)
    one = tl.zeros_like(mean_x) + 1.0
    brightness = _over(one, mean_x * mean_x + c1 + mean_y * mean_y)
    contrast = _over(one, variance_x + c2 + (square_y - mean_y * mean_y))
    luminance = (mean_x * mean_y * 2 + c1) * brightness
    structure = ((product - mean_x * mean_y) * 2 + c2) * contrast
    similarity = luminance * structure
    to_product = contrast * luminance * 2
    to_square = -(contrast * similarity)
    to_mean = (mean_x - luminance * mean_y) * brightness * structure * 2
    to_mean = to_mean - mean_x * to_product - 2 * mean_y * to_square
    tl.store(similarity_at + place, similarity, mask=has_voxel)
    tl.store(out_at + first, to_mean, mask=has_voxel)
    tl.store(out_at + first + stride, to_square, mask=has_voxel)
    tl.store(out_at + first + 2 * stride, to_product, mask=has_voxel)
