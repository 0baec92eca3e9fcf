"""A perturbation cut down to some of its frequencies."""

from torch import Tensor

from freqbench.ops.blocks import along_axes
from freqbench.ops.dct import dct_matrix


def keep_cube(x: Tensor, kind: str, *limits: int) -> Tensor:
    r"""The part of a volume that lies in a cube of its DCT, taken over the whole volume.

    `low` s keeps the coefficients whose three indices are all below s, `high` s those whose indices are all s or more
    (not what `low` leaves: most coefficients lie in neither), `band` lo hi those in lo..hi-1 on every axis. A cube is a
    product of intervals, so keeping it is one matrix an axis, :math:`M_I^T M_I` with the rows I of the orthonormal DCT.
    The filters that Malik et al. (BMVC 2024, arXiv 2406.08486) put adversarial perturbations through.

    Args:
        x: `[B, C, H, W, D]`.
        kind: `low`, `high` or `band`.
        limits: s, or lo and hi. Beyond an axis there is nothing: `low` keeps all of it, `high` nothing.
    """
    rows = slice(*limits) if kind == "band" else slice(limits[0]) if kind == "low" else slice(limits[0], None)
    kept = [dct_matrix(size)[rows] for size in x.shape[2:]]
    return along_axes(x, [(matrix.T @ matrix).to(x) for matrix in kept])
