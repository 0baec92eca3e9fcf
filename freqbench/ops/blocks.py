"""Tiles a window with blocks: cutting, padding, the blocked layout, and small matrices applied along each axis."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Block = tuple[int, int, int]


def cut_block(block: int | Sequence[int], shape: Sequence[int], per_slice: bool = False) -> Block:
    """Returns the block as three sides, none longer than a window of `shape` `H, W, D`; `per_slice` makes it one voxel
    deep. `block` is one side for all axes, or three, in voxels; for a slice one side, or two."""
    sides = (block,) * 3 if isinstance(block, int) else tuple(block)
    if per_slice:
        sides = (*sides[:2], 1)
    h, w, d = (min(side, size) for side, size in zip(sides, shape, strict=True))
    return h, w, d


def pad_to_blocks(x: Tensor, block: Block) -> Tensor:
    """Pads the window `x` `[B, C, H, W, D]` on its high sides by reflection until blocks tile it. A block no longer
    than the window leaves less than a window to fill, so that reflection always suffices."""
    missing = [-size % side for size, side in zip(x.shape[2:], block, strict=True)]
    if not any(missing):
        return x
    widths: list[int] = []  # below and above, of the last axis first
    for gap in reversed(missing):
        widths += 0, gap
    return F.pad(x, widths, mode="reflect")


def tiled(mask: Tensor, like: Tensor) -> Tensor:
    """Repeats a mask of a block, `[h, w, d]`, over a padded volume `like` `[B, C, H, W, D]`, on its device."""
    return mask.repeat([size // side for size, side in zip(like.shape[2:], mask.shape, strict=True)]).to(like.device)


def repeated(tile: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeats a tile `[C, h, w, d]` from the first voxel on, cut to `[C, *shape]`; differentiable."""
    h, w, d = shape
    counts = (-(-size // side) for size, side in zip(shape, tile.shape[1:], strict=True))
    return tile.repeat(1, *counts)[:, :h, :w, :d]


def split(x: Tensor, block: Block) -> Tensor:
    """Converts `x` from voxel layout `[B, C, H, W, D]` to blocked layout `[B, C, N, h, w, d]` for a `block` `h, w, d`.
    Block n = (ih * W/w + iw) * D/d + id: raster order, H slowest. Blocks must tile the volume."""
    h, w, d = block
    batch, channels, *shape = x.shape
    tiles = x.reshape(batch, channels, shape[0] // h, h, shape[1] // w, w, shape[2] // d, d)
    return tiles.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(batch, channels, -1, h, w, d)


def merge(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """Converts `blocks` in blocked layout `[B, C, N, h, w, d]` back to voxel layout `[B, C, *shape]`; undoes
    `split`."""
    batch, channels, _, *block = blocks.shape
    counts = [size // side for size, side in zip(shape, block, strict=True)]
    by_axis = blocks.reshape(batch, channels, *counts, *block).permute(0, 1, 2, 5, 3, 6, 4, 7)
    return by_axis.reshape(batch, channels, *shape)


def split_slices(x: Tensor, block: Block) -> Tensor:
    """Converts `x` from voxel layout `[B, C, H, W, D]` to the blocked layout of each depth slice, `[B, C, D, N, h, w]`,
    for a `block` `h, w, 1`. Block n = ih * W/w + iw. Blocks, one voxel deep, must tile the slices."""
    h, w, _ = block
    batch, channels, *_, depth = x.shape
    return split(x.movedim(4, 2), (1, h, w)).reshape(batch, channels, depth, -1, h, w)


def merge_slices(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """Converts `blocks` in blocked layout `[B, C, D, N, h, w]` back to voxel layout `[B, C, H, W, D]`, of which `shape`
    is `H, W, D`; undoes `split_slices`."""
    height, width, depth = shape
    return merge(blocks.flatten(2, 3).unsqueeze(3), (depth, height, width)).movedim(2, 4).contiguous()


def along_axes(x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Transforms every block of a volume `[B, C, H, W, D]` in place of its voxels, with one matrix per axis.

    On an axis of n blocks of b voxels, a matrix `[m, b]` makes n blocks of m values: y = M x. None leaves the axis
    unchanged. As blocks keep their places, each product is a batch of matrices over a view. Contiguous input is faster.
    """
    for axis, matrix in enumerate(matrices, start=2):
        if matrix is not None:
            x = along_axis(x, matrix, axis)
    return x


def along_axis(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Transforms `x` by a `matrix` as `along_axes` does, on one axis."""
    rows, side = matrix.shape
    shape = list(x.shape)
    shape[axis] = shape[axis] // side * rows
    inner = x.shape[axis + 1 :].numel()
    if inner == 1:
        return (x.reshape(-1, side) @ matrix.T).reshape(shape)
    tiles = x.reshape(-1, side, inner)
    # bmm, as matmul would fold the batch into columns and copy twice.
    return torch.bmm(matrix.expand(len(tiles), rows, side), tiles).reshape(shape)
