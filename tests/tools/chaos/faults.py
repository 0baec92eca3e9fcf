"""Does one thing to a run that goes wrong in practice, nine things in turn, and prints a table of what came of each.

    python tests/tools/chaos/faults.py                    # the disk that fills up is a mount, which only root can make
    python tests/tools/chaos/faults.py "second driver"    # one of them, or several

The table has the seconds until a line or the end of the run says so, its exit code, and how the rows that the same
command then leaves differ from the serial engine's. Exit code 1 if a row is lost, stands twice or differs.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer

from soak import FINISH_S, TEST, compared, execute, ray_processes, small, start, wait_until
from tabulate import tabulate

GRID = small(
    name="faults",
    attacks=[{"name": "pgd", "eps": 0.02, "steps": list(range(60, 100))}],
    resources={"workers": 1, "threads": 1},
)
PROGRESS = re.compile(r"\d+ of \d+ records? stored")
DISK_BYTES = 4 << 20

Fault = Callable[["Run"], None]


class Run:
    """A run of the job in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.go_on()

    def go_on(self) -> None:
        """The same command again."""
        self.driver = start(self.folder, GRID, "--engine", "ray")

    def lines(self) -> list[str]:
        """Everything but the progress that was said so far."""
        return [line for line in (self.folder / "log").read_text().splitlines() if not PROGRESS.match(line)]

    def measure(self, fault: Fault) -> tuple[float, str, int]:
        """Seconds from the fault to its first line or the end, the last line, and the exit code."""
        wait_until(lambda: re.search(r"^[1-9]\d* of", (self.folder / "log").read_text(), re.MULTILINE), FINISH_S)
        said = len(self.lines())
        began = time.monotonic()
        fault(self)
        wait_until(lambda: len(self.lines()) > said or self.driver.poll() is not None)
        seconds = time.monotonic() - began
        code = self.driver.wait(FINISH_S)
        return seconds, (self.lines()[said:] or ["-"])[0 if code == 0 else -1], code


def killed(name: str) -> Fault:
    """Kill a process of the run's Ray."""
    return lambda run: [process.kill() for process in ray_processes(name)] and None


def sent(*signals: signal.Signals) -> Fault:
    """Send signals to the driver, a second apart."""

    def send(run: Run) -> None:
        for order, number in enumerate(signals):
            time.sleep(min(order, 1))
            run.driver.send_signal(number)

    return send


def stopped_and(spoil: Callable[[Path], None]) -> Fault:
    """Stop the run, spoil its store, and start the same command."""

    def stop(run: Run) -> None:
        run.driver.kill()
        run.driver.wait()
        spoil(run.out)
        run.go_on()

    return stop


def cut(out: Path) -> None:
    path = next((out / "records").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-100])


def second_driver(run: Run) -> None:
    first = run.driver
    run.go_on()
    run.driver.wait(FINISH_S)
    first.wait(FINISH_S)


def full_disk(run: Run) -> None:
    """Leave no room for a minute."""
    filler = run.out / "fill"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while stream.write(bytes(1024)):
            pass
    Timer(60, filler.unlink).start()


FAULTS: dict[str, Fault] = {
    "driver killed": sent(signal.SIGKILL),
    "worker killed": killed("ray::RemoteWorker"),
    "raylet killed": killed("raylet"),
    "gcs_server killed": killed("gcs_server"),
    "SIGTERM": sent(signal.SIGTERM),
    "SIGINT twice": sent(signal.SIGINT, signal.SIGINT),
    "disk full for a minute": full_disk,
    "records file cut": stopped_and(cut),
    "second driver": second_driver,
}


@contextmanager
def disk(folder: Path, is_small: bool) -> Iterator[None]:
    """A folder `out`, on a disk of its own that is soon full."""
    (folder / "out").mkdir(parents=True)
    if is_small:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder / "out")], check=True)
    try:
        yield
    finally:
        if is_small:
            subprocess.run(["umount", str(folder / "out")], check=True)


def main() -> int:
    os.environ[TEST] = secrets.token_hex(8)  # marks what is started here
    table = []
    is_sound = True
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        whole = Path(place, "serial")
        execute(GRID, whole)
        for number, name in enumerate(sys.argv[1:] or FAULTS):
            fault = FAULTS[name]
            folder = Path(place, str(number))
            with disk(folder, is_small=fault is full_disk):
                run = Run(folder)
                seconds, line, code = run.measure(fault)
                run.go_on()
                end = run.driver.wait(FINISH_S)
                if end:  # as a torn file is refused: it is moved away, as the line says
                    next(path for path in (run.out / "records").glob("*.parquet") if path.name in line).unlink()
                    run.go_on()
                    end = run.driver.wait(FINISH_S)
                counts = compared(run.out, whole)
            wrong = {what: count for what, count in counts.items() if what.startswith(("rows", "class")) and count}
            is_sound &= end == 0 and not wrong
            table.append([name, f"{seconds:.1f}", code, line.replace(place, ""), end, wrong or "equal"])
            print(table[-1], file=sys.stderr, flush=True)
    print(tabulate(table, ["fault", "seconds to notice", "exit code", "line", "then", "rows"], "github"))
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
