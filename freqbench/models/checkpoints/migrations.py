"""Migrates checkpoints of older MONAI releases to weights that the current network loads strictly. Keys show those of
UNETR, which gained and lost unused weights; nothing shows those of SwinUNETR, which merges patches in another order
since 1.5.0: the wrong pair loads too, and predicts other classes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqbench.core.errors import CheckpointError, UserError, unknown

StateDict = Mapping[str, Tensor]
NONE = "none"
# (d, h, w) offsets of the eight neighbours that SwinUNETR of MONAI 0.9.0 to 1.4.0 merges. Two offsets occur twice, and
# (1, 1, 0) and (0, 1, 1) never, so that no permutation of the weights gives the current order.
_OLD_OFFSETS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))


class OldPatchMerging(nn.Module):
    """Patch merging of SwinUNETR in MONAI 0.9.0 to 1.4.0: eight neighbours side by side, normalised and reduced."""

    def __init__(self, dim: int, norm_layer: Callable[[int], nn.Module] = nn.LayerNorm, spatial_dims: int = 3) -> None:
        super().__init__()
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x, `[B, d, h, w, dim]`, to `[B, ceil(d / 2), ceil(h / 2), ceil(w / 2), 2 * dim]`."""
        d, h, w = x.shape[1:4]
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2, 0, d % 2))
        return self.reduction(self.norm(torch.cat([x[:, i::2, j::2, k::2] for i, j, k in _OLD_OFFSETS], dim=-1)))


def _drop_keys(pattern: str) -> Callable[[StateDict, StateDict], dict[str, Tensor]]:
    """Drops each key that matches as a whole and that the network does not have."""

    def drop(found: StateDict, wanted: StateDict) -> dict[str, Tensor]:
        """Returns the weights `found` in a checkpoint without those keys that are not `wanted` by the network."""
        return {key: value for key, value in found.items() if key in wanted or not re.fullmatch(pattern, key)}

    return drop


def _add_cross_norms(found: StateDict, wanted: StateDict) -> dict[str, Tensor]:
    """Adds the layer norms before the cross-attention that UNETR never runs, initialised to ones and zeros."""
    missing = [key for key in wanted if key not in found and ".norm_cross_attn." in key]
    return {**found, **{key: torch.full(wanted[key].shape, float(key.endswith("weight"))) for key in missing}}


_without_0_7 = _drop_keys(r"vit\.patch_embedding\.cls_token|.*\.(conv3|norm3)\..*")
_without_cross_attn = _drop_keys(r"vit\.blocks\.\d+\.cross_attn\..*")


@dataclass(frozen=True, kw_only=True)
class Migration:
    """Reads an age's checkpoints: `convert` maps weights and the network's (meta will do) to what that loads."""

    title: str  # whose checkpoints these are, and what happens to them
    convert: Callable[[StateDict, StateDict], dict[str, Tensor]] = lambda found, wanted: dict(found)
    extra: Mapping[str, Any] = field(default_factory=dict)  # arguments of the network's class that go with the weights


# For each architecture, in the order in which they are tried on a file.
MIGRATIONS: Mapping[str, Mapping[str, Migration]] = {
    "unetr": {
        "monai-1.3": Migration(title="MONAI 0.9 to 1.3: adds the unused norm_cross_attn", convert=_add_cross_norms),
        "monai-1.4": Migration(title="MONAI 1.4 and 1.5: drops the unused cross_attn", convert=_without_cross_attn),
        "monai-0.7": Migration(
            title="MONAI 0.7 and 0.8: drops the unused cls_token and conv3, adds the unused norm_cross_attn",
            convert=lambda found, wanted: _add_cross_norms(_without_0_7(found, wanted), wanted),
        ),
    },
    "swin_unetr": {
        "monai-1.4": Migration(
            title="MONAI 0.9 to 1.4: merges patches in the order of that time", extra={"downsample": OldPatchMerging}
        ),
        NONE: Migration(title="MONAI 1.5 and later: as it is"),
    },
}


def migrations_of(arch: str) -> Mapping[str, Migration]:
    """Returns the migrations of an architecture, `arch`, by name; every architecture has `none`."""
    return {NONE: Migration(title="as it is"), **MIGRATIONS.get(arch, {})}


def migration_of(arch: str, name: str | None) -> Migration:
    """Returns the migration of that name for `arch`; None: the one that leaves weights as they are."""
    return migrations_of(arch)[name or NONE]


def recognise(arch: str, found: StateDict, wanted: StateDict) -> str | None:
    """Returns the migration that gives a checkpoint of `arch`, the weights `found`, the network's keys, those of
    `wanted` (meta will do); None if it needs none, or none does."""
    if found.keys() == wanted.keys():
        return None
    fitting = (name for name, m in MIGRATIONS.get(arch, {}).items() if m.convert(found, wanted).keys() == wanted.keys())
    return next(fitting, None)


def choose(name: str, arch: str, stated: str | None, found: StateDict, wanted: StateDict) -> str:
    """Returns the name of the migration for a checkpoint of the model `name`: `stated` by the job, else by its keys, or
    `none`; `arch`, `found` and `wanted` are those of `recognise`. Raises UserError for an unknown one, CheckpointError
    if the age matters and neither shows it."""
    available = migrations_of(arch)
    if stated is not None:
        if stated not in available:
            raise UserError(f"{name}: {unknown(f'migration of {arch}', stated, available)}")
        return stated
    if any(migration.extra for migration in available.values()):
        raise CheckpointError(
            f"{name}: {arch} of MONAI 1.4 and before loads without an error into that of 1.5 and later and predicts "
            "other classes, and nothing in the file tells which of them wrote it: state migration: monai-1.4 or "
            "migration: none"
        )
    return recognise(arch, found, wanted) or NONE
