"""The glimpses of a store: one a cell, that of the case that lost most, whoever wrote it."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freqbench.core.files import storage
from freqbench.results.glimpses import MAX_BYTES, Glimpse, Glimpses, Slice, pack_planes, paths_of, read

CELL = "0" * 16
OTHER = "f" * 16


PLANES = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 2, 3)


def content(**changes: object) -> dict[str, object]:
    """Handmade slice of 2 x 3 pixels."""
    return {
        "captions": ["clean", "adversarial", "change", "label"],
        "below": [0],
        "size": (2, 3),
        "aspect": 1,
        "full": 1,
        "planes": pack_planes(PLANES),
    } | changes


def glimpse(drop: float, case: str = "a", cell: str = CELL) -> Glimpse:
    return Glimpse(cell_id=cell, case_key=case * 16, drop=drop, shown=Slice.model_validate(content()))


def cases(root: str) -> dict[str, str]:
    return {cell: case[0] for cell, case in paths_of(root)}


def test_a_caption_calls_a_model_by_its_name_of_now(tmp_path: Path) -> None:
    captions = ["clean", "adversarial", "change", "a, clean, DSC 80.0"]
    (tmp_path / "a.json").write_text(json.dumps(content(captions=captions, models={"a": "id_a", "clean": "id_c"})))
    named = read(str(tmp_path / "a.json"), {"id_a": "b", "id_b": "c"})
    assert named
    assert named.captions == [*captions[:3], "b, clean, DSC 80.0"]


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_worse_case_replaces_the_former_alone(kind: str, tmp_path: Path) -> None:
    root = str(tmp_path) if kind == "folder" else f"memory://{tmp_path.name}"
    first = Glimpses(root)
    for drop, case in ((-3.0, "a"), (10.0, "b"), (9.5, "c")):
        first.add(glimpse(drop, case))
        first.flush()
    first.add(glimpse(0.0, "a", OTHER))
    first.flush()
    assert cases(root) == {CELL: "b", OTHER: "a"}
    following = Glimpses(root)
    following.add(glimpse(9.9, "d"))
    following.add(glimpse(0.1, "d", OTHER))
    following.flush()
    assert cases(root) == {CELL: "b", OTHER: "d"}
    files = storage.list_files(f"{root}/glimpses", "")
    assert files == [f"{CELL}_{'b' * 16}_10.00.json", f"{OTHER}_{'d' * 16}_0.10.json"]
    shown = read(paths_of(root)[OTHER, "d" * 16], {})
    assert isinstance(shown, Slice)
    assert np.array_equal(shown.unpack(), PLANES)


def test_readers_take_the_worst_glimpse_of_two_runs_at_once(tmp_path: Path) -> None:
    one = Glimpses(str(tmp_path))
    two = Glimpses(str(tmp_path))
    for run, drop, case in ((one, 1.0, "a"), (two, 2.0, "b"), (one, 12.0, "c"), (two, 3.0, "d")):
        run.add(glimpse(drop, case))
        run.flush()
    assert cases(str(tmp_path)) == {CELL: "c"}


def test_an_unwritten_glimpse_waits(tmp_path: Path) -> None:
    (tmp_path / "glimpses").write_text("a file where the folder should be")
    run = Glimpses(str(tmp_path))
    run.add(glimpse(1.0))
    with pytest.raises(OSError, match="glimpses"):
        run.flush()
    (tmp_path / "glimpses").unlink()
    run.flush()
    assert cases(str(tmp_path)) == {CELL: "a"}


def encoded(image: Image.Image, kind: str) -> str:
    stream = io.BytesIO()
    image.save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize(
    "changes",
    [
        {"planes": pack_planes(PLANES[:3])},
        {"planes": pack_planes(np.zeros((5, 2, 3), np.uint8))},
        {"planes": encoded(Image.new("RGB", (3, 8)), "PNG")},
        {"planes": encoded(Image.new("L", (3, 8)), "GIF")},
        {"planes": encoded(Image.new("1", (30_000, 30_000)), "PNG")},
        {"planes": pack_planes(PLANES)[:-40]},
        {"planes": "<script>"},
        {"size": (1, 10**6)},
        {"below": [2]},
        {"captions": ["clean"]},
        {"aspect": 1e9},
        {"full": 0},
        {"script": 1},
        {"captions": ["c" * MAX_BYTES] * 4},
    ],
)
def test_a_file_that_is_no_glimpse_is_not_read(tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content(**changes)))
    assert read(str(tmp_path / "a.json"), {}) is None
