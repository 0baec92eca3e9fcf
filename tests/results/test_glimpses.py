"""The glimpses of a store: one a cell, that of the case that lost most, whoever wrote it."""

from pathlib import Path

import pytest

from freqbench.core.files import storage
from freqbench.results.glimpses import Glimpse, Glimpses, listed

CELL, OTHER = "0" * 16, "f" * 16


def glimpse(drop: float, case: str = "a", cell: str = CELL) -> Glimpse:
    return Glimpse(cell_id=cell, case_key=case * 16, drop=drop, image=f"{case}{drop}".encode())


def cases(root: str) -> dict[str, str]:
    return {cell: case[0] for cell, case in listed(root)}


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_a_worse_case_replaces_the_former_and_a_better_one_does_not_in_this_run_and_the_next(
    kind: str, tmp_path: Path
) -> None:
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
    files = storage.list_files(f"{root}/glimpses", ".webp")
    assert files == [f"{CELL}_{'b' * 16}_10.00.webp", f"{OTHER}_{'d' * 16}_0.10.webp"]
    assert storage.read_bytes(listed(root)[OTHER, "d" * 16]) == b"d0.1"


def test_readers_take_the_worst_glimpse_of_two_runs_at_once(tmp_path: Path) -> None:
    one, two = Glimpses(str(tmp_path)), Glimpses(str(tmp_path))
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
