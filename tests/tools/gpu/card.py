"""A card for machines without one: a device of its own that computes by the CPU's kernels, so that bits are equal.

Like a GPU it refuses tensors of two devices in one operation, and knows what makes the host wait for it: a value that
is asked for, a result whose shape depends on values, a copy from or to the CPU. It says nothing of speed or kernels.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
# the one device without a card that torch has a name for
CPU = torch.device("cpu")
CARD = torch.device("meta")

INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class WaitError(Exception):
    """The host would have waited for the card."""


class OnCard(Tensor):
    """A tensor of the card; `value` is what the CPU holds for it."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> Self:
        made = Tensor._make_wrapper_subclass(
            cls, value.size(), value.stride(), value.storage_offset(), dtype=value.dtype, device=CARD
        )
        made.value = value
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a tensor of a card that is gone")

    def tolist(self) -> Any:
        return self.cpu().tolist()


class Card(TorchDispatchMode):
    """The card, there as long as the context. With `refuses_waits` nothing may make the host wait for it."""

    refuses_waits: ClassVar[bool] = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_Literals())
            swaps = torch.__future__.get_swap_module_params_on_conversion()
            torch.__future__.set_swap_module_params_on_conversion(True)  # modules are moved as they are to a card
            stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
            stack.callback(setattr, Card, "refuses_waits", False)
            stack.enter_context(mock.patch.object(torch, "autocast", _autocast))
            super().__enter__()
            self._left = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._left.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [each for each in tensors if isinstance(each, OnCard)]
        if not ours and kwargs.get("device") != CARD:
            return func(*args, **kwargs)
        others = [each for each in tensors if not isinstance(each, OnCard)]
        onto = _target(func, args, kwargs)
        if waits(func, args, kwargs, onto) and Card.refuses_waits:
            raise WaitError(f"{func} makes the host wait")
        if onto is None and any(each.ndim for each in others) and func not in INDEXED:
            raise RuntimeError(f"{func}: expected all tensors on the card, got some of the CPU")
        inner_args, inner = tree_map_only(OnCard, lambda tensor: tensor.value, (args, kwargs))
        made = func(*inner_args, **{key: CPU if value == CARD else value for key, value in inner.items()})
        if onto == CPU:
            return made
        wrapped = tree_map_only(Tensor, lambda tensor: OnCard(tensor.resolve_conj()), made)
        if func.overloadpacket is aten.to:  # below autograd's sight, where it may return what it is given
            return wrapped
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _target(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device | None:
    """The device onto which a copy puts its result; None for other operations."""
    if func is aten.copy_.default:
        return CARD if isinstance(args[0], OnCard) else CPU
    if func.overloadpacket not in (aten._to_copy, aten.to):
        return None
    named = [each for each in (*args[1:2], kwargs.get("device")) if isinstance(each, torch.device | Tensor)]
    device = getattr(named[0], "device", named[0]) if named else args[0].device
    return CARD if device == CARD else CPU


def waits(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], onto: torch.device | None) -> bool:
    """True for an operation that has the host wait: for a value, for a count, or for a copy between devices."""
    if onto is not None:
        source = args[1] if func is aten.copy_.default else args[0]
        crosses = isinstance(source, OnCard) != (onto == CARD)
        return crosses and not (onto == CARD and kwargs.get("non_blocking", False))
    if func in INDEXED:  # by a mask, or by numbers that have to get to the card
        return any(index.dtype == torch.bool or not isinstance(index, OnCard) for index in args[1] if index is not None)
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))


def _autocast(kind: str, *options: Any, _real: type[torch.autocast] = torch.autocast, **more: Any) -> torch.autocast:
    return _real("cpu" if kind == CARD.type else kind, *options, **more)


class _Literals(TorchFunctionMode):
    """Tensors of numbers are made on the CPU and copied."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor and isinstance(args[0], OnCard):
            func = torch.tensor
            kwargs = {"dtype": args[0].dtype, "device": CARD} | kwargs
            args = args[1:]
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnCard):
            lists = tree_map_only(
                list,
                lambda numbers: torch.tensor(numbers).to(CARD),
                args[1],
                is_leaf=lambda value: isinstance(value, list),
            )
            args = (args[0], lists, *args[2:])
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == CARD:
            return func(*args, **kwargs | {"device": CPU}).to(CARD)
        return func(*args, **kwargs)
