"""Makes the target label map of a rule from the truth, and checks such rules."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from freqbench.core.errors import ParameterError, unknown

if TYPE_CHECKING:
    from torch import Tensor  # imported only in `target_map`: rules are checked without torch

Rule = str | tuple[str | int, ...]

LEAST_LIKELY = "least-likely"
NEXT_CLASS = "next-class"
SWAP = "swap"
ERASE = "erase"


def target_map(rule: Rule, labels: "Tensor", logits: "Tensor", outputs: str = "softmax") -> "Tensor":
    """Returns the labels to reach by a `rule`, `[B, 1, H, W, D]`, from the truth or, for `least-likely`, from the clean
    logits.

    Rules: `least-likely`: the class of least probability; `next-class`: label + 1, background for the last class;
    `("swap", a, b)`: a and b exchanged, more pairs may follow; `("erase", a)`: background in place of a, more classes
    may follow. Swap and erase keep every other label.

    Of regions (`outputs` is `sigmoid`, labels are codes): `least-likely` turns every region's prediction around, `swap`
    exchanges the voxels of two regions, `erase` empties them; `next-class` needs an order that regions lack.
    """
    import torch

    from freqbench.ops.regions import codes_of, inside

    num_classes = logits.shape[1]
    if outputs == "sigmoid":
        if rule == LEAST_LIKELY:
            return codes_of((logits <= 0).movedim(1, 0))[:, None].long()
        within = inside(labels, num_classes)
        source = torch.arange(num_classes, device=labels.device)
        if rule[0] == SWAP:
            for a, b in _pairs(rule[1:]):
                source[a - 1] = b - 1
                source[b - 1] = a - 1
            within = within.index_select(1, source)
        else:
            within[:, [int(k) - 1 for k in rule[1:]]] = False
        return codes_of(within.movedim(1, 0))[:, None].long()
    if rule == LEAST_LIKELY:
        return logits.argmin(dim=1, keepdim=True)
    if rule == NEXT_CLASS:
        return (labels + 1) % num_classes
    target_of = torch.arange(num_classes)
    if rule[0] == SWAP:
        for a, b in _pairs(rule[1:]):
            target_of[a] = b
            target_of[b] = a
    else:
        target_of[list(rule[1:])] = 0
    return target_of.to(labels.device)[labels]


def canonical(value: Any) -> Rule | None:
    """Returns the canonical form of a rule, the `value` of a parameter, or None for anything else.

    A rule is written as in `target_map`, or as in a job file: `{swap: {a: b}}`, `{erase: a}`, `{erase: [a, b]}`.
    """
    if isinstance(value, str):
        return value if value in (LEAST_LIKELY, NEXT_CLASS) else None
    kind, classes = _kind_and_classes(value)
    if not are_classes(classes) or len(set(classes)) < len(classes):
        return None
    if kind == SWAP and len(classes) % 2 == 0:
        return (SWAP, *chain(*sorted(sorted(pair) for pair in _pairs(classes))))
    return (ERASE, *sorted(classes)) if kind == ERASE and 0 not in classes else None


def highest_class(rule: Rule | None) -> int:
    """Returns the largest class that a rule names; 0 if it names none."""
    return max((part for part in rule or () if isinstance(part, int)), default=0)


def with_indices(owner: str, parameters: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the parameters of attack `owner` with class names in `organs` and `target` replaced by their indices.

    An invalid rule is passed on for the attack to refuse; `class_names` are in order of their labels, background first.
    Raises a ParameterError for a name that is no class.
    """

    def index(parameter: str, name: Any) -> Any:
        if isinstance(name, str) and name not in class_names:
            raise ParameterError(owner, parameter, unknown("class", name, class_names))
        return class_names.index(name) if isinstance(name, str) else name

    resolved = dict(parameters)
    if isinstance(organs := parameters.get("organs"), tuple | list):
        resolved["organs"] = tuple(index("organs", organ) for organ in organs)
    if isinstance(target := parameters.get("target"), Mapping):
        kind, classes = _kind_and_classes(target)
        if kind:
            resolved["target"] = (kind, *(index("target", organ) for organ in classes))
    return resolved


def _kind_and_classes(value: Any) -> tuple[str, list[Any]]:
    """Returns `swap` or `erase` and its classes, unchecked; "" for anything else."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((kind, classes),) = value.items()
        if kind == SWAP and isinstance(classes, Mapping):
            return SWAP, list(chain(*classes.items()))
        if kind == ERASE and not isinstance(classes, Mapping):
            return ERASE, list(classes) if isinstance(classes, list | tuple) else [classes]
    if isinstance(value, tuple | list) and value and value[0] in (SWAP, ERASE):
        return value[0], list(value[1:])
    return "", []


def _pairs(classes: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(classes[::2], classes[1::2], strict=True))


def are_classes(value: Any) -> bool:
    """True if a value is a non-empty list of class indices."""
    return isinstance(value, tuple | list) and len(value) > 0 and all(type(k) is int and k >= 0 for k in value)
