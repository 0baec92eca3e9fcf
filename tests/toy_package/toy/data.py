from typing import Any, ClassVar

import numpy as np
import torch

from freqbench.data import CaseRef, Dataset, NativeCase, Preprocess, digest


class Balls(Dataset):
    class_names: ClassVar[tuple[str, ...]] = ("background", "ball")
    side: int = 20

    @property
    def space(self) -> Preprocess:
        return Preprocess(intensity={"window": [0, 1.3]}, crop_foreground=False)

    def recipe(self) -> dict[str, Any]:
        return {"loader": "balls", "side": self.side}

    def refs(self, split: str | None = None) -> tuple[CaseRef, ...]:
        names = self.chosen([f"ball_{number}" for number in range(4)])
        shape = (self.side,) * 3
        return tuple(
            CaseRef(case_id=name, patient_id=self.patient_of(name), fingerprint=digest(name), shape=shape)
            for name in names
        )

    def native(self, ref: CaseRef) -> NativeCase:
        noise = np.random.default_rng(int(ref.fingerprint, 16)).random(ref.shape, np.float32)
        label = torch.tensor(((np.indices(ref.shape) - self.side / 2) ** 2).sum(0) < self.side**2 / 16)[None]
        image = label + 0.3 * torch.from_numpy(noise)
        place = {"affine": np.eye(4), "spacing": (1.0, 1.0, 1.0), "source": ref.case_id}
        return NativeCase(ref=ref, image=image, label=label.to(torch.uint8), **place)
