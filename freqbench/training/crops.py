"""Cuts and augments random crops: a batch is a pure function of seed and step, so a resumed run repeats it."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from freqbench.core.identity import digest
from freqbench.core.types import Case, Shape
from freqbench.job.training import Augmentation, Noise
from freqbench.ops.changes import draws_of

KEYS = ("image", "label")
Cases = Sequence[Case]


class CropSampler:
    """Samples augmented crops `roi` of cases in memory, every case once before any again, by `seed` alone: around
    foreground or background 1:1, flips, quarter turns, intensity, as in the papers, and last a change by `noise` (Cohen
    et al., ICML 2019, arXiv:1902.02918, of voxels). Smaller volumes are zero-padded on both sides, as at prediction."""

    def __init__(self, cases: Cases, roi: Shape, augmentation: Augmentation, seed: int, noise: Noise | None = None):
        from monai import transforms as t

        prepare = t.Compose([t.SpatialPadd(KEYS, spatial_size=roi), t.FgBgToIndicesd("label", image_key="image")])
        self._cases: list[dict[str, Any]] = [prepare({"image": case.image, "label": case.label}) for case in cases]
        flips = augmentation.flip if isinstance(augmentation.flip, tuple) else (augmentation.flip,) * 3
        indices = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"}
        cut = t.RandCropByPosNegLabeld(KEYS, label_key="label", spatial_size=roi, pos=1, neg=1, **indices)
        mirror = [t.RandFlipd(KEYS, prob=prob, spatial_axis=axis) for axis, prob in enumerate(flips)]
        turn = [t.RandRotate90d(KEYS, augmentation.rotate90, max_k=3)] if roi[0] == roi[1] else []
        scale = t.RandScaleIntensityd("image", factors=0.1, prob=augmentation.scale_intensity)
        shift = t.RandShiftIntensityd("image", offsets=0.1, prob=augmentation.shift_intensity)
        self._transform = t.Compose([cut, *mirror, *turn, scale, shift])
        self._seed = seed
        self._noise = noise

    def crops(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cuts crops by their `numbers`, from 0 on: images float32 `[B, C, h, w, d]`, labels uint8 `[B, 1, h, w,
        d]`."""
        crops = [self._crop(number) for number in numbers]
        # Plain tensors: MONAI's metadata would be kept up through the network.
        stacks = []
        for key in KEYS:
            stacks.append(torch.stack([torch.as_tensor(crop[key]) for crop in crops]).as_subclass(Tensor))
        images, labels = stacks
        return images, labels.to(torch.uint8)  # an eighth of int64 to transfer

    def _crop(self, number: int) -> dict[str, Any]:
        epoch, position = divmod(number, len(self._cases))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._cases))
        self._transform.set_random_state(seed=int(digest(["crop", self._seed, number]), 16) % 2**32)
        [crop] = self._transform(self._cases[order[position]])
        if self._noise is None:
            return dict(crop)
        draw = int(digest(["noise", self._seed, number]), 16) % 2**32
        image = torch.as_tensor(crop["image"]).as_subclass(Tensor)
        return {**crop, "image": draws_of(image[None], self._noise.kind, self._noise.sigma)(draw)[0]}


def _left_to_its_parent(_: int) -> None:
    """Makes a loader ignore the first SIGTERM, which a queue sends to all: the current step is finished and saved."""
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


@contextmanager
def load_batches(
    sampler: CropSampler, batches: Sequence[Sequence[int]], loaders: int, pinned: bool
) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Loads `batches`, lists of numbers of crops of the `sampler`, cut ahead of time by `loaders` processes (0: on
    demand). `pinned`: in memory from which CUDA copies while it computes."""
    loader: DataLoader[Any] = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=sampler.crops,
        num_workers=loaders,
        worker_init_fn=_left_to_its_parent,
        pin_memory=pinned,
        generator=torch.Generator(),  # leaves the global one alone
    )
    batch = iter(loader)
    yield batch
    del batch  # ends the processes
