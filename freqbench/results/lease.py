"""Splits a grid into shards, and warns a second run on the same cells by a lease: two cost work, never rows."""

import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import psutil

from freqbench.core.documents import json_of
from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.core.interrupt import alongside

FOLDER = "leases"
FRESH_S = 60.0
RENEW_S = 15.0
POLL_S = 1.0
BEGINNING = b'{"host": '  # of every lease
LONG_DEAD_S = 900.0  # more than the clocks of two machines differ
_TEXT = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The `number`-th of `count` shards, from 1 on: cells whose id, a hash, has that remainder, in every run."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `2/8`; raises UserError for anything else."""
        if not (match := _TEXT.fullmatch(text)) or int(match[1]) > int(match[2]):
            raise UserError(f"--shard: expected NUMBER/COUNT such as 2/8, from 1/8 to 8/8, got {text!r}")
        return cls(number=int(match[1]), count=int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, cell_id: str) -> bool:
        """True if the shard contains a cell (16 hex digits)."""
        return int(cell_id, 16) % self.count == self.number - 1

    def overlaps(self, other: "Shard") -> bool:
        """True if a cell can be in both: remainders agree modulo the counts' gcd (Chinese remainders)."""
        return (self.number - other.number) % math.gcd(self.count, other.count) == 0


WHOLE = Shard()


@dataclass(frozen=True)
class Lease:
    """One run's lease on a shard, in `leases/<number>-of-<count>.json`."""

    root: str
    run_id: str
    shard: Shard = WHOLE
    fresh_seconds: float = FRESH_S  # a lease that is not renewed for this long is dead
    renew_seconds: float = RENEW_S

    @property
    def _path(self) -> str:
        return storage.join(self.root, FOLDER, f"{self.shard.number}-of-{self.shard.count}.json")

    @contextmanager
    def held(self, force: bool, lost: Callable[[Facts], None]) -> Iterator[None]:
        """Holds the lease inside the block, renewed by its own thread; `force` takes it from any holder. `lost` gets,
        in that thread, the facts of a run that took it. Raises UserError if a live run works on cells of this shard."""
        if holder := self.take(force):
            raise UserError(
                f"{self.root}: expected no other run on these cells, got run {holder['run_id']} on shard "
                f"{holder['shard']} (host {holder['host']}, pid {holder['pid']}): wait for it, take another --shard, "
                "or --force (rows stay right, but work is done twice)"
            )
        try:
            with alongside(lambda ended: self._keep(ended, lost), "lease"):
                yield
        finally:
            self.release()

    def take(self, force: bool = False) -> Facts | None:
        """Takes the lease; returns None if this run holds it now, else the facts of a run on the same cells, which on
        another machine is alive if it renews its lease within `fresh_seconds`: clocks cannot be compared. `force`: in
        spite of that run."""
        path = self._path
        if force:
            self._read(path)
            storage.write_atomic(path, self._content())
            return None
        if holder := self._other():
            return holder
        if not storage.create(path, self._content()):
            if holder := self._alive(path):
                return holder
            storage.write_atomic(path, self._content())
        if holder := self._other():  # a run that came at the same time saw this lease, or is seen here
            self.release()
        return holder

    def renew(self) -> Facts | None:
        """Renews the lease; returns the facts of the run that has taken it meanwhile, if one has."""
        if (holder := self._read(self._path)) and holder["run_id"] != self.run_id:
            return holder
        storage.write_atomic(self._path, self._content())
        return None

    def release(self) -> None:
        """Removes the lease if this run holds it; if the store does not answer, the lease stays until it is dead."""
        try:
            if (holder := self._read(self._path)) and holder["run_id"] == self.run_id:
                storage.remove(self._path)
        except (OSError, UserError):
            return

    def _keep(self, ended: threading.Event, lost: Callable[[Facts], None]) -> None:
        while not ended.wait(self.renew_seconds):
            try:
                holder = self.renew()
            except (OSError, UserError):
                continue  # the store does not answer: the run itself reports that when it writes rows
            if holder:
                lost(holder)
                return

    def _content(self) -> bytes:
        process = psutil.Process()
        facts = {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}
        facts |= {"run_id": self.run_id, "shard": str(self.shard), "time": time.time()}
        return json.dumps(facts).encode()

    def _other(self) -> Facts | None:
        """Returns the facts of another live run on cells of this shard; None if there is none."""
        paths = []
        for name in storage.list_files(storage.join(self.root, FOLDER), ".json"):
            with suppress(UserError):  # not a lease
                if Shard.parse(name.removesuffix(".json").replace("-of-", "/")).overlaps(self.shard):
                    paths.append(storage.join(self.root, FOLDER, name))
        return next(filter(None, map(self._alive, paths)), None)

    def _alive(self, path: str) -> Facts | None:
        """Returns the facts of another live run that holds a lease; None if there is none."""
        first = self._read(path)
        if not first or first["run_id"] == self.run_id or abs(time.time() - first["time"]) > LONG_DEAD_S:
            return None
        if first["host"] == socket.gethostname():
            return first if _runs(first["pid"], first["started"]) else None
        end = time.monotonic() + self.fresh_seconds
        while time.monotonic() < end:
            time.sleep(min(POLL_S, self.fresh_seconds))
            if not (now := self._read(path)):
                return None
            if now != first:
                return now if now["run_id"] != self.run_id else None
        return None

    def _read(self, path: str) -> Facts | None:
        """Returns the lease's facts; None if missing or half written. Raises UserError if it is another file."""
        try:
            content = storage.read_bytes(path)
        except FileNotFoundError:
            return None
        if content[: len(BEGINNING)] != BEGINNING[: len(content)]:
            raise UserError(f"{path}: expected the lease of a run, got another file: move it away")
        try:
            facts = json_of(content, path)
        except UserError:
            return None
        kinds = {"host": str, "pid": int, "started": float, "run_id": str, "shard": str, "time": float}
        is_whole = isinstance(facts, dict) and all(isinstance(facts.get(name), kind) for name, kind in kinds.items())
        return facts if is_whole else None


def _runs(pid: int, started: float) -> bool:
    """True if a process with this pid and start time runs on this machine."""
    try:
        return abs(psutil.Process(pid).create_time() - started) < 1
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
