"""Ends a Ray whose driver is gone, by a script beside it: Ray itself ends late, and in part, after a kill."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MARK = "FREQBENCH_RAY"
ATTEMPTS = 30


def marked_processes(mark: str) -> list[psutil.Process]:
    """Returns the processes with a mark in their environment: those started while the driver had it set."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended meanwhile, or is another user's
            if process.environ().get(MARK) == mark:
                processes.append(process)
    return processes


@contextmanager
def nothing_left(mark: str) -> Iterator[None]:
    """Ends every process started inside with the mark in its environment when this process ends, for any reason."""
    process = subprocess.Popen([sys.executable, __file__, mark], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        process.communicate()


def main() -> None:
    """Waits until standard input closes, as when the driver ends, then kills processes with the mark in argument 1."""
    sys.stdin.buffer.read()
    for _ in range(ATTEMPTS):
        left = marked_processes(sys.argv[1])
        if not left:
            return
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


if __name__ == "__main__":
    main()
