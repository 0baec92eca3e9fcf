"""Puts the phantom in the place of another dataset, for grids that are tried before their data are there."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from freqbench.core.types import CaseRef, NativeCase
from freqbench.data.loaders import anatomy
from freqbench.data.loaders.phantom import Phantom

ClassName = Annotated[str, Field(min_length=1)]


class StandIn(Phantom):
    """The phantom under the classes and channels of another dataset: what `--dry-data phantom` runs on.

    Organs beyond the classes (background first) become the last of them; classes beyond the phantom's organs do not
    occur. Channels are copies of the volume.
    """

    loader: ClassVar[str] = "stand_in"

    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=256)] = anatomy.CLASS_NAMES
    channels: Annotated[int, Field(ge=1)] = 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """As given."""
        return self.classes

    @property
    def num_channels(self) -> int:
        """As given."""
        return self.channels

    def recipe(self) -> dict[str, Any]:
        """The phantom's, classes and channels."""
        return {**super().recipe(), "classes": self.classes, "channels": self.channels}

    def native(self, ref: CaseRef) -> NativeCase:
        """The phantom's volume in every channel, its labels within the classes."""
        drawn = super().native(ref)
        image, label = torch.cat([drawn.image] * self.channels), drawn.label.clamp(max=self.num_classes - 1)
        return replace(drawn, image=image, label=label)
