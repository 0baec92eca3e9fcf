"""The advisory lease of a result store: says that somebody writes there now. It warns and never forbids."""

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from freqbench import storage

LEASE_NAME = "lease.json"


class Lease:
    """One run's lease on a store, in `runs/lease.json`.

    Two drivers in one store cost work, never rows, so a lost lease has no consequence but a missing warning.

    Args:
        root: the store's folder or URI.
        run_id: the run that wants it.
        fresh_seconds: a lease that was not renewed for that long is taken over.
    """

    def __init__(self, root: str, run_id: str, fresh_seconds: float = 60.0) -> None:
        self._path = storage.join(root, "runs", LEASE_NAME)
        self._run_id = run_id
        self._fresh_seconds = fresh_seconds

    def take(self) -> dict[str, Any] | None:
        """Take the lease or renew it; call it before a run and at commits.

        Returns:
            None if this run holds it now, else the facts of the run that does: host, pid, run_id, time (Unix seconds).
        """
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "run_id": self._run_id, "time": time.time()}
        content = json.dumps(facts).encode()
        if storage.create(self._path, content):
            return None
        holder = self._holder()
        if holder and holder["run_id"] != self._run_id and self._is_alive(holder):
            return holder
        storage.write_atomic(self._path, content)
        return None

    def release(self) -> None:
        """Give it back if this run holds it."""
        holder = self._holder()
        if holder and holder["run_id"] == self._run_id:
            storage.remove(self._path)

    def _is_alive(self, holder: Mapping[str, Any]) -> bool:
        """Renewed lately, and not by a process of this host that is gone."""
        if time.time() - holder["time"] >= self._fresh_seconds:
            return False
        return holder.get("host") != socket.gethostname() or _runs(holder.get("pid"))

    def _holder(self) -> dict[str, Any] | None:
        """What the file says; None where it is gone or half written, as whoever wrote it died then."""
        try:
            facts = json.loads(storage.read_bytes(self._path))
        except (FileNotFoundError, ValueError):
            return None
        complete = isinstance(facts, dict) and {"run_id", "time"} <= facts.keys()
        return facts if complete and isinstance(facts["time"], int | float) else None


def _runs(pid: Any) -> bool:
    """Whether a process of this host exists."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        return True
    return True
