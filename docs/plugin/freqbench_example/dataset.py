"""Bright spheres in noise, as an example."""

from typing import Any, ClassVar

import numpy as np
import torch

from freqbench.core.identity import digest
from freqbench.core.types import CaseRef, NativeCase
from freqbench.data import Dataset


class Spheres(Dataset):
    """Bright spheres in noise.

    Attributes:
        side: voxels of a volume along each axis.
    """

    loader: ClassVar[str] = "spheres"
    class_names: ClassVar[tuple[str, ...]] = ("background", "sphere")

    side: int = 24

    def recipe(self) -> dict[str, Any]:
        """Returns what the volumes depend on."""
        return {"loader": self.loader, "side": self.side}

    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        """Returns four spheres, the same in each split."""
        names = self.chosen([f"sphere_{number}" for number in range(4)])
        shape = (self.side,) * 3
        return tuple(CaseRef(case_id=name, patient_id=name, fingerprint=digest(name), shape=shape) for name in names)

    def native(self, ref: CaseRef) -> NativeCase:
        """Returns a sphere in noise of its own."""
        axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in ref.shape), indexing="ij")
        label = (sum(axis**2 for axis in axes) < 0.25).to(torch.uint8)[None]
        noise = torch.from_numpy(np.random.default_rng(int(ref.fingerprint, 16)).random(ref.shape, np.float32))
        image = 0.7 * label + 0.3 * noise
        return NativeCase(ref=ref, image=image, label=label, affine=np.eye(4), spacing=(1, 1, 1), source=ref.case_id)
