"""Builds VISTA3D for a dataset's classes, prompted by their names alone or by points inside each of them.
He, Guo, Tang, Myronenko, Nath, Xu, Yang, Zhao, Simon, Belue, Harmon, Turkbey, Xu, Li, *VISTA3D: A Unified
Segmentation Foundation Model For 3D Medical Imaging*, CVPR 2025, arXiv:2406.05285. The network is MONAI's; numbers
and names of the classes are those of its bundle `vista3d` (0.6.0)."""

from collections.abc import Sequence

import monai.networks.nets as nets
import torch
from monai.networks.nets.vista3d import ClassMappingClassify, PointMappingSAM
from torch import Tensor

from freqbench.core.errors import unknown
from freqbench.models.prompts import PointPrompts, answers_to_clicks

_VERTEBRAE = [f"{part}{i}" for part, count in {"L": 5, "T": 12, "C": 7}.items() for i in range(count, 0, -1)]
_SIDES = ("left", "right")


def _both_sides(*names: str) -> list[str]:
    return [f"{side} {name}" for name in names for side in _SIDES]


NAMES = (  # names of the bundle's classes 1 to 132, in their order
    *("liver", "kidney", "spleen", "pancreas", "right kidney", "aorta", "inferior vena cava", "right adrenal gland"),
    *("left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney", "bladder"),
    *("prostate or uterus", "portal vein and splenic vein", "rectum", "small bowel", "lung", "bone", "brain"),
    *("lung tumor", "pancreatic tumor", "hepatic vessel", "hepatic tumor", "colon cancer primaries"),
    *("left lung upper lobe", "left lung lower lobe"),
    *("right lung upper lobe", "right lung middle lobe", "right lung lower lobe"),
    *(f"vertebrae {name}" for name in _VERTEBRAE),
    *("trachea", *_both_sides("iliac artery", "iliac vena"), "colon"),
    *(f"{side} rib {i}" for side in _SIDES for i in range(1, 13)),
    *_both_sides("humerus", "scapula", "clavicula", "femur", "hip"),
    "sacrum",
    *_both_sides("gluteus maximus", "gluteus medius", "gluteus minimus", "autochthon", "iliopsoas"),
    *("left atrial appendage", "brachiocephalic trunk"),
    *_both_sides("brachiocephalic vein", "common carotid artery"),
    *("costal cartilages", "heart", *_both_sides("kidney cyst"), "prostate", "pulmonary vein", "skull"),
    *("spinal cord", "sternum", *_both_sides("subclavian artery"), "superior vena cava", "thyroid gland"),
    *("vertebrae S1", "bone lesion", "kidney mass", "liver tumor", "vertebrae L6", "airway"),
)
UNTRAINED = (16, 18, 129, 130, 131)  # classes that the bundle numbers and does not support
PARTS = {2: (14, 5), 20: (28, 29, 30, 31, 32), 21: (*range(33, 57), *range(63, 98), 114, 120, 122)}
"""Classes that the bundle predicts part by part: kidney, lung and bone."""
EMBEDDINGS = 512  # more than there are classes


