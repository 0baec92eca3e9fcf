"""Reads the ten tasks of the Medical Segmentation Decathlon.

Antonelli et al., Nature Communications 2022, arXiv:2106.05735.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from freqbench.core.errors import MissingDataError, unknown
from freqbench.core.files import storage
from freqbench.core.input_space import Intensity
from freqbench.data import nsd_tolerances
from freqbench.data.loaders.decathlon import Decathlon

MR = None  # intensities without a unit: percentiles of each volume

# Folder of each task: the Hounsfield units that become 0 and 1. CT windows are those commonly used for the organ.
TASKS: Mapping[str, tuple[float, float] | None] = {
    "Task01_BrainTumour": MR,
    "Task02_Heart": MR,
    "Task03_Liver": (-200.0, 250.0),
    "Task04_Hippocampus": MR,
    "Task05_Prostate": MR,
    "Task06_Lung": (-1000.0, 1000.0),
    "Task07_Pancreas": (-87.0, 199.0),
    "Task08_HepaticVessel": (0.0, 230.0),
    "Task09_Spleen": (-57.0, 164.0),
    "Task10_Colon": (-57.0, 175.0),
}
CHANNELS: Mapping[str, int] = {"Task01_BrainTumour": 4, "Task05_Prostate": 2}
"""Channels of the tasks that have several."""


def task_of(value: object) -> str:
    """Returns a task's folder from its folder or number; raises ValueError if there is no such task."""
    for number, task in enumerate(TASKS, start=1):
        if str(value) in (task, str(number), f"{number:02d}"):
            return task
    raise ValueError(unknown("task", str(value), TASKS))


class MSD(Decathlon):
    """Any task of the Medical Segmentation Decathlon, with its own default window.

    Classes come from the task's list. Label maps are public for `training` alone: hold out a slice of it. Each file
    keeps its spacing unless `spacing` is given. Task01 (BraTS) has four channels, Task05 two.

    Attributes:
        task: the task's folder, `Task09_Spleen`, or its number.
        root: the folder that holds the task's folder, or the task's folder itself.
        intensity: None takes the task's: the organ's window for CT, `percentile` for MR.
    """

    loader: ClassVar[str] = "msd"
    homepage: ClassVar[str] = "http://medicaldecathlon.com"

    task: Annotated[str, BeforeValidator(task_of)]
    split: str = "training"

    @classmethod
    def _usual_intensity(cls, values: Mapping[str, Any]) -> Intensity | None:
        window = TASKS[task_of(values["task"])] if "task" in values else None
        return {"window": window} if window else "percentile"

    @property
    def tolerances_mm(self) -> tuple[float, ...]:
        """The task's own tolerance, whatever name its list has."""
        return (nsd_tolerances.TASKS[self.task.partition("_")[2].lower()],) * (self.num_classes - 1)

    @cached_property
    def num_channels(self) -> int:
        """Channels in the header of the first case; those of the task if no case exists."""
        try:
            return super().num_channels
        except MissingDataError:
            return CHANNELS.get(self.task, 1)

    def _root(self) -> str:
        root = super()._root().rstrip("/")
        return root if root.rsplit("/", 1)[-1] == self.task else storage.join(root, self.task)
