"""Delays Ctrl-C or SIGTERM until a consistent moment, ends a step that takes too long, and watches one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Never


class Interrupt:
    """Holds True in `requested` once Ctrl-C was pressed."""

    requested = False


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Makes the first Ctrl-C in the block only set `requested`, the second raise; works in the main thread."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alongside(watch: Callable[[threading.Event], object], name: str) -> Iterator[None]:
    """Runs `watch` in a thread of that name beside the block; the event that it gets is set at the end, which waits for
    it."""
    ended = threading.Event()
    thread = threading.Thread(target=watch, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block, even within a regular expression, once it has computed for that long."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> Never:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, handle)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
