"""Curves of a training in TensorBoard, where it is installed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from freqbench.core.storage import is_local, local_path
from freqbench.training.state import Row


@contextmanager
def board(folder: str) -> Iterator[Callable[[Row], None]]:
    """What draws a row of the log below `FOLDER/tensorboard`; nothing without TensorBoard, or where OUT is a URI."""
    writer = _writer(folder)

    def draw(row: Row) -> None:
        values = asdict(row)
        step = values.pop("step")
        for name, value in values.items():
            if writer is not None and value == value:
                writer.add_scalar(name, value, step)

    try:
        yield draw
    finally:
        if writer is not None:
            writer.close()


def _writer(folder: str) -> Any:
    """TensorBoard's, or None."""
    if not is_local(folder):
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(f"{local_path(folder)}/tensorboard")
