"""Keeps values under all that they depend on: in a process, in the node's cache, or below a store's folder."""

import json
import logging
import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from freqbench.core import machine, names
from freqbench.core.errors import UserError, one_line
from freqbench.core.files import node_cache, storage
from freqbench.core.identity import OfProcess, digest

if TYPE_CHECKING:
    from torch import Tensor

V = TypeVar("V")
Packed = tuple[Any, Mapping[str, "Tensor"]]
"""Plain data and tensors; without tensors the file is JSON, else safetensors."""

_BLANK = b"0" * 8
_SEAL = re.compile(rb'"kept":\s?"([0-9a-f]{8}) ([0-9a-f]{16}) ')

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept(Generic[V]):
    """Values of one kind, each under all that it depends on; keys are made here alone.

    A damaged file is made anew with a warning, and so is a value that depends on something that nothing tells apart:
    such a one (`OfProcess`) is kept in this process at most. A full disk costs time in the node's cache alone.

    Attributes:
        name: kind of the values in words.
        depends: names of all that a value depends on.
        most: bytes that a process holds, of which the least recently used go first; 0: none.
        size: bytes of a value in a process.
        place: file of a value, PART/FILE in the node's cache, or FILE below the store's folder that `anew` gets, with
            {key} and the dependencies filled in; empty: none.
        pack, unpack: turn a value into what is written, and back.
    """

    name: str
    depends: tuple[str, ...]
    most: int = 0
    size: Callable[[V], int] = lambda _: 1
    place: str = ""
    pack: Callable[[V], Packed] = lambda value: (value, {})
    unpack: Callable[[Any, Mapping[str, "Tensor"]], V] = lambda facts, _: facts
    _root: str | None = None
    _write: Callable[[Callable[[], object]], object] = lambda save: save()
    _values: OrderedDict[str, V] = field(default_factory=OrderedDict)
    _coming: dict[str, "Future[V]"] = field(default_factory=dict)

    def anew(
        self, root: str | None = None, write: Callable[[Callable[[], object]], object] = lambda save: save()
    ) -> "Kept[V]":
        """Returns an empty keeper of the kind, with files below a store's folder, if any; `write` runs what saves."""
        return replace(self, _root=root, _write=write, _values=OrderedDict(), _coming={})

    def key(self, **dependencies: Any) -> str | None:
        """Returns the key of a value; None if an identity cannot hold one of the dependencies.

        Raises TypeError unless they are those that are declared.
        """
        if dependencies.keys() != set(self.depends):
            raise TypeError(f"{self.name}: expected {', '.join(self.depends)}, got {', '.join(dependencies)}")
        with suppress(TypeError):
            return digest([self.name, dependencies])
        return None

    def get(
        self,
        make: Callable[[], V],
        *,
        stays: Callable[[], bool] = lambda: True,
        other: Callable[[str, bytes], V] | None = None,
        **dependencies: Any,
    ) -> V:
        """Returns the value of some dependencies, made by `make` if there is none.

        Args:
            stays: tells, after `make`, if the value may be kept.
            other: reads a path's content that no `Kept` wrote, or refuses it; None: it is made anew.
        """
        key = self.key(**dependencies)
        if key is None:
            return make()
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        if early := self._coming.pop(key, None):
            make = early.result
        path = self._path(key, dependencies)
        value, fault = self._read(path, key, other) if path else (None, "")
        if value is None:
            if fault:
                logger.warning("%s: expected a %s, got a damaged file, which is made anew: %s", path, self.name, fault)
            value = make()
            if self._root and path and not fault and (first := self._read(path, key, other)[0]) is not None:
                value = first  # of another worker, which was faster
            elif path and stays():
                self._save(path, key, value)
        return self._hold(key, value)

    def put(self, value: V, **dependencies: Any) -> None:
        """Keeps a value in place of the one that may be there."""
        if key := self.key(**dependencies):
            if path := self._path(key, dependencies):
                self._save(path, key, value)
            self._hold(key, value)

    def begin(self, submit: Callable[[], "Future[V]"], **dependencies: Any) -> None:
        """Begins to make a value that will be asked for, if there is none; only the latest is waited for."""
        key = self.key(**dependencies)
        if key and key not in self._values and key not in self._coming:
            self._coming.clear()
            self._coming[key] = submit()

    def _hold(self, key: str, value: V) -> V:
        if self.most:
            self._values[key] = value
            while len(self._values) > 1 and sum(map(self.size, self._values.values())) > self.most:
                self._values.popitem(last=False)
        return value

    def _path(self, key: str, dependencies: Mapping[str, Any]) -> str | None:
        """Returns the file of a key; None if the value is not to be kept in one."""
        part, _, name = self.place.format(key=key, **dependencies).rpartition("/")
        if isinstance(key, OfProcess):
            return None
        if self._root:
            path = storage.join(self._root, name)
            names.require_inside(self._root.rpartition("/")[0] or ".", path)
            return path
        with suppress(UserError):  # of a cache that cannot be used, which a run reports
            if part and node_cache.limit():
                return str(node_cache.part(part) / name)
        return None

    def _read(self, path: str, key: str, other: Callable[[str, bytes], V] | None) -> tuple[V | None, str]:
        """Returns the value in a file, and otherwise what is wrong with the file: nothing if it is another's or none.

        Raises the errors of a store, which may answer later.
        """
        try:
            content = storage.read_bytes(path)
        except FileNotFoundError:
            return None, ""
        except (OSError, UserError) as error:  # such as a folder or a pipe
            if self._root:
                raise
            return None, one_line(error)
        seal = _SEAL.search(content, 0, 99)
        if seal is None:
            return (other(path, content), "") if other else (None, "nothing says that it is one")
        if _checksum(content, seal.start(1)) != seal[1]:
            return None, "its checksum does not fit"
        if seal[2] != key.encode():
            return None, ""
        if not self._root:
            with suppress(OSError):  # of a file that another user owns, or clears just now
                os.utime(path)
        return self.unpack(*_opened(content)), ""

    def _save(self, path: str, key: str, value: V) -> None:
        content = _sealed(key, *self.pack(value))
        if self._root:
            self._write(partial(storage.write_atomic, path, content))
            return
        try:
            if len(content) <= node_cache.limit():
                storage.write_atomic(path, content)
                node_cache.shrink(Path(path).parent.name)
        except (OSError, UserError) as error:
            logger.warning("%s: a %s could not be kept: %s", path, self.name, error)


