"""The lease tells a second run of the first, on the cells that both would work on."""

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freqbench.core.errors import UserError
from freqbench.core.files import storage
from freqbench.results import Lease, Shard, lease


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}/{request.param}"


def shard(text: str) -> Shard:
    return Shard.parse(text)


def of_another_machine(root: str, run_id: str = "a", age: float = 0.0, **changes: Any) -> None:
    """A lease that a run of another machine wrote some seconds ago."""
    facts = {"host": "elsewhere", "pid": 1, "started": 1.0, "run_id": run_id, "shard": "1/1"}
    facts |= {"time": time.time() - age, **changes}
    storage.write_atomic(storage.join(root, "leases", "1-of-1.json"), json.dumps(facts).encode())


def test_a_second_run_is_refused_in_one_line(root: str) -> None:
    Lease(root, "a").take()
    expected = rf"got run a on shard 1/1 \(host .*, pid {os.getpid()}\): wait for it, take another --shard, or --force"
    with pytest.raises(UserError, match=expected), Lease(root, "b", shard("2/8")).held(False, print):
        pass


def test_a_forced_run_holds_it_and_the_first_is_told(root: str) -> None:
    told = threading.Event()
    with Lease(root, "a", renew_seconds=0.01).held(False, lambda other: told.set() if other["run_id"] == "b" else None):
        assert Lease(root, "b").take(force=True) is None
        assert told.wait(10)
    assert Lease(root, "b").renew() is None, "the first run took it along when it ended"


@pytest.mark.parametrize(
    ("first", "second", "is_told"),
    [
        ("1/1", "2/8", True),
        ("2/8", "1/1", True),
        ("2/8", "3/8", False),
        ("2/8", "2/8", True),
        ("2/8", "2/4", True),
        ("2/8", "1/4", False),
        ("1/2", "1/3", True),
        ("1/6", "2/4", False),
    ],
)
def test_shards_are_told_of_those_that_share_cells(root: str, first: str, second: str, is_told: bool) -> None:
    Lease(root, "a", shard(first)).take()
    assert (Lease(root, "b", shard(second)).take() is not None) is is_told


HERE = {"host": socket.gethostname()}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ({**HERE, "pid": 2**22 + 1}, 100),
        ({**HERE, "pid": os.getpid()}, 100),  # its number is another's now
        ({}, 0.01),  # of another machine, and silent
        ({"age": 86400}, 1000),  # nobody waits for a run of yesterday
    ],
)
def test_a_dead_run_holds_nothing(root: str, written: dict[str, Any], seconds: float) -> None:
    of_another_machine(root, **written)
    assert Lease(root, "b", fresh_seconds=seconds).take() is None


def test_a_run_of_another_machine_that_renews_is_told_of(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is told as soon as it renews, whatever the clocks of the two say."""
    slept = []

    def renewed(seconds: float) -> None:
        slept.append(seconds)
        of_another_machine(root, age=299)

    of_another_machine(root, age=300)
    monkeypatch.setattr(time, "sleep", renewed)
    assert ((Lease(root, "b", fresh_seconds=20).take() or {})["run_id"], slept) == ("a", [lease.POLL_S])


def test_a_lease_is_released_by_its_holder_alone(root: str) -> None:
    first = Lease(root, "a")
    assert first.take() is None
    Lease(root, "b").release()
    assert (Lease(root, "b").take() or {})["run_id"] == "a"
    first.release()
    assert Lease(root, "b").take() is None


def test_a_lease_is_renewed_while_held_and_gone_after(root: str) -> None:
    path = storage.join(root, "leases", "1-of-1.json")
    with Lease(root, "a", renew_seconds=0.01).held(False, print):
        first = storage.read_bytes(path)
        end = time.monotonic() + 60
        while storage.read_bytes(path) == first:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert not storage.exists(path)


@pytest.mark.parametrize("content", ["", "{", '{"host": "a", "pi', '{"host": "a"}', '{"host": "a", "time": "now"}'])
def test_a_torn_one_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "1-of-1.json").write_text(content)
    assert Lease(str(tmp_path), "b").take() is None


def test_two_at_the_same_moment_do_not_both_hold_it(tmp_path: Path) -> None:
    for number in range(20):
        root = str(tmp_path / str(number))
        barrier = threading.Barrier(2)
        held = []

        def take(run_id: str, root: str = root, barrier: threading.Barrier = barrier, held: list[str] = held) -> None:
            barrier.wait()
            if Lease(root, run_id, shard("1/1" if run_id == "a" else "1/2")).take() is None:
                held.append(run_id)

        threads = [threading.Thread(target=take, args=(run_id,)) for run_id in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) < 2


@given(st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}"), st.integers(1, 50))
def test_every_cell_is_in_exactly_one_shard(cell_id: str, count: int) -> None:
    assert sum(Shard(number=number, count=count).holds(cell_id) for number in range(1, count + 1)) == 1


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_shards_overlap_if_a_cell_can_be_in_both(first: int, second: int, data: st.DataObject) -> None:
    one = Shard(number=data.draw(st.integers(1, first)), count=first)
    other = Shard(number=data.draw(st.integers(1, second)), count=second)
    shared = any(one.holds(f"{cell:016x}") and other.holds(f"{cell:016x}") for cell in range(first * second))
    assert one.overlaps(other) is shared is other.overlaps(one)


@pytest.mark.parametrize("text", ["0/8", "9/8", "2", "2/", "/8", "-1/8", "a/b", "2/8/1", "1/1000000000", " 1/2", "1/0"])
def test_another_text_is_no_shard_and_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^--shard: expected NUMBER/COUNT such as 2/8, from 1/8 to 8/8, got '"):
        Shard.parse(text)


def test_a_shard_is_written_as_it_is_read() -> None:
    assert (str(Shard.parse("2/8")), Shard()) == ("2/8", Shard.parse("1/1"))
