"""Shards: every cell is in one, and whoever asks gets the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freqbench.core.errors import UserError
from freqbench.results import Shard

CELLS = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")


@given(CELLS, st.integers(1, 50))
def test_every_cell_is_in_exactly_one_of_them(cell_id: str, count: int) -> None:
    assert sum(Shard(number=number, count=count).holds(cell_id) for number in range(1, count + 1)) == 1


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_they_overlap_where_a_cell_is_in_both(first: int, second: int, data: st.DataObject) -> None:
    one = Shard(number=data.draw(st.integers(1, first)), count=first)
    other = Shard(number=data.draw(st.integers(1, second)), count=second)
    shared = any(one.holds(f"{cell:016x}") and other.holds(f"{cell:016x}") for cell in range(first * second))
    assert one.overlaps(other) is shared is other.overlaps(one)


@pytest.mark.parametrize("text", ["0/8", "9/8", "2", "2/", "/8", "-1/8", "a/b", "2/8/1", "1/1000000000", " 1/2", "1/0"])
def test_anything_else_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^--shard: expected NUMBER/COUNT such as 2/8, from 1/8 to 8/8, got '"):
        Shard.parse(text)


def test_a_shard_is_written_as_it_is_read() -> None:
    assert str(Shard.parse("2/8")) == "2/8"
    assert Shard() == Shard.parse("1/1")
