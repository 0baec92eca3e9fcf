"""Draws point prompts from a case's label, before any attack, and runs a promptable network with them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from freqbench.core.errors import UserError
from freqbench.core.identity import digest
from freqbench.core.types import Case
from freqbench.ops.voxels import without_ignored

ABSENT = -1e-3  # logit of a class without a click in the window; that of background is 0
_CORNERS = np.ones((3, 3, 3))  # voxels that share a corner are neighbours


@dataclass(frozen=True, kw_only=True)
class PointPrompts:
    """Clicks inside each class, as a user of the network would make them.

    They lie in the largest component of the class, each on a voxel at least half as far from the component's surface as
    the deepest voxel, or on the deepest voxels if these are too few. They depend only on the label, the content of the
    case's files, the class and the seed.

    Attributes:
        count: points of each class, at least 1.
        seed: seed of the draws, a whole number.

    Raises ValueError for a seed that is no whole number."""

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.seed) is not int:
            raise ValueError(f"expected point_seed of a whole number, got {self.seed!r}")

    def draw_points(self, case: Case) -> Tensor:
        """Returns the class of each clicked voxel, 0 elsewhere: uint8 `[1, H, W, D]`. Raises UserError if the largest
        component of a class has fewer voxels than there are points."""
        from scipy.ndimage import distance_transform_edt, find_objects
        from scipy.ndimage import label as components_of

        label = without_ignored(case.label)[0].numpy()
        prompts = np.zeros_like(label)
        for index, box in enumerate(find_objects(label), start=1):
            if box is None:
                continue
            mask = label[box] == index
            components, _ = components_of(mask, _CORNERS)
            largest = components == 1 + np.bincount(components[mask])[1:].argmax()
            # Millimetres from the outside of the largest component, 0 outside it.
            depth = distance_transform_edt(np.pad(largest, 1), case.spacing)[1:-1, 1:-1, 1:-1]
            if (size := np.count_nonzero(depth)) < self.count:
                raise UserError(
                    f"{case.ref.case_id}: expected at least {self.count} voxels in the largest component of class "
                    f"{index}, as a network is prompted by as many points, got {size}: set args.points to at most "
                    f"{size}"
                )
            least = min(depth.max() / 2, np.partition(depth, -self.count, axis=None)[-self.count])
            inside = np.argwhere(depth >= least)
            seed = int(digest(["points", self.seed, case.ref.fingerprint, index]), 16)
            chosen = np.random.default_rng(seed).choice(len(inside), self.count, replace=False)
            prompts[box][tuple(inside[chosen].T)] = index
        return torch.from_numpy(prompts)[None]


def answers_to_clicks(
    images: Tensor,
    prompts: Tensor | None,
    classes: int,
    embed: Callable[[Tensor], Tensor],
    answer: Callable[[Tensor, int, Tensor], Tensor],
) -> Tensor:
    """Returns logits `[B, classes, h, w, d]` of a network that segments one class at a time; ABSENT without a click.
    Prompts are the class of each clicked voxel, else 0; None: a click in the middle for each. `embed` gives features of
    one image with a click, `answer` logits `[1, h, w, d]` from them, a class, and its clicks `[N, 3]` in voxels."""
    logits = []
    for i, image in enumerate(images[:, None]):
        if prompts is None:
            clicks = [torch.tensor([[side // 2 for side in image.shape[2:]]], device=image.device)] * classes
        else:
            clicks = [(prompts[i, 0] == index).nonzero() for index in range(1, classes + 1)]
        absent = 0 * image[:, 0] + ABSENT  # a constant with a gradient, of zeros
        features = embed(image) if any(map(len, clicks)) else absent
        answers = [answer(features, j, points) if len(points) else absent for j, points in enumerate(clicks, start=1)]
        logits.append(torch.stack(answers, dim=1))
    return torch.cat(logits)
