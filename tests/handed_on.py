"""What reaches another process."""

from multiprocessing import Pipe
from typing import TypeVar

T = TypeVar("T")


def handed_on(thing: T) -> T:
    """A small thing as the other end of a pipe between processes receives it."""
    here, there = Pipe()
    with here, there:
        here.send(thing)
        received: T = there.recv()
    return received
