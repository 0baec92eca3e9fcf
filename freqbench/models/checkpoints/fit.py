"""Compares weights with the network that they are for: key prefixes, keys, shapes, classes."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, zip_longest

import torch
from torch import Tensor

from freqbench.core.errors import CheckpointError

# Prefixes of every key: data-parallel and compiled networks; the attribute of a Lightning or own module.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "ROG.")


def strip_prefix(found: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Removes the prefixes that wrappers and authors' modules put before every key, in any order and number.

    A prefix comes off only if all keys carry it, and only as many come off as match the most keys of the network
    (`wanted`): the keys of MONAI's UNet themselves begin with `model.`.
    """
    theirs = set(wanted)
    _, keys = max(stripped(found), key=lambda candidate: len(theirs.intersection(candidate[1])))  # the first of equals
    return dict(zip(keys, found.values(), strict=True))


def stripped(found: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each prefix that all keys share, the empty one first, with the keys without it."""
    before, keys = "", list(found)
    yield before, keys
    while prefix := next((p for p in _PREFIXES if keys and all(key.startswith(p) for key in keys)), None):
        before, keys = before + prefix, [key.removeprefix(prefix) for key in keys]
        yield before, keys


def check_fit(
    name: str, path: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], num_classes: int
) -> None:
    """Refuses, in one line, a checkpoint whose keys, shapes or integers are not its network's (meta will do)."""
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    shared = [key for key in wanted if key in found]
    misshapen = [key for key in shared if wanted[key].shape != found[key].shape]
    for key in shared:
        if wanted[key].is_floating_point() and not found[key].is_floating_point():
            raise CheckpointError(
                f"{name}: checkpoint {path}: {key}: expected {wanted[key].dtype}, got {found[key].dtype}: save float32 "
                "weights"
            )
    if not (missing or unexpected or misshapen):
        return
    classes = _other_classes([(wanted[key].shape, found[key].shape) for key in misshapen], num_classes)
    if classes is not None and not missing and not unexpected:
        raise CheckpointError(f"{name}: checkpoint has {classes} output classes, dataset wants {num_classes}")
    shapes = [f"{key}: {tuple(found[key].shape)} for {tuple(wanted[key].shape)}" for key in misshapen]
    counts = ", ".join(
        f"{len(keys)} {kind}" + (f" (first: {keys[0]})" if keys else "")
        for keys, kind in ((missing, "keys missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
    )
    raise CheckpointError(f"{name}: checkpoint {path} does not fit: {counts}. Check arch, args and migration")


def _other_classes(shapes: Iterable[tuple[torch.Size, torch.Size]], num_classes: int) -> int | None:
    """Returns the checkpoint's classes if only their number differs: `num_classes` here, one other number there."""
    pairs = chain.from_iterable(zip_longest(ours, theirs) for ours, theirs in shapes)
    lengths = {(ours, theirs) for ours, theirs in pairs if ours != theirs}
    if len(lengths) != 1:
        return None
    ((ours, theirs),) = lengths
    return theirs if ours == num_classes else None
