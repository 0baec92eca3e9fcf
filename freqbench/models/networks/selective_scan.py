"""Computes the selective scan of Mamba: a linear recurrence whose coefficients depend on the input.

Gu and Dao, *Mamba: Linear-Time Sequence Modeling with Selective State Spaces*, 2023, arXiv:2312.00752.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

try:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as cuda_scan
except ImportError:
    cuda_scan = None

_CHUNK_NUMBERS = 1 << 20
"""Numbers in one tensor of a chunk's states; about ten such tensors, 40 MB, are held at once at most."""


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    r"""Returns the outputs y `[batch, channels, tokens]` of a recurrence with N state numbers per channel, from zero.

    .. math::
        h_t = \exp(\Delta_t A) \, h_{t-1} + \Delta_t B_t u_t, \qquad y_t = C_t h_t + D u_t

    Computes in float32 at least, even under autocast. Tokens are taken in chunks, within which the recurrence is solved
    by pairs in log2 rounds. If gradients are needed, a chunk is computed again in the backward pass, so that memory
    holds only the arguments and the states of one chunk. On CUDA the kernel of the package `mamba_ssm` is used if it
    can be imported; its results agree up to rounding.

    Args:
        u: inputs `[batch, channels, tokens]`.
        delta: positive steps, of the same shape.
        a: negative rates A, `[channels, N]`.
        b, c: how inputs enter the state (B) and how it is read (C), `[batch, N, tokens]`.
        d: share D of the input in the output, `[channels]`.
    """
    if u.is_meta:
        return torch.empty_like(u)
    with torch.autocast(u.device.type, enabled=False):
        dtype = torch.promote_types(u.dtype, torch.float32)
        arguments = [tensor.to(dtype) for tensor in (u, delta, a, b, c, d)]
        fast = cuda_scan is not None and u.is_cuda and dtype is torch.float32
        scanned: Tensor = cuda_scan(*arguments) if fast else _scan_chunks(*arguments)
    return scanned.to(u.dtype)


def _scan_chunks(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    length = max(1, _CHUNK_NUMBERS // (len(u) * a.numel()))
    state = u.new_zeros(len(u), *a.shape)  # [batch, channels, N]
    outputs = []
    for parts in zip(*(torch.split(tensor, length, dim=2) for tensor in (u, delta, b, c)), strict=True):
        if torch.is_grad_enabled():
            output, state = checkpoint(_chunk, state, a, *parts, use_reentrant=False, preserve_rng_state=False)
        else:
            output, state = _chunk(state, a, *parts)
        outputs.append(output)
    return torch.cat(outputs, dim=2) + d[:, None] * u


def _chunk(state: Tensor, a: Tensor, u: Tensor, delta: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the output at each token of a chunk, `[batch, channels, tokens]`, and the state after the chunk."""
    u, delta, b, c = (tensor.permute(2, 0, 1) for tensor in (u, delta, b, c))  # tokens first
    decay = torch.exp(delta[..., None] * a)  # [tokens, batch, channels, N]
    entering = (delta * u)[..., None] * b[:, :, None]
    entering = torch.cat([entering[:1] + decay[:1] * state, entering[1:]])
    states: Tensor = _LinearRecurrence.apply(decay, entering)  # type: ignore[no-untyped-call]
    # A view of the last state would keep those of all tokens.
    return torch.einsum("lbcn,lbn->bcl", states, c), states[-1].clone()


class _LinearRecurrence(torch.autograd.Function):
    """Solves `h[t] = a[t] h[t-1] + b[t]` along the first axis from h[-1] = 0.

    The gradient with respect to h follows the same recurrence backwards in time: `g[t] = grad[t] + a[t+1] g[t+1]`.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = _recurrence(a, b)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        following = torch.cat([a[1:], torch.zeros_like(a[:1])])
        g: Tensor = _LinearRecurrence.apply(following.flip(0), grad.flip(0)).flip(0)  # type: ignore[no-untyped-call]
        return g * torch.cat([torch.zeros_like(h[:1]), h[:-1]]), g


def _recurrence(a: Tensor, b: Tensor) -> Tensor:
    """Solves by pairs: two steps are one with `a[t+1] a[t]` and `a[t+1] b[t] + b[t+1]`, which gives every other h."""
    if len(a) == 1:
        return b.clone()
    pairs = len(a) // 2
    a_first, a_second, b_first, b_second = a[::2], a[1::2], b[::2], b[1::2]
    h = torch.empty_like(b)
    h[1::2] = _recurrence(a_second * a_first[:pairs], torch.addcmul(b_second, a_second, b_first[:pairs]))
    h[0] = b[0]
    h[2::2] = torch.addcmul(b_first[1:], a_first[1:], h[1:-1:2])
    return h
