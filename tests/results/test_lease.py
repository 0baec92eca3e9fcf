"""The lease tells a second run of the first, and nothing more."""

import json
import os
from pathlib import Path

import pytest

from freqbench.results import Lease


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}/{request.param}"


def test_the_first_run_holds_it(root: str) -> None:
    assert Lease(root, "a").take() is None


def test_a_second_run_is_told_of_the_first(root: str) -> None:
    Lease(root, "a").take()
    other = Lease(root, "b").take()
    assert other is not None
    assert (other["run_id"], other["pid"]) == ("a", os.getpid())


def test_the_holder_renews_it(root: str) -> None:
    lease = Lease(root, "a")
    lease.take()
    first = Lease(root, "b").take()
    assert lease.take() is None
    second = Lease(root, "b").take()
    assert first is not None
    assert second is not None
    assert second["time"] > first["time"]


def test_a_stale_one_is_taken_over(root: str) -> None:
    Lease(root, "a").take()
    assert Lease(root, "b", fresh_seconds=0.0).take() is None
    assert (Lease(root, "c").take() or {})["run_id"] == "b"


def test_a_released_one_is_free(root: str) -> None:
    lease = Lease(root, "a")
    lease.take()
    lease.release()
    assert Lease(root, "b").take() is None


def test_only_the_holder_releases_it(root: str) -> None:
    Lease(root, "a").take()
    Lease(root, "b").release()
    assert Lease(root, "b").take() is not None


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"run_id": "a"}), '{"run_id": "a", "time": "now"}'])
def test_a_torn_one_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "lease.json").write_text(content)
    assert Lease(str(tmp_path), "b").take() is None
