"""Packages laid out as pip installs them, in a folder on the path."""

import importlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from freqbench.core import plugins


def lay_out(folder: Path, name: str, version: str, points: Mapping[str, str]) -> None:
    """The metadata of a package with one entry point a table; another version of it is removed."""
    for former in folder.glob(f"{name.replace('-', '_')}-*.dist-info"):
        shutil.rmtree(former)
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = "".join(f"[freqbench.{table}]\n{point}\n" for table, point in points.items())
    (about / "entry_points.txt").write_text(lines)
    renew()


def renew() -> None:
    """Stands for a new process, which reads installed packages and their files anew."""
    plugins._entry_points.cache_clear()
    importlib.invalidate_caches()


@contextmanager
def on_path(folder: Path, module: str) -> Iterator[None]:
    """The folder is on the path, and `module`, a package or module in it, is forgotten at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        renew()
        yield
    renew()
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        del sys.modules[name]