def _sealed(key: str, facts: Any, tensors: Mapping[str, "Tensor"]) -> bytes:
    """Returns the content of a file, with its key and a checksum: else a flipped bit would pass for an intensity."""
    stated = {"kept": f"{_BLANK.decode()} {key} {json.dumps(facts)}"}
    if tensors:
        from safetensors.torch import save

        content = save(dict(tensors), stated)
    else:
        content = json.dumps({"__metadata__": stated}).encode()
    start = content.index(_BLANK)
    return content.replace(_BLANK, _checksum(content, start), 1)


def _checksum(content: bytes, start: int) -> bytes:
    """Returns a checksum, 8 hex digits, of a content that is to hold it from `start` on."""
    rest = memoryview(content)[start + len(_BLANK) :]
    return f"{zlib.crc32(rest, zlib.crc32(_BLANK, zlib.crc32(content[:start]))):08x}".encode()


def _opened(content: bytes) -> Packed:
    """Returns what `_sealed` was given."""
    if content.startswith(b"{"):
        header, tensors = content, dict[str, "Tensor"]()
    else:
        from safetensors.torch import load

        header, tensors = content[8 : 8 + int.from_bytes(content[:8], "little")], load(content)
    return json.loads(json.loads(header)["__metadata__"]["kept"].split(" ", 2)[2]), tensors


@cache
def libraries() -> Mapping[str, str]:
    """Returns the releases of what values depend on: another one may round, resample or crop otherwise."""
    return machine.versions()


@cache
def code(*rooms: str) -> str:
    """Returns a digest of the modules in some rooms of the package."""
    hasher = blake2b(digest_size=8)
    for path in sorted(path for room in rooms for path in (Path(__file__).parents[2] / room).rglob("*.py")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()