class VISTA3D(nets.VISTA3D):  # type: ignore[misc]  # MONAI has no types
    """Maps `[B, in_channels, h, w, d]` to logits `[B, out_channels, h, w, d]`; each side is a multiple of 16 voxels.

    The network answers each class separately. The logit of background is 0, so that the largest positive logit decides
    a voxel, as in the bundle. Without `points` it is prompted with the numbers of its classes (the automatic mode) and
    sees nothing of a label. With `points` it is prompted with clicks inside each class (the interactive mode, without
    the automatic one beneath): `prompts`, `[B, 1, h, w, d]`, hold the class of a clicked voxel and 0 elsewhere. A class
    without a click in the window gets a logit of -0.001 there, so that background wins, and windows with a click decide
    where windows overlap. `PointPrompts` places the clicks.

    **Differs from** the bundle: with points, windows are those of the sliding window (there: around each click), all
    classes of a volume are predicted at once, and parts without a click are not removed afterwards. A window of a
    volume smaller than 128 voxels is padded with zeros (there: with its edge). Outputs of the bundle's checkpoint were
    not compared.

    Args:
        classes: a name of `NAMES` or its number for each foreground class of the dataset, in its order. Numbers from
            133 on are classes that the bundle does not know, for points or for a network trained here; None: such
            numbers for all.
        points: clicks per class; 0 is the automatic mode.
        point_seed: seed of the clicks' places.
        feature_size: channels after the first convolution and of the embeddings, a multiple of 8.
        blocks_down: residual blocks of each stage; the first stage has the window's resolution.

    Raises ValueError for a class that is unknown or given twice, another number of classes than the dataset's, fewer
    than 0 points, a seed that is no whole number, or a stage without blocks.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        classes: Sequence[str | int] | None = None,
        points: int = 0,
        point_seed: int = 0,
        feature_size: int = 48,
        blocks_down: Sequence[int] = (1, 2, 2, 4, 4),
    ) -> None:
        if type(points) is not int or points < 0:
            raise ValueError(f"expected points of at least 0, got {points!r}: 0 asks by the classes alone")
        first = len(NAMES) + 1
        numbers = [_number(name) for name in (range(first, first + out_channels - 1) if classes is None else classes)]
        if len(numbers) != out_channels - 1 or len({*numbers}) < len(numbers):
            raise ValueError(
                f"expected classes to name each of the {out_channels - 1} foreground classes of the dataset once, in "
                f"its order, got {list(classes or ())}"
            )
        if not all(type(count) is int and count > 0 for count in blocks_down):
            raise ValueError(f"expected blocks_down of whole numbers from 1, got {list(blocks_down)}")
        policy = PointPrompts(count=points, seed=point_seed)  # which refuses a wrong seed, also where none is drawn
        sizes = {"out_channels": feature_size, "init_filters": feature_size, "norm": "instance"}
        encoder = nets.SegResNetDS2(in_channels=in_channels, blocks_down=tuple(blocks_down), dsdepth=1, **sizes)
        super().__init__(
            image_encoder=encoder,
            class_head=ClassMappingClassify(n_classes=EMBEDDINGS, feature_size=feature_size, use_mlp=True),
            point_head=PointMappingSAM(feature_size=feature_size, n_classes=EMBEDDINGS, last_supported=len(NAMES)),
        )
        self.prompt_policy = policy if points else None
        self.numbers = numbers
        self.parts = [PARTS.get(number, (number,)) for number in numbers]
        asked = torch.tensor([[number] for parts in self.parts for number in parts])
        self.register_buffer("asked", asked, persistent=False)

    def forward(self, images: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Returns logits; with points but no `prompts` (to count its cost), those of one middle click per class."""
        if self.prompt_policy is None:
            _, features = self.image_encoder(images, with_point=False, with_label=True)
            answers = self.class_head(features, self.asked)[0].transpose(0, 1)
            of_each = answers.split([len(parts) for parts in self.parts], dim=1)
            logits = torch.stack([parts.amax(dim=1) for parts in of_each], dim=1)
        else:
            logits = answers_to_clicks(images, prompts, len(self.numbers), self._embed, self._class_logits)
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)

    def _embed(self, image: Tensor) -> Tensor:
        return self.image_encoder(image, with_point=True, with_label=False)[0]

    def _class_logits(self, features: Tensor, index: int, clicks: Tensor) -> Tensor:
        number = self.numbers[index - 1]
        # On the CPU: positions that depend on values are unknown on the meta device.
        kinds = self.convert_point_label(torch.ones(1, len(clicks), dtype=torch.long), [number])
        logits: Tensor = self.point_head(features, clicks[None].float(), kinds, class_vector=[number])
        return logits[:, 0]


def _number(given: str | int) -> int:
    if isinstance(given, str):
        names = {name: number for number, name in enumerate(NAMES, start=1) if number not in UNTRAINED}
        if given not in names:
            raise ValueError(unknown("class", given, names))
        return names[given]
    if type(given) is not int or given in UNTRAINED or not 0 < given < EMBEDDINGS:
        rest = f"of 1..{len(NAMES)} none of {', '.join(map(str, UNTRAINED))}, got {given!r}"
        raise ValueError(f"expected a class's name or its number in 1..{EMBEDDINGS - 1}, {rest}")
    return given
