"""Keeps values under all that they depend on: in a process, in the node's cache, or below a store's folder."""

import json
import logging
import os
import re
import socket
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from freqbench.core import limits, machine, names
from freqbench.core.errors import UserError, one_line
from freqbench.core.files import node_cache, storage
from freqbench.core.identity import OfProcess, digest

if TYPE_CHECKING:
    from torch import Tensor

V = TypeVar("V")
Stays = Callable[[], bool]
Other = Callable[[str, bytes], V]
Packed = tuple[Any, Mapping[str, "Tensor"]]
"""Plain data and tensors; a file without tensors is JSON, any other safetensors."""
_SEAL = re.compile(rb'"kept":\s?"([0-9a-f]{8}) ([0-9a-f]{16}) ')
ROOMS = [Path(__file__).parents[2] / room for room in ("core", "data", "models", "ops", "pipelines")]
logger = logging.getLogger(__name__)


def _code() -> str:
    """Digests the text of the code that makes values."""
    texts: list[str] = []
    for room in ROOMS:
        texts += [path.read_text("utf-8") for path in sorted(room.rglob("*.py"))]
    return digest(texts)


OUTSIDE: Mapping[str, Callable[[], Any]] = {
    "code": cache(_code),
    "host": socket.gethostname,
    "libraries": cache(machine.versions),  # another release may round, resample or crop otherwise
    "limits": lambda: os.environ.get(limits.VARIABLE),
}
"""Dependencies that no caller states."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept(Generic[V]):
    """Values of one kind, each under all that it depends on; what nothing tells apart (`OfProcess`) goes to no disk."""

    name: str  # kind of the values in words
    depends: tuple[str, ...]  # all that a value depends on; those of OUTSIDE are filled in
    most: int = 0  # bytes that a process holds, the least recently used go first
    size: Callable[[V], int] = lambda value: getattr(value, "nbytes", 1)  # of a value
    place: str = ""  # PART/FILE in the node's cache, or FILE in a store's folder, {key} and dependencies filled in
    pack: Callable[[V], Packed] = lambda value: (value, {})  # turns a value into what is written
    unpack: Callable[[Any, Mapping[str, "Tensor"]], V] = lambda facts, _: facts  # turns it back
    _root: str | None = None
    _write: Callable[..., object] = lambda save: save()
    _values: OrderedDict[str, V] = field(default_factory=OrderedDict)
    _coming: dict[str, "Future[V]"] = field(default_factory=dict)

    def anew(self, root: str | None = None, write: Callable[..., object] = lambda save: save()) -> "Kept[V]":
        """Returns an empty keeper of the kind, with files in the folder `root` of a store, if given; `write` runs what
        saves."""
        return replace(self, _root=root, _write=write, _values=OrderedDict(), _coming={})

    def key(self, **needs: Any) -> str | None:
        """Returns the key of a value, None if `digest` refuses it; TypeError without exactly what is declared."""
        depends = self.depends
        given = needs | {name: OUTSIDE[name]() for name in depends if name in OUTSIDE}
        if given.keys() != set(depends) or needs.keys() & OUTSIDE.keys():
            raise TypeError(f"{self.name}: expected {', '.join(depends)}, got {', '.join(needs)}")
        with suppress(TypeError):
            return digest([self.name, given])
        return None

    def get(self, make: Callable[[], V], stays: Stays = lambda: True, other: Other[V] | None = None, **needs: Any) -> V:
        """Returns the value of dependencies, or what `make` returns, which it keeps if it `stays`; `other` reads a
        foreign file."""
        if (key := self.key(**needs)) is None:
            return make()
        values = self._values
        if key in values:
            values.move_to_end(key)
            return values[key]
        path = self._path(key, needs)
        early = self._coming.pop(key, None)
        value, fault = self._read(path, key, other) if path else (None, "")
        if fault:
            logger.warning("%s: expected a %s, got a damaged file, which is made anew: %s", path, self.name, fault)
        if value is None:
            value = early.result() if early else make()
            first = self._read(path, key, other)[0] if self._root and path and not fault else None
            if first is not None:
                value = first  # of a faster worker
            elif path and stays():
                self._save(path, key, value)
        return self._hold(key, value)

    def put(self, value: V, **needs: Any) -> None:
        """Keeps a value in place of the one that may be there."""
        if key := self.key(**needs):
            self._hold(key, value)
            if path := self._path(key, needs):
                self._save(path, key, value)

    def begin(self, submit: Callable[[], "Future[V]"], **needs: Any) -> None:
        """Begins to make a value that will be asked for, if there is none: `submit` starts it elsewhere. Only the
        latest is waited for."""
        if (key := self.key(**needs)) and key not in self._values and key not in self._coming:
            self._coming.clear()
            self._coming[key] = submit()

    def _hold(self, key: str, value: V) -> V:
        if self.most:
            values = self._values
            values[key] = value
            while len(values) > 1 and sum(map(self.size, values.values())) > self.most:
                values.popitem(last=False)
        return value

    def _path(self, key: str, needs: Mapping[str, Any]) -> str:
        """Returns the file of a key; empty if there is to be none."""
        if not self.place or isinstance(key, OfProcess):
            return ""
        part, _, name = self.place.format(key=key, **needs).rpartition("/")
        if self._root:
            names.require_inside(self._root.rpartition("/")[0] or ".", path := storage.join(self._root, name))
            return path
        with suppress(UserError):  # of a cache that cannot be used, which a run reports
            return str(node_cache.part(part) / name) if part and node_cache.limit() else ""
        return ""

    def _read(self, path: str, key: str, other: Other[V] | None) -> tuple[V | None, str]:
        """Returns the value in a file, and what is wrong with the file; raises errors of a store, which may pass."""
        try:
            content = storage.read_bytes(path)
        except FileNotFoundError:
            return None, ""
        except (OSError, UserError) as error:  # such as a folder or a pipe
            if self._root:
                raise
            return None, one_line(error)
        if (seal := _SEAL.search(content, 0, 99)) is None:
            return (other(path, content), "") if other else (None, "nothing says that it is one")
        if _checksum(content, seal.start(1)) != seal[1]:
            return None, "its checksum does not fit"
        if seal[2] != key.encode():
            return None, ""
        if not self._root:
            with suppress(OSError):  # of a file that another user owns, or clears just now
                os.utime(path)
        header = content
        tensors: dict[str, Tensor] = {}
        if not content.startswith(b"{"):
            from safetensors.torch import load

            header = content[8 : 8 + int.from_bytes(content[:8], "little")]
            tensors = load(content)
        return self.unpack(json.loads(json.loads(header)["__metadata__"]["kept"].split(" ", 2)[2]), tensors), ""

    def _save(self, path: str, key: str, value: V) -> None:
        """Writes a file; a node's disk that is full or read-only only costs time, a store's has its own patience."""
        facts, tensors = self.pack(value)
        stated = {"kept": f"{'0' * 8} {key} {json.dumps(facts)}"}
        content = json.dumps({"__metadata__": stated}).encode()
        if tensors:
            from safetensors.torch import save

            content = save(dict(tensors), stated)
        content = content.replace(b"0" * 8, _checksum(content, content.index(b"0" * 8)), 1)
        if self._root:
            self._write(partial(storage.write_atomic, path, content))
            return
        try:
            if len(content) <= node_cache.limit():
                storage.write_atomic(path, content)
                node_cache.shrink(Path(path).parent.name)
        except (OSError, UserError) as error:
            logger.warning("%s: a %s could not be kept: %s", path, self.name, error)


def _checksum(content: bytes, start: int) -> bytes:
    """Returns the checksum of a content that holds it from `start` on: else a flipped bit would pass for a voxel."""
    return f"{zlib.crc32(memoryview(content)[start + 8 :], zlib.crc32(content[:start])):08x}".encode()
