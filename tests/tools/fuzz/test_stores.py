"""Any store: each of its files may be torn, swapped, emptied, or say anything."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.fuzz.hostile_values import refused_or_done, spoilt, unhurried

pytestmark = pytest.mark.integration

COMMANDS = (
    ("cluster", "status", "out"),
    ("report", "out", "--format", "md"),
    ("audit", "out", "--rows", "1"),
    ("plan", "job.yaml", "--out", "out"),
    ("run", "job.yaml", "--out", "out", "--engine", "serial"),
)


def spoil(path: Path, draw: Callable[[Any], Any]) -> None:
    content = path.read_bytes()
    kinds = ["cut", "flip", "empty", "gone", "folder", "link", "bytes"]
    kind = draw(st.sampled_from(kinds + (["json", "json", "json"] if path.suffix == ".json" else [])))
    if kind == "json":
        path.write_text(json.dumps(draw(spoilt(json.loads(content)))))
    elif kind == "cut":
        path.write_bytes(content[: draw(st.integers(0, max(0, len(content) - 1)))])
    elif kind == "flip" and content:
        place = draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:place] + bytes([content[place] ^ draw(st.integers(1, 255))]) + content[place + 1 :])
    elif kind in ("empty", "bytes"):
        path.write_bytes(b"" if kind == "empty" else draw(st.binary(max_size=100)))
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("/nowhere")


@unhurried
@given(data=st.data(), command=st.sampled_from(COMMANDS))
def test_command_refuses_or_does_its_work(small_store: Path, data: st.DataObject, command: tuple[str, ...]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(small_store.parent, folder, dirs_exist_ok=True)
        files = sorted(path for path in (folder / "out").rglob("*") if path.is_file())
        for path in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
            spoil(path, data.draw)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            refused_or_done(*command)
    finally:
        shutil.rmtree(folder)
